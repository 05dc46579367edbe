"""The value of a policy from logged rows: estimates by their formulas, and coverage in simulations of known truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.errors import ConfigError, InputError
from everlearn.metrics import policy
from everlearn.records import Floats


def simulated(seed: int, n: int, heavy: bool = False) -> tuple[dict[str, Floats], Floats]:
    """Logged rows of a skewed policy with drifting rewards, and the expected reward of a policy in each row."""
    random = np.random.default_rng(seed)
    actions = int(random.integers(2, 6))
    logged = random.dirichlet(np.full(actions, 1.0), n) * 0.8 + 0.2 / actions
    wanted = random.dirichlet(np.full(actions, 0.3), n)
    if heavy:  # the policy wants what is hardly ever served
        rare = np.full(actions, 0.005)
        rare[0] = 1.0 - 0.005 * (actions - 1)
        logged = np.tile(rare, (n, 1))
    phase = random.uniform(0, 6, actions) + np.linspace(0, 6, n)[:, None]
    means = 0.5 + 0.45 * np.sin(phase)
    action = np.minimum((random.random(n)[:, None] > logged.cumsum(axis=1)).sum(axis=1), actions - 1)
    at = np.arange(n), action
    model = np.clip(means + random.normal(0, 0.1, means.shape), 0, 1)
    columns = {
        "probability": wanted[at],
        "value": (wanted * model).sum(axis=1),
        "forecast": model[at],
        "propensity": logged[at],
        "reward": (random.random(n) < means[at]).astype(float),
    }
    return columns, (wanted * means).sum(axis=1)


def covers(seed: int, n: int, heavy: bool = False) -> bool:
    """Look after each of many moments; the interval must hold the mean of the rows so far at all of them."""
    columns, truth = simulated(seed, n, heavy)
    held, mean = policy.start(), truth.cumsum() / np.arange(1, n + 1)
    looks = np.unique(np.geomspace(5, n, 40).astype(int))
    for first, last in zip(np.append(0, looks[:-1]), looks, strict=True):
        policy.add(held, **{name: column[first:last] for name, column in columns.items()})
        found = policy.report(held)
        if not found["low"] <= mean[last - 1] <= found["high"]:
            return False
    return True


def test_the_estimates_are_their_formulas() -> None:
    columns, _ = simulated(0, 500)
    weight = np.random.default_rng(1).uniform(0.1, 2.0, 500)
    held = policy.start()
    policy.add(held, **columns, weight=weight)
    found = policy.report(held)
    w = columns["probability"] / columns["propensity"]
    r, f, v = columns["reward"], columns["forecast"], columns["value"]
    assert found["ips"] == pytest.approx((weight * w * r).sum() / weight.sum())
    assert found["snips"] == pytest.approx((weight * w * r).sum() / (weight * w).sum())
    assert found["dr"] == pytest.approx((weight * (v + w * (r - f))).sum() / weight.sum())
    assert found["effective rows"] == pytest.approx((weight * w).sum() ** 2 / ((weight * w) ** 2).sum())


def test_rows_give_the_same_bits_however_they_are_cut() -> None:
    columns, _ = simulated(2, 100)
    whole, single = policy.start(), policy.start()
    policy.add(whole, **columns)
    for i in range(100):
        policy.add(single, **{name: column[i] for name, column in columns.items()})
    assert whole["policy_sums"].tobytes() == single["policy_sums"].tobytes()


def test_the_interval_moves_with_the_unit_of_rewards() -> None:
    columns, _ = simulated(3, 2000)
    one, other = policy.start(), policy.start()
    policy.add(one, **columns)
    moved: dict[str, Any] = {**columns, "reward": 10.0 * columns["reward"] - 5.0}
    policy.add(other, **moved)
    found, scaled = policy.report(one), policy.report(other, (-5.0, 5.0))
    assert scaled["low"] == pytest.approx(10.0 * found["low"] - 5.0)
    assert scaled["high"] == pytest.approx(10.0 * found["high"] - 5.0)


def test_intervals_of_drifting_policies_cover_at_all_moments() -> None:
    assert sum(covers(seed, 1500) for seed in range(40)) >= 38


@pytest.mark.slow
@pytest.mark.parametrize("heavy", [False, True])
def test_intervals_cover_in_95_percent_of_200_simulations(heavy: bool) -> None:
    assert sum(covers(seed, 5000, heavy) for seed in range(200)) >= 190


def test_the_interval_is_of_use() -> None:
    columns, truth = simulated(5, 20_000)
    held = policy.start()
    policy.add(held, **columns)
    found = policy.report(held)
    assert found["high"] - found["low"] < 0.1
    assert abs(found["value"] - truth.mean()) < 0.02


def test_an_interval_without_excess_leaves_out_a_wrong_value() -> None:
    """What was served itself: after 2000 rewards of 0.9 at a weight of 1, the interval is close around 0.9."""
    reward = (np.arange(2000) % 10 > 0).astype(float)
    held = policy.start()
    policy.add(held, 0.5, 0.0, 0.0, 0.5, reward)
    found = policy.report(held)
    assert 0.85 < found["low"] < 0.9 < found["high"] < 0.95
    assert found["value"] == pytest.approx(0.9)


def test_rows_of_unknown_propensity_are_left_out() -> None:
    held = policy.start()
    policy.add(held, 0.5, 0.0, 0.0, [np.nan, 0.0, 1.5], [1.0, 1.0, 1.0])
    policy.add(held, 0.5, 0.0, 0.0, 0.5, [np.nan, 1.0], [1.0, 0.0])
    found = policy.report(held)
    assert (found["rows"], found["low"], found["high"]) == (0, 0.0, 1.0)


def test_weights_above_one_keep_the_interval_valid() -> None:
    columns, _ = simulated(6, 3000)
    one, other = policy.start(), policy.start()
    policy.add(one, **columns)
    policy.add(other, **columns, weight=50.0)
    found, heavy = policy.report(one), policy.report(other)
    assert heavy["value"] == pytest.approx(found["value"])
    assert heavy["high"] - heavy["low"] < 1.5 * (found["high"] - found["low"])
    assert heavy["low"] < found["value"] < heavy["high"]


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="expected 0 to 1"):
        policy.add(policy.start(), 1.5, 0.0, 0.0, 0.5, 1.0)
    with pytest.raises(InputError, match=r"expected numbers, or \(n,\)"):
        policy.add(policy.start(), [0.5, 0.5], 0.0, 0.0, [0.5, 0.5, 0.5], 1.0)
    with pytest.raises(ConfigError, match="lowest and the highest"):
        policy.report(policy.start(), (1.0, 0.0))
