"""The bookkeeping of a step on the CPU, in few calls of kernels: after each large product the caches are cold, and
many small calls then cost as much as the products.

    new rows ─┐
              ├─ join: one minibatch ─ ... ─ remember: the new rows go into the memory
    memory  ──┘
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.families.neural import buffer_policy
from everlearn.families.neural.buffer_policy import Book, Bytes
from everlearn.records import Floats, Ints, Singles

LARGEST = np.float32(np.finfo(np.float32).max)


class Fields(NamedTuple):
    """Rows by their fields, as `everlearn.families.neural.memory.Stored` has them; the first axis is the row."""

    dense: NDArray[Any]
    indices: NDArray[np.int32]
    values: Singles
    y: Floats
    weight: Singles
    said: Singles


@exact_kernel
def _copy(to: Fields, at: int, of: Fields, row: int) -> None:
    for j in range(to.dense.shape[1]):
        to.dense[at, j] = of.dense[row, j]
    for j in range(to.indices.shape[1]):
        to.indices[at, j] = of.indices[row, j]
        to.values[at, j] = of.values[row, j]
    to.y[at] = of.y[row]
    to.weight[at] = of.weight[row]


@exact_kernel
def join(
    new: Fields, book: Book, held: Fields, wanted: Ints, key: int, to: Fields, labels: Ints, slots: Ints, found: Ints
) -> int:
    """Write the new rows into `to`, then those that are drawn, draw after draw; return how many there are.

    Draw i is of `wanted[i]` rows, or fewer where fewer are held: `found[i]`, in the memory's `slots`, of the random
    stream `key` + i. `labels` are the labels y as whole numbers.
    """
    n = new.y.shape[0]
    for row in range(n):
        _copy(to, row, new, row)
    at = n
    for i in range(wanted.shape[0]):
        found[i] = 0
        if wanted[i] > 0:
            drawn = buffer_policy.draw(book.counters, book.order, key + i, wanted[i])
            found[i] = drawn.shape[0]
            for slot in drawn:
                _copy(to, at, held, slot)
                for j in range(held.said.shape[1]):
                    to.said[at, j] = held.said[slot, j]
                slots[at - n] = slot
                at += 1
    for row in range(at):
        labels[row] = int(to.y[row])
    return int(at)


@exact_kernel
def remember(
    book: Book,
    held: Fields,
    new: Fields,
    said: Singles,
    fill: Singles,
    losses: Singles,
    sketches: Bytes,
    compared: Ints,
    at: int,
) -> None:
    """Offer the new rows, row i at position `at` + i, with what was `said` of them; the arguments of `choice.offer`.

    A missing number is remembered as the one of `fill` (columns,), an infinite one as the largest there is.
    """
    n = new.y.shape[0]
    labels = np.zeros(n, np.int64)
    if book.class_seen.shape[0] > 0:
        for row in range(n):
            labels[row] = int(new.y[row])
    slots = buffer_policy.offer(book, labels, losses, sketches, compared, at)
    for row in range(n):
        slot = slots[row]
        if slot < 0:
            continue
        _copy(held, slot, new, row)
        for j in range(held.dense.shape[1]):
            value = held.dense[slot, j]
            if value != value:
                held.dense[slot, j] = fill[j]
            elif np.isinf(value):
                held.dense[slot, j] = LARGEST if value > 0 else -LARGEST
        for j in range(held.said.shape[1]):
            held.said[slot, j] = said[row, j]


@exact_kernel
def meet(y: Floats, classes: Ints, prior: Floats, share: float) -> bool:
    """Count the rows of each class, and move `prior` by `share` towards how frequent each is among these; whether
    one of them had never come."""
    came = np.zeros(classes.shape[0])
    news = False
    for row in range(y.shape[0]):
        came[int(y[row])] += 1.0
    for label in range(classes.shape[0]):
        news = news or (classes[label] == 0 and came[label] > 0)
        classes[label] += int(came[label])
    for label in range(prior.shape[0]):
        prior[label] += (came[label] / y.shape[0] - prior[label]) * share
    return bool(news)


@exact_kernel
def weigh(labels: Ints, frequent: Singles, share: float, least: float, shift: Singles) -> None:
    """Move `frequent` by `share` towards how frequent each class is among the labels; `shift` is its log."""
    came, n = np.zeros(frequent.shape[0]), labels.shape[0]
    for row in range(n):
        came[labels[row]] += 1.0
    for label in range(frequent.shape[0]):
        frequent[label] += np.float32((came[label] / n - frequent[label]) * share)
        shift[label] = np.log(frequent[label] + least)


@exact_kernel
def expect(classes: Ints, prior: Floats, known: bool, two: bool, weighted: bool, shift: Singles) -> bool:
    """Write the log of how frequent each class is expected to be (0, unless `weighted`), -inf for one that cannot be
    yet; whether any can. With a `prior`, half of a share is from there."""
    total = 0
    for one in classes:
        total += one
    for label in range(classes.shape[0]):
        if classes[label] == 0 and not (known or two):
            shift[label] = -np.inf
            continue
        share = (classes[label] + 1.0) / (total + classes.shape[0])
        if prior.shape[0] > 0:
            share = (share + prior[label]) / 2.0
        shift[label] = np.log(share) if weighted else 0.0
    return bool(known or total > 0)
