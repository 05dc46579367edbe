"""Learn a stretch of the log again, offline, with some of its events left out.

A model gets rid of labels that it should not have learned: it starts from arrays older than the first of them, and
learns again what came since, without them. The result equals the model of a loop in whose log they never were.

What a label means depends on the log before it: on waiting predictions, ranges of features, and shares of sources. So
a rebuild joins the log from its beginning, and learns only from where its model starts. It reads and encodes every
event up to the last one; it learns each row of its stretch once. With `limits.quarantine`, examples are judged by the
champion, which is then learned again from the beginning, too: that doubles the cost. It is the model that learned from
the start; for the time in which a frozen copy of it served, that copy. Models that other decisions seated are not
learned again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from everlearn import config
from everlearn import model as contract
from everlearn.errors import InputError
from everlearn.events import Log, scan
from everlearn.feedback.correction import Correction
from everlearn.feedback.pending import ANSWER
from everlearn.learn.label_queue import LabelledRow
from everlearn.learn.limiter import Limiter
from everlearn.learn.teach import gathered, teach
from everlearn.loop import details
from everlearn.loop.join import Joiner, Skip
from everlearn.model import Model, stack
from everlearn.records import Batch, Decision, Event, Example, Floats, Label, Prediction, Preference, Reward, Singles
from everlearn.schema import Reading, actions, features
from everlearn.serve.contestant import Progress
from everlearn.serve.isolation import IsolatedModel
from everlearn.serve.shadows import copy_row
from everlearn.spec import Spec

JOINED = ("prediction", "example", "label", "reward", "preference")  # kinds of events that are joined
REBUILT, JUDGE = 1, 2  # uids of the model that is rebuilt, and of the champion that judges examples, in traces
_PAGE = 1024  # events encoded at a time, and rows learned at a time


def rebuild(
    model: Model,
    log: Log,
    encoder: Reading,
    spec: Spec,
    after: int,
    upto: int,
    skip: Skip,
    ranges: Mapping[str, Any] | None = None,
    waiting: dict[str, Singles] | None = None,
    widths: Sequence[tuple[int, int]] | None = None,
    alone: bool = False,
    removed: int = 0,
) -> tuple[int, int]:
    """Let `model` learn the labels and examples at positions (after, upto] in log order; return (learned, left out).

    Left out is a label or example for which `skip(event)` is true, and a label whose prediction it is true for: all is
    as if it had never come. Late, missing and early labels, corrections and limits count as in the fold of that log.
    Extra weight after drift is not repeated. A label that no model can use is passed over. With `ranges` (see
    `limits.bounds`), features are clipped to these, and their ranges are not learned again.

    A model with a trace predicts again at each prediction, and learns from the trace that it makes there. Traces of
    predictions up to `after` are those of an untrained model that learns everything up to there, if it then equals
    `model`; else there are none. `waiting` is filled with the traces of the predictions that still wait, by id.
    `widths` are the steps of the loop's waiting predictions (see `PendingPredictions`); None: those of this model.
    With `alone`, limits and corrections know nothing from before `after`, as in release 0.1.0. Events up to position
    `removed` count as absent and are not read, since a broker has removed them.

    Raises ModelError if the model breaks the contract.

    >>> from tempfile import TemporaryDirectory
    >>> from everlearn import events
    >>> from everlearn.schema import Encoder
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
    joined = Rejoined(log, encoder, spec, skip, ranges, widths, removed)
    _lead(joined, model, min(after, upto))
    if alone:
        joined.begin_again(model)
    joined.traces_of(backlog)
    for event, rows in joined.run(upto, after):
        if rows is None:
            left_out += not isinstance(event.payload, Prediction)
        else:
            backlog.add(rows)
    backlog.learn()
    if waiting is not None:
        waiting |= joined.joiner.pending.traces(REBUILT)
    return backlog.learned, left_out


def _lead(joined: Rejoined, model: Model, upto: int) -> None:
    """Join the log up to where `model` starts, with the traces that it made until there, if they can be known.

    A model that has learned nothing by then is new there, and has made none.
    """
    lead = _Backlog(contract.build(model.spec)) if contract.traced(model) and upto else None
    lead = None if lead is not None and lead.equals(model) else lead
    joined.traces_of(lead)
    for _, rows in joined.run(upto):
        if lead is not None:
            lead.add(rows or ())
    if lead is not None and not lead.equals(model):
        joined.joiner.pending.retrace({JUDGE: joined.joiner.pending.traces(JUDGE)})


def rejoin(
    log: Log,
    encoder: Reading,
    spec: Spec,
    upto: int,
    skip: Skip,
    ranges: Mapping[str, Any] | None = None,
    widths: Sequence[tuple[int, int]] | None = None,
) -> Rejoined:
    """Join the log up to position `upto` without the events for which `skip(event)` is true; no model learns.

    With `limits.quarantine` the champion that judges examples is learned again, and may raise ModelError. `widths` are
    those of `rebuild`.
    """
    again = Rejoined(log, encoder, spec, skip, ranges, widths)
    for _ in again.run(upto):
        pass
    return again


