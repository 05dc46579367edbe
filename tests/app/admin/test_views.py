"""What the admin process shows is what the loop wrote."""

from __future__ import annotations

import random
import time
from pathlib import Path

import msgspec
import pytest

import everlearn as el
from everlearn import config
from everlearn.app import dashboard
from everlearn.events import connect
from everlearn.records import Prediction
from everlearn.spec import ServeSpec
from tests.support.admin import SPEC, admin, learning, set_up, until


def test_status_combines_the_learner_and_the_admin_process(opened):
    answer = opened.get("/status")
    status = answer.json()
    assert status["counts"]["label"] == 11
    assert status["examples"] == 1510
    assert status["waiting"] == 20
    assert status["aliases"]["champion"] == opened.get("/versions/champion").json()["id"]
    assert status["workers"][0]["requests"] == 31
    assert [status["workers"][0][name] for name in ("errors", "refused", "faults")] == [1, 1, 0]
    assert status["server"]["version"] == el.__version__
    assert 0 <= status["age"] < 2
    lines = status["series"]
    assert {len(lines[name]) for name in ("time", "requests", "p50", "p99", "lag", "staleness", "metric")} == {
        len(line) for line in lines["replay"].values()
    }
    assert opened.get("/status", if_none_match=answer.headers["etag"]).status_code in (200, 304)


def test_the_chain_of_decisions_is_checked(opened):
    until(lambda: opened.get("/status").json()["chain"]["checked"] > 0)
    chain = opened.get("/status").json()["chain"]
    assert chain["ok"] is True
    assert chain["broken"] is None
    assert len(chain["head"]) == 64


@pytest.mark.parametrize("path", ["/versions", "/decisions", "/events?limit=20", "/versions/champion", "/openapi.json"])
def test_what_did_not_change_is_not_sent_again(opened, path):
    answer = opened.get(path)
    assert answer.status_code == 200
    again = opened.get(path, if_none_match=f'"other", W/{answer.headers["etag"]}')
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == answer.headers["etag"]
    assert opened.client.head(path).headers["etag"] == answer.headers["etag"]


def test_two_versions_side_by_side(opened):
    first, *_, last = [one["id"] for one in opened.get("/versions").json()["versions"]]
    diff = opened.get(f"/versions/{first[:8]}/diff/{last}").json()
    assert [diff["a"]["id"], diff["b"]["id"]] == [first, last]
    assert diff["common"] == first
    assert diff["steps"] >= 1
    assert any(one["moved"] > 0 for one in diff["arrays"])
    assert {one["name"] for one in diff["metrics"]} >= {"accuracy", "brier"}


def test_two_versions_without_arrays(opened, setup):
    first, *_, last = opened.get("/versions").json()["versions"]
    blob = Path(setup.home) / "blobs" / f"{first['blob']}.safetensors"
    content = blob.read_bytes()
    blob.unlink()
    try:
        diff = opened.get(f"/versions/{first['id']}/diff/{last['id']}").json()
        assert diff["arrays"] is None
        assert "pruned" in diff["missing"]
        assert diff["a"]["kept"] is False
    finally:
        blob.write_bytes(content)


def test_the_lifecycle_of_an_id(opened):
    learned, waiting = opened.get("/events/p0").json(), opened.get("/events/p1").json()
    assert [one["payload"]["kind"] for one in learned["events"]] == ["prediction", "label", "label"]
    assert (learned["state"], waiting["state"]) == ("corrected", "waiting")
    assert "tried" in {one["reason"] for one in learned["decisions"]}
    assert opened.get("/events/p31").status_code == 404


def test_a_label_that_the_learner_quarantined(tmp_path):
    """A label that contradicts all that the model has seen, where quarantine is on."""
    home = tmp_path / "home"
    spec = config.convert(SPEC | {"limits": {"quarantine": 0.99}})
    draw = random.Random(2)
    with el.open(spec, home=home) as loop:
        for _ in range(3000):
            x = draw.choice([-3.0, -2.0, 2.0, 3.0])
            loop.learn({"x": x, "z": 0.0}, int(x > 0))
        loop.predict({"x": 3.0, "z": 0.0}, id="flipped")
        loop.feedback("flipped", label=0)
    with set_up(home, spec) as setup, learning(setup), admin(setup) as opened:
        until(lambda: opened.context.live.status is not None)
        assert opened.get("/events/flipped").json()["state"] == "quarantined"
        assert "set_aside" not in opened.get("/status").json()


def test_an_id_may_hold_slashes(opened):
    answer = opened.get("/events/no/such%2Fid")
    assert answer.status_code == 404
    assert answer.json()["got"] == "no/such/id"


def test_challengers_with_their_evidence(opened):
    found = opened.get("/challengers").json()["challengers"]
    assert found[0]["role"] == "champion"
    assert {one["role"] for one in found} >= {"champion", "challenger"}
    learner = next(one for one in found if one["role"] == "challenger")
    assert learner["evidence"]["reference_role"] == "champion"


def test_pages_are_under_the_strictest_policy(opened):
    for path in ("/", "/docs", *(f"/static/{name}" for name in dashboard.files())):
        answer = opened.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert opened.get(path, if_none_match=answer.headers["etag"]).status_code == 304
    assert opened.get("/static/../views.py").status_code == 404
    assert opened.get("/static/%2e%2e%2fapp%2fviews.py").status_code == 404


def test_health_is_that_of_the_learner(own):
    own = msgspec.structs.replace(own, spec=msgspec.structs.replace(own.spec, serve=ServeSpec(staleness=0.5)))
    with admin(own) as opened:
        assert "has not written its status yet" in opened.get("/readyz").json()["detail"]
        assert opened.get("/status").status_code == 503
        with learning(own):
            until(lambda: opened.get("/readyz").status_code == 200)
            assert opened.get("/readyz").json()["staleness"] < 0.5
        until(lambda: opened.get("/readyz").status_code == 503)
        reasons = opened.get("/readyz").json()["reasons"]
        assert "the bound is 0.5 s" in " ".join(reasons)
        until(lambda: "has not written its status for" in opened.get("/readyz").json()["detail"])
        with connect(str(Path(own.home) / "log.sqlite"), tidy=False) as log:
            log.append([Prediction("unseen", {"x": 0.0, "z": 0.0}, 1, (0.5, 0.5), "v")], time=time.time() - 30)
        until(lambda: opened.get("/status").json()["lag"]["events"] == 1)
        status = opened.get("/status").json()
        assert status["age"] > 1
        assert 30 <= status["lag"]["seconds"] < 90
        assert status["staleness"]["broken"]
        assert status["staleness"]["seconds"] > status["staleness"]["bound"] == 0.5
        assert "everlearn_lag_events 1.0" in opened.get("/metrics").text
