"""Drift by plan: the concept of each row, from the positions and widths of the changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from everlearn._jit import exact_kernel
from everlearn._random import uniform
from everlearn.errors import ConfigError, did_you_mean
from everlearn.records import Floats, Ints

Drift = Literal["none", "sudden", "gradual", "recurring", "incremental"]
DRIFTS: tuple[str, ...] = get_args(Drift)


class DriftPlan(NamedTuple):
    """The changes of a stream: change k is centred at row `positions[k]` (from 0) and `widths[k]` rows wide.

    `order` has the place of each stretch's concept in the list of concepts. With `moves` the concept itself moves from
    one to the next; else each row has one of both.
    """

    order: tuple[int, ...]
    positions: tuple[int, ...]
    widths: tuple[int, ...]
    moves: bool


class RowConcepts(NamedTuple):
    """The concepts that each of n rows is between, int64 (n,), and how far it has moved, float64 (n,) in [0, 1]."""

    now: Ints
    toward: Ints
    share: Floats


def planned(
    drift: str, rows: int, concepts: int, positions: Sequence[int], width: int | Sequence[int] | None
) -> DriftPlan:
    """Return the schedule of a stream of `rows` rows with so many concepts.

    Without `positions`, stretches are equal: one for each concept, two with "recurring". Without a `width`, a gradual
    or incremental change takes a fifth of a stretch. Raises `ConfigError` for a drift, positions or widths that do not
    fit.

    >>> planned("recurring", 1000, 2, (), None).positions
    (250, 500, 750)
    """
    if drift not in DRIFTS:
        raise ConfigError(
            f"drift: got {drift!r}; expected one of {', '.join(DRIFTS)}{did_you_mean(str(drift), DRIFTS)}"
        )
    changes = len(positions) or (concepts * (2 if drift == "recurring" else 1) - 1)
    if (drift == "none") != (concepts == 1) or (drift == "none" and changes):
        raise ConfigError(
            f"concepts: got {concepts} with drift {drift!r} and positions {tuple(positions)}; expected one concept and "
            "no position without drift, and two concepts or more with drift"
        )
    if drift != "recurring" and changes != concepts - 1:
        raise ConfigError(
            f"positions: got {changes} for {concepts} concepts; expected {concepts - 1}, one for each change. "
            'Use drift="recurring" to go through the concepts again'
        )
    places = tuple(int(one) for one in positions) or tuple(rows * (k + 1) // (changes + 1) for k in range(changes))
    widths = _widths(drift, rows, changes, width)
    ends = [0, *places, rows]
    if any(one >= other for one, other in itertools.pairwise(ends)):
        raise ConfigError(f"positions: got {places} for {rows:,} rows; expected ascending rows above 0 and below that")
    moves = drift == "incremental"
    if moves:
        edges = [
            edge for place, wide in zip(places, widths, strict=True) for edge in (place - wide / 2, place + wide / 2)
        ]
        if edges != sorted(edges):
            raise ConfigError(f"width: got {widths} at positions {places}; expected changes that do not overlap")
    return DriftPlan(tuple(k % concepts for k in range(changes + 1)), places, widths, moves)


def stretches(schedule: DriftPlan, seed: int, first: int, rows: int) -> RowConcepts:
    """Return the concepts of rows `first` and further, as places in the list of concepts.

    In a change of width w at position p, row t has the new concept with probability 1 / (1 + exp(-4 (t - p) / w)), as
    in MOA (Bifet et al. 2009, "New ensemble methods for evolving data streams"). A concept that moves does so evenly
    from row p - w / 2 to p + w / 2.
    """
    order = np.array(schedule.order)
    places = np.array(schedule.positions, np.float64)
    widths = np.array(schedule.widths, np.float64)
    now, share = np.empty(rows, np.int64), np.zeros(rows)
    if schedule.moves:
        at = np.arange(first, first + rows, dtype=np.float64)
        passed = (at[:, None] - places + widths / 2.0) / np.maximum(widths, 1e-9)
        passed = np.where(widths > 0, np.clip(passed, 0.0, 1.0), at[:, None] >= places).sum(axis=1)
        now = np.minimum(passed.astype(np.int64), len(places))
        share = passed - now
    else:
        _choose(seed, first, places, widths, now)
    return RowConcepts(order[now], order[np.minimum(now + 1, len(places))], share)


@exact_kernel
def _choose(seed: int, first: int, places: Floats, widths: Floats, now: Ints) -> None:
    for row in range(len(now)):
        at, k = first + row, 0
        while k < len(places):
            if widths[k] == 0.0:
                if at < places[k]:
                    break
            elif at < places[k] - 10.0 * widths[k]:  # the probability is 4e-18
                break
            elif at < places[k] + 10.0 * widths[k]:
                chance = 1.0 / (1.0 + math.exp(-4.0 * (at - places[k]) / widths[k]))
                if uniform(seed, at, k) >= chance:
                    break
            k += 1
        now[row] = k


def _widths(drift: str, rows: int, changes: int, width: int | Sequence[int] | None) -> tuple[int, ...]:
    slow = drift in ("gradual", "incremental")
    if width is None:
        width = max(rows // (5 * (changes + 1)), 1) if slow else 0
    found = (int(width),) * changes if isinstance(width, int | np.integer) else tuple(int(one) for one in width)
    if len(found) != changes or any(one < (1 if slow else 0) for one in found) or (drift == "sudden" and any(found)):
        expected = "0" if drift == "sudden" else "rows, one number for all changes or one for each"
        raise ConfigError(f"width: got {width!r} for {changes} changes of drift {drift!r}; expected {expected}")
    return found
