"""Rows that wait until a minibatch is full."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._torch import array
from everlearn.families.neural import row_buffer
from everlearn.families.neural.contract import Inputs
from everlearn.families.neural.inputs import InputReader, RawRows
from everlearn.families.neural.plan import Plan
from everlearn.families.neural.row_buffer import RowColumns
from everlearn.families.neural.training_state import ROWS, WAITING, TrainingState
from everlearn.records import Floats, Singles


def columns(plan: Plan, reader: InputReader, raw: RawRows, y: Floats, weight: Singles) -> RowColumns:
    """Return all rows of a call in the form in which they wait.

    Raises `InputError` for a row that the memory does not hold exactly.
    """
    dense: NDArray[Any] = raw.dense
    if plan.remembers:
        dense = row_buffer.stored(reader, plan.settings.memory, raw)
    return dense if plan.whole else dense.view(np.int32), raw.indices, raw.values, y, weight


def room(plan: Plan, state: TrainingState) -> int:
    """Return how many rows are missing to a full minibatch."""
    return plan.settings.batch - int(state.counts[WAITING])


def put(state: TrainingState, given: RowColumns, start: int, stop: int) -> int:
    """Copy rows `start` to `stop` - 1 into the queue, which must have room, and return the slot of the first."""
    slot = int(state.counts[WAITING])
    state.pending.put(given, slice(slot, slot + stop - start), slice(start, stop))
    return slot


def inputs(state: TrainingState, rows: slice | None = None) -> Inputs:
    """Return the arguments of the module for the slots of the queue, or for some of them."""
    pending = state.pending
    if rows is None:
        return state.reader.inputs(pending.dense, pending.indices, pending.values)
    return state.reader.inputs(*pending.part(rows))


def count(plan: Plan, state: TrainingState, rows: int, losses: Floats | None) -> bool:
    """Count the rows that were put last, and predicted with these `losses`; return True if the minibatch is full.

    `losses` float64 (rows,) are what the drift detector watches; None without one.
    """
    counts = state.counts
    slot = int(counts[WAITING])
    if losses is not None:
        array(state.tensors["learn/pending/loss"])[slot : slot + rows] = losses
    counts[ROWS] += rows
    counts[WAITING] = slot + rows
    return slot + rows == plan.settings.batch
