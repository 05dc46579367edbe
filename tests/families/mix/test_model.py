"""The mix in its contract: checks, traces, settings, and late labels in a stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn import checks, prequential
from everlearn.errors import ConfigError, InputError
from everlearn.model import build, copied
from everlearn.records import Batch, Examples

LAST, LINEAR = {"family": "last"}, {"family": "linear"}
SPECS: list[dict[str, Any]] = [
    {"task": "binary", "dense": 3},
    {"task": "multiclass", "dense": 3, "hashed": 32, "classes": 5},
    {"task": "regression", "dense": 3},
    {"task": "regression", "dense": 3, "members": [{**LINEAR, "loss": "quantile", "loss_parameter": 0.9}, LAST]},
    {"task": "binary", "dense": 3, "members": [LINEAR, {"family": "gated"}, LAST, LAST]},
    {"task": "multiclass", "dense": 2, "classes": 130, "members": [LINEAR, LAST]},  # too wide for a trace
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec['task']}-{len(spec.get('members', 'xx'))}")
def test_a_mix_passes_every_check(spec: dict[str, Any]) -> None:
    failed = [result for result in checks.run(lambda: build({"family": "mix", **spec})) if not result.ok]
    assert not failed, failed


def test_a_mix_learns_by_batches_if_a_member_does() -> None:
    pytest.importorskip("torch")
    network = {"family": "neural"}
    together = build({**network, "task": "binary", "dense": 2}).spec.get("one_at_a_time", True)
    model = build({"family": "mix", "task": "binary", "dense": 2, "members": [LINEAR, network]})
    assert model.spec["one_at_a_time"] is together


def test_the_trace_is_what_members_said_their_traces_and_a_counter() -> None:
    model = build({"family": "mix", "task": "binary", "dense": 1})
    rows = batch(np.array([[1.0], [-1.0]]))
    model.learn(rows, np.array([1.0, 0.0]), np.ones(2, np.float32))
    scores, trace = model.predict_traced(rows)
    members = [build({**one, "task": "binary", "dense": 1}) for one in (LINEAR, LAST)]
    for member in members:
        member.learn(rows, np.array([1.0, 0.0]), np.ones(2, np.float32))
    votes = np.stack([member.predict(rows) for member in members], axis=1)
    assert trace.shape == (2, model.trace) == (2, 2 * 2 + 1 + 1)
    assert np.array_equal(trace[:, :4], votes.reshape(2, 4))
    assert trace[:, 4].tolist() == [0.0, 0.0]  # the last label
    assert trace[:, 5].tolist() == [2.0, 2.0]  # rows learned
    assert np.array_equal(scores, model.predict(rows))


def test_late_labels_teach_what_the_members_said_then() -> None:
    """Labels alternate in blocks and come one block late: then the last label is always wrong, and never looks so."""
    x = np.zeros((4_000, 1), np.float32)
    y = (np.arange(4_000) // 50 % 2).astype(float)
    models = {}
    for name in ("traced", "blind"):
        models[name] = model = build({"family": "mix", "task": "binary", "dense": 1, "members": [LINEAR, LAST]})
        waiting = []
        for i in range(len(y)):
            row = batch(x[i : i + 1])
            waiting.append((row, y[i : i + 1], model.predict_traced(row)[1] if name == "traced" else None))
            if len(waiting) > 50:
                held, label, trace = waiting.pop(0)
                model.learn(held, label, np.ones(1, np.float32), trace)
    assert models["traced"].arrays["members/1/followed"][0].argmax() == 1  # after a 0 that was known, a 1 came
    assert models["blind"].arrays["members/1/followed"][0].argmax() == 0


def test_a_mix_is_no_worse_than_its_best_member_on_runs_of_labels() -> None:
    rng, n = np.random.default_rng(0), 6_000
    y = (np.cumsum(rng.random(n) < 0.1) % 2).astype(float)
    x = np.where(rng.random(n) < 0.75, y, 1 - y)[:, None].astype(np.float32)
    losses = {}
    for family in ("linear", "last", "mix"):
        model = build({"family": family, "task": "binary", "dense": 1})
        scores = model.learn(batch(x), y, np.ones(n, np.float32)).astype(float)
        losses[family] = -np.log(np.clip(scores[np.arange(n), y.astype(int)], 1e-9, 1)).mean()
    assert losses["mix"] < min(losses["linear"], losses["last"]) - 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": []}, r"members: got 0; expected 1 to 16 specs of models"),
        ({"members": [LAST] * 17}, r"members: got 17"),
        ({"members": [{"family": "mix"}]}, r"members\[0\]: got family 'mix'; expected a family that learns from rows"),
        ({"members": [{"family": "preference"}]}, r"members\[0\]: got family 'preference'"),
        ({"members": [{**LINEAR, "dense": 9}]}, r"members\[0\].dense: got 9; expected 3, that of the mix"),
        ({"members": [{"family": "linaer"}]}, r"unknown family 'linaer'"),
        ({"member": [LAST]}, r"member: unknown setting"),
        ({"classes": 1}, r"at least 2 classes"),
        (
            {
                "task": "regression",
                "classes": 0,
                "members": [{**LINEAR, "loss": "absolute"}, {**LINEAR, "loss": "squared"}],
            },
            r"members trained for different losses: absolute 0, squared 0; expected one loss for all",
        ),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"family": "mix", "task": "binary", "dense": 3, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": -1.0}, r"patience: got -1.0; expected a finite number of rows from 0"),
        ({"patience": 25.0, "task": "regression"}, r"patience: got 25.0; expected .* and 0 for numbers"),
    ],
)
def test_a_wrong_patience_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"family": "mix", "task": "binary", "dense": 3, **changes})


def test_a_mix_that_an_earlier_version_stored_takes_late_labels_as_it_did() -> None:
    new = build({"family": "mix", "task": "binary", "dense": 1})
    assert new.spec["patience"] == 25.0
    assert build(new.spec).spec == new.spec
    stored = {name: value for name, value in new.spec.items() if name != "patience"}
    assert build(stored).spec == {**new.spec, "patience": 0.0}
    assert build({"family": "mix", "task": "regression", "dense": 1}).spec["patience"] == 0.0


def test_a_label_that_is_no_class_is_refused_before_any_member_learns() -> None:
    model = build({"family": "mix", "task": "binary", "dense": 1})
    before = copied(model.arrays)
    with pytest.raises(InputError, match=r"row 1 of the batch: got label 2.0; expected a class"):
        model.learn(batch(np.zeros((2, 1))), np.array([0.0, 2.0]), np.ones(2, np.float32))
    assert all(np.array_equal(array, before[name]) for name, array in model.arrays.items())


def test_a_mix_under_late_labels_keeps_to_its_best_member() -> None:
    """Concepts last 3,000 rows, labels are 300 late: within .01 of the linear model's accuracy, and calibrated."""
    rng, n = np.random.default_rng(3), 12_000
    x = rng.normal(size=(n, 4)).astype(np.float32)
    turn = np.where(np.arange(n) // 3_000 % 2 == 0, 1.0, -1.0)
    y = ((x[:, 0] * turn + x[:, 1] + 0.5 * rng.normal(size=n)) > 0).astype(float)
    examples = Examples(batch(x), y, np.ones(n, np.float32), np.arange(1, n + 1))
    found = {}
    for family in ("linear", "mix"):
        model = build({"family": family, "task": "binary", "dense": 4})
        found[family] = prequential(model, examples, delay=300).metrics
    assert found["mix"]["accuracy"] > found["linear"]["accuracy"] - 0.01
    assert found["mix"]["log_loss"] < found["linear"]["log_loss"]


def batch(dense: np.ndarray) -> Batch:
    n = len(dense)
    return Batch(dense.astype(np.float32), np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
