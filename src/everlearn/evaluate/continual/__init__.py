"""Continual learning, evaluated: streams of tasks from arrays, what a model answers and forgets on them, and pictures.

>>> import numpy as np
>>> from everlearn import continual
>>> x, y = np.zeros((60, 4), np.float32), np.arange(60) % 6
>>> continual.split((x, y), (x, y), per_task=3)
TaskStream(split, class-incremental: 60 rows of (4,), tasks 0, 1, 2 | 3, 4, 5)
"""

from __future__ import annotations

from everlearn.evaluate.continual import measures
from everlearn.evaluate.continual.comparing import Build, Comparison, compare
from everlearn.evaluate.continual.evaluation import Consolidates, Outcome, evaluate, seconds_per_row
from everlearn.evaluate.continual.streams import (
    Data,
    Task,
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
    "Data",
    "Outcome",
    "Task",
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
