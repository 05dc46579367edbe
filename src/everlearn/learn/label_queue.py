"""Rows and their labels on the way to everyone who learns, and to everyone who is tested.

Learning happens in the order of the log, before anybody is asked again. Testing can wait until somebody wants to know
the result (a decision, a checkpoint): for many rows at once it costs a fraction, and leaves the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from everlearn import gate, metrics
from everlearn.feedback.correction import Correction
from everlearn.feedback.pending import ANSWER
from everlearn.learn import limits
from everlearn.learn.monitor import Monitor
from everlearn.learn.teach import teach
from everlearn.model import copied, select, stack
from everlearn.records import Arrays, Batch, Examples, Singles
from everlearn.serve.roster import Roster, Trial
from everlearn.serve.shadows import predict_all
from everlearn.spec import GateSpec, Spec

Said = Mapping[int, Singles]


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One labelled row: what it weighs in scores and in learning, and what was said of it by uid (scores (1, k)).

    `said` is None for a correction, which is learned but not scored. `late`: see `everlearn.learn.teach.teach`.
    """

    row: Batch
    y: float
    weight: float
    learned: float
    position: int
    said: Said | None
    late: bool | None


class LabelQueue:
    """What is to be learned, and what was learned but not scored yet."""

    def __init__(
        self,
        spec: Spec,
        asked: GateSpec,
        guards: Mapping[str, float],
        default: float | None,
        learner: Monitor,
        roster: Roster,
    ) -> None:
        self.spec = spec
        self._gate, self._guards, self._default = asked, guards, default
        self._learner, self._roster = learner, roster
        self.correction = Correction(spec.feedback, learner.task) if spec.feedback.correction == "importance" else None
        self._next: list[LabelledRow] = []  # not learned yet
        self._learned: list[LabelledRow] = []  # not scored yet
        self._scored = 0  # of both, those that will be scored

    def __len__(self) -> int:
        """How many lessons will be scored by the next `test`."""
        return self._scored

    def state(self) -> Arrays:
        """What correction has counted; lessons themselves are never kept."""
        return self.correction.arrays if self.correction is not None else {}

    def load(self, arrays: Arrays) -> None:
        """Restore what `state` gave; where correction was not asked for then, it begins anew."""
        if self.correction is not None and arrays:
            self.correction.arrays = copied(arrays)

    # ---- judged predictions ------------------------------------------------------------------------------------

    def add(
        self, row: Batch, y: float, weight: float, source: str, position: int, said: Said | None, late: bool | None
    ) -> bool:
        """Take in a label, with the weight that the limits allow; return whether it will be scored."""
        learner, loss = self._learner, np.nan
        if learner.judges and said is not None:
            loss = float(metrics.losses(learner.loss, said[ANSWER], np.array([y]))[0])
        learned, why = limits.admit(learner.limits, self.spec.limits, source, weight, loss, y, position)
        if why == "source" and not learned:
            return False
        scored = min(weight, self.spec.limits.weight) if why == "quarantine" else learned
        self._next.append(LabelledRow(row, y, scored, learned, position, said, late))
        self._scored += said is not None
        return said is not None

    def teach(self) -> bool:
        """Let everyone who learns learn what has come; return whether there was anything."""
        lessons, self._next = self._next, []
        if not lessons:
            return False
        models = [one.tried for one in self._roster.contestants if one.learns]
        batch, y = stack([one.row for one in lessons]), np.array([one.y for one in lessons])
        weight = np.array([one.learned for one in lessons], np.float32)
        if self._learner.boosting:
            counts = np.array([one.said is not None for one in lessons])
            weight[counts] = self._learner.strengthened(weight[counts], len(self._learned))
        teach(models, batch, y, weight, [one.late for one in lessons], self.correction, self._default)
        self._learned += [one for one in lessons if one.said is not None]
        return True

    def test(self) -> None:
        """Score everyone on what was said of the lessons that have come since."""
        self.teach()
        lessons, self._learned, self._scored = self._learned, [], 0
        if not lessons:
            return
        roles = self._roles(ANSWER)
        needed = {*roles.values(), *(one.uid for pair in self._roster.questions() for one in pair)}
        for there, group in groupby(lessons, lambda one: needed & one.said.keys() if one.said is not None else set()):
            alike = list(group)
            batch = stack([one.row for one in alike])
            y, weight = np.array([one.y for one in alike]), np.array([one.weight for one in alike], np.float32)
            examples = Examples(batch, y, weight, np.array([one.position for one in alike], np.int64))
            said = {uid: np.concatenate([one.said[uid] for one in alike if one.said]) for uid in sorted(there)}
            aside = np.array([one.weight > 0.0 and not one.learned for one in alike])
            self._test(examples, said, roles, aside)

    # ---- rows that come with their labels ----------------------------------------------------------------------

    def rows(self, examples: Examples, sources: Sequence[str]) -> int:
        """Score everyone on rows that all lie before the next decision, and learn them; return how many counted.

        A learner is tested on what it says just before it learns each row.
        """
        learner, roster = self._learner, self._roster
        examples = dataclasses.replace(examples, batch=learner.bound(examples.batch))
        said = predict_all([one for one in roster.contestants if not one.learns], examples.batch)
        losses = np.full(len(examples.y), np.nan)
        if learner.judges:
            champion = roster.champion
            answers = said[champion.uid] if champion.uid in said else champion.tried.predict(examples.batch)
            losses = metrics.losses(learner.loss, answers, examples.y)
        scored, learned = learner.admit(examples, sources, losses)
        keep = (scored > 0.0) | ~(examples.weight > 0.0)
        examples = select(dataclasses.replace(examples, weight=scored), keep)
        if not keep.all():
            said = {uid: scores[keep] for uid, scores in said.items()}
            learned = learned[keep]
        if not len(examples.y):
            return 0
        weight = learner.strengthened(learned)
        for one in roster.contestants:
            if one.learns:
                said[one.uid] = one.tried.learn(examples.batch, examples.y, weight)
        aside = (examples.weight > 0.0) & ~(learned > 0.0)
        self._test(examples, said, self._roles(roster.champion.uid), aside)
        learner.look(examples.batch, said[roster.champion.uid])
        return len(examples.y)

    # ---- tests -------------------------------------------------------------------------------------------------

    def _roles(self, champion: int) -> dict[str, int]:
        return self._roster.scored() | {"champion": champion}

    def _test(self, examples: Examples, said: Said, roles: Mapping[str, int], aside: NDArray[np.bool_]) -> None:
        losses = self._learner.test(examples, said, roles)
        self._learner.remember(select(examples, ~aside))
        for candidate, reference in self._roster.questions():
            if candidate.uid in losses and reference.uid in losses:
                trial = candidate.trial = candidate.trial or self._trial()
                gate.update(trial.evidence, self._gate, losses[reference.uid], losses[candidate.uid])
                self._guard(trial.evidence, said[reference.uid], said[candidate.uid], examples)
                result = said[candidate.uid], examples.y, examples.weight
                metrics.update(trial.metrics, self._learner.task, *result, index=trial.tested)
                trial.tested += len(examples.y)

    def _trial(self) -> Trial:
        return Trial(gate.start(self._gate), metrics.start(self._learner.task, self._learner.classes, points=2))

    def _guard(self, question: Arrays, reference: Singles, candidate: Singles, examples: Examples) -> None:
        """Show the gate the recall of the classes that a promotion must not cost."""
        for name, guarded in self._guards.items():
            mine = examples.y == guarded
            if mine.any():
                pair = (metrics.losses("error", scores[mine], examples.y[mine]) for scores in (reference, candidate))
                gate.update_guard(question, self._gate, name, *pair)
