"""Each bound holds where the truth is known: floods, absurd features, flipped labels, extreme labels."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from everlearn import metrics
from everlearn.errors import InputError
from everlearn.families.linear import build
from everlearn.learn import limits
from everlearn.records import Arrays, Batch, Examples
from everlearn.spec import LimitsSpec
from tests.support.models import part

OFF = LimitsSpec()
ALL = LimitsSpec(clip=0.01, weight=50.0, source=0.2, window=50, quarantine=0.95)
SLOPES = np.array([2.0, -1.0, 0.5, 0.0])
ABSURD = 3e38  # the largest that a row can hold; 1e308 does not get past the schema

Array = NDArray[Any]


def rows(x: Array) -> Batch:
    dense = np.ascontiguousarray(x, np.float32)
    return Batch(dense, np.zeros(len(dense) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def column(values: Any) -> Batch:
    return rows(np.reshape(values, (-1, 1)))


def learnt(arrays: Arrays) -> tuple[float, float]:
    return float(arrays["low"][0]), float(arrays["high"][0])


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


# Features


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_the_range_is_that_between_the_quantiles(share: float) -> None:
    spec = LimitsSpec(clip=share)
    arrays = limits.start(spec, 1)
    x = np.random.default_rng(0).normal(5.0, 2.0, 40_000)
    limits.look(arrays, spec, column(x))
    for bound, quantile in zip(learnt(arrays), np.quantile(x, [share, 1 - share]), strict=True):
        below = (x < bound).mean()
        expected = (x < quantile).mean()
        # the sample has 1,024 values, so the error of a share is binomial: five standard deviations
        assert abs(below - expected) < 5 * np.sqrt(share * (1 - share) / 1024)


def test_rows_pass_as_they_are_until_a_range_is_known_and_missing_values_always() -> None:
    spec = LimitsSpec(clip=0.1)
    arrays = limits.start(spec, 1)
    first = np.array([1.0, np.nan, 1e38, -1e38, 0.0], np.float32)
    assert limits.look(arrays, spec, column(first)).dense.ravel().tobytes() == first.tobytes()
    limits.look(arrays, spec, column(np.random.default_rng(0).random(5000)))
    said = limits.look(arrays, spec, column([np.nan, 7.0, -np.inf])).dense.ravel()
    assert np.isnan(said[0])
    assert said[1:].tolist() == [pytest.approx(0.9, abs=0.05), pytest.approx(0.1, abs=0.05)]


def test_a_row_is_clipped_to_what_was_learnt_before_it() -> None:
    spec = LimitsSpec(clip=0.02)
    x = np.random.default_rng(1).standard_cauchy((3000, 2))
    arrays, twin = limits.start(spec, 2), limits.start(spec, 2)
    whole = limits.look(arrays, spec, rows(x))
    for i in range(len(x)):
        row = rows(x[i : i + 1])
        before = limits.clip(twin, spec, row)
        assert limits.clip(limits.bounds(twin), spec, row).dense.tobytes() == before.dense.tobytes()
        assert before.dense.tobytes() == limits.look(twin, spec, row).dense.tobytes() == whole.dense[i].tobytes()
    assert same(arrays, twin)


@pytest.mark.parametrize(("flood", "looks"), [(1, 1), (1000, 1), (3000, 3)])
def test_a_flood_moves_the_range_by_half_its_width_from_look_to_look(flood: int, looks: int) -> None:
    spec = LimitsSpec(clip=0.01)
    arrays = limits.start(spec, 1)
    limits.look(arrays, spec, column(np.random.default_rng(2).normal(size=20 * 1024 + 1)))
    low, high = learnt(arrays)
    limits.look(arrays, spec, column(np.full(flood, ABSURD)))
    limits.look(arrays, spec, column(np.random.default_rng(3).normal(size=1024)))
    assert learnt(arrays)[1] <= high + (high - low) * (1.5**looks - 1) * 1.001
    assert learnt(arrays)[0] == pytest.approx(low, abs=0.3)


def test_a_share_below_the_one_that_is_clipped_moves_the_range_not_at_all() -> None:
    spec = LimitsSpec(clip=0.05)
    random = np.random.default_rng(4)
    x = random.normal(size=60_000)
    x[random.random(60_000) < 0.02] = ABSURD
    arrays = limits.start(spec, 1)
    limits.look(arrays, spec, column(x))
    assert learnt(arrays)[1] < 2.5  # clean: 1.64; the 2% above leave 3% of the clean values: 1.88


def test_the_range_follows_a_column_that_changes_its_unit() -> None:
    spec = LimitsSpec(clip=0.01)
    random = np.random.default_rng(5)
    arrays = limits.start(spec, 1)
    limits.look(arrays, spec, column(random.normal(size=30_000)))
    limits.look(arrays, spec, column(100 * random.normal(size=15_000)))
    assert learnt(arrays)[1] > 150  # 2.33 before


def test_a_rare_flag_and_a_column_of_mostly_zeros_keep_what_they_say() -> None:
    spec = LimitsSpec(clip=0.01)
    random = np.random.default_rng(6)
    flag = random.random(20_000) < 0.002
    amount = np.where(random.random(20_000) < 0.02, random.uniform(100, 200, 20_000), 0.0)
    constant = np.full(20_000, 7.0)
    arrays = limits.start(spec, 3)
    said = limits.look(arrays, spec, rows(np.stack([flag, amount, constant], axis=1))).dense
    assert (said[:, 0] == flag).all()
    assert (said[5000:, 1] > 100).sum() > 0.95 * (amount[5000:] > 100).sum()
    assert (said[:, 2] == 7.0).all()


def test_absurd_first_rows_do_not_set_the_range() -> None:
    spec = LimitsSpec(clip=0.01)
    random = np.random.default_rng(7)
    x = random.normal(size=2000)
    x[[1, 5, 40, 70]] = ABSURD
    arrays = limits.start(spec, 1)
    said = limits.look(arrays, spec, column(x)).dense.ravel()
    assert said[8:].max() < 50
    assert learnt(arrays)[1] < 4


def test_rows_of_another_width_are_refused() -> None:
    arrays = limits.start(LimitsSpec(clip=0.01), 2)
    with pytest.raises(InputError, match="rows have 1 dense columns, but the limits were started for 2"):
        limits.look(arrays, LimitsSpec(clip=0.01), column([1.0]))


# Labels


class Ledger:
    """The rule for sources written down again, with a plain deque."""

    def __init__(self, spec: LimitsSpec) -> None:
        self.spec = spec
        self.window: deque[tuple[str, float]] = deque(maxlen=spec.window)

    def admit(self, source: str, weight: float) -> float:
        weight = min(weight, self.spec.weight)
        if weight <= 0:
            return weight
        if source:
            held = sum(charge for one, charge in self.window if one == source)
            left = max(1.0, self.spec.source * self.spec.window) - held
            if left < 1:
                return 0.0
            weight = min(weight, left)
        self.window.append((source, max(weight, 1.0)))
        return weight


labels = st.tuples(
    st.sampled_from(["", "a", "b", "c", "d", "e", "key-6"]),
    st.sampled_from([1.0, 1.0, 1.0, 0.0, 0.25, 2.5, 30.0, 1e30]),
)


@given(st.lists(labels, max_size=120), st.sampled_from([0.05, 0.25, 0.5]), st.sampled_from([1, 8, 20]))
@settings(deadline=None)
def test_sources_get_what_the_rule_says(sent: list[tuple[str, float]], share: float, window: int) -> None:
    spec = LimitsSpec(weight=50.0, source=share, window=window)
    arrays, ledger = limits.start(spec, 0), Ledger(spec)
    for position, (source, weight) in enumerate(sent, 1):
        assert limits.admit(arrays, spec, source, weight, 0.5, 0.0, position)[0] == ledger.admit(source, weight)


def test_a_sender_does_not_escape_its_share_by_new_names() -> None:
    spec = LimitsSpec(source=0.1, window=200)
    arrays = limits.start(spec, dense=0)
    told = [limits.admit(arrays, spec, f"web/{i}", 1.0, 0.5, 0.0, i)[1] for i in range(100)]
    assert (told.count(""), told.count("source")) == (20, 80)
    assert limits.admit(arrays, spec, "webs", 1.0, 0.5, 0.0, 100) == (1.0, "")


def test_whatever_a_flood_sends_others_make_up_their_share_of_the_window() -> None:
    spec = LimitsSpec(source=0.1, window=200)
    arrays = limits.start(spec, 0)
    random = np.random.default_rng(8)
    learned: list[tuple[str, float]] = []
    for i in range(20_000):
        source = "flood" if i % 50 else f"user {random.integers(30)}"
        weight = float(random.choice([1e-9, 0.5, 1.0, 1e30])) if source == "flood" else 1.0
        given_weight, _ = limits.admit(arrays, spec, source, weight, 0.0, 0.0, i)
        if given_weight > 0:
            learned.append((source, given_weight))
        last = learned[-200:]
        assert sum(weight for one, weight in last if one == "flood") <= 20
        assert sum(one == "flood" for one, _ in last) <= 20
    assert sum(one != "flood" for one, _ in learned) == 400  # everyone else was heard


def test_a_weight_is_capped_and_counted() -> None:
    arrays = limits.start(OFF, 0)
    assert limits.admit(arrays, OFF, "key", 1e30, 0.1, 1.0, 1) == (100.0, "capped")
    assert limits.admit(arrays, OFF, "key", 100.0, 0.1, 1.0, 2) == (100.0, "")
    assert limits.report(arrays)["capped"] == 1


def test_the_share_of_labels_set_aside_is_the_one_asked_for() -> None:
    spec = LimitsSpec(quarantine=0.95)
    arrays = limits.start(spec, 0)
    losses = np.random.default_rng(9).exponential(size=30_000)
    weight, why = limits.admit_rows(arrays, spec, [], np.ones(30_000, np.float32), losses, losses, np.arange(30_000))
    assert (weight[5000:] == 0).mean() == pytest.approx(0.05, abs=0.02)
    aside = np.flatnonzero(why == limits.QUARANTINE)
    assert limits.report(arrays)["positions"] == aside[-1000:].tolist()
    assert limits.report(arrays)["quarantined"] == len(aside)


def test_a_class_is_judged_by_its_own_losses() -> None:
    """One label in a hundred is of the rare class, and all of its losses are higher than all of the other's."""
    spec = LimitsSpec(quarantine=0.95)
    arrays = limits.start(spec, 0, classes=2)
    random = np.random.default_rng(10)
    y = (random.random(40_000) < 0.01).astype(float)
    losses = random.random(40_000) + 10 * y
    weight, _ = limits.admit_rows(arrays, spec, [], np.ones(40_000, np.float32), losses, y, np.arange(40_000))
    assert (weight[y == 1] > 0).mean() > 0.85
    assert (weight[y == 0] > 0).mean() > 0.9


