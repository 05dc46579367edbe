"""The row loops of numbers: drift, weights, units, missing values, hashed entries, and equal bytes however cut."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everlearn.errors import InputError
from everlearn.families.mondrian import layout
from everlearn.model import LEARN, answering, copied
from tests.support.mondrian import check_nodes, number_forest, taught, waves
from tests.support.trees import batch_of


def test_a_tree_of_numbers_begins_again_after_a_drift() -> None:
    x, y = waves(6000, seed=1)
    y[3000:] = 220.0 - y[3000:]
    still, follows = number_forest(3, drift=False), number_forest(3)
    late = [np.abs(taught(model, x, y)[:, 0] - y)[3300:].mean() for model in (still, follows)]
    assert late[1] < 0.7 * late[0]
    assert follows.arrays["trees"][:, layout.RESETS].min() >= 1
    assert not still.arrays["trees"][:, layout.RESETS].any()


@pytest.mark.parametrize("cut", [1, 7, 64, 65, 1000])
def test_rows_of_numbers_may_be_cut_anywhere(cut: int) -> None:
    x, y = waves(1000, seed=2)
    x[::9, 1] = np.nan
    whole, parts = number_forest(3, nodes=200), number_forest(3, nodes=200)
    expected = taught(whole, x, y)
    got = [taught(parts, x[start : start + cut], y[start : start + cut]) for start in range(0, 1000, cut)]
    assert np.concatenate(got).tobytes() == expected.tobytes()
    for name, array in whole.arrays.items():
        assert array.tobytes() == parts.arrays[name].tobytes()


def test_members_of_numbers_are_independent() -> None:
    x, y = waves(1500, seed=3)
    three, two = number_forest(3, trees=3, nodes=400), number_forest(3, trees=2, nodes=400)
    taught(three, x, y)
    taught(two, x, y)
    for name in ("nodes", "beliefs", "counts", "trees", "learn/boxes", "learn/windows"):
        assert three.arrays[name][:2].tobytes() == two.arrays[name].tobytes()
    assert three.arrays["nodes"][0].tobytes() != three.arrays["nodes"][1].tobytes()


def test_a_model_of_numbers_resumes_exactly_and_serves_without_what_learning_needs() -> None:
    x, y = waves(3000, seed=4)
    x[::7, 2] = np.nan
    y[1500:] = 220.0 - y[1500:]
    model, twin = number_forest(3, nodes=300), number_forest(3, nodes=300)
    taught(model, x[:2000], y[:2000])
    twin.arrays = copied(model.arrays)
    served = number_forest(3, nodes=300)
    served.arrays = copied(answering(model.arrays))
    assert not any(name.startswith(LEARN) for name in answering(model.arrays))
    assert served.predict(batch_of(x)).tobytes() == model.predict(batch_of(x)).tobytes()
    assert taught(model, x[2000:], y[2000:]).tobytes() == taught(twin, x[2000:], y[2000:]).tobytes()
    assert {name: array.tobytes() for name, array in model.arrays.items()} == {
        name: array.tobytes() for name, array in twin.arrays.items()
    }


def test_each_prediction_is_that_of_predict_before_the_row() -> None:
    x, y = waves(150, seed=5)
    x[::5, 0] = np.nan
    model = number_forest(3, trees=3)
    for i in range(len(x)):
        before = model.predict(batch_of(x[i : i + 1]))
        assert taught(model, x[i : i + 1], y[i : i + 1]).tobytes() == before.tobytes()


@pytest.mark.parametrize("loss", ["squared", "absolute", "quantile"])
def test_the_size_of_numbers_does_not_matter(loss: str) -> None:
    x, y = waves(2000, seed=6)
    y = np.round(y * 1024) / 1024
    plain = taught(number_forest(3, loss=loss), x, y)
    assert taught(number_forest(3, loss=loss), x, y * 2.0**60).tobytes() == (plain * np.float32(2.0**60)).tobytes()


def test_units_of_columns_do_not_matter() -> None:
    x, y = waves(2000, seed=6)
    scaled = x * np.array([1024.0, 1.0, 2.0**-10], np.float32)
    assert taught(number_forest(3), scaled, y).tobytes() == taught(number_forest(3), x, y).tobytes()


@pytest.mark.parametrize("wrong", [{"weight": 0.0}, {"weight": math.inf}, {"y": math.inf}, {"y": math.nan}])
def test_rows_without_weight_or_number_are_only_predicted(wrong: dict[str, float]) -> None:
    x, y = waves(200)
    model = number_forest(3)
    taught(model, x, y)
    before = {name: array.tobytes() for name, array in model.arrays.items()}
    weight, labels = np.full(200, wrong.get("weight", 1.0), np.float32), y * 0.0 + wrong.get("y", 1.0)
    assert np.isfinite(model.learn(batch_of(x), labels, weight)).all()
    assert before == {name: array.tobytes() for name, array in model.arrays.items()}


def test_a_value_of_numbers_that_is_not_finite_is_missing() -> None:
    x, y = waves(500, seed=7)
    x[::5, 0] = np.nan
    infinite = np.where(np.isnan(x), np.inf, x)
    assert taught(number_forest(3), x, y).tobytes() == taught(number_forest(3), infinite, y).tobytes()


def test_hashed_entries_and_wide_rows_have_means() -> None:
    random = np.random.default_rng(0)
    words = random.integers(0, 8, 3000)
    found = taught(number_forest(0, hashed=1024), np.zeros((3000, 0)), words % 2, [[int(word)] for word in words])
    assert np.abs(found[:, 0] - words % 2)[2000:].mean() < 0.1
    x = random.random((2000, 60)).astype(np.float32)
    x[:, 1:] = np.round(x[:, 1:])
    model = number_forest(60)
    y = np.where(x[:, 0] > 0.5, 3.0, -3.0)
    assert np.abs(taught(model, x, y)[:, 0] - y)[1500:].mean() < 2.5
    assert model.arrays["counts"].shape[2] == 1


def test_large_and_far_numbers_stay_finite() -> None:
    x, y = waves(1500)
    x[7], x[11] = 3e38, -3e38
    y[5], y[9] = 1e300, -1e300
    model = number_forest(3, nodes=100)
    weight = np.full(1500, 1e6, np.float32)
    assert np.isfinite(model.learn(batch_of(x), y, weight)).all()
    assert np.isfinite(model.predict(batch_of(x))).all()
    assert all(np.isfinite(model.arrays[name]).all() for name in ("beliefs", "target"))


@pytest.mark.parametrize("nodes", [8, 60, 100_000])
def test_a_pool_of_numbers_keeps_its_order_through_drift(nodes: int) -> None:
    x, y = waves(4000, seed=5)
    y = y * np.where(np.arange(4000) // 1000 % 2 == 0, 1.0, -1.0)
    model = number_forest(3, trees=3, nodes=nodes, memory=1 << 28)
    for start in range(0, len(y), 500):
        taught(model, x[start : start + 500], y[start : start + 500])
        check_nodes(model)
    assert (model.arrays["trees"][:, layout.USED_PAIRS] == nodes // 2).all() == (nodes < 100)


def test_memory_of_numbers_is_within_the_budget() -> None:
    for budget in (1 << 20, 1 << 23):
        model = number_forest(6, hashed=64, memory=budget, nodes=1_000_000)
        left_out = ("learn/moments", "learn/clock", "target", "centres")
        pool = sum(array.nbytes for name, array in model.arrays.items() if name not in left_out)
        assert 0.7 * budget < pool <= budget


def test_a_wrong_index_is_refused_with_nothing_learned() -> None:
    x, y = waves(10)
    model = number_forest(3, hashed=16)
    with pytest.raises(InputError, match="row 1 of the batch has a hashed index outside the hash space"):
        taught(model, x, y, [[1], [16], *([] for _ in range(8))])
    assert model.arrays["learn/clock"][0] == 0
