"""Replay memory: fair samples, equal classes, exact bytes, and no trace of how the stream was cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from everlearn import replay
from everlearn.errors import ConfigError, InputError
from everlearn.records import Arrays, Batch, Examples
from everlearn.spec import ReplaySpec

KINDS = ("window", "reservoir", "balanced")


def stream(y: np.ndarray, dense: int = 1, hashed: int = 0, key: int = 0, most: int = 4) -> Examples:
    """Return rows with these labels: dense columns with the position, and up to `most` hashed entries a row."""
    rng = np.random.default_rng(key)
    n = len(y)
    position = np.arange(1, n + 1)
    lengths = rng.integers(0, most + 1, n) if hashed else np.zeros(n, np.int64)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    batch = Batch(
        np.repeat(position.astype(np.float32)[:, None], dense, axis=1),
        indptr,
        rng.integers(0, max(1, hashed), indptr[-1]).astype(np.int32),
        rng.standard_normal(indptr[-1]).astype(np.float32),
    )
    return Examples(batch, y.astype(np.float64), rng.random(n).astype(np.float32), position)


def rows(examples: Examples, begin: int, end: int) -> Examples:
    """Return a slice of rows that copies nothing: its indptr begins above 0."""
    batch = examples.batch
    part = Batch(batch.dense[begin:end], batch.indptr[begin : end + 1], batch.indices, batch.values)
    return Examples(part, examples.y[begin:end], examples.weight[begin:end], examples.position[begin:end])


def room_for(capacity: int, spec: dict[str, object], dense: int, hashed: int, classes: int) -> ReplaySpec:
    """Return a spec whose bytes hold exactly this many rows."""
    first = ReplaySpec(**spec, bytes=1 << 20)
    arrays = replay.start(first, dense, hashed, classes)
    held = len(arrays["y"])
    per_row = sum(a.nbytes for a in arrays.values() if len(a) == held) // held
    fixed = sum(a.nbytes for a in arrays.values() if len(a) != held)
    return ReplaySpec(**spec, bytes=fixed + capacity * per_row)


def filled(kind: str, y: np.ndarray, capacity: int, classes: int = 0, seed: int = 0) -> tuple[ReplaySpec, Arrays]:
    spec = room_for(capacity, {"kind": kind}, 1, 0, classes)
    arrays = replay.start(spec, 1, 0, classes, seed)
    replay.add(arrays, spec, stream(y))
    return spec, arrays


def same_rows(got: Examples, examples: Examples, width: int) -> None:
    """Check that each drawn row equals the row of the stream at its position (cut at `width` entries)."""
    for i, at in enumerate(got.position - 1):
        assert got.y[i] == examples.y[at]
        assert got.weight[i] == examples.weight[at]
        assert np.array_equal(got.batch.dense[i], examples.batch.dense[at], equal_nan=True)
        begin, end = examples.batch.indptr[at : at + 2]
        ours = slice(*got.batch.indptr[i : i + 2])
        assert np.array_equal(got.batch.indices[ours], examples.batch.indices[begin:end][:width])
        assert np.array_equal(got.batch.values[ours], examples.batch.values[begin:end][:width])


# ── bytes and shape ──────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None)  # the first example may have to compile
@given(
    kind=st.sampled_from(KINDS),
    size=st.integers(2_000, 200_000),
    dense=st.integers(0, 40),
    hashed=st.sampled_from([0, 16, 1 << 18]),
    classes=st.integers(0, 12),
    width=st.integers(1, 30),
)
def test_the_bytes_are_a_bound_and_used_up_to_less_than_one_row(
    kind: str, size: int, dense: int, hashed: int, classes: int, width: int
) -> None:

    def allocated(limit: int) -> tuple[int, int, Arrays]:
        arrays = replay.start(ReplaySpec(kind=kind, bytes=limit, width=width), dense, hashed, classes)
        return len(arrays["y"]), sum(array.nbytes for array in arrays.values()), arrays

    capacity, used, arrays = allocated(size)
    assert used <= size
    assert allocated(used)[0] == capacity
    fewer, less, _ = allocated(used - 1)
    assert fewer == capacity - 1
    assert size < used + (used - less)  # one more row would not have fitted
    if hashed == 0:
        assert arrays["indices"].nbytes == arrays["values"].nbytes == arrays["entries"].nbytes == 0


@pytest.mark.parametrize("kind", KINDS)
def test_memory_stays_where_and_as_it_was_allocated(kind: str) -> None:
    spec = ReplaySpec(kind=kind, bytes=20_000, width=3)
    arrays = replay.start(spec, 2, 100, 3)
    before = {name: (id(array), array.shape, array.dtype) for name, array in arrays.items()}
    replay.add(arrays, spec, stream(np.arange(5000) % 3, dense=2, hashed=100))
    assert before == {name: (id(array), array.shape, array.dtype) for name, array in arrays.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_back_as_they_went_in(kind: str) -> None:
    examples = stream(np.arange(900) % 3, dense=4, hashed=1000, most=9)
    examples.batch.dense[::7, 1] = np.nan  # a missing value is a value
    spec = ReplaySpec(kind=kind, bytes=20_000, width=5)
    arrays = replay.start(spec, 4, 1000, 3)
    replay.add(arrays, spec, examples)
    held = replay.contents(arrays, spec)
    assert (np.diff(held.position) > 0).all()
    same_rows(held, examples, width=5)
    drawn = replay.sample(arrays, spec, 200, key=5)
    same_rows(drawn, examples, width=5)
    assert set(drawn.position) <= set(held.position)
    cut = int((np.diff(examples.batch.indptr) > 5).sum())
    assert replay.composition(arrays, spec)["truncated"] == cut > 0


# ── which rows are kept ──────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(n=st.integers(0, 300), capacity=st.integers(1, 60))
def test_a_window_holds_the_last_rows(n: int, capacity: int) -> None:
    spec, arrays = filled("window", np.zeros(n), capacity)
    assert replay.contents(arrays, spec).position.tolist() == list(range(max(1, n - capacity + 1), n + 1))


def test_a_reservoir_keeps_every_row_with_the_same_chance() -> None:
    """Rows 1 to 400 in 1,000 memories of 20: chi-square over 40 ages, wrongly failing for one seed in 1,000."""
    counts = np.zeros(400)
    for seed in range(1000):
        spec, arrays = filled("reservoir", np.zeros(400), 20, seed=seed)
        counts[replay.contents(arrays, spec).position - 1] += 1
    by_age = counts.reshape(40, 10).sum(axis=1)
    assert counts.sum() == 20_000
    # rows of one memory exclude each other, which makes counts a little more equal than independent ones
    assert stats.chisquare(by_age).pvalue > 0.001
    assert counts.std() == pytest.approx(np.sqrt(1000 * 0.05 * 0.95), rel=0.15)


def test_classes_get_equal_shares_though_they_come_one_after_another() -> None:
    """Five classes in blocks of falling length: a buffer that only evicts the largest class keeps them all equal."""
    y = np.concatenate([np.full(n, label) for label, n in enumerate([5000, 3000, 1000, 400, 60])])
    _, arrays = filled("balanced", y, 100, classes=5)
    held = [entry["held"] for entry in replay.composition(arrays, ReplaySpec(kind="balanced"))["classes"]]
    assert held == [20, 20, 20, 20, 20]


def test_a_rare_class_keeps_all_it_has_and_the_others_share_the_rest() -> None:
    rng = np.random.default_rng(3)
    y = rng.choice(4, size=20_000, p=[0.9, 0.0895, 0.01, 0.0005])
    _, arrays = filled("balanced", y, 200, classes=4)
    entries = replay.composition(arrays, ReplaySpec(kind="balanced"))["classes"]
    rare = entries[3]
    assert 0 < rare["held"] == rare["seen"] < 50
    others = [entry["held"] for entry in entries[:3]]
    assert sum(others) + rare["held"] == 200
    assert max(others) - min(others) <= 1


def test_every_row_of_a_class_has_the_same_chance_whatever_came_before_or_after() -> None:
    """Class 0 early and late, class 1 in the middle, class 2 at the end: chi-square over ten ages of each class.

    Three tests at 1 in 1,000 each, wrongly failing for one set of seeds in about 330.
    """
    y = np.concatenate([np.zeros(200), np.tile([0, 1, 1], 100), np.tile([1, 2, 0], 100), np.full(100, 2)])
    counts = np.zeros(len(y))
    for seed in range(1500):
        spec, arrays = filled("balanced", y, 30, classes=3, seed=seed)
        held = replay.contents(arrays, spec)
        assert np.bincount(held.y.astype(int)).tolist() == [10, 10, 10]
        counts[held.position - 1] += 1
    for label in range(3):
        mine = counts[y == label]
        assert stats.chisquare(mine.reshape(10, -1).sum(axis=1)).pvalue > 0.001


@settings(max_examples=60, deadline=None)
@given(y=st.lists(st.integers(0, 4), max_size=150), capacity=st.integers(1, 40))
def test_balanced_bookkeeping_never_breaks(y: list[int], capacity: int) -> None:
    """All slots are listed once; each stretch of the list holds rows of its own class; free slots come last."""
    _, arrays = filled("balanced", np.array(y, float), capacity, classes=5)
    assert sorted(arrays["order"]) == list(range(capacity))
    begins = arrays["begins"]
    assert begins[0] == 0
    assert begins[6] == capacity
    assert begins[5] == min(len(y), capacity)
    for label in range(5):
        assert set(arrays["y"][arrays["order"][begins[label] : begins[label + 1]]]) <= {float(label)}
    sizes, seen = np.diff(begins)[:5], np.bincount(np.array(y, int), minlength=5)
    for label in np.flatnonzero((sizes < sizes.max() - 1) & (capacity >= 5)):
        assert sizes[label] == seen[label]  # a class with less than an equal share holds all its rows


def test_balanced_is_a_reservoir_for_a_regression() -> None:
    numbers = np.linspace(-3.5, 900.25, 500)
    (first, balanced), (second, reservoir) = (filled(kind, numbers, 50, seed=4) for kind in ("balanced", "reservoir"))
    assert np.array_equal(replay.contents(balanced, first).y, replay.contents(reservoir, second).y)


# ── determinism ──────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    hashed=st.sampled_from([0, 50]),
    classes=st.sampled_from([0, 3]),
    seed=st.integers(0, 2**31),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_how_a_stream_is_cut_makes_no_difference(
    kind: str, hashed: int, classes: int, seed: int, cuts: list[int]
) -> None:
    examples = stream(np.random.default_rng(seed).integers(0, 3, 200), dense=2, hashed=hashed)
    spec = ReplaySpec(kind=kind, bytes=3000, width=2)
    whole, parts = (replay.start(spec, 2, hashed, classes, seed) for _ in range(2))
    replay.add(whole, spec, examples)
    edges = [0, *sorted(cuts), 200]
    for begin, end in pairwise(edges):
        replay.add(parts, spec, rows(examples, begin, end))
        parts = {name: array.copy() for name, array in parts.items()}  # the arrays are all there is
    assert all(whole[name].tobytes() == parts[name].tobytes() for name in whole)


@pytest.mark.parametrize("kind", KINDS)
def test_looking_writes_nothing_and_gives_copies(kind: str) -> None:
    spec, arrays = filled(kind, np.arange(300) % 2, 40, classes=2)
    before = {name: array.tobytes() for name, array in arrays.items()}
    for look in (replay.contents(arrays, spec), replay.sample(arrays, spec, 30, key=1)):
        look.batch.dense[:] = -1.0
        look.y[:] = -1.0
    replay.composition(arrays, spec)
    assert before == {name: array.tobytes() for name, array in arrays.items()}


def test_a_sample_belongs_to_its_seed_and_key_and_is_fair() -> None:
    """Chi-square over 25 rows in 5,000 draws, wrongly failing for one seed in 1,000."""
    spec, arrays = filled("window", np.arange(25.0), 25)
    first, again, second = (replay.sample(arrays, spec, 5000, key).y for key in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert stats.chisquare(np.bincount(first.astype(int), minlength=25)).pvalue > 0.001
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(5000)
    _, elsewhere = filled("window", np.arange(25.0), 25, seed=1)
    assert not np.array_equal(first, replay.sample(elsewhere, spec, 5000, 7).y)


# ── what is reported, and the edges ──────────────────────────────────────────────────────────────────────────


def test_composition_counts_what_is_there() -> None:
    y = np.repeat([0, 1, 0], [40, 30, 30])
    spec, arrays = filled("window", y, 50, classes=2)
    report = replay.composition(arrays, spec)
    assert (report["rows"], report["capacity"], report["seen"], report["truncated"]) == (50, 50, 100, 0)
    assert report["bytes"] == spec.bytes
    assert report["classes"] == [{"held": 30, "seen": 70, "share": 0.6}, {"held": 20, "seen": 30, "share": 0.4}]
    assert report["age"] == {"0.0": 0.0, "0.25": 12.25, "0.5": 24.5, "0.75": 36.75, "1.0": 49.0}


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_memory_gives_no_rows(kind: str) -> None:
    spec = ReplaySpec(kind=kind, bytes=5000)
    arrays = replay.start(spec, 3, 10, 2)
    for empty in (replay.contents(arrays, spec), replay.sample(arrays, spec, 9, key=0)):
        assert len(empty.batch) == len(empty.y) == 0
        assert empty.batch.dense.shape == (0, 3)
    assert replay.composition(arrays, spec)["age"] == {}


def test_the_kind_none_holds_nothing() -> None:
    spec = ReplaySpec(kind="none")
    arrays = replay.start(spec, 3, 10, 2)
    replay.add(arrays, spec, stream(np.zeros(5), dense=3))
    assert arrays == {}
    assert len(replay.contents(arrays, spec).y) == len(replay.sample(arrays, spec, 5, key=0).y) == 0
    assert replay.composition(arrays, spec)["rows"] == 0


def test_bytes_for_not_even_one_row_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(ConfigError, match=r"replay\.bytes: got 100;") as refused:
        replay.start(ReplaySpec(bytes=100), 50, 0, 2)
    enough = int(str(refused.value).split("expected at least ")[1].split(":")[0])
    assert len(replay.start(ReplaySpec(bytes=enough), 50, 0, 2)["y"]) == 1


@pytest.mark.parametrize("label", [2.0, -1.0, 0.5, np.nan])
def test_a_label_that_is_no_class_is_refused_before_anything_is_written(label: float) -> None:
    spec, arrays = filled("balanced", np.arange(10) % 2, 5, classes=2)
    before = {name: array.tobytes() for name, array in arrays.items()}
    with pytest.raises(InputError, match="is not a class"):
        replay.add(arrays, spec, stream(np.array([0.0, label])))
    assert before == {name: array.tobytes() for name, array in arrays.items()}


def test_rows_of_another_schema_are_refused() -> None:
    spec, arrays = filled("window", np.zeros(3), 5)
    with pytest.raises(InputError, match="dense shape"):
        replay.add(arrays, spec, stream(np.zeros(2), dense=4))
    with pytest.raises(InputError, match="hashed"):
        replay.add(arrays, spec, stream(np.zeros(9), hashed=10))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_wait_leave_the_same_bytes(kind: str) -> None:
    spec = ReplaySpec(kind=kind, bytes=6000, width=3)
    given = stream(np.arange(2500) % 2, hashed=50)
    at_once, held = (replay.start(spec, dense=1, hashed=50, classes=2) for _ in range(2))
    replay.add(at_once, spec, given)
    queued = replay.QueuedReplay(spec, held)
    for begin in range(0, 2500, 11):
        queued.add(rows(given, begin, min(begin + 11, 2500)))
        if begin % 770 == 0:
            assert queued.arrays["counters"][replay.SEEN] == min(begin + 11, 2500)
    assert all(queued.arrays[name].tobytes() == at_once[name].tobytes() for name in at_once)
