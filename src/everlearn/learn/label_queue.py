"""Queue labelled rows for training, then for scoring.

Models learn in the order of the log, before the next prediction. Scoring can wait until a decision or a checkpoint
needs its result: for a hundred rows at once it costs a fraction, and leaves the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from everlearn import gate, metrics
from everlearn.feedback.correction import Arrival
from everlearn.feedback.pending import ANSWER, SEGMENT
from everlearn.learn.monitor import Monitor
from everlearn.learn.teach import gathered, learned_one_by_one, teach
from everlearn.metrics import duels
from everlearn.model import select, stack
from everlearn.records import Arrays, Batch, Examples, Singles
from everlearn.schema.pairs import Duel
from everlearn.serve.contestant import Contestant, Trial
from everlearn.serve.roster import Roster
from everlearn.serve.shadows import predict_all, predict_all_traced
from everlearn.spec import GateSpec

Predictions = Mapping[int, Singles]

_MOST = 512  # learned rows that wait to be scored
_IN_TRIALS = {"counts", "curve", "naive", "sums", "by_class", "pinball"}  # a record that starts often is to be small


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One labelled row, with its weights in scoring (`weight`, above 0) and in learning (`learned`).

    `predictions` maps a uid to the scores (1, k) of the prediction; None for a correction, which is learned but not
    scored. `arrival` is None unless importance weights apply. `traces` maps the uid of a contestant to the trace of its
    prediction; None without any. `factor` is that of its class, in learning. `duel` says who won, where a judgement
    of a pair decides between contestants.
    """

    row: Batch
    y: float
    weight: float
    learned: float
    position: int
    predictions: Predictions | None = None
    arrival: Arrival | None = None
    traces: Predictions | None = None
    factor: float = 1.0
    duel: Duel | None = None


