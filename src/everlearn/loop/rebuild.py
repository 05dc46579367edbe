"""Learn a stretch of the log again, offline, with some of its events left out.

A model gets rid of labels that it should not have learned: it starts from arrays older than the first of them, and
learns again what came since, without them. The result equals the model of a loop in whose log they never were.

What a label means depends on the log before it: on waiting predictions, ranges of features, and shares of sources. So
a rebuild joins the log from its beginning, and learns only from where its model starts. It reads and encodes every
event up to the last one; it learns each row of its stretch once. With `limits.quarantine`, examples are judged by the
champion, which is then learned again from the beginning, too: that doubles the cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from everlearn import model as contract
from everlearn.errors import InputError
from everlearn.events import Log, scan
from everlearn.feedback.pending import ANSWER
from everlearn.learn.label_queue import LabelledRow
from everlearn.learn.limiter import Limiter
from everlearn.learn.teach import teach
from everlearn.loop import details
from everlearn.loop.join import Joiner, Skip
from everlearn.model import Model, stack
from everlearn.records import Batch, Decision, Event, Example, Floats, Label, Prediction, Preference, Reward, Singles
from everlearn.schema import Encoder
from everlearn.serve.isolation import IsolatedModel
from everlearn.serve.roster import Progress
from everlearn.serve.shadows import copy_row
from everlearn.spec import Spec

JOINED = ("prediction", "example", "label", "reward", "preference")  # kinds of events that are joined
_PAGE = 1024  # events encoded at a time, and rows learned at a time


def rebuild(
    model: Model,
    log: Log,
    encoder: Encoder,
    spec: Spec,
    after: int,
    upto: int,
    skip: Skip,
    ranges: Mapping[str, Any] | None = None,
) -> tuple[int, int]:
    """Let `model` learn the labels and examples at positions (after, upto] in log order; return (learned, left out).

    Left out is a label or example for which `skip(event)` is true, and a label whose prediction it is true for: all is
    as if it had never come. Late, missing and early labels, corrections and limits count as in the fold of that log.
    Extra weight after drift is not repeated. A label that no model can use is passed over. With `ranges` (see
    `limits.bounds`), features are clipped to these, and their ranges are not learned again.

    Raises ModelError if the model breaks the contract.

    >>> from tempfile import TemporaryDirectory
    >>> from everlearn import events
    >>> from everlearn.spec import Schema
    >>> spec = Spec(schema=Schema(label="y", task="regression", fields={"x": "numeric"}))
    >>> encoder = Encoder(spec.schema)
    >>> line = contract.build({"family": "linear"}, encoder.shape)
    >>> with TemporaryDirectory() as home, events.connect(f"{home}/log.sqlite") as log:
    ...     _ = log.append([Example(str(i), {"x": i % 7}, 2.0 * (i % 7), source="ab"[i % 2]) for i in range(1000)])
    ...     rebuild(line, log, encoder, spec, 100, 900, lambda event: event.payload.source == "b")
    (400, 400)
    """
    backlog, left_out = _Backlog(model), 0
    for event, rows in Rejoined(log, encoder, spec, skip, ranges).run(upto):
        if event.position <= after:
            continue
        if rows is None:
            left_out += not isinstance(event.payload, Prediction)
        else:
            backlog.add(rows)
    backlog.learn()
    return backlog.learned, left_out


def rejoin(
    log: Log, encoder: Encoder, spec: Spec, upto: int, skip: Skip, ranges: Mapping[str, Any] | None = None
) -> Rejoined:
    """Join the log up to position `upto` without the events for which `skip(event)` is true; no model learns.

    With `limits.quarantine` the champion that judges examples is learned again, and may raise ModelError.
    """
    again = Rejoined(log, encoder, spec, skip, ranges)
    for _ in again.run(upto):
        pass
    return again


def training_positions(log: Log) -> dict[str, Progress]:
    """Return, by version id, what the arrays of each version had learned when it was stored, as the log records it.

    A version that an erasure rebuilt has learned as far as the one that it replaced.
    """
    found: dict[str, Progress] = {}
    for event in scan(log, kinds=("decision",)):
        decision = event.payload
        if not isinstance(decision, Decision):
            continue
        found |= {new: found[old] for old, new in details.replaced(decision).items() if old in found}
        for version, learned in details.progress(decision).items():
            found.setdefault(version, learned)
    return found


class Rejoined:
    """The join of a log from its beginning, without some of its events: waiting predictions, counts and limits."""

    def __init__(
        self, log: Log, encoder: Encoder, spec: Spec, skip: Skip, ranges: Mapping[str, Any] | None = None
    ) -> None:
        self.limiter = Limiter(spec, encoder.shape, ranges)
        self.joiner = Joiner(spec, encoder, self.limiter, log, skip)
        self._log, self._encoder, self._spec, self._skip = log, encoder, spec, skip
        self._warm = _warm_until(log) if spec.warm_start else 0  # examples up to here were learned offline
        self._champion = _Backlog(self._first) if self.limiter.judges else None

    @cached_property
    def _first(self) -> Model:
        """The model that the loop began with: it refuses rows for all contestants."""
        return contract.build({"seed": self._spec.seed, **self._spec.model}, self._encoder.shape)

    def run(self, upto: int) -> Iterator[tuple[Event, list[LabelledRow] | None]]:
        """Yield each event that is joined, up to position `upto`, with the rows that it labels; None if left out."""
        events = scan(self._log, upto=upto, kinds=JOINED)
        while page := list(islice(events, _PAGE)):
            rows = self._encoded(page)
            for i, event in enumerate(page):
                if self._is_left_out(event):
                    yield event, None
                    continue
                labelled = self._join(event, rows.get(i))
                if self._champion is not None and (self._spec.mode == "live" or event.position <= self._warm):
                    self._champion.add(labelled)
                yield event, labelled

    def _is_left_out(self, event: Event) -> bool:
        """Return True for an event that counts as absent; feedback goes with its prediction."""
        if self._skip(event):
            return True
        payload = event.payload
        if not isinstance(payload, Label | Reward | Preference) or payload.id in self.joiner.pending:
            return False
        found = self._log.find(f"prediction:{payload.id}")
        return found is not None and self._skip(found)

    def _encoded(self, events: Sequence[Event]) -> dict[int, Batch]:
        """Encode the predictions and examples among events; return their rows by index, less those of no use."""
        found = [
            (i, event.payload) for i, event in enumerate(events) if isinstance(event.payload, Prediction | Example)
        ]
        if not found:
            return {}
        batch, problems = self._encoder.records([payload.features for _, payload in found])
        bad = {problem.row for problem in problems}
        examples = {row for row, (_, payload) in enumerate(found) if isinstance(payload, Example)}
        if examples:
            bad |= examples & contract.refused(self._first, batch).keys()
        return {i: copy_row(batch, row) for row, (i, _) in enumerate(found) if row not in bad}

    def _join(self, event: Event, row: Batch | None) -> list[LabelledRow]:
        """Join one event; `row` is the encoded row of a prediction or example, None if no model can use it."""
        joiner, payload, position = self.joiner, event.payload, event.position
        joiner.advance(event.time)
        if isinstance(payload, Example):
            return self._example(payload, position, row) if row is not None else []
        labelled: list[LabelledRow] = []
        if isinstance(payload, Label | Reward | Preference):
            labelled = joiner.judge(payload, position, self.limiter.clip)
        elif isinstance(payload, Prediction) and row is not None:
            answer = np.array([payload.proba or (float(payload.value),)], np.float32)
            row, predictions = self.limiter.bound(row), {ANSWER: answer}
            labelled = joiner.predict(payload, position, row, predictions, self.limiter.clip)
        return [*labelled, *joiner.overdue(position)]

    def _example(self, example: Example, position: int, row: Batch) -> list[LabelledRow]:
        """Admit a row that comes with its label; a row of the warm start is learned without the limits on labels."""
        if not example.weight > 0.0:
            return []
        try:
            y = self._encoder.label(example.label)
        except InputError:
            return []
        row, weight = self.limiter.bound(row), np.float32(example.weight)
        if position <= self._warm:
            learned = float(np.minimum(weight, np.float32(self._spec.limits.weight)))
            factor = self.limiter.class_weights.one(y, learned)
            return [LabelledRow(row, y, learned, learned, position, factor=factor)]
        answer = self._champion.predict(row) if self._champion is not None else None
        weights = self.limiter.admit(y, float(weight), example.source, position, answer)
        if weights is None:
            return []
        return [LabelledRow(row, y, *weights, position, factor=self.limiter.class_weights.one(y, weights.learned))]


class _Backlog:
    """A model, and the labelled rows that it has yet to learn."""

    def __init__(self, model: Model) -> None:
        self.learned = 0
        self._model = IsolatedModel(model)
        self._rows: list[LabelledRow] = []

    def add(self, rows: Sequence[LabelledRow]) -> None:
        """Add rows in order; learn when there are enough of them."""
        self._rows += rows
        if len(self._rows) >= _PAGE:
            self.learn()

    def learn(self) -> None:
        """Learn all rows that were added."""
        rows, self._rows = self._rows, []
        if rows:
            y: Floats = np.array([row.y for row in rows])
            weight: Singles = np.array([row.learned for row in rows], np.float32)
            weight *= np.array([row.factor for row in rows], np.float32)
            teach([self._model], stack([row.row for row in rows]), y, weight, [row.arrival for row in rows])
            self.learned += len(rows)

    def predict(self, batch: Batch) -> Singles:
        """Return scores, float32 (n, k), as of all rows that were added."""
        self.learn()
        return self._model.predict(batch)


def _warm_until(log: Log) -> int:
    """Return the position up to which examples belong to the warm start."""
    for event in scan(log, kinds=("decision",)):
        if isinstance(event.payload, Decision) and event.payload.action == "start":
            started = details.progress(event.payload)
            return started[event.payload.version].log if started else 0
    return 0
