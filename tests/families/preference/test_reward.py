"""The reward head's scores, learning label by label, what leaves the window, biases and features."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.errors import InputError
from everlearn.families.preference import reward
from everlearn.families.preference.laplace import COUNT, TOTAL
from everlearn.families.preference.reward import Pairs
from everlearn.records import Floats

WIDTH, GROUPS = 6, 3


def drawn(n: int, seed: int = 0, scale: float = 1.0) -> tuple[Pairs, Floats]:
    """Return pairs judged by a Bradley-Terry model with shared and per-group weights, and these weights."""
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(2, n, WIDTH)).astype(np.float32) / np.sqrt(WIDTH)
    group = random.integers(GROUPS, size=n)
    weights = random.normal(size=(1 + GROUPS, WIDTH)) * scale * np.sqrt([[1.0], *[[3.0]] * GROUPS])  # the prior
    logit = np.einsum("nd,nd->n", first - second, weights[0] + weights[1 + group])
    return reward.pairs(first, second, random.random(n) < 1 / (1 + np.exp(-logit)), group), weights


def test_learning_does_not_depend_on_how_labels_are_cut_into_calls() -> None:
    judged, _ = drawn(150)
    whole, cut = (reward.start(WIDTH, groups=GROUPS, window=128) for _ in range(2))
    reward.learn(whole, judged)
    for begin, end in ((0, 1), (1, 70), (70, 133), (133, 150)):
        reward.learn(cut, reward.taken(judged, slice(begin, end)))
    for name, array in whole.items():
        assert array.tobytes() == cut[name].tobytes(), name


def test_names_shapes_and_dtypes_never_change() -> None:
    head = reward.start(WIDTH, groups=GROUPS, window=128)
    before = {name: (array.shape, array.dtype, id(array)) for name, array in head.items()}
    reward.learn(head, drawn(200)[0])
    reward.forget(head, 1, 16)
    reward.fit(head)
    assert {name: (array.shape, array.dtype, id(array)) for name, array in head.items()} == before


def test_the_head_moves_with_every_label() -> None:
    judged, _ = drawn(300)
    head = reward.start(WIDTH, groups=GROUPS)
    for row in range(300):
        before = head["weights"].copy()
        reward.learn(head, reward.taken(judged, slice(row, row + 1)))
        assert np.abs(head["weights"] - before).max() > 1e-6


def test_cheap_steps_stay_close_to_the_full_fit_and_reach_it() -> None:
    judged, _ = drawn(400)
    quick, full = (reward.start(WIDTH, groups=GROUPS) for _ in range(2))
    for head in (quick, full):
        reward.append(head, reward.taken(judged, slice(0, 380)))
        reward.fit(head)
    reward.append(full, reward.taken(judged, slice(380, 386)))
    reward.fit(full)
    before = np.linalg.norm(quick["weights"] - full["weights"])
    for row in range(380, 386):  # the next fit is due at the sixth
        reward.append(quick, reward.taken(judged, slice(row, row + 1)))
        reward.refine(quick)
    assert np.linalg.norm(quick["weights"] - full["weights"]) < 0.5 * before
    reward.refine(quick, 2000)
    np.testing.assert_allclose(quick["weights"], full["weights"], atol=1e-4)


def test_predictions_average_over_the_posterior_and_are_calibrated() -> None:
    scores = []
    for seed in range(20):
        judged, _ = drawn(1200, seed)
        head = reward.start(WIDTH, groups=GROUPS)
        reward.append(head, reward.taken(judged, slice(0, 200)))
        reward.fit(head)
        fresh = reward.taken(judged, slice(200, 1200))
        p = reward.predict(head, fresh)
        confident = np.abs(p - 0.5) > 0.3
        sure = np.maximum(p, 1 - p)[confident]
        scores.append(np.mean((p > 0.5)[confident] == (fresh.label > 0.5)[confident]) - sure.mean())
        swapped = fresh._replace(first=fresh.second, second=fresh.first)
        np.testing.assert_allclose(reward.predict(head, swapped), 1 - p, atol=1e-12)
    assert abs(np.mean(scores)) < 0.02


def test_biases_of_a_source_are_recovered_and_kept_out_of_the_reward() -> None:
    random = np.random.default_rng(1)
    judged, weights = drawn(2000, 1)
    terms = random.normal(size=(2000, 3))
    kind = random.integers(3, size=2000)  # 0 is trusted; 1 loves length and the left side, 2 format
    true = np.array([[0.0, 0.0, 0.0], [2.0, 0.7, 0.0], [-0.5, 0.0, 1.5]])
    difference = judged.first - judged.second
    logit = np.einsum("nd,nd->n", difference, weights[0] + weights[1 + judged.group])
    logit += np.einsum("nt,nt->n", terms, true[kind])
    judged = judged._replace(label=(random.random(2000) < 1 / (1 + np.exp(-logit))) * 1.0, kind=kind, terms=terms)
    head = reward.start(WIDTH, groups=GROUPS, kinds=3)
    reward.append(head, judged)
    reward.fit(head)
    np.testing.assert_allclose(head["bias"], true, atol=0.35)
    assert not head["bias"][0].any()
    x = random.normal(size=(500, WIDTH)).astype(np.float32)
    mean, _ = reward.score(head, x, np.zeros(500, np.int64))
    assert np.corrcoef(mean, x @ (weights[0] + weights[1]))[0, 1] > 0.97


def test_without_the_bias_terms_a_length_lover_spoils_the_reward() -> None:
    random = np.random.default_rng(2)
    n = 1000
    x = random.normal(size=(2, n, 2)).astype(np.float32)  # column 1 is the length
    longer = x[0, :, 1] - x[1, :, 1]
    logit = x[0, :, 0] - x[1, :, 0] + np.where(np.arange(n) % 8, 3.0, -1.0) * longer
    label = (random.random(n) < 1 / (1 + np.exp(-logit))) * 1.0
    terms = np.stack([longer, np.zeros(n), np.zeros(n)], 1).astype(np.float64)
    slopes = []
    for kind in (np.zeros(n, np.int64), np.sign(np.arange(n) % 8)):
        head = reward.start(2, kinds=2)
        reward.append(head, reward.pairs(x[0], x[1], label)._replace(kind=kind, terms=terms))
        reward.fit(head)
        slopes.append(head["weights"].sum(0)[1])
    assert slopes[0] > 1.0
    assert slopes[1] < -0.5


def test_what_leaves_the_window_is_kept() -> None:
    judged, _ = drawn(1500, 3)
    short, long = reward.start(WIDTH, groups=GROUPS, window=256), reward.start(WIDTH, groups=GROUPS, window=2048)
    for begin in range(0, 1500, 50):
        reward.append(short, reward.taken(judged, slice(begin, begin + 50)))
        reward.fit(short)
    reward.append(long, judged)
    reward.fit(long)
    only = reward.start(WIDTH, groups=GROUPS, window=256)
    reward.append(only, reward.taken(judged, slice(1244, 1500)))
    reward.fit(only)
    exact, close, forgetful = ((head["weights"][0] + head["weights"][1:]).ravel() for head in (long, short, only))
    assert np.abs(close - exact).mean() < 0.2 * np.abs(forgetful - exact).mean()
    spread = [(head["deviations"][:, :1] + head["deviations"][:, 1:]).std() for head in (long, short)]
    assert spread[1] == pytest.approx(spread[0], rel=0.35)


def test_a_label_that_leaves_does_not_move_the_mode() -> None:
    judged, _ = drawn(256, 4)
    kind = np.arange(256) % 2
    terms = np.random.default_rng(4).normal(size=(256, 3))
    head = reward.start(WIDTH, groups=GROUPS, kinds=2, window=256)
    reward.append(head, judged._replace(kind=kind, terms=terms))
    reward.fit(head)
    before = head["weights"].copy(), head["bias"].copy()
    reward.absorb(head, 64)
    assert head["learn/counts"][[COUNT, TOTAL]].tolist() == [192, 256]
    reward.fit(head)
    np.testing.assert_allclose(head["weights"], before[0], atol=1e-4)
    np.testing.assert_allclose(head["bias"], before[1], atol=1e-4)


def test_forgetting_a_group_drops_its_old_labels_alone() -> None:
    judged, _ = drawn(300, 5)
    head = reward.start(WIDTH, groups=GROUPS)
    reward.append(head, judged)
    dropped = reward.forget(head, 1, newest=60)
    assert dropped == int((judged.group[:240] == 1).sum())
    assert head["learn/counts"][COUNT] == 300 - dropped
    kept = (judged.group != 1) | (np.arange(300) >= 240)
    other = reward.start(WIDTH, groups=GROUPS)
    reward.append(other, reward.taken(judged, np.flatnonzero(kept)))
    reward.fit(head)
    reward.fit(other)
    np.testing.assert_allclose(head["weights"], other["weights"], atol=1e-4)


def test_a_head_without_groups_gives_answers_the_whole_prior_variance() -> None:
    head = reward.start(8, draws=4000)
    x = np.zeros((1, 8), np.float32)
    x[0, 0] = 1.0
    _, draws = reward.score(head, x, np.zeros(1, np.int64))
    assert draws.var() == pytest.approx(reward.VARIANCE, rel=0.1)


def test_strangeness_is_standard_on_answers_like_the_known_and_high_elsewhere() -> None:
    random = np.random.default_rng(6)
    x = random.normal(size=(2, 3000, 50)).astype(np.float32)
    head = reward.start(50)
    reward.append(head, reward.pairs(x[0], x[1], np.ones(3000)))
    fresh = random.normal(size=(3000, 50)).astype(np.float32)
    found = reward.strangeness(head, fresh)
    assert abs(found.mean()) < 0.1
    assert found.std() == pytest.approx(1.0, abs=0.1)
    assert (reward.strangeness(head, 2 * fresh) > 4).mean() > 0.99


def test_centred_rewards_sum_to_zero_in_each_prompt() -> None:
    random = np.random.default_rng(7)
    values, prompt = random.normal(size=(40, 8)), random.integers(5, size=40)
    found = reward.centred(values, prompt)
    for one in range(5):
        rows = prompt == one
        np.testing.assert_allclose(found[rows], values[rows] - values[rows].mean(0), atol=1e-12)


def test_whitened_features_are_uncorrelated_with_one_variance() -> None:
    random = np.random.default_rng(8)
    x = (random.normal(size=(400, 5)) @ random.normal(size=(5, 5)) + 3.0).astype(np.float32)
    found = reward.whitened(reward.whiten(x), x)
    np.testing.assert_allclose(found.T @ found / 400, np.eye(5) / 5, atol=1e-4)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)


def test_half_whitened_features_keep_the_square_roots_of_their_deviations() -> None:
    x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) * np.float32([1, 4, 16])
    found = reward.whitened(reward.whiten(x, whitening=0.5), x)
    spread = found.std(0)
    assert spread[:-1] / spread[1:] == pytest.approx([2.0, 2.0], rel=0.1)
    assert np.square(found).sum(1).mean() == pytest.approx(1.0, rel=1e-3)
    raw = reward.whitened(reward.whiten(x, whitening=0.0), x)
    assert raw.std(0)[0] / raw.std(0)[2] == pytest.approx(16.0, rel=0.2)


def test_whitening_keeps_the_largest_directions_and_leaves_out_empty_ones() -> None:
    random = np.random.default_rng(9)
    x = (random.normal(size=(300, 20)) * np.array([10.0] * 4 + [1.0] * 4 + [0.0] * 12)).astype(np.float32)
    assert reward.whitened(reward.whiten(x, 4), x).shape == (300, 4)
    wide = reward.whitened(reward.whiten(x), x)
    assert wide.shape == (300, 20)
    assert (np.abs(wide).max(0) > 0).sum() == 8
    few = reward.whiten(x[:5], 16)
    assert few["mapping"].shape == (20, 16)  # the shape does not depend on the rows


def test_unusable_pairs_and_sizes_are_refused() -> None:
    judged, _ = drawn(4)
    head = reward.start(WIDTH, groups=GROUPS)
    with pytest.raises(InputError, match="group: got numbers 3 to 3; expected 0 to 2"):
        reward.append(head, judged._replace(group=np.full(4, 3)))
    with pytest.raises(InputError, match="first: got a number that is not finite"):
        reward.append(head, judged._replace(first=judged.first * np.float32("nan")))
    with pytest.raises(InputError, match="window of at least 128"):
        reward.start(3, window=100)
    with pytest.raises(InputError, match="features: got 1 rows"):
        reward.whiten(np.ones((1, 3), np.float32))
    assert head["learn/counts"][TOTAL] == 0
