"""The row loops: drift, weights, far columns, and the same bytes however rows are cut."""

from __future__ import annotations

import numpy as np
import pytest

import everlearn as el
from everlearn.errors import InputError
from everlearn.families.trees import layout
from everlearn.model import copied
from everlearn.records import Batch
from tests.support.trees import batch_of, boxes, learned, tree_of

FAMILIES = pytest.mark.parametrize("family", ["tree", "forest"])


@FAMILIES
def test_a_tree_is_replaced_after_a_drift(family: str) -> None:
    x, y = boxes(6000, seed=1)
    y[3000:] = 1 - y[3000:]
    still, follows = tree_of(4, family=family, drift=False), tree_of(4, family=family)
    late = [(learned(model, x, y).argmax(1) == y)[3300:].mean() for model in (still, follows)]
    assert late[1] > 0.84
    assert late[1] > late[0]
    assert follows.arrays["trees"][:, layout.SWAPS].min() >= 1


@FAMILIES
@pytest.mark.parametrize("cut", [1, 7, 64, 65, 1000])
def test_rows_may_be_cut_anywhere(family: str, cut: int) -> None:
    x, y = boxes(1000, classes=3, seed=2)
    x[::9, 1] = np.nan
    whole, parts = tree_of(4, 3, family=family, memory=1 << 18), tree_of(4, 3, family=family, memory=1 << 18)
    expected = learned(whole, x, y)
    got = [learned(parts, x[start : start + cut], y[start : start + cut]) for start in range(0, 1000, cut)]
    assert np.concatenate(got).tobytes() == expected.tobytes()
    for name, array in whole.arrays.items():
        assert array.tobytes() == parts.arrays[name].tobytes()


@FAMILIES
@pytest.mark.parametrize("cut", [1, 100])
def test_rows_may_be_cut_anywhere_while_trees_are_replaced(family: str, cut: int) -> None:
    """A background tree begins after a warning, also at the last row of a call."""
    x, y = boxes(4000, seed=1)
    y[2000:] = 1 - y[2000:]
    whole, parts = tree_of(4, family=family), tree_of(4, family=family)
    expected = learned(whole, x, y)
    got = [learned(parts, x[start : start + cut], y[start : start + cut]) for start in range(0, 4000, cut)]
    assert whole.arrays["trees"][:, layout.SWAPS].max() >= 1
    assert np.concatenate(got).tobytes() == expected.tobytes()
    for name, array in whole.arrays.items():
        assert array.tobytes() == parts.arrays[name].tobytes()


def test_a_column_that_became_constant_never_makes_an_answer_that_is_no_number() -> None:
    """The variance that leaves hand on falls at each split, and its inverse would leave the range of float32."""
    draw = np.random.default_rng(0)
    x = draw.random((8000, 3))
    x[50:, 1] = 0.25
    y = np.floor(8 * x[:, 0]) % 2
    model = tree_of(3, drift=False)
    learned(model, x[:4000], y[:4000])
    blocks = model.arrays["blocks"]
    at = layout.HEAD + layout.PARTS * 2 * 3 + 2 * 3 + 2 * 2 + 1  # of column 1, see `scores.scales_at`
    held = blocks[0, :, at] > 0.0
    assert held.sum() > 10
    blocks[0, held, at] = 1e-42  # as after some twenty splits
    assert np.isfinite(learned(model, x[4000:], y[4000:])).all()
    assert np.isfinite(blocks).all()


def test_members_are_independent() -> None:
    """A member of a forest of three is that of a forest of two: members may be learned side by side."""
    x, y = boxes(1500, seed=3)
    three = tree_of(4, family="forest", trees=3, memory=3 << 18)
    two = tree_of(4, family="forest", trees=2, memory=2 << 18)
    learned(three, x, y)
    learned(two, x, y)
    for name in ("nodes", "counts", "blocks", "choices", "trees", "windows"):
        assert three.arrays[name][:2].tobytes() == two.arrays[name].tobytes()


@FAMILIES
def test_a_model_resumes_exactly(family: str) -> None:
    x, y = boxes(3000, seed=4)
    y[1500:] = 1 - y[1500:]
    model = tree_of(4, family=family, memory=1 << 18)
    learned(model, x[:2000], y[:2000])
    twin = tree_of(4, family=family, memory=1 << 18)
    twin.arrays = copied(model.arrays)
    assert learned(model, x[2000:], y[2000:]).tobytes() == learned(twin, x[2000:], y[2000:]).tobytes()


def test_a_weight_counts_as_so_many_rows() -> None:
    x, y = boxes(300, seed=5)
    once, thrice = tree_of(4, rate=0.0, drift=False), tree_of(4, rate=0.0, drift=False)
    learned(once, x, y)
    thrice.learn(batch_of(x), y, np.full(300, 3.0, np.float32))
    roots = [model.arrays["counts"][0, 0].sum() for model in (once, thrice)]
    assert roots[0] < 300 + 1e-3
    assert abs(thrice.arrays["trees"][0, layout.SERIAL]) >= once.arrays["trees"][0, layout.SERIAL]
    ignored = tree_of(4)
    ignored.learn(batch_of(x), y, np.zeros(300, np.float32))
    assert ignored.arrays["clock"][0] == 0


def test_columns_far_from_zero_lose_nothing() -> None:
    x, y = boxes(3000, seed=6)
    near, far = tree_of(4), tree_of(4)
    x = np.round(x * 1024) / 1024
    expected = learned(near, x - x[0], y)
    assert abs(learned(far, x - x[0] + 8192.0, y) - expected).max() < 1e-6


def test_a_value_that_is_not_finite_is_missing() -> None:
    x, y = boxes(500, seed=7)
    x[::5, 0] = np.nan
    infinite = np.where(np.isnan(x), np.inf, x)
    assert learned(tree_of(4), x, y).tobytes() == learned(tree_of(4), infinite, y).tobytes()


def test_wrong_rows_are_refused_with_their_place() -> None:
    x, y = boxes(10)
    model = tree_of(4, hashed=16)
    with pytest.raises(InputError, match=r"row 3 of the batch: got label 2\.0; expected a class"):
        learned(model, x, np.where(np.arange(10) == 3, 2.0, y))
    with pytest.raises(InputError, match="row 1 of the batch has a hashed index outside the hash space"):
        learned(model, x, y, [[1], [16], *([] for _ in range(8))])
    with pytest.raises(InputError, match="dense features: got shape"):
        model.predict(batch_of(x[:, :3]))
    with pytest.raises(InputError, match="indptr is wrong at row 0"):
        model.predict(Batch(x[:1], np.array([0, 5]), np.zeros(1, np.int32), np.zeros(1, np.float32)))
    with pytest.raises(InputError, match="y and weight: got shapes"):
        model.learn(batch_of(x), y[:5], np.ones(10, np.float32))
    assert model.arrays["clock"][0] == 0


def test_a_row_that_points_far_beyond_the_entries_is_refused() -> None:
    """The end of the last row fits, so the search for indices would read on beyond the array."""
    model = el.build({"family": "forest", "task": "binary", "dense": 1, "hashed": 8})
    rows = Batch(np.zeros((2, 1), np.float32), np.array([0, 10**9, 2]), np.zeros(2, np.int32), np.ones(2, np.float32))
    with pytest.raises(InputError, match="indptr is wrong at row 0"):
        model.predict(rows)
