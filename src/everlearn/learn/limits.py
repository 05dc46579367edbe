"""Bounds on the damage that bad rows and bad labels can do, as arrays.

`look` learns the range of each dense feature and clips to it, `clip` only clips, `admit` returns the weight to learn a
label with, `report` counts what was held back. Rows are handled one by one in stream order, so the arrays have the same
bytes however the stream is cut into calls. Nothing grows after `start`.

A range is learned from a sample of the past: uniform over the first 16,384 values, and then of about the last 16,384
(Vitter 1985, algorithm R, with its count stopped there), and updated every 1,024 rows. A value enters the sample
clipped to the learnt range plus half its width on either side (for losses, twice its width). So a flood moves a range
by that much at most from update to update, and not at all while its share of the sample is below the one clipped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn._random import uniform
from everlearn.errors import InputError
from everlearn.records import Arrays, Batch, Floats, Ints, Singles
from everlearn.spec import LimitsSpec

EARLIEST = 8  # values of a column before it has a range
FEWEST = 128  # values before its quantiles are used; until then its range is wide
WIDE = 10.0  # quartile distances beyond the quartiles, which is that wide range
UNKNOWN = 1000.0  # a range in units of the only known value
HELD = 1024  # values of a column in its sample; also the rows between two updates of its range
HORIZON = 16 * HELD  # values that the sample stands for
NEAR, FAR = 0.5, 2.0  # widths beyond its range up to which a feature, or a loss, enters the sample as it is
APART = 8  # values that differ from all the others, before their own range is used
SET_ASIDE = 1000  # positions of quarantined labels that are remembered

REASONS = ("", "capped", "source", "quarantine")
CAPPED, SOURCE, QUARANTINE = 1, 2, 3

_CAPPED, _REDUCED, _REFUSED, _QUARANTINED, _PLACE = range(5)  # in arrays["counters"]
_SHORT = 64  # characters of a source
_GRAIN = 1 << 20  # a weight of 1, in the whole numbers in which sources are charged
_LARGEST = 3.4e38  # features are float32
_MIX = 0x9E3779B97F4A7C15

Numbers = NDArray[Any]
Codes = NDArray[np.int8]


def start(spec: LimitsSpec, dense: int, classes: int = 0) -> Arrays:
    """Allocate the arrays that `spec` needs, for `dense` columns and `classes` classes (0 for a regression).

    `counters` int64 (5,): labels capped, reduced for their source, refused for it, quarantined, and places taken in the
    window. With `clip`: `held` float32 (dense, 1024), `seen` int64 (dense,), `low` and `high` float32 (dense,). With
    `source`: `place_source` uint64 and `place_charge` int64 (window,), `charged` int64 (2, 4 * window or more). With
    `quarantine`, for each class or once: `losses` float32 (k, 1024), `loss_seen` int64 (k,), `loss_low` and `loss_high`
    float32 (k,); and `set_aside` int64 (1000,).

    >>> sorted(start(LimitsSpec(), dense=8))
    ['counters']
    >>> sum(array.nbytes for array in start(LimitsSpec(clip=0.01, source=0.1, quarantine=0.99), dense=8).values())
    126584
    """
    arrays: Arrays = {"counters": np.zeros(5, np.int64)}
    if spec.clip > 0.0 and dense > 0:
        arrays |= {"held": np.zeros((dense, HELD), np.float32), "seen": np.zeros(dense, np.int64)}
        arrays |= {"low": np.full(dense, -np.inf, np.float32), "high": np.full(dense, np.inf, np.float32)}
    if spec.source < 1.0:
        buckets = 1 << (4 * spec.window - 1).bit_length()
        arrays |= {"place_source": np.zeros(spec.window, np.uint64), "place_charge": np.zeros(spec.window, np.int64)}
        arrays |= {"charged": np.zeros((2, buckets), np.int64)}
    if spec.quarantine < 1.0:
        kinds = max(classes, 1)
        arrays |= {"losses": np.zeros((kinds, HELD), np.float32), "loss_seen": np.zeros(kinds, np.int64)}
        arrays |= {"loss_low": np.full(kinds, -np.inf, np.float32), "loss_high": np.full(kinds, np.inf, np.float32)}
        arrays |= {"set_aside": np.zeros(SET_ASIDE, np.int64)}
    return arrays


def bounds(arrays: Arrays) -> Arrays:
    """Return the arrays that `clip` reads, for processes that only predict; not copied."""
    return {name: arrays[name] for name in ("low", "high") if name in arrays}


def clip(arrays: Arrays, spec: LimitsSpec, batch: Batch) -> Batch:
    """Return the rows with dense features clipped to the ranges learnt so far. NaN stays NaN; nothing is learned.

    Without limits on features the batch itself is returned. Raises `InputError` for other columns than `start` had.

    >>> arrays = {"low": np.array([-1.0], np.float32), "high": np.array([2.0], np.float32)}
    >>> clip(arrays, LimitsSpec(clip=0.01), _column([-7.0, 0.5, np.nan, 1e38])).dense.ravel().tolist()
    [-1.0, 0.5, nan, 2.0]
    """
    if "low" not in arrays:
        return batch
    _check(arrays, batch)
    dense = np.minimum(np.maximum(batch.dense, arrays["low"]), arrays["high"])
    return Batch(dense, batch.indptr, batch.indices, batch.values)


def look(arrays: Arrays, spec: LimitsSpec, batch: Batch) -> Batch:
    """Learn the quantiles `spec.clip` and 1 - `spec.clip` of each dense column from the rows; return the rows clipped.

    Each row is clipped to what was learnt before it, as `clip` would. The first 8 values of a column pass as they are,
    and up to its 128th only gross outliers are clipped. Where almost all values of a column are equal, its range is
    that of the others.

    >>> arrays, spec = start(LimitsSpec(clip=0.01), dense=1), LimitsSpec(clip=0.01)
    >>> rows = look(arrays, spec, _column(np.arange(2000) % 200))
    >>> look(arrays, spec, _column([1e38, -1e38])).dense.ravel().tolist()
    [197.0, 1.0]
    """
    if "low" not in arrays:
        return batch
    _check(arrays, batch)
    rows = np.ascontiguousarray(batch.dense, np.float32)
    out = np.empty_like(rows)
    _look(spec.clip, rows, arrays["held"], arrays["seen"], arrays["low"], arrays["high"], out)
    return Batch(out, batch.indptr, batch.indices, batch.values)


def admit(
    arrays: Arrays, spec: LimitsSpec, source: str, weight: float, loss: float, y: float, position: int
) -> tuple[float, str]:
    """Return the weight to learn a label with (0: not at all), and the reason if that is not the weight asked for.

    `loss` is that of the answer that the label judges, NaN if unknown; `y` is the label as a number; `position` is its
    position in the log. The reasons: "capped", more than `spec.weight`; "source", its source has its share of
    what was learned lately; "quarantine", its loss is extreme; or "". A label without a source is charged to none.

    Of the last `spec.window` labels that were learned, those of one source add up to `spec.source` times the window at
    most; each counts for its weight, and for 1 at least. A refused label takes no place in the window, so a flood does
    not push the others out: a source that goes on alone is stopped until others have been learned.

    A loss is extreme above the quantile `spec.quarantine` of the losses of the same class, so that a rare class, whose
    losses are the highest, is not set aside as a whole. A label that is set aside still counts for the quantile, so
    that the new labels of a stream that has changed for good soon pass.

    >>> arrays, spec = start(LimitsSpec(source=0.1), dense=0), LimitsSpec(source=0.1)
    >>> reasons = [admit(arrays, spec, "one key", 1.0, 0.2, 1.0, i)[1] for i in range(1000)]
    >>> reasons.count(""), reasons.count("source"), admit(arrays, spec, "another", 500.0, 0.2, 1.0, 1000)
    (100, 900, (100.0, 'capped'))
    """
    if spec.source >= 1.0 and spec.quarantine >= 1.0 and weight <= spec.weight:
        return weight, ""
    requested, losses, labels = (np.array([number], np.float64) for number in (weight, loss, y))
    keys, where = np.array([key(source)], np.uint64), np.array([position], np.int64)
    weights, why = _admitted(arrays, spec, keys, requested, losses, labels, where)
    return float(weights[0]), REASONS[why[0]]


def admit_rows(
    arrays: Arrays, spec: LimitsSpec, sources: Sequence[str], weight: Singles, loss: Floats, y: Floats, position: Ints
) -> tuple[Singles, Codes]:
    """Return `admit` for n labels in order: float32 weights (n,), and int8 (n,) indices into `REASONS`.

    `sources` is empty if no label has one.
    """
    keys = np.zeros(len(weight), np.uint64) if not sources else np.array([key(source) for source in sources], np.uint64)
    weights, why = _admitted(arrays, spec, keys, weight.astype(np.float64), loss, y, position)
    return weights.astype(np.float32), why


def binds(spec: LimitsSpec, weight: Singles) -> bool:
    """Return True unless `admit_rows` would leave float32 weights (n,) and all counts as they are.

    >>> binds(LimitsSpec(), np.ones(2, np.float32)), binds(LimitsSpec(weight=2.0), np.full(2, 3.0, np.float32))
    (False, True)
    """
    unlimited = spec.source >= 1.0 and spec.quarantine >= 1.0
    return not (unlimited and weight.dtype == np.float32 and weight.max(initial=0.0) <= spec.weight)


def report(arrays: Arrays) -> dict[str, Any]:
    """Return what was held back so far.

    That is counts; for each class, or for all, the loss above which labels are set aside (None: unknown yet); and the
    positions of the newest 1,000 labels that were set aside, oldest first.

    >>> report(start(LimitsSpec(), dense=1))
    {'capped': 0, 'reduced': 0, 'refused': 0, 'quarantined': 0, 'thresholds': [], 'positions': []}
    """
    capped, reduced, refused, quarantined, _ = arrays["counters"].tolist()
    counts = {"capped": capped, "reduced": reduced, "refused": refused, "quarantined": quarantined}
    if "set_aside" not in arrays:
        return {**counts, "thresholds": [], "positions": []}
    held, first = min(quarantined, SET_ASIDE), max(quarantined - SET_ASIDE, 0)
    positions = [int(arrays["set_aside"][(first + i) % SET_ASIDE]) for i in range(held)]
    thresholds = [high if high < math.inf else None for high in arrays["loss_high"].tolist()]
    return {**counts, "thresholds": thresholds, "positions": positions}


def key(source: str) -> int:
    """Return a source as 64 bits, the same on every machine; 0 for none.

    Only the part before the first "/" counts: that is the name of a token, and the sender chooses the rest.

    >>> key("web/a") == key("web/b") == key("web"), key("web") == key("webs")
    (True, False)
    """
    source = source.partition("/")[0] or source
    return _short_key(source) if len(source) <= _SHORT else _key(source)


def _key(source: str) -> int:
    if not source:
        return 0
    return int.from_bytes(hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


_short_key = lru_cache(4096)(_key)  # long names are not kept, so that they cannot fill the memory


def _check(arrays: Arrays, batch: Batch) -> None:
    if batch.dense.shape[1] != len(arrays["low"]):
        raise InputError(
            f"rows have {batch.dense.shape[1]} dense columns, but the limits were started for {len(arrays['low'])}; "
            "start them with the schema of the stream"
        )


def _admitted(
    arrays: Arrays, spec: LimitsSpec, keys: Numbers, weight: Floats, loss: Floats, y: Floats, position: Ints
) -> tuple[Floats, Codes]:
    """Return weights and reasons of n labels; empty arrays stand in for the state of limits that are off."""
    weights, why = np.empty(len(weight)), np.zeros(len(weight), np.int8)
    budget = int(max(1.0, spec.source * spec.window) * _GRAIN) if spec.source < 1.0 else 0
    share = 1.0 - spec.quarantine if spec.quarantine < 1.0 else 0.0
    none, nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    _admit(
        spec.weight,
        budget,
        share,
        arrays["counters"],
        arrays.get("place_source", none.view(np.uint64)),
        arrays.get("place_charge", none),
        arrays.get("charged", none.reshape(2, 0)),
        arrays.get("losses", nothing.reshape(1, 0)),
        arrays.get("loss_seen", none),
        arrays.get("loss_low", nothing),
        arrays.get("loss_high", nothing),
        arrays.get("set_aside", none),
        keys,
        weight,
        np.ascontiguousarray(loss, np.float64),
        np.ascontiguousarray(y, np.float64),
        np.ascontiguousarray(position, np.int64),
        weights,
        why,
    )
    return weights, why


def _column(values: Any) -> Batch:
    """Return rows of one dense column, for the examples above."""
    dense = np.asarray(values, np.float32).reshape(-1, 1)
    return Batch(dense, np.zeros(len(dense) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


# ---- ranges ------------------------------------------------------------------------------------------------------


@exact_kernel
def _look(share: float, rows: Singles, held: Singles, seen: Ints, low: Singles, high: Singles, out: Singles) -> None:
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            v = rows[i, j]
            out[i, j] = v if np.isnan(v) else min(max(v, low[j]), high[j])
            if abs(v) < np.inf:
                _learn(share, NEAR, np.float64(v), held, seen, low, high, j)


@exact_kernel
def _learn(
    share: float, generous: float, value: float, held: Singles, seen: Ints, low: Singles, high: Singles, j: int
) -> None:
    """Offer one value to the sample of column j, and update its range when that is due."""
    v = min(max(value, -_LARGEST), _LARGEST)
    if high[j] < np.inf:
        reach = generous * (np.float64(high[j]) - np.float64(low[j]))
        v = min(max(v, np.float64(low[j]) - reach), np.float64(high[j]) + reach)
        v = min(max(v, -_LARGEST), _LARGEST)
    n = seen[j]
    seen[j] = n + 1
    slot = n
    if n >= HELD:
        slot = int(uniform(j, 0, n) * min(n + 1, HORIZON))
    if slot < HELD:
        held[j, slot] = v
    doubled = n + 1 >= EARLIEST and n < HELD and (n + 1) & n == 0
    if doubled or (n >= HELD and (n + 37 * j) % HELD == 0):  # not all columns at the same row
        least, most = _range(np.sort(held[j, : min(n + 1, HELD)]), share)
        low[j], high[j] = max(least, -_LARGEST), min(most, _LARGEST)


@exact_kernel
def _range(ranked: Singles, share: float) -> tuple[float, float]:
    """Return the quantiles `share` and 1 - `share` of sorted values; where these are equal, those of the other values.

    Few values show only gross outliers; one repeated value does not even show those."""
    few = len(ranked) < FEWEST
    part = max(share, 0.25) if few else share
    low, high = _cut(ranked, part)
    if not low < high:
        others = ranked[ranked != low]
        if len(others) < APART:
            reach = UNKNOWN * max(abs(low), 1.0)
            return low - reach, high + reach
        least, most = _cut(others, part)
        low, high = min(low, least), max(high, most)
    reach = WIDE * (high - low) if few else 0.0
    return low - reach, high + reach


@exact_kernel
def _cut(ranked: Singles, share: float) -> tuple[float, float]:
    """Return the lowest and highest of sorted values without the share at either end; at least one value is left."""
    cut = min(math.ceil(share * len(ranked)), (len(ranked) - 1) // 2)
    return np.float64(ranked[cut]), np.float64(ranked[len(ranked) - 1 - cut])


# ---- labels ------------------------------------------------------------------------------------------------------


@exact_kernel
def _admit(
    most: float,
    budget: int,
    share: float,
    counters: Ints,
    place_source: Numbers,
    place_charge: Ints,
    charged: Ints,
    losses: Singles,
    loss_seen: Ints,
    loss_low: Singles,
    loss_high: Singles,
    set_aside: Ints,
    keys: Numbers,
    weight: Floats,
    loss: Floats,
    y: Floats,
    position: Ints,
    weights: Floats,
    why: Codes,
) -> None:
    for i in range(len(weight)):
        w = weight[i]
        weights[i] = w
        if not w > 0.0:
            continue
        if w > most:
            w = most
            why[i] = CAPPED
        if budget > 0 and keys[i] != 0:
            left = budget - _charged(charged, keys[i])
            if left < _GRAIN:
                weights[i], why[i] = 0.0, SOURCE
                counters[_REFUSED] += 1
                continue
            if w * _GRAIN > left:
                w = left / _GRAIN
                why[i] = SOURCE
        if share > 0.0 and not np.isnan(loss[i]):
            kind = min(max(int(y[i]), 0), len(loss_high) - 1) if len(loss_high) > 1 else 0
            extreme = np.float32(min(loss[i], _LARGEST)) > loss_high[kind]
            _learn(share, FAR, loss[i], losses, loss_seen, loss_low, loss_high, kind)
            if extreme:
                set_aside[counters[_QUARANTINED] % len(set_aside)] = position[i]
                weights[i], why[i] = 0.0, QUARANTINE
                counters[_QUARANTINED] += 1
                continue
        weights[i] = w
        counters[_CAPPED] += why[i] == CAPPED
        counters[_REDUCED] += why[i] == SOURCE
        if budget > 0:
            place = counters[_PLACE] % len(place_source)
            counters[_PLACE] += 1
            _charge(charged, place_source[place], -place_charge[place])
            place_source[place] = keys[i]
            place_charge[place] = math.ceil(max(w, 1.0) * _GRAIN) if keys[i] != 0 else 0
            _charge(charged, place_source[place], place_charge[place])


@exact_kernel
def _charged(charged: Ints, source: Any) -> int:
    """Return the part of the window that a source holds: the lower of two counts shared with few others; never too low.

    The count-min sketch (Cormode & Muthukrishnan 2005), with whole numbers, so that subtraction is exact.
    """
    mask = np.uint64(charged.shape[1] - 1)
    mixed = (source * np.uint64(_MIX)) >> np.uint64(32)
    return int(min(charged[0, source & mask], charged[1, mixed & mask]))


@exact_kernel
def _charge(charged: Ints, source: Any, amount: int) -> None:
    """Add to both counts of a source."""
    mask = np.uint64(charged.shape[1] - 1)
    mixed = (source * np.uint64(_MIX)) >> np.uint64(32)
    charged[0, source & mask] += amount
    charged[1, mixed & mask] += amount