def test_a_stream_that_changes_for_good_is_learned_again_soon() -> None:
    spec = LimitsSpec(quarantine=0.95)
    arrays = limits.start(spec, 0)
    random = np.random.default_rng(11)
    losses = np.concatenate([random.random(20_000), 5 + random.random(20_000)])
    weight, _ = limits.admit_rows(arrays, spec, [], np.ones(40_000, np.float32), losses, losses, np.arange(40_000))
    assert (weight[20_000:20_500] == 0).all()
    assert (weight[24_000:28_000] > 0).mean() > 0.5
    assert (weight[35_000:] > 0).mean() > 0.9


# Determinism, and limits that are off


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_arrays_have_the_same_bytes_however_the_stream_is_cut(cuts: list[int], seed: int) -> None:
    n = sum(cuts)
    random = np.random.default_rng(seed)
    x = random.standard_cauchy((n, 3)).astype(np.float32)
    x[random.random((n, 3)) < 0.1] = np.nan
    weight = random.choice([0.5, 1.0, 80.0], n).astype(np.float32)
    losses, y = random.exponential(size=n), random.integers(2, size=n).astype(float)
    sources, position = [f"key {i}" for i in random.integers(4, size=n)], np.arange(n)
    whole, pieces, single = (limits.start(ALL, 3, 2) for _ in range(3))
    clipped = limits.look(whole, ALL, rows(x)).dense
    admitted, _ = limits.admit_rows(whole, ALL, sources, weight, losses, y, position)
    at = 0
    for size in cuts:
        some = slice(at, at + size)
        assert limits.look(pieces, ALL, rows(x[some])).dense.tobytes() == clipped[some].tobytes()
        mine, _ = limits.admit_rows(pieces, ALL, sources[some], weight[some], losses[some], y[some], position[some])
        assert mine.tobytes() == admitted[some].tobytes()
        at += size
    for i in range(n):
        limits.look(single, ALL, rows(x[i : i + 1]))
        given_weight, _ = limits.admit(single, ALL, sources[i], float(weight[i]), losses[i], y[i], i)
        assert np.float32(given_weight) == admitted[i]
    assert same(whole, pieces)
    assert same(whole, single)


