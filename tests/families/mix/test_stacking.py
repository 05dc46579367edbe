"""The stacker: its arithmetic against plain numpy, late labels, and what it is worth where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.families.mix import stacking
from everlearn.records import Arrays

ALL = np.array([True, True, True])


def drawn(n: int, members: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return what members say about n rows, float32 (n, members, classes), and labels drawn from the first."""
    rng = np.random.default_rng(seed)
    votes = rng.dirichlet(np.ones(classes), (n, members)).astype(np.float32)
    y = (rng.random(n)[:, None] > votes[:, 0].cumsum(axis=1)).sum(axis=1).clip(0, classes - 1).astype(float)
    return votes, y


def stacked(arrays: Arrays, votes: np.ndarray, y: np.ndarray, patience: float = 25.0, **more: np.ndarray) -> np.ndarray:
    n = len(y)
    out = np.empty((n, votes.shape[2]), np.float32)
    then, late = more.get("then", votes), more.get("late", np.zeros(n))
    state = [arrays[name] for name in ("own", "shared", "bias", "recent", "squares", "counts")]
    rows = votes, then, late, y, more.get("weight", np.ones(n, np.float32)), np.ones(n, bool), True, patience
    stacking.stack(*rows, *state, out, np.empty(n))
    return out


def softmax(z: np.ndarray) -> np.ndarray:
    z = np.exp(z - z.max())
    return z / z.sum()


@pytest.mark.parametrize(
    ("late", "patience", "quarter", "heed", "keep"),
    [(0.0, 25.0, 25.0, 1.0, 0.999), (100.0, 25.0, 25.0, 1 / 21, 1 - 1 / 1200), (100.0, 0.0, 100.0, 1.0, 0.999)],
)
def test_steps_are_those_of_the_formulas(
    late: float, patience: float, quarter: float, heed: float, keep: float
) -> None:
    votes, y = drawn(40, 3, 4)
    arrays = stacking.start(ALL, 4)
    got = stacked(arrays, votes, y, patience, late=np.full(40, late))
    a, d, b = np.full((2, 3), 1 / 3), np.zeros((2, 3, 4)), np.zeros((2, 4))
    g, recent = np.ones((2, 3, 5)), np.zeros(5)
    timely = 1 / (1 + late / quarter) ** 2
    for i in range(40):
        logs = np.log(0.99 * votes[i].astype(float) + 0.01 / 4)
        each = [softmax(b[s] + ((a[s][:, None] + d[s]) * logs).sum(axis=0)) for s in range(2)] + list(np.exp(logs))
        share = np.exp(recent.min() - recent)
        np.testing.assert_allclose(got[i], (share[:, None] * np.array(each)).sum(axis=0) / share.sum(), rtol=1e-5)
        label = int(y[i])
        recent = keep * recent - heed * np.log([p[label] for p in each])
        for s, rate in ((0, 0.01 * timely), (1, 0.002 * timely)):
            away = each[s] - np.eye(4)[label]
            slopes = away * logs
            g[s, :, :4] = 0.999 * g[s, :, :4] + 0.001 * slopes**2
            g[s, :, 4] = 0.999 * g[s, :, 4] + 0.001 * slopes.sum(axis=1) ** 2
            d[s] -= 0.3 * timely * rate * slopes / np.sqrt(g[s, :, :4] + 1e-6)
            a[s] -= rate * slopes.sum(axis=1) / np.sqrt(g[s, :, 4] + 1e-6)
            b[s] -= timely * rate * away
    for name, expected in (("shared", a), ("own", d), ("bias", b), ("squares", g), ("recent", recent)):
        np.testing.assert_allclose(arrays[name], expected, rtol=1e-9, err_msg=name)


def test_the_gradient_is_that_of_the_logistic_loss() -> None:
    """A step from fresh arrays, against numerical derivatives of the loss of one stacker."""
    votes, _ = drawn(1, 3, 3, seed=4)
    logs = np.log(0.99 * votes[0].astype(float) + 0.01 / 3)

    def loss(shared: np.ndarray, bias: np.ndarray) -> float:
        return -float(np.log(softmax(bias + (shared[:, None] * logs).sum(axis=0))[1]))

    arrays = stacking.start(ALL, 3)
    start = arrays["shared"][0].copy()
    stacked(arrays, votes, np.array([1.0]))
    moved = (start - arrays["shared"][0]) / 0.01 * np.sqrt(arrays["squares"][0, :, 3] + 1e-6)
    h = 1e-6
    for m in range(3):
        unit = h * np.eye(3)[m]
        slope = (loss(start + unit, np.zeros(3)) - loss(start - unit, np.zeros(3))) / (2 * h)
        assert moved[m] == pytest.approx(slope, rel=1e-5)
    for k in range(3):
        unit = h * np.eye(3)[k]
        slope = (loss(start, unit) - loss(start, -unit)) / (2 * h)
        assert -arrays["bias"][0, k] / 0.01 == pytest.approx(slope, rel=1e-5)


