"""The last thousand scored rows: the ring in which rows wait, and the metrics "lately" that are computed from it."""

from __future__ import annotations

import numpy as np

from everlearn.records import Arrays, Task

ROWS = 1000

LABEL, BEST, TRUE, LOW, HIGH, SEGMENT = range(6)  # rows of arrays["recent_bits"], int32
BRIER, WEIGHT, KNOWN, COMMON, INDEX = range(5)  # rows of arrays["recent"] of classes
TRUTH, PREDICTED, MASS, LAST_KNOWN, MEAN, AT, GROUP = range(7)  # rows of arrays["recent"] of numbers


def start(task: Task) -> Arrays:
    """Return an empty ring.

    Numbers: `recent` float64 (7, 1000): truth, prediction, weight, both answers of the baselines (NaN: none), index in
    the stream, segment (-1: none). Classes: `recent_bits` int32 (6, 1000): label, predicted class (-1: scores that are
    not finite), the bits of the label's score, those of both scores (several classes: 0, and the predicted one's), and
    the segment; `recent` float64 (5, 1000): Brier score, weight, both answers of the baselines (minus infinity: none
    were given), and the index.
    """
    if task == "regression":
        return {"recent": np.zeros((7, ROWS))}
    return {"recent_bits": np.zeros((6, ROWS), np.int32), "recent": np.zeros((5, ROWS))}
