"""Show a loop's losses, answers or inputs to its drift detectors, and remember where the last change was.

The state is arrays; they have the same bytes whether a stream comes row by row or in pieces.
"""

from __future__ import annotations

import numpy as np

from everlearn import drift
from everlearn.gate import weights
from everlearn.learn import positions
from everlearn.model import copied, prefixed, within
from everlearn.records import Arrays, Batch, Floats, Ints, Singles
from everlearn.spec import DriftSpec, Spec

STABLE, WARNING, DRIFT = 0, 1, 2
_MAX_INPUTS = 16  # dense columns watched for drift


class DriftWatch:
    """The drift detectors of one loop: one for the loss or the answers, or one for each watched input column.

    `clock` counts "warnings" and "drifts", and holds the highest level since the last look as "alarm".
    """

    def __init__(self, spec: Spec, dense: int, clock: dict[str, int]) -> None:
        """`dense` is the number of dense columns; `clock` is changed in place."""
        watched = min(dense, _MAX_INPUTS) if spec.drift.watch == "inputs" else 1
        self.detectors = [drift.start(spec.drift, spec.seed + i) for i in range(watched)]
        self.clock = clock
        self._watched = spec.drift.watch
        self._spec = drift.divided(spec.drift, watched if spec.gate.layout > 1 else 1)  # release 0.1.0 did not divide
        self._counted: Arrays = positions.start() if spec.drift.detector != "none" else {}  # empty in older homes
        self._weights: Floats | None = None  # of the watched losses; None until one weighs other than 1

    @property
    def spec(self) -> DriftSpec:
        """The settings of each detector; several share one sensitivity, except in homes of release 0.1.0."""
        return self._spec

    def see_losses(self, losses: Floats, weight: Singles, position: Ints, scored: int) -> None:
        """Show the losses of n rows, as far as their weights allow; `scored` rows came before them."""
        if self._watched == "loss":
            self._weigh(losses, weight, scored)
            self._count(position)

    def look(self, batch: Batch, answered: Singles, position: Ints) -> None:
        """Show inputs, or the champion's answers float32 (n, k); no label is needed.

        `position` int64 (n,) holds the positions of the predictions, or of the rows that came with their labels.
        """
        if self._watched == "proba":
            self._watch([answered[:, -1].astype(np.float64)])
        elif self._watched == "inputs":
            self._watch([np.ascontiguousarray(column, np.float64) for column in batch.dense.T[: len(self.detectors)]])
        if self._watched != "loss":
            self._count(position)

    def changed(self) -> int | None:
        """Return the position of the first row since the change behind the last drift; None if it is not known."""
        return positions.changed(self._counted)

    def state(self) -> Arrays:
        """Return everything that `load` needs."""
        arrays: Arrays = {}
        for i, detector in enumerate(self.detectors):
            arrays |= prefixed(f"drift/{i}/", detector)
        if self._weights is not None:
            arrays["weights"] = self._weights
        return arrays | prefixed("counted/", self._counted)

    def load(self, arrays: Arrays) -> None:
        """Restore the result of `state`, which may stand among other arrays."""
        self.detectors = [copied(within(arrays, f"drift/{i}/")) for i in range(len(self.detectors))]
        self._weights = arrays["weights"].copy() if "weights" in arrays else None
        self._counted = copied(within(arrays, "counted/"))

    def _weigh(self, losses: Floats, weight: Singles, scored: int) -> None:
        first = 0
        if self._weights is None:
            (others,) = np.nonzero(weight != 1.0)
            first = int(others[0]) if len(others) else len(weight)
            self._watch([losses[:first]])
            losses, weight = losses[first:], weight[first:]
            if not len(others):
                return
            self._weights = weights.after(scored + first)
            self._weights[weights.SHARES] = min(scored + first, weights.MEMORY)
            self._weights[weights.MEAN] = drift.state(self.detectors[0], self._spec).get("estimate", 0.0)
        self._watch([weights.steadied(self._weights, losses, weight.astype(np.float64))], first)

    def _watch(self, columns: list[Floats], first: int = 0) -> None:
        """Show values to the detectors; `first` values of these rows were shown before."""
        if self._spec.detector == "none":
            return
        changes: list[positions.Change | None] = []
        for detector, values in zip(self.detectors, columns, strict=True):
            levels = drift.update(detector, self._spec, values)
            highest = int(levels.max(initial=STABLE))
            if highest:
                self.clock["warnings"] += int((levels == WARNING).sum())
                self.clock["drifts"] += int((levels == DRIFT).sum())
                self.clock["alarm"] = max(self.clock["alarm"], highest)
            if highest == DRIFT and self._counted:
                changes.append(positions.change(self._counted, detector, self._spec, values, levels, first))
        positions.note_change(self._counted, changes)

    def _count(self, position: Ints) -> None:
        """Note the positions of rows whose values were shown to the detectors."""
        if self._counted:
            positions.add(self._counted, position)
