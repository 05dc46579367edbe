"""Take /feedback and /learn: check each row as the loop will read it, and make a row of the log of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from everlearn.app.problems import problem
from everlearn.app.worker.requests import DecodedRows, encode
from everlearn.client.records import FeedbackReply, FeedbackRow, LearnReply, LearnRow, RowError
from everlearn.errors import BlobError, IdTaken, InputError
from everlearn.events import Log, Row, row
from everlearn.feedback import admission
from everlearn.feedback.admission import Admission
from everlearn.feedback.early_room import Ticket
from everlearn.model import refused
from everlearn.predict import new_id
from everlearn.records import Batch, Example, Feedback
from everlearn.schema import actions
from everlearn.serve.snapshot import Reader

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class AcceptedRows:
    """The rows of the log that a request writes, the errors of its other rows, and the id that each row is about."""

    rows: list[Row]
    errors: list[RowError]
    ids: list[str]
    tickets: Sequence[Ticket] = ()  # of feedback that comes before its prediction
    log: Log | None = None

    def reply(self, new: int) -> bytes:
        """Return the reply once the rows are in the log; `new` of them were not there before."""
        errors = tuple(self.errors)
        if self.tickets and self.log is not None:
            end = self.log.end()
            for ticket in self.tickets:
                ticket.until = end
        if self.rows[0][1] == "example":
            return encode(LearnReply(len(self.rows), tuple(self.ids), errors))
        return encode(FeedbackReply(len(self.rows), len(self.rows) - new, errors))


class FeedbackIntake:
    """Checks feedback and examples; `source` is the name of the token that a request carries ("": no token)."""

    def __init__(self, admission: Admission, reader: Reader) -> None:
        self._admission = admission
        self._reader = reader

    def feedback(self, rows: DecodedRows[FeedbackRow], source: str) -> AcceptedRows:
        """Return the feedback that can be used. Raises the error of the first row if no row can be used."""
        tickets: list[Ticket] = []
        accepted = _accepted(rows, lambda judged: self._feedback(judged, source, tickets))
        return replace(accepted, tickets=tickets, log=self._admission.log) if tickets else accepted

    def examples(self, rows: DecodedRows[LearnRow], source: str) -> AcceptedRows:
        """Return the examples that can be used. Raises as `feedback` does."""
        return _accepted(rows, lambda labelled: self._example(labelled, source))

    def _feedback(self, judged: FeedbackRow, token: str, tickets: list[Ticket]) -> Feedback:
        source = _source(token, judged.source)
        verdict = judged.verdict, judged.seconds, judged.why
        given = admission.feedback(
            self._admission, judged.id, judged.label, judged.reward, judged.chosen, judged.weight, source, *verdict
        )
        given = admission.with_handle(self._admission, given, judged.handle)
        if (ticket := admission.early_ticket(self._admission, given)) is not None:
            tickets.append(ticket)
        return given

    def _example(self, labelled: LearnRow, token: str) -> Example:
        return admission.example(
            self._admission,
            labelled.features,
            labelled.label,
            labelled.weight,
            labelled.id,
            _source(token, labelled.source),
            refused=self._refused,
            new_id=new_id,
        )

    def _refused(self, batch: Batch) -> Mapping[int, str]:
        """Return the rows that the champion cannot take; while nothing serves, the learner decides that."""
        reasons = actions.refused(self._admission.spec.schema, batch)
        try:
            return reasons | refused(self._reader.current().champion.model, batch)
        except BlobError:
            return reasons


def _accepted(rows: DecodedRows[R], check: Callable[[R], Feedback | Example]) -> AcceptedRows:
    at = time.time()
    errors = dict(rows.errors)
    good: list[Row] = []
    ids: list[str] = []
    named: dict[str, Example] = {}
    for index, given in rows.good.items():
        try:
            checked = check(given)
            if isinstance(checked, Example) and named.setdefault(checked.id, checked) != checked:
                raise IdTaken(f"the id {checked.id!r} names another example of this request; use another id")
            good.append(row(checked, at))
            ids.append(checked.id)
        except InputError as error:
            errors[index] = error
    if not good:
        raise errors[min(errors)]
    return AcceptedRows(good, [_row_error(index, errors[index]) for index in sorted(errors)], ids)


def _source(token: str, own: str) -> str:
    """Return the source of a label: the name of the token, and behind it the name that the request gives."""
    return f"{token}/{own}" if token and own else token or own


def _row_error(index: int, error: Exception) -> RowError:
    _, body = problem(error)
    return RowError(index, msgspec.json.decode(body)["detail"])
