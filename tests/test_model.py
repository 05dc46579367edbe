"""The contract's functions: building, copying, restoring and slicing, on a model of a few lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn import model
from everlearn.errors import ConfigError, ModelError
from everlearn.records import Batch, Loss
from tests.support.models import Mean, examples

SPEC = {"family": "tests.support.models:Mean"}
LINEAR = {"family": "linear", "task": "binary", "dense": 3}


def rows(n: int, entries: int = 2) -> Batch:
    """n rows of one dense column that holds the number of the row, with `entries` hashed entries each."""
    indices = np.arange(n * entries, dtype=np.int32)
    indptr = np.arange(0, n * entries + 1, entries, dtype=np.int64)
    return Batch(np.arange(n, dtype=np.float32)[:, None], indptr, indices, indices.astype(np.float32))


def test_a_family_is_built_by_name_or_by_module_and_function() -> None:
    assert isinstance(model.build(SPEC), Mean)
    assert model.build(LINEAR).spec["task"] == "binary"
    assert model.build({"family": "linear"}, {"task": "binary", "dense": 3}).spec["dense"] == 3


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("jungle", "unknown family 'jungle'; expected one of anomaly, auto, bandit, dueling, factorization, forecast"),
        ("liner", r"did you mean 'linear'\?"),
        ("no_such_module:build", "no module named 'no_such_module'"),
        ("tests.support.models:Median", "has no 'Median'"),
        ("tests.support.models:np", "expected a function"),
    ],
)
def test_a_family_that_cannot_be_found_is_named(family: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        model.find(family)


def test_a_result_that_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="built a int without spec, arrays, predict, learn"):
        model.build({"family": "builtins:len"})


def test_a_function_that_fails_is_quoted() -> None:
    with pytest.raises(ConfigError, match="could not build a model from the spec: TypeError"):
        model.build({"family": "builtins:int"})


def test_a_model_without_a_shape_takes_the_first_one_it_is_bound_to() -> None:
    waiting = model.build({"family": "linear"})
    with pytest.raises(ModelError, match="does not know its inputs yet"):
        waiting.predict(rows(1))
    model.bind(waiting, {"task": "binary", "dense": 3})
    model.bind(waiting, {"task": "binary", "dense": 5})
    given = examples(4)
    assert waiting.learn(given.batch, given.y, given.weight).shape == (4, 2)
    assert waiting.spec["dense"] == 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("squared", Loss("squared")),
        (("pinball", 0.9), Loss("pinball", 0.9)),
        (Loss("huber", 2), Loss("huber", 2.0)),
        (Loss("log_loss", 0.001), Loss("log_loss", 0.001)),
    ],
)
def test_a_family_may_expose_its_loss(given: Any, expected: Loss | None) -> None:
    made = Mean()
    made.loss = given  # type: ignore[attr-defined]
    assert model.own_loss(made) == expected


@pytest.mark.parametrize(
    "given", ["hinge", ("pinball", 1.0), ("pinball",), ("huber", -1.0), ("squared", 2.0), ("log_loss", 0.5), print]
)
def test_a_loss_that_is_none_is_refused(given: Any) -> None:
    made = Mean()
    made.loss = given  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"loss: got .*; expected a name among brier, error"):
        model.own_loss(made)


def test_a_model_without_the_attribute_has_no_loss() -> None:
    assert model.own_loss(Mean()) is None


def test_a_copy_shares_nothing() -> None:
    first, given = model.build(SPEC), examples(10)
    first.learn(given.batch, given.y, given.weight)
    second = model.copy(first)
    assert model.compare(first.arrays, second.arrays) == []
    second.learn(given.batch, given.y, given.weight)
    assert first.arrays["count"] == 10
    assert second.arrays["count"] == 20


def test_arrays_that_do_not_fit_are_refused_with_each_difference() -> None:
    target = model.build(SPEC)
    arrays = {"count": np.zeros(2, np.int32), "twos": np.zeros(())}
    with pytest.raises(ModelError) as refused:
        model.restore(target, arrays)
    for words in ("'ones' is missing", "'twos' was not expected", "has shape (2,), expected ()", "has dtype int32"):
        assert words in str(refused.value)
    model.restore(target, {"count": np.array(3), "ones": np.array(2.0)})
    assert target.arrays["count"] == 3


def test_arrays_of_learning_are_told_apart_by_their_prefix() -> None:
    arrays = {"weights": np.zeros(1), "learn/moments": np.ones(1)}
    assert list(model.answering(arrays)) == ["weights"]
    assert list(model.within(arrays, "learn/")) == ["moments"]
    assert model.within(model.prefixed("a/", arrays), "a/").keys() == arrays.keys()


def test_a_slice_of_rows_copies_nothing_and_stacking_slices_gives_the_rows_back() -> None:
    batch = rows(5)
    pieces = [model.row_slice(batch, 0, 2), model.row_slice(batch, 2, 2), model.row_slice(batch, 2, 5)]
    assert [len(piece) for piece in pieces] == [2, 0, 3]
    assert all(np.shares_memory(piece.indices, batch.indices) for piece in pieces)
    whole = model.stack(pieces)
    for name in ("dense", "indptr", "indices", "values"):
        assert getattr(whole, name).tolist() == getattr(batch, name).tolist()
    assert model.stack([], columns=4).dense.shape == (0, 4)


def test_selected_rows_keep_their_labels_and_positions() -> None:
    given = examples(6)
    keep = np.array([True, False, True, True, False, False])
    chosen = model.select(given, keep)
    assert chosen.position.tolist() == [1, 3, 4]
    assert chosen.y.tolist() == given.y[keep].tolist()
    assert chosen.batch.dense.tolist() == given.batch.dense[keep].tolist()
    assert model.select(given, np.ones(6, np.bool_)) is given


# ---- the trace -----------------------------------------------------------------------------------------------------

STALE = {"family": "tests.support.traced_models:Stale", "dense": 3}


class Odd(Mean):
    """A model with a trace from its spec, and what a trace needs only where the spec says so."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(spec)
        self.trace = spec["trace"]
        if spec.get("predicts"):
            self.predict_traced = self.predict


