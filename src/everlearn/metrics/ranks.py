"""The order of binary scores in fixed memory: ROC AUC and PR AUC as intervals that hold for every stream.

A score has a key, an integer in the order of the scores. A tree over the keys holds, for each cell, the weight of both
classes. A cell that has met one key only is exact. A cell that grows heavy is split into eight, and what it held before
stays where it was, so its order among the new cells is unknown. While free blocks last, every second key splits its
cell, and nothing is lost. When no block is free, the lightest blocks are merged. The structure is that of a q-digest
(Shrivastava et al. 2004, "Medians and beyond: new aggregation techniques for sensor networks"), refined where either
class is heavy, so that a rare class keeps its resolution.

Pairs whose order is unknown count against the model at the lower end of an interval, and for it at the upper end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import bare, exact_kernel
from everlearn.metrics.recent import HIGH, LABEL, LOW, WEIGHT
from everlearn.records import Arrays, Floats, Ints, Singles

Bits = NDArray[np.int32]

# A key is made of the bits of the float32 of the rarer outcome, which have the order of the numbers: it tells 1e-10
# from 0, and 1 - 1e-10 from 1.
_HALF = 126 << 23  # the bits of one half
_TOP = 21  # roots are four to an octave; each level below tells three more bits
_ROOTS = (2 * _HALF >> _TOP) + 1
_BLOCKS = 192  # of eight cells
_NOTHING = np.zeros(0, np.int32), np.zeros((0, 2)), np.zeros(0, np.int32), np.zeros(0)
_EMPTY, _MIXED, _INNER = -1, -2, -3  # the state of a cell, else the one key that it has met; _INNER - b: block b below


def start() -> Arrays:
    """Return the arrays of an empty tree.

    `rank_cells` int32 (2545,), `rank_sums` float64 (2545, 2) with the weights of class 0 and 1, `rank_free` int32
    (193,) with the free blocks and their number, and `rank_limits` float64 (2,): the weights above which a cell splits.

    >>> sum(array.nbytes for array in start().values())
    51688
    """
    cells = _ROOTS + 8 * _BLOCKS
    return {
        "rank_cells": np.full(cells, _EMPTY, np.int32),
        "rank_sums": np.zeros((cells, 2)),
        "rank_free": np.append(np.arange(_BLOCKS), _BLOCKS).astype(np.int32),
        "rank_limits": np.zeros(2),
    }


def update(arrays: Arrays, bits: Bits, label: Ints, weight: Singles) -> None:
    """Add n rows: `bits` int32 (n, 2) are the scores' float32, `label` int64 (n,) or -1, `weight` float32 (n,)."""
    _add(bits, label, weight, *held(arrays))


def held(arrays: Arrays) -> tuple[Bits, Floats, Bits, Floats]:
    """Return the arrays of the tree, in the order of the kernels; empty ones where it is not kept."""
    if "rank_cells" not in arrays:
        return _NOTHING
    return arrays["rank_cells"], arrays["rank_sums"], arrays["rank_free"], arrays["rank_limits"]


def keys(low: Bits, high: Bits) -> Ints:
    """Return the key of each score, int64 (n,), from the bits of both classes' scores."""
    found: Ints = np.clip(high, 0, _HALF).astype(np.int64) + _HALF - np.clip(low, 0, _HALF)
    return found


def report(arrays: Arrays) -> dict[str, float]:
    """Return `roc_auc` and `pr_auc`; empty while one of the two classes has no weight.

    Equal scores count as scikit-learn counts them: half a pair each in `roc_auc`, one threshold in `pr_auc` (the
    average precision). The value of each metric is the middle between both ends. `..._low` and `..._high` are the ends;
    they are left out when they agree, so the value is exact.

    >>> arrays = start()
    >>> p = np.array([0.9, 0.2, 0.7], np.float32)
    >>> update(arrays, np.stack([1 - p, p], 1).view(np.int32), np.array([1, 0, 0]), np.ones(3, np.float32))
    >>> report(arrays)
    {'roc_auc': 1.0, 'pr_auc': 1.0}
    """
    sums = arrays["rank_sums"]
    low, high = np.empty(len(sums), np.int64), np.empty(len(sums), np.int64)
    _span(arrays["rank_cells"], low, high)
    negative, positive = (sums[:, label] > 0 for label in (0, 1))
    if not (negative.any() and positive.any()):
        return {}
    against = _Class(low[negative], high[negative], sums[negative, 0])
    favoured = _Class(low[positive], high[positive], sums[positive, 1])
    return _named("roc_auc", *_area(favoured, against)) | _named("pr_auc", *_precision(favoured, against))


