"""Test, then learn.

Each labelled example is scored on what every contestant said of it before it was learned; then the learning
contestants learn it, the memory keeps it, and the detectors look at the champion. All of this is state as arrays,
the same for a stream given row by row or in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from everlearn import drift, metrics, replay
from everlearn.errors import ConfigError
from everlearn.model import Model, copied, cut, prefixed, within
from everlearn.records import Arrays, Batch, Examples, Floats, Singles, Task
from everlearn.spec import Schema, Spec

SCORED_ROLES = ("champion", "frozen", "challenger")
STABLE, WARNING, DRIFT = 0, 1, 2
BOOST = 4.0  # how much more an example weighs while the reaction to drift is "rate"
_MAX_INPUTS = 16  # dense columns watched for drift
_CLOCK = ("scored", "alarm", "warnings", "drifts", "boost_until")

LossKind = Literal["brier", "error", "log_loss", "absolute", "squared"]


class Learner:
    """Metrics by role, drift detectors, replay memory and counters of one loop."""

    def __init__(self, spec: Spec, shape: Mapping[str, Any]) -> None:
        self.spec = spec
        self.task: Task = shape["task"]
        self.loss = loss_kind(spec.gate.loss, self.task)
        classes, dense, hashed = int(shape["classes"]), int(shape["dense"]), int(shape["hashed"])
        self.metrics = {role: metrics.start(self.task, classes) for role in SCORED_ROLES}
        watched = min(dense, _MAX_INPUTS) if spec.drift.watch == "inputs" else 1
        self.detectors = [drift.start(spec.drift, spec.seed + i) for i in range(watched)]
        self.replay = msgspec.structs.replace(spec.replay, width=min(spec.replay.width, _longest_row(spec.schema)))
        self.memory = replay.start(self.replay, dense, hashed, classes, spec.seed)
        self.clock = dict.fromkeys(_CLOCK, 0)

    @property
    def scored(self) -> int:
        """Labelled examples seen."""
        return self.clock["scored"]

    def due(self) -> bool:
        """Whether decisions fall now: after every `tick` labelled examples."""
        return self.scored > 0 and self.scored % self.spec.tick == 0

    def pieces(self, examples: Examples) -> Iterator[Examples]:
        """Cut examples where decisions fall."""
        start, n = 0, len(examples.y)
        while start < n:
            stop = min(n, start + self.spec.tick - self.scored % self.spec.tick)
            yield cut(examples, start, stop)
            start = stop

    def step(
        self,
        examples: Examples,
        said: dict[int, Singles],
        learners: Mapping[int, Model],
        roles: Mapping[str, int],
        answer_now: bool,
    ) -> dict[int, Floats]:
        """Test everyone on `examples`, let `learners` learn them, and return the losses (n,) by uid.

        `said` holds what contestants answered, by uid. With `answer_now` (the labels came with the rows) a learner is
        tested on what it says just before it learns each row; otherwise only on what it said then, if it was there.
        `roles` maps "champion", "frozen" and "challenger" to the uid scored in it.
        """
        weight = self._weight(examples.weight)
        for uid, model in learners.items():
            before = model.learn(examples.batch, examples.y, weight)
            if answer_now:
                said[uid] = before
        for role, uid in roles.items():
            if uid in said:
                metrics.update(
                    self.metrics[role], self.task, said[uid], examples.y, examples.weight, self.clock["scored"]
                )
        losses = {uid: metrics.losses(self.loss, scores, examples.y) for uid, scores in said.items()}
        if self.spec.drift.watch == "loss" and roles["champion"] in losses:
            self._watch([losses[roles["champion"]]])
        self.remember(examples)
        self.clock["scored"] += len(examples.y)
        return losses

    def remember(self, examples: Examples) -> None:
        """Put examples into the replay memory."""
        replay.add(self.memory, self.replay, examples)

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
        arrays = prefixed("memory/", self.memory)
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

    def _weight(self, weight: Singles) -> Singles:
        until, scored = self.clock["boost_until"], self.scored
        if scored >= until:
            return weight
        boosted = np.arange(scored, scored + len(weight)) < until
        return np.where(boosted, weight * np.float32(BOOST), weight)


def warm(model: Model, examples: Examples, epochs: int = 1) -> None:
    """Learn examples offline, in order, `epochs` times over."""
    for _ in range(epochs):
        model.learn(examples.batch, examples.y, examples.weight)


def loss_kind(kind: str, task: Task) -> LossKind:
    """The loss that contestants are compared by; "auto" is the Brier score for classes, the absolute error else."""
    fitting = ("absolute", "squared") if task == "regression" else ("brier", "error", "log_loss")
    if kind == "auto":
        return fitting[0]  # type: ignore[return-value]
    if kind not in fitting:
        raise ConfigError(f"gate.loss: got {kind!r} for a {task} task; expected one of auto, {', '.join(fitting)}")
    return kind  # type: ignore[return-value]


def _longest_row(schema: Schema) -> int:
    """The most hashed features that a row can have; text sets no bound."""
    kinds = list(schema.fields.values())
    if "text" in kinds:
        return 1 << 30
    categories = kinds.count("categorical")
    pairs = categories * (categories - 1) // 2 if schema.interactions else 0
    return categories + pairs
