"""What /feedback and /learn bring: each row is checked as the loop will read it, and becomes a row of the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from everlearn.app.problems import Refused, problem
from everlearn.app.worker.requests import Fields, Rows, encode
from everlearn.client.records import FeedbackReply, FeedbackRow, LearnReply, LearnRow, RowError
from everlearn.errors import BlobError, InputError
from everlearn.events import Log, Row, row
from everlearn.feedback.admission import checked_weight, judgement, target, unknown
from everlearn.model import refused
from everlearn.predict import new_id
from everlearn.records import Batch, Example, Feedback, Prediction
from everlearn.schema import Encoder
from everlearn.serve.snapshot import Reader
from everlearn.spec import Spec

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class AcceptedRows:
    """What a request has to write, and what to reply once that is written.

    `ids` say whom each row is about.
    """

    rows: list[Row]
    errors: list[RowError]
    ids: list[str]

    def reply(self, new: int) -> bytes:
        """What to tell of rows that are in the log now, so many of them for the first time."""
        errors = tuple(self.errors)
        if self.rows[0][1] == "example":
            return encode(LearnReply(len(self.rows), tuple(self.ids), errors))
        return encode(FeedbackReply(len(self.rows), len(self.rows) - new, errors))


class Labels:
    """Checks what is told about records; `source` is who tells it, as its token says ("": anyone)."""

    def __init__(self, spec: Spec, encoder: Encoder, log: Log, reader: Reader) -> None:
        self._task = spec.schema.task
        self._early = spec.feedback.early > 0
        self._fields = Fields(spec)
        self._encoder = encoder
        self._log = log
        self._reader = reader

    def feedback(self, rows: Rows[FeedbackRow], source: str) -> AcceptedRows:
        """The judgements that can be used. Raises what is wrong with a single one, or with the first if all are."""
        return self._taken(rows, lambda one: self._judged(one, source))

    def examples(self, rows: Rows[LearnRow], source: str) -> AcceptedRows:
        """The examples that can be used. Raises as `feedback` does."""
        return self._taken(rows, lambda one: self._example(one, source))

    def _taken(self, rows: Rows[R], payload: Callable[[R], Feedback | Example]) -> AcceptedRows:
        at = time.time()
        errors = dict(rows.errors)
        good: list[Row] = []
        ids: list[str] = []
        named: dict[str, Example] = {}
        for index, one in rows.good.items():
            try:
                checked = payload(one)
                if isinstance(checked, Example) and named.setdefault(checked.id, checked) != checked:
                    raise _twice(checked.id)
                good.append(row(checked, at))
                ids.append(checked.id)
            except (InputError, Refused) as error:
                errors[index] = error
        if not good:
            raise errors[min(errors)]
        return AcceptedRows(good, [_told(index, errors[index]) for index in sorted(errors)], ids)

    def _judged(self, one: FeedbackRow, source: str) -> Feedback:
        weight = checked_weight(one.weight)
        payload = judgement(one.id, one.label, one.reward, one.chosen, weight, _source(source, one.source))
        target(payload, self._task, self._encoder.label)
        if not self._early:
            found = self._log.find(f"prediction:{one.id}")
            if found is None or not isinstance(found.payload, Prediction):
                raise unknown(one.id)
        return payload

    def _example(self, one: LearnRow, source: str) -> Example:
        record = self._fields.held(one.features)
        row = self._encoder.record(record)
        self._encoder.label(one.label)
        self._check(row)
        id, weight = one.id or new_id(), checked_weight(one.weight)
        example = Example(
            id, record, one.label, weight, _source(source, one.source), self._fields.subject(one.features)
        )
        if one.id is not None and (found := self._log.find(f"example:{id}")) is not None and found.payload != example:
            raise Refused(409, "", f"the id {id!r} names another example, which was sent before", {"where": "id"})
        return example

    def _check(self, row: Batch) -> None:
        """Refuse a row that the champion cannot take; where nothing serves nobody is asked, and the learner sees."""
        try:
            champion = self._reader.current().champion
        except BlobError:
            return
        for why in refused(champion.model, row).values():
            raise InputError(why)


def _source(token: str, own: str) -> str:
    """Who says so: the token's name, and within it the name that the request gives."""
    return f"{token}/{own}" if token and own else token or own


def _twice(id: str) -> Refused:
    members = {"where": "id", "fix": "use another id"}
    return Refused(409, "", f"the id {id!r} names another example of this request", members)


def _told(index: int, error: Exception) -> RowError:
    _, body = problem(error)
    return RowError(index, msgspec.json.decode(body)["detail"])