def _named(name: str, low: float, high: float) -> dict[str, float]:
    ends = {} if low == high else {f"{name}_low": low, f"{name}_high": high}
    return {name: (low + high) / 2, **ends}


class _Class:
    """The cells of one class: the first and last key of each, and its weight."""

    def __init__(self, low: Ints, high: Ints, weight: Floats) -> None:
        self.low, self.high, self.weight = low, high, weight
        self._lows, self._highs = np.argsort(low, kind="stable"), np.argsort(high, kind="stable")

    def below(self, keys: Ints) -> tuple[Ints, Floats]:
        """Return how many cells end before each key, and their weight."""
        count = np.searchsorted(self.high[self._highs], keys, "left")
        return count, _summed(self.weight[self._highs])[count]

    def above(self, keys: Ints) -> tuple[Ints, Floats]:
        """Return how many cells begin after each key, and their weight."""
        count = len(self.low) - np.searchsorted(self.low[self._lows], keys, "right")
        return count, _summed(self.weight[self._lows][::-1])[count]

    def tied(self, other: _Class) -> tuple[Ints, Floats]:
        """Return for each cell of another class 1 and the weight here where both are the same single key, else 0."""
        single = self.low == self.high
        order = np.argsort(self.low[single], kind="stable")
        keys, weight = self.low[single][order], self.weight[single][order]
        if not len(keys):
            return np.zeros(len(other.low), np.int64), np.zeros(len(other.low))
        at = np.minimum(np.searchsorted(keys, other.low), len(keys) - 1)
        same = (keys[at] == other.low) & (other.low == other.high)
        return same.astype(np.int64), np.where(same, weight[at], 0.0)


def _area(positive: _Class, negative: _Class) -> tuple[float, float]:
    """Return the least and the greatest share of pairs in the right order; an equal pair is half right."""
    (fewer, below), (more, above) = negative.below(positive.low), negative.above(positive.high)
    same, tied = negative.tied(positive)
    pairs = positive.weight.sum() * negative.weight.sum()
    low = float(positive.weight @ (below + tied / 2) / pairs)
    if (fewer + more + same == len(negative.low)).all():  # no pair is of unknown order
        return low, low
    high = float(1 - positive.weight @ (above + tied / 2) / pairs)
    return max(low, 0.0), min(max(low, high), 1.0)


def _precision(positive: _Class, negative: _Class) -> tuple[float, float]:
    """Return the least and the greatest average precision.

    A cell of many keys is least precise with its negatives first and its positives spread thinly behind them: the
    integral of (a + x) / (a + x + b) over its positives. It is most precise with all its positives first, and tied.
    """
    (fewer, behind), (more, sure) = negative.below(positive.low), negative.above(positive.high)
    (less, after), (greater, ahead) = positive.below(positive.low), positive.above(positive.high)
    same, tied = negative.tied(positive)
    own, total, least = positive.weight, positive.weight.sum(), sure + tied
    most = np.where(fewer + more + same == len(negative.low), least, negative.weight.sum() - behind)
    reached = np.where(less + greater + 1 == len(own), ahead + own, total - after)
    together = own * ((ahead + own) / (ahead + own + most))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.where(most > 0, own - most * np.log1p(own / (ahead + most)), own)
    low = float(np.where(positive.low == positive.high, together, spread).sum() / total)
    high = float((own * (reached / (reached + least))).sum() / total)
    return max(low, 0.0), min(max(low, high), 1.0)


