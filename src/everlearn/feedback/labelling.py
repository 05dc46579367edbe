"""What reported quality is conditional on: which predictions have a label, and which labels are only assumed.

`Coverage` counts the fate of predictions. `DefaultLabels` follows the rows that were scored on `feedback.default`: a
later label confirms or corrects them, and the champion's sums are moved to that label. Both are functions of the log,
have a fixed size, and are kept by loops of this release alone (`gate.layout` 2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from everlearn import metrics
from everlearn.metrics import decisions
from everlearn.model import copied
from everlearn.records import Arrays, Floats, Prediction, Task
from everlearn.spec import Spec

CELLS = 256  # of the record of times; neighbours are merged when it is full
DELAYS = 64  # buckets of delays, one for each power of two, in seconds
USUAL = 0.95  # share of corrections that come within the delay that counts as usual

_LABELLED, _OVERDUE, _REFUSED = range(3)  # in arrays["fates"]
_ROWS, _CONFIRMED, _CORRECTED, _USED, _PER_CELL = range(5)  # in arrays["default_counts"]
_LOG_LOSS, _BRIER = 1, 2  # in the sums of `everlearn.metrics`
_KEPT = ("accuracy", "log_loss", "brier", "kappa", "balanced_accuracy", "precision", "recall", "f1")


class Coverage:
    """Counts of predictions by what became of them; `arrays` is all its state, empty in homes of release 0.1.0."""

    def __init__(self, spec: Spec) -> None:
        self.arrays: Arrays = {"fates": np.zeros(3, np.int64)} if spec.gate.layout > 1 else {}

    def note(self, *, scored: bool) -> None:
        """Count a prediction whose feedback came in time, and whether limits and its weight let it be scored."""
        self._add(_LABELLED if scored else _REFUSED, 1)

    def overdue(self, count: int) -> None:
        """Count predictions that have waited too long."""
        self._add(_OVERDUE, count)

    def report(self, waiting: int, evicted: int) -> dict[str, Any]:
        """Return the number of predictions, and of them those labelled in time, waiting, evicted, overdue and refused.

        `share` is the part of them that is labelled; None before the first prediction.
        """
        labelled, overdue, refused = self.arrays["fates"].tolist() if self.arrays else (0, 0, 0)
        total = labelled + overdue + refused + waiting + evicted
        return {
            "predictions": total,
            "labelled": labelled,
            "share": labelled / total if total else None,
            "waiting": waiting,
            "evicted": evicted,
            "overdue": overdue,
            "refused": refused,
        }

    def _add(self, fate: int, count: int) -> None:
        if self.arrays:
            self.arrays["fates"][fate] += count


class DefaultLabels:
    """The rows scored on the default label, and what later labels made of them; `arrays` is all its state.

    `default` is that label as a number; None for a loop without one, which keeps nothing.
    """

    def __init__(self, spec: Spec, default: float | None) -> None:
        self._default = default
        self._weight = min(1.0, spec.limits.weight)
        self.arrays: Arrays = {}
        if default is None or spec.gate.layout == 1:
            return
        self.arrays = {
            "default_counts": np.array([0, 0, 0, 0, 1], np.int64),
            "default_times": np.zeros(CELLS),
            "default_rows": np.zeros(CELLS, np.int64),
            "default_delays": np.zeros(DELAYS, np.int64),
        }
        if classes := len(spec.schema.classes):
            self.arrays["moved_losses"] = np.zeros(2)
            self.arrays["moved_classes"] = np.zeros((classes, 3))
            self.arrays["moved_decisions"] = decisions.start(classes)

    def __bool__(self) -> bool:
        return bool(self.arrays)

    def assume(self, now: float) -> None:
        """Count a row that is scored on the default label at time `now`, seconds that never go back."""
        if not self:
            return
        counts, times, rows = (self.arrays[f"default_{name}"] for name in ("counts", "times", "rows"))
        counts[_ROWS] += 1
        last = counts[_USED] - 1
        if last >= 0 and (rows[last] < counts[_PER_CELL] or times[last] == now):
            times[last] = now
            rows[last] += 1
            return
        if counts[_USED] == CELLS:
            half = CELLS // 2
            times[:half], times[half:] = times[1::2].copy(), 0.0
            rows[:half], rows[half:] = rows[0::2] + rows[1::2], 0
            counts[_USED], counts[_PER_CELL] = half, counts[_PER_CELL] * 2
        times[counts[_USED]], rows[counts[_USED]] = now, 1
        counts[_USED] += 1

    def settle(self, prediction: Prediction, y: float, decided: int | None, seconds: float) -> None:
        """Count the first label of a prediction that was scored on the default label, `seconds` after the prediction.

        Where the label differs, the champion's sums move to it. The log does not hold what the champion answered where
        a canary did, so these rows keep the default label. `decided` is the class that was answered, if it is known.
        """
        if not self:
            return
        counts = self.arrays["default_counts"]
        if y == self._default:
            counts[_CONFIRMED] += 1
            return
        counts[_CORRECTED] += 1
        self.arrays["default_delays"][min(max(math.frexp(seconds)[1], 0), DELAYS - 1)] += 1
        if "moved_losses" in self.arrays and prediction.proba and not prediction.canary:
            self._move(np.array([prediction.proba], np.float32), y, decided)

    def _move(self, scores: Any, y: float, decided: int | None) -> None:
        assert self._default is not None
        labels, best = np.array([self._default, y]), int(scores[0].argmax())
        twice = np.repeat(scores, 2, 0)
        for place, kind in enumerate(("log_loss", "brier")):
            before, after = metrics.losses(kind, twice, labels)
            self.arrays["moved_losses"][place] += self._weight * (after - before)
        for label, weight in zip(labels, (-self._weight, self._weight), strict=True):
            true = int(label)
            self.arrays["moved_classes"][true] += (weight, 0.0, weight * (true == best))
            if decided is not None:
                self.arrays["moved_decisions"][true, decided] += weight

    # ---- reports ---------------------------------------------------------------------------------------------------

    def delay(self) -> float | None:
        """Return the seconds within which 95 % of the corrections came, rounded up to a power of 2; None at first."""
        delays = self.arrays["default_delays"]
        if not delays.sum():
            return None
        return float(2.0 ** int(np.searchsorted(np.cumsum(delays), USUAL * delays.sum())))

    def open(self, now: float) -> int:
        """Return how many rows took the default label so lately that a correction may still come."""
        counts, delay = self.arrays["default_counts"], self.delay()
        if delay is None:
            return int(counts[_ROWS] - counts[_CONFIRMED])
        used = int(counts[_USED])
        recent = self.arrays["default_times"][:used] > now - delay
        return int(self.arrays["default_rows"][:used][recent].sum())

    def report(self, now: float, champion: Arrays, decided: Floats | None, costs: Floats | None) -> dict[str, Any]:
        """Return counts, the usual delay of corrections, and the champion's metrics with the corrections made so far.

        `champion` are its arrays of `everlearn.metrics`, `decided` its table of decisions if it has one. `open` rows
        took the default label within that delay; while there are any, metrics are `provisional`.
        """
        rows, confirmed, corrected = self.arrays["default_counts"][: _CORRECTED + 1].tolist()
        found = {"rows": rows, "confirmed": confirmed, "corrected": corrected}
        found |= {"delay": self.delay(), "open": self.open(now), "provisional": self.open(now) > 0}
        if "moved_losses" not in self.arrays:
            return found
        task: Task = "binary" if len(self.arrays["moved_classes"]) == 2 else "multiclass"
        known = metrics.settled(champion, task)
        moved = copied({name: known[name] for name in ("counts", "sums", "by_class")})
        moved["sums"][[_LOG_LOSS, _BRIER]] += self.arrays["moved_losses"]
        moved["by_class"] += self.arrays["moved_classes"]
        measured = {name: value for name, value in metrics.report(moved, task).items() if name in _KEPT}
        if decided is not None:
            measured |= decisions.report(decided + self.arrays["moved_decisions"], costs)
        return found | {"metrics": measured}
