"""The row loops of the family: score rows by the detectors in use, add their scores, rank the sum, and learn."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.anomaly.half_space import mass, refit
from everlearn.families.anomaly.isolation import enter, isolated, leave
from everlearn.families.anomaly.quantiles import fade, rarity, refill, surprise
from everlearn.families.anomaly.ranks import keep, rank
from everlearn.families.anomaly.settings import MISSING
from everlearn.families.batches import BAD_LABEL, FAULT_KINDS
from everlearn.families.kernel_parts import first_fault, outlined
from everlearn.records import Floats, Ints, Singles

LEARNED, HELD, PLACE, DUE, REFERENCE, RANKED, SPAN, BLOCK, OUT, COUNTERS = *range(9), 9
"""Counters: rows learned, rows in the window and where the next one goes, rows until the next reference, rows of the
reference, scores that were ranked, newest rows that the next reference has, and rows of this block, with those out."""

FIRST = 32  # rows before the first reference
SEED, LEAF_ROWS, BY_QUANTILE, ONLY_NORMAL, SETTINGS = *range(4), 4
BLOCK_ROWS = 128  # rows after which drift is looked for; also the fewest rows of a reference that drift leaves
PROBES, OUTER = 64, 58  # rows of a reference that are scored by it; a row is out if it scores above all but six of them
MOST_OUT = 0.7  # share of rows out, above which the reference is too old; without drift it is near 0.1
HORIZON = 20_000.0  # rows over which the level and spread of scores are averaged
ENTRY = 1 << 40  # numbers from here on name hashed entries to leave out


@outlined
def detect(
    x: Singles, start: int, stop: int, skip: int, settings: Ints, counters: Ints, columns: NDArray[np.int32],
    cuts: Singles, values: Singles, sorted_values: Singles, known: Ints, logs: Floats, rare: Floats,
    indices: NDArray[np.int32], nodes: NDArray[np.int32], node_cuts: Singles, at: NDArray[np.int32], found: Floats,
) -> None:  # fmt: skip
    """Write the score of each detector for one row to `found`, float64 (3,); higher is more anomalous."""
    found[:] = 0.0
    reference = counters[REFERENCE]
    if reference and columns.shape[0]:
        found[0] = -mass(x, skip, columns, cuts, values, at)
    if reference and settings[BY_QUANTILE]:
        for j in range(len(known)):
            if j != skip:
                found[1] += surprise(np.float64(x[j]), reference, known[j], sorted_values[j], logs)
        found[1] += rarity(indices, start, stop, skip - ENTRY, rare)
    if nodes.shape[0]:
        found[2] = isolated(x, skip, counters[HELD], settings[LEAF_ROWS], nodes, node_cuts)


@outlined
def added(found: Floats, moments: Floats) -> float:
    """Return the sum of the scores, each less its mean and in units of its deviation; a single one stays as it is."""
    used, total = 0, 0.0
    for k in range(len(found)):
        if moments[k, 0] >= 0.0:
            used += 1
            total += (found[k] - moments[k, 1]) / math.sqrt(moments[k, 2] + 1e-9)
    if used > 1:
        return total
    for k in range(len(found)):
        if moments[k, 0] >= 0.0:
            return float(found[k])
    return 0.0


@outlined
def level(found: Floats, moments: Floats) -> None:
    """Learn the mean and variance of each score, float64 (3, 3): rows, mean, variance; rows are -1 where not used."""
    for k in range(len(found)):
        if moments[k, 0] < 0.0:
            continue
        moments[k, 0] = min(moments[k, 0] + 1.0, HORIZON)
        step = 1.0 / moments[k, 0]
        away = found[k] - moments[k, 1]
        moments[k, 1] += step * away
        moments[k, 2] = (1.0 - step) * (moments[k, 2] + step * away * away)


@outlined
def watch(score: float, limit: Floats, counters: Ints) -> bool:
    """Count a row; return True once a block has so many rows out that the next reference must be of newer rows only."""
    if not counters[REFERENCE]:
        return False
    counters[BLOCK] += 1
    counters[OUT] += score > limit[0]
    if counters[BLOCK] < BLOCK_ROWS:
        return False
    drifts = bool(counters[OUT] > MOST_OUT * BLOCK_ROWS)
    counters[BLOCK] = counters[OUT] = 0
    if drifts:
        counters[SPAN] = min(max(counters[SPAN] // 2, BLOCK_ROWS), counters[HELD])
    return drifts


@outlined
def enter_window(x: Singles, window: Singles, counters: Ints) -> None:
    """Write a row to the ring of the window, in the place of the oldest."""
    place, size = counters[PLACE], len(window)
    for j in range(window.shape[1]):
        window[place, j] = x[j] if abs(x[j]) < MISSING else MISSING
    counters[LEARNED] += 1
    counters[HELD] = min(counters[HELD] + 1, size)
    counters[PLACE] = (place + 1) % size
    counters[SPAN] = min(counters[SPAN] + 1, counters[HELD])
    counters[DUE] -= 1


@outlined
def count_entries(indices: NDArray[np.int32], start: int, stop: int, latest: Floats) -> None:
    """Count the hashed entries start..stop-1 of a row, and the row."""
    cells = len(latest) - 1
    for e in range(start, stop):
        latest[indices[e] % cells] += 1.0
    latest[cells] += 1.0


@outlined
def outer(
    window: Singles, first: int, settings: Ints, counters: Ints, columns: NDArray[np.int32], cuts: Singles,
    values: Singles, sorted_values: Singles, known: Ints, logs: Floats, rare: Floats, indices: NDArray[np.int32],
    nodes: NDArray[np.int32], node_cuts: Singles, moments: Floats, at: NDArray[np.int32], found: Floats,
) -> float:  # fmt: skip
    """Return the score that only six of 64 rows of a new reference exceed, by that reference."""
    probes, span = np.empty(PROBES), counters[SPAN]
    for probe in range(PROBES):
        row = window[(first + probe * span // PROBES) % len(window)]
        detect(
            row, 0, 0, -1, settings, counters, columns, cuts, values, sorted_values, known, logs, rare, indices, nodes,
            node_cuts, at, found,
        )  # fmt: skip
        probes[probe] = added(found, moments)
    return float(np.sort(probes)[OUTER])


@outlined
def predict_rows(
    hashed: int, skip: int, settings: Ints, counters: Ints, columns: NDArray[np.int32], cuts: Singles, values: Singles,
    sorted_values: Singles, known: Ints, logs: Floats, rare: Floats, nodes: NDArray[np.int32], node_cuts: Singles,
    moments: Floats, ranked: Floats, dense: Singles, indptr: Ints, indices: NDArray[np.int32], entries: Singles,
    raw: Floats, out: Singles,
) -> int:  # fmt: skip
    """Write the rank of each row, float32 (n, 2), and its sum of scores, float64 (n,). Return a fault, or 0."""
    fault = first_fault(hashed, indptr, indices, entries)
    if fault:
        return fault
    found, at = np.empty(3), np.empty(columns.shape[0], np.int32)
    for i in range(len(indptr) - 1):
        detect(
            dense[i], indptr[i], indptr[i + 1], skip, settings, counters, columns, cuts, values, sorted_values, known,
            logs, rare, indices, nodes, node_cuts, at, found,
        )  # fmt: skip
        raw[i] = added(found, moments)
        share = rank(ranked, min(counters[RANKED], len(ranked)), raw[i])
        out[i, 1] = share
        out[i, 0] = 1.0 - share
    return 0


@outlined
def learn_rows(
    hashed: int, settings: Ints, counters: Ints, columns: NDArray[np.int32], cuts: Singles, values: Singles,
    sorted_values: Singles, known: Ints, logs: Floats, rare: Floats, nodes: NDArray[np.int32], node_cuts: Singles,
    moments: Floats, ranked: Floats, shares: Floats, window: Singles, latest: Floats, limit: Floats, boxes: Singles,
    tree_columns: NDArray[np.int32], dense: Singles, indptr: Ints, indices: NDArray[np.int32], entries: Singles,
    y: Floats, weight: Singles, out: Singles,
) -> int:  # fmt: skip
    """Rank each row, float32 (n, 2), and then learn it. Return a fault, or 0."""
    fault = first_fault(hashed, indptr, indices, entries)
    if fault:
        return fault
    for i in range(len(y)):
        if abs(y[i]) < math.inf and y[i] != 0.0 and y[i] != 1.0:
            return i * FAULT_KINDS + BAD_LABEL
    found, at = np.empty(3), np.empty(columns.shape[0], np.int32)
    size, seed = len(window), settings[SEED]
    for i in range(len(y)):
        x = dense[i]
        detect(
            x, indptr[i], indptr[i + 1], -1, settings, counters, columns, cuts, values, sorted_values, known, logs,
            rare, indices, nodes, node_cuts, at, found,
        )  # fmt: skip
        score = added(found, moments)
        share = rank(ranked, min(counters[RANKED], len(ranked)), score)
        out[i, 1] = share
        out[i, 0] = 1.0 - share
        if not (abs(y[i]) < math.inf and weight[i] > 0.0 and weight[i] < math.inf):
            continue
        if settings[ONLY_NORMAL] and y[i] == 1.0:
            continue
        if counters[LEARNED] >= FIRST:
            level(found, moments)
            keep(ranked, counters, RANKED, seed, score)
        place = counters[PLACE]
        if nodes.shape[0]:
            if counters[HELD] == size:
                leave(window[place], settings[LEAF_ROWS], nodes, node_cuts, boxes)
            enter(x, seed, counters[LEARNED], settings[LEAF_ROWS], nodes, node_cuts, boxes, tree_columns)
        enter_window(x, window, counters)
        count_entries(indices, indptr[i], indptr[i + 1], latest)
        if watch(score, limit, counters) or counters[DUE] <= 0:
            fade(rare, latest)
            first = counters[PLACE] - counters[SPAN] + size
            if columns.shape[0] or settings[BY_QUANTILE]:
                refill(window, first, counters[SPAN], sorted_values, known)
            if columns.shape[0]:
                refit(window, first, counters[SPAN], sorted_values, known, columns, shares, cuts, values)
            counters[DUE] = counters[REFERENCE] = counters[SPAN]
            limit[0] = outer(
                window, first, settings, counters, columns, cuts, values, sorted_values, known, logs, rare, indices,
                nodes, node_cuts, moments, at, found,
            )  # fmt: skip
    return 0