class LabelQueue:
    """Rows that wait to be learned, and learned rows that wait to be scored."""

    def __init__(self, settings: GateSpec, guards: Mapping[str, float], monitor: Monitor, roster: Roster) -> None:
        """`guards` maps each of `settings.guards` to its class index."""
        self._gate, self._guards = settings, guards
        self._monitor, self._roster = monitor, roster
        self._next: list[LabelledRow] = []  # not learned yet
        self._learned: list[LabelledRow] = []  # not scored or remembered yet
        self._scored = 0  # of both, those that will be scored
        self._pairs = monitor.spec.schema.task == "preference"

    def __len__(self) -> int:
        """The number of rows that the next `test` will score."""
        return self._scored

    # ---- judged predictions ------------------------------------------------------------------------------------

    def add(self, labelled: LabelledRow) -> bool:
        """Queue a row; return True if it will be scored."""
        self._next.append(labelled)
        self._monitor.naive.note(labelled.y, labelled.learned, labelled.row)
        scored = labelled.predictions is not None
        self._scored += scored
        return scored

    def teach(self) -> bool:
        """Let all learning models learn the queued rows; return True if there were any."""
        rows, self._next = self._next, []
        if not rows:
            return False
        learners = [(contestant.uid, contestant.tried) for contestant in self._roster.contestants if contestant.learns]
        batch, y = stack([labelled.row for labelled in rows]), np.array([labelled.y for labelled in rows])
        weight = np.array([labelled.learned for labelled in rows], np.float32)
        if self._monitor.boosting:
            counts = np.array([labelled.predictions is not None for labelled in rows])
            ahead = sum(labelled.predictions is not None for labelled in self._learned)
            weight[counts] = self._monitor.strengthened(weight[counts], ahead)
        if self._monitor.limiter.class_weights:
            weight *= np.array([labelled.factor for labelled in rows], np.float32)
        traces: list[Singles | None] = []
        waited = [labelled.traces for labelled in rows]
        if any(waited):
            traces = [gathered(waited, uid, model.trace) for uid, model in learners]
        teach([model for _, model in learners], batch, y, weight, [labelled.arrival for labelled in rows], traces)
        # Most pairs of answers are learned and not scored, and a new model is to see them, too.
        self._learned += [row for row in rows if self._pairs or row.predictions is not None]
        return True

    def rest(self) -> None:
        """Teach the queued rows; score the learned ones only if many wait, since nothing reads their scores yet."""
        self.teach()
        if len(self._learned) >= _MOST:
            self.test()

    def settle(self) -> None:
        """Score the rows that were learned, for a reader of metrics, evidence or replay memory."""
        if self._learned:
            waiting, self._next = self._next, []  # within a stretch of events, which goes on
            self.test()
            self._next, self._scored = waiting, sum(row.predictions is not None for row in waiting)

    def predict(self, rows: Sequence[LabelledRow]) -> list[LabelledRow]:
        """Return rows that were just judged, with predictions of this moment for those that waited without any.

        All models predict such a row after they learned what was judged before it, and before they learn it. The
        lessons of one judgement share a row, and its predictions. Raises ModelFailure.
        """
        judged: list[LabelledRow] = []
        row: Batch | None = None
        predictions: dict[int, Singles] = {}
        for labelled in rows:
            if labelled.predictions is not None and not labelled.predictions:
                if labelled.row is not row:
                    self.teach()
                    row = labelled.row
                    predictions = predict_all(self._roster.contestants, row) | dict(self._monitor.naive.now(row))
                    predictions[ANSWER] = predictions[self._roster.champion.uid]
                labelled = replace(labelled, predictions=predictions)
            judged.append(labelled)
        return judged

    def test(self) -> None:
        """Teach the queued rows, then score every contestant on its predictions for them."""
        self.teach()
        rows, self._learned, self._scored = self._learned, [], 0
        if not rows:
            return
        roles = self._roles(ANSWER)
        needed = {*roles.values(), *(contestant.uid for pair in self._roster.comparisons() for contestant in pair)}
        needed |= {*self._monitor.naive.roles.values(), SEGMENT}
        needed |= self._monitor.rules.uids(self._roster.contestants, roles) | self._monitor.policies.uids(roles)
        known = [needed & row.predictions.keys() if row.predictions is not None else None for row in rows]
        for uids, group in groupby(zip(known, rows, strict=True), lambda pair: pair[0]):
            alike = [row for _, row in group]
            examples = _examples(alike)
            if uids is None:
                self._monitor.remember(examples)
                continue
            predictions = {
                uid: np.concatenate([labelled.predictions[uid] for labelled in alike if labelled.predictions])
                for uid in sorted(uids)
            }
            aside = np.array([labelled.weight > 0.0 and not labelled.learned for labelled in alike])
            self._test(examples, predictions, roles, aside)
        for row in rows:
            if row.duel is not None:
                self._credit(row.duel, row.predictions or {})

    # ---- rows that come with their labels ----------------------------------------------------------------------

    def rows(self, examples: Examples, sources: Sequence[str]) -> int:
        """Score every contestant on n labelled rows before the next decision, and learn them; return how many count.

        A learning model is scored on its prediction just before it learns each row. A row of weight 0 changes nothing.
        """
        monitor, limiter, champion = self._monitor, self._monitor.limiter, self._roster.champion
        counts = examples.weight > 0.0
        if not counts.all():
            sources = [source for source, count in zip(sources, counts, strict=True) if count] if sources else sources
            examples = select(examples, counts)
        if limiter.clips:
            examples = replace(examples, batch=limiter.bound(examples.batch))
        frozen = [contestant for contestant in self._roster.contestants if not contestant.learns]
        traces: dict[int, Singles] = {}
        if monitor.policies:
            found, traces = predict_all_traced(frozen, examples.batch)
        else:
            found = predict_all(frozen, examples.batch)
        predictions = {uid: scores.copy() for uid, scores in found.items()}
        answers = None
        if limiter.judges:
            known = predictions.get(champion.uid)
            answers = known if known is not None else champion.tried.predict(examples.batch)
        examples, learned, keep = limiter.admit_rows(examples, sources, answers)
        if keep is not None:
            predictions = {uid: scores[keep] for uid, scores in predictions.items()}
            traces = {uid: trace[keep] for uid, trace in traces.items()}
        if not len(examples.y):
            return 0
        factors, weight = limiter.class_weights.take(examples.y, learned), monitor.strengthened(learned)
        weight = weight if factors is None else weight * factors
        predictions |= monitor.naive.rows(examples.y, learned, examples.batch)
        for contestant in self._roster.contestants:
            if contestant.learns and monitor.policies:
                known_rows = examples.batch, examples.y, weight
                predictions[contestant.uid], traces[contestant.uid] = learned_one_by_one(contestant.tried, *known_rows)
            elif contestant.learns:
                predictions[contestant.uid] = contestant.tried.learn(examples.batch, examples.y, weight).copy()
        predictions |= monitor.policies.rows(examples.batch, traces)
        predictions |= monitor.rules.decide(self._roster.contestants, predictions)
        aside = None if learned is examples.weight else (examples.weight > 0.0) & ~(learned > 0.0)
        self._test(examples, predictions, self._roles(champion.uid), aside)
        monitor.look(examples.batch, predictions[champion.uid], examples.position)
        return len(examples.y)

    # ---- tests -------------------------------------------------------------------------------------------------

    def _roles(self, champion: int) -> dict[str, int]:
        return self._roster.scored() | {"champion": champion}

    def _test(
        self, examples: Examples, predictions: Predictions, roles: dict[str, int], aside: NDArray[np.bool_] | None
    ) -> None:
        """Score predictions in each role and trial; remember the rows that are not set `aside` (None: all of them)."""
        known = self._monitor.naive.known(predictions)
        losses = self._monitor.test(examples, predictions, roles, known)
        self._monitor.remember(examples if aside is None else select(examples, ~aside))
        for candidate, reference in self._roster.comparisons():
            if candidate.uid in losses and reference.uid in losses:
                trial = candidate.trial = candidate.trial or self._trial(candidate)
                if not self._pairs:
                    both = losses[reference.uid], losses[candidate.uid]
                    gate.update(trial.evidence, self._gate, *both, examples.weight)
                    rules = self._monitor.rules
                    judged = rules.judged(predictions, reference.uid), rules.judged(predictions, candidate.uid)
                    self._guard(trial.evidence, *judged, examples)
                trial.score(predictions[candidate.uid], examples.y, examples.weight, known)

    def _credit(self, duel: Duel, predictions: Predictions) -> None:
        """Add a judged duel to the evidence of the comparison between its contestants, if both are still here."""
        for candidate, reference in self._roster.comparisons():
            if {candidate.uid, reference.uid} != {duel.first, duel.second}:
                continue
            trial = candidate.trial = candidate.trial or self._trial(candidate)
            lost = np.array([1.0 - duel.win if candidate.uid == duel.first else duel.win])
            gate.update(trial.evidence, self._gate, 1.0 - lost, lost, np.array([duel.weight], np.float32))
            sign, scores = (1.0 if candidate.uid == duel.first else -1.0), predictions.get(candidate.uid)
            expected = 0.5 + sign * (float(scores[0, 1]) - 0.5) if scores is not None else 0.5
            duels.update(trial.evidence, 1.0 - float(lost[0]), expected, sign * duel.longer)

    def _trial(self, candidate: Contestant) -> Trial:
        is_guarded = candidate is self._roster.champion  # a live one, which is compared with good
        names = _IN_TRIALS & self._monitor.metrics["champion"].keys()
        names |= {"histogram"} if self._monitor.task == "binary" else set()
        measured = metrics.start(self._monitor.task, self._monitor.classes, 2, names, own=self._monitor.own)
        evidence = gate.start(self._gate, guard=is_guarded) | (duels.start() if self._pairs else {})
        return Trial(evidence, measured)

    def _guard(self, evidence: Arrays, reference: Singles, candidate: Singles, examples: Examples) -> None:
        """Update the gate's evidence on the recall of the guarded classes, by scores or one-hot decisions."""
        for name, guarded in self._guards.items():
            of_class = examples.y == guarded
            if of_class.any():
                missed = [
                    metrics.losses("error", scores[of_class], examples.y[of_class]) for scores in (reference, candidate)
                ]
                gate.update_guard(evidence, self._gate, name, missed[0], missed[1], examples.weight[of_class])


def _examples(rows: Sequence[LabelledRow]) -> Examples:
    """Return labelled rows with their weights in scoring."""
    y, weight = np.array([row.y for row in rows]), np.array([row.weight for row in rows], np.float32)
    position = np.array([row.position for row in rows], np.int64)
    return Examples(stack([row.row for row in rows]), y, weight, position)
