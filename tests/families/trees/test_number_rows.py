"""Trees and forests of numbers: against a plain reference and River's, units, quantiles, drift, and exact resume."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn.families.trees import Trees, build, layout
from everlearn.model import copied
from tests.support.number_reference import Array, NumberTree
from tests.support.trees import batch_of, check_pool, learned, splits_of

FAMILIES = pytest.mark.parametrize("family", ["tree", "forest"])
STATE = ("nodes", "counts", "blocks", "choices", "trees", "windows", "moments", "clock")


def numbers_of(columns: int, **settings: Any) -> Trees:
    return build({"family": "tree", "task": "regression", "dense": columns, **settings})


def steps(count: int, columns: int = 4, seed: int = 0) -> tuple[Array, Array]:
    """Return uniform rows and numbers that jump with two columns and rise with a third, with noise of .1."""
    random = np.random.default_rng(seed)
    x = random.random((count, columns)).astype(np.float32)
    y = 3.0 * (x[:, 0] > 0.35) - 2.0 * (x[:, 1] > 0.6) * (x[:, 0] > 0.35) + 2.0 * x[:, 2]
    return x, y + 0.1 * random.normal(size=count)


@pytest.mark.parametrize("kind", ["plain", "far", "small"])
def test_a_tree_is_that_of_the_reference(kind: str) -> None:
    """Predictions differ by what float32 sums round."""
    x, y = steps(1500, columns=3, seed=2)
    x = np.round(1024 * x) / 1024
    if kind == "far":
        x, y = x + 3000.0, 1e6 * y + 1e9
    elif kind == "small":
        x, y = x / 1024, 1e-9 * y
    ours, theirs = numbers_of(3, drift=False, rate=0.0, grace=20, delta=0.1), NumberTree(20.0, 0.1)
    expected = np.array([theirs.learn(row, float(number)) for row, number in zip(x.astype(float), y, strict=True)])
    got = learned(ours, x, y)[:, 0].astype(float)
    found = splits_of(ours)
    assert len(found) >= 4
    for (column, cut), (right_column, right_cut) in zip(sorted(found), sorted(theirs.splits), strict=True):
        assert column == right_column
        assert cut == pytest.approx(right_cut, rel=1e-6)
    np.testing.assert_allclose(got[1:] / y.std(), expected[1:] / y.std(), atol=1e-3 + 2e-7 * abs(y).max() / y.std())


def test_a_leaf_of_one_tree_is_a_linear_regression() -> None:
    """Columns of very different scale, and a line without a bend: near the noise of .1."""
    random = np.random.default_rng(1)
    x = random.normal(size=(4000, 3)) * [1e-6, 1.0, 1e6]
    y = x @ np.array([2e6, -1.0, 3e-6]) + 0.1 * random.normal(size=4000)
    got = learned(numbers_of(3, drift=False), x, y)[2000:, 0]
    assert np.sqrt(np.mean((got - y[2000:]) ** 2)) < 0.13


@FAMILIES
def test_errors_are_not_more_than_rivers(family: str) -> None:
    river_tree, river_forest = pytest.importorskip("river.tree"), pytest.importorskip("river.forest")
    x, y = steps(2500, seed=3)
    peer: Any = river_tree.HoeffdingTreeRegressor(grace_period=50)
    if family == "forest":
        peer = river_forest.ARFRegressor(n_models=5, seed=1)
    away = []
    for row, number in zip(x.tolist(), y.tolist(), strict=True):
        features = dict(enumerate(row))
        away.append(peer.predict_one(features) - number)
        peer.learn_one(features, number)
    members = {"trees": 5} if family == "forest" else {}
    got = learned(numbers_of(4, family=family, **members), x, y)[:, 0] - y
    assert np.sqrt(np.mean(got[100:] ** 2)) < np.sqrt(np.mean(np.square(away[100:])))


@pytest.mark.parametrize("loss", [{}, {"loss": "quantile", "loss_parameter": 0.9}], ids=["squared", "quantile"])
@FAMILIES
def test_rows_may_be_cut_anywhere_and_a_model_resumes(family: str, loss: dict[str, Any]) -> None:
    x, y = steps(2500, seed=4)
    y[1200:] = -3.0 * y[1200:]
    x[::9, 1] = np.nan
    spec = {"family": family, "memory": 1 << 19, "grace": 20, **loss}
    whole = numbers_of(4, **spec)
    expected = learned(whole, x, y)
    assert np.isfinite(expected).all()
    check_pool(whole)
    parts, resumed = [], numbers_of(4, **spec)
    for start in range(0, 2500, 137):
        fresh = numbers_of(4, **spec)
        fresh.arrays = copied(resumed.arrays)
        resumed = fresh
        rows, part = batch_of(x[start : start + 137]), y[start : start + 137]
        first = resumed.predict(rows)[0]
        parts.append(resumed.learn(rows, part, np.ones(len(part), np.float32)))
        assert parts[-1][0] == first
    assert np.concatenate(parts).tobytes() == expected.tobytes()
    for name in STATE:
        assert resumed.arrays[name].tobytes() == whole.arrays[name].tobytes()


@FAMILIES
def test_units_and_origin_of_the_numbers_do_not_matter(family: str) -> None:
    x, y = steps(1500, seed=5)
    y = np.round(y * 1024) / 1024
    near = learned(numbers_of(4, family=family), x, y)[:, 0].astype(float)
    scaled = learned(numbers_of(4, family=family), x, y * 2.0**60)[:, 0] / 2.0**60
    assert np.array_equal(scaled, near)
    moved = learned(numbers_of(4, family=family), x, y + 4096.0)[:, 0].astype(float) - 4096.0
    np.testing.assert_allclose(moved[1:], near[1:], atol=1e-3)


@pytest.mark.parametrize("value", [0.0, -7.5, 1e30, 1e300])
def test_a_constant_is_predicted_after_its_first_row(value: float) -> None:
    x = np.random.default_rng(0).random((200, 2))
    got = learned(numbers_of(2, family="forest", trees=2), x, np.full(200, value))
    assert (got[1:, 0] == np.float32(min(value, 3.4e38))).all()


def test_extreme_rows_leave_everything_finite() -> None:
    x, y = steps(800, seed=6)
    x[100], x[200], y[300], y[400] = 1e38, -np.inf, 1e300, -1e30
    model = numbers_of(4, family="forest", trees=3)
    assert np.isfinite(learned(model, x, y)).all()
    assert all(np.isfinite(model.arrays[name]).all() for name in ("counts", "blocks", "windows", "moments"))


@FAMILIES
def test_a_tree_is_replaced_after_a_drift(family: str) -> None:
    x, y = steps(6000, seed=7)
    y[3000:] = -y[3000:]
    still, follows = numbers_of(4, family=family, drift=False), numbers_of(4, family=family)
    late = [np.abs(learned(model, x, y)[4000:, 0] - y[4000:]).mean() for model in (still, follows)]
    assert late[1] < 0.75 * late[0]
    assert follows.arrays["trees"][:, layout.SWAPS].min() >= 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@FAMILIES
def test_a_quantile_has_its_share_of_the_numbers_below(family: str, share: float) -> None:
    random = np.random.default_rng(8)
    x = random.random((12_000, 3))
    y = 4.0 * x[:, 0] + (0.2 + x[:, 1]) * random.normal(size=len(x))
    loss = {"loss": "absolute"} if share == 0.5 else {"loss": "quantile", "loss_parameter": share}
    got = learned(numbers_of(3, family=family, **loss), x, y)[:, 0]
    assert (y < got)[3000:].mean() == pytest.approx(share, abs=0.04)
    assert np.corrcoef(got[3000:], x[3000:, 0])[0, 1] > 0.8


def test_memory_is_within_the_budget_and_full_pools_go_on() -> None:
    for budget in (1 << 18, 1 << 20):
        model = numbers_of(6, family="forest", trees=2, hashed=64, memory=budget)
        held = {name: array for name, array in model.arrays.items() if name not in ("moments", "clock")}
        assert 0.7 * budget < sum(array.nbytes for array in held.values()) <= budget
    x, y = steps(6000, seed=9)
    y += np.sin(40.0 * x[:, 3])
    small = numbers_of(4, drift=False, grace=10, memory=layout.needed(1, 0, 4, 0, 4, 4))
    got = learned(small, x, y)[:, 0]
    check_pool(small)
    assert (small.arrays["nodes"][0, :, layout.LEFT] == layout.INACTIVE).any()
    assert np.mean((got[3000:] - y[3000:]) ** 2) < 0.5 * y.var()


def test_a_hashed_entry_splits() -> None:
    random = np.random.default_rng(0)
    words = random.integers(0, 50, 3000)
    entries = [[int(word), 100 + int(word) % 3] for word in words]
    model = numbers_of(0, hashed=1024, drift=False)
    got = learned(model, np.zeros((3000, 0)), 10.0 * (words == 7), entries)[:, 0]
    assert -1 - 7 in [column for column, _ in splits_of(model)]
    assert np.abs(got - 10.0 * (words == 7))[2000:].max() < 1.0


def test_an_extreme_value_widens_no_cells() -> None:
    """A split near 0.5 is found although one value in a hundred is a million away."""
    random = np.random.default_rng(3)
    x = random.random((3000, 1))
    y = 5.0 * (x[:, 0] > 0.5) + random.normal(size=3000)
    x[50::100] = 1e6 * random.normal(size=(30, 1))
    cuts = [cut for column, cut in splits_of_all(x, y) if abs(cut) < 2.0]
    assert min(abs(cut - 0.5) for cut in cuts) < 0.06


def splits_of_all(x: Array, y: Array) -> list[tuple[int, float]]:
    model = numbers_of(x.shape[1], drift=False)
    learned(model, x, y)
    return splits_of(model)


def test_a_forest_beats_a_line_where_columns_interact() -> None:
    random = np.random.default_rng(0)
    x = random.random((3000, 2))
    y = random.random(3000) + 5.0 * np.sign((x[:, 0] - 0.5) * (x[:, 1] - 0.5))
    stream = el.read({"a": x[:, 0], "b": x[:, 1], "y": y}, label="y")
    found = {
        family: float(el.prequential(el.build({"family": family}), stream).metrics["mae"])
        for family in ("linear", "forest")
    }
    assert found["forest"] < 0.5 * found["linear"]
