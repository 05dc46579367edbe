"""Which rows a memory keeps, which of them give way, and which are drawn: kernels that see no row, only its slot.

Every choice is a hash of (seed, stream, count), so rows one by one are chosen as rows all at once.
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
SUBSET, ACCEPTANCE, COLUMN = -3, -4, -5  # random streams, beside CHOICE and EVICTION; draws have those from 0
COMPARED = 10  # rows held that the gradient of a new one is compared with
SKETCH = 64  # numbers that a gradient is held in

Bytes = NDArray[np.int8]


class Book(NamedTuple):
    """The arrays by name that a choice looks at and writes; always on the CPU.

    Those of `everlearn.replay.Ledger`, and, for each slot, the `position` of its row. Of the kind "loss" only: the
    `loss` of each row, its `label`, and `class_held`, rows held of each class. Of the kind "gradient" only: the
    `sketch` int8 (slots, 64) of each row's gradient, when it came or was last drawn, and its `score`: 1 + the largest
    cosine when it came.
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
    """n different numbers below `held`, all orders of all choices alike, of the random numbers from `count` on.

    The first n steps of a shuffle (Durstenfeld 1964). Only the places that it moves are kept, where they are few: the
    work is at most n * n or `held`, whichever is less, and the answer the same.
    """
    chosen = np.empty(n, np.int64)
    if n * n >= held:
        numbers = np.arange(held)
        for i in range(n):
            at = i + below(seed, stream, count + i, held - i)
            chosen[i] = numbers[at]
            numbers[at] = numbers[i]
        return chosen
    place, number = np.empty(n, np.int64), np.empty(n, np.int64)  # what stands elsewhere than in its own place
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
    """The slots of n rows held, all different; of all rows where fewer are held."""
    chosen = picked(counters[SEED], key, 0, counters[HELD], min(n, counters[HELD]))
    if order.shape[0] > 0:
        for i in range(chosen.shape[0]):
            chosen[i] = order[chosen[i]]
    return chosen


@exact_kernel
def by_loss(book: Book) -> int:
    """The slot to give away: the likelier, the lower its loss and the more rows of its class are held.

    Loss-aware balanced reservoir sampling (Buzzega et al. 2020, "Rethinking Experience Replay", algorithm 3): the
    chance is in proportion to S = S_balance + alpha * S_loss, less its smallest value, where S_balance is the number
    of rows held of the class, S_loss minus the loss, and alpha = sum |S_balance| / sum |S_loss|.
    """
    capacity, balanced = book.loss.shape[0], book.class_held.shape[0] > 0
    balance, losses = 0.0, 0.0
    for at in range(capacity):
        balance += book.class_held[book.label[at]] if balanced else 1.0
        losses += abs(book.loss[at])
    alpha = balance / losses if losses > 0 else 0.0
    scores = np.empty(capacity)
    for at in range(capacity):
        scores[at] = (book.class_held[book.label[at]] if balanced else 1.0) - alpha * book.loss[at]
    lowest, total = scores.min(), 0.0
    for at in range(capacity):
        scores[at] -= lowest
        total += scores[at]
    seed, seen = book.counters[SEED], book.counters[SEEN]
    if not total > 0:
        return below(seed, EVICTION, seen, capacity)
    return _weighted(scores, uniform(seed, EVICTION, seen) * total)


@exact_kernel
def _weighted(scores: Floats | Singles, upto: float) -> int:
    """The first place where the sum of the scores so far is above `upto`."""
    last = 0
    for at in range(scores.shape[0]):
        if scores[at] > 0:
            last = at
            upto -= scores[at]
            if upto < 0:
                break
    return last


@exact_kernel
def cosine(one: Bytes, other: Bytes) -> float:
    """Of two sketches; 0 where one has no length. Sums of whole numbers, so no order of adding matters."""
    product, left, right = 0, 0, 0
    for column in range(one.shape[0]):
        a, b = int(one[column]), int(other[column])
        product += a * b
        left += a * a
        right += b * b
    return product / np.sqrt(float(left) * float(right)) if left > 0 and right > 0 else 0.0