def _summed(weight: Floats) -> Floats:
    result: Floats = np.concatenate([[0.0], np.cumsum(weight)])
    return result


@exact_kernel
def _add(bits: Bits, label: Ints, weight: Singles, cells: Bits, sums: Floats, free: Bits, limits: Floats) -> None:
    """Add rows as `add` does."""
    rows = len(label)
    ints, floats = np.zeros((6, rows), np.int32), np.zeros((5, rows))
    for row in range(rows):
        w = np.float64(weight[row])
        ints[LOW, row], ints[HIGH, row] = bits[row, 0], bits[row, 1]
        ints[LABEL, row] = max(label[row], 0)
        floats[WEIGHT, row] = w if label[row] >= 0 and 0 < w < np.inf else 0.0
    add(ints, floats, 0, rows, cells, sums, free, limits)


@bare
def add(
    ints: Bits, floats: Floats, first: int, end: int, cells: Bits, sums: Floats, free: Bits, limits: Floats
) -> None:
    """Add the rows first..end-1 of the ring of `recent`, one after the other.

    The cells of all rows are looked up before, because that is much faster level by level than row by row. A row then
    finds its cell as it was at the start, or below it if the cell was split; after a merge all are looked up again.
    """
    rows = end - first
    keys, found, waiting = np.empty(rows, np.int32), np.empty(rows, np.int32), np.empty(rows, np.int32)
    low, high = ints[LOW][first:end], ints[HIGH][first:end]
    weight, label = floats[WEIGHT][first:end], ints[LABEL][first:end]
    for row in range(rows):
        # The outcome that is not the rarer one is at _HALF, so one of the two terms gives the key.
        rare = min(max(high[row], np.int32(0)), np.int32(_HALF))
        keys[row] = rare + (np.int32(_HALF) - min(max(low[row], np.int32(0)), np.int32(_HALF)))
    _look_up(keys, 0, cells, found, waiting)
    for row in range(rows):
        w, true = weight[row], label[row]
        if not w > 0:
            continue
        key, cell = keys[row], found[row]
        state = cells[cell]
        if state != key and (state != _MIXED or sums[cell, true] > limits[true]):
            before = free[_BLOCKS]
            cell = _find(key, true, cells, sums, free, limits)
            if free[_BLOCKS] > before:
                _look_up(keys, row + 1, cells, found, waiting)
        sums[cell, true] += w


@bare
def _look_up(keys: Bits, first: int, cells: Bits, found: Bits, waiting: Bits) -> None:
    """Write the cell of each key from `first` on to `found`: level by level, without branches."""
    keys, found = keys[first:], found[first:]
    left, shift = len(keys), _TOP - 9  # behind two levels, which nearly all rows pass
    for row in range(left):
        cell, waiting[row] = keys[row] >> np.int32(_TOP), row
        for level in range(2):
            state = cells[cell]
            place = (keys[row] >> np.int32(_TOP - 3 - 3 * level)) & np.int32(7)
            child = np.int32(_ROOTS) + np.int32(8) * (np.int32(_INNER) - state) + place
            cell = child if state <= _INNER else cell
        found[row] = cell
    while left:
        still = 0
        for i in range(left):
            row = waiting[i]
            state = cells[found[row]]
            inner = state <= _INNER
            child = np.int32(_ROOTS) + np.int32(8) * (np.int32(_INNER) - state) + ((keys[row] >> shift) & np.int32(7))
            found[row] = child if inner else found[row]
            waiting[still] = row
            still += inner
        left, shift = still, shift - 3


@bare
def _find(key: int, true: int, cells: Bits, sums: Floats, free: Bits, limits: Floats) -> int:
    """Return the cell for a key, after the splits that it asks for."""
    cell, shift = key >> _TOP, _TOP
    state = int(cells[cell])
    while state <= _INNER:
        shift -= 3
        cell = _ROOTS + 8 * (_INNER - state) + ((key >> shift) & 7)
        state = int(cells[cell])
    if state != key and (state != _MIXED or sums[cell, true] > limits[true]):
        return int(_place(key, cells, sums, free, limits))
    return int(cell)


