"""Test, then learn.

Each labelled example is scored on what every contestant said of it before it was learned; then the learning
contestants learn it, the memory keeps it, and the detectors look at the champion. What bad rows and bad labels can do
is bounded on the way. All of this is state as arrays, the same for a stream given row by row or in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from everlearn import drift, metrics, replay
from everlearn.learn import limits
from everlearn.metrics import loss_kind
from everlearn.model import compare, copied, cut, prefixed, row_slice, select, within
from everlearn.records import Arrays, Batch, Examples, Floats, Singles, Task
from everlearn.spec import Schema, Spec

SCORED_ROLES = ("champion", "frozen", "challenger")
STABLE, WARNING, DRIFT = 0, 1, 2
BOOST = 4.0  # how much more an example weighs while the reaction to drift is "rate"
_MAX_INPUTS = 16  # dense columns watched for drift
_RANGES = ("held", "seen", "low", "high")  # of the limits, what `look` learns
_CLOCK = ("scored", "alarm", "warnings", "drifts", "boost_until")


class Monitor:
    """Metrics by role, drift detectors, replay memory and counters of one loop."""

    def __init__(self, spec: Spec, shape: Mapping[str, Any]) -> None:
        self.spec = spec
        self.task: Task = shape["task"]
        self.loss = loss_kind(spec.gate.loss, self.task)
        classes, dense, hashed = int(shape["classes"]), int(shape["dense"]), int(shape["hashed"])
        self.classes = classes
        self.metrics = {role: metrics.start(self.task, classes) for role in SCORED_ROLES}
        watched = min(dense, _MAX_INPUTS) if spec.drift.watch == "inputs" else 1
        self.detectors = [drift.start(spec.drift, spec.seed + i) for i in range(watched)]
        self.replay = msgspec.structs.replace(spec.replay, width=min(spec.replay.width, _longest_row(spec.schema)))
        self._sizes = dense, hashed, classes, spec.seed
        self.memory = replay.start(self.replay, *self._sizes)
        self.limits = limits.start(spec.limits, dense, classes)
        self.clock = dict.fromkeys(_CLOCK, 0)

    @property
    def scored(self) -> int:
        """Labelled examples seen."""
        return self.clock["scored"]

    def due(self) -> bool:
        """Whether decisions fall now: after every `tick` labelled examples."""
        return self.scored > 0 and self.scored % self.spec.tick == 0

    def pieces(self, examples: Examples, most: int) -> Iterator[Examples]:
        """Cut examples where decisions fall, into at most so many rows."""
        start, n = 0, len(examples.y)
        while start < n:
            stop = min(n, start + most, start + self.spec.tick - self.scored % self.spec.tick)
            yield cut(examples, start, stop)
            start = stop

    def test(self, examples: Examples, said: Mapping[int, Singles], roles: Mapping[str, int]) -> dict[int, Floats]:
        """Score what was said of `examples`, and return the losses (n,) by uid.

        `said` holds what contestants answered before they learned the examples, by uid; `roles` maps "champion",
        "frozen" and "challenger" to the uid scored in it, if it was there.
        """
        for role, uid in roles.items():
            if uid in said:
                sums = self.metrics[role]
                metrics.update(sums, self.task, said[uid], examples.y, examples.weight, self.clock["scored"])
        losses = {uid: metrics.losses(self.loss, scores, examples.y) for uid, scores in said.items()}
        if self.spec.drift.watch == "loss" and roles["champion"] in losses:
            self._watch([losses[roles["champion"]]])
        self.clock["scored"] += len(examples.y)
        return losses

    def remember(self, examples: Examples) -> None:
        """Put examples into the replay memory."""
        replay.add(self.memory, self.replay, examples)

    def forget(self, bad: Callable[[int, float], bool]) -> int:
        """Take the rows for which `bad(position, y)` is true out of the memory; return how many there were.

        The memory begins anew with the rows that stay.
        """
        held = self.remembered()
        keep = np.array([not bad(int(at), float(y)) for at, y in zip(held.position, held.y, strict=True)], bool)
        if not keep.all():
            self.memory = replay.start(self.replay, *self._sizes)
            self.remember(select(held, keep))
        return int((~keep).sum())

    def bound(self, batch: Batch) -> Batch:
        """Features clipped to the ranges learnt so far, which the rows then widen."""
        return limits.look(self.limits, self.spec.limits, batch)

    def clip(self, batch: Batch) -> Batch:
        """Features clipped to the ranges learnt so far."""
        return limits.clip(self.limits, self.spec.limits, batch)

    def admit(self, examples: Examples, sources: Sequence[str], losses: Floats) -> tuple[Singles, Singles]:
        """With which weights (n,) rows are scored, and with which they are learned; 0: not at all.

        A label that its source may not give any more counts nowhere. One that is quarantined is scored all the same,
        so that the reported metrics are not better than what users got.
        """
        weight, y = examples.weight, examples.y
        learned, why = limits.admit_rows(self.limits, self.spec.limits, sources, weight, losses, y, examples.position)
        scored = np.where(why == limits.QUARANTINE, np.minimum(weight, np.float32(self.spec.limits.weight)), learned)
        return scored, learned

    @property
    def judges(self) -> bool:
        """Whether the limits must know the loss of a label."""
        return self.spec.limits.quarantine < 1.0

    def look(self, batch: Batch, answered: Singles) -> None:
        """Watch predictions or inputs for drift, before any label is there."""
        if self.spec.drift.watch == "proba":
            self._watch([answered[:, -1].astype(np.float64)])
        elif self.spec.drift.watch == "inputs":
            self._watch([np.ascontiguousarray(column, np.float64) for column in batch.dense.T[: len(self.detectors)]])

    def alarm(self) -> int:
        """The highest drift level since it was last asked for; asking clears it."""
        level = self.clock["alarm"]
        self.clock["alarm"] = STABLE
        return level

    def boost(self) -> None:
        """Let examples weigh more until a grace period from now has passed."""
        self.clock["boost_until"] = self.scored + self.spec.drift.grace_period

    def remembered(self) -> Examples:
        """The replay memory's contents, oldest first."""
        return replay.contents(self.memory, self.replay)

    def composition(self) -> dict[str, Any]:
        """What the replay memory holds: rows, bytes, balance of the classes, age."""
        return replay.composition(self.memory, self.replay)

    def report(self) -> dict[str, dict[str, float]]:
        return {role: metrics.report(arrays, self.task) for role, arrays in self.metrics.items()}

    def state(self) -> tuple[Arrays, dict[str, int]]:
        """Everything needed to restore the learner: arrays, and a header of plain values."""
        arrays = prefixed("memory/", self.memory) | prefixed("limits/", self.limits)
        for role, sums in self.metrics.items():
            arrays |= prefixed(f"metrics/{role}/", sums)
        for i, detector in enumerate(self.detectors):
            arrays |= prefixed(f"drift/{i}/", detector)
        return arrays, dict(self.clock)

    def load(self, arrays: Arrays, header: dict[str, int]) -> None:
        self.memory = copied(within(arrays, "memory/"))
        self.metrics = {role: copied(within(arrays, f"metrics/{role}/")) for role in SCORED_ROLES}
        self.detectors = [copied(within(arrays, f"drift/{i}/")) for i in range(len(self.detectors))]
        self.clock = dict(header)
        held = copied(within(arrays, "limits/"))
        if not compare(self.limits, held):  # else they are from before the settings changed
            self.limits = held

    def _watch(self, columns: list[Floats]) -> None:
        if self.spec.drift.detector == "none":
            return
        for detector, values in zip(self.detectors, columns, strict=True):
            levels = drift.update(detector, self.spec.drift, values)
            highest = int(levels.max(initial=STABLE))
            if highest:
                self.clock["warnings"] += int((levels == WARNING).sum())
                self.clock["drifts"] += int((levels == DRIFT).sum())
                self.clock["alarm"] = max(self.clock["alarm"], highest)

    @property
    def boosting(self) -> bool:
        """Whether examples weigh more now than they did."""
        return self.scored < self.clock["boost_until"]

    def strengthened(self, weight: Singles, ahead: int = 0) -> Singles:
        """The weights (n,) to learn with, for rows that come `ahead` rows after those that were scored."""
        until, first = self.clock["boost_until"], self.scored + ahead
        if first >= until:
            return weight
        boosted = np.arange(first, first + len(weight)) < until
        return np.where(boosted, weight * np.float32(BOOST), weight)


class Looked:
    """Rows whose features were clipped together, though some of them have not come yet.

    Each is clipped to what was learnt before it; `come` says how many the learner may know by now.
    """

    def __init__(self, learner: Monitor, batch: Batch) -> None:
        self._learner, self._batch = learner, batch
        self._before = {name: array.copy() for name, array in learner.limits.items() if name in _RANGES}
        self._known = len(batch)
        self.clipped = learner.bound(batch)

    def come(self, rows: int) -> None:
        """Let the learner know the ranges as they are after so many rows."""
        if self._before and rows != self._known:
            for name, array in self._before.items():
                self._learner.limits[name][...] = array
            self._learner.bound(row_slice(self._batch, 0, rows))
            self._known = rows


def _longest_row(schema: Schema) -> int:
    """The most hashed features that a row can have; text sets no bound."""
    kinds = list(schema.fields.values())
    if "text" in kinds:
        return 1 << 30
    categories = kinds.count("categorical")
    pairs = categories * (categories - 1) // 2 if schema.interactions else 0
    return categories + pairs
