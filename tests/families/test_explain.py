"""Contributions add up to what the model says, and a field that is left out takes exactly its own away."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn import model as models
from everlearn.errors import InputError
from everlearn.families.explain import FAMILIES, contributions
from everlearn.model import Model
from everlearn.records import Batch
from everlearn.schema import Encoder, origins
from everlearn.spec import Schema
from tests.support import learned_models
from tests.support.models import Mean

FIELDS = {
    "amount": "numeric",
    "country": "categorical",
    "night": "boolean",
    "words": "text",
    "at": "datetime",
    "card": "categorical",
    "place": "vector[2]",
}
CLASSES: dict[str, tuple[Any, ...]] = {"binary": (False, True), "multiclass": ("a", "b", "c"), "regression": ()}
OPTIMIZERS = ("blend", "quick", "sgd", "adagrad", "adam", "ftrl", "normalized")
RECORD = {
    "amount": 12.5,
    "country": "NL",
    "night": True,
    "words": "free money, free!",
    "at": "2026-03-01T12:30",
    "card": 7,
    "place": [52.0, 4.5],
}


def records(n: int, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [
        {
            "amount": float(random.exponential(50)),
            "country": str(random.choice(["NL", "BE", "DE"])),
            "night": bool(random.random() < 0.3),
            "words": " ".join(random.choice(["free", "money", "hello", "you"], 4)),
            "at": f"2026-0{random.integers(1, 9)}-11T{random.integers(10, 23)}:15",
            "card": int(random.integers(9)),
            "place": random.normal(size=2).tolist(),
        }
        for _ in range(n)
    ]


def taught(task: str, schema_pairs: bool = False, **dials: Any) -> tuple[Model, Encoder]:
    schema = Schema(label="y", task=task, fields=FIELDS, classes=CLASSES[task], bits=12, interactions=schema_pairs)
    encoder = Encoder(schema)
    built = models.build({"family": "linear", "layout": 1, **dials}, encoder.shape)
    known = records(300)
    batch, problems = encoder.records(known)
    assert problems == []
    y = np.array([(record["amount"] > 40) + (record["card"] > 6) * (task != "binary") for record in known], float)
    built.learn(batch, 100 * y + 7 if task == "regression" else y, np.ones(300, np.float32))
    return built, encoder


def said(model: Model, encoder: Encoder, record: Mapping[str, Any]) -> np.ndarray:
    return model.predict(encoder.record(record))[0].astype(float)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("interactions", ["none", "dense", "hashed", "all"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_contributions_add_up_to_the_score(task: str, interactions: str, optimizer: str) -> None:
    model, encoder = taught(task, schema_pairs=True, optimizer=optimizer, interactions=interactions)
    for record in [RECORD, *records(5, seed=1)]:
        told, scores = contributions(model, encoder, record), said(model, encoder, record)
        if task == "multiclass":
            sums = np.array([sum(told[label].values()) for label in "abc"])
            expected = np.exp(sums - sums.max()) / np.exp(sums - sums.max()).sum()
            np.testing.assert_allclose(scores, expected, atol=1e-6)
        elif task == "binary":
            assert scores[1] == pytest.approx(1 / (1 + math.exp(-sum(told.values()))), abs=1e-6)
        else:
            assert scores[0] == pytest.approx(sum(told.values()), rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("interactions", ["none", "all"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_left_out_takes_its_contributions_away(field: str, interactions: str) -> None:
    model, encoder = taught("regression", schema_pairs=True, interactions=interactions)
    told = contributions(model, encoder, RECORD)
    without = {name: value for name, value in RECORD.items() if name != field}
    mine = sum(value for name, value in told.items() if field in name.split(" x "))
    gone = said(model, encoder, RECORD)[0] - said(model, encoder, without)[0]
    assert gone == pytest.approx(mine, rel=1e-4, abs=1e-3)
    assert abs(mine) > 1e-6
    assert contributions(model, encoder, without)[field] == 0.0


def test_every_field_is_there_in_schema_order_then_pairs_and_the_intercept() -> None:
    model, encoder = taught("binary", schema_pairs=True)
    told = contributions(model, encoder, {"country": "NL", "card": 1})
    assert list(told) == [*FIELDS, "country x card", "intercept"]
    assert {name for name, value in told.items() if value} == {"country", "card", "country x card", "intercept"}


def test_a_row_that_was_clipped_is_explained_as_it_was_seen() -> None:
    model, encoder = taught("regression")
    seen = encoder.record(RECORD)
    dense = seen.dense.copy()
    dense[0, 0] = 3.0
    clipped = Batch(dense, seen.indptr, seen.indices, seen.values)
    told = contributions(model, encoder, RECORD, clipped)
    assert sum(told.values()) == pytest.approx(float(model.predict(clipped)[0, 0]), rel=1e-5)
    assert told["amount"] != contributions(model, encoder, RECORD)["amount"]


def test_arrays_that_may_not_be_written_are_explained_too() -> None:
    model, encoder = taught("binary")
    before = contributions(model, encoder, RECORD)
    for array in model.arrays.values():
        array.flags.writeable = False
    assert contributions(model, encoder, RECORD) == before


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_served_mix_is_explained_from_what_a_snapshot_holds(task: str) -> None:
    """Without the arrays that only learning needs, and with read-only ones."""
    learned, encoder = learned_models.taught("auto", task, True)
    record = {"amount": 3050.0, "night": True, "country": "NL", "note": "free money"}
    served = models.build(learned.spec)
    arrays = models.copied(models.answering(learned.arrays))
    for array in arrays.values():
        array.flags.writeable = False
    served.arrays = arrays
    assert contributions(served, encoder, record) == contributions(learned, encoder, record)


values = {
    "amount": st.floats(-1e6, 1e6),
    "country": st.one_of(st.text(max_size=5), st.integers()),
    "night": st.booleans(),
    "words": st.text(max_size=60),
    "at": st.datetimes().map(str),
    "card": st.one_of(st.text(max_size=3), st.floats(-9, 9)),
    "place": st.lists(st.floats(-9, 9), min_size=2, max_size=2),
}


@given(st.fixed_dictionaries({}, optional=values), st.booleans())
@settings(deadline=None, max_examples=50)
def test_every_column_and_entry_has_a_field(record: dict[str, Any], pairs: bool) -> None:
    encoder = Encoder(Schema(label="y", task="regression", fields=FIELDS, interactions=pairs))
    row = encoder.record(record)
    assert len(origins.dense(encoder.schema)) == row.dense.shape[1]
    assert len(origins.hashed(encoder.schema, record)) == len(row.indices)


def test_a_family_that_does_not_say_is_refused() -> None:
    _, encoder = taught("binary")
    with pytest.raises(InputError, match="of the family 'tests.support.models:Mean'; expected one of anomaly, forest"):
        contributions(Mean(), encoder, RECORD)
    assert set(FAMILIES) <= set(models.FAMILIES)


def test_a_model_of_fewer_bits_is_refused() -> None:
    model, _ = taught("binary")
    wide = Encoder(Schema(label="y", task="binary", classes=(False, True), fields=FIELDS, bits=20))
    with pytest.raises(InputError, match="hashed index outside the hash space; expected 0 to 4095"):
        contributions(model, wide, RECORD)
