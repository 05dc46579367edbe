"""Contents of a network's snapshot: what is merged, averaged, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn import model
from everlearn.errors import ModelError
from everlearn.merge import METHODS, merge
from everlearn.merge.contents import pooled
from everlearn.records import Arrays, Floats


def network(seed: int, rows: int = 100) -> Arrays:
    draw = np.random.default_rng(seed)

    def numbers(*shape: int) -> Any:
        return draw.normal(size=shape).astype(np.float32)

    return {
        "weights/fc.weight": numbers(4, 3),
        "weights/bn.running_mean": numbers(4),
        "weights/bn.running_var": np.square(numbers(4)) * 0.01,
        "weights/bn.num_batches_tracked": np.array(seed, np.int64),
        "learn/raw/fc.weight": numbers(4, 3),
        "learn/raw/bn.running_var": np.square(numbers(4)) * 0.01,
        "learn/optimizer/fc.weight/exp_avg": numbers(4, 3),
        "learn/terms/0-replay/x": numbers(2),
        "learn/terms/1-ewc/fisher/fc.weight": np.square(numbers(4, 3)),
        "learn/terms/1-ewc/anchor/fc.weight": numbers(4, 3),
        "learn/counts": np.array([rows, rows // 10]),
        "inputs/moments": np.stack(
            [np.full(3, float(rows)), 0.1 * numbers(3), rows * np.square(1.0 + 0.1 * numbers(3))]
        ).astype(float),
        "classes": np.array([rows, 0, 0]) if seed % 2 else np.array([1, rows, 0]),
        "head/means": np.eye(3, 5, dtype=np.float32) * np.array([[1], [seed % 2 == 0], [0]], np.float32),
        "head/held": np.array([3, 3 * (seed % 2 == 0), 0]),
    }


SPEC = {"family": "neural"}


@pytest.mark.parametrize("method", METHODS)
def test_of_a_network_what_serves_and_what_is_trained_is_merged(method: str):
    first, second, before = network(1), network(2, 300), network(3)
    options = {"ancestor": before} if METHODS[method].ancestor else {}
    found = merge(method, [first, second], [0.25, 0.75], spec=SPEC, **options)
    assert model.compare(first, found) == []
    how = {name: array for name, array in found.items() if name.endswith("fc.weight") and "terms" not in name}
    for name in ("weights/fc.weight", "learn/raw/fc.weight"):
        assert (how[name] != first[name]).any()
    for name in found:
        if name.startswith("learn/") and not name.startswith("learn/raw/"):
            np.testing.assert_array_equal(found[name], first[name])
    for name in ("weights/bn.running_mean", "weights/bn.running_var", "learn/raw/bn.running_var"):
        np.testing.assert_allclose(found[name], 0.25 * first[name] + 0.75 * second[name], rtol=1e-5)
    assert found["weights/bn.num_batches_tracked"] == 1
    assert found["classes"].tolist() == [100, 300, 0]
    np.testing.assert_allclose(found["head/means"], np.eye(3, 5) * [[1], [1], [0]])
    assert found["head/held"].tolist() == [3, 3, 0]
    pool = pooled([first["inputs/moments"], second["inputs/moments"]], np.array([0.25, 0.75]))
    np.testing.assert_allclose(found["inputs/moments"], pool)


@pytest.mark.parametrize("method", METHODS)
def test_shares_of_classes_stay_shares(method: str):
    """A share that both have lost since the ancestor would be below 0 by task arithmetic, and its logarithm NaN."""
    priors = ([0.1, 0.6, 0.3], [0.0, 0.5, 0.5], [0.8, 0.1, 0.1])
    first, second, before = (network(seed) | {"prior": np.array(prior)} for seed, prior in enumerate(priors, 1))
    options = {"ancestor": before, "scale": 2.0} if METHODS[method].ancestor else {}
    weights = [2.0, -1.0] if METHODS[method].signed else [3.0, 1.0]
    found = merge(method, [first, second], weights, spec=SPEC, **options)["prior"]
    np.testing.assert_allclose(found, [0.05, 0.55, 0.4] if METHODS[method].signed else [0.075, 0.575, 0.35])
    none = [each | {"prior": np.zeros(0)} for each in (first, second)]
    ancestor = {"ancestor": before | {"prior": np.zeros(0)}} if options else {}
    assert merge(method, none, weights, spec=SPEC, **ancestor)["prior"].shape == (0,)


def test_numbers_that_would_not_be_finite_are_refused():
    first, before = {"w": np.full(3, 3e38, np.float32)}, {"w": np.zeros(3, np.float32)}
    with pytest.raises(ModelError, match=r"task with the weights \(1.0, 1.0\) gives numbers .* not finite in w"):
        merge("task", [first, {"w": first["w"] / 2}], [1.0, 1.0], ancestor=before)
    broken, second = network(1), network(2)
    broken["inputs/moments"][1, 0] = np.nan
    with pytest.raises(ModelError, match="not finite in inputs/moments"):
        merge("linear", [broken, second], spec=SPEC)


def moments(rows: float, mean: float, deviation: float) -> Floats:
    return np.array([[rows, rows], [0.0, mean], [rows, rows * deviation**2]])


@pytest.mark.parametrize("method", ["linear", "task"])
@pytest.mark.parametrize(
    ("mean", "deviation", "fits"),
    [(1.0, 1.0, True), (-1.2, 1.0, False), (0.0, 2.4, True), (0.0, 2.8, False), (0.0, 0.35, False), (9.0, 0.0, False)],
)
def test_networks_that_standardise_otherwise_are_not_merged(method: str, mean: float, deviation: float, fits: bool):
    first, second = network(1) | {"inputs/moments": moments(50, 0, 1)}, network(2)
    second["inputs/moments"] = moments(50, mean, deviation)
    options: dict[str, Any] = {
        "spec": SPEC | {"dense": 2},
        "ancestor": network(3) | {"inputs/moments": np.zeros((3, 2))},
    }
    if fits:
        merge(method, [first, second], **options)
        return
    with pytest.raises(ModelError, match=r"deviation of column 1 are .* trained with 'normalize': False"):
        merge(method, [first, second], **options)
    with pytest.raises(ModelError, match="deviation of the number to predict are"):
        merge(method, [first, second], **options | {"spec": SPEC | {"dense": 1}})
    merge(method, [first, second], [1.0, 0.0], **options)  # nothing is taken of the other
    unread = second | {"inputs/moments": np.array([[50.0, 0.0], [0.0, 0.0], [50.0, 0.0]])}
    merge(method, [first, unread], **options)  # it has never seen that column


def test_a_network_brings_its_own_fisher_information():
    first, second = network(1), network(2)
    for each in (first, second):  # of several terms, the first
        each["learn/terms/10-ewc/fisher/fc.weight"] = np.ones_like(each["weights/fc.weight"])
    found = merge("fisher", [first, second], spec=SPEC)
    f, g = (each["learn/terms/1-ewc/fisher/fc.weight"].astype(float) for each in (first, second))
    for place in ("weights/fc.weight", "learn/raw/fc.weight"):
        np.testing.assert_allclose(found[place], (f * first[place] + g * second[place]) / (f + g), rtol=1e-4)
    first["learn/terms/1-ewc/fisher/fc.weight"][:] = 0
    with pytest.raises(ModelError, match="parent 1 is 0 everywhere: nothing was consolidated yet"):
        merge("fisher", [first, second], spec=SPEC)


def test_networks_on_other_frozen_weights_are_not_merged():
    first, second = network(1) | {"base": np.zeros(32, np.uint8)}, network(2) | {"base": np.ones(32, np.uint8)}
    with pytest.raises(ModelError, match="have different fixed weights"):
        merge("linear", [first, second], spec=SPEC)


def test_networks_whose_units_stand_in_another_order_lose_by_merging():
    """The same function twice, its hidden units permuted: each parent is right, and their mean is far off."""
    draw = np.random.default_rng(5)
    x = draw.normal(size=(200, 6))
    into, out, order = draw.normal(size=(32, 6)), draw.normal(size=(1, 32)), draw.permutation(32)

    def output(arrays: Arrays) -> Floats:
        return np.asarray(np.maximum(x @ arrays["into"].T, 0.0) @ arrays["out"].T)

    first, second = {"into": into, "out": out}, {"into": into[order], "out": out[:, order]}
    np.testing.assert_allclose(output(first), output(second), atol=1e-9)
    spread = output(first).std()
    for method in ("linear", "slerp"):
        assert (output(merge(method, [first, second])) - output(first)).std() > 0.5 * spread
