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
    one, other, before = network(1), network(2, 300), network(3)
    told = {"ancestor": before} if METHODS[method].ancestor else {}
    found = merge(method, [one, other], [0.25, 0.75], spec=SPEC, **told)
    assert model.compare(one, found) == []
    how = {name: array for name, array in found.items() if name.endswith("fc.weight") and "terms" not in name}
    for name in ("weights/fc.weight", "learn/raw/fc.weight"):
        assert (how[name] != one[name]).any()
    for name in found:
        if name.startswith("learn/") and not name.startswith("learn/raw/"):
            np.testing.assert_array_equal(found[name], one[name])
    for name in ("weights/bn.running_mean", "weights/bn.running_var", "learn/raw/bn.running_var"):
        np.testing.assert_allclose(found[name], 0.25 * one[name] + 0.75 * other[name], rtol=1e-5)
    assert found["weights/bn.num_batches_tracked"] == 1
    assert found["classes"].tolist() == [100, 300, 0]
    np.testing.assert_allclose(found["head/means"], np.eye(3, 5) * [[1], [1], [0]])
    assert found["head/held"].tolist() == [3, 3, 0]
    pool = pooled([one["inputs/moments"], other["inputs/moments"]], np.array([0.25, 0.75]))
    np.testing.assert_allclose(found["inputs/moments"], pool)


@pytest.mark.parametrize("method", METHODS)
def test_shares_of_classes_stay_shares(method: str):
    """A share that both have lost since the ancestor would be below 0 by task arithmetic, and its logarithm NaN."""
    priors = ([0.1, 0.6, 0.3], [0.0, 0.5, 0.5], [0.8, 0.1, 0.1])
    one, other, before = (network(seed) | {"prior": np.array(prior)} for seed, prior in enumerate(priors, 1))
    told = {"ancestor": before, "scale": 2.0} if METHODS[method].ancestor else {}
    weights = [2.0, -1.0] if METHODS[method].signed else [3.0, 1.0]
    found = merge(method, [one, other], weights, spec=SPEC, **told)["prior"]
    np.testing.assert_allclose(found, [0.05, 0.55, 0.4] if METHODS[method].signed else [0.075, 0.575, 0.35])
    none = [each | {"prior": np.zeros(0)} for each in (one, other)]
    ancestor = {"ancestor": before | {"prior": np.zeros(0)}} if told else {}
    assert merge(method, none, weights, spec=SPEC, **ancestor)["prior"].shape == (0,)


def test_numbers_that_would_not_be_finite_are_refused():
    one, before = {"w": np.full(3, 3e38, np.float32)}, {"w": np.zeros(3, np.float32)}
    with pytest.raises(ModelError, match=r"task with the weights \(1.0, 1.0\) makes numbers .* not finite in w"):
        merge("task", [one, {"w": one["w"] / 2}], [1.0, 1.0], ancestor=before)
    broken, other = network(1), network(2)
    broken["inputs/moments"][1, 0] = np.nan
    with pytest.raises(ModelError, match="not finite in inputs/moments"):
        merge("linear", [broken, other], spec=SPEC)


def moments(rows: float, mean: float, deviation: float) -> Floats:
    return np.array([[rows, rows], [0.0, mean], [rows, rows * deviation**2]])


@pytest.mark.parametrize("method", ["linear", "task"])
@pytest.mark.parametrize(
    ("mean", "deviation", "fits"),
    [(1.0, 1.0, True), (-1.2, 1.0, False), (0.0, 2.4, True), (0.0, 2.8, False), (0.0, 0.35, False), (9.0, 0.0, False)],
)
def test_networks_that_standardise_otherwise_are_not_merged(method: str, mean: float, deviation: float, fits: bool):
    one, other = network(1) | {"inputs/moments": moments(50, 0, 1)}, network(2)
    other["inputs/moments"] = moments(50, mean, deviation)
    told: dict[str, Any] = {"spec": SPEC | {"dense": 2}, "ancestor": network(3) | {"inputs/moments": np.zeros((3, 2))}}
    if fits:
        merge(method, [one, other], **told)
        return
    with pytest.raises(ModelError, match=r"deviation of column 1 are .* trained with 'normalize': False"):
        merge(method, [one, other], **told)
    with pytest.raises(ModelError, match="deviation of the number to predict are"):
        merge(method, [one, other], **told | {"spec": SPEC | {"dense": 1}})
    merge(method, [one, other], [1.0, 0.0], **told)  # nothing is taken of the other
    unread = other | {"inputs/moments": np.array([[50.0, 0.0], [0.0, 0.0], [50.0, 0.0]])}
    merge(method, [one, unread], **told)  # it has never seen that column


def test_a_network_brings_its_own_fisher_information():
    one, other = network(1), network(2)
    for each in (one, other):  # of several terms, the first
        each["learn/terms/10-ewc/fisher/fc.weight"] = np.ones_like(each["weights/fc.weight"])
    found = merge("fisher", [one, other], spec=SPEC)
    f, g = (each["learn/terms/1-ewc/fisher/fc.weight"].astype(float) for each in (one, other))
    for place in ("weights/fc.weight", "learn/raw/fc.weight"):
        np.testing.assert_allclose(found[place], (f * one[place] + g * other[place]) / (f + g), rtol=1e-4)
    one["learn/terms/1-ewc/fisher/fc.weight"][:] = 0
    with pytest.raises(ModelError, match="parent 1 is 0 everywhere: nothing was consolidated yet"):
        merge("fisher", [one, other], spec=SPEC)


def test_networks_on_other_frozen_weights_are_not_merged():
    one, other = network(1) | {"base": np.zeros(32, np.uint8)}, network(2) | {"base": np.ones(32, np.uint8)}
    with pytest.raises(ModelError, match="have different fixed weights"):
        merge("linear", [one, other], spec=SPEC)


def test_networks_whose_units_stand_in_another_order_lose_by_merging():
    """The same function twice, its hidden units permuted: each parent is right, and their mean is far off."""
    draw = np.random.default_rng(5)
    x = draw.normal(size=(200, 6))
    into, out, order = draw.normal(size=(32, 6)), draw.normal(size=(1, 32)), draw.permutation(32)

    def said(arrays: Arrays) -> Floats:
        return np.asarray(np.maximum(x @ arrays["into"].T, 0.0) @ arrays["out"].T)

    one, other = {"into": into, "out": out}, {"into": into[order], "out": out[:, order]}
    np.testing.assert_allclose(said(one), said(other), atol=1e-9)
    spread = said(one).std()
    for method in ("linear", "slerp"):
        assert (said(merge(method, [one, other])) - said(one)).std() > 0.5 * spread
