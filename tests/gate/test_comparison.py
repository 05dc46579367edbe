"""The gate: its arithmetic against closed forms and other computations, its verdicts in worlds with a known truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from everlearn import gate
from everlearn.errors import ConfigError, InputError
from everlearn.gate import kernels
from everlearn.model import copied
from everlearn.records import Arrays, Floats
from everlearn.spec import GateSpec

Pairs = tuple[Floats, Floats]


def pairs(difference: Floats) -> Pairs:
    """Return losses in [0, 1] with this difference."""
    return 0.5 + 0.5 * difference, 0.5 - 0.5 * difference


def noisy(better: float, n: int, seed: int = 0) -> Pairs:
    return pairs(np.clip(np.random.default_rng(seed).normal(better, 0.2, n), -1.0, 1.0))


def fed(spec: GateSpec, losses: Pairs) -> Arrays:
    arrays = gate.start(spec)
    gate.update(arrays, spec, *losses)
    return arrays


def promoted_at(spec: GateSpec, losses: Pairs, tick: int = 100) -> int:
    """Return the example after which the gate first promotes, 0 if never."""
    arrays = gate.start(spec)
    for begin in range(0, len(losses[0]), tick):
        gate.update(arrays, spec, losses[0][begin : begin + tick], losses[1][begin : begin + tick])
        if gate.verdict(arrays, spec).action == "promote":
            return begin + tick
    return 0


def same(left: Arrays, right: Arrays) -> bool:
    return left.keys() == right.keys() and all(left[name].tobytes() == right[name].tobytes() for name in left)


def capital(arrays: Arrays, direction: int = kernels.BETTER) -> float:
    return math.exp(kernels.log_capital(arrays["capital"][kernels.LOSS, direction]))


# ---- the arithmetic ---------------------------------------------------------------------------------------------


def test_capital_is_the_mean_of_products_computed_by_hand() -> None:
    arrays = fed(GateSpec(), pairs(np.array([0.5, -0.25])))
    by_hand = [1.4 * 0.8, 1.2 * 0.9, 1.1 * 0.95, 1.05 * 0.975]  # stakes 0.8, 0.4, 0.2, 0.1
    by_hand += [(1 + 0.5 * stake) * (1 - 0.25 * stake) for stake in (0.05, 0.025, 0.0125, 0.00625)]
    assert capital(arrays) == pytest.approx(sum(by_hand) / 8, rel=1e-12)


def test_capital_survives_a_long_stream_without_overflow() -> None:
    arrays = fed(GateSpec(), pairs(np.ones(5000)))
    better = kernels.log_capital(arrays["capital"][kernels.LOSS, kernels.BETTER])
    worse = kernels.log_capital(arrays["capital"][kernels.LOSS, kernels.WORSE])
    assert better == pytest.approx(5000 * math.log(1.8) - math.log(8), rel=1e-9)
    assert worse == pytest.approx(5000 * math.log(1 - 0.00625) - math.log(8), rel=1e-9)


@pytest.mark.parametrize(("win", "lose"), [(1.0, -1.0), (0.25, -1.0), (0.5, -0.25)])
def test_ville_holds_exactly_over_every_stream_of_a_fair_game(win: float, lose: float) -> None:
    """All 4,096 streams of 12 fair games, with their probabilities: the mean capital is 1, the bound holds."""
    p = -lose / (win - lose)
    mean, reached = 0.0, dict.fromkeys((2.0, 5.0, 20.0), 0.0)
    for stream in itertools.product((win, lose), repeat=12):
        chance = math.prod(p if x == win else 1 - p for x in stream)
        arrays, spec, most = gate.start(GateSpec()), GateSpec(), 1.0
        for loss in zip(*pairs(np.array(stream)), strict=True):
            gate.update(arrays, spec, *(np.array([x]) for x in loss))
            most = max(most, capital(arrays))
        mean += chance * capital(arrays)
        for level in reached:
            reached[level] += chance * (most >= level)
    assert mean == pytest.approx(1.0, rel=1e-9)
    assert all(share <= 1.0 / level for level, share in reached.items())
    assert reached[2.0] > 0.0  # the bound is not met by never betting


@pytest.mark.parametrize("t", [1.0, 2.5, 4.0])
@pytest.mark.parametrize("blocks", [12, 40, 400])
def test_log_e_is_the_bayes_factor_of_the_t_test(t: float, blocks: int) -> None:
    """Integrate the likelihood ratio of t over effects with a half-normal prior; few blocks agree within 5%."""
    examples = blocks * 8.0
    g = kernels.PRIOR * examples / blocks

    def ratio(effect: float) -> float:
        likelihood = stats.nct.pdf(t, blocks - 1, effect * math.sqrt(blocks)) / stats.t.pdf(t, blocks - 1)
        return float(2.0 * stats.norm.pdf(effect, scale=math.sqrt(g)) * likelihood)

    expected, _ = integrate.quad(ratio, 0.0, 6.0 * math.sqrt(g))
    away = t * math.sqrt(1.0 / (blocks - 1))  # in standard deviations of the blocks (divided by n, not n - 1)
    assert math.exp(kernels._log_e(away, 1.0, blocks, examples)) == pytest.approx(
        expected, rel=0.05 if blocks < 40 else 0.02
    )


@given(st.floats(0.01, 2.0), st.floats(20.0, 1e4), st.floats(1.0, 1e3), st.floats(1.0, 6.0))
def test_the_interval_ends_where_the_mixture_reaches_the_threshold(
    variance: float, blocks: float, length: float, threshold: float
) -> None:
    examples = blocks * length
    half = kernels.half_width(variance, blocks, examples, threshold)
    if half < 2.0:
        prior = kernels.PRIOR * examples
        u = half**2 / (half**2 + variance)
        mixture = -0.5 * math.log1p(prior) - 0.5 * blocks * math.log1p(-u * prior / (1.0 + prior))
        assert mixture == pytest.approx(threshold, rel=1e-6)


def test_blocks_hold_the_sums_of_a_reshaped_stream() -> None:
    difference = np.random.default_rng(1).uniform(-1, 1, 1000)
    blocks = fed(GateSpec(), pairs(difference))["blocks"][kernels.LOSS]
    for level in range(10):
        length = 1 << level
        sums = difference[: 1000 // length * length].reshape(-1, length).sum(axis=1)
        expected = [len(sums), sums.sum(), (sums**2).sum(), (sums[1:] * sums[:-1]).sum(), sums[0], sums[-1]]
        np.testing.assert_allclose(blocks[level, :6], expected, rtol=1e-9, atol=1e-9)


def test_resemblance_is_the_corrected_autocorrelation() -> None:
    x = np.cumsum(np.random.default_rng(2).normal(0, 0.01, 300))
    blocks = fed(GateSpec(), pairs(x))["blocks"][kernels.LOSS]
    centred = x - x.mean()
    r = (centred[1:] * centred[:-1]).sum() / (centred**2).sum()
    cautious = r + (1 + 4 * r) / 300 + 0.25 / math.sqrt(300)
    assert kernels.resemblance(blocks[0]) == pytest.approx(cautious, rel=1e-9)
    mean, variance, independent = kernels._describe(blocks[0], 1.0, 0.0)
    assert (mean, variance) == pytest.approx((x.mean(), x.var()), rel=1e-9)
    assert independent == pytest.approx(300 * (1 - cautious) / (1 + cautious), rel=1e-9)


def test_resemblance_around_a_line_is_that_of_the_residuals() -> None:
    rng, k = np.random.default_rng(2), np.arange(1.0, 301.0)
    x = np.cumsum(rng.normal(0, 0.01, 300)) + 0.001 * k
    sums = fed(GateSpec(), pairs(x))["blocks"][kernels.LOSS, 0]
    slope, start = np.polyfit(k, x, 1)
    rest = x - start - slope * k
    assert kernels._slope(sums) == pytest.approx(slope, rel=1e-9)
    r = (rest[1:] * rest[:-1]).sum() / (rest**2).sum()
    cautious = r + (2 + 4 * r) / 300 + 1.25 / math.sqrt(300)
    assert kernels.trend_resemblance(sums, slope) == pytest.approx(cautious, rel=1e-7)
    mean, variance, independent = kernels._describe(sums, 1.0, slope)
    assert (mean, variance) == pytest.approx((x.mean(), (rest**2).sum() / 299), rel=1e-7)
    assert independent == pytest.approx(300 * (1 - cautious) / (1 + cautious), rel=1e-7)


def test_a_candidate_that_improves_while_it_is_compared_is_promoted_soon() -> None:
    """Without the line, the trend looks like correlated noise, and no length of blocks is heard for 20,000 rows."""
    d = np.linspace(-0.005, 0.08, 6000) + np.random.default_rng(3).normal(0.0, 0.05, 6000)
    assert 500 < promoted_at(GateSpec(), pairs(d)) <= 2500


def test_a_candidate_that_gets_worse_is_not_promoted_for_its_line() -> None:
    d = np.linspace(0.03, -0.08, 6000) + np.random.default_rng(4).normal(0.0, 0.2, 6000)
    assert promoted_at(GateSpec(), pairs(d)) == 0


# ---- state: named arrays, whatever the cuts -----------------------------------------------------------------------


@given(
    cuts=st.lists(st.integers(0, 1500), max_size=6),
    cycle=st.sampled_from([0, 1, 7, 300]),
    loss=st.sampled_from(["brier", "absolute"]),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_the_result_does_not_depend_on_the_cuts(cuts: list[int], cycle: int, loss: str, seed: int) -> None:
    spec = GateSpec(loss=loss, cycle=cycle, guards={"recall:a": 0.01})
    rng = np.random.default_rng(seed)
    reference, candidate = rng.random(1500), rng.random(1500)
    reference[rng.random(1500) < 0.01] = np.nan
    at_once, in_pieces = fed(spec, (reference, candidate)), gate.start(spec)
    gate.update_guard(at_once, spec, "recall:a", reference, candidate)
    for begin, end in itertools.pairwise(sorted({0, 1500, *cuts})):
        gate.update(in_pieces, spec, reference[begin:end], candidate[begin:end])
        gate.update_guard(in_pieces, spec, "recall:a", reference[begin:end], candidate[begin:end])
    assert same(at_once, in_pieces)
    assert gate.verdict(at_once, spec) == gate.verdict(in_pieces, spec)


def test_asking_changes_nothing() -> None:
    spec = GateSpec(guards={"recall:a": 0.1}, cycle=100)
    arrays = fed(spec, noisy(0.05, 3000))
    before = copied(arrays)
    assert gate.verdict(arrays, spec) == gate.verdict(arrays, spec)
    assert gate.evidence(arrays, spec) == gate.verdict(arrays, spec).evidence
    assert same(arrays, before)


def test_arrays_never_grow() -> None:
    spec = GateSpec(cycle=50)
    arrays = gate.start(spec)
    before = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    gate.update(arrays, spec, *noisy(0.0, 50_000))
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == before


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_pair_that_is_not_finite_is_skipped_and_counted(bad: float) -> None:
    spec = GateSpec(minimum=2000)
    reference, candidate = noisy(0.05, 1000)
    dirty = fed(spec, (np.insert(reference, [10, 500], [bad, 0.5]), np.insert(candidate, [10, 500], [0.5, bad])))
    clean = fed(spec, (reference, candidate))
    assert gate.evidence(dirty, spec) == gate.evidence(clean, spec)
    assert gate.verdict(dirty, spec).reason == "1000 of at least 2000 examples compared, 2 skipped because a loss " + (
        "was not finite"
    )
    assert all(np.isfinite(array).all() for array in dirty.values())


@pytest.mark.parametrize(("loss", "value"), [("brier", 1.5), ("error", -0.5), ("log_loss", -1.0), ("auto", 2.0)])
def test_an_impossible_loss_is_refused_before_anything_changes(loss: str, value: float) -> None:
    spec = GateSpec(loss=loss)
    arrays = gate.start(spec)
    with pytest.raises(InputError, match=rf"{loss}.*candidate loss {value:g} at index 1; expected"):
        gate.update(arrays, spec, np.array([0.1, 0.2]), np.array([0.1, value]))
    assert same(arrays, gate.start(spec))


def test_shapes_must_fit() -> None:
    spec = GateSpec()
    with pytest.raises(InputError, match=r"\(3,\) and \(2,\)"):
        gate.update(gate.start(spec), spec, np.zeros(3), np.zeros(2))


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (GateSpec(alpha=0.0), "alpha"),
        (GateSpec(alpha=1.0), "alpha"),
        (GateSpec(tolerance=-0.1), "tolerance"),
        (GateSpec(tolerance=math.nan), "tolerance"),
        (GateSpec(minimum=-1), "minimum"),
        (GateSpec(cycle=-1), "cycle"),
        (GateSpec(guards={"recall:a": 1.0}), "recall:a"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(spec: GateSpec, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        gate.start(spec)


def test_a_share_of_alpha_is_checked_and_raises_the_threshold() -> None:
    spec = GateSpec()
    arrays = fed(spec, noisy(0.0, 1000))
    assert gate.evidence(arrays, spec).threshold == pytest.approx(math.log(20))
    assert gate.evidence(arrays, spec, share=0.25).threshold == pytest.approx(math.log(80))
    with pytest.raises(ConfigError, match="share"):
        gate.verdict(arrays, spec, share=0.0)


# ---- verdicts -------------------------------------------------------------------------------------------------------


def test_defaults_promote_what_is_better_reject_what_is_worse_and_wait_for_the_rest() -> None:
    spec = GateSpec()
    better, worse, equal = (gate.verdict(fed(spec, noisy(d, 5000)), spec) for d in (0.05, -0.1, 0.0))
    assert (better.action, worse.action, equal.action) == ("promote", "reject", "wait")
    assert better.reason.startswith("better by 0.0")
    assert worse.reason.startswith("worse by 0.1")
    assert "log e" in equal.reason
    assert better.evidence.low < 0.05 < better.evidence.high
    assert better.evidence.low > 0.0 > worse.evidence.high


def test_swapping_the_models_swaps_the_evidence() -> None:
    spec = GateSpec()
    reference, candidate = noisy(0.03, 3000)
    one, other = (gate.evidence(fed(spec, losses), spec) for losses in ((reference, candidate), (candidate, reference)))
    assert one.log_e_better == pytest.approx(other.log_e_worse, rel=1e-9)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), rel=1e-9)


def test_nothing_is_decided_before_the_minimum() -> None:
    spec = GateSpec(minimum=400)
    losses = noisy(0.3, 1000, seed=1)
    assert gate.verdict(gate.start(spec), spec).action == "wait"
    assert gate.verdict(fed(spec, (losses[0][:399], losses[1][:399])), spec).action == "wait"
    assert gate.verdict(fed(spec, (losses[0][:400], losses[1][:400])), spec).action == "promote"


def test_identical_models_wait_for_ever() -> None:
    spec = GateSpec()
    arrays = fed(spec, (np.full(20_000, 0.3), np.full(20_000, 0.3)))
    found = gate.verdict(arrays, spec)
    assert found.action == "wait"
    assert found.evidence.difference == 0.0


def test_better_by_less_than_the_tolerance_is_not_enough() -> None:
    assert promoted_at(GateSpec(), noisy(0.03, 10_000)) > 0
    assert promoted_at(GateSpec(tolerance=0.05), noisy(0.03, 10_000)) == 0
    assert promoted_at(GateSpec(tolerance=0.01), noisy(0.03, 10_000)) > 0


def test_with_a_cycle_evidence_is_read_after_whole_cycles_only() -> None:
    spec = GateSpec(cycle=1000)
    reference, candidate = noisy(0.05, 2500)
    arrays = fed(spec, (reference[:999], candidate[:999]))
    assert gate.evidence(arrays, spec).examples == 0
    gate.update(arrays, spec, reference[999:1000], candidate[999:1000])
    after_one = gate.evidence(arrays, spec)
    assert after_one.examples == 1000
    gate.update(arrays, spec, reference[1000:1999], candidate[1000:1999])
    assert gate.evidence(arrays, spec) == after_one
    gate.update(arrays, spec, reference[1999:], candidate[1999:])
    assert gate.evidence(arrays, spec).examples == 2000


def test_whole_cycles_tell_what_blocks_cannot() -> None:
    """Better by 0.12 and worse by 0.08 in turns: the halves of a turn contradict each other, whole turns agree."""
    turns = np.where(np.arange(8000) % 1000 < 500, -0.08, 0.12)
    streams = [pairs(turns + np.random.default_rng(seed).normal(0.0, 0.1, 8000)) for seed in range(20)]
    assert sum(promoted_at(GateSpec(), losses) > 0 for losses in streams) == 0
    at = [promoted_at(GateSpec(cycle=1000), losses) for losses in streams]
    assert all(example % 1000 == 0 for example in at)
    assert sum(example > 0 for example in at) >= 15


def test_blocks_longer_than_a_turn_are_heard_though_shorter_ones_contradict() -> None:
    """No cycle declared; the turns are short, so that there are soon enough blocks of several turns."""
    turns = np.where(np.arange(8000) % 128 < 64, -0.17, 0.23)
    streams = [pairs(turns + np.random.default_rng(seed).normal(0.0, 0.1, 8000)) for seed in range(20)]
    assert sum(promoted_at(GateSpec(), losses) > 0 for losses in streams) >= 18


# ---- guards --------------------------------------------------------------------------------

GUARDED = GateSpec(guards={"recall:yes": 0.05})


def guard_errors(reference: float, candidate: float, n: int) -> Pairs:
    rng = np.random.default_rng(5)
    return (rng.random(n) < reference).astype(float), (rng.random(n) < candidate).astype(float)


@pytest.mark.parametrize(
    ("candidate", "n", "action", "reason"),
    [
        (0.2, 5000, "promote", "better"),
        (0.22, 0, "wait", "recall:yes is not yet shown to keep within 0.05"),
        (0.2, 20, "wait", "recall:yes is not yet shown"),
        (0.245, 5000, "wait", "recall:yes is not yet shown"),
        (0.4, 5000, "reject", "recall:yes is worse by 0.1"),
    ],
)
def test_a_promotion_needs_every_guard(candidate: float, n: int, action: str, reason: str) -> None:
    arrays = fed(GUARDED, noisy(0.05, 5000))
    gate.update_guard(arrays, GUARDED, "recall:yes", *guard_errors(0.2, candidate, n))
    found = gate.verdict(arrays, GUARDED)
    assert found.action == action
    assert reason in found.reason


def test_an_unknown_guard_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="recall:no.*recall:yes"):
        gate.update_guard(gate.start(GUARDED), GUARDED, "recall:no", np.zeros(1), np.zeros(1))


# ---- weights ----------------------------------------------------------------------------------------------------


def weighted(spec: GateSpec, losses: Pairs, weight: Floats) -> Arrays:
    arrays = gate.start(spec)
    gate.update(arrays, spec, *losses, weight)
    return arrays


@pytest.mark.parametrize("cycle", [0, 7])
def test_weights_of_1_leave_the_same_bytes_as_none(cycle: int) -> None:
    spec = GateSpec(cycle=cycle, guards={"recall:yes": 0.05})
    plain, ones = gate.start(spec), gate.start(spec)
    for arrays, weight in ((plain, None), (ones, np.ones(2000, np.float32))):
        gate.update(arrays, spec, *noisy(0.02, 2000), weight)
        gate.update_guard(arrays, spec, "recall:yes", *guard_errors(0.2, 0.2, 2000), weight)
    assert same(plain, ones)


def test_pairs_of_weight_0_are_left_out_whatever_their_losses() -> None:
    spec = GateSpec(minimum=1001)
    reference, candidate = noisy(0.05, 2000)
    weight = np.tile([1.0, 0.0], 1000)
    wrong = np.where(weight > 0.0, candidate, np.where(np.arange(2000) % 4 == 1, np.nan, 1.0))
    arrays = weighted(spec, (reference, wrong), weight)
    assert same(arrays, fed(spec, (reference[::2], candidate[::2])))
    assert gate.verdict(arrays, spec).reason.startswith("1000 of at least 1001 examples compared")


def test_the_unit_of_equal_weights_does_not_matter() -> None:
    spec, losses = GateSpec(cycle=10, tolerance=0.01), noisy(0.05, 3000)
    one, other = (gate.evidence(weighted(spec, losses, np.full(3000, unit)), spec) for unit in (1.0, 7.0))
    for name in ("difference", "low", "high", "log_e_better", "log_e_worse"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=0.02), name


def test_the_difference_is_the_weighted_mean() -> None:
    spec, draw = GateSpec(), np.random.default_rng(11)
    weight = np.append(4.0, draw.choice([1.0, 4.0], 4999))
    reference, candidate = draw.random(5000), draw.random(5000) * np.where(weight == 4.0, 0.8, 1.0)
    found = gate.evidence(weighted(spec, (reference, candidate), weight), spec)
    mean = np.average(reference - candidate, weights=weight)
    assert found.difference == pytest.approx(mean, abs=2e-4)  # the first row weighs less than it says
    assert found.low < mean < found.high
    assert abs((reference - candidate).mean() - mean) > 0.02


def test_the_capital_bets_on_the_share_of_each_weight() -> None:
    arrays = weighted(GateSpec(tolerance=0.1), pairs(np.array([0.5, -0.25, 0.5])), np.array([1.0, 0.5, 2.0]))
    gains = [0.4, 0.5 * -0.35, 0.4]  # shares 1, 0.5, and 1 of a weight above the highest so far
    stakes = 0.8 * 0.5 ** np.arange(8)
    most = [1.1, 1.05, 1.1]  # of a loss: 1 and the share of the tolerance
    factors = [[1.0 + stake * gain / limit for gain, limit in zip(gains, most, strict=True)] for stake in stakes]
    expected = np.mean([math.prod(row) for row in factors])
    assert capital(arrays) == pytest.approx(expected, rel=1e-12)


def test_better_on_many_light_rows_and_worse_on_few_heavy_ones_is_not_promoted() -> None:
    draw = np.random.default_rng(12)
    heavy = draw.random(5000) < 0.1
    losses = pairs(np.clip(np.where(heavy, -0.1, 0.02) + draw.normal(0.0, 0.1, 5000), -1.0, 1.0))
    assert gate.verdict(fed(GateSpec(), losses), GateSpec()).action == "promote"
    arrays = gate.start(GateSpec(), guard=False)
    gate.update(arrays, GateSpec(), *losses, np.where(heavy, 9.0, 1.0))
    assert gate.verdict(arrays, GateSpec()).action == "reject"


def test_a_guard_counts_weights() -> None:
    draw, missed = np.random.default_rng(13), np.zeros(4000)
    heavy = draw.random(4000) < 0.1
    arrays = fed(GUARDED, noisy(0.05, 5000))
    worse = (heavy & (draw.random(4000) < 0.4)).astype(float)  # 4 % of rows, 20 % of the weight
    gate.update_guard(arrays, GUARDED, "recall:yes", missed, worse, np.where(heavy, 9.0, 1.0))
    assert "recall:yes is worse by 0.2" in gate.verdict(arrays, GUARDED).reason
    plain = fed(GUARDED, noisy(0.05, 5000))
    gate.update_guard(plain, GUARDED, "recall:yes", missed, worse)
    assert "recall:yes is worse" not in gate.verdict(plain, GUARDED).reason


def test_the_reason_says_that_weights_were_clipped() -> None:
    weight = np.ones(3000)
    weight[[1000, 2000]] = 50.0
    reason = gate.verdict(weighted(GateSpec(), noisy(0.05, 3000), weight), GateSpec()).reason
    assert reason.endswith("; weights above 10 times their mean were clipped (examples: 2)")
    weight[[1000, 2000]] = 9.0
    assert "clipped" not in gate.verdict(weighted(GateSpec(), noisy(0.05, 3000), weight), GateSpec()).reason


@given(cuts=st.lists(st.integers(0, 1500), max_size=6), cycle=st.sampled_from([0, 7]), seed=st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_weighted_evidence_does_not_depend_on_the_cuts(cuts: list[int], cycle: int, seed: int) -> None:
    spec, draw = GateSpec(cycle=cycle, loss="absolute"), np.random.default_rng(seed)
    reference, candidate = draw.random((2, 1500))
    weight = np.where(np.arange(1500) < draw.integers(0, 1500), 1.0, draw.choice([0.0, 0.3, 1.0, 20.0], 1500))
    whole, pieces = weighted(spec, (reference, candidate), weight), gate.start(spec)
    for begin, end in itertools.pairwise(sorted({0, 1500, *cuts})):
        gate.update(pieces, spec, reference[begin:end], candidate[begin:end], weight[begin:end])
    assert same(whole, pieces)


def test_a_wrong_weight_is_refused_before_anything_changes() -> None:
    arrays = gate.start(GateSpec())
    with pytest.raises(InputError, match="loss 'auto': weight -1 at index 1"):
        gate.update(arrays, GateSpec(), np.zeros(2), np.zeros(2), np.array([1.0, -1.0]))
    assert same(arrays, gate.start(GateSpec()))


# ---- losses without a bound -----------------------------------------------------------------------------------------


def test_under_layout_1_the_scale_is_fixed_after_the_first_pairs() -> None:
    spec = GateSpec(loss="squared", layout=1)
    rng = np.random.default_rng(6)
    reference, candidate = rng.exponential(7.0, 1000), rng.exponential(7.0, 1000)
    arrays = fed(spec, (reference, candidate))
    first = np.concatenate([reference[:100], candidate[:100]])
    scale = 10.0 * np.sqrt(first).mean() ** 2
    assert arrays["totals"][kernels.LOSS, kernels.SCALE] == pytest.approx(scale, rel=1e-12)
    clipped = np.minimum(reference[100:], scale) - np.minimum(candidate[100:], scale)
    found = gate.evidence(arrays, spec)
    assert found.examples == 900
    assert found.difference == pytest.approx(clipped.mean(), rel=1e-9)


def test_the_cap_follows_the_losses_and_is_fixed_before_each_row() -> None:
    """An independent computation: the cap of each stretch, and the sum of capped differences."""
    spec = GateSpec(loss="squared")
    draw = np.random.default_rng(6)
    level = np.repeat([1.0, 20.0], [1500, 2500])
    reference, candidate = level * draw.exponential(7.0, 4000), level * draw.exponential(7.0, 4000)
    reference[[120, 3000]] = 1e9
    cap = 10.0 * np.sqrt(np.concatenate([reference[:100], candidate[:100]])).mean() ** 2
    caps, begin, capped = [cap], 100, []
    for end in (200, 400, 800, 1600, 3200, 4000):
        part = np.stack([reference[begin:end], candidate[begin:end]])
        capped.append(np.minimum(part, cap))
        if end < 4000:
            cap = 6.0 * np.sqrt((np.minimum(part, 40.0 / 6.0 * cap) ** 2).mean())
            caps.append(cap)
        begin = end
    arrays = fed(spec, (reference, candidate))
    assert arrays["totals"][kernels.LOSS, kernels.SCALE] == pytest.approx(caps[-1], rel=1e-9)
    found = gate.evidence(arrays, spec)
    differences = np.concatenate([part[0] - part[1] for part in capped])
    assert found.examples == 3900
    assert found.difference == pytest.approx(differences.mean(), rel=1e-6)
    assert 5.0 * caps[-3] < caps[-1]  # the losses became twenty times higher


def test_blocks_keep_their_sums_while_the_cap_changes() -> None:
    spec, draw = GateSpec(loss="absolute"), np.random.default_rng(14)
    reference, candidate = np.abs(draw.normal(size=(2, 3300)))
    arrays = fed(spec, (reference, candidate))
    scale, blocks = arrays["totals"][kernels.LOSS, kernels.SCALE], arrays["blocks"][kernels.LOSS]
    difference = (reference - candidate)[100:] / scale
    for level in (0, 3, 6):
        sums = difference[: 3200 >> level << level].reshape(-1, 1 << level).sum(axis=1)
        expected = [len(sums), sums.sum(), (sums**2).sum(), (sums[1:] * sums[:-1]).sum(), sums[0], sums[-1]]
        np.testing.assert_allclose(blocks[level, :6], expected, rtol=1e-8, atol=1e-8)
    net = np.cumsum(difference)
    fall = (np.maximum.accumulate(np.maximum(net, 0.0)) - net).max()
    assert arrays["totals"][kernels.LOSS, kernels.FALL] == pytest.approx(fall, rel=1e-8)


def test_disasters_that_are_not_rare_raise_the_cap_until_they_count() -> None:
    draw = np.random.default_rng(15)
    reference = np.abs(draw.normal(size=12_900))
    candidate = np.where(np.arange(12_900) % 100 == 0, 500.0, reference)
    scale = fed(GateSpec(loss="absolute"), (reference, candidate))["totals"][kernels.LOSS, kernels.SCALE]
    assert scale > 125.0
    candidate[:] = np.where(np.arange(12_900) % 6400 == 0, 500.0, reference)
    scale = fed(GateSpec(loss="absolute"), (reference, candidate))["totals"][kernels.LOSS, kernels.SCALE]
    assert scale < 50.0


def test_the_reason_names_the_cap() -> None:
    draw = np.random.default_rng(16)
    reference = np.abs(draw.normal(size=3000))
    arrays = fed(GateSpec(loss="absolute"), (reference, 0.8 * reference))
    scale = arrays["totals"][kernels.LOSS, kernels.SCALE]
    found = gate.verdict(arrays, GateSpec(loss="absolute"))
    assert found.action == "promote"
    assert found.reason.endswith(f"on 2900 examples; losses capped at {scale:.4g}")
    log_loss = GateSpec(loss="log_loss")
    assert "; losses capped at 5.533" in gate.verdict(fed(log_loss, (reference, 0.8 * reference)), log_loss).reason
    assert "capped" not in gate.verdict(fed(GateSpec(), noisy(0.05, 3000)), GateSpec()).reason


def test_the_log_loss_has_a_first_cap_and_none_above_it() -> None:
    spec, highest = GateSpec(loss="log_loss"), math.log(1000.0)
    arrays = fed(spec, (np.array([0.5, 34.5]), np.array([0.25, 0.5])))
    found = gate.evidence(arrays, spec)
    assert found.examples == 2
    assert found.difference == pytest.approx((0.25 + highest - 0.5) / 2)
    for losses, expected in ((np.full(100, 0.1), 0.6), (np.full(100, 5.0), highest)):
        arrays = fed(spec, (losses, losses))
        assert arrays["totals"][kernels.LOSS, kernels.SCALE] == pytest.approx(expected)


def test_units_do_not_matter() -> None:
    rng = np.random.default_rng(7)
    reference, candidate = rng.exponential(1.0, 3000), rng.exponential(0.8, 3000)
    one, other = (
        gate.evidence(fed(spec, (reference * unit, candidate * unit)), spec)
        for unit, spec in ((1.0, GateSpec(loss="absolute")), (1024.0, GateSpec(loss="absolute")))
    )
    assert one.log_e_better == pytest.approx(other.log_e_better, rel=1e-9)
    assert one.low * 1024.0 == pytest.approx(other.low, rel=1e-9)


def test_a_candidate_whose_mean_so_far_is_worse_waits() -> None:
    spec = GateSpec(loss="squared")
    rng = np.random.default_rng(8)
    reference = rng.exponential(1.0, 5000)
    candidate = 0.6 * reference
    candidate[500::2500] = 1e9
    found = gate.verdict(fed(spec, (reference, candidate)), spec)
    assert found.action == "wait"
    assert "clipped" in found.reason


# ---- worlds with a known truth ------------------------------------------------------------


def independent(rng: np.random.Generator) -> Floats:
    return rng.normal(0.0, 0.2, 5000)


def rare_disasters(rng: np.random.Generator) -> Floats:
    return np.where(rng.random(5000) < 0.002, -0.998, 0.002)


def autoregressive(rng: np.random.Generator, phi: float) -> Floats:
    x = np.empty(5000)
    last = rng.normal()
    for i, shock in enumerate(rng.normal(0.0, math.sqrt(1 - phi**2), 5000)):
        x[i] = last = phi * last + shock
    return 0.2 * x


def quick_wander(rng: np.random.Generator) -> Floats:
    return autoregressive(rng, 0.9)


def slow_wander(rng: np.random.Generator) -> Floats:
    return autoregressive(rng, 0.99)


def alternating(rng: np.random.Generator) -> Floats:
    turn = np.arange(5000) / 200 + rng.random()
    return np.where(turn % 1.0 < 0.5, 0.1, -0.1) - 0.002 + rng.normal(0.0, 0.2, 5000)


@pytest.mark.parametrize("world", [independent, rare_disasters, quick_wander, slow_wander, alternating])
def test_false_verdicts_stay_within_alpha(world: Callable[[np.random.Generator], Floats]) -> None:
    """200 null streams, evaluated after every 100 examples; a valid gate breaks the bound once in 1,000 runs."""
    spec = GateSpec()
    difference = (np.clip(world(np.random.default_rng(seed)), -1.0, 1.0) for seed in range(200))
    false = sum(promoted_at(spec, pairs(d)) > 0 for d in difference)
    assert false <= stats.binom.ppf(0.999, 200, spec.alpha)


def excluded(seed: int, truth: float = 0.1) -> Iterator[bool]:
    spec = GateSpec(minimum=1)
    arrays = gate.start(spec)
    reference, candidate = noisy(truth, 2000, seed)
    for begin in range(0, 2000, 50):
        gate.update(arrays, spec, reference[begin : begin + 50], candidate[begin : begin + 50])
        found = gate.evidence(arrays, spec)
        yield not found.low <= truth <= found.high


def test_the_confidence_sequence_covers_the_truth_at_every_moment() -> None:
    missed = sum(any(excluded(seed)) for seed in range(200))
    assert missed <= stats.binom.ppf(0.999, 200, 0.05)


def test_a_candidate_that_improves_late_is_promoted_on_its_window() -> None:
    rng = np.random.default_rng(9)
    difference = np.where(np.arange(12_000) < 5000, 0.0, 0.1) + rng.normal(0.0, 0.2, 12_000)
    losses = pairs(np.clip(difference, -1.0, 1.0))
    spec = GateSpec()
    at = promoted_at(spec, losses)
    assert 5000 < at <= 8000
    assert "on the last" in gate.verdict(fed(spec, (losses[0][:at], losses[1][:at])), spec).reason


def test_a_good_spell_after_a_bad_one_is_not_promoted() -> None:
    """Worse for 2,000 examples, then better for 2,000: a window sees only the good spell, the stream was no better."""
    difference = np.where(np.arange(4000) < 2000, -0.1, 0.1) + np.random.default_rng(10).normal(0.0, 0.2, 4000)
    assert promoted_at(GateSpec(), pairs(np.clip(difference, -1.0, 1.0))) == 0


# ---- duels -----------------------------------------------------------------------------------------------------------


def duelled(win: float, streams: int, duels: int) -> list[int | None]:
    """How many duels each of some streams needed for a promotion; asked after every 10, with half of alpha."""
    spec, random, needed = GateSpec(loss="error", minimum=50), np.random.default_rng(7), list[int | None]()
    for _ in range(streams):
        arrays, lost = gate.start(spec, guard=False), (random.random(duels) >= win) * 1.0
        needed.append(None)
        for begin in range(0, duels, 10):
            part = lost[begin : begin + 10]
            gate.update(arrays, spec, 1.0 - part, part)
            if (action := gate.verdict(arrays, spec, 0.5).action) != "wait":
                needed[-1] = begin + 10 if action == "promote" else None
                break
    return needed


@pytest.mark.parametrize(("streams", "duels"), [(60, 400), pytest.param(1000, 2000, marks=pytest.mark.slow)])
def test_duels_promote_no_equal_and_soon_a_better_policy(streams: int, duels: int) -> None:
    assert sum(count is not None for count in duelled(0.5, streams, duels)) <= 0.05 * streams
    soon = sum(count is not None and count <= 240 for count in duelled(0.7, streams, 400))
    assert soon >= (0.8 if streams == 1000 else 0.65) * streams
