"""The naive baselines of one loop: what each would have answered, by the labels folded before the prediction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from everlearn.feedback.pending import COMMON, LAST_KNOWN
from everlearn.metrics import baselines
from everlearn.model import copied
from everlearn.records import Arrays, Floats, Singles, Task


class NaiveBaselines:
    """The labels known so far, as `arrays` of `metrics.baselines`; None in homes of releases before the baselines.

    Without arrays nothing is answered, so such a home keeps the bytes that it would have had.
    """

    def __init__(self, task: Task, classes: int) -> None:
        self.task: Task = task
        self.arrays: Arrays | None = baselines.start(task, classes)
        self._queue: list[tuple[float, float]] = []  # labels that are known, and not in the arrays yet
        self._now: dict[int, Singles] | None = None

    @property
    def roles(self) -> dict[str, int]:
        """Return the uid of each baseline in `predictions`, by the word that names its curve."""
        return {} if self.arrays is None else dict(zip(baselines.names(self.task), (LAST_KNOWN, COMMON), strict=True))

    def note(self, y: float, weight: float) -> None:
        """Note a label that is known from now on."""
        if self.arrays is not None:
            self._queue.append((y, weight))
            self._now = None

    def now(self) -> Mapping[int, Singles]:
        """Return the answers of this moment, float32 (1, k), by uid; do not write to them."""
        if self._now is None:
            self._now = self._answers(np.zeros(0), np.zeros(0, np.float32), np.zeros(1, np.int64))
        return self._now

    def rows(self, y: Floats, weight: Singles) -> dict[int, Singles]:
        """Return the answers to n rows, float32 (n, k), by uid, and learn the label of each row after its answer."""
        self._now = None
        return self._answers(y, weight, np.arange(len(y)))

    def known(self, predictions: Mapping[int, Singles]) -> Floats | None:
        """Return the labels that the baselines answered with, for `metrics.update`; None if they did not answer."""
        if LAST_KNOWN not in predictions:
            return None
        return baselines.labels(predictions[LAST_KNOWN], predictions[COMMON])

    def state(self) -> Arrays:
        """Return the arrays, with all labels noted so far; `load` restores them."""
        self._answers(np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.int64))
        return self.arrays or {}

    def load(self, arrays: Arrays) -> None:
        """Restore the result of `state`; without arrays, answer nothing."""
        self.arrays, self._queue, self._now = copied(arrays) or None, [], None

    def _answers(self, y: Floats, weight: Singles, known: np.ndarray) -> dict[int, Singles]:
        if self.arrays is None:
            return {}
        noted, self._queue = self._queue, []
        if noted:
            y = np.concatenate([[label for label, _ in noted], y])
            weight = np.concatenate([np.array([w for _, w in noted], np.float32), weight])
        last, common = baselines.answers(self.arrays, self.task, y, weight, known + len(noted))
        return {LAST_KNOWN: last, COMMON: common}
