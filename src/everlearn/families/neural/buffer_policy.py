"""Choose the rows that a memory keeps, replaces and draws. The kernels see slots, never the rows in them.

Every choice is a hash of (seed, stream, count), so that choices for rows one at a time equal those for a whole batch.
`offer` chooses slots for new rows, by the kind of memory; `draw` chooses slots to read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn._random import uniform
from everlearn.records import Floats, Ints, Singles
from everlearn.replay import CHOICE, EVICTION, HELD, KIND, NEWEST, SEED, SEEN, Ledger, below, slot

LOSS, GRADIENT = 4, 5  # kinds, after those of `everlearn.replay`
SUBSET, ACCEPTANCE, COLUMN = -3, -4, -5  # random streams, beside CHOICE and EVICTION; streams from 0 belong to draws
COMPARED = 10  # held rows with which the gradient of a new row is compared
SKETCH = 64  # numbers in the sketch of a gradient

Bytes = NDArray[np.int8]


class SlotTable(NamedTuple):
    """The arrays that choices read and write, always on the CPU.

    They are those of `everlearn.replay.Ledger`, and the `position` of the row in each slot. Only the kind "loss" has
    the `loss` and `label` of each row, and `class_held`, the number of rows held of each class. Only the kind
    "gradient" has the `sketch` int8 (slots, 64) of each row's gradient, from when it came or was last drawn, and its
    `score`: 1 + the largest cosine when it came.
    """

    counters: Ints
    class_seen: Ints
    begins: Ints
    order: NDArray[np.int32]
    position: Ints
    class_held: Ints
    label: NDArray[np.int32]
    loss: Singles
    score: Singles
    sketch: Bytes


@exact_kernel
def picked(seed: int, stream: int, count: int, held: int, n: int) -> Ints:
    """Draw n different numbers below `held`, every order equally likely, with the random numbers from `count` on.

    These are the first n steps of a shuffle (Durstenfeld 1964). For small n, only the places that it moves are kept:
    the work is at most n * n or `held`, whichever is less, with the same result.
    """
    chosen = np.empty(n, np.int64)
    if n * n >= held:
        numbers = np.arange(held)
        for i in range(n):
            at = i + below(seed, stream, count + i, held - i)
            chosen[i] = numbers[at]
            numbers[at] = numbers[i]
        return chosen
    place, number = np.empty(n, np.int64), np.empty(n, np.int64)  # numbers that the shuffle moved, by place
    for i in range(n):
        at = i + below(seed, stream, count + i, held - i)
        here, there = i, at
        for k in range(i):
            if place[k] == i:
                here = number[k]
            if place[k] == at:
                there = number[k]
        chosen[i] = there
        place[i], number[i] = at, here
    return chosen


@exact_kernel
def draw(counters: Ints, order: NDArray[np.int32], key: int, n: int) -> Ints:
    """Return the slots of n different rows, or of all rows where fewer are held."""
    chosen = picked(counters[SEED], key, 0, counters[HELD], min(n, counters[HELD]))
    if order.shape[0] > 0:
        for i in range(chosen.shape[0]):
            chosen[i] = order[chosen[i]]
    return chosen


@exact_kernel
def by_loss(table: SlotTable) -> int:
    """Return the slot to replace: likelier, the lower its loss and the more rows of its class are held.

    Loss-aware balanced reservoir sampling (Buzzega et al. 2020, "Rethinking Experience Replay", algorithm 3): the
    probability is in proportion to S = S_balance + alpha * S_loss, less its smallest value. S_balance is the number of
    rows held of the class, S_loss is minus the loss, and alpha = sum |S_balance| / sum |S_loss|.
    """
    capacity, balanced = table.loss.shape[0], table.class_held.shape[0] > 0
    balance, losses = 0.0, 0.0
    for at in range(capacity):
        balance += table.class_held[table.label[at]] if balanced else 1.0
        losses += abs(table.loss[at])
    alpha = balance / losses if losses > 0 else 0.0
    scores = np.empty(capacity)
    for at in range(capacity):
        scores[at] = (table.class_held[table.label[at]] if balanced else 1.0) - alpha * table.loss[at]
    lowest, total = scores.min(), 0.0
    for at in range(capacity):
        scores[at] -= lowest
        total += scores[at]
    seed, seen = table.counters[SEED], table.counters[SEEN]
    if not total > 0:
        return below(seed, EVICTION, seen, capacity)
    return _weighted(scores, uniform(seed, EVICTION, seen) * total)


@exact_kernel
def _weighted(scores: Floats | Singles, upto: float) -> int:
    """Return the first place at which the running sum of the scores exceeds `upto`."""
    last = 0
    for at in range(scores.shape[0]):
        if scores[at] > 0:
            last = at
            upto -= scores[at]
            if upto < 0:
                break
    return last


@exact_kernel
def cosine(first: Bytes, second: Bytes) -> float:
    """Return the cosine of two sketches, 0 if one is zero. Sums are of integers, so their order does not matter."""
    product, left, right = 0, 0, 0
    for column in range(first.shape[0]):
        a, b = int(first[column]), int(second[column])
        product += a * b
        left += a * a
        right += b * b
    return product / np.sqrt(float(left) * float(right)) if left > 0 and right > 0 else 0.0


@exact_kernel
def by_gradient(table: SlotTable, sketch: Bytes, compared: Ints) -> tuple[int, float]:
    """Return the slot for a row with this gradient, or -1, and its score.

    GSS-greedy (Aljundi et al. 2019, algorithm 2). The score is 1 + the largest cosine to the gradients of at most 10
    held rows: the first of the slots `compared`, or random ones if that is empty. When the memory is full, only a row
    with a score c below 1 enters. A held row i is drawn in proportion to the scores, and replaced with probability
    C_i / (C_i + c).
    """
    counters, capacity = table.counters, table.score.shape[0]
    seed, seen, held = counters[SEED], counters[SEEN], counters[HELD]
    largest = -1.0 if held > 0 else 0.0
    among = compared[:COMPARED]
    if among.shape[0] == 0:
        among = picked(seed, SUBSET, seen * COMPARED, held, min(COMPARED, held))
    for at in among:
        largest = max(largest, cosine(sketch, table.sketch[at]))
    score = largest + 1.0
    if held < capacity:
        return held, score
    if score >= 1.0:
        return -1, score
    total = 0.0
    for at in range(capacity):
        total += table.score[at]
    if not total > 0:
        return below(seed, EVICTION, seen, capacity), score
    at = _weighted(table.score, uniform(seed, EVICTION, seen) * total)
    accepted = uniform(seed, ACCEPTANCE, seen) * (table.score[at] + score) < table.score[at]
    return (at if accepted else -1), score


@exact_kernel
def _place(table: SlotTable, ledger: Ledger, label: int, loss: float, sketch: Bytes, compared: Ints) -> int:
    """Return the slot for the row just counted, or -1, and note its loss or gradient."""
    counters, capacity = table.counters, table.position.shape[0]
    if counters[KIND] == GRADIENT:
        at, score = by_gradient(table, sketch, compared)
        if at >= 0:
            table.score[at] = score
            table.sketch[at] = sketch
            counters[HELD] = max(counters[HELD], at + 1)
        return at
    if counters[KIND] != LOSS:
        return slot(ledger, capacity, label)
    balanced, at = table.class_held.shape[0] > 0, counters[HELD]
    if at < capacity:
        counters[HELD] += 1
    else:
        if below(counters[SEED], CHOICE, counters[SEEN], counters[SEEN]) >= capacity:
            return -1
        at = by_loss(table)
        if balanced:
            table.class_held[table.label[at]] -= 1
    table.loss[at] = loss
    if balanced:
        table.label[at] = label
        table.class_held[label] += 1
    return at


@exact_kernel
def offer(table: SlotTable, labels: Ints, losses: Singles, sketches: Bytes, compared: Ints, at: int) -> Ints:
    """Return the slot of each row, or -1 for a row that is not kept, or replaced by a later row of these.

    Row i is at position `at` + i. `losses` (n,) or (0,) and `sketches` (n, 64) or (n, 0) are read by the kinds "loss"
    and "gradient". `compared` are slots whose gradients a new one is compared with; empty for random ones.
    """
    n, counters = labels.shape[0], table.counters
    ledger = Ledger(counters, table.class_seen, table.begins, table.order)
    slots = np.empty(n, np.int64)
    for row in range(n):
        counters[SEEN] += 1
        counters[NEWEST] = at + row
        if table.class_seen.shape[0] > 0:
            table.class_seen[labels[row]] += 1
        loss = float(losses[row]) if losses.shape[0] > 0 and np.isfinite(losses[row]) else 0.0
        slots[row] = _place(table, ledger, labels[row], loss, sketches[row], compared)
        if slots[row] >= 0:
            table.position[slots[row]] = at + row
    for row in range(n):
        if slots[row] >= 0 and table.position[slots[row]] != at + row:
            slots[row] = -1  # a later row of these took its slot
    return slots


@exact_kernel
def sketched(gradients: Singles, seed: int) -> Bytes:
    """Sketch each gradient (n, columns) as 64 whole numbers from -127 to 127, which keep its direction.

    Up to 64 numbers are only rounded. More are summed, each with a sign and in a place by a hash of its column
    (a count sketch: Charikar, Chen and Farach-Colton 2002). This keeps the cosine of two gradients on average, with a
    deviation of about 1/8. Numbers that are not finite count as 0.
    """
    n, columns = gradients.shape
    sums = np.zeros((n, SKETCH))
    for column in range(columns):
        place, sign = column, 1.0
        if columns > SKETCH:
            place = below(seed, COLUMN, column, 2 * SKETCH)
            if place >= SKETCH:
                place, sign = place - SKETCH, -1.0
        for row in range(n):
            if np.isfinite(gradients[row, column]):
                sums[row, place] += sign * gradients[row, column]
    held = np.zeros((n, SKETCH), np.int8)
    for row in range(n):
        largest = np.abs(sums[row]).max()
        if largest > 0:
            for column in range(SKETCH):
                held[row, column] = np.int8(np.rint(sums[row, column] / largest * 127.0))
    return held