def test_members_that_know_different_things_are_added() -> None:
    """Two members each see one of two independent signs: the best answer adds their logits, which no average does."""
    rng, n = np.random.default_rng(1), 20_000
    logits = rng.choice([-1.5, 1.5], (n, 2))
    y = (rng.random(n) < 1 / (1 + np.exp(-logits.sum(axis=1)))).astype(float)
    each = 1 / (1 + np.exp(-logits))
    votes = np.stack([1 - each, each], axis=2).astype(np.float32)
    arrays = stacking.start(ALL[:2], 2)
    out = stacked(arrays, votes, y)[n // 2 :]
    best = 1 / (1 + np.exp(-logits.sum(axis=1)))[n // 2 :]
    y = y[n // 2 :]

    def log_loss(p: np.ndarray) -> float:
        return float(-np.mean(np.where(y == 1.0, np.log(p), np.log(1 - p))))

    assert log_loss(out[:, 1]) < log_loss(best) + 0.005
    assert log_loss(out[:, 1]) < log_loss(each.mean(axis=1)[n // 2 :]) - 0.03
    assert stacking.weights(arrays) == pytest.approx([1.0, 1.0], abs=0.25)


def test_a_mix_is_little_worse_than_its_best_member_from_the_start() -> None:
    rng = np.random.default_rng(2)
    p = rng.beta(0.3, 0.3, 500)
    y = (rng.random(500) < p).astype(float)
    good, noise = np.stack([1 - p, p], axis=1), rng.dirichlet([2.0, 2.0], 500)
    votes = np.stack([noise, good, noise[::-1]], axis=1).astype(np.float32)
    out = stacked(stacking.start(ALL, 2), votes, y).astype(float)
    chosen = y.astype(int)
    total = -np.log(out[np.arange(500), chosen]).sum()
    best = -np.log(0.99 * good[np.arange(500), chosen] + 0.005).sum()
    assert total < best + np.log(5) + 1.0


def test_a_late_label_is_learned_from_what_was_said_then() -> None:
    """At its prediction member 0 was right and member 1 wrong; when the label comes, it is the other way round."""
    right, wrong = [0.1, 0.9], [0.9, 0.1]
    then = np.tile(np.array([right, wrong], np.float32), (200, 1, 1))
    now = then[:, ::-1].copy()
    y, late = np.ones(200), np.full(200, 5.0)
    arrays = stacking.start(ALL[:2], 2)
    stacked(arrays, now, y, then=then, late=late)
    assert stacking.weights(arrays)[0] > 0.9 > 0.1 > stacking.weights(arrays)[1]


def test_late_labels_take_longer_to_settle_on_a_member() -> None:
    """Member 0 is right on 20 rows that all were answered before the first label: no proof, so no sharp turn."""
    votes = np.tile(np.array([[0.1, 0.9], [0.9, 0.1]], np.float32), (20, 1, 1))
    found = {}
    for patience in (0.0, 25.0):
        arrays = stacking.start(ALL[:2], 2)
        found[patience] = stacked(arrays, votes, np.ones(20), patience, late=np.full(20, 20.0))[-1, 1]
    assert found[0.0] > 0.88 > found[25.0] > 0.7


def test_rows_without_label_or_weight_change_nothing() -> None:
    votes, y = drawn(4, 3, 2)
    arrays = stacking.start(ALL, 2)
    before = {name: array.tobytes() for name, array in arrays.items()}
    y[:] = [np.nan, 1.0, 1.0, np.inf]
    stacked(arrays, votes, y, weight=np.array([1.0, 0.0, np.nan, 1.0], np.float32))
    assert {name: array.tobytes() for name, array in arrays.items()} == before


def test_members_without_features_start_at_nothing_unless_all_are() -> None:
    assert stacking.start(np.array([True, False]), 2)["shared"].tolist() == [[1.0, 0.0]] * 2
    assert stacking.start(np.array([False, False]), 2)["shared"].tolist() == [[0.5, 0.5]] * 2
