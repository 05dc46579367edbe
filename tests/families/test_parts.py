"""The parts of an answer stay a sum without a rest through softmax, logarithm and floor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.families.parts import AnswerParts, added, floored, logarithm, logarithmic_mean, scores, softmax

numbers = st.lists(st.floats(-200, 200), min_size=3, max_size=3).map(np.array)


def whole(part: AnswerParts) -> np.ndarray:
    return part.base + sum(part.terms.values(), np.zeros(len(part.base)))


@given(numbers, st.lists(numbers, min_size=1, max_size=4))
def test_a_softmax_passes_all_of_a_sum_on(base: np.ndarray, terms: list[np.ndarray]) -> None:
    named = {str(place): term for place, term in enumerate(terms)}
    found = softmax(AnswerParts(base, named, base + sum(terms)))
    away = base + sum(terms)
    expected = np.exp(away - away.max()) / np.exp(away - away.max()).sum()
    np.testing.assert_allclose(found.answer, expected, atol=1e-12)
    np.testing.assert_allclose(whole(found), expected, atol=1e-9)
    np.testing.assert_allclose(sum(found.terms.values()).sum(), 0.0, atol=1e-9)  # shares add up to 1 before and after


def test_a_constant_for_all_classes_adds_nothing() -> None:
    found = softmax(
        AnswerParts(np.zeros(3), {"a": np.full(3, 5.0), "b": np.array([0.0, 1.0, 2.0])}, np.array([5.0, 6.0, 7.0]))
    )
    np.testing.assert_allclose(found.terms["a"], 0.0, atol=1e-15)


def test_two_classes_give_the_logit_itself() -> None:
    """Log odds are the difference of two scores: what a term adds to them is the term."""
    part = softmax(
        AnswerParts(np.array([0.0, 0.3]), {"a": np.array([0.0, 1.2]), "b": np.array([0.0, -0.4])}, np.array([0.0, 1.1]))
    )
    (found,) = scores(part, "binary")
    assert found == pytest.approx({"a": 1.2, "b": -0.4, "intercept": 0.3})


@given(st.floats(1e-12, 1.0), st.floats(1e-12, 1.0))
def test_the_logarithmic_mean_is_the_slope_of_the_secant(a: float, b: float) -> None:
    found = float(logarithmic_mean(np.log([a]), np.log([b]))[0])
    expected = a if abs(math.log(a / b)) < 1e-9 else (a - b) / math.log(a / b)
    assert found == pytest.approx(expected, rel=1e-6)


def test_sums_floors_and_logarithms_keep_the_sum() -> None:
    one = AnswerParts(np.array([0.5, 0.5]), {"a": np.array([0.3, -0.3])}, np.array([0.8, 0.2]))
    other = AnswerParts(
        np.array([0.1, 0.9]), {"a": np.array([0.2, -0.2]), "b": np.array([0.3, -0.3])}, np.array([0.6, 0.4])
    )
    mixed = floored(added([(0.25, one), (0.75, other)]), 0.01)
    np.testing.assert_allclose(mixed.answer, 0.99 * np.array([0.65, 0.35]) + 0.005)
    np.testing.assert_allclose(whole(mixed), mixed.answer)
    logs = logarithm(mixed)
    np.testing.assert_allclose(whole(logs), np.log(mixed.answer))
