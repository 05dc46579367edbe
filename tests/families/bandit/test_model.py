"""The bandit: the contract on rows that teach, recursive least squares as its oracle, rewards by IPS, MTR and DR."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn import checks
from everlearn.errors import ConfigError, InputError
from everlearn.families.bandit import settings
from everlearn.model import build
from everlearn.records import Batch, Examples, Floats

ACTIONS, FEATURES = 3, 2


def rows(context: Floats, actions: int, features: Floats | None = None, served: Any = np.nan, p: Any = np.nan) -> Batch:
    """Rows in which all actions are on offer; `features` (n, actions, m)."""
    n = len(context)
    features = np.zeros((n, actions, 0)) if features is None else features
    offers = np.concatenate([np.ones((n, actions, 1)), features], axis=2).reshape(n, -1)
    dense = np.column_stack([context, offers, np.broadcast_to(served, n), np.broadcast_to(p, n)]).astype(np.float32)
    return Batch(np.ascontiguousarray(dense), np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def bandit(columns: int, actions: int, features: int = 0, **spec: Any) -> Any:
    dense = columns + actions * (1 + features) + 2
    return build({"family": "bandit", "dense": dense, "actions": actions, "action_features": features, **spec})


def taught(spec: dict[str, Any]) -> Examples:
    """The sample rows of the checks, with actions and propensities, so that almost all of them teach."""
    examples = checks.sample(spec)
    random, n = np.random.default_rng(1), len(examples.y)
    examples.batch.dense[:, -2] = random.integers(0, ACTIONS, n)
    examples.batch.dense[:, -1] = random.uniform(0.05, 1.0, n)
    examples.batch.dense[::17, -2:] = np.nan
    return examples


EXPLORATIONS = ("squarecb", "epsilon", "linucb", "thompson", "greedy")


@pytest.mark.parametrize(
    ("learn", "explore"), [*(("mtr", one) for one in EXPLORATIONS), ("ips", "squarecb"), ("dr", "squarecb")]
)
def test_it_passes_every_check_on_rows_that_teach(learn: str, explore: str) -> None:
    spec = {
        "family": "bandit", "task": "regression", "dense": 3 + ACTIONS * (1 + FEATURES) + 2, "hashed": 16,
        "actions": ACTIONS, "action_features": FEATURES, "learn": learn, "explore": explore, "rewards": [-2.0, 2.0],
    }  # fmt: skip
    examples = taught(spec)
    before = build(spec).predict(examples.batch)
    model = build(spec)
    model.learn(examples.batch, examples.y, examples.weight)
    assert np.abs(model.predict(examples.batch) - before).mean() > 0.05
    failed = [result for result in checks.run(lambda: build(spec), examples) if not result.ok]
    assert not failed, failed


def test_wide_rows_keep_diagonals_and_pass_every_check() -> None:
    spec = {"family": "bandit", "task": "regression", "dense": 70 + ACTIONS + 2, "actions": ACTIONS}
    assert build(spec).arrays["covariance"].shape == (1, ACTIONS, 1, 71)
    failed = [result for result in checks.run(lambda: build(spec), taught(spec)) if not result.ok]
    assert not failed, failed


def test_one_action_learns_as_recursive_least_squares_with_directional_forgetting() -> None:
    """The information matrix, kept by its definition in numpy, gives the same weights as the covariance."""
    random = np.random.default_rng(3)
    n, d = 400, 3
    context, reward = random.normal(size=(n, d)), random.uniform(0.0, 1.0, n)
    model = bandit(d, 2)
    model.learn(rows(context, 2, served=1.0, p=1.0), reward, np.ones(n, np.float32))

    weights, information = np.zeros(d + 1), np.eye(d + 1) / settings.PRIOR_VARIANCE
    seen = np.zeros((0, d))
    forget = settings.FORGET
    for i in range(n):
        seen = np.vstack([seen, context[i].astype(np.float32)])
        spread = seen.std(axis=0)
        z = np.where(spread > 0, (seen[-1] - seen.mean(axis=0)) / np.where(spread > 0, spread, 1), 0)
        x = np.append(np.clip(z, -4, 4), 1.0)
        error = reward[i] - weights @ x
        variance = x @ np.linalg.solve(information, x)
        weights = weights + np.linalg.solve(information, x) * error / (1 + variance)
        information = information + (forget - (1 - forget) / variance) * np.outer(x, x)
    np.testing.assert_allclose(model.arrays["weights"][0, 1], weights, atol=1e-6)
    np.testing.assert_allclose(model.arrays["covariance"][0, 1], np.linalg.inv(information), atol=1e-6)
    assert not model.arrays["weights"][0, 0].any()


def world(n: int, seed: int, served: str) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Logged rows of a fixed policy: context, served action, propensity, reward, and the mean reward of each action."""
    random = np.random.default_rng(seed)
    context = random.normal(size=(n, 2))
    means = np.clip(0.5 + 0.15 * np.column_stack([context[:, 0], context[:, 1], -context[:, 0]]), 0, 1)
    p = np.tile([0.6, 0.3, 0.1] if served == "skewed" else [1 / 3] * 3, (n, 1))
    action = (random.random(n)[:, None] > p.cumsum(axis=1)).sum(axis=1)
    reward = (random.random(n) < means[np.arange(n), action]).astype(float)
    return context, action.astype(float), p[np.arange(n), action], reward, means


