"""Calibration: does an event that is given a probability of .3 happen three times in ten?

Predictions fall into fixed bins of their probability: that of class 1, or with several classes that of the predicted
class. Each bin keeps its weight, the mean probability and the share of events. Fixed bins need no second pass, and give
the same numbers however the stream is cut.

There are fifteen bins of equal width, as in most publications, and the first and the last are split at .0001, .001, .01
and .03 from the end. Without that, all predictions of a rare event would share one bin, where errors in both directions
cancel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import bare, outlined
from everlearn.metrics.judging import Bits
from everlearn.metrics.recent import BEST, HIGH, LABEL, WEIGHT
from everlearn.records import Arrays, Floats

_WIDE = 15
_SPLITS = (0.0001, 0.001, 0.01, 0.03)  # of the first bin, and mirrored of the last one
_MIRRORED = (0.97, 0.99, 0.999, 0.9999)
BINS = _WIDE + 2 * len(_SPLITS)
EDGES = np.concatenate([[0.0], _SPLITS, np.arange(1, _WIDE) / _WIDE, _MIRRORED, [1.0]])
_MASS, _PREDICTED, _HAPPENED = range(3)  # columns of arrays["bins"]
_NOTHING = np.zeros((0, 3))


def start() -> Arrays:
    """Return empty bins: `bins` float64 (23, 3), the sums of weight, and of weight times probability and outcome."""
    return {"bins": np.zeros((BINS, 3))}


def held(arrays: Arrays) -> Floats:
    """Return the bins; an empty array where they are not kept."""
    return arrays.get("bins", _NOTHING)


def report(bins: Floats) -> dict[str, float]:
    """Return `ece`, the expected calibration error; empty without weight.

    It is the mean over all rows, in weights, of the distance between the mean probability and the share of events in a
    row's bin (Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning"; with several
    classes for the predicted one, as in Guo et al. 2017, "On calibration of modern neural networks").

    >>> report(np.array([[4.0, 1.0, 2.0], [4.0, 3.5, 3.0]]))["ece"]
    0.1875
    """
    total = bins[:, _MASS].sum()
    if not total > 0:
        return {}
    return {"ece": float(np.abs(bins[:, _PREDICTED] - bins[:, _HAPPENED]).sum() / total)}


def reliability(bins: Floats) -> dict[str, NDArray[Any]]:
    """Return the reliability curve, one point for each bin with weight, float64 each.

    `low` and `high` are the ends of the bin, `weight` its weight, `predicted` the mean probability, and `observed` the
    share of events. A calibrated model has `observed` near `predicted`.
    """
    used = bins[:, _MASS] > 0
    mass = bins[used, _MASS]
    return {
        "low": EDGES[:-1][used],
        "high": EDGES[1:][used],
        "weight": mass.copy(),
        "predicted": bins[used, _PREDICTED] / mass,
        "observed": bins[used, _HAPPENED] / mass,
    }


@outlined
def bin_of(p: float) -> int:
    """Return the bin of a probability: the one whose lower end is at most p."""
    place = min(max(int(p * _WIDE), 0), _WIDE - 1)
    for split in _SPLITS:  # all of them lie below the second bin
        place += p >= split
    for split in _MIRRORED:
        place += p >= split
    return place


@bare
def add_classes(ints: Bits, floats: Floats, first: int, end: int, classes: int, bins: Floats) -> None:
    """Add the rows first..end-1 of the ring of `recent`; scores that are not finite belong to no bin."""
    score, weight = ints[HIGH][first:end].view(np.float32), floats[WEIGHT][first:end]
    label, best = ints[LABEL][first:end], ints[BEST][first:end]
    places = np.empty(end - first, np.int64)
    for row in range(end - first):
        places[row] = bin_of(np.float64(score[row]))
    for row in range(end - first):
        if best[row] < 0:
            continue
        w, p, place = weight[row], np.float64(score[row]), places[row]
        event = label[row] == 1 if classes == 2 else label[row] == best[row]
        bins[place, _MASS] += w
        bins[place, _PREDICTED] += w * p
        bins[place, _HAPPENED] += w * event
