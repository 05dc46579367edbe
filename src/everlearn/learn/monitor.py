"""Measurements of one loop: metrics by role, drift detectors and the replay memory.

The monitor scores each labelled row on the predictions that every contestant made before learning it. Its state is
arrays. They have the same bytes whether a stream comes row by row or in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from everlearn import metrics, replay
from everlearn.feedback.pending import DECIDED, SEGMENT, most_features
from everlearn.learn.decision_rules import DecisionRules, Find
from everlearn.learn.drift_watch import STABLE, DriftWatch
from everlearn.learn.limiter import Limiter
from everlearn.learn.naive import NaiveBaselines
from everlearn.learn.policies import PolicyValues
from everlearn.learn.segments import Segments
from everlearn.metrics import baselines, rooms
from everlearn.metrics.queued import QueuedMetrics
from everlearn.model import compare, copied, cut, prefixed, select, within
from everlearn.records import Arrays, Batch, Examples, Floats, Ints, Loss, Singles, Task
from everlearn.replay import QueuedReplay
from everlearn.schema import moments
from everlearn.spec import Spec

SCORED_ROLES = ("champion", "frozen", "challenger")
BOOST = 4.0  # how much more an example weighs while the reaction to drift is "rate"
_CLOCK = ("scored", "alarm", "warnings", "drifts", "boost_until")


class Monitor:
    """Metrics by role, drift detectors, replay memory and counters of one loop."""

    def __init__(self, spec: Spec, shape: Mapping[str, Any], find: Find | None = None) -> None:
        """`find` returns a stored version, with its decision threshold."""
        self.spec = spec
        self.task: Task = shape["task"]
        self.limiter = Limiter(spec, shape)
        classes, dense, hashed = int(shape["classes"]), int(shape["dense"]), int(shape["hashed"])
        self.classes = classes
        timed = moments.clock(spec.schema) if not spec.limits.clip else None  # a clipped time is no time
        self.naive = NaiveBaselines(self.task, classes, timed)
        metrics.checked(spec.metric, self.task, self.own, bool(spec.decision.costs))
        self.segments = Segments(spec, classes or 1)
        measured: dict[str, Any] = {"share": spec.metrics.share, "segmented": bool(self.segments.field)}
        started = {role: metrics.start(self.task, classes, own=self.own, **measured) for role in SCORED_ROLES}
        started |= {name: baselines.measures(self.task, classes, self.own) for name in self.naive.roles}
        self._scores = {role: QueuedMetrics(arrays) for role, arrays in started.items()}
        self.rules = DecisionRules(spec, classes, [*started], find)
        widest = most_features(spec.schema)  # a pair of answers is never cut
        width = widest if spec.schema.task == "preference" else min(spec.replay.width, widest)
        self.replay = msgspec.structs.replace(spec.replay, width=width)
        self._sizes = dense, hashed, classes, spec.seed
        self._memory = QueuedReplay(self.replay, replay.start(self.replay, *self._sizes))
        self.clock = dict.fromkeys(_CLOCK, 0)
        self.drift = DriftWatch(spec, dense, self.clock)
        self.policies = PolicyValues(spec.schema, SCORED_ROLES)
        self.warmed = 0  # rows of the warm start that were learned

    @property
    def loss(self) -> Loss:
        """The loss that models are compared by."""
        return self.limiter.loss

    @property
    def roles(self) -> list[str]:
        """The words for the metrics that are kept; an untrained start is no baseline where there are naive ones."""
        untrained = bool(self.naive.roles) and not self.warmed
        return [role for role in self._scores if not (role == "frozen" and untrained)]

    @property
    def metrics(self) -> dict[str, Arrays]:
        """The arrays of the metrics, by role, with all rows that were scored."""
        return {role: scores.arrays for role, scores in self._scores.items()}

    @property
    def memory(self) -> Arrays:
        """The arrays of the replay memory, with all rows that were put there."""
        return self._memory.arrays

    @property
    def scored(self) -> int:
        """Labelled examples seen."""
        return self.clock["scored"]

    def due(self) -> bool:
        """Return True if decisions fall now: after every `tick` labelled examples."""
        return self.scored > 0 and self.scored % self.spec.tick == 0

    def pieces(self, examples: Examples, most: int) -> Iterator[Examples]:
        """Cut examples where decisions fall, into pieces of at most `most` rows."""
        start, n = 0, len(examples.y)
        while start < n:
            stop = min(n, start + most, start + self.spec.tick - self.scored % self.spec.tick)
            yield cut(examples, start, stop)
            start = stop

    def test(
        self,
        examples: Examples,
        predictions: Mapping[int, Singles],
        roles: dict[str, int],
        known: Floats | None = None,
    ) -> dict[int, Floats]:
        """Score predictions of n examples; return the losses, float64 (n,), by uid.

        `predictions` maps a uid to the scores, float32 (n, k), that this contestant gave before it learned the
        examples. `roles` maps "champion", "frozen" and "challenger" to the uid that is scored in each role. The naive
        baselines are scored where `predictions` has their answers, and have no losses; `known` are the labels that they
        answered with, read from `predictions` where it is None. Weights are above 0. A detector of losses gets the loss
        of a light row drawn towards their weighted mean. The arrays are kept until the metrics are read, and not
        copied.
        """
        naive, index = self.naive.roles, self.clock["scored"]
        known = self.naive.known(predictions) if known is None else known
        uids, segment = roles | naive, self.segments.of(examples, predictions)
        for role in self.roles:
            if (uid := uids.get(role)) is not None and uid in predictions:
                self._scores[role].add(predictions[uid], examples.y, examples.weight, index, known, segment)
        kind, parameter = self.loss
        losses = {
            uid: metrics.losses(kind, scores, examples.y, parameter)
            for uid, scores in predictions.items()
            if uid > DECIDED and uid != SEGMENT and uid not in naive.values()
        }
        if (champion := losses.get(roles["champion"])) is not None:
            self.drift.see_losses(champion, examples.weight, examples.position, self.scored)
        self.rules.test(examples, predictions, uids)
        self.policies.test(examples, predictions, roles)
        self.clock["scored"] += len(examples.y)
        if self.due():
            self.rules.refresh()
        return losses

    def remember(self, examples: Examples) -> None:
        """Put examples into the replay memory."""
        self._memory.add(examples)

    def forget(self, bad: Callable[[int, float], bool]) -> int:
        """Remove the rows for which `bad(position, y)` is true from the memory; return how many there were.

        The memory restarts with the rows that stay.
        """
        held = self.remembered()
        keep = np.array([not bad(int(at), float(y)) for at, y in zip(held.position, held.y, strict=True)], bool)
        if not keep.all():
            self._remember_only(select(held, keep))
        return int((~keep).sum())

    @property
    def limits(self) -> Arrays:
        """The arrays of the limits; see `everlearn.learn.limits`."""
        return self.limiter.arrays

    def clip(self, batch: Batch) -> Batch:
        """Clip features to the ranges learned so far."""
        return self.limiter.clip(batch)

    def look(self, batch: Batch, answered: Singles, position: Ints) -> None:
        """Watch inputs, or the champion's answers float32 (n, k), for drift; no label is needed.

        `position` int64 (n,) holds the positions of the predictions, or of the rows that came with their labels.
        """
        self.drift.look(batch, answered, position)

    def alarm(self) -> int:
        """Return the highest drift level since the last call, and clear it."""
        level = self.clock["alarm"]
        self.clock["alarm"] = STABLE
        return level

    def renew(self, before: Spec, held: Examples) -> None:
        """Start again what other settings than `before` change; `held` are the rows of the memory, oldest first."""
        if self.spec.decision != before.decision:
            self.rules.reconsider()
        if self.spec.drift != before.drift:
            self.drift = DriftWatch(self.spec, self._sizes[0], self.clock)
        if self.spec.replay != before.replay:
            self._remember_only(held)

    def _remember_only(self, held: Examples) -> None:
        self._memory = QueuedReplay(self.replay, replay.start(self.replay, *self._sizes))
        self.remember(held)

    def boost(self) -> None:
        """Give examples more weight until a grace period from now has passed."""
        self.clock["boost_until"] = self.scored + self.spec.drift.grace_period

    def remembered(self) -> Examples:
        """Return the contents of the replay memory, oldest first."""
        return replay.contents(self.memory, self.replay)

    def remembered_since_drift(self) -> tuple[Examples, bool]:
        """Return the remembered rows since the change behind the last drift, and True; else all rows, and False.

        What a detector counts decides the position of the change: labelled examples for "loss", predictions (or rows
        with their labels) for "proba" and "inputs". There, rows that were predicted before the change and labelled
        after it are among those returned: the memory knows the position of a label, not of its prediction.
        """
        held, first = self.remembered(), self.drift.changed()
        if first is None:
            return held, False
        newest = int(self.memory["counters"][replay.NEWEST]) if self.memory else 0  # of the log, or of files
        return select(held, (held.position >= first) & (held.position <= newest)), True

    def composition(self) -> dict[str, Any]:
        """Return rows, bytes, balance of the classes and age of the replay memory."""
        return replay.composition(self.memory, self.replay)

    def report(self) -> dict[str, dict[str, float]]:
        """Return the metrics of each role."""
        return {
            role: baselines.report(role, self._scores[role].arrays, self.task) | self.rules.report(role)
            for role in self.roles
        }

    @property
    def own(self) -> Loss:
        """The loss that the loop's model is trained for, as far as that is known, else the one of comparisons."""
        return self.spec.gate.own if self.spec.gate.own is not None else self.loss

    @property
    def headline(self) -> str:
        """The headline metric of this moment: the setting `metric`, or what "auto" stands for."""
        return metrics.chosen(self.spec.metric, self.task, self._scores["champion"].arrays, self.own)

    def by_segment(self) -> dict[str, dict[str, Any]]:
        """Return the champion's metrics in each segment, by its name; empty where metrics are not split."""
        return metrics.segment_report(self._scores["champion"].arrays, self.task, self.segments.table)

    def reliability(self) -> dict[str, list[float]]:
        """Return the champion's reliability curve; see `metrics.reliability`."""
        return {
            name: line.tolist()
            for name, line in metrics.reliability(self._scores["champion"].arrays, self.task).items()
        }

    def curves(self) -> dict[str, dict[str, Any]]:
        """Return the curve of each role; see `metrics.curve`."""
        return {role: baselines.curve(role, self._scores[role].arrays) for role in self.roles}

    def state(self) -> tuple[Arrays, dict[str, int]]:
        """Return everything that `load` needs: arrays, and a header of plain values."""
        arrays = prefixed("memory/", self.memory) | prefixed("limits/", self.limits)
        arrays |= prefixed("naive/", self.naive.state()) | prefixed("decisions/", self.rules.state())
        arrays |= prefixed("segments/", self.segments.table.state())
        for role, sums in self.metrics.items():
            arrays |= prefixed(f"metrics/{role}/", sums)
        arrays |= prefixed("class_weight/", self.limiter.class_weights.arrays)
        arrays |= prefixed("policies/", self.policies.arrays)
        return arrays | self.drift.state(), dict(self.clock) | ({"paused": 1} if self.limiter.paused else {})

    def load(self, arrays: Arrays, header: dict[str, int]) -> None:
        """Restore the result of `state`; limits of other settings are left out, and start again."""
        self._memory = QueuedReplay(self.replay, copied(within(arrays, "memory/")))
        self.naive.load(within(arrays, "naive/"))
        self.rules.load(within(arrays, "decisions/"))
        roles = (*SCORED_ROLES, *self.naive.roles)
        self.segments.load(within(arrays, "segments/"))
        held_metrics = {role: copied(within(arrays, f"metrics/{role}/")) for role in roles}
        for role in SCORED_ROLES:
            rooms.renew(held_metrics[role], self.spec.metrics.share, bool(self.segments.field), self.segments.restarted)
        self._scores = {role: QueuedMetrics(scores) for role, scores in held_metrics.items()}
        self.drift.load(arrays)
        self.policies.load(within(arrays, "policies/"))
        self.clock |= {name: count for name, count in header.items() if name != "paused"}
        self.limiter.paused = bool(header.get("paused", 0))
        if counts := copied(within(arrays, "class_weight/")):
            self.limiter.class_weights.arrays = counts
        held = copied(within(arrays, "limits/"))
        if not compare(self.limits, held):  # else they are from before the settings changed
            self.limiter.arrays = held

    @property
    def boosting(self) -> bool:
        """True while examples have more weight, after drift."""
        return self.scored < self.clock["boost_until"]

    def strengthened(self, weight: Singles, ahead: int = 0) -> Singles:
        """Return the weights, float32 (n,), to learn rows with that come `ahead` rows after the scored ones."""
        until, first = self.clock["boost_until"], self.scored + ahead
        if first >= until:
            return weight
        boosted = np.arange(first, first + len(weight)) < until
        return np.where(boosted, weight * np.float32(BOOST), weight)
