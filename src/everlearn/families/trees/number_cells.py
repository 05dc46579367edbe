"""The observers of a leaf of numbers: for each column, cells of equal width with weight and sum of errors.

A split between two cells needs no more than that to know how much it lowers the variance (`number_splits`). A quantised
observer is that of Mastelini & de Carvalho (2021), "Using dynamical quantization to perform split attempts in online
tree regressors"; here the number of cells is fixed. Their width is a power of two, chosen from the first two values and
doubled when too much weight lies outside, so cells are merged exactly. The outermost cells also count what lies beyond
them: a rare extreme value widens nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import inlined
from everlearn.families.kernel_parts import uncounted
from everlearn.families.trees.layout import (
    BASE,
    CELLS,
    CHOICES,
    COLUMN_FLOATS,
    ENTRY_SUMS,
    FIRST_CELL,
    NUMBER_HEAD,
    VALUE,
    WIDTH,
)
from everlearn.families.trees.observers import claim_entry
from everlearn.records import Floats, Singles

Nodes = NDArray[np.int32]

FINEST = 2.0**-20  # of a column's first values: no cell is narrower
NEAR = 4  # the first two values are between 8 and 16 cells apart: half of 2**NEAR
TAIL = 0.125  # share of the weight in an outermost cell at which cells become wider


@inlined
def cell_of(v: float, width: float) -> float:
    """Return the number of the cell of a value; cell c holds values above c * width, up to (c + 1) * width.

    >>> cell_of(0.5, 0.25), cell_of(0.51, 0.25), cell_of(0.0, 0.25)
    (1.0, 2.0, -1.0)
    """
    return math.ceil(v / width) - 1.0


@uncounted
def first_width(first: float, v: float) -> float:
    """Return the width of cells after the first two values of a column."""
    _, apart = math.frexp(abs(v - first))
    _, finest = math.frexp(max(abs(v), abs(first)) * FINEST)
    return math.ldexp(1.0, max(apart - NEAR, finest, -120))


@uncounted
def place_first(blocks: Singles, t: int, block: int, at: int, v: float) -> int:
    """Return the place of the value of a column that had at most one value so far, and choose the width of cells."""
    n, total = blocks[t, block, at + FIRST_CELL], blocks[t, block, at + FIRST_CELL + CELLS]
    first = np.float64(blocks[t, block, at + BASE])
    if n == 0.0:
        blocks[t, block, at + BASE] = v
        return 0
    if v == first:
        return 0
    width = first_width(first, v)
    base = cell_of(0.5 * (first + v), width) - CELLS // 2
    blocks[t, block, at + WIDTH] = width
    blocks[t, block, at + BASE] = base
    k = at + FIRST_CELL + int(min(max(cell_of(first, width) - base, 0.0), CELLS - 1.0))
    blocks[t, block, at + FIRST_CELL] = 0.0
    blocks[t, block, at + FIRST_CELL + CELLS] = 0.0
    blocks[t, block, k] = n
    blocks[t, block, k + CELLS] = total
    return int(min(max(cell_of(v, width) - base, 0.0), CELLS - 1.0))


@uncounted
def move_cells(blocks: Singles, t: int, block: int, at: int, shift: int, halves: int) -> None:
    """Move each cell i to (i + halves) // 2 + shift, or to i + shift if `halves` is -1; sums of cells that meet add."""
    for part in range(2):
        start = at + FIRST_CELL + part * CELLS
        for step in range(CELLS):
            i = step if shift <= 0 else CELLS - 1 - step
            to = i + shift if halves < 0 else (i + halves) // 2 + shift
            held = blocks[t, block, start + i]
            blocks[t, block, start + i] = 0.0
            if held != 0.0:
                blocks[t, block, start + to] += held


@uncounted
def place_outside(blocks: Singles, t: int, block: int, at: int, v: float, weight: float) -> int:
    """Return the place of a value beyond the cells: shift them if there is room, double them, or take the last one."""
    width, base = np.float64(blocks[t, block, at + WIDTH]), np.float64(blocks[t, block, at + BASE])
    place = cell_of(v, width) - base
    below = place < 0.0
    end = 0 if below else CELLS - 1
    room = 0
    while blocks[t, block, at + FIRST_CELL + (CELLS - 1 - room if below else room)] == 0.0:
        room += 1
    need = -place if below else place - (CELLS - 1)
    if need <= room:
        shift = int(need) if below else -int(need)
        move_cells(blocks, t, block, at, shift, -1)
        blocks[t, block, at + BASE] = base - shift
        return end
    total = weight
    for i in range(CELLS):
        total += blocks[t, block, at + FIRST_CELL + i]
    if blocks[t, block, at + FIRST_CELL + end] + weight <= TAIL * total:
        return end
    start = math.floor(base / 2.0)
    halves = int(base - 2.0 * start)  # 0 or 1: the first cell is the left or right half of a new one
    shift = CELLS - 1 - (CELLS - 1 + halves) // 2 if below else 0
    move_cells(blocks, t, block, at, shift, halves)
    blocks[t, block, at + WIDTH] = 2.0 * width
    blocks[t, block, at + BASE] = start - shift
    return int(min(max(cell_of(v, 2.0 * width) - (start - shift), 0.0), CELLS - 1.0))


@uncounted
def learn_cells(blocks: Singles, t: int, block: int, seen: Floats, away: float, weight: float) -> None:
    """Add the columns of a row, float64 (3, m) as prepared, whose target is `away` above its prediction."""
    for j in range(seen.shape[1]):
        v = seen[VALUE, j]
        if math.isnan(v):
            continue
        at = NUMBER_HEAD + j * COLUMN_FLOATS
        width = np.float64(blocks[t, block, at + WIDTH])
        if width == 0.0:
            k = place_first(blocks, t, block, at, v)
        else:
            place = cell_of(v, width) - blocks[t, block, at + BASE]
            inside = 0.0 <= place < CELLS
            k = int(place) if inside else place_outside(blocks, t, block, at, v, weight)
        blocks[t, block, at + FIRST_CELL + k] += np.float32(weight)
        blocks[t, block, at + FIRST_CELL + CELLS + k] += np.float32(weight * away)


@uncounted
def learn_number_entries(
    settings: Floats, blocks: Singles, choices: Nodes, t: int, block: int, m: int, at: int, indices: Nodes,
    values: Singles, low: int, high: int, away: float, weight: float,
) -> None:  # fmt: skip
    """Add the hashed entries `low` to `high` - 1 of a row to their table, which begins at `at` in the block."""
    first = CHOICES + m
    sums = at + choices.shape[2] - first
    for e in range(low, high):
        index = int(indices[e])
        place = claim_entry(settings, blocks, choices, t, block, first, at, ENTRY_SUMS, index, values[e], weight)
        if place >= 0:
            blocks[t, block, sums + place * ENTRY_SUMS] += np.float32(weight)
            blocks[t, block, sums + place * ENTRY_SUMS + 1] += np.float32(weight * away)
