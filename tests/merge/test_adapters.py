"""Low-rank adapters, merged as deltas: against PEFT, and without its fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.merge import METHODS, adapters, merge
from everlearn.records import Floats
from tests.support.merging import A, B, adapter, ends, snapshot


def test_adapters_are_merged_as_deltas():
    first, second = snapshot(1), snapshot(2)
    found = merge("linear", [first, second], [0.3, 0.7])
    wanted = 0.3 * adapters.delta(first[A], first[B]) + 0.7 * adapters.delta(second[A], second[B])
    u, s, vt = np.linalg.svd(wanted)
    best = (u[:, :3] * s[:3]) @ vt[:3]
    np.testing.assert_allclose(adapters.delta(found[A], found[B]), best, atol=1e-4)
    assert found["weights/fc.bias"][0] == pytest.approx(1.7)
    factors = adapters.delta(0.3 * first[A] + 0.7 * second[A], 0.3 * first[B] + 0.7 * second[B])
    assert np.linalg.norm(best - wanted) < 0.5 * np.linalg.norm(factors - wanted)


@pytest.mark.parametrize("method", ["linear", "slerp", "task", "ties", "fisher"])
def test_an_adapter_merged_with_itself_has_its_own_factors(method: str):
    first = snapshot(3)
    before = {A: first[A], B: np.zeros_like(first[B]), "weights/fc.bias": first["weights/fc.bias"]}
    options = {"ancestor": before, **ends(method)} if METHODS[method].ancestor else {}
    options |= {"fisher": [{"weights/fc.bias": np.ones(5)}] * 2} if method == "fisher" else {}
    found = merge(method, [first, first], [0.5, 0.5], **options)
    for name in (A, B):
        np.testing.assert_allclose(found[name], first[name], rtol=1e-4, atol=1e-5)


def test_an_adapter_that_has_learned_nothing_is_no_trouble():
    first = snapshot(4)
    fresh = {**first, B: np.zeros_like(first[B])}
    both = merge("linear", [fresh, {**fresh, A: 2 * first[A]}])
    np.testing.assert_array_equal(both[B], 0.0)
    np.testing.assert_allclose(both[A], first[A], rtol=1e-5)
    half = merge("linear", [fresh, first])
    np.testing.assert_allclose(adapters.delta(half[A], half[B]), 0.5 * adapters.delta(first[A], first[B]), atol=1e-4)


@given(seeds=st.lists(st.integers(0, 99), min_size=2, max_size=3), rank=st.integers(1, 4), scale=st.floats(0.1, 4.0))
@settings(max_examples=40, deadline=None)
def test_thin_factors_give_the_best_adapter_of_a_rank(seeds: list[int], rank: int, scale: float):
    held = [adapter(seed, rank=2) for seed in seeds]
    weights = [1.0 + number for number in range(len(held))]
    a, b = adapters.concatenated(held, weights, [scale] * len(held))
    whole = sum(weight * adapters.delta(*first, scale=scale) for weight, first in zip(weights, held, strict=True))
    np.testing.assert_allclose(adapters.delta(a, b), whole, atol=1e-9)
    s = np.linalg.svd(whole, compute_uv=False)
    for made in (adapters.compressed(a, b, rank), adapters.truncated(np.asarray(whole), rank)):
        left = np.linalg.norm(adapters.delta(*made) - whole)
        assert left == pytest.approx(np.sqrt(np.sum(s[rank:] ** 2)), abs=1e-8)
        assert made[0].shape == (rank, 7)


def test_as_peft_and_without_its_fault():
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"], init_lora_weights=False)
    net = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(12, 9)), config, "first")
    net.add_adapter("two", config)
    layer = net.base_model.model[0]

    def factors(name: str) -> adapters.Adapter:
        return layer.lora_A[name].weight.detach().double().numpy(), layer.lora_B[name].weight.detach().double().numpy()

    def theirs(how: str, of: list[str], weights: list[float], **more: Any) -> Floats:
        name = f"{how}-{''.join(of)}"
        net.add_weighted_adapter(of, weights, name, combination_type=how, **more)
        return np.asarray(layer.get_delta_weight(name).detach().double().numpy())

    a, b, scale = factors("first"), factors("two"), 6 / 4
    np.testing.assert_allclose(adapters.delta(*a, scale=scale), layer.get_delta_weight("first").detach(), atol=1e-5)
    cat = adapters.concatenated([a, b], [0.3, 0.6], [scale, scale])
    np.testing.assert_allclose(adapters.delta(*cat), theirs("cat", ["first", "two"], [0.3, 0.6]), atol=1e-5)
    svd = theirs("svd", ["first", "two"], [0.3, 0.6], svd_rank=4)
    np.testing.assert_allclose(adapters.delta(*adapters.compressed(*cat, 4)), svd, atol=1e-4)
    own, delta = {A: a[0], B: a[1]}, adapters.delta(*a, scale=scale)
    with_itself = merge("linear", [own, own], [0.5, 0.5])
    np.testing.assert_allclose(adapters.delta(with_itself[A], with_itself[B], scale), delta, atol=1e-9)
    doubled = theirs("linear", ["first", "first"], [0.5, 0.5])  # what PEFT 0.21 makes of it
    np.testing.assert_allclose(doubled, 2 * delta, atol=1e-4)
