"""The naive baselines of one loop: what each would have answered, by the labels folded before the prediction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from everlearn.feedback.pending import COMMON, LAST_KNOWN, SEASONAL
from everlearn.metrics import baselines, seasonal
from everlearn.model import copied
from everlearn.records import Arrays, Batch, Floats, Ints, Singles, Task
from everlearn.schema import moments

_NO_TIMES: Ints = np.zeros(0, np.int64)


class NaiveBaselines:
    """The labels known so far, as `arrays` of `metrics.baselines`; None in homes of releases before the baselines.

    With a `clock`, the dense column where the time of a row starts, the seasonal baseline (`metrics.seasonal`) answers,
    too. Without arrays nothing is answered, so a home keeps the bytes that it would have had.
    """

    def __init__(self, task: Task, classes: int, clock: int | None = None) -> None:
        self.task: Task = task
        self.arrays: Arrays | None = baselines.start(task, classes)
        self._classes, self._clock = classes, clock
        self._season: Arrays | None = None if clock is None else seasonal.start()
        self._queue: list[tuple[float, float, int]] = []  # labels that are known, and not in the arrays yet
        self._now: dict[int, Singles] | None = None

    @property
    def roles(self) -> dict[str, int]:
        """Return the uid of each baseline in `predictions`, by the word that names its curve."""
        if self.arrays is None:
            return {}
        roles = dict(zip(baselines.names(self.task), (LAST_KNOWN, COMMON), strict=True))
        return roles if self._season is None else roles | {seasonal.NAME: SEASONAL}

    def note(self, y: float, weight: float, row: Batch) -> None:
        """Note the label of a row that is known from now on."""
        if self.arrays is not None:
            minute = moments.UNKNOWN if self._season is None else int(self._times(row)[0])
            self._queue.append((y, weight, minute))
            self._now = None

    def now(self, row: Batch) -> Mapping[int, Singles]:
        """Return the answers to one row at this moment, float32 (1, k), by uid; do not write to them."""
        if self._now is None or self._season is not None:
            self._now = self._answers(np.zeros(0), np.zeros(0, np.float32), np.zeros(1, np.int64), self._times(row))
        return self._now

    def rows(self, y: Floats, weight: Singles, batch: Batch) -> dict[int, Singles]:
        """Return the answers to n rows, float32 (n, k), by uid, and learn the label of each row after its answer."""
        self._now = None
        return self._answers(y, weight, np.arange(len(y)), self._times(batch))

    def known(self, predictions: Mapping[int, Singles]) -> Floats | None:
        """Return the labels that the baselines answered with, for `metrics.update`; None if they did not answer."""
        if LAST_KNOWN not in predictions:
            return None
        return baselines.labels(predictions[LAST_KNOWN], predictions[COMMON])

    def state(self) -> Arrays:
        """Return the arrays, with all labels noted so far; `load` restores them."""
        self._answers(np.zeros(0), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
        return (self.arrays or {}) | (self._season or {})

    def load(self, arrays: Arrays) -> None:
        """Restore the result of `state`; without arrays, answer nothing."""
        held = copied(arrays)
        season = {name: held.pop(name) for name in seasonal.start() if name in held}
        self._season = season if season and self._clock is not None else None
        self.arrays, self._queue, self._now = held or None, [], None

    def _times(self, batch: Batch) -> Ints:
        """Return the minutes since 1970 of n rows, int64 (n,); none where no seasonal baseline needs them."""
        if self._season is None or self._clock is None:
            return _NO_TIMES
        return moments.minutes(batch.dense, self._clock)

    def _answers(self, y: Floats, weight: Singles, known: Ints, when: Ints) -> dict[int, Singles]:
        """Return the answers to rows of the minutes `when`, and learn labels: those noted, then `y` (of these rows)."""
        if self.arrays is None:
            return {}
        noted, self._queue = self._queue, []
        labels = len(y)
        if noted:
            earlier = np.array([label for label, _, _ in noted]), np.array([w for _, w, _ in noted], np.float32)
            y = np.concatenate([earlier[0], y]) if labels else earlier[0]
            weight = np.concatenate([earlier[1], weight]) if labels else earlier[1]
        known = known + len(noted)
        last, common = baselines.answers(self.arrays, self.task, y, weight, known)
        found = {LAST_KNOWN: last, COMMON: common}
        if self._season is not None:
            at = np.concatenate([np.array([minute for _, _, minute in noted], np.int64), when[:labels]])
            found[SEASONAL] = seasonal.answers(self._season, self.task, self._classes, y, weight, at, known, when)
        return found
