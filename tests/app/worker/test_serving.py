"""The models that a worker answers with: taken from the newest snapshot, with their staleness."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from everlearn.app.worker import serving
from everlearn.serve import snapshot
from everlearn.serve.snapshot import Answering
from tests.support.workers import RECORD, Site, trained


def test_a_version_published_meanwhile_answers_from_the_next_group_on(start):
    site = start()
    first = site.once("/predict", {"features": RECORD}).json()
    site.model = trained(site.spec, seed=1)
    site.publish("v9", position=90)
    second = site.once("/predict", {"features": RECORD}).json()
    assert (first["version"], second["version"], second["position"]) == ("v1", "v9", 90)
    assert second["proba"] == site.model.predict(site.encoder.record(RECORD))[0].tolist() != first["proba"]


def test_it_answers_on_when_nothing_is_published_any_more_and_says_how_stale_it_is(start):
    site = start()
    site.publisher.fresh(time.monotonic() - 100.0)
    assert 100.0 <= site.once("/predict", {"features": RECORD}).json()["staleness"] < 130.0
    assert 100.0 <= site.once("/healthz", method="GET").json()["staleness"] < 130.0


def test_what_is_used_a_moment_longer_does_not_pass_for_newer(start, monkeypatch):
    site = start()
    monkeypatch.setattr(serving, "KEPT", 3600.0)
    taken = site.once("/predict", {"features": RECORD}).json()
    site.publisher.publish(Answering("v9", site.model), None, 90, {})
    site.publisher.fresh(time.monotonic() + 60.0)
    kept = site.once("/predict", {"features": RECORD}).json()
    assert (taken["version"], kept["version"]) == ("v1", "v1")
    assert taken["staleness"] < kept["staleness"]


def test_without_anything_to_serve_it_says_so_and_takes_labels(tmp_path):
    with closing(Site(tmp_path)) as site:
        (Path(site.setup.serving) / snapshot.CURRENT).unlink()
        reply = site.once("/predict", {"features": RECORD})
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert site.once("/healthz", method="GET").status == 503
        assert site.once("/learn", {"features": RECORD, "label": "no"}).status == 200