@pytest.mark.parametrize(("learn", "within"), [("mtr", 0.06), ("dr", 0.06), ("ips", 0.1)])
def test_logged_rewards_teach_the_value_of_every_action(learn: str, within: float) -> None:
    context, action, p, reward, _ = world(6000, 0, "skewed")
    model = bandit(2, 3, learn=learn)
    model.learn(rows(context, 3, served=action, p=p), reward, np.ones(6000, np.float32))
    fresh, *_, truth = world(500, 1, "skewed")
    found = np.column_stack([model.predict(rows(fresh, 3, served=float(a)))[:, 0] for a in range(3)])
    assert np.abs(found - truth).mean() < within
    chosen = model.policy(rows(fresh, 3)).argmax(axis=1)
    assert (truth.max(axis=1) - truth[np.arange(500), chosen]).mean() < 0.02


def test_features_of_actions_rank_actions_that_were_never_served() -> None:
    random = np.random.default_rng(5)
    features = random.normal(size=(3000, 4, 1))
    served = random.integers(0, 2, 3000)  # never 2 or 3
    reward = np.clip(0.5 + 0.2 * features[np.arange(3000), served, 0], 0, 1)
    model = bandit(0, 4, 1, explore="greedy")
    model.learn(rows(np.zeros((3000, 0)), 4, features, served, 0.5), reward, np.ones(3000, np.float32))
    fresh = random.normal(size=(300, 4, 1))
    fresh[:, :2] -= 3.0
    chosen = model.policy(rows(np.zeros((300, 0)), 4, fresh)).argmax(axis=1)
    assert (chosen >= 2).mean() > 0.95


def test_a_late_reward_is_learned_with_the_propensity_of_its_row() -> None:
    context, action, p, reward, _ = world(50, 2, "skewed")
    one, other, unknown = bandit(2, 3), bandit(2, 3), bandit(2, 3)
    weight = np.ones(50, np.float32)
    one.learn(rows(context, 3, served=action, p=p), reward, weight)
    trace = other.predict_traced(rows(context, 3, served=action, p=p))[1]
    other.learn(rows(context, 3, served=action, p=p), reward, weight, trace)
    unknown.learn(rows(context, 3, served=action), reward, weight)
    assert one.arrays["weights"].tobytes() == other.arrays["weights"].tobytes()
    assert one.arrays["weights"].tobytes() != unknown.arrays["weights"].tobytes()