def training_positions(log: Log) -> dict[str, Progress]:
    """Return, by version id, what the arrays of each version had learned when it was stored, as the log records it.

    A version that an erasure rebuilt has learned as far as the one that it replaced, unless the erasure says otherwise.
    """
    found: dict[str, Progress] = {}
    for event in scan(log, kinds=("decision",)):
        decision = event.payload
        if not isinstance(decision, Decision):
            continue
        grown = details.progress(decision)
        found |= {new: grown.get(new, found[old]) for old, new in details.replaced(decision).items() if old in found}
        for version, learned in grown.items():
            found.setdefault(version, learned)
    return found


class Rejoined:
    """The join of a log from its beginning, without some of its events: waiting predictions, counts and limits."""

    def __init__(
        self,
        log: Log,
        encoder: Reading,
        spec: Spec,
        skip: Skip,
        ranges: Mapping[str, Any] | None = None,
        widths: Sequence[tuple[int, int]] | None = None,
        removed: int = 0,
    ) -> None:
        self.limiter = Limiter(spec, encoder.shape, ranges)
        self.joiner = Joiner(spec, encoder, self.limiter, log, skip)
        self._log, self._encoder, self._spec, self._skip = log, encoder, spec, skip
        self._warm = _warm_until(log) if spec.warm_start else 0  # examples up to here were learned offline
        self._champion = _Judge(self._first, _frozen(log, spec, self._warm > 0)) if self.limiter.judges else None
        self._widths, self._ranges, self._removed = widths, ranges, removed
        self._pauses = pauses(log)
        self._traced: list[_Backlog] = []
        self.traces_of(None)

    def traces_of(self, backlog: _Backlog | None) -> None:
        """Let the model of `backlog` say, at each prediction from now on, what its trace is."""
        judge = self._champion.learner if self._champion is not None else None
        self._traced = [each for each in (backlog, judge) if each is not None and each.trace]

    def begin_again(self, model: Model) -> None:
        """Forget what limits and corrections know so far; from now on a copy of `model` judges examples."""
        self.limiter.arrays = Limiter(self._spec, self._encoder.shape, self._ranges).arrays
        if self.joiner.correction is not None:
            self.joiner.correction = Correction(self._spec.feedback, self._spec.schema.task)
        if self._champion is not None:
            self._champion = _Judge(contract.copy(model), [(0, np.inf)])

    @cached_property
    def _first(self) -> Model:
        """The model that the loop began with: it refuses rows for all contestants."""
        return contract.build({"seed": self._spec.seed, **self._spec.model}, self._encoder.shape)

    def run(self, upto: int, after: int = 0) -> Iterator[tuple[Event, list[LabelledRow] | None]]:
        """Join the events at positions (after, upto], once those up to `after` are joined.

        Yields each event with the rows that it labels; None if it is left out.
        """
        events = scan(self._log, max(after, self._removed), JOINED, upto)
        while page := list(islice(events, _PAGE)):
            rows = self._encoded(page)
            for i, event in enumerate(page):
                if self._is_left_out(event):
                    yield event, None
                    continue
                while self._pauses and self._pauses[0][0] < event.position:
                    self.limiter.paused = self._pauses.pop(0)[1]
                if self._champion is not None:
                    self._champion.reach(event.position)
                labelled = self._join(event, rows.get(i))
                if self._champion is not None:
                    self._champion.add(labelled)
                yield event, labelled

    def _is_left_out(self, event: Event) -> bool:
        """Return True for an event that counts as absent; feedback goes with its prediction."""
        if self._skip(event):
            return True
        payload = event.payload
        if not isinstance(payload, Label | Reward | Preference) or payload.id in self.joiner.pending:
            return False
        found = None if self._removed else self._log.find(f"prediction:{payload.id}")
        return found is not None and self._skip(found)

    def _encoded(self, events: Sequence[Event]) -> dict[int, Batch]:
        """Encode the predictions and examples among events; return their rows by index, less those of no use."""
        found = [
            (i, event.payload) for i, event in enumerate(events) if isinstance(event.payload, Prediction | Example)
        ]
        if not found:
            return {}
        batch, bad = self._encoder.sift([payload for _, payload in found])
        examples = {row for row, (_, payload) in enumerate(found) if isinstance(payload, Example)}
        if examples:
            refused = actions.refused(self._spec.schema, batch) | contract.refused(self._first, batch)
            bad |= examples & refused.keys()
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
            row, predictions, traces = self.limiter.bound(row), dict[int, Singles](), None
            if not self._encoder.late:
                predictions[ANSWER] = actions.answered(self._spec.schema, payload)
                traces = {backlog.uid: backlog.traces(row) for backlog in self._traced} or None
            labelled = joiner.predict(
                payload, position, row, predictions, self.limiter.clip, traces, self._width(position)
            )
        return [*labelled, *joiner.overdue(position)]

    def _width(self, position: int) -> int | None:
        """Return the width of the widest trace up to a position; None if it is that of the models here."""
        if self._widths is None:
            return None
        return max((width for at, width in self._widths if at <= position), default=0)

    def _example(self, example: Example, position: int, row: Batch) -> list[LabelledRow]:
        """Admit a row that comes with its label; a row of the warm start is learned without the limits on labels."""
        if not example.weight > 0.0:
            return []
        try:
            y = features(self._encoder).label(example.label)
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
    """A model, and the labelled rows that it has yet to learn; its traces have this `uid` in them."""

    def __init__(self, model: Model, uid: int = REBUILT) -> None:
        self.uid, self.learned = uid, 0
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
            traces = gathered([row.traces for row in rows], self.uid, self.trace)
            batch, arrivals = stack([row.row for row in rows]), [row.arrival for row in rows]
            teach([self._model], batch, y, weight, arrivals, [traces])
            self.learned += len(rows)

    def predict(self, batch: Batch) -> Singles:
        """Return scores, float32 (n, k), as of all rows that were added."""
        self.learn()
        return self._model.predict(batch)

    @property
    def trace(self) -> int:
        """The number of values in the model's trace; 0 if it has none."""
        return self._model.trace

    def traces(self, batch: Batch) -> Singles:
        """Return traces, float32 (n, trace), as of all rows that were added; the model must have one."""
        self.learn()
        _, trace = self._model.predict_traced(batch)
        assert trace is not None
        return trace

    def equals(self, model: Model) -> bool:
        """Return True if the model, after all rows that were added, has the bytes of another."""
        self.learn()
        mine, other = self._model.model.arrays, model.arrays
        same = not contract.compare(mine, other)
        return same and all(array.tobytes() == other[name].tobytes() for name, array in mine.items())


