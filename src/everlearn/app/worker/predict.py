"""Answer /predict: the requests of one group are answered together, by one call of each model.

The answers come from `everlearn.predict`; this module adds ids and replies. If a group fails, its requests are answered
one by one, so that only the request at fault fails.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from everlearn.app.worker.requests import DecodedRecords, encode
from everlearn.app.worker.serving import CurrentModels
from everlearn.client.records import Answer, Answers, RowAnswer
from everlearn.events import KINDS, EncryptingLog, Row
from everlearn.families import explain
from everlearn.feedback.admission import Admission, features, subject
from everlearn.predict import Instance, Serving, answer, encoded, given_before, interval, new_ids
from everlearn.records import Batch, Prediction
from everlearn.schema import Encoder

_KIND = KINDS[Prediction]


class Answered(Struct, frozen=True, gc=False):
    """The rows of the log that a request writes, and its reply once they are written.

    Where the log encrypts, the reply has the handles of the keys of the `subjects`, which are there by then.
    """

    rows: list[Row]
    message: Answer | Answers | bytes
    subjects: tuple[str, ...] = ()
    keys: EncryptingLog | None = None

    def reply(self, new: int) -> bytes:
        """Return the reply. It does not depend on how many of the rows are new."""
        message = self.message
        if isinstance(message, bytes) or self.keys is None:
            return message if isinstance(message, bytes) else encode(message)
        handles = [self.keys.handle(subject) for subject in self.subjects]
        if isinstance(message, Answer):
            return encode(replace(message, handle=handles[0]))
        rows = [replace(row, handle=handle) for row, handle in zip(message.predictions, handles, strict=True)]
        return encode(replace(message, predictions=rows))


class BatchPredictor:
    """Answers groups of requests with the current models."""

    def __init__(self, admission: Admission, current: CurrentModels) -> None:
        self._admission = admission
        self._current = current
        self._keys = admission.log if isinstance(admission.log, EncryptingLog) else None
        self.fields = tuple(admission.spec.schema.fields)

    def answer(self, requests: Sequence[DecodedRecords]) -> list[Answered | Exception]:
        """Return the outcome of each request: its rows and its reply, or the error that it is refused with."""
        try:
            return self._answered(requests)
        except Exception as error:
            if len(requests) == 1:
                return [error]
        return [outcome for request in requests for outcome in self.answer([request])]

    def _answered(self, requests: Sequence[DecodedRecords]) -> list[Answered | Exception]:
        serving, staleness = self._current.get()
        at, encoder = time.time(), self._admission.fields
        stale = staleness if math.isfinite(staleness) else None
        if (whole := self._whole(requests, encoder)) is not None:
            instances, batch = whole
            return [_outcome(given, at, stale) for given in answer(serving, encoder, instances, batch)]
        ids = iter(new_ids(sum(len(request.records) for request in requests)))
        groups = [self._instances(request, ids, encoder) for request in requests]
        fresh = [instance for instances in groups for instance in instances if instance.before is None]
        answers = iter(answer(serving, encoder, fresh))
        outcomes: list[Answered | Exception] = []
        for request, instances in zip(requests, groups, strict=True):
            if request.single and not request.explain and not request.again:
                given_now = next(answers)
                outcomes.append(_outcome(given_now, at, stale, self._propensity(given_now), self._keys))
                continue
            given = [instance.before or next(answers) for instance in instances]
            rows = [_row(new, at) for new, instance in zip(given, instances, strict=True) if instance.before is None]
            subjects = tuple(one.subject for one in given)
            reply = self._reply(request, given, serving, stale)
            outcomes.append(Answered(rows, reply if self._keys is not None else encode(reply), subjects, self._keys))
        return outcomes

    def _whole(self, requests: Sequence[DecodedRecords], encoder: Encoder) -> tuple[list[Instance], Batch] | None:
        """Return the records of a group and their rows, if each request is a single record of plain numbers.

        Such records are kept as they came, so that nothing of them is counted or dropped, and nothing is looked up.
        """
        records = [one.records[0] for one in requests if one.single and not one.explain and not one.again]
        if len(records) < len(requests) or self._admission.spec.subject:
            return None
        batch = encoder.whole_numbers(records)
        if batch is None:
            return None
        ids = new_ids(len(records))
        return [Instance(one.ids[0] or id, one.records[0]) for one, id in zip(requests, ids, strict=True)], batch

    def _instances(self, request: DecodedRecords, ids: Iterator[str], encoder: Encoder) -> list[Instance]:
        """Return the records of a request with their ids.

        Most ids of a client are new, so that the commit finds the others. Only a request that comes again after such a
        conflict (`request.again`) is looked up in the log.
        """
        instances = []
        admission = self._admission
        for record, own in zip(request.records, request.ids, strict=True):
            held = record if encoder.is_whole(record) else features(admission, record)
            about = subject(admission, record) if admission.spec.subject else ""
            before = given_before(admission.log, own, held) if request.again and own is not None else None
            instances.append(Instance(own or next(ids), held, about, before))
        return instances

    def _reply(
        self, request: DecodedRecords, answers: list[Prediction], serving: Serving, stale: float | None
    ) -> Answer | Answers:
        explained = [self._explained(given, serving) if request.explain else None for given in answers]
        if request.single:
            given = answers[0]
            id, value, proba, version = given.id, given.value, given.proba, given.version
            more = given.canary, explained[0], self._propensity(given), "", interval(given)
            return Answer(id, value, proba, version, given.position, stale, *more)
        rows = [
            RowAnswer(
                given.id,
                given.value,
                given.proba,
                given.version,
                given.canary,
                contributions,
                self._propensity(given),
                interval=interval(given),
            )
            for given, contributions in zip(answers, explained, strict=True)
        ]
        return Answers(rows, serving.position, stale)

    def _propensity(self, given: Prediction) -> float | None:
        """Return the propensity of an action; None for other answers, which are the only ones of their models."""
        return given.propensity if self._admission.spec.schema.actions else None

    def _explained(self, given: Prediction, serving: Serving) -> dict[str, Any] | None:
        """Return the contribution of each field to an answer; None if the version of the answer serves no more."""
        for arm in (serving.champion, serving.canary):
            if arm is not None and arm.version == given.version:
                encoder = self._admission.fields
                row = encoded(encoder, serving.clip, [given.features])
                return explain.contributions(arm.model, encoder, given.features, row)
        return None


def _outcome(
    given: Prediction,
    at: float,
    stale: float | None,
    propensity: float | None = None,
    keys: EncryptingLog | None = None,
) -> Answered:
    """Return the row and the reply of a new answer to a single record."""
    id = given.id
    more = given.canary, None, propensity, "", interval(given)
    reply = Answer(id, given.value, given.proba, given.version, given.position, stale, *more)
    if keys is None:
        return Answered([_row(given, at)], encode(reply))
    return Answered([_row(given, at)], reply, (given.subject,), keys)


def _row(given: Prediction, at: float) -> Row:
    """Return the row of the log, as `everlearn.events.row` does but without reading it back.

    The features came from JSON and the scores are finite, so that the row can always be read.
    """
    return at, _KIND, f"{_KIND}:{given.id}", encode(given).decode()
