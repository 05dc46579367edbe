"""Evaluate continual learning: how well a model learns a stream of tasks, and what it forgets.

A model and arrays of rows, split into tasks, come in; accuracies on each task, measures and plots go out. `streams`
makes the tasks and `images` changes their rows, `evaluation` runs one model, `comparing` runs several methods,
`measures` holds the formulas, and `plots` draws them. The evaluation loop is `evaluate/prequential.py`; methods against
forgetting live in `families/neural/`.

>>> import numpy as np
>>> from everlearn import continual
>>> x, y = np.zeros((60, 4), np.float32), np.arange(60) % 6
>>> continual.split((x, y), (x, y), per_task=3)
TaskStream(split, class-incremental: 60 rows of (4,), tasks 0, 1, 2 | 3, 4, 5)
"""

from __future__ import annotations

from everlearn.evaluate.continual import measures
from everlearn.evaluate.continual.comparing import Build, Comparison, compare
from everlearn.evaluate.continual.evaluation import Consolidates, ContinualReport, evaluate, seconds_per_row
from everlearn.evaluate.continual.streams import (
    Data,
    StreamTask,
    TaskStream,
    blurred,
    domain,
    joint,
    permuted,
    rotated,
    split,
)

__all__ = [
    "Build",
    "Comparison",
    "Consolidates",
    "ContinualReport",
    "Data",
    "StreamTask",
    "TaskStream",
    "blurred",
    "compare",
    "domain",
    "evaluate",
    "joint",
    "measures",
    "permuted",
    "rotated",
    "seconds_per_row",
    "split",
]
