"""The label functions beside River's on the same features, and Agrawal's as MOA and the paper have them."""

from __future__ import annotations

import numpy as np
import pytest
from river.datasets import synth

from everlearn.stream.generated import functions, generate

PEOPLE = ["salary", "commission", "age", "elevel", "car", "zipcode", "hvalue", "hyears", "loan"]


def people(rows: int = 4000) -> np.ndarray:
    columns = generate("agrawal", rows=rows, seed=3).generator.columns()
    return np.stack([columns[name] for name in PEOPLE], axis=1).astype(np.float64)


def ours(kind: int, x: np.ndarray, concept: float) -> np.ndarray:
    return functions.labels(kind, x, np.full((len(x), 1), concept))


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5, 6, 7, 8, 9])
def test_agrawal_is_rivers_with_group_a_as_class_0(number: int) -> None:
    x = people()
    theirs = getattr(synth.Agrawal(), f"_classification_function_{number}")
    expected = np.array([theirs(*row) for row in x.tolist()])
    expected = 1 - expected if number < 6 else expected
    assert 0.001 < expected.mean() < 0.999
    assert (ours(functions.AGRAWAL, x, number) == expected).all()


def test_agrawals_function_4_is_that_of_the_paper() -> None:
    x = people()
    low = {"young": (50_000, 100_000), "middle": (75_000, 125_000), "old": (25_000, 75_000)}
    loans = {"young": (100_000, 200_000), "middle": (200_000, 300_000), "old": (300_000, 100_000)}
    expected = []
    for salary, _, age, *_, loan in x.tolist():
        group = "young" if age < 40 else "middle" if age < 60 else "old"
        least = loans[group][0 if low[group][0] <= salary <= low[group][1] else 1]
        expected.append(int(not least <= loan <= least + 200_000))
    assert (ours(functions.AGRAWAL, x, 4) == expected).all()


@pytest.mark.parametrize("number", range(4))
def test_sine_is_rivers(number: int) -> None:
    x = np.random.default_rng(0).random((3000, 2))
    words = ("zero", "one", "two", "three")
    theirs = getattr(synth.Sine, f"_classification_function_{words[number]}")
    assert (ours(functions.SINE, x, number) == [theirs(*row) for row in x.tolist()]).all()


@pytest.mark.parametrize("number", range(2))
def test_mixed_is_rivers(number: int) -> None:
    random = np.random.default_rng(1)
    x = np.column_stack([random.integers(0, 2, (3000, 2)), random.random((3000, 2))]).astype(float)
    theirs = getattr(synth.Mixed, f"_classification_function_{('zero', 'one')[number]}")
    assert (ours(functions.MIXED, x, number) == [theirs(bool(v), bool(w), a, b) for v, w, a, b in x.tolist()]).all()


@pytest.mark.parametrize("number", range(4))
def test_sea_has_rivers_thresholds(number: int) -> None:
    assert functions.THRESHOLDS[number] == synth.SEA(variant=number)._threshold
    x, labels = zip(*synth.SEA(variant=number, seed=0).take(2000), strict=True)
    rows = np.array([list(row.values()) for row in x])
    assert (ours(functions.SEA, rows, functions.THRESHOLDS[number]) == np.array(labels)).all()


def test_a_hyperplane_labels_as_river_does() -> None:
    theirs = synth.Hyperplane(seed=5, n_features=4, noise_percentage=0.0)
    x, labels = zip(*theirs.take(1000), strict=True)
    rows = np.array([list(row.values()) for row in x])
    weights = np.tile(theirs._weights, (1000, 1))
    assert (functions.labels(functions.HYPERPLANE, rows, weights) == labels).all()


def test_the_weights_of_a_hyperplane_walk_and_turn() -> None:
    offset, way, moved = np.zeros(2), np.ones(2), np.empty((20_000, 2))
    functions.walk(7, 0, 0.5, 0.25, offset, way, moved)
    steps = np.diff(moved, axis=0)
    assert set(np.unique(steps)) == {-0.5, 0.5}
    assert (np.diff(steps, axis=0) != 0).mean() == pytest.approx(0.25, abs=0.01)
