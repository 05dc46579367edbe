"""Replay files with late labels: each row is a prediction in the log, and its label comes when it would have come.

`LabelSchedule` says when. The ids of the rows are made from the stream's fingerprint and the row, so that a replay that
was interrupted, or whose file has grown, goes on without doubling anything: it reads from the start, makes the same
groups, and leaves out what the log holds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from everlearn.errors import ConfigError, InputError
from everlearn.events import Log
from everlearn.feedback.admission import Admission
from everlearn.loop.journal import Journal
from everlearn.loop.label_schedule import LabelSchedule
from everlearn.predict import Instance, alone, answer, encoded
from everlearn.records import Example, Label, Payload, Prediction, Rejected, Scalar
from everlearn.spec import Schema
from everlearn.stream import Stream

_READ = 4096  # rows read at a time
_SHOWN = 512  # rows between two reports of progress


@dataclass(frozen=True, slots=True)
class LabelDelay:
    """When labels come: `rows` rows later, or at the time in the column `column`, by the times of rows in `clock`."""

    rows: int = 0
    column: str = ""
    clock: str = ""

    @property
    def times(self) -> tuple[str, ...]:
        """The columns of times."""
        return tuple(dict.fromkeys((self.column, self.clock))) if self.column else ()


def label_delay(schema: Schema, delay: int | None, label_time: str, row_time: str) -> LabelDelay | None:
    """Return when labels come, from the arguments of `Loop.run`; None where they come with their rows.

    Raises ConfigError for arguments that contradict each other or the schema.
    """
    if delay is None and not label_time:
        if row_time:
            raise ConfigError(f"row_time: got {row_time!r} without label_time; name the column of the labels' times")
        return None
    if schema.task == "preference":
        raise ConfigError("delay and label_time: got a schema of preferences; expected rows with fields and a label")
    if schema.task == "bandit":
        raise ConfigError(
            "delay and label_time: got them for a bandit, whose actions were taken already in the rows of a file; "
            "expected neither. Leave them out, or call loop.predict, which chooses actions, and loop.feedback later"
        )
    if delay is not None and (label_time or row_time):
        raise ConfigError("delay: got it beside label_time or row_time; give either a number of rows, or the columns")
    if delay is not None:
        if delay < 0:
            raise ConfigError(f"delay: got {delay}; expected a number of rows from 0")
        return LabelDelay(rows=delay)
    if label_time in (*schema.fields, schema.label):
        what = "the label" if label_time == schema.label else "a field of the model"
        raise ConfigError(
            f"label_time: got {label_time!r}, which is {what}; expected a column that the model does not see, since "
            "the time of a label says something about it. Remove it from [schema.fields]; a loop that has started "
            "needs a new home for that"
        )
    clock = row_time or next((name for name, kind in schema.fields.items() if kind == "datetime"), "")
    if not clock:
        raise ConfigError(
            "label_time: the schema has no field of the kind datetime, so rows have no times; name the column of their "
            "times as row_time (--row-time)"
        )
    return LabelDelay(column=label_time, clock=clock)


class _Row(NamedTuple):
    """A row on its way to its label; `at` is its time in seconds, where labels come by the clock."""

    id: str
    features: dict[str, object]
    label: Scalar
    at: float
    stream: str
    person: str


class LateRows:
    """One replay of the parts of a stream, in order, through the log of a loop."""

    def __init__(self, journal: Journal, given: Admission, delay: LabelDelay) -> None:
        """Replay with this delay; the loop's `feedback.window` bounds groups where labels come by the clock."""
        self._journal, self._given, self._delay = journal, given, delay
        window = given.spec.feedback.window if delay.column else 0.0
        self._schedule = LabelSchedule[_Row](window if window < math.inf else 0.0)
        self._times = delay.times
        self._parts: dict[str, Stream] = {}  # names to streams
        self._number, self._now = 0, -math.inf  # the rows so far, and the latest of their times
        self._new: set[str] = set()  # rows predicted by this replay that wait for their labels
        self._unsure: list[tuple[float, _Row]] = []  # labels that an interrupted replay may not have given
        self._before = journal.log.count("prediction")  # with 0, no row can be in the log already
        self.taken = 0  # rows that this replay added to the log

    def steps(self, parts: Sequence[Stream]) -> Iterator[int]:
        """Take all rows, and at the end the labels that remain; yield the rows taken so far now and then.

        Raises InputError for a column that a part does not have, and for a file that was changed where it had been
        read already.
        """
        self._parts = {part.name: part for part in parts}
        for part in parts:
            if missing := [name for name in self._times if name not in part.names]:
                raise InputError(
                    f"{part.name} has no column {', '.join(map(repr, missing))}; it has {', '.join(part.names)}. "
                    "Name the columns of times as label_time and row_time"
                )
        for part in parts:
            yield from self._read(part)
        self._close(math.inf)
        self._give([])
        yield self.taken

    def _read(self, part: Stream) -> Iterator[int]:
        log = self._journal.log
        base = 0 if part.replayable else sum(map(log.count, ("example", "prediction", "rejected")))
        warm: list[Example] = []
        shown = self.taken
        for chunk in part.records(self._journal.intake.before(part), _READ, self._times, self._given.spec.subject):
            at = chunk.times[self._delay.clock].tolist() if self._times else [0.0] * len(chunk.labels)
            due = chunk.times[self._delay.column].tolist() if self._times else at
            rows = zip(chunk.positions, chunk.features, chunk.labels, at, due, chunk.persons, strict=True)
            for position, features, label, when, until, person in rows:
                row = _Row(f"{part.fingerprint}:{base + position}", features, label, when, part.name, person)
                if self._warming(len(warm)):
                    warm.append(self._example(row))
                    continue
                self._learn(warm, part)
                self._add(row, until)
                if self.taken >= shown + _SHOWN:
                    yield (shown := self.taken)
            self._learn(warm, part)
            self._reject(chunk.rejected, base, part)

    def _warming(self, waiting: int) -> bool:
        """Return True while rows belong to the warm start, which comes with its labels."""
        fold = self._journal.fold
        return not fold.started and fold.warm_up.learned + waiting < fold.warm_up.rows

    def _example(self, row: _Row) -> Example:
        self._now = max(self._now, row.at) if row.at == row.at else self._now
        return Example(row.id, row.features, row.label, subject=row.person)

    def _learn(self, warm: list[Example], part: Stream) -> None:
        """Let the loop learn the rows of the warm start."""
        if warm:
            self._journal.take(warm, [self._now] * len(warm) if self._timed() else ())
            self._count(part, len(warm))
            warm.clear()

    def _count(self, part: Stream, rows: int) -> None:
        """Count rows of a file that are in the log now, and the names of its columns."""
        self.taken += rows
        if rows:
            self._journal.intake.count_names(part, self._times, rows)

    def _timed(self) -> bool:
        return bool(self._delay.column) and self._now > -math.inf

    def _reject(self, rejected: Sequence[Rejected], base: int, part: Stream) -> None:
        """Log rejected rows, each once."""
        aside: list[Payload] = [Rejected(one.source, one.line, one.reason, one.raw, one.at + base) for one in rejected]
        end = self._journal.log.end()
        self._count(part, sum(position > end for position in self._journal.take(aside)))

    def _add(self, row: _Row, until: float) -> None:
        """Put a row into the schedule, after what comes before it."""
        self._number += 1
        if self._delay.column:
            self._now = max(self._now, row.at) if row.at == row.at else self._now
            at = came = self._now
            due = until if until == until else math.inf
        else:
            at, came, due = self._number, self._number - 1, self._number + self._delay.rows
        if self._schedule.closes(at):
            self._close(came)
        self._schedule.add(row._replace(at=at), at, due)

    def _close(self, at: float) -> None:
        """Predict the group, and give the labels that have come by `at`."""
        group, came = self._schedule.close(at)
        fresh = self._unknown(group)
        if fresh:
            self._give([])
            self._predict(fresh)
        elif group:
            self._unsure.clear()  # an earlier replay gave these labels before it predicted this group
        sure = [(due, row) for due, row in came if row.id in self._new]
        if self._before:
            self._unsure += [(due, row) for due, row in came if row.id not in self._new and self._known(row)]
        if fresh or sure:
            self._give(sure)

    def _give(self, sure: list[tuple[float, _Row]]) -> None:
        """Give labels, behind those that an earlier replay may not have given."""
        came, self._unsure = [*self._unsure, *sure], []
        labels = [Label(row.id, row.label) for _, row in came]
        self._journal.take(labels, [due for due, _ in came] if self._delay.column else ())
        self._new.difference_update(row.id for _, row in came)

    def _unknown(self, group: list[_Row]) -> list[_Row]:
        """Return the rows of a group that are not in the log."""
        if not self._before or not group:
            return group
        if group[0].stream == group[-1].stream and self._known(group[-1]):  # rows of a stream are taken in order
            return []
        return [row for row in group if not self._known(row)]

    def _known(self, row: _Row) -> bool:
        """Return True if the log holds the prediction of a row. Raises InputError if it is that of another record."""
        found = self._journal.log.find(f"prediction:{row.id}")
        if found is not None and isinstance(found.payload, Prediction) and found.payload.features != row.features:
            raise InputError(
                f"{row.stream} begins like a file that was taken before, but its row {row.id.rpartition(':')[2]} is "
                "not what it was; a file may grow, not change: give this one another name"
            )
        return found is not None

    def _predict(self, rows: Sequence[_Row]) -> None:
        """Predict rows with the champion of this moment."""
        journal, fields = self._journal, self._given.fields
        champion, clip = journal.ready(), journal.fold.clip
        refused = journal.fold.refused(encoded(fields, clip, [row.features for row in rows]))
        serving = alone(champion, journal.seen, clip, self._given.spec)
        usable = [row for number, row in enumerate(rows) if number not in refused]
        instances = [Instance(row.id, row.features, row.person) for row in usable]
        answers = answer(serving, fields, instances)
        journal.take(answers, [row.at for row in usable] if self._timed() else ())
        places = [int(rows[number].id.rpartition(":")[2]) for number in refused]
        aside = zip(refused, refused.values(), places, strict=True)
        journal.take([Rejected(rows[number].stream, place, why, "", place) for number, why, place in aside])
        self._new.update(row.id for row in usable)
        for name, taken in Counter(row.stream for row in rows).items():
            self._count(self._parts[name], taken)


def check_taken_late(log: Log, part: Stream, before: int) -> None:
    """Raise InputError if the next row of a stream, after the first `before` ones, was taken with a late label."""
    if not part.replayable or not log.count("prediction"):
        return
    chunk = next((chunk for chunk in part.records(before, _READ) if chunk.positions), None)
    if chunk is not None and log.find(f"prediction:{part.fingerprint}:{chunk.positions[0]}") is not None:
        raise InputError(
            f"{part.name}: its rows were taken with late labels before; give the same delay or label_time again, or "
            "use another home"
        )