def test_a_family_may_have_a_trace() -> None:
    assert model.traced(model.build(STALE)) == 1
    assert model.traced(model.build(STALE | {"trace": 256})) == 256
    assert model.traced(model.build(SPEC)) == model.traced(model.build(LINEAR)) == 0
    assert model.traced(model.build({"family": f"{__name__}:Odd", "trace": 0})) == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trace": 257}, "trace: got 257; expected a whole number from 0 to 256"),
        ({"trace": -1}, "trace: got -1"),
        ({"trace": True}, "trace: got True"),
        ({"trace": 2.0}, "trace: got 2.0"),
        ({"trace": None}, "trace: got None"),
        ({"trace": 2}, "a trace of 2 and no predict_traced"),
        ({"trace": 2, "predicts": True}, "a trace of 2, and its learn takes none"),
    ],
)
def test_a_trace_that_cannot_be_used_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        model.build({"family": f"{__name__}:Odd", **given})


def test_a_deferred_model_has_the_trace_of_the_built_one() -> None:
    data = examples(20)
    shape = {"task": "binary", "dense": 3, "hashed": 0, "classes": 2}
    nested = {"family": "gated", "model": {"family": "tests.support.traced_models:Stale"}}
    late, plain = model.build(nested), model.build({"family": "linear"})
    assert (model.traced(late), model.traced(plain)) == (0, 0)
    for one in (late, plain):
        model.bind(one, shape)
    assert (model.traced(late), model.traced(plain)) == (1, 0)
    scores, trace = model.predict_traced(late, data.batch)
    assert trace is not None
    assert (scores.shape, trace.shape) == ((20, 2), (20, 1))
    assert model.predict_traced(plain, data.batch)[1] is None
    model.learn(late, data.batch, data.y, data.weight, trace)
    model.learn(plain, data.batch, data.y, data.weight, None)
