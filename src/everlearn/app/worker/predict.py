"""Answers: all questions that have come together are encoded, predicted and recorded as one group.

One question's failure is its own: a group that fails is answered again question by question.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from everlearn.app.problems import Refused
from everlearn.app.worker.requests import Fields, Question, encode
from everlearn.client.records import Answer, Answers, RowAnswer
from everlearn.errors import BlobError, ModelError
from everlearn.events import KINDS, Log, Row
from everlearn.families import explain
from everlearn.learn import limits
from everlearn.predict import new_ids
from everlearn.records import Batch, Payload, Prediction
from everlearn.schema import Encoder
from everlearn.serve.snapshot import Answering, Reader, Snapshot
from everlearn.spec import Spec

KEPT = 0.005  # seconds for which a snapshot is used at least

_KIND = KINDS[Prediction]


class Answered(Struct, frozen=True, gc=False):
    """What a question has to write, and the reply once that is written."""

    rows: list[Row]
    body: bytes

    def reply(self, new: int) -> bytes:
        """The answers; how many of them are new does not matter to who asked."""
        return self.body


class _Asked(Struct, gc=False):
    """One record on its way to an answer, and to its row unless it was answered before."""

    record: dict[str, Any]
    id: str
    subject: str
    answer: Prediction | None = None
    row: Row | None = None


class Group:
    """Answers questions with what serves at this moment."""

    def __init__(self, spec: Spec, encoder: Encoder, log: Log, reader: Reader) -> None:
        self._limits = spec.limits
        self._canary = spec.serve.canary
        self._classes = spec.schema.classes
        self._fields = Fields(spec)
        self._encoder = encoder
        self._log = log
        self._reader = reader
        self._held: Snapshot | None = None
        self._fresh = 0.0  # what is held has all labels acknowledged before this moment
        self._due = 0.0  # when to look for something newer

    def serving(self) -> tuple[Snapshot, float]:
        """What serves, and how stale it is in seconds; raises Refused (503) while there is nothing.

        A live loop may publish a thousand times a second, and to take up what is new costs as much as an answer does:
        so what was just taken up is kept for a moment.
        """
        now = time.monotonic()
        if self._held is None or now >= self._due:
            try:
                newest = self._reader.current()
            except BlobError as error:
                raise Refused(503, "", f"nothing serves: {error}", headers=[(b"retry-after", b"1")]) from error
            if newest is not self._held:
                self._due = now + KEPT
            self._held, self._fresh = newest, now - self._reader.staleness(now)
        return self._held, now - self._fresh

    def answer(self, questions: Sequence[Question]) -> list[Answered | Exception]:
        """What to write and to reply for each question, or why it cannot be answered."""
        try:
            return self._answered(questions)
        except Exception as error:
            if len(questions) == 1:
                return [error]
        return [outcome for one in questions for outcome in self.answer([one])]

    def _answered(self, questions: Sequence[Question]) -> list[Answered | Exception]:
        serving, staleness = self.serving()
        at = time.time()
        ids = iter(new_ids(sum(len(one.records) for one in questions)))
        asked = [self._asked(one, ids) for one in questions]
        for answering, mine, share in self._arms(serving, [one for rows in asked for one in rows if not one.answer]):
            for one, answer in zip(mine, self._predicted(serving, answering, mine, share), strict=True):
                one.answer, one.row = answer, _row(answer, at)
        return [
            Answered(
                [one.row for one in rows if one.row is not None],
                self._reply(question, [one.answer for one in rows if one.answer is not None], serving, staleness),
            )
            for question, rows in zip(questions, asked, strict=True)
        ]

    def _asked(self, question: Question, ids: Iterator[str]) -> list[_Asked]:
        """The records of a question with their ids, and the answers of those that are known to have been sent before.

        That a key is new is the rule, so it is left to the commit to find out.
        """
        rows = []
        for record, own in zip(question.records, question.ids, strict=True):
            one = _Asked(self._fields.held(record), own or next(ids), self._fields.subject(record))
            if own is not None and question.again and (found := self._log.find(f"prediction:{own}")) is not None:
                one.answer = _first_answer(own, found.payload, one.record)
            rows.append(one)
        return rows

    def _arms(self, serving: Snapshot, rows: list[_Asked]) -> list[tuple[Answering, list[_Asked], float]]:
        """Who answers which rows, and with which probability it was chosen to; the id decides."""
        if serving.canary is None or not self._canary:
            return [(serving.champion, rows, 1.0)] if rows else []
        champion = serving.champion, [one for one in rows if draw(one.id) >= self._canary], 1.0 - self._canary
        canary = serving.canary, [one for one in rows if draw(one.id) < self._canary], self._canary
        return [arm for arm in (champion, canary) if arm[1]]

    def _predicted(self, serving: Snapshot, answering: Answering, rows: list[_Asked], share: float) -> list[Prediction]:
        """The answers of one model, from one call."""
        scores = answering.model.predict(self._encoded(serving, [one.record for one in rows]))
        if not np.isfinite(scores).all():
            raise ModelError(f"version {answering.version} answered with a number that is not finite; roll it back")
        said, canary = scores.tolist(), answering is serving.canary
        if not self._classes:
            values, probas = [one[0] for one in said], [()] * len(rows)
        else:
            values, probas = [self._classes[best] for best in scores.argmax(1).tolist()], list(map(tuple, said))
        return [
            Prediction(
                one.id, one.record, value, proba, answering.version, serving.position, share, canary, one.subject
            )
            for one, value, proba in zip(rows, values, probas, strict=True)
        ]

    def _encoded(self, serving: Snapshot, records: list[dict[str, Any]]) -> Batch:
        batch = self._encoder.record(records[0]) if len(records) == 1 else self._encoder.rows(records)
        return limits.clip(serving.arrays, self._limits, batch)

    def _reply(self, question: Question, answers: list[Prediction], serving: Snapshot, staleness: float) -> bytes:
        stale = staleness if math.isfinite(staleness) else None
        explained = [self._explained(one, serving) if question.explain else None for one in answers]
        if question.single:
            one = answers[0]
            told = Answer(one.id, one.value, one.proba, one.version, one.position, stale, one.canary, explained[0])
            return encode(told)
        rows = [
            RowAnswer(one.id, one.value, one.proba, one.version, one.canary, contributions)
            for one, contributions in zip(answers, explained, strict=True)
        ]
        return encode(Answers(rows, serving.position, stale))

    def _explained(self, answer: Prediction, serving: Snapshot) -> dict[str, Any] | None:
        """What each field contributed to an answer; of an answer given before, only if its version still serves."""
        for answering in (serving.champion, serving.canary):
            if answering is not None and answering.version == answer.version:
                row = self._encoded(serving, [answer.features])
                return explain.contributions(answering.model, self._encoder, answer.features, row)
        return None


def _row(answer: Prediction, at: float) -> Row:
    """As `everlearn.events.row`, which reads back what it writes; this came from JSON, and its numbers are finite."""
    return at, _KIND, f"{_KIND}:{answer.id}", encode(answer).decode()


def draw(id: str) -> float:
    """A number in [0, 1) that belongs to an id, the same in every process.

    >>> round(draw("a"), 3), round(draw("b"), 3)
    (0.254, 0.517)
    """
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2.0**64


def _first_answer(id: str, before: Payload, record: dict[str, Any]) -> Prediction:
    """What was answered when this record was first sent under its key; refuses a key that names another record."""
    if not isinstance(before, Prediction):
        raise Refused(409, "", f"what had the id {id!r} was erased; use another id", {"where": "id"})
    if before.features != record:
        members = {"where": "id", "fix": "use another id"}  # not what is stored: it may be about somebody else
        raise Refused(409, "", f"the id {id!r} names another record, which was answered before", members)
    return before