@bare
def _place(key: int, cells: Bits, sums: Floats, free: Bits, limits: Floats) -> int:
    """Split the cell of a key until the key has one, and return that."""
    cell, shift = key >> _TOP, _TOP
    while True:
        state = int(cells[cell])
        if state <= _INNER:
            shift -= 3
            cell = _ROOTS + 8 * (_INNER - state) + ((key >> shift) & 7)
            continue
        if state == key:
            return cell
        if state == _EMPTY:
            cells[cell] = key
            return cell
        if sums[cell, 0] <= limits[0] and sums[cell, 1] <= limits[1]:
            cells[cell] = _MIXED
            return cell
        if free[_BLOCKS] == 0:
            _merge(cells, sums, free, limits)
            cell, shift = key >> _TOP, _TOP
            continue
        free[_BLOCKS] -= 1
        block = int(free[free[_BLOCKS]])
        cells[cell] = _INNER - block
        if state >= 0:  # one key alone moves down with all its weight
            child = _ROOTS + 8 * block + ((state >> (shift - 3)) & 7)
            cells[child] = state
            for label in range(2):
                sums[child, label] = sums[cell, label]
                sums[cell, label] = 0.0


@bare
def _merge(cells: Bits, sums: Floats, free: Bits, limits: Floats) -> None:
    """Merge blocks that hold a small share of both classes into the cell above, until a quarter of them is free."""
    totals = np.zeros(2)
    for cell in range(len(cells)):
        totals[0] += sums[cell, 0]
        totals[1] += sums[cell, 1]
    share = 1 / _BLOCKS
    while free[_BLOCKS] < _BLOCKS // 4:
        limits[0], limits[1] = share * totals[0], share * totals[1]
        merged = True
        while merged:  # a block whose cells are merged may be merged itself
            merged = False
            for cell in range(len(cells)):
                if cells[cell] <= _INNER and _merge_block(cell, cells, sums, free, limits):
                    merged = True
        share *= 1.25


@bare
def _merge_block(cell: int, cells: Bits, sums: Floats, free: Bits, limits: Floats) -> bool:
    """Merge the block below a cell into it if it holds no further block and little weight; return True if so."""
    block = _INNER - int(cells[cell])
    first = _ROOTS + 8 * block
    state = _MIXED if sums[cell, 0] + sums[cell, 1] > 0 else _EMPTY
    negative, positive = sums[cell, 0], sums[cell, 1]
    for child in range(first, first + 8):
        below = int(cells[child])
        if below <= _INNER:
            return False
        negative += sums[child, 0]
        positive += sums[child, 1]
        if negative > limits[0] or positive > limits[1]:
            return False
        if below != _EMPTY:
            state = below if state == _EMPTY else _MIXED
    sums[cell, 0], sums[cell, 1] = negative, positive
    cells[cell] = state
    for child in range(first, first + 8):
        cells[child] = _EMPTY
        sums[child, 0], sums[child, 1] = 0.0, 0.0
    free[free[_BLOCKS]] = block
    free[_BLOCKS] += 1
    return True


@exact_kernel
def _span(cells: Bits, low: Ints, high: Ints) -> None:
    """Write the first and the last key that each cell may hold; of an unused cell, anything."""
    low[:], high[:] = 0, 0
    shifts, waiting, count = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.int64), 0
    for root in range(_ROOTS):
        low[root], shifts[root] = root << _TOP, _TOP
        waiting[count] = root
        count += 1
    while count:
        count -= 1
        cell = waiting[count]
        state, shift = int(cells[cell]), shifts[cell]
        high[cell] = low[cell] + (1 << shift) - 1
        if state >= 0:
            low[cell], high[cell] = state, state
        elif state <= _INNER:
            for place in range(8):
                child = _ROOTS + 8 * (_INNER - state) + place
                low[child], shifts[child] = low[cell] + (place << (shift - 3)), shift - 3
                waiting[count] = child
                count += 1
