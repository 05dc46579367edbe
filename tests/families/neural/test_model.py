"""Networks as models: exact resume, arrays, images, rows and settings that do not fit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import everlearn as el
from everlearn._torch import nn, torch
from everlearn.errors import ConfigError, InputError, ModelError
from everlearn.model import answering, copied, cut
from everlearn.records import Batch, Examples
from tests.support import neural_nets
from tests.support.neural_nets import (
    CLASSES,
    DENSE,
    HERE,
    NUMBER,
    PLAIN,
    REPLAY,
    SPEC,
    bytes_of,
    examples,
    learn,
    plain,
)

KINDS: dict[str, dict[str, Any]] = {
    "adam, average, replay": {**SPEC, **REPLAY},
    "momentum": {**PLAIN, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "dampening": 0.5}},
    "batch norm, dropout, passes": {**SPEC, "family": HERE + "normalized", "passes": 2, **REPLAY},
    "balanced": {**SPEC, **REPLAY, "balance": True, "restart": True},
    "expected lately": {**SPEC, **REPLAY, "balance": True, "prior": 15, "ema": 0.0},
    "distilled": {**SPEC, "terms": [{"kind": "distill"}], "memory": {"kind": "reservoir", "rows": 20}, "clip": 1.0},
    "by loss": {**SPEC, "terms": [{"kind": "replay"}], "memory": {"kind": "loss", "rows": 12}},
    "by gradient": {**SPEC, "terms": [{"kind": "replay"}], "memory": {"kind": "gradient", "rows": 12}},
    "nadam, schedule": {**SPEC, "optimizer": "nadam", "schedule": {"kind": "linear", "steps": 8, "warmup": 2}},
    "standardised": {**SPEC, "normalize": True},
    "hashed": {**SPEC, "family": "neural", "hashed": 16, "arguments": {"hidden": [8]}, "width": 3, **REPLAY},
    "regression": {**NUMBER, "normalize": True, "ema": 0.9},
    "nearest mean": {**SPEC, "head": "ncm", **REPLAY, "memory": {"rows": 12}},
    "drift": {**SPEC, "drift": {"detector": "page_hinkley", "grace_period": 20, "rate": 3.0}},
    "bfloat16": {**SPEC, "precision": "bfloat16"},
}


LENGTH = 75


def whole(spec: dict[str, Any]) -> tuple[Examples, Any, dict[str, bytes]]:
    rows = examples(LENGTH, spec["dense"], spec.get("classes", 0), hashed=spec.get("hashed", 0))
    model = el.build(spec)
    return rows, learn(model, rows), bytes_of(model.arrays)


WHOLE: dict[str, tuple[Examples, Any, dict[str, bytes]]] = {}


def stopped(kind: str, cuts: list[int]) -> None:
    """Compare a model whose arrays move to another one at each cut with one that learned all rows at once."""
    spec = KINDS[kind]
    if kind not in WHOLE:
        WHOLE[kind] = whole(spec)
    rows, answers, expected = WHOLE[kind]
    model, scores = el.build(spec), []
    for start, stop in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        other = el.build(spec)
        learn(other, examples(17, spec["dense"], spec.get("classes", 0), seed=9, hashed=spec.get("hashed", 0)))
        torch.rand(3)  # other code draws from PyTorch's generator, too
        other.arrays = copied(model.arrays)
        model = other
        scores.append(learn(model, cut(rows, start, stop)))
    assert np.concatenate(scores).tobytes() == answers.tobytes()
    assert bytes_of(model.arrays) == expected


@pytest.mark.parametrize("cuts", [[1, 18, LENGTH - 1], [39]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_stopped_anywhere_goes_on_as_if_it_had_not(kind: str, cuts: list[int]) -> None:
    stopped(kind, cuts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@given(cuts=st.lists(st.integers(1, LENGTH - 1), min_size=1, max_size=3, unique=True).map(sorted))
@settings(max_examples=20, deadline=None)
def test_a_model_stopped_at_many_places_goes_on_as_if_it_had_not(kind: str, cuts: list[int]) -> None:
    stopped(kind, cuts)


def test_learning_leaves_pytorchs_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    model = el.build({**SPEC, "family": HERE + "normalized"})
    learn(model, examples(40, DENSE, CLASSES))
    assert (torch.rand(4) == expected).all()


def test_gaps_are_the_mean_and_absurd_values_are_cut() -> None:
    rows = examples(200, DENSE, 2)
    model = el.build({**SPEC, "task": "binary", "classes": 2, "normalize": True})
    learn(model, rows)
    moments = model.arrays["inputs/moments"]
    np.testing.assert_allclose(moments[1], rows.batch.dense.mean(0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(moments[2] / 200, rows.batch.dense.var(0, dtype=np.float64), rtol=1e-6)
    gap, middle, far, edge = (rows.batch.dense[:1].copy() for _ in range(4))
    gap[0, 1], middle[0, 1] = np.nan, moments[1, 1]
    np.testing.assert_allclose(model.predict(plain(gap)), model.predict(plain(middle)), atol=1e-5)
    far[0, 1], edge[0, 1] = 3e38, moments[1, 1] + 10 * np.sqrt(moments[2, 1] / 200)
    np.testing.assert_allclose(model.predict(plain(far)), model.predict(plain(edge)), atol=1e-5)


def test_numbers_of_any_unit_are_learned_where_columns_are_standardised() -> None:
    rows = examples(3000, DENSE, 0)
    y = 1e6 + 5e4 * rows.y
    model = el.build({**NUMBER, "normalize": True, "ema": 0.9, "optimizer": {"name": "adam", "lr": 0.01}})
    said = model.learn(rows.batch, y, np.ones(3000, np.float32))
    left = said[2000:, 0].astype(np.float64) - y[2000:]
    assert (left**2).mean() / y.var() < 0.05


@pytest.mark.parametrize("normalize", [True, False])
def test_a_number_far_away_does_not_end_all_learning(normalize: bool) -> None:
    rows = examples(1500, DENSE, 0)
    rows.y[300] = 1e17
    model = el.build({**NUMBER, "normalize": normalize, "clip": 1.0, "optimizer": {"name": "adam", "lr": 0.01}})
    said = learn(model, rows)
    assert np.abs(said[1000:, 0] - rows.y[1000:]).mean() < (1.0 if normalize else 2.0)


def test_a_shallow_copy_that_is_given_what_answers_learns_apart() -> None:
    model, rows = el.build(SPEC), examples(60, DENSE, CLASSES)
    learn(model, rows)
    before = bytes_of(model.arrays)
    twin = copy.copy(model)
    twin.arrays = {name: one.copy() for name, one in model.arrays.items() if not name.startswith("learn/")}
    assert bytes_of(twin.arrays) == before
    learn(twin, rows)
    assert bytes_of(model.arrays) == before
    assert bytes_of(twin.arrays) != before


def test_images_and_whole_numbers_in_memory() -> None:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, 600)
    images = draw.integers(0, 120, (600, 1, 6, 6)) + 130 * y[:, None, None, None]
    spec = {
        "family": HERE + "pictures",
        "task": "binary",
        "dense": 36,
        "shape": (1, 6, 6),
        "scale": 1 / 255,
        "ema": 0.9,
        "terms": [{"kind": "replay"}],
        "memory": {"rows": 50, "dtype": "uint8", "augment": "shift"},
        "optimizer": {"name": "adam", "lr": 0.01},
    }
    model = el.build(spec)
    assert model.arrays["learn/pending/dense"].dtype == model.arrays["learn/memory/dense"].dtype == np.uint8
    said = model.learn(plain(images), y.astype(float), np.ones(600, np.float32))
    assert (said[300:].argmax(1) == y[300:]).mean() > 0.95
    assert model.composition()["rows"] == 50
    before = bytes_of(model.arrays)
    with pytest.raises(InputError, match="uint8 does not hold exactly"):
        model.learn(plain(images[:20] + 0.5), y[:20].astype(float), np.ones(20, np.float32))
    assert bytes_of(model.arrays) == before
    with pytest.raises(InputError, match=r"row 1 of the batch: column 0 is \d+\.5, which uint8 does not hold exactly"):
        model.predict(plain(np.concatenate([images[:1], images[:1] + 0.5])))  # nobody could learn it later


def test_who_serves_needs_no_array_that_only_learning_needs() -> None:
    model, rows = el.build({**SPEC, **REPLAY}), examples(60, DENSE, CLASSES)
    learn(model, rows)
    worker = el.build({**SPEC, **REPLAY})
    own = bytes_of({name: one for name, one in worker.arrays.items() if name.startswith("learn/")})
    worker.arrays = {name: one for name, one in model.arrays.items() if not name.startswith("learn/")}
    assert (worker.predict(rows.batch) == model.predict(rows.batch)).all()
    assert bytes_of({name: one for name, one in worker.arrays.items() if name.startswith("learn/")}) == own
    with pytest.raises(ModelError, match="'classes' is missing"):
        worker.arrays = {name: one for name, one in model.arrays.items() if name.startswith("weights/")}
    part = {name: one for name, one in model.arrays.items() if name != "learn/counts"}
    with pytest.raises(ModelError, match="'learn/counts' is missing"):
        worker.arrays = part


def test_who_serves_from_read_only_arrays_keeps_no_room_for_learning() -> None:
    model, rows = el.build({**SPEC, **REPLAY}), examples(60, DENSE, CLASSES)
    learn(model, cut(rows, 0, 25))
    worker, serving = copy.copy(model), copied(answering(model.arrays))
    for one in serving.values():
        one.flags.writeable = False
    worker.arrays = serving
    assert worker.arrays.keys() == serving.keys()
    assert sum(worker.memory_report()[group] for group in ("raw", "optimizer", "memory", "pending")) == 0  # type: ignore[attr-defined]
    assert worker.composition()["rows"] == 0  # type: ignore[attr-defined]
    assert (worker.predict(rows.batch) == model.predict(rows.batch)).all()
    worker.arrays = copied(serving)
    with pytest.raises(ModelError, match="to learn it needs all that learning needs"):
        learn(worker, rows)
    worker.arrays = copied(model.arrays)
    for one in (worker, model):
        learn(one, cut(rows, 25, 60))
    assert bytes_of(worker.arrays) == bytes_of(model.arrays)


def test_a_shallow_copy_with_arrays_of_its_own_stands_apart() -> None:
    model, rows = el.build({**SPEC, **REPLAY}), examples(60, DENSE, CLASSES)
    learn(model, cut(rows, 0, 25))
    twin, given = copy.copy(model), copied(model.arrays)
    twin.arrays = dict(given)
    assert all(twin.arrays[name] is one for name, one in given.items())  # nothing is copied
    before, said = bytes_of(model.arrays), model.predict(rows.batch)
    learn(twin, cut(rows, 25, 60))
    assert bytes_of(model.arrays) == before
    assert (model.predict(rows.batch) == said).all()
    assert (twin.predict(rows.batch) != said).any()
    learn(model, cut(rows, 25, 60))
    assert bytes_of(model.arrays) == bytes_of(twin.arrays)


def test_read_only_arrays_answer_and_do_not_learn() -> None:
    model, rows = el.build(SPEC), examples(25, DENSE, CLASSES)
    learn(model, rows)
    said, held = model.predict(rows.batch), copied(model.arrays)
    for one in held.values():
        one.flags.writeable = False
    rows.batch.dense.flags.writeable = False
    model.arrays = held
    assert (model.predict(rows.batch) == said).all()
    with pytest.raises(ModelError, match="around read-only arrays cannot learn"):
        learn(model, rows)


def test_arrays_are_live_views_and_of_a_fixed_layout() -> None:
    model, rows = el.build(SPEC), examples(25, DENSE, CLASSES)
    held = model.arrays["learn/raw/0.weight"]
    before = held.copy()
    learn(model, rows)
    assert (held != before).any()
    wrong = copied(model.arrays)
    wrong["weights/0.weight"] = wrong["weights/0.weight"][:, :2]
    with pytest.raises(ModelError, match=r"'weights/0.weight' has shape \(8, 2\), expected \(8, 5\)"):
        model.arrays = wrong
    report = model.memory_report()
    assert report["total"] == sum(one.nbytes for one in model.arrays.values())
    assert report["weights"] == sum(one.nbytes for name, one in model.arrays.items() if name.startswith("weights/"))
    assert report["peak"] == 0


def half_frozen(dense: int, outputs: int, bias: float = 0.5) -> nn.Module:
    module = neural_nets.perceptron(dense, outputs)
    module[0].requires_grad_(False)
    nn.init.constant_(module[0].bias, bias)
    return module


def test_weights_that_are_made_anew_are_not_stored_but_known() -> None:
    spec = {**SPEC, "family": "tests.families.neural.test_model:half_frozen", "frozen": "rebuilt"}
    model, rows = el.build(spec), examples(25, DENSE, CLASSES)
    learn(model, rows)
    assert "weights/0.weight" not in model.arrays
    twin = el.model.copy(model)
    assert (twin.predict(rows.batch) == model.predict(rows.batch)).all()
    other = el.build({**spec, "arguments": {"bias": 0.25}})
    with pytest.raises(ModelError, match="other weights that are not trained"):
        other.arrays = copied(model.arrays)
    kept = el.build({**spec, "frozen": "kept"})
    learn(kept, rows)
    assert (kept.predict(rows.batch) == model.predict(rows.batch)).all()
    assert "learn/raw/0.weight" not in kept.arrays  # one copy is enough of what does not change


def test_a_module_in_hand() -> None:
    model, rows = (
        el.Neural(nn.Linear(DENSE, 1), task="regression", dense=DENSE, loss=HERE + "pinball"),
        examples(40, DENSE, 0),
    )
    learn(model, rows)
    twin = copy.copy(model)
    twin.arrays = copied(model.arrays)
    assert (twin.predict(rows.batch) == model.predict(rows.batch)).all()
    with pytest.raises(ConfigError, match=r"made of a module in hand \(Linear\).*your_file:make_net"):
        el.build(model.spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "neural", "module": "nowhere:net"}, "no module 'nowhere' can be imported"),
        ({"family": "neural", "module": HERE + "nothing"}, "has no 'nothing'"),
        (
            {"family": "neural", "module": HERE + "examples", "arguments": {"n": 3}},
            "made a Examples, expected a torch.nn.M",
        ),
        ({"arguments": {"depth": 3}}, "unexpected keyword argument 'depth'"),
        ({"optimizer": "lion"}, "optimizer.name is 'lion', expected one of .*adamw"),
        ({"optimizer": {"name": "sgd", "rate": 0.1}}, "unexpected keyword argument 'rate'"),
        ({"optimizer": {"name": "adam", "lr": -1.0}}, "Invalid learning rate"),
        ({"optimizer": "lbfgs"}, "steps otherwise"),
        ({"loss": "hinge"}, "loss is 'hinge', expected 'your_module:function'"),
        ({"device": "tpu"}, "device is 'tpu', expected 'cpu', 'cuda'"),
        ({"shape": (2, 3)}, "shape is .2, 3. and dense is 5, expected 6"),
        ({"classes": 4, "arguments": {"outputs": 3}}, r"answered 2 rows with shape \(2, 3\), expected \(2, 4\)"),
        ({"arguments": {"dense": 7}}, r"the module cannot take rows \(float32 \(2, 5\)\)"),
        ({"precision": "float16"}, "'float16' is for GPUs"),
        ({"dtype": "int64", "normalize": True}, "normalize is true and dtype is 'int64'"),
        ({"ema": 1.0}, "ema: got 1.0; .*Known settings: .*passes"),
    ],
)
def test_wrong_dials_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        el.build({**SPEC, **change})


def broken(**parts: Any) -> Batch:
    dense, indptr = np.zeros((2, 1), np.float32), np.array([0, 1, 2])
    given = {"dense": dense, "indptr": indptr, "indices": np.array([0, 7], np.int32), "values": np.ones(2, np.float32)}
    return Batch(**{**given, **parts})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (broken(indices=np.array([0, 8], np.int32)), "row 1 .* outside the hash space; expected 0 to 7"),
        (broken(indices=np.array([-1, 0], np.int32)), "row 0 .* outside the hash space"),
        (broken(indptr=np.array([0, 2, 1])), "indptr is wrong at row 1"),
        (broken(indptr=np.array([0, 1, 99])), "indptr is wrong .* within the 2 entries"),
        (broken(values=np.ones(1, np.float32)), "indptr is wrong"),
        (broken(dense=np.zeros((2, 3), np.float32)), r"shape \(2, 3\), expected \(2, 1\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch: Batch, message: str) -> None:
    model = el.build({"family": "neural", "task": "binary", "dense": 1, "hashed": 8})
    before = bytes_of(model.arrays)
    with pytest.raises(InputError, match=message):
        model.predict(batch)
    with pytest.raises(InputError, match=message):
        model.learn(batch, np.zeros(2), np.ones(2, np.float32))
    assert bytes_of(model.arrays) == before


def test_a_label_that_is_no_class_is_refused_and_nothing_is_learned() -> None:
    model, rows = el.build(SPEC), examples(30, DENSE, CLASSES)
    before = bytes_of(model.arrays)
    rows.y[21] = 3.0
    with pytest.raises(InputError, match="row 21 of the batch is not a class; expected a whole number from 0 to 2"):
        learn(model, rows)
    with pytest.raises(InputError, match=r"30 rows came with y \(29,\)"):
        model.learn(rows.batch, rows.y[:29], rows.weight)
    assert bytes_of(model.arrays) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_on_a_gpu_arrays_are_copies_and_memory_is_constant(precision: str) -> None:
    spec = {**SPEC, **REPLAY, "device": "cuda", "precision": precision, "batch": 16}
    rows = examples(1600, DENSE, CLASSES)
    model, on_cpu = el.build(spec), el.build({**SPEC, **REPLAY, "batch": 16})
    learn(model, cut(rows, 0, 800))
    held = model.arrays
    peak = model.memory_report()["peak"]
    assert peak > 0
    twin = el.model.copy(model)
    said = learn(model, cut(rows, 800, 1600))
    assert any((held[name] != one).any() for name, one in model.arrays.items())
    assert model.memory_report()["peak"] <= 2 * peak
    np.testing.assert_allclose(learn(twin, cut(rows, 800, 1600)), said, atol=1e-3)
    expected = learn(on_cpu, rows)[800:]
    assert (said.argmax(1) == expected.argmax(1)).mean() > 0.95
