"""Replay memory: past examples kept in a fixed number of bytes, as arrays, for learning from them again.

Four kinds. "window": the last rows. "reservoir": every row of the stream is kept with the same probability. "balanced":
every class has the same room, in which every row of that class is kept with the same probability. "none": nothing. All
memory is allocated by `start`. Every choice is a function of (seed, count), never of how the stream is split into
calls. Decisions and measurements: `docs/why/replay.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import bare, exact_kernel
from everlearn._random import uniform
from everlearn.errors import ConfigError, InputError, did_you_mean
from everlearn.model import stack
from everlearn.records import Arrays, Batch, Examples, Floats, Ints, Singles
from everlearn.spec import ReplaySpec

KINDS = {"none": 0, "window": 1, "reservoir": 2, "balanced": 3}
NONE, WINDOW, RESERVOIR, BALANCED = 0, 1, 2, 3

SEEN, HELD, TRUNCATED, NEWEST, KIND, SEED, COUNTERS = range(7)  # indices into `counters`
CHOICE, EVICTION = -1, -2  # random streams of `add`; those of `sample` are the caller's keys

ROW_BYTES = 8 + 4 + 8  # y, weight, position
ENTRY_BYTES = 4 + 4  # index and value of one hashed feature
_QUEUED = 1000  # rows that wait in a `QueuedReplay`, at most

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Ledger(NamedTuple):
    """The arrays that the choice of a slot reads and writes, independent of the content of the slots.

    `class_seen` counts the rows offered of each class. For the kind "balanced" only: `order` lists all slots, class
    after class and then the free ones; `begins` (classes + 2,) gives the start of each of these stretches.
    """

    counters: Ints
    class_seen: Ints
    begins: Ints
    order: NDArray[np.int32]


class ReplayArrays(NamedTuple):
    """The arrays of a replay memory, as the kernels take them: those of `Ledger`, and the rows."""

    counters: Ints
    class_seen: Ints
    begins: Ints
    order: NDArray[np.int32]
    dense: Singles
    entries: NDArray[np.int32]
    indices: NDArray[np.int32]
    values: Singles
    y: Floats
    weight: Singles
    position: Ints


@bare
def below(seed: int, stream: int, count: int, end: int) -> int:
    """Return a random integer in [0, end) for the key (seed, stream, count)."""
    return min(end - 1, int(uniform(seed, stream, count) * end))


@bare
def _reassign(begins: Ints, order: NDArray[np.int32], giver: int, which: int, taker: int) -> int:
    """Move slot number `which` of class `giver` to class `taker`, in one move a class between; return the slot."""
    at = begins[giver] + which
    slot = order[at]
    hole = begins[giver + 1] - 1
    order[at] = order[hole]
    for between in range(giver + 1, taker + 1):
        # the hole is just before this class: start the class there, and make its last place the hole
        begins[between] -= 1
        order[begins[between]] = order[begins[between + 1] - 1]
        hole = begins[between + 1] - 1
    for between in range(giver, taker, -1):
        order[hole] = order[begins[between]]
        hole = begins[between]
        begins[between] += 1
    order[hole] = slot
    return int(slot)


@bare
def _balanced_slot(ledger: Ledger, label: int) -> int:
    """Return the slot for a row of class `label`, or -1: class-balancing reservoir sampling (Chrysakis and Moens 2020).

    A class that still holds all its rows takes room from the largest one. A class that has lost a row, or is the
    largest itself, never grows again: it continues as a reservoir in the room it has, so its rows stay an unbiased
    sample.
    """
    counters, begins, order = ledger.counters, ledger.begins, ledger.order
    classes, seen = ledger.class_seen.shape[0], ledger.class_seen[label]
    if counters[HELD] < order.shape[0]:
        counters[HELD] += 1
        return _reassign(begins, order, classes, 0, label)
    room = begins[label + 1] - begins[label]
    if room == seen - 1:
        largest, most = label, room
        for other in range(classes):
            if begins[other + 1] - begins[other] > most:
                largest, most = other, begins[other + 1] - begins[other]
        if largest != label:
            lost = below(counters[SEED], EVICTION, counters[SEEN], most)
            return _reassign(begins, order, largest, lost, label)
    kept = below(counters[SEED], CHOICE, counters[SEEN], seen)
    return int(order[begins[label] + kept]) if kept < room else -1


@bare
def slot(ledger: Ledger, capacity: int, label: int) -> int:
    """Return the slot for the row just counted, or -1 if the kind of memory in `counters` does not keep it."""
    counters = ledger.counters
    if counters[KIND] == BALANCED:
        return _balanced_slot(ledger, label)
    place = counters[SEEN] - 1
    if counters[KIND] == WINDOW:
        place %= capacity
    elif place >= capacity:  # algorithm R (Vitter 1985)
        place = below(counters[SEED], CHOICE, counters[SEEN], counters[SEEN])
    if place >= capacity:
        return -1
    counters[HELD] = max(counters[HELD], place + 1)
    return int(place)


@exact_kernel
def _add(
    memory: ReplayArrays,
    dense: Singles,
    indptr: Ints,
    indices: NDArray[np.int32],
    values: Singles,
    y: Floats,
    weight: Singles,
    position: Ints,
) -> None:
    """Offer the rows to the memory, one after another."""
    counters, classes, width = memory.counters, memory.class_seen.shape[0], memory.indices.shape[1]
    ledger = Ledger(counters, memory.class_seen, memory.begins, memory.order)
    for row in range(y.shape[0]):
        label = int(y[row]) if classes > 0 else 0
        counters[SEEN] += 1
        counters[NEWEST] = position[row]
        if classes > 0:
            memory.class_seen[label] += 1
        begin, count = indptr[row], indptr[row + 1] - indptr[row]
        if count > width:
            counters[TRUNCATED] += 1
            count = width
        at = slot(ledger, memory.y.shape[0], label)
        if at < 0:
            continue
        for column in range(dense.shape[1]):  # numba takes a second and a half to compile the copy of a slice
            memory.dense[at, column] = dense[row, column]
        memory.y[at] = y[row]
        memory.weight[at] = weight[row]
        memory.position[at] = position[row]
        if width > 0:
            memory.entries[at] = count
            for entry in range(count):
                memory.indices[at, entry] = indices[begin + entry]
                memory.values[at, entry] = values[begin + entry]


@exact_kernel
def _draw(counters: Ints, key: int, n: int) -> Ints:
    """Return n random numbers below the number of rows held, for the key (seed, key)."""
    drawn = np.empty(n, np.int64)
    for i in range(n):
        drawn[i] = below(counters[SEED], key, i, counters[HELD])
    return drawn


def start(spec: ReplaySpec, dense: int, hashed: int, classes: int, seed: int = 0) -> Arrays:
    """Allocate all arrays, in at most `spec.bytes` bytes including counters, with as many rows as fit.

    `dense` is the number of dense columns, `hashed` the number of hashed ones (0: none), `classes` the number of
    classes (0: a regression, for which "balanced" is a reservoir). The kind "none" has no arrays. Raises `ConfigError`
    if not one row fits, or the kind is unknown.

    >>> arrays = start(ReplaySpec(kind="reservoir", bytes=10_000), dense=8, hashed=0, classes=2)
    >>> len(arrays["y"]), sum(array.nbytes for array in arrays.values())
    (191, 9996)
    """
    if spec.kind not in KINDS:
        near = did_you_mean(spec.kind, KINDS)
        raise ConfigError(f"replay.kind: got {spec.kind!r}; expected one of {', '.join(sorted(KINDS))}{near}")
    if spec.kind == "none":
        return {}
    if hashed > 0 and spec.width < 1:
        raise ConfigError(f"replay.width: got {spec.width}; expected at least 1, because the rows have hashed features")
    balanced = spec.kind == "balanced" and classes > 0
    width = spec.width if hashed > 0 else 0
    fixed = 8 * (COUNTERS + classes + (classes + 2 if balanced else 0))
    each = ROW_BYTES + 4 * dense + (4 + ENTRY_BYTES * width if width else 0) + (4 if balanced else 0)
    capacity = (spec.bytes - fixed) // each
    if capacity < 1:
        raise ConfigError(
            f"replay.bytes: got {spec.bytes}; expected at least {fixed + each}: {each} a row, {fixed} for counts. "
            "Set replay.bytes higher, or replay.kind to 'none'."
        )
    counters = np.zeros(COUNTERS, np.int64)
    counters[KIND] = BALANCED if balanced else (WINDOW if spec.kind == "window" else RESERVOIR)
    counters[SEED] = seed
    begins = np.zeros(classes + 2 if balanced else 0, np.int64)
    begins[-1:] = capacity
    memory = ReplayArrays(
        counters=counters,
        class_seen=np.zeros(classes, np.int64),
        begins=begins,
        order=np.arange(capacity if balanced else 0, dtype=np.int32),
        dense=np.zeros((capacity, dense), np.float32),
        entries=np.zeros(capacity if width else 0, np.int32),
        indices=np.zeros((capacity, width), np.int32),
        values=np.zeros((capacity, width), np.float32),
        y=np.zeros(capacity, np.float64),
        weight=np.zeros(capacity, np.float32),
        position=np.zeros(capacity, np.int64),
    )
    return memory._asdict()


def add(arrays: Arrays, spec: ReplaySpec, examples: Examples) -> None:
    """Offer rows to the memory in stream order; `arrays` are changed in place.

    A row with more than `spec.width` hashed entries keeps the first ones and is counted as truncated. A dense NaN
    (missing) is kept. n rows at once leave the same bytes as n calls of one row. Raises `InputError`, before anything
    is written, if the rows do not fit the memory or a label is not one of its classes.
    """
    if spec.kind == "none" or len(examples.y) == 0:
        return
    memory, batch = ReplayArrays(**arrays), examples.batch
    _check(memory, examples)
    _add(
        memory,
        np.ascontiguousarray(batch.dense, np.float32),
        np.ascontiguousarray(batch.indptr, np.int64),
        np.ascontiguousarray(batch.indices, np.int32),
        np.ascontiguousarray(batch.values, np.float32),
        np.ascontiguousarray(examples.y, np.float64),
        np.ascontiguousarray(examples.weight, np.float32),
        np.ascontiguousarray(examples.position, np.int64),
    )


class QueuedReplay:
    """The arrays of a memory, and the rows that wait to be offered to it: many at once cost a fraction.

    >>> spec = ReplaySpec(kind="window", bytes=10_000)
    >>> held = QueuedReplay(spec, start(spec, dense=0, hashed=0, classes=0))
    >>> rows = Batch(np.ones((1, 0), np.float32), np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> for number in (5, 6):
    ...     held.add(Examples(rows, np.array([0.5]), np.ones(1, np.float32), np.array([number])))
    >>> contents(held.arrays, spec).position.tolist()
    [5, 6]
    """

    def __init__(self, spec: ReplaySpec, arrays: Arrays) -> None:
        self._spec, self._arrays = spec, arrays
        self._waiting: list[Examples] = []
        self._count = 0

    @property
    def arrays(self) -> Arrays:
        """The arrays, with all rows offered. Raises as `add` does."""
        if self._waiting:
            waiting, self._waiting, self._count = self._waiting, [], 0
            add(self._arrays, self._spec, _stacked(waiting))
        return self._arrays

    def add(self, examples: Examples) -> None:
        """Offer rows as `everlearn.replay.add` does. The rows are kept, and not copied."""
        if self._spec.kind != "none" and len(examples.y):
            self._waiting.append(examples)
            self._count += len(examples.y)
            if self._count >= _QUEUED:
                _ = self.arrays


def _stacked(parts: Sequence[Examples]) -> Examples:
    """Return several examples as one, without segments."""
    if len(parts) == 1:
        return parts[0]
    y, weight = np.concatenate([part.y for part in parts]), np.concatenate([part.weight for part in parts])
    batch = stack([part.batch for part in parts])
    return Examples(batch, y, weight, np.concatenate([part.position for part in parts]))


def _check(memory: ReplayArrays, examples: Examples) -> None:
    """Raise `InputError` for rows that do not fit the memory."""
    columns, classes = memory.dense.shape[1], len(memory.class_seen)
    if examples.batch.dense.shape != (len(examples.y), columns):
        raise InputError(
            f"rows for replay have dense shape {examples.batch.dense.shape}; expected {(len(examples.y), columns)}. "
            "Start the memory with the schema of the stream."
        )
    if memory.indices.shape[1] == 0 and examples.batch.indptr[-1] > examples.batch.indptr[0]:
        raise InputError("rows for replay have hashed features, but the memory was started with hashed=0")
    if classes == 0:
        return
    y = examples.y
    foreign = ~((y >= 0) & (y < classes) & (y == np.floor(y)))
    if foreign.any():
        first = int(np.flatnonzero(foreign)[0])
        raise InputError(
            f"label {y[first]} at position {examples.position[first]} is not a class of the replay memory; "
            f"expected a whole number from 0 to {classes - 1}"
        )


def sample(arrays: Arrays, spec: ReplaySpec, n: int, key: int) -> Examples:
    """Draw n rows with replacement, every row held with the same probability; the draw is fixed by (seed, key).

    Writes nothing. An empty memory gives no rows. `key` is an integer from 0, for instance a position.

    >>> spec = ReplaySpec(kind="window", bytes=10_000)
    >>> arrays = start(spec, dense=1, hashed=0, classes=0)
    >>> zero = np.zeros(4, np.int64)
    >>> batch = Batch(np.ones((3, 1), np.float32), zero, np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> add(arrays, spec, Examples(batch, np.array([5.0, 6.0, 7.0]), np.ones(3, np.float32), np.arange(1, 4)))
    >>> sample(arrays, spec, n=6, key=1).y.tolist()
    [6.0, 7.0, 7.0, 6.0, 7.0, 7.0]
    """
    if spec.kind == "none":
        return _nothing()
    memory = ReplayArrays(**arrays)
    drawn = _draw(memory.counters, key, n) if memory.counters[HELD] > 0 else np.zeros(0, np.int64)
    return _rows(memory, _held(memory)[drawn])


def contents(arrays: Arrays, spec: ReplaySpec) -> Examples:
    """Return all rows held, oldest position first. Writes nothing."""
    if spec.kind == "none":
        return _nothing()
    memory = ReplayArrays(**arrays)
    slots = _held(memory)
    return _rows(memory, slots[np.argsort(memory.position[slots], kind="stable")])


def composition(arrays: Arrays, spec: ReplaySpec) -> dict[str, Any]:
    """Return statistics of the memory as plain numbers; they show how it changes when the stream drifts.

    `rows`, `capacity`, `bytes`; `seen` and `truncated` (of all rows offered); `classes`: for each class, in class
    order, rows `held`, `seen`, and its `share` of the memory; `age`: the quantiles 0, .25, .5, .75 and 1 of the
    distance in positions of each row from the newest row offered (empty while nothing is held).
    """
    if spec.kind == "none":
        return {"rows": 0, "capacity": 0, "bytes": 0, "seen": 0, "truncated": 0, "classes": [], "age": {}}
    memory = ReplayArrays(**arrays)
    counters, slots = memory.counters, _held(memory)
    rows, classes = len(slots), len(memory.class_seen)
    held: Ints = np.bincount(memory.y[slots].astype(np.int64), minlength=classes) if classes else slots
    ages = counters[NEWEST] - memory.position[slots]
    return {
        "rows": rows,
        "capacity": len(memory.y),
        "bytes": sum(array.nbytes for array in memory),
        "seen": int(counters[SEEN]),
        "truncated": int(counters[TRUNCATED]),
        "classes": [
            {
                "held": int(held[label]),
                "seen": int(memory.class_seen[label]),
                "share": float(held[label] / max(1, rows)),
            }
            for label in range(classes)
        ],
        "age": {str(q): float(np.quantile(ages, q)) for q in QUANTILES} if rows else {},
    }


def _held(memory: ReplayArrays) -> Ints:
    """Return the slots that hold a row."""
    held = int(memory.counters[HELD])
    return memory.order[:held].astype(np.int64) if memory.counters[KIND] == BALANCED else np.arange(held)


def _rows(memory: ReplayArrays, slots: Ints) -> Examples:
    """Return copies of the rows in these slots."""
    width = memory.indices.shape[1]
    counts = memory.entries[slots] if width else np.zeros(len(slots), np.int32)
    filled = np.arange(width) < counts[:, None]
    indptr = np.zeros(len(slots) + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    batch = Batch(memory.dense[slots], indptr, memory.indices[slots][filled], memory.values[slots][filled])
    return Examples(batch, memory.y[slots], memory.weight[slots], memory.position[slots])


def _nothing() -> Examples:
    """Return no rows, without columns."""
    batch = Batch(np.zeros((0, 0), np.float32), np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return Examples(batch, np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.int64))
