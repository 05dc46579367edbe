"""The bookkeeping of a training step on the CPU, in few kernel calls.

After each large matrix product the caches are cold, and many small calls then cost as much as the products.

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
from everlearn.families.neural.buffer_policy import Bytes, SlotTable
from everlearn.records import Floats, Ints, Singles

LARGEST = np.float32(np.finfo(np.float32).max)


class RowArrays(NamedTuple):
    """Rows as arrays, with the fields of `everlearn.families.neural.memory.StoredRows`; the first axis is the row."""

    dense: NDArray[Any]
    indices: NDArray[np.int32]
    values: Singles
    y: Floats
    weight: Singles
    outputs: Singles


@exact_kernel
def _copy(to: RowArrays, at: int, source: RowArrays, row: int) -> None:
    for j in range(to.dense.shape[1]):
        to.dense[at, j] = source.dense[row, j]
    for j in range(to.indices.shape[1]):
        to.indices[at, j] = source.indices[row, j]
        to.values[at, j] = source.values[row, j]
    to.y[at] = source.y[row]
    to.weight[at] = source.weight[row]


@exact_kernel
def join(
    new: RowArrays,
    table: SlotTable,
    held: RowArrays,
    draws: Ints,
    key: int,
    to: RowArrays,
    labels: Ints,
    slots: Ints,
    drawn: Ints,
) -> int:
    """Write the new rows into `to`, then the drawn rows, draw after draw; return the number of rows.

    Draw i takes `draws[i]` rows, or fewer where fewer are held, from the random stream `key` + i. Its number of rows
    goes into `drawn[i]`, their slots in the memory into `slots`. `labels` are the labels y as whole numbers.
    """
    n = new.y.shape[0]
    for row in range(n):
        _copy(to, row, new, row)
    at = n
    for i in range(draws.shape[0]):
        drawn[i] = 0
        if draws[i] > 0:
            chosen = buffer_policy.draw(table.counters, table.order, key + i, draws[i])
            drawn[i] = chosen.shape[0]
            for slot in chosen:
                _copy(to, at, held, slot)
                for j in range(held.outputs.shape[1]):
                    to.outputs[at, j] = held.outputs[slot, j]
                slots[at - n] = slot
                at += 1
    for row in range(at):
        labels[row] = int(to.y[row])
    return int(at)


@exact_kernel
def remember(
    table: SlotTable,
    held: RowArrays,
    new: RowArrays,
    outputs: Singles,
    fill: Singles,
    losses: Singles,
    sketches: Bytes,
    compared: Ints,
    at: int,
) -> None:
    """Offer the new rows to the memory, row i at position `at` + i, with the network's `outputs` for them.

    `losses`, `sketches` and `compared` are those of `buffer_policy.offer`. A missing number is stored as that of
    `fill` (columns,), an infinite one as the largest float32.
    """
    n = new.y.shape[0]
    labels = np.zeros(n, np.int64)
    if table.class_seen.shape[0] > 0:
        for row in range(n):
            labels[row] = int(new.y[row])
    slots = buffer_policy.offer(table, labels, losses, sketches, compared, at)
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
        for j in range(held.outputs.shape[1]):
            held.outputs[slot, j] = outputs[row, j]


@exact_kernel
def count_classes(y: Floats, classes: Ints, prior: Floats, share: float) -> bool:
    """Count the rows of each class, and move `prior` by `share` towards the class frequencies of these rows.

    Return True if a class came for the first time.
    """
    came = np.zeros(classes.shape[0])
    new_class = False
    for row in range(y.shape[0]):
        came[int(y[row])] += 1.0
    for label in range(classes.shape[0]):
        new_class = new_class or (classes[label] == 0 and came[label] > 0)
        classes[label] += int(came[label])
    for label in range(prior.shape[0]):
        prior[label] += (came[label] / y.shape[0] - prior[label]) * share
    return bool(new_class)


@exact_kernel
def log_frequencies(labels: Ints, frequent: Singles, share: float, least: float, logs: Singles) -> None:
    """Move `frequent` by `share` towards the class frequencies of the labels, and write log(frequent + least)."""
    came, n = np.zeros(frequent.shape[0]), labels.shape[0]
    for row in range(n):
        came[labels[row]] += 1.0
    for label in range(frequent.shape[0]):
        frequent[label] += np.float32((came[label] / n - frequent[label]) * share)
        logs[label] = np.log(frequent[label] + least)


@exact_kernel
def log_priors(classes: Ints, prior: Floats, known: bool, binary: bool, weighted: bool, logs: Singles) -> bool:
    """Write the log of the expected frequency of each class, and return True if any class can be predicted.

    The frequency is the class's share of all rows; with a `prior`, the mean of that share and the prior. It is 1
    unless `weighted`, and 0 for a class without rows, unless all are `known` or the task is `binary`.
    """
    total = 0
    for rows in classes:
        total += rows
    for label in range(classes.shape[0]):
        if classes[label] == 0 and not (known or binary):
            logs[label] = -np.inf
            continue
        share = (classes[label] + 1.0) / (total + classes.shape[0])
        if prior.shape[0] > 0:
            share = (share + prior[label]) / 2.0
        logs[label] = np.log(share) if weighted else 0.0
    return bool(known or total > 0)