def test_the_arrays_never_grow() -> None:
    arrays = limits.start(ALL, 2, 3)
    before = {name: (array.shape, array.dtype, id(array)) for name, array in arrays.items()}
    random = np.random.default_rng(12)
    for i in range(2000):
        limits.look(arrays, ALL, rows(random.normal(size=(1, 2))))
        limits.admit(arrays, ALL, f"key {i}", 1.0, random.random(), float(i % 3), i)
    assert before == {name: (array.shape, array.dtype, id(array)) for name, array in arrays.items()}


def test_limits_that_are_off_change_nothing() -> None:
    arrays = limits.start(OFF, 8, 2)
    assert list(arrays) == ["counters"]
    batch = rows(np.array([[1.0, np.nan], [ABSURD, 2.0]]))
    assert limits.look(arrays, OFF, batch) is batch
    assert limits.clip(arrays, OFF, batch) is batch
    assert limits.admit(arrays, OFF, "anyone", 3.5, 1e30, 1.0, 1) == (3.5, "")
    weight = np.array([0.1, 1.0, 100.0, 0.0], np.float32)
    same_weight, why = limits.admit_rows(arrays, OFF, [], weight, np.full(4, np.nan), np.zeros(4), np.arange(4))
    assert same_weight.tobytes() == weight.tobytes()
    assert not why.any()
    assert not arrays["counters"].any()


