"""The stackers of numbers: their arithmetic against plain numpy, quantiles, late labels, and units."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everlearn.families.mix import numbers
from everlearn.families.mix.numbers import ABSOLUTE, HUBER, PINBALL, SQUARED
from everlearn.records import Arrays

ALL = np.array([True, True, True])
LOSSES = pytest.mark.parametrize(("loss", "parameter"), [(SQUARED, 0.0), (ABSOLUTE, 0.0), (PINBALL, 0.9), (HUBER, 0.5)])
NAMES = ("base", "shares", "bias", "recent", "prior", "products", "counts")


def stacked(
    arrays: Arrays, votes: np.ndarray, y: np.ndarray, loss: int, parameter: float = 0.0, **more: np.ndarray
) -> np.ndarray:
    n, state = len(y), [arrays[name] for name in NAMES]
    out = np.empty((n, 1), np.float32)
    rows = votes, more.get("then", votes), more.get("late", np.zeros(n)), y, more.get("weight", np.ones(n, np.float32))
    numbers.stack_numbers(*rows, np.ones(n, bool), True, loss, parameter, *state, out, np.empty(n))
    return out[:, 0].astype(float)


def drawn(n: int, noise: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return what members say about n rows, float32 (n, members), and the numbers."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    return (y[:, None] + rng.normal(0.0, noise, (n, len(noise)))).astype(np.float32), y


def mean_loss(away: np.ndarray, loss: int, parameter: float) -> float:
    return float(np.mean([numbers.loss_of(one, loss, parameter) for one in away.tolist()]))


@LOSSES
def test_the_slope_is_the_derivative_of_the_loss(loss: int, parameter: float) -> None:
    for away in (-2.0, -0.3, 0.2, 3.0):
        h = 1e-6
        rise = numbers.loss_of(away + h, loss, parameter) - numbers.loss_of(away - h, loss, parameter)
        factor = 2.0 if loss == SQUARED else 1.0
        assert factor * numbers.slope_of(away, loss, parameter) == pytest.approx(rise / (2 * h), rel=1e-6)


def test_the_ridge_is_that_of_numpy() -> None:
    votes, y = drawn(300, [0.3, 0.3, 3.0], seed=3)
    arrays = numbers.start_numbers(ALL)
    stacked(arrays, votes, y, SQUARED)
    rows = votes.astype(float)
    z, target = rows - rows.mean(axis=1, keepdims=True), y - rows.mean(axis=1)
    fade = 0.999 ** np.arange(299, -1, -1.0)
    fade[0] = 0.0  # the first row only shows the size of the numbers
    gram, right = (z * fade[:, None]).T @ z, (z * fade[:, None]).T @ target
    found = np.linalg.solve(gram + 10.0 * np.trace(gram) / 3 / 300 * np.eye(3), right)
    np.testing.assert_allclose(arrays["shares"][0], 1 / 3 + found - found.mean(), rtol=1e-5)
    assert arrays["shares"][0] == pytest.approx([0.5, 0.5, 0.0], abs=0.05)


@LOSSES
def test_steps_are_those_of_the_formulas(loss: int, parameter: float) -> None:
    votes, y = drawn(60, [0.5, 1.0, 1.0], seed=1)
    arrays = numbers.start_numbers(ALL)
    got = stacked(arrays, votes, y, loss, parameter, late=np.full(60, 50.0))
    timely = 1 / 1.5**2
    shares, bias, error = np.full((2, 3), 1 / 3), np.zeros(2), np.zeros(2)
    steep, recent, gram, right = np.zeros((2, 3)), np.zeros(5), np.zeros((3, 3)), np.zeros(3)
    for i in range(60):
        v = votes[i].astype(float)
        each = np.concatenate([shares @ v + bias, v])
        seen = max(i - 1, 1)
        unit = recent.min() * 0.001 / (1 - 0.999**seen) * (2 if loss == SQUARED else 1)
        part = np.exp(-(recent - recent.min()) / unit) if unit > 0 else np.ones(5)
        assert got[i] == pytest.approx(part @ each / part.sum(), rel=1e-5)
        if i == 0:
            continue
        recent = 0.999 * recent + [numbers.loss_of(one, loss, parameter) for one in (each - y[i]).tolist()]
        slopes = [numbers.slope_of(one, loss, parameter) for one in (each[:2] - y[i]).tolist()]
        gradients = np.array([slopes[s] * (v - shares[s] @ v) for s in range(2)])
        steep = 0.999 * steep + 0.001 * gradients**2
        moves = 0.01 * timely * gradients / np.sqrt(steep)
        if loss == SQUARED:
            fade, z = 1 - 0.001 * timely, v - v.mean()
            gram, right = fade * gram + np.outer(z, z), fade * right + z * (y[i] - v.mean())
            ridge = 10.0 / (i + 1) * np.trace(gram) / 3
            found = np.linalg.solve(gram + ridge * np.eye(3), right)
            shares[0] = (1 - found.sum()) / 3 + found
        else:
            shares[0] -= moves[0] - moves[0].mean()
        grown = shares[1] * np.exp(-moves[1])
        shares[1] = (1 - 1e-4) * grown / grown.sum() + 1e-4 / 3
        for s in range(2):
            away = each[s] - y[i]
            error[s] += (abs(away) - error[s]) / i
            if loss == SQUARED:
                bias[s] -= 0.002 * timely * np.clip(away, -3 * error[s], 3 * error[s])
            else:
                bias[s] -= 0.01 * timely * error[s] * slopes[s]
    np.testing.assert_allclose(arrays["shares"], shares, rtol=1e-6)
    np.testing.assert_allclose(arrays["bias"], np.stack([bias, error], axis=1), rtol=1e-6)
    np.testing.assert_allclose(arrays["recent"], recent, rtol=1e-9)


@pytest.mark.parametrize(("loss", "parameter"), [(ABSOLUTE, 0.0), (PINBALL, 0.9), (HUBER, 0.5)])
def test_other_losses_find_shares_and_a_bias(loss: int, parameter: float) -> None:
    """Both stackers are near the best of all shares and biases, found on a grid."""
    n = 20_000
    votes, y = drawn(n, [0.4, 0.8], seed=5)
    votes[:, 0] += 0.5
    arrays = numbers.start_numbers(ALL[:2])
    stacked(arrays, votes, y, loss, parameter)
    late = slice(n // 2, n // 2 + 4000)
    rows, right = votes[late].astype(float), y[late]
    best = min(
        mean_loss(share * rows[:, 0] + (1 - share) * rows[:, 1] + bias - right, loss, parameter)
        for share in np.linspace(0, 1, 11)
        for bias in np.linspace(-0.7, 0.7, 15)
    )
    for s in range(2):
        found = mean_loss(rows @ arrays["shares"][s] + arrays["bias"][s, 0] - right, loss, parameter)
        assert found < 1.03 * best


def test_a_quantile_is_reached_though_all_members_are_lower() -> None:
    votes, y = drawn(20_000, [0.01, 0.01], seed=2)
    y += np.random.default_rng(0).normal(size=len(y))
    out = stacked(numbers.start_numbers(ALL[:2]), votes, y, PINBALL, 0.9)
    assert (y <= out)[5000:].mean() == pytest.approx(0.9, abs=0.015)


@LOSSES
def test_a_mix_of_numbers_is_hardly_worse_than_its_best_member(loss: int, parameter: float) -> None:
    votes, y = drawn(3000, [0.05, 1.0, 3.0], seed=6)
    out = stacked(numbers.start_numbers(ALL), votes, y, loss, parameter)
    best = mean_loss(votes[20:, 0] - y[20:], loss, parameter)
    assert mean_loss(out[20:] - y[20:], loss, parameter) < 1.1 * best  # after twenty rows that show the members' errors
    late = mean_loss(votes[1000:, 0] - y[1000:], loss, parameter)
    assert mean_loss(out[1000:] - y[1000:], loss, parameter) < 1.01 * late


@pytest.mark.parametrize(("loss", "parameter"), [(SQUARED, 0.0), (ABSOLUTE, 0.0), (PINBALL, 0.9)])
def test_the_unit_of_the_numbers_does_not_matter(loss: int, parameter: float) -> None:
    votes, y = drawn(500, [0.3, 0.5, 2.0], seed=7)
    near = stacked(numbers.start_numbers(ALL), votes, y, loss, parameter)
    for scale in (2.0**-40, 2.0**40):
        far = stacked(numbers.start_numbers(ALL), votes * np.float32(scale), y * scale, loss, parameter)
        np.testing.assert_allclose(far / scale, near, rtol=1e-5)


@LOSSES
def test_late_numbers_are_learned_from_what_was_predicted_then(loss: int, parameter: float) -> None:
    """At its prediction member 0 was right and member 1 wrong; when the label comes, it is the other way round."""
    y = np.random.default_rng(8).normal(size=400)
    then = np.stack([y, y + 2.0 * np.sign(y)], axis=1).astype(np.float32)
    arrays = numbers.start_numbers(ALL[:2])
    stacked(arrays, then[:, ::-1].copy(), y, loss, parameter, then=then, late=np.full(400, 5.0))
    assert numbers.number_weights(arrays, loss)[0] > 0.9


def test_rows_without_number_or_weight_change_nothing() -> None:
    votes, y = drawn(4, [1.0, 1.0, 1.0])
    arrays = numbers.start_numbers(ALL)
    before = {name: array.tobytes() for name, array in arrays.items()}
    y[:] = [math.nan, 1.0, 1.0, math.inf]
    stacked(arrays, votes, y, SQUARED, weight=np.array([1.0, 0.0, np.nan, 1.0], np.float32))
    assert {name: array.tobytes() for name, array in arrays.items()} == before
