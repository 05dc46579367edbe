"""The replay memory of a network: rows as tensors, in a fixed number of bytes.

Kinds: "window", "reservoir" and "balanced" make the same choices as `everlearn.replay`. "loss" is a reservoir that
replaces rows with a low loss and of large classes first. "gradient" keeps rows whose gradients differ in direction
from those held. "none" holds nothing.

Rows are on the device of the network, so that a step on a GPU neither sends rows nor waits for any. The arrays that
choose slots (`TABLE`) are small and always on the CPU, for the kernels of `buffer_policy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from everlearn._torch import Tensor, Tensors, array, tensor, torch
from everlearn.errors import ConfigError, InputError
from everlearn.families.neural import buffer_policy
from everlearn.families.neural.buffer_policy import GRADIENT, LOSS, SKETCH, SlotTable
from everlearn.families.neural.settings import Memory
from everlearn.records import Ints
from everlearn.replay import BALANCED, COUNTERS, HELD, KIND, NEWEST, QUANTILES, RESERVOIR, SEED, SEEN, WINDOW

KINDS = {"window": WINDOW, "reservoir": RESERVOIR, "balanced": BALANCED, "loss": LOSS, "gradient": GRADIENT}
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "int32": torch.int32,
}
TABLE = SlotTable._fields  # names of the tensors that are always on the CPU
ROW_BYTES = 8 + 4 + 8  # y, weight, position
ENTRY_BYTES = 4 + 4  # index and value of one hashed feature


class StoredRows(NamedTuple):
    """n rows in the form in which the memory stores them; the first axis is the row.

    `dense` (n, dense) of the stored dtype; `indices` int32 and `values` float32 (n, width), padded with 0, or (n, 0);
    `y` float64 (n,); `weight` float32 (n,); `outputs` float32 (n, outputs): the network's outputs
    when the row came, or (n, 0).
    """

    dense: Tensor
    indices: Tensor
    values: Tensor
    y: Tensor
    weight: Tensor
    outputs: Tensor


ROW_ARRAYS = ("dense", "indices", "values", "y", "weight", "said")  # where a memory holds the fields of `StoredRows`


def start(
    spec: Memory, *, dense: int, width: int, classes: int, outputs: int, seed: int, device: str | torch.device
) -> Tensors:
    """Allocate all tensors, for at most `spec.rows` rows (0: any number) in at most `spec.bytes` bytes in total.

    `width` is the number of hashed features of a row (0: none), `classes` the number of classes (0: a regression,
    where "balanced" is a reservoir), `outputs` the number of stored outputs (0: they are not stored). Kind "none" has
    no tensors. Raises `ConfigError` if not one row fits.

    >>> spec = Memory(kind="reservoir", bytes=100_000, dtype="uint8")
    >>> held = start(spec, dense=784, width=0, classes=10, outputs=0, seed=0, device="cpu")
    >>> len(held["y"]), sum(column.nbytes for column in held.values())
    (124, 99824)
    """
    if spec.kind == "none":
        return {}
    kind = RESERVOIR if spec.kind == "balanced" and classes == 0 else KINDS[spec.kind]
    stored = DTYPES[spec.dtype]
    balanced, by_loss, by_gradient = kind == BALANCED, kind == LOSS, kind == GRADIENT
    fixed = 8 * (COUNTERS + classes + (classes + 2) * balanced + classes * by_loss)
    each = ROW_BYTES + stored.itemsize * dense + ENTRY_BYTES * width + 4 * outputs
    each += 4 * balanced + (4 + 4 * (classes > 0)) * by_loss + (4 + SKETCH) * by_gradient
    capacity = (spec.bytes - fixed) // each
    if capacity < 1:
        raise ConfigError(
            f"memory.bytes is {spec.bytes}, and one row takes {each} beside {fixed} for counting; "
            f"give at least {fixed + each}, or set memory.kind to 'none'"
        )
    capacity = min(capacity, spec.rows) if spec.rows else capacity
    counters = torch.zeros(COUNTERS, dtype=torch.int64)
    counters[KIND], counters[SEED] = kind, seed
    begins = torch.zeros((classes + 2) * balanced, dtype=torch.int64)
    begins[-1:] = capacity
    return {
        "counters": counters,
        "class_seen": torch.zeros(classes, dtype=torch.int64),
        "begins": begins,
        "order": torch.arange(capacity * balanced, dtype=torch.int32),
        "position": torch.zeros(capacity, dtype=torch.int64),
        "class_held": torch.zeros(classes * by_loss, dtype=torch.int64),
        "label": torch.zeros(capacity * by_loss * (classes > 0), dtype=torch.int32),
        "loss": torch.zeros(capacity * by_loss),
        "score": torch.zeros(capacity * by_gradient),
        "sketch": torch.zeros((capacity * by_gradient, SKETCH), dtype=torch.int8),
        "dense": torch.zeros((capacity, dense), dtype=stored, device=device),
        "indices": torch.zeros((capacity, width), dtype=torch.int32, device=device),
        "values": torch.zeros((capacity, width), device=device),
        "y": torch.zeros(capacity, dtype=torch.float64, device=device),
        "weight": torch.zeros(capacity, device=device),
        "said": torch.zeros((capacity, outputs), device=device),
    }


def cast(dense: Tensor, spec: Memory, at: int) -> Tensor:
    """Return dense rows (n, columns) in the stored dtype; row i is at position `at` + i.

    Raises `InputError` where a number would come back changed; a missing value stays missing, where the dtype has NaN.

    >>> cast(torch.tensor([[3.0, 255.0]]), Memory(dtype="uint8"), at=0)
    tensor([[  3, 255]], dtype=torch.uint8)
    """
    stored = DTYPES[spec.dtype]
    if dense.dtype == stored:
        return dense
    held = dense.to(stored)
    lost = _changed(dense, held, spec)
    if lost is not None:
        row, column = (int(number) for number in lost.nonzero()[0])
        raise InputError(f"the row at position {at + row}: {_reason(dense, row, column, spec)}")
    return held


def rounded(dense: Tensor, spec: Memory) -> Tensor:
    """Return dense rows (n, columns) in the stored dtype. Only means in place of gaps are rounded; the rest fits."""
    stored = DTYPES[spec.dtype]
    if dense.dtype == stored or not stored.is_floating_point:
        return dense
    limits = torch.finfo(stored)
    return dense.clamp(limits.min, limits.max).to(stored)


def exact(dense: Tensor, spec: Memory) -> Tensor | None:
    """Return dense rows (n, columns) in the stored dtype; None if a number is missing or would come back changed."""
    held = dense.to(DTYPES[spec.dtype])
    return held if torch.equal(*_compared(dense, held, spec)) else None


def lost(dense: Tensor, spec: Memory) -> dict[int, str]:
    """Return the rows of (n, columns) that would come back changed, each with the reason."""
    changed = _changed(dense, dense.to(DTYPES[spec.dtype]), spec)
    if changed is None:
        return {}
    rows = changed.any(1).nonzero()[:, 0].tolist()
    return {row: _reason(dense, row, int(changed[row].nonzero()[0]), spec) for row in rows}


def _changed(dense: Tensor, held: Tensor, spec: Memory) -> Tensor | None:
    """Return the mask of numbers that come back changed, bool (n, columns); None if there are none."""
    back, was = _compared(dense, held, spec)
    if torch.equal(back, was):
        return None
    changed = (back != was) & ~(back.isnan() & was.isnan())
    return changed if bool(changed.any()) else None


def _compared(dense: Tensor, held: Tensor, spec: Memory) -> tuple[Tensor, Tensor]:
    """Return the stored and the original numbers in a dtype that holds both."""
    return (held.double(), dense.double()) if spec.dtype == "int32" else (held.to(dense.dtype), dense)


def _reason(dense: Tensor, row: int, column: int, spec: Memory) -> str:
    value = float(dense[row, column])
    shown = "missing" if value != value else repr(value)
    return (
        f"column {column} is {shown}, which {spec.dtype} does not hold exactly; expected a number that it does, or set "
        "memory.dtype to 'float32'"
    )


def add(
    held: Tensors,
    spec: Memory,
    rows: StoredRows,
    *,
    losses: Tensor | None = None,
    gradients: Tensor | None = None,
    compared: Tensor | None = None,
    at: int = 0,
) -> None:
    """Offer rows in stream order, row i at position `at` + i. `held` is changed in place and copies what it keeps.

    n rows at once leave the same bytes as n calls of one row. The kind "loss" needs `losses` (n,); "gradient" needs
    `gradients` (n, any number) of each row's loss, for instance in the outputs. They are compared with those of the
    rows in the slots `compared`, which were drawn and revised in this step (None: random rows, as last noted). Raises
    `InputError`, before anything is written, where rows do not fit the memory or a label is no class of it.
    """
    n = rows.y.shape[0]
    if spec.kind == "none" or n == 0:
        return
    dense = _checked(held, spec, rows, at)
    labels = _labels(held, rows, at)
    table = table_of(held)
    if table.counters[KIND] == LOSS and (losses is None or losses.shape != (n,)):
        raise InputError(f"memory of kind 'loss' got {n} rows and losses {_shape(losses)}; expected losses ({n},)")
    if table.counters[KIND] == GRADIENT and (gradients is None or gradients.ndim != 2 or len(gradients) != n):
        raise InputError(
            f"memory of kind 'gradient' got {n} rows and gradients {_shape(gradients)}; expected ({n}, any number)"
        )
    noted = np.zeros(0, np.float32) if losses is None else _single(losses)
    sketches = np.zeros((n, 0), np.int8)
    if gradients is not None and table.counters[KIND] == GRADIENT:
        sketches = buffer_policy.sketched(_single(gradients), int(table.counters[SEED]))
    among = np.zeros(0, np.int64) if compared is None else array(compared)
    slots = buffer_policy.offer(table, labels, noted, sketches, among, at)
    kept = np.flatnonzero(slots >= 0)
    if len(kept) == 0:
        return
    if held["y"].device.type == "cpu":  # writing arrays costs less than writing tensors
        to = slots[kept]
        for name, column in zip(ROW_ARRAYS, rows._replace(dense=dense), strict=True):
            if held[name].shape[-1]:
                array(held[name])[to] = array(column)[kept]
        return
    device = held["y"].device
    places, given = tensor(slots[kept]).to(device), tensor(kept)
    for name, column in zip(ROW_ARRAYS, rows._replace(dense=dense), strict=True):
        if held[name].shape[-1]:
            chosen = column if len(kept) == n else column.index_select(0, given.to(column.device))
            held[name].index_copy_(0, places, chosen.to(device=device, dtype=held[name].dtype))


def pick(held: Tensors, n: int, key: int) -> Tensor:
    """Return the slots of n different rows, or of all rows where fewer are held, int64 on the CPU.

    The draw is a function of (seed, key); `key` is a whole number from 0. Every row and every order is equally likely.
    """
    if not held:
        return torch.zeros(0, dtype=torch.int64)
    return tensor(buffer_policy.draw(held["counters"].numpy(), held["order"].numpy(), key, n))


def take(held: Tensors, slots: Tensor) -> StoredRows:
    """Return copies of the rows in these slots, and of no others, on the device of the memory."""
    if not held:
        matrix, vector = torch.zeros((0, 0)), torch.zeros(0)
        return StoredRows(matrix, matrix.int(), matrix, vector.double(), vector, matrix)
    at = slots.to(held["y"].device)
    n = at.shape[0]
    found = (held[name] for name in ROW_ARRAYS)
    columns = (column.index_select(0, at) if column.shape[-1] else column.new_empty((n, 0)) for column in found)
    return StoredRows(*columns)


def draw(held: Tensors, spec: Memory, n: int, key: int) -> StoredRows:
    """Return n different rows, or all rows where fewer are held, as a function of (seed, key).

    Writes nothing, and copies only the drawn rows. A memory of kind "none" returns rows without columns.
    """
    return take(held, pick(held, n, key))


def revise(held: Tensors, slots: Tensor, *, losses: Tensor | None = None, gradients: Tensor | None = None) -> None:
    """Note the present losses (n,) and gradients (n, any number) of the rows in these slots.

    For drawn rows they cost nothing. The kind "loss" reads only losses, "gradient" only gradients, which say little
    when they are old; other kinds read neither.
    """
    kind = int(held["counters"][KIND]) if held else WINDOW
    if kind == LOSS and losses is not None:
        noted = losses.detach().float().cpu()
        held["loss"][slots.cpu()] = noted.where(noted.isfinite(), torch.zeros(()))
    if kind == GRADIENT and gradients is not None:
        held["sketch"][slots.cpu()] = tensor(buffer_policy.sketched(_single(gradients), int(held["counters"][SEED])))


def contents(held: Tensors, spec: Memory) -> StoredRows:
    """Return all rows held, oldest first. Writes nothing."""
    return take(held, _oldest_first(held))


def parts(held: Tensors, size: int) -> Iterator[StoredRows]:
    """Yield all rows held, oldest first, at most `size` rows at once."""
    slots = _oldest_first(held)
    for begin in range(0, len(slots), size):
        yield take(held, slots[begin : begin + size])


def composition(held: Tensors, spec: Memory) -> dict[str, Any]:
    """Describe the content of the memory in plain numbers; it shifts when the stream drifts.

    `rows`, `capacity`, `bytes`; `seen` (all rows offered); `classes`: for each class, in class order, rows `held`,
    `seen`, and its `share` of memory; `age`: the quantiles 0, .25, .5, .75 and 1 of how many positions each row is
    behind the newest row offered (empty while nothing is held).
    """
    if not held:
        return {"rows": 0, "capacity": 0, "bytes": 0, "seen": 0, "classes": [], "age": {}}
    table, slots = table_of(held), _oldest_first(held)
    rows, classes = len(slots), len(table.class_seen)
    labels = array(take(held, slots).y).astype(np.int64) if classes else np.zeros(0, np.int64)
    counts = np.bincount(labels, minlength=classes)
    ages = table.counters[NEWEST] - table.position[array(slots)]
    return {
        "rows": rows,
        "capacity": len(table.position),
        "bytes": sum(column.nbytes for column in held.values()),
        "seen": int(table.counters[SEEN]),
        "classes": [
            {
                "held": int(counts[label]),
                "seen": int(table.class_seen[label]),
                "share": float(counts[label] / max(1, rows)),
            }
            for label in range(classes)
        ],
        "age": {str(q): float(np.quantile(ages, q)) for q in QUANTILES} if rows else {},
    }


def _oldest_first(held: Tensors) -> Tensor:
    if not held:
        return torch.zeros(0, dtype=torch.int64)
    table = table_of(held)
    rows = int(table.counters[HELD])
    slots = table.order[:rows].astype(np.int64) if len(table.order) else np.arange(rows)
    return tensor(slots[np.argsort(table.position[slots], kind="stable")])


def table_of(held: Tensors) -> SlotTable:
    """Return the arrays of a memory that choices read and write."""
    return SlotTable(*(held[name].numpy() for name in TABLE))


def _single(numbers: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ascontiguousarray(array(numbers.float()))


def _shape(numbers: Tensor | None) -> str:
    return "none" if numbers is None else str(tuple(numbers.shape))


def _checked(held: Tensors, spec: Memory, rows: StoredRows, at: int) -> Tensor:
    """Return the dense rows in the stored dtype; raise `InputError` for rows that do not fit the memory."""
    n = rows.y.shape[0]
    for field, name, column in zip(StoredRows._fields, ROW_ARRAYS, rows, strict=True):
        if column.shape[0] != n or column.shape[1:] != held[name].shape[1:]:
            expected = (n, *held[name].shape[1:])
            raise InputError(
                f"rows to remember have {field} of shape {tuple(column.shape)}, expected {expected}; "
                "start the memory with the columns of the stream"
            )
    return cast(rows.dense, spec, at)


def _labels(held: Tensors, rows: StoredRows, at: int) -> Ints:
    """Return the class of each row (0 in a regression); raise `InputError` for a label that is no class."""
    classes = held["class_seen"].shape[0]
    if classes == 0:
        return np.zeros(rows.y.shape[0], np.int64)
    y = array(rows.y)
    within = (y >= 0) & (y < classes)
    labels = y.astype(np.int64) if within.all() else np.where(within, y, 0).astype(np.int64)
    foreign = ~within | (labels != y)
    if foreign.any():
        first = int(np.flatnonzero(foreign)[0])
        raise InputError(
            f"label {y[first]} at position {at + first} is no class of the memory; "
            f"expected a whole number from 0 to {classes - 1}"
        )
    return labels
