"""The one implementation of predict: batches, arms, clipping, ids; a loop and a worker answer alike."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.json import Decoder, encode

from everlearn import model
from everlearn.errors import IdTaken, InputError, ModelError
from everlearn.events import connect
from everlearn.predict import Instance, Serving, answer, draw, encoded, given_before, interval, new_ids, score
from everlearn.records import Batch, Erased, Prediction, Singles
from everlearn.schema import Encoder
from everlearn.serve.snapshot import Answering
from everlearn.spec import Schema

decode = Decoder(Prediction).decode
FIELDS = {"a": "numeric", "town": "categorical"}
BINARY = Encoder(Schema(label="y", task="binary", classes=("no", "yes"), fields=FIELDS))
NUMBER = Encoder(Schema(label="y", task="regression", fields=FIELDS))


def trained(encoder: Encoder, seed: int) -> model.Model:
    made = model.build({"family": "linear"}, encoder.shape)
    draw = np.random.default_rng(seed)
    rows = [{"a": float(a), "town": f"t{i % 3}"} for i, a in enumerate(draw.normal(size=100))]
    y = np.array([float(row["a"] > 0) for row in rows])
    made.learn(encoder.records(rows)[0], y, np.ones(100, np.float32))
    return made


def unclipped(batch: Batch) -> Batch:
    return batch


def serving(encoder: Encoder = BINARY, share: float = 0.0, clip: Any = unclipped) -> Serving:
    canary = Answering("v2", trained(encoder, 2)) if share else None
    return Serving(Answering("v1", trained(encoder, 1)), canary, share, 7, clip)


def instances(n: int) -> list[Instance]:
    return [Instance(f"id-{i}", {"a": i / 7, "town": f"t{i % 4}"}, f"user-{i % 2}") for i in range(n)]


@pytest.mark.parametrize("encoder", [BINARY, NUMBER], ids=["binary", "regression"])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_batch_and_its_rows_one_by_one_have_the_same_answers(encoder, share):
    now, rows = serving(encoder, share), instances(100)
    together = answer(now, encoder, rows)
    assert together == [answer(now, encoder, [row])[0] for row in rows]
    assert [one.id for one in together] == [row.id for row in rows]


def test_an_answer_records_what_is_needed_to_judge_it():
    now, (row,) = serving(), instances(1)
    (given,) = answer(now, BINARY, [row])
    proba = now.champion.model.predict(BINARY.record(row.features))[0]
    value = ("no", "yes")[int(proba.argmax())]
    assert given == Prediction("id-0", row.features, value, tuple(proba.tolist()), "v1", 7, 1.0, False, "user-0")


def test_a_regression_is_answered_with_a_number():
    now, (row,) = serving(NUMBER), instances(1)
    (given,) = answer(now, NUMBER, [row])
    assert given.value == float(now.champion.model.predict(NUMBER.record(row.features))[0, 0])
    assert given.proba == ()


def test_the_id_chooses_the_arm_and_the_record_its_propensity():
    now, rows = serving(share=0.25), instances(400)
    given = answer(now, BINARY, rows)
    assert [one.canary for one in given] == [draw(row.id) < 0.25 for row in rows]
    assert 60 <= sum(one.canary for one in given) <= 140  # 100 expected, standard deviation 8.7
    for one in given:
        arm = now.canary if one.canary else now.champion
        assert arm is not None
        assert (one.version, one.propensity) == (arm.version, 0.25 if one.canary else 0.75)
        assert one.proba == tuple(arm.model.predict(BINARY.record(one.features))[0].tolist())


def test_without_rows_no_model_is_called():
    assert answer(serving(), BINARY, []) == []


def test_features_are_clipped_before_they_are_scored():
    def clip(batch: Batch) -> Batch:
        return Batch(np.minimum(batch.dense, np.float32(1.0)), batch.indptr, batch.indices, batch.values)

    now = serving(clip=clip)
    far, near = Instance("far", {"a": 1e6}), Instance("near", {"a": 1.0})
    assert [one.proba for one in answer(now, BINARY, [far])] == [one.proba for one in answer(now, BINARY, [near])]
    assert encoded(BINARY, clip, [far.features, near.features]).dense.tolist() == [[1.0], [1.0]]


def test_scores_at_prediction_positions_are_those_of_the_answers():
    now, rows = serving(), instances(20)
    scores = score(now.champion.model, BINARY, unclipped, [row.features for row in rows])
    assert [one.proba for one in answer(now, BINARY, rows)] == list(map(tuple, scores.tolist()))


def test_a_value_that_cannot_be_encoded_names_its_row_and_field():
    rows = [*instances(1), Instance("bad", {"a": "x"})]
    with pytest.raises(InputError, match="row 1: field 'a': got 'x', expected a number"):
        answer(serving(), BINARY, rows)


class Broken:
    """A model whose scores are not finite."""

    def __init__(self) -> None:
        self.spec: dict[str, Any] = {}
        self.arrays: dict[str, Any] = {}

    def predict(self, batch: Batch) -> Singles:
        return np.full((len(batch), 2), np.nan, np.float32)

    def learn(self, batch: Batch, y: Any, weight: Any) -> Singles:
        raise NotImplementedError


def test_a_score_that_is_not_finite_is_refused():
    now = Serving(Answering("v3", Broken()), None, 0.0, 0, unclipped)
    with pytest.raises(ModelError, match="version v3 answered with a number that is not finite; roll it back"):
        answer(now, BINARY, instances(1))


@pytest.mark.parametrize("fault", ["", "wide", "infinite", "list"])
def test_an_answer_holds_the_trace_of_the_arm_that_gave_it(fault: str):
    number = {"family": "tests.support.traced_models:Broken", "fault": fault}
    stale = model.build(number, BINARY.shape)
    stale.arrays = stale.arrays | {"line": np.arange(float(BINARY.shape["dense"]) + 1) / 4}
    now = Serving(Answering("v1", stale), Answering("v2", trained(BINARY, 2)), 0.4, 7, unclipped)
    if fault:
        stale.arrays = stale.arrays | {"calls": np.array([3])}
        with pytest.raises(ModelError, match=r"version v1 returned a .*trace.*; roll it back"):
            answer(now, BINARY, instances(30))
        return
    given = answer(now, BINARY, instances(30))
    assert {one.canary for one in given} == {True, False}
    for one in given:
        assert one.trace == (b"" if one.canary else np.float32(one.proba[1]).astype("<f4").tobytes())
        assert decode(encode(one)) == one
        assert (b'"trace"' in encode(one)) == (not one.canary)


def test_an_id_names_one_record(tmp_path, monkeypatch):
    (row,) = instances(1)
    (first,) = answer(serving(), BINARY, [row])
    with closing(connect(str(tmp_path / "log.sqlite"))) as log:
        assert given_before(log, row.id, row.features) is None
        log.append([first])
        assert given_before(log, row.id, dict(reversed(row.features.items()))) == first
        with pytest.raises(IdTaken, match="'id-0' names another record") as refused:
            given_before(log, row.id, {"a": 9.0})
        assert "t0" not in str(refused.value)  # the stored record may be about another person
        event = log.find("prediction:id-0")
        monkeypatch.setattr(log, "find", lambda key: type(event)(1, 0.0, Erased(1, "prediction")))
        with pytest.raises(IdTaken, match="'id-0' was erased"):
            given_before(log, row.id, row.features)


@given(st.text())
def test_the_draw_of_an_id_is_a_number_from_0_to_1(id: str) -> None:
    assert 0.0 <= draw(id) < 1.0
    assert draw(id) == draw(id)


def test_new_ids_differ_and_sort_by_time():
    first, second = new_ids(1000), new_ids(1000)
    assert len({*first, *second}) == 2000
    assert max(one[:12] for one in first) <= min(one[:12] for one in second)


def test_only_models_that_give_bounds_have_an_interval():
    encoder = Encoder(Schema(label="y", task="regression", fields={"at": "datetime"}))
    rows = [Instance(str(hour), {"at": f"2026-01-01T{hour:02}:00"}) for hour in range(20, 23)]
    made = model.build({"family": "forecast"}, encoder.shape)
    known = encoder.records([{"at": f"2026-01-01T{hour:02}:00"} for hour in range(20)])[0]
    made.learn(known, np.arange(20.0), np.ones(20, np.float32))
    found = answer(Serving(Answering("v", made), None, 0.0, 7, unclipped), encoder, rows)
    bounds = made.interval(encoder.records([row.features for row in rows])[0])
    assert [interval(one) for one in found] == [tuple(pair) for pair in bounds.tolist()]
    assert [decode(encode(one)) for one in found] == found
    assert all(interval(one) is None and not one.payload for one in answer(serving(NUMBER), NUMBER, instances(3)))