@exact_kernel
def by_gradient(book: Book, sketch: Bytes, compared: Ints) -> tuple[int, float]:
    """Where a row with this gradient goes, or -1, and its score: GSS-greedy (Aljundi et al. 2019, algorithm 2).

    The score is 1 + the largest cosine to the gradients of at most 10 rows held: the first in the slots `compared`, or
    any, if that is empty. When full, only a row with a score below 1 gets in; it takes the slot of row i, drawn in
    proportion to the scores, with chance C_i / (C_i + c).
    """
    counters, capacity = book.counters, book.score.shape[0]
    seed, seen, held = counters[SEED], counters[SEEN], counters[HELD]
    largest = -1.0 if held > 0 else 0.0
    among = compared[:COMPARED]
    if among.shape[0] == 0:
        among = picked(seed, SUBSET, seen * COMPARED, held, min(COMPARED, held))
    for at in among:
        largest = max(largest, cosine(sketch, book.sketch[at]))
    score = largest + 1.0
    if held < capacity:
        return held, score
    if score >= 1.0:
        return -1, score
    total = 0.0
    for at in range(capacity):
        total += book.score[at]
    if not total > 0:
        return below(seed, EVICTION, seen, capacity), score
    at = _weighted(book.score, uniform(seed, EVICTION, seen) * total)
    accepted = uniform(seed, ACCEPTANCE, seen) * (book.score[at] + score) < book.score[at]
    return (at if accepted else -1), score


@exact_kernel
def _place(book: Book, ledger: Ledger, label: int, loss: float, sketch: Bytes, compared: Ints) -> int:
    """Where the row just counted goes, or -1, with what is noted of it."""
    counters, capacity = book.counters, book.position.shape[0]
    if counters[KIND] == GRADIENT:
        at, score = by_gradient(book, sketch, compared)
        if at >= 0:
            book.score[at] = score
            book.sketch[at] = sketch
            counters[HELD] = max(counters[HELD], at + 1)
        return at
    if counters[KIND] != LOSS:
        return slot(ledger, capacity, label)
    balanced, at = book.class_held.shape[0] > 0, counters[HELD]
    if at < capacity:
        counters[HELD] += 1
    else:
        if below(counters[SEED], CHOICE, counters[SEEN], counters[SEEN]) >= capacity:
            return -1
        at = by_loss(book)
        if balanced:
            book.class_held[book.label[at]] -= 1
    book.loss[at] = loss
    if balanced:
        book.label[at] = label
        book.class_held[label] += 1
    return at


@exact_kernel
def offer(book: Book, labels: Ints, losses: Singles, sketches: Bytes, compared: Ints, at: int) -> Ints:
    """The slot of each row, or -1 for a row that is not kept, or not until the last of these rows.

    Row i is at position `at` + i. `compared` are slots whose gradients a new one is compared with; or none.
    """
    n, counters = labels.shape[0], book.counters
    ledger = Ledger(counters, book.class_seen, book.begins, book.order)
    slots = np.empty(n, np.int64)
    for row in range(n):
        counters[SEEN] += 1
        counters[NEWEST] = at + row
        if book.class_seen.shape[0] > 0:
            book.class_seen[labels[row]] += 1
        loss = float(losses[row]) if losses.shape[0] > 0 and np.isfinite(losses[row]) else 0.0
        slots[row] = _place(book, ledger, labels[row], loss, sketches[row], compared)
        if slots[row] >= 0:
            book.position[slots[row]] = at + row
    for row in range(n):
        if slots[row] >= 0 and book.position[slots[row]] != at + row:
            slots[row] = -1  # a later row of these has taken its slot
    return slots


@exact_kernel
def sketched(gradients: Singles, seed: int) -> Bytes:
    """Each gradient as 64 whole numbers from -127 to 127, which keep its direction; a gradient (n, 0) as none.

    Up to 64 numbers are only rounded. More are added up, each with a sign and in a place by a hash of its column
    (a count sketch: Charikar, Chen and Farach-Colton 2002), which leaves the cosine of two gradients as it is on
    average, with a deviation of about 1/8. Not finite counts as 0.
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
