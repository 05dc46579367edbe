"""Class weights change what models learn, alike on every path, and nothing that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from everlearn import model
from everlearn.errors import ConfigError
from everlearn.learn.class_weights import MOST, ClassWeights
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild import rebuild
from everlearn.records import Examples
from everlearn.spec import DriftSpec, FeedbackSpec, GateSpec, Schema, Spec
from everlearn.stream import read
from tests.support.loops import FIELDS, bytes_of, record, spec, table

ROWS = 240


def settings(**changes: Any) -> Spec:
    plain: dict[str, Any] = {"mode": "live", "gate": GateSpec(minimum=1_000_000), "drift": DriftSpec(detector="none")}
    return spec(**(plain | {"checkpoint": 100_000} | changes))


def labels(rows: int = 3000) -> tuple[Any, Any]:
    draw = np.random.default_rng(0)
    return draw.choice([0.0, 1.0], rows, p=[0.9, 0.1]), np.ones(rows, np.float32)


def test_balanced_weights_approach_those_of_scikit_learn() -> None:
    weights, (y, weight) = ClassWeights(settings(class_weight="balanced")), labels()
    assert weights.weigh(y[:1], weight[:1]).tolist() == [1.0]  # nothing is known yet
    weights.weigh(y[1:], weight[1:])
    expected = compute_class_weight("balanced", classes=np.array([0.0, 1.0]), y=y)
    assert weights.now(np.array([0.0, 1.0]), np.ones(2, np.float32)) == pytest.approx(expected, rel=0.01)


def test_balanced_weights_know_only_what_came_before() -> None:
    weights, (y, weight) = ClassWeights(settings(class_weight="balanced")), labels(300)
    seen, expected = np.zeros(2), []
    for label in y.astype(int):
        expected.append((seen.sum() + 2) / (2 * (seen[label] + 1)))
        seen[label] += 1
    assert weights.weigh(y, weight) == pytest.approx(np.array(expected), rel=1e-6)


def test_balanced_weights_are_bounded() -> None:
    weights = ClassWeights(settings(class_weight="balanced"))
    weights.weigh(np.zeros(100_000), np.ones(100_000, np.float32))
    assert weights.one(1.0, 1.0) == MOST


@pytest.mark.parametrize("given", ["balanced", {"1": 4.0}, {}])
def test_rows_one_by_one_have_the_same_factors(given: Any) -> None:
    together, apart = ClassWeights(settings(class_weight=given)), ClassWeights(settings(class_weight=given))
    y, weight = labels(500)
    found = together.take(y, weight)
    expected = [1.0] * 500 if found is None else found.tolist()
    assert [apart.one(float(label), 1.0) for label in y] == expected


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"class_weight": {"7": 2.0}}, r"class_weight: got the class '7'.*; expected one of 0, 1"),
        ({"class_weight": {"1": float("inf")}}, r"class_weight.1: got inf; expected a finite number above 0"),
        (
            {
                "class_weight": "balanced",
                "schema": Schema(label="y", task="regression", fields=FIELDS),
                "model": {"family": "linear"},
            },
            r"class_weight: got it for a regression; expected a task with classes",
        ),
    ],
)
def test_wrong_weights_are_refused(changes: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        Loop(settings(**changes), tmp_path)


def filled(home: Path, chosen: Spec, warm: int = 0) -> Loop:
    """Examples, late labels, corrections, and default labels."""
    columns, loop = table(ROWS), Loop(chosen, home, clock=lambda: now[0])
    now = [1e6]
    for row in range(ROWS):
        now[0] += 1.0
        features, label = record(columns, row), int(columns["label"][row])
        if row < warm or row % 3 == 0:
            loop.learn(features, label, id=f"e{row}")
            continue
        loop.predict(features, id=str(row))
        if row > warm + 20 and (row - 20) % 3:
            loop.feedback(str(row - 20), label=int(columns["label"][row - 20]))
    return loop


@pytest.mark.parametrize("given", ["balanced", {"1": 5.0}], ids=["balanced", "table"])
@pytest.mark.parametrize("warm", [0, 60])
def test_a_model_learns_what_it_learns_from_rows_of_these_weights(given: Any, warm: int, tmp_path: Path) -> None:
    """The same model, outside of any loop, fed with weights that were multiplied by hand."""
    columns, chosen = table(ROWS), settings(class_weight=given, warm_start=float(warm))
    with Loop(chosen, tmp_path) as loop:
        loop.run(read(columns, schema=chosen.schema))
        encoder, got = loop.fold.encoder, loop.fold.roster.champion.model
    alone = model.build({"seed": chosen.seed, **chosen.model}, encoder.shape)
    y, seen = columns["label"], np.zeros(2)
    factors = np.empty(ROWS, np.float32)
    for row, label in enumerate(y):
        factors[row] = (seen.sum() + 2) / (2 * (seen[label] + 1)) if given == "balanced" else (1.0, 5.0)[label]
        seen[label] += 1
    batch, _ = encoder.records([record(columns, row) for row in range(ROWS)])
    alone.learn(batch, y.astype(np.float64), factors)
    assert {name: array.tobytes() for name, array in got.arrays.items()} == {
        name: array.tobytes() for name, array in alone.arrays.items()
    }


@pytest.mark.parametrize("given", ["balanced", {"1": 5.0}], ids=["balanced", "table"])
@pytest.mark.parametrize("warm", [0, 30])
def test_a_rebuild_learns_with_the_same_factors(given: Any, warm: int, tmp_path: Path) -> None:
    feedback = FeedbackSpec(window=30.0, default=0)
    with filled(tmp_path, settings(class_weight=given, feedback=feedback, warm_start=float(warm)), warm) as loop:
        again = model.build({"seed": loop.spec.seed, **loop.spec.model}, loop.fold.shape)
        rebuild(again, loop.log, loop.fold.encoder, loop.spec, 0, loop.log.end(), lambda event: False)
        live = loop.fold.roster.champion.model
        assert {name: array.tobytes() for name, array in again.arrays.items()} == {
            name: array.tobytes() for name, array in live.arrays.items()
        }


def test_weights_travel_in_checkpoints(tmp_path: Path) -> None:
    chosen = settings(class_weight="balanced")
    with filled(tmp_path, chosen) as loop:
        before = bytes_of(loop)
        assert loop.fold.monitor.limiter.class_weights.arrays["counts"].sum() == loop.fold.monitor.scored
    with Loop(chosen, tmp_path) as loop:
        assert bytes_of(loop) == before
    with pytest.raises(ConfigError, match="class_weight was balanced, is now"):
        Loop(settings(), tmp_path)


def test_metrics_of_a_frozen_model_and_of_baselines_do_not_depend_on_class_weights(tmp_path: Path) -> None:
    columns, reports = table(600), []
    for place, given in enumerate(({}, {"1": 20.0}, "balanced")):
        chosen = settings(class_weight=given)
        with Loop(chosen, tmp_path / str(place)) as loop:
            reports.append(loop.run(read(columns, schema=chosen.schema))["metrics"])
    for role in ("last_label", "majority"):
        assert reports[0][role] == reports[1][role] == reports[2][role]
    assert reports[1]["champion"]["recall"] > reports[0]["champion"]["recall"]


def test_a_challenger_warmed_on_replay_learns_with_the_weights(tmp_path: Path) -> None:
    columns, chosen = table(300), settings(class_weight={"1": 7.0})
    with Loop(chosen, tmp_path) as loop:
        loop.run(read(columns, schema=chosen.schema))
        held: Examples = loop.fold.monitor.remembered()
        loop.challenge({"family": "linear"})
        warmed = loop.fold.roster.challengers[-1].model
        alone = model.build({"seed": chosen.seed, **warmed.spec}, loop.fold.shape)
        alone.learn(held.batch, held.y, np.where(held.y == 1, 7.0, 1.0).astype(np.float32) * held.weight)
        assert {name: array.tobytes() for name, array in warmed.arrays.items()} == {
            name: array.tobytes() for name, array in alone.arrays.items()
        }
