"""The formulas of merging: against mergekit, and their algebra."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as drawn

from everlearn.merge import METHODS, ema, merge, methods
from everlearn.records import Floats
from tests.support import DATA
from tests.support.merging import ends

MERGEKIT = json.loads((DATA / "mergekit.json").read_text())

GIVEN = {name[0] if len(name) == 1 else name: np.array(values) for name, values in MERGEKIT["given"].items()}

NUMBERS = st.floats(-100, 100, allow_subnormal=False)

TENSORS = drawn(np.float64, (3, 4), elements=NUMBERS)


@pytest.mark.parametrize("case", MERGEKIT["cases"], ids=lambda case: f"{case['method']}-{case['parents']}")
def test_as_mergekit(case: dict[str, Any]):
    """Expected values are those of mergekit 0.1.5 in float64, from `tests/data/mergekit_values.py`."""
    parents = [{"w": GIVEN[name]} for name in case["parents"]]
    dials = {name: case[name] for name in ("density", "scale") if name in case}
    before = {"w": GIVEN["ancestor"]} if METHODS[case["method"]].ancestor else None
    found = merge(case["method"], parents, case["weights"], ancestor=before, **dials)
    np.testing.assert_allclose(found["w"], case["merged"], rtol=1e-12, atol=1e-12)


def test_trimming_as_mergekit():
    np.testing.assert_array_equal(methods.trimmed(GIVEN["a"], 0.4), MERGEKIT["trimmed"])


def test_trimming_keeps_as_many_as_it_says_where_sizes_are_equal():
    kept = methods.trimmed(np.array([1.0, -1.0, 1.0, -1.0, 1.0]), 0.6)
    assert kept.tolist() == [1.0, -1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("method", METHODS)
@given(first=TENSORS, before=TENSORS, count=st.integers(2, 4), draws=st.data())
@settings(max_examples=40, deadline=None)
def test_merging_a_snapshot_with_itself_is_the_identity(
    method: str, first: Floats, before: Floats, count: int, draws: Any
):
    found = METHODS[method]
    count = 2 if found.pair or found.weights else count
    raw = draws.draw(st.lists(st.floats(0.01, 10.0), min_size=count, max_size=count))
    weights = [weight / sum(raw) for weight in raw]
    fisher = [{"w": np.abs(before) * weight} for weight in raw] if before.any() else [{"w": np.ones((3, 4))}] * count
    snapshot = {"w": first, "seen": np.array([7, 8])}
    options = {"ancestor": {**snapshot, "w": before}} if found.ancestor else {"fisher": fisher} if found.fisher else {}
    again = merge(method, [snapshot] * count, weights, **options, **ends(method))
    np.testing.assert_allclose(again["w"], first, rtol=1e-9, atol=1e-9)
    assert again["seen"].tolist() == [7, 8]
    assert again["seen"] is not snapshot["seen"]


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("ema", "dare")])
@given(a=TENSORS, b=TENSORS, before=TENSORS, sure=drawn(np.float64, (2, 3, 4), elements=st.floats(0.0, 9.0)))
@settings(max_examples=40, deadline=None)
def test_the_order_of_parents_that_count_alike_does_not_matter(
    method: str, a: Floats, b: Floats, before: Floats, sure: Floats
):
    found, sure = METHODS[method], sure + 1e-3
    fishers = [{"w": sure[0]}, {"w": sure[1]}]
    options = {"ancestor": {"w": before}} if found.ancestor else {}
    first = merge(method, [{"w": a}, {"w": b}], **options, **({"fisher": fishers} if found.fisher else {}))
    second = merge(method, [{"w": b}, {"w": a}], **options, **({"fisher": fishers[::-1]} if found.fisher else {}))
    np.testing.assert_allclose(first["w"], second["w"], rtol=1e-9, atol=1e-9)


@given(start=TENSORS, end=TENSORS, share=st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_arc_keeps_the_length_and_ends_where_it_should(start: Floats, end: Floats, share: float):
    lengths = np.linalg.norm(start), np.linalg.norm(end)
    if min(lengths) < 1e-3 or abs(np.sum(start * end)) > 0.999 * lengths[0] * lengths[1]:
        return
    start, end = start / lengths[0], end / lengths[1]
    assert np.linalg.norm(methods.slerp(start, end, share)) == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(methods.slerp(start, end, 0.0), start, atol=1e-12)
    np.testing.assert_allclose(methods.slerp(start, end, 1.0), end, atol=1e-12)


def test_where_there_is_no_arc_the_line_is_taken():
    first = np.array([1.0, 2.0])
    np.testing.assert_allclose(methods.slerp(first, 3 * first, 0.25), 1.5 * first)
    np.testing.assert_allclose(methods.slerp(first, -first, 0.25), 0.5 * first)
    np.testing.assert_allclose(methods.slerp(np.zeros(2), first, 0.25), 0.25 * first)


def test_fisher_is_the_mean_of_two_normal_beliefs():
    """Two normal posteriors with precisions F multiply to one whose mean is sum(F x) / sum(F)."""
    draw = np.random.default_rng(0)
    a, b, f, g = draw.normal(size=(4, 50)) ** np.array([[1], [1], [2], [2]])
    f[:5] = g[:5] = 0.0
    f[5:10] = 0.0
    found = merge("fisher", [{"w": a}, {"w": b}], fisher=[{"w": f}, {"w": g}])["w"]
    np.testing.assert_allclose(found[:5], (a + b)[:5] / 2)
    np.testing.assert_allclose(found[5:10], b[5:10])
    np.testing.assert_allclose(found[10:], (f * a + g * b)[10:] / (f + g)[10:])


def test_dropping_keeps_the_mean_and_is_the_same_for_the_same_seed():
    delta = np.linspace(-1, 1, 40).reshape(5, 8)
    draws = np.stack([methods.dropped(delta, 0.3, str(key)) for key in range(4000)])
    assert set(np.unique(np.abs(draws[0] - 0.0) > 0)) == {False, True}
    np.testing.assert_allclose(draws.mean(0), delta, atol=5 * np.sqrt(0.7 / 0.3 / 4000))
    assert abs((draws != 0).mean() - 0.3) < 0.01
    parents, before = [{"w": delta}, {"w": -2 * delta}], {"w": np.zeros((5, 8))}
    first, again, second = (merge("dare", parents, ancestor=before, seed=seed)["w"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()


def test_a_moving_average_is_what_the_recursion_says():
    draw = np.random.default_rng(1)
    stream = draw.normal(size=(30, 6)).astype(np.float32)
    average = {"w": stream[0]}
    for first in stream[1:]:
        average = ema(average, {"w": first}, decay=0.9)
    powers = 0.1 * 0.9 ** np.arange(29)[::-1]
    np.testing.assert_allclose(average["w"], 0.9**29 * stream[0] + powers @ stream[1:], rtol=1e-5, atol=1e-6)
    assert average["w"].dtype == np.float32
    given_none = merge("ema", [{"w": np.zeros(1)}, {"w": np.ones(1)}])
    assert given_none["w"][0] == pytest.approx(0.1)


def test_two_weights_of_one_add_what_both_learned():
    """Two models changed one number each: the sum of both changes is a model with both changed."""
    before, a, b = np.array([1.0, 1.0, 1.0]), np.array([4.0, 1.0, 1.0]), np.array([1.0, -3.0, 1.0])
    found = merge("task", [{"w": a}, {"w": b}], [1.0, 1.0], ancestor={"w": before})
    assert found["w"].tolist() == [4.0, -3.0, 1.0]
    assert merge("ties", [{"w": a}, {"w": b}], ancestor={"w": before}, density=0.34)["w"].tolist() == [4.0, -3.0, 1.0]