# What they are for: a model that learns from a stream with known truth


def taught(
    spec: LimitsSpec, task: str, examples: Examples, truth: Array, sources: list[str] | None = None
) -> tuple[float, dict[str, Any]]:
    """Mean loss against the truth over the last third, test then learn, and what the limits report."""
    classes = 2 if task == "binary" else 0
    model = build({"task": task, "dense": 4, **({"classes": 2} if classes else {})})
    arrays = limits.start(spec, 4, classes)
    batch = limits.look(arrays, spec, examples.batch)
    n, kind = len(truth), "brier" if classes else "absolute"
    said = np.empty((n, max(classes, 1)), np.float32)
    for i in range(n):
        row, y = part(batch, i), examples.y[i : i + 1]
        said[i] = model.predict(row)[0]
        loss = metrics.losses(kind, said[i : i + 1], y)[0]
        asked, source = float(examples.weight[i]), sources[i] if sources else ""
        weight, _ = limits.admit(arrays, spec, source, asked, loss, y[0], i + 1)
        if weight > 0:
            model.learn(row, y, np.array([weight], np.float32))
        assert np.isfinite(model.arrays["weights"]).all()
    tail = slice(2 * n // 3, n)
    return float(metrics.losses(kind, said[tail], truth[tail]).mean()), limits.report(arrays)


def stream(n: int = 6000, seed: int = 0) -> tuple[np.random.Generator, Array, Array]:
    """Rows, and labels that follow a logistic model."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 4))
    return random, x, (x @ SLOPES + 0.5 * random.logistic(size=n) > 0).astype(float)


def examples(x: Array, y: Array, weight: Array | None = None) -> Examples:
    n = len(y)
    weights = np.ones(n, np.float32) if weight is None else weight.astype(np.float32)
    return Examples(rows(x), np.asarray(y, float), weights, np.arange(1, n + 1))


def test_a_flood_of_wrong_labels_from_one_source() -> None:
    _, x, truth = stream(12_000)
    sources = ["flood" if i % 10 else f"user {i // 10 % 7}" for i in range(len(truth))]
    sent = examples(x, np.where([one == "flood" for one in sources], 1 - truth, truth))
    clean, _ = taught(OFF, "binary", examples(x, truth), truth)
    harmed, _ = taught(OFF, "binary", sent, truth, sources)
    bounded, told = taught(LimitsSpec(source=0.1), "binary", sent, truth, sources)
    assert harmed > 0.5
    assert bounded < clean + 0.02
    assert told["refused"] > 10_000


def test_features_of_1e308() -> None:
    random, x, truth = stream()
    absurd = x.copy()
    absurd[random.random(x.shape) < 0.002] = ABSURD
    clean, _ = taught(OFF, "binary", examples(x, truth), truth)
    harmed, _ = taught(OFF, "binary", examples(absurd, truth), truth)
    bounded, _ = taught(LimitsSpec(clip=0.01), "binary", examples(absurd, truth), truth)
    assert harmed > clean + 0.1
    assert bounded < clean + 0.01


def test_a_fifth_of_the_labels_flipped() -> None:
    random, x, truth = stream()
    flipped = examples(x, np.where(random.random(len(truth)) < 0.2, 1 - truth, truth))
    clean, _ = taught(OFF, "binary", examples(x, truth), truth)
    harmed, _ = taught(OFF, "binary", flipped, truth)
    bounded, _ = taught(LimitsSpec(quarantine=0.8), "binary", flipped, truth)
    assert harmed > clean + 0.03
    assert bounded < clean + 0.015


def test_extreme_labels_in_a_regression() -> None:
    random, x, _ = stream()
    truth = 10 * x @ SLOPES + random.normal(size=len(x))
    wild = truth.copy()
    hit = np.arange(len(x)) > 200
    hit &= random.random(len(x)) < 0.01
    wild[hit] = random.choice([1e30, -1e30], hit.sum())
    clean, _ = taught(OFF, "regression", examples(x, truth), truth)
    bounded, told = taught(LimitsSpec(quarantine=0.98), "regression", examples(x, wild), truth)
    assert bounded < clean * 1.05
    assert told["quarantined"] >= hit.sum()


def test_a_weight_of_1e30() -> None:
    _, x, truth = stream()
    weight, y = np.ones(len(truth)), truth.copy()
    weight[::500], y[::500] = 1e30, 1 - truth[::500]
    clean, _ = taught(OFF, "binary", examples(x, truth), truth)
    bounded, told = taught(LimitsSpec(weight=2.0), "binary", examples(x, y, weight), truth)
    assert bounded < clean + 0.01
    assert told["capped"] == len(truth) // 500
