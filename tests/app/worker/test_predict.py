"""POST /predict: the answers, and the rows of the log by the time a reply is sent."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.app.worker import predict
from everlearn.events import row
from everlearn.families import explain
from everlearn.learn import limits
from everlearn.predict import draw
from everlearn.records import Prediction
from tests.support.workers import BINARY, FIELDS, JSON, RECORD, Site, trained, with_serve


def test_an_answer_is_the_models_and_in_the_log_as_it_was_given(start):
    site = start()
    said = site.once("/predict", {"features": {**RECORD, "nobody asked": [1, 2]}}).json()
    proba = site.model.predict(site.encoder.record(RECORD))[0].tolist()
    (event,) = site.events()
    assert event.payload == Prediction(said["id"], RECORD, said["value"], tuple(proba), "v1", 7)
    assert {name: said[name] for name in ("value", "proba", "version", "position")} == {
        "value": ["no", "yes"][int(np.argmax(proba))],
        "proba": proba,
        "version": "v1",
        "position": 7,
    }
    assert 0.0 <= said["staleness"] < 60.0


def test_several_records_are_answered_in_order(start):
    site = start()
    records = [{**RECORD, "a": float(a)} for a in range(40)]
    reply = site.once("/predict", {"instances": records, "ids": [None, "mine"] + [None] * 38}).json()
    expected = site.model.predict(site.encoder.records(records)[0])
    assert [one["proba"] for one in reply["predictions"]] == expected.tolist()
    assert [one["id"] for one in reply["predictions"]] == [one.id for one in site.predictions()]
    assert [one.features for one in site.predictions()] == records
    assert reply["predictions"][1]["id"] == "mine"
    assert len({one.id for one in site.predictions()}) == 40


def test_the_parts_of_objects_are_fields(start):
    schema = {"label": "y", "task": "regression", "fields": {"user.age": "numeric", "user.tags": "tokens"}}
    site = start({"schema": schema, "model": {"family": "linear"}})
    flat = {"user.age": 3.5, "user.tags": ["new"]}
    for record in (flat, {"user": {"age": 3.5, "tags": ["new"]}, "other": [{}]}):
        assert site.once("/predict", {"features": record}).json()["value"]
    assert [one.features for one in site.predictions()] == [flat, flat]


def test_a_number_is_answered_with_a_number(start):
    site = start({"schema": {"label": "y", "task": "regression", "fields": FIELDS}, "model": {"family": "linear"}})
    said = site.once("/predict", {"features": RECORD}).json()
    assert said["value"] == float(site.model.predict(site.encoder.record(RECORD))[0, 0])
    assert said["proba"] == []


LIKELY = st.dictionaries(st.sampled_from(["a", "b", "town", "other"]), JSON, max_size=4)


@settings(max_examples=60, deadline=None)
@given(records=st.lists(LIKELY, min_size=1, max_size=5))
def test_whatever_is_answered_is_in_the_log_as_it_would_be_read(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    with closing(Site(tmp_path_factory.mktemp("home"))) as site:
        replies = site.together(*(("/predict", {"features": record}) for record in records))
        for record, reply in zip(records, replies, strict=True):
            usable = not site.encoder.records([json.loads(json.dumps(record))])[1]
            assert reply.status == (200 if usable else 422)
        for event in site.events():
            assert site.log.find(f"prediction:{event.payload.id}") == event
            kept = site.log._rows("SELECT time, kind, key, payload FROM events WHERE position = ?", (event.position,))
            assert kept == [row(event.payload, event.time)]
            again = site.model.predict(site.encoder.record(event.payload.features))
            assert event.payload.proba == tuple(again[0].tolist())


def test_features_are_clipped_to_the_ranges_that_were_learned(start):
    site = start({**BINARY, "limits": {"clip": 0.01}})
    low, high = np.array([-1.0, -1.0], np.float32), np.array([1.0, 1.0], np.float32)
    site.publish(low=low, high=high)
    far = {**RECORD, "a": 1e6}
    clipped = limits.clip({"low": low, "high": high}, site.spec.limits, site.encoder.record(far))
    assert site.once("/predict", {"features": far}).json()["proba"] == site.model.predict(clipped)[0].tolist()
    assert site.predictions()[0].features == far


def test_contributions_are_told_where_they_are_asked_for(start):
    site = start()
    expected = explain.contributions(site.model, site.encoder, RECORD)
    assert site.once("/predict?explain=1", {"features": RECORD}).json()["contributions"] == expected
    many = site.once("/predict?explain=true", {"instances": [RECORD]}).json()
    assert many["predictions"][0]["contributions"] == expected
    assert "contributions" not in site.once("/predict?explain=0", {"features": RECORD}).json()


def test_what_explains_is_loaded_before_anyone_asks(start, monkeypatch):
    site, explained = start(), []
    monkeypatch.setattr(predict.explain, "contributions", lambda *asked: explained.append(asked) or {})
    site.worker.warm()
    assert len(explained) == 1
    monkeypatch.undo()
    monkeypatch.setattr(predict.explain, "FAMILIES", {})
    site.worker.warm()  # a family that does not say why answers all the same
    assert site.events() == []


def test_the_subject_is_kept_in_one_spelling(start):
    site = start({**BINARY, "subject": "user"})
    for user in ("7", 7, 7.0, None):
        site.once("/predict", {"features": {**RECORD, "user": user}})
        site.once("/learn", {"features": {**RECORD, "user": user}, "label": "no"})
    assert [event.payload.subject for event in site.events()] == ["7"] * 6 + [""] * 2
    assert all("user" not in event.payload.features for event in site.events())
    assert site.once("/predict", {"features": {**RECORD, "user": [1]}}).status == 422


def test_the_id_decides_whether_the_candidate_answers(start):
    site = start(with_serve(canary=0.25))
    other = trained(site.spec, seed=1)
    site.publish(canary=other)
    reply = site.once("/predict", {"instances": [{**RECORD, "a": i / 400} for i in range(400)]}).json()
    given_by = {one["id"]: one["version"] for one in reply["predictions"]}
    assert given_by == {id: "v2" if draw(id) < 0.25 else "v1" for id in given_by}
    assert 60 <= list(given_by.values()).count("v2") <= 140  # 100 expected, standard deviation 8.7
    for one in site.predictions():
        answering = other if one.canary else site.model
        assert one.canary == (one.version == "v2")
        assert one.propensity == (0.25 if one.canary else 0.75)
        assert one.proba == tuple(answering.predict(site.encoder.record(one.features))[0].tolist())


def test_a_record_sent_again_under_its_key_gets_its_first_answer(start):
    site = start()
    first = site.once("/predict", {"features": RECORD, "id": "order-1"}).json()
    site.model = trained(site.spec, seed=1)
    site.publish("v9", position=90)
    again = site.once("/predict", {"features": dict(reversed(RECORD.items())), "id": "order-1"}).json()
    assert {**again, "staleness": 0} == {**first, "staleness": 0}
    reply = site.once("/predict", {"instances": [RECORD, {**RECORD, "a": 2}], "ids": ["order-1", "order-2"]}).json()
    assert [one["version"] for one in reply["predictions"]] == ["v1", "v9"]
    assert [one.id for one in site.predictions()] == ["order-1", "order-2"]


def test_a_key_names_one_record(start):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "order-1"})
    for body in (
        {"features": {**RECORD, "a": 9}, "id": "order-1"},
        {"instances": [RECORD, {**RECORD, "a": 9}], "ids": ["order-2", "order-1"]},
    ):
        reply = site.once("/predict", body)
        assert reply.status == 409
        assert "Delft" not in reply.content.decode()  # what is stored is not told to whoever knows its id
    assert len(site.events()) == 1


def test_one_key_for_two_records_at_once_is_given_to_one(start):
    site = start()
    neighbour, *claims = site.together(
        ("/predict", {"features": RECORD}),
        *(("/predict", {"features": {**RECORD, "a": a}, "id": "k"}) for a in (1, 2, 1)),
    )
    assert neighbour.status == 200
    assert [reply.status for reply in claims] == [200, 409, 200]
    assert claims[0].json()["proba"] == claims[2].json()["proba"]
    assert len(site.events()) == 2
