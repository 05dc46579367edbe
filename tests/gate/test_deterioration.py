"""The guard: its arithmetic against a plain reference, its delays and its silence in worlds with a known truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn import gate
from everlearn.errors import InputError
from everlearn.gate import deterioration as guard
from everlearn.gate.policy import CandidateVerdict, Contender, RollBack, View, decide
from everlearn.model import copied
from everlearn.records import Arrays, Floats
from everlearn.spec import GateSpec

World = Callable[[np.random.Generator, int], Floats]


def independent(rng: np.random.Generator, n: int) -> Floats:
    return rng.normal(0.0, 0.2, n)


def autoregressive(phi: float) -> World:
    def make(rng: np.random.Generator, n: int) -> Floats:
        shocks, x, last = rng.normal(size=n), np.empty(n), rng.normal()
        for i in range(n):
            last = phi * last + math.sqrt(1.0 - phi * phi) * shocks[i]
            x[i] = 0.2 * last
        return x

    return make


def disasters(p: float) -> World:
    return lambda rng, n: np.where(rng.random(n) < p, 1.0 - p, -p)


def rescues(p: float) -> World:
    return lambda rng, n: np.where(rng.random(n) < p, p - 1.0, p) + rng.normal(0.0, 0.005, n)


def growing(rng: np.random.Generator, n: int) -> Floats:
    return rng.normal(0.0, 0.2, n) * np.arange(n) / n


def bursts(rng: np.random.Generator, n: int) -> Floats:
    return rng.normal(0.0, 0.2, n) * np.where(np.arange(n) // 5_000 % 2 == 0, 0.1, 1.0)


def heavy_tails(rng: np.random.Generator, n: int) -> Floats:
    return rng.standard_t(2, n)


def sampled(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.5, 0.0, np.where(rng.random(n) < 0.05, 20.0, 1.0)).astype(np.float32)


def pareto(rng: np.random.Generator, n: int) -> np.ndarray:
    return (1.0 + rng.pareto(1.5, n)).astype(np.float32)


def fed(d: Floats, weight: np.ndarray | None = None, bound: float = 1.0) -> Arrays:
    arrays = guard.start(bound)
    guard.update(arrays, d, weight)
    return arrays


def same(left: Arrays, right: Arrays) -> bool:
    return left.keys() == right.keys() and all(left[name].tobytes() == right[name].tobytes() for name in left)


def alarmed_at(d: Floats, weight: np.ndarray | None = None, bound: float = 1.0, step: int = 25) -> int:
    """Return the number of rows after which there first is an alarm, 0 if there never is."""
    arrays = guard.start(bound)
    for begin in range(0, len(d), step):
        end = begin + step
        guard.update(arrays, d[begin:end], None if weight is None else weight[begin:end])
        if guard.alarm(arrays):
            return min(end, len(d))
    return 0


def delays(make: World, good: int, worse: float, runs: int = 9, rows: int = 12_000) -> list[int]:
    """Return the number of rows from a change to the alarm, in each run."""
    found = []
    for run in range(runs):
        d = make(np.random.default_rng([run, good]), good + rows)
        d[good:] += worse
        at = alarmed_at(d)
        assert at > good, "no alarm, or one before the change"
        found.append(at - good)
    return found


# ---- the arithmetic ------------------------------------------------------------------------------------------------


@cache
def autocovariances(phi: float, length: int) -> tuple[float, float, float]:
    """Return variance and covariances, one and two apart, of the means of blocks, by summing over pairs of rows."""
    i, j = np.arange(length)[:, None], np.arange(length)[None, :]
    return tuple(float(np.mean(phi ** np.abs(i - j - lag * length))) for lag in range(3))  # type: ignore[return-value]


def factor(near: float, far: float, count: int, phi: float, length: int) -> float:
    """Return the factor from units of independent rows to standard deviations."""
    v, one, two = autocovariances(phi, length)
    # The within-block variance of an autoregression is 1 - v; one block length of rows turns it into the unit.
    prior_near, prior_far = (1.0, 1.0) if phi == 0.0 else (length * (v - one) / (1 - v), length * (v - two) / (1 - v))
    count = min(count, 100)
    near = max((count * near + 20 * prior_near) / (count + 20), 1.0)
    far = max((count * far + 20 * prior_far) / (count + 20), 1.0)
    r = min(max(far / near - 1, 0.0), 0.97)
    return (1 - r) / math.sqrt(near * (1 + r))


def weighted(d: Floats, weight: Floats) -> Floats:
    """Return the weighted differences that count, one for each row."""
    first = int(np.flatnonzero((weight > 0) & (d != 0))[0])
    d, weight = d[first:][weight[first:] > 0], weight[first:][weight[first:] > 0]
    before = np.concatenate([weight[:1], np.cumsum(weight)[:-1] / np.arange(1, len(weight))])
    return np.asarray(d * np.minimum(weight / before, 10.0))


def reference(x: Floats, length: int, level: int, phi: float, bound: float) -> tuple[float, float, float, float]:
    """Return statistic, near, far and within of one block length, computed from all rows at once."""
    blocks = x[: len(x) // length * length].reshape(-1, length)
    means, variances = blocks.mean(axis=1), blocks.var(axis=1, ddof=1)
    if len(means) < 12:
        return 0.0, 0.0, 0.0, 0.0

    def units(mean: float, variance: float) -> float:
        return mean * math.sqrt(length) / math.sqrt(variance) if mean else 0.0

    median = float(np.median(variances[:12]))
    within = float(np.mean(np.minimum(variances[:12], 100 * median) if median > 0 else variances[:12]))
    unseen = bound**2 / (12 * length)
    y = [units(means[i], max(variances[i] / 2, within + unseen)) for i in range(12)]
    near_terms = sorted((y[i] - y[i - 1]) ** 2 / 2 for i in range(1, 12))
    far_terms = sorted((y[i] - y[i - 2]) ** 2 / 2 for i in range(2, 12))
    near, far = 1.3758 * float(np.mean(near_terms[:-1])), 1.9119 * float(np.mean(far_terms[:-2]))
    plain = factor(float(np.mean(near_terms)), float(np.mean(far_terms)), 11, phi, length)
    k, s = min(factor(near, far, 11, phi, length), plain), 0.0
    for i in range(12):
        z = k * (y[i] if means[i] >= 0 else units(means[i], within))
        s = min(max(0.0, s + min(z, 4.0) - 1.0), 24.0)
    for i in range(12, len(means)):
        y.append(units(means[i], max(variances[i] / 2, within + bound**2 / ((i + 1) * length))))
        k = factor(near, far, i, phi, length)
        z = k * (y[i] if means[i] >= 0 else units(means[i], within))
        s = min(max(0.0, s + min(z, 4.0) - 1.0), 24.0)
        rate = max(1 / (i + 1), 0.01)
        near += rate * (min((y[i] - y[i - 1]) ** 2 / 2, 5 * max(near, 1.0)) - near)
        far += rate * (min((y[i] - y[i - 2]) ** 2 / 2, 5 * max(far, 1.0)) - far)
        slow = max(1 / (i + 1), min(0.0025 * 2**level, 0.01))
        within += slow * (min(variances[i], 100 * within) - within)
    return s, near, far, within


def fitted(x: Floats) -> float:
    """Return the coefficient of the autoregression that the first 300 rows give."""
    blocks = x[:300].reshape(12, 25)
    total = float(blocks.var(axis=1, ddof=1).mean() + blocks.mean(axis=1).var())
    phi = 1 - float(np.mean(np.diff(x[:300]) ** 2)) / 2 / total
    return min(max(phi + (1 + 3 * phi) / 300, 0.0), 0.999)


@pytest.mark.parametrize("weigh", [None, sampled, pareto], ids=["equal", "sampled", "pareto"])
@pytest.mark.parametrize(
    "make",
    [independent, autoregressive(0.9), disasters(0.05), heavy_tails, growing],
    ids=["independent", "ar", "disasters", "tails", "growing"],
)
def test_every_length_equals_a_reference_computed_from_all_rows(make: World, weigh: object) -> None:
    rng = np.random.default_rng(0)
    d = make(rng, 13_000)
    d[:7] = 0.0
    d[2_000:2_300] += 0.2
    d[12_800:] += 4 * d.std()
    weight = weigh(rng, len(d)) if callable(weigh) else np.ones(len(d), np.float32)
    arrays = fed(d, weight)
    x = weighted(d, weight.astype(float))
    phi = fitted(x)
    assert arrays["guard_sums"][guard.PERSISTENCE] == pytest.approx(phi, rel=1e-9)
    for level in range(6):
        found = arrays["guard_blocks"][level, [guard.STATISTIC, guard.NEAR, guard.FAR, guard.WITHIN]]
        assert found == pytest.approx(reference(x, 25 << level, level, phi, 1.0), rel=1e-6, abs=1e-8)
    assert arrays["guard_blocks"][:, guard.STATISTIC].max() > 0.0
    assert arrays["guard_sums"][guard.TOTAL] == pytest.approx(x.sum(), rel=1e-9)


@given(cuts=st.lists(st.integers(0, 2_000), max_size=20), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_the_bytes_do_not_depend_on_how_a_stream_is_cut(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    d, weight = rng.normal(0.05, 0.2, 2_000), sampled(rng, 2_000)
    d[rng.random(2_000) < 0.01] = np.nan
    arrays = guard.start(1.0)
    for begin, end in itertools.pairwise([0, *sorted(cuts), 2_000]):
        guard.update(arrays, d[begin:end], weight[begin:end])
    assert same(arrays, fed(d, weight))


def test_the_bytes_are_the_same_row_by_row() -> None:
    d = np.random.default_rng(3).normal(0.05, 0.2, 1_300)
    arrays = guard.start(1.0)
    for i in range(len(d)):
        guard.update(arrays, d[i : i + 1])
    assert same(arrays, fed(d))
    assert guard.evidence(arrays).examples == 1_300


def test_rows_of_weight_zero_change_nothing() -> None:
    rng = np.random.default_rng(4)
    d, weight = rng.normal(0.1, 0.2, 3_000), sampled(rng, 3_000)
    d[weight == 0.0] = rng.choice([1e9, -1e9, np.nan, np.inf], int(np.sum(weight == 0.0)))
    kept = weight > 0.0
    assert same(fed(d, weight), fed(d[kept], weight[kept]))


def test_no_weight_means_weight_one() -> None:
    d = np.random.default_rng(5).normal(0.1, 0.2, 1_000)
    assert same(fed(d), fed(d, np.ones(1_000, np.float32)))


def test_a_weight_counts_up_to_ten_times_the_mean_of_those_before_it() -> None:
    weight = np.ones(26, np.float32)
    weight[25] = 1e6
    d = np.full(26, 0.5)
    assert fed(d, weight)["guard_sums"][guard.TOTAL] == 0.5 * (25 + 10)
    weight[25] = 4.0
    assert fed(d, weight)["guard_sums"][guard.TOTAL] == 0.5 * (25 + 4)


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**30])
def test_the_units_of_loss_and_weight_do_not_matter(scale: float) -> None:
    """Powers of two scale without rounding, so the statistics are the same bytes."""
    rng = np.random.default_rng(6)
    d, weight = rng.normal(0.05, 0.2, 8_000), pareto(rng, 8_000)
    unscaled, scaled = fed(d, weight), fed(scale * d, np.float32(0.25) * weight, scale)
    columns = [guard.STATISTIC, guard.NEAR, guard.FAR, guard.LAST, guard.RISING]
    assert np.array_equal(unscaled["guard_blocks"][:, columns], scaled["guard_blocks"][:, columns])
    assert guard.evidence(scaled).difference == scale * guard.evidence(unscaled).difference


@given(
    values=st.lists(
        st.one_of(
            st.floats(allow_nan=True, allow_infinity=True),
            st.sampled_from([0.0, 1e-300, -1e-300, 1e308, -1e308, 0.3]),
        ),
        min_size=1,
        max_size=12,
    ),
    weights=st.lists(st.sampled_from([0.0, 1e-38, 1.0, 3e38]), min_size=1, max_size=7),
    bound=st.sampled_from([0.0, 1.0, 1e150]),
)
@settings(max_examples=60, deadline=None)
def test_no_input_makes_the_state_infinite_or_nan(values: list[float], weights: list[float], bound: float) -> None:
    d = np.resize(np.array(values), 1_000)
    arrays = fed(d, np.resize(np.array(weights, np.float32), 1_000), bound)
    assert all(np.all(np.isfinite(array)) for array in arrays.values())
    found = guard.verdict(arrays).evidence
    assert all(math.isfinite(value) for value in (found.difference, found.low, found.high, found.log_e_worse))


def test_differences_that_are_not_finite_are_skipped_and_reported() -> None:
    d = np.random.default_rng(7).normal(0.0, 0.2, 100)
    arrays = fed(np.concatenate([d[:50], [np.nan, np.inf, -np.inf], d[50:]]))
    assert np.array_equal(arrays["guard_blocks"], fed(d)["guard_blocks"])
    assert (
        "not shown to be worse on 100 examples, 3 skipped because a loss was not finite" in guard.verdict(arrays).reason
    )


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_wrong_weight_is_refused_before_anything_changes(weight: float) -> None:
    arrays = fed(np.ones(30))
    before = copied(arrays)
    with pytest.raises(InputError, match=r"guard: got weight .* at index 1; expected a finite number"):
        guard.update(arrays, np.ones(3), np.array([1.0, weight, 1.0], np.float32))
    assert same(arrays, before)


def test_wrong_shapes_and_bounds_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(3,\), weights of shape \(2,\) and losses of shape \(3,\)"):
        guard.update(guard.start(), np.ones(3), np.ones(2, np.float32))
    with pytest.raises(InputError, match=r"shape \(3, 1\)"):
        guard.update(guard.start(), np.ones((3, 1)))
    for bound in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="got bound"):
            guard.start(bound)


# ---- delays --------------------------------------------------------------------------------------------------------

LIMITS = {
    0.1: {0: 475, 300: 400, 2_000: 275, 30_000: 325},
    0.3: {0: 325, 300: 475, 2_000: 125, 30_000: 125},
    0.6: {0: 325, 300: 500, 2_000: 125, 30_000: 125},
}
"""The most rows that independent rows may need in the median, by severity and good rows before."""


@pytest.mark.parametrize("good", [0, 300, 2_000, 30_000])
@pytest.mark.parametrize("worse", LIMITS)
def test_independent_rows_are_judged_soon(worse: float, good: int) -> None:
    assert np.median(delays(independent, good, worse, rows=4_000)) <= LIMITS[worse][good]


@pytest.mark.parametrize("good", [0, 300, 2_000, 30_000])
@pytest.mark.parametrize(("worse", "limit"), [(0.3, 1_000), (0.6, 500)])
def test_the_delay_does_not_grow_with_the_good_time_before(worse: float, limit: int, good: int) -> None:
    found = delays(autoregressive(0.9), good, worse, runs=7, rows=6_000)
    assert np.median(found) <= limit


def test_the_start_is_judged_soon() -> None:
    """The worst of 15 runs, 300 rows after the start."""
    assert max(delays(independent, 300, 0.3, 15, 2_000)) <= 300
    assert max(delays(autoregressive(0.9), 300, 0.3, 15, 4_000)) <= 1_500


@pytest.mark.parametrize("good", [100, 150, 225, 290])
def test_a_change_within_the_first_blocks_is_found(good: int) -> None:
    assert max(delays(independent, good, 0.3, 15, 3_000)) <= 1_000


@pytest.mark.parametrize("equal", [0, 2_000, 20_000, 60_000])
def test_losses_in_the_unit_interval_are_judged_within_300_rows(equal: int) -> None:
    rng = np.random.default_rng(1)
    n = equal + 1_000
    good = (0.3 + 0.1 * rng.normal(size=n)).clip(0, 1)
    live = (0.3 + np.where(np.arange(n) < equal, 0.0, 0.3) + 0.1 * rng.normal(size=n)).clip(0, 1)
    assert equal < alarmed_at(live - good) <= equal + 300


@pytest.mark.parametrize("weigh", [sampled, pareto])
def test_weighted_rows_are_judged_soon(weigh: Callable[[np.random.Generator, int], np.ndarray]) -> None:
    rng = np.random.default_rng(8)
    d = rng.normal(0.0, 0.2, 14_000)
    d[10_000:] += 0.3
    assert 10_000 < alarmed_at(d, weigh(rng, len(d))) <= 12_000


def test_only_weighted_rows_decide() -> None:
    """The champion is worse on most rows, of weight 0.01, and better on the others, of weight 1."""
    rng = np.random.default_rng(9)
    heavy = rng.random(6_000) < 0.3
    d = np.where(heavy, -0.2, 0.3) + rng.normal(0.0, 0.2, 6_000)
    assert alarmed_at(d) > 0
    assert alarmed_at(d, np.where(heavy, 1.0, 0.01).astype(np.float32)) == 0


def test_a_slow_decline_is_found_before_it_is_over() -> None:
    rng = np.random.default_rng(10)
    d = rng.normal(0.0, 0.2, 25_000) + np.clip((np.arange(25_000) - 5_000) / 20_000, 0.0, 1.0) * 0.3
    assert 5_000 < alarmed_at(d) <= 10_000


def test_models_that_part_late_are_judged_from_then_on() -> None:
    rng = np.random.default_rng(11)
    assert same(fed(np.zeros(1_000)), guard.start(1.0))
    assert alarmed_at(np.concatenate([np.zeros(20_000), rng.normal(0.3, 0.2, 1_000)])) == 20_300


def test_a_champion_that_is_always_wrong_is_found_without_any_noise() -> None:
    assert alarmed_at(np.ones(1_000)) == 300
    assert alarmed_at(np.concatenate([np.full(5_000, -0.25), np.ones(1_000)])) <= 5_300


def test_one_row_of_any_size_neither_alarms_nor_deafens() -> None:
    rng = np.random.default_rng(12)
    d = rng.normal(0.0, 0.2, 12_000)
    d[3_000] = 1e6
    assert alarmed_at(d[:6_000], bound=0.0) == 0
    d[6_000:] += 0.3
    assert 6_000 < alarmed_at(d, bound=0.0) <= 6_500


def test_the_alarm_ends_when_the_champion_recovers() -> None:
    rng = np.random.default_rng(13)
    d = rng.normal(0.0, 0.2, 12_000)
    d[2_000:6_000] += 0.3
    assert guard.alarm(fed(d[:6_000]))
    assert not guard.alarm(fed(d))


# ---- false alarms --------------------------------------------------------------------------------------------------

NULL: dict[str, World] = {
    "independent": independent,
    "AR(1) 0.5": autoregressive(0.5),
    "AR(1) 0.9": autoregressive(0.9),
    "AR(1) 0.99": autoregressive(0.99),
    "disasters 0.01": disasters(0.01),
    "disasters 0.001": disasters(0.001),
    "rescues 0.01": rescues(0.01),
    "rescues 0.001": rescues(0.001),
    "heavy tails": heavy_tails,
    "growing": growing,
    "bursts": bursts,
}


@pytest.mark.parametrize("name", NULL)
def test_a_long_stream_of_a_null_world_has_no_alarm(name: str) -> None:
    assert alarmed_at(NULL[name](np.random.default_rng(14), 150_000)) == 0


@pytest.mark.parametrize("name", [name for name in NULL if name != "AR(1) 0.99"])
def test_starts_in_a_null_world_have_no_alarm(name: str) -> None:
    d = NULL[name](np.random.default_rng(15), 100_000).reshape(-1, 1_000)
    assert sum(alarmed_at(stream) > 0 for stream in d) == 0


@pytest.mark.parametrize("weigh", [sampled, pareto])
@pytest.mark.parametrize("name", ["independent", "AR(1) 0.9", "disasters 0.01"])
def test_weights_add_no_alarm(name: str, weigh: Callable[[np.random.Generator, int], np.ndarray]) -> None:
    rng = np.random.default_rng(16)
    assert alarmed_at(NULL[name](rng, 100_000), weigh(rng, 100_000)) == 0


def test_a_known_bound_keeps_rescues_that_have_not_come_yet_in_mind() -> None:
    """Worse by 0.01 on most rows, better by 1 on one in 100: without a bound, streams that start with a gap mislead."""
    streams = rescues(0.01)(np.random.default_rng(17), 100_000).reshape(-1, 1_000)
    assert sum(alarmed_at(d) > 0 for d in streams) == 0
    assert sum(alarmed_at(d, bound=0.0) > 0 for d in streams) > 5


def test_the_e_detector_has_its_run_length_where_its_premise_holds() -> None:
    """For standard normal z, exp(2 z - 2) has mean 1, so exp(2 S) passes exp(2 h) at most once in exp(2 h) blocks."""
    z = np.random.default_rng(18).normal(size=400_000)
    statistic, alarms, h = 0.0, 0, 3.0
    for value in z:
        statistic = max(0.0, statistic + value - guard.ALLOWANCE)
        if statistic > h:
            statistic, alarms = 0.0, alarms + 1
    assert np.exp(2 * z - 2).mean() == pytest.approx(1.0, abs=0.1)
    assert 0 < alarms <= len(z) * math.exp(-2 * h)


# ---- the verdict ---------------------------------------------------------------------------------------------------


def test_the_verdict_describes_the_stretch_since_the_change() -> None:
    rng = np.random.default_rng(19)
    d = rng.normal(0.0, 0.2, 4_000)
    d[3_000:] += 0.3
    verdict = guard.verdict(fed(d))
    found = verdict.evidence
    assert verdict.action == "reject"
    assert found.examples == 4_000
    assert 900 <= found.block * found.blocks <= 1_100
    assert found.low < -0.3 < found.high < 0.0
    assert found.difference == pytest.approx(-0.3, abs=0.03)
    assert found.log_e_worse > found.threshold == 24.0
    assert verdict.reason.endswith("of 4000 examples")


def test_the_policy_rolls_back_on_it() -> None:
    champion, good = Contender(0, "champion", "v2", learns=True), Contender(1, "good", "v1")
    worse, fine = guard.verdict(fed(np.full(400, 0.25))), guard.verdict(fed(np.full(400, -0.25)))
    view = View(True, (champion, good), (CandidateVerdict(champion, worse),))
    assert decide(view) == [RollBack(1, "worse by 0.25 on the last 400 of 400 examples", worse.evidence)]
    assert decide(View(True, (champion, good), (CandidateVerdict(champion, fine),))) == []


# ---- what matters --------------------------------------------------------------------------------------------------


def measured(worse: float, loss: float, n: int = 4_000) -> Arrays:
    """Return a guard after n rows of a good version with this mean loss, and a champion that is worse by `worse`."""
    rng, arrays = np.random.default_rng(23), guard.start()
    good = rng.normal(loss, 0.1 * loss, n)
    guard.update(arrays, rng.normal(worse, 0.02 * loss, n), good=good)
    return arrays


@pytest.mark.parametrize("loss", [0.5, 0.01])
def test_a_shown_difference_below_a_tenth_of_the_loss_is_reported_and_stays(loss: float) -> None:
    arrays = measured(0.05 * loss, loss)
    assert not guard.alarm(arrays)
    assert guard.least(arrays) == pytest.approx(0.1 * loss, rel=0.05)
    found = guard.verdict(arrays)
    assert found.action == "wait"
    assert found.evidence.log_e_worse > found.evidence.threshold
    assert "; a rollback needs" in found.reason
    assert found.reason.endswith("10% of the good version's loss")


@pytest.mark.parametrize("loss", [0.5, 0.01])
def test_a_difference_of_a_fifth_of_the_loss_is_an_alarm(loss: float) -> None:
    assert guard.verdict(measured(0.2 * loss, loss)).action == "reject"


def test_one_disaster_of_the_good_version_does_not_silence_the_guard() -> None:
    rng, arrays = np.random.default_rng(29), guard.start()
    good = np.full(2_000, 0.3)
    good[1_000] = 1e6
    guard.update(arrays, np.where(np.arange(2_000) > 1_200, 0.3, 0.0) + rng.normal(0.0, 0.1, 2_000), good=good)
    assert guard.alarm(arrays)


def test_a_good_version_that_was_always_right_makes_every_difference_matter() -> None:
    arrays = guard.start()
    guard.update(arrays, np.full(400, 0.01), good=np.zeros(400))
    assert guard.least(arrays) == 0.0
    assert guard.alarm(arrays)


def test_the_gate_of_a_champion_keeps_what_is_worse_by_little() -> None:
    spec, rng = GateSpec(), np.random.default_rng(31)
    for worse, action in ((0.01, "wait"), (0.1, "reject")):
        arrays = gate.start(spec)
        good = (0.3 + 0.02 * rng.normal(size=20_000)).clip(0.0, 1.0)
        gate.update(arrays, spec, good, (good + worse + 0.02 * rng.normal(size=20_000)).clip(0.0, 1.0))
        verdict = gate.verdict(arrays, spec)
        assert verdict.action == action
        assert verdict.reason.startswith("worse by 0.")
        assert ("; a rollback needs at least 0.0" in verdict.reason) is (action == "wait")
        unguarded = gate.start(spec, guard=False)
        gate.update(unguarded, spec, good, (good + worse).clip(0.0, 1.0))
        assert gate.verdict(unguarded, spec).action == "reject"