class _Judge:
    """The champion that judges examples: a model that learns, or a frozen copy of it while that served.

    `frozen` are the spans [first, last) of positions at which a copy as of the position before them serves.
    """

    def __init__(self, model: Model, frozen: Sequence[tuple[int, float]]) -> None:
        self.learner = _Backlog(model, JUDGE)
        self._copy: IsolatedModel | None = None
        self._model, self._frozen = model, list(frozen)

    def reach(self, position: int) -> None:
        """Note that the event at `position` comes next."""
        if self._frozen and position >= self._frozen[0][1]:
            self._frozen.pop(0)
            self._copy = None
        if self._frozen and self._copy is None and position >= self._frozen[0][0]:
            self.learner.learn()
            self._copy = IsolatedModel(contract.copy(self._model))

    def add(self, rows: Sequence[LabelledRow]) -> None:
        """Add rows in order."""
        self.learner.add(rows)

    def predict(self, batch: Batch) -> Singles:
        """Return scores, float32 (n, k), of what served."""
        return self._copy.predict(batch) if self._copy is not None else self.learner.predict(batch)


def _frozen(log: Log, spec: Spec, warmed: bool) -> list[tuple[int, float]]:
    """Return the spans of positions at which a gated loop served a frozen copy of the model that learned.

    It begins with one if it was `warmed`, and where only snapshots may serve.
    """
    settings, spans = spec, list[tuple[int, float]]()
    for event in scan(log, kinds=("decision",)):
        made = event.payload
        if not isinstance(made, Decision):
            continue
        if (held := details.full_spec(made)) is not None:  # a start, or a change of settings
            settings = config.read_stored(held, "the log")
        if made.alias != "champion":
            continue
        snapshots = settings.gate.promote == "snapshot"
        if settings.mode == "live":
            if spans and spans[-1][1] == np.inf:
                spans[-1] = spans[-1][0], made.at + 1
            continue
        copied = made.by == "loop" and (made.action == "promote" or snapshots or warmed)
        seated = made.by == "gate" and not snapshots and bool(details.progress(made))
        if spans and spans[-1][1] == np.inf and (copied or seated):
            spans[-1] = spans[-1][0], made.at + 1
        if copied:
            spans.append((made.at + 1, np.inf))
    return spans


def pauses(log: Log) -> list[tuple[int, bool]]:
    """Return the positions at which learning was paused (True) or went on (False), in order."""
    found: list[tuple[int, bool]] = []
    for event in scan(log, kinds=("decision",)):
        if isinstance(event.payload, Decision) and event.payload.action == "order":
            ask = event.payload.detail.get("ask")
            found += [(event.position, ask == "pause")] if ask in ("pause", "resume") else []
    return found


def _warm_until(log: Log) -> int:
    """Return the position up to which examples belong to the warm start."""
    for event in scan(log, kinds=("decision",)):
        if isinstance(event.payload, Decision) and event.payload.action == "start":
            started = details.progress(event.payload)
            return started[event.payload.version].log if started else 0
    return 0