def test_the_trace_is_the_policy_of_the_action_and_the_expected_reward() -> None:
    context, action, p, reward, _ = world(300, 2, "even")
    model = bandit(2, 3, rewards=[0.0, 1.0])
    model.learn(rows(context, 3, served=action, p=p), reward, np.ones(300, np.float32))
    batch = rows(context, 3, served=action)
    policy, (_, trace) = model.policy(batch), model.predict_traced(batch)
    each = np.column_stack([model.predict(rows(context, 3, served=float(a)))[:, 0] for a in range(3)])
    np.testing.assert_allclose(trace[:, 0], policy[np.arange(300), action.astype(int)])
    np.testing.assert_allclose(trace[:, 1], (policy * each).sum(axis=1), atol=1e-6)
    assert (model.predict_traced(rows(context, 3))[1][:, 0] == 1.0).all()
    np.testing.assert_allclose(model.predict(rows(context, 3))[:, 0], each.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("explore", EXPLORATIONS)
def test_only_actions_on_offer_have_probability(explore: str) -> None:
    context, action, p, reward, _ = world(400, 2, "even")
    model = bandit(2, 3, explore=explore)
    batch = rows(context, 3, served=action, p=p)
    model.learn(batch, reward, np.ones(400, np.float32))
    batch.dense[:, 2] = np.where(np.arange(400) % 2 == 0, 0.0, np.nan)  # the first action
    policy = model.policy(batch)
    assert policy.dtype == np.float32
    assert (policy[:, 0] == 0.0).all()
    assert (policy[:, 1:] > 0.0).all()
    np.testing.assert_allclose(policy.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("delay", [0, 7])
@pytest.mark.parametrize("explore", ["squarecb", "thompson"])
def test_play_is_policy_and_learn_row_by_row(delay: int, explore: str) -> None:
    random = np.random.default_rng(4)
    context, n = random.normal(size=(120, 2)), 120
    y, u, weight = (context[:, 0] > 0).astype(float), random.random(n), np.ones(n, np.float32)
    played, single = bandit(2, 2, explore=explore), bandit(2, 2, explore=explore)
    out = played.play(rows(context, 2), y, weight, u, delay)
    served = []
    for i in range(n + delay):
        if i < n:
            policy = single.policy(rows(context[i : i + 1], 2))[0]
            action = int(min((policy.cumsum(dtype=np.float64) <= u[i]).sum(), 1))
            assert tuple(out[i, :2]) == (action, policy[action])
            served.append((action, policy[action]))
        if 0 <= (late := i - delay) < n:
            action, p = served[late]
            batch = rows(context[late : late + 1], 2, served=float(action), p=p)
            single.learn(batch, np.array([float(action == y[late])]), weight[:1])
    for name, array in played.arrays.items():
        assert array.tobytes() == single.arrays[name].tobytes(), name


def test_an_action_that_became_better_is_found_again() -> None:
    """Action 1 is bad for half of the rows, then the best; a fixed share of draws would find it no faster."""
    random = np.random.default_rng(0)
    n = 20_000
    context = random.normal(size=(n, 3))
    y = np.where(np.arange(n) < n // 2, 0.0, 1.0)
    model = bandit(3, 2)
    out = model.play(rows(context, 2), y, np.ones(n, np.float32), random.random(n))
    right = out[:, 0] == y
    assert right[: n // 2].mean() > 0.99
    assert right[n // 2 + 2000 :].mean() > 0.95


def test_a_covariance_stays_symmetric_over_many_rows() -> None:
    random = np.random.default_rng(0)
    n = 50_000
    context = random.normal(size=(n, 4)) @ random.normal(size=(4, 8))  # correlated columns
    y = (context[:, 0] + random.normal(size=n) > 0).astype(float)
    model = bandit(8, 2)
    model.play(rows(context, 2), y, np.ones(n, np.float32), random.random(n))
    for covariance in model.arrays["covariance"][0]:
        assert (covariance == covariance.T).all()
        assert np.linalg.eigvalsh(covariance).min() > -1e-12


def test_rows_that_do_not_teach_change_nothing() -> None:
    context, action, p, reward, _ = world(60, 2, "even")
    model = bandit(2, 3)
    before = {name: array.tobytes() for name, array in model.arrays.items()}
    ones = np.ones(60, np.float32)
    model.learn(rows(context, 3), reward, ones)
    model.learn(rows(context, 3, served=3.0, p=0.5), reward, ones)
    model.learn(rows(context, 3, served=0.5, p=0.5), reward, ones)
    model.learn(rows(context, 3, served=action, p=p), np.full(60, np.nan), ones)
    model.learn(rows(context, 3, served=action, p=p), reward, 0 * ones)
    assert before == {name: array.tobytes() for name, array in model.arrays.items()}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"dense": 5, "actions": 1}, "actions: got 1; expected 2 to 256"),
        ({"dense": 3, "actions": 2}, "at least 4 columns"),
        ({"dense": 8, "actions": 2, "rewards": [1.0, 1.0]}, "the lowest and the highest reward"),
        ({"dense": 8, "actions": 2, "explore": "ucb"}, "expected one of 'epsilon', 'greedy', 'linucb'"),
        ({"dense": 8, "actions": 2, "task": "binary"}, "'regression'"),
    ],
)
def test_wrong_settings_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        build({"family": "bandit", **spec})


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected \(1, 7\)"):
        bandit(2, 3).policy(rows(np.zeros((1, 3)), 3))
