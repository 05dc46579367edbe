"""The row loops: drift, weights, units, missing values, hashed entries, and equal bytes however rows are cut."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import InputError
from everlearn.families.mondrian import layout
from everlearn.model import LEARN, answering, copied
from tests.support.mondrian import check_nodes, forest_of, taught
from tests.support.trees import batch_of, boxes


def test_a_tree_begins_again_after_a_drift() -> None:
    x, y = boxes(6000, seed=1)
    y[3000:] = 1 - y[3000:]
    still, follows = forest_of(4, drift=False), forest_of(4)
    late = [(taught(model, x, y).argmax(1) == y)[3300:].mean() for model in (still, follows)]
    assert late[1] > 0.85
    assert late[1] > late[0] + 0.1
    assert follows.arrays["trees"][:, layout.RESETS].min() >= 1
    assert not still.arrays["trees"][:, layout.RESETS].any()


@pytest.mark.parametrize("cut", [1, 7, 64, 65, 1000])
def test_rows_may_be_cut_anywhere(cut: int) -> None:
    x, y = boxes(1000, classes=3, seed=2)
    x[::9, 1] = np.nan
    whole, parts = forest_of(4, 3, nodes=200), forest_of(4, 3, nodes=200)
    expected = taught(whole, x, y)
    got = [taught(parts, x[start : start + cut], y[start : start + cut]) for start in range(0, 1000, cut)]
    assert np.concatenate(got).tobytes() == expected.tobytes()
    for name, array in whole.arrays.items():
        assert array.tobytes() == parts.arrays[name].tobytes()


def test_members_are_independent() -> None:
    """A member of a forest of three is that of a forest of two: members may be learned side by side."""
    x, y = boxes(1500, seed=3)
    three, two = forest_of(4, trees=3, nodes=400), forest_of(4, trees=2, nodes=400)
    taught(three, x, y)
    taught(two, x, y)
    for name in ("nodes", "beliefs", "counts", "trees", "learn/boxes", "learn/windows"):
        assert three.arrays[name][:2].tobytes() == two.arrays[name].tobytes()
    assert three.arrays["nodes"][0].tobytes() != three.arrays["nodes"][1].tobytes()


def test_a_model_resumes_exactly() -> None:
    x, y = boxes(3000, seed=4)
    y[1500:] = 1 - y[1500:]
    model, twin = forest_of(4, nodes=300), forest_of(4, nodes=300)
    taught(model, x[:2000], y[:2000])
    twin.arrays = copied(model.arrays)
    assert taught(model, x[2000:], y[2000:]).tobytes() == taught(twin, x[2000:], y[2000:]).tobytes()


def test_serving_needs_no_boxes() -> None:
    x, y = boxes(500, columns=20, seed=5)
    model, server = forest_of(20), forest_of(20)
    taught(model, x, y)
    server.arrays = answering(copied(model.arrays))
    assert server.predict(batch_of(x)).tobytes() == model.predict(batch_of(x)).tobytes()
    learning = sum(array.nbytes for name, array in model.arrays.items() if name.startswith(LEARN))
    assert learning > 0.6 * sum(array.nbytes for array in model.arrays.values())


def test_a_row_of_no_weight_settles_nothing() -> None:
    x, y = boxes(300, seed=5)
    model = forest_of(4)
    before = {name: array.tobytes() for name, array in model.arrays.items()}
    for weight in (0.0, -1.0, np.inf, np.nan):
        model.learn(batch_of(x), y, np.full(300, weight, np.float32))
    model.learn(batch_of(x), np.full(300, np.nan), np.ones(300, np.float32))
    assert before == {name: array.tobytes() for name, array in model.arrays.items()}


def test_units_do_not_matter() -> None:
    x, y = boxes(2000, seed=6)
    x = np.round(x * 1024) / 1024
    scaled = x * np.array([1024.0, 1.0, 2.0**-10, 4.0], np.float32)
    assert taught(forest_of(4), scaled, y).tobytes() == taught(forest_of(4), x, y).tobytes()


def test_a_missing_value_extends_nothing_and_goes_where_more_rows_went() -> None:
    random = np.random.default_rng(0)
    x = random.random((2000, 1)).astype(np.float32)
    model = forest_of(1, drift=False)
    taught(model, x, x[:, 0] > 0.2)
    draws = model.arrays["trees"][:, layout.DRAWS].copy()
    unknown = np.full((3, 1), np.nan)
    assert (model.predict(batch_of(unknown)).argmax(1) == 1).all()
    taught(model, unknown, np.zeros(3))
    assert (model.arrays["trees"][:, layout.DRAWS] == draws).all()
    check_nodes(model)


def test_a_value_that_is_not_finite_is_missing() -> None:
    x, y = boxes(500, seed=7)
    x[::5, 0] = np.nan
    infinite = np.where(np.isnan(x), np.inf, x)
    assert taught(forest_of(4), x, y).tobytes() == taught(forest_of(4), infinite, y).tobytes()


def test_hashed_entries_split() -> None:
    random = np.random.default_rng(0)
    words = random.integers(0, 8, 3000)
    entries = [[int(word), 100 + int(other)] for word, other in zip(words, random.integers(0, 4, 3000), strict=True)]
    model = forest_of(0, hashed=1024)
    scores = taught(model, np.zeros((3000, 0)), words % 2, entries)
    assert (scores.argmax(1) == words % 2)[2000:].mean() > 0.98


def test_wrong_rows_are_refused_with_their_place() -> None:
    x, y = boxes(10)
    model = forest_of(4, hashed=16)
    with pytest.raises(InputError, match=r"row 3 of the batch: got label 2\.0; expected a class"):
        taught(model, x, np.where(np.arange(10) == 3, 2.0, y))
    with pytest.raises(InputError, match="row 1 of the batch has a hashed index outside the hash space"):
        taught(model, x, y, [[1], [16], *([] for _ in range(8))])
    with pytest.raises(InputError, match="dense features: got shape"):
        model.predict(batch_of(x[:, :3]))
    assert model.arrays["learn/clock"][0] == 0
