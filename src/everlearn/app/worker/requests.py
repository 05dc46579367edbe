"""What the hot routes are asked and what they answer, as records: JSON is decoded straight into them, and checked once.

A request speaks of one row, or of several in a list; a reply to one row is not in a list. Ids are given by the server,
or are keys of the user's own, which then name one record for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from everlearn.app.problems import Refused
from everlearn.errors import InputError
from everlearn.records import Scalar
from everlearn.schema.meaning import category
from everlearn.spec import Spec

Key = Annotated[str, Meta(min_length=1, max_length=200, description="A key of your own: it names one record for ever.")]
Name = Annotated[str, Meta(max_length=200)]
Record = Annotated[dict[str, Any], Meta(description="A value for each field of the schema; what is absent is missing.")]


class PredictRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """One record (`features`, with `id` as its key) or several (`instances`, with `ids`)."""

    features: Record | UnsetType = UNSET
    id: Key | None = None
    instances: Annotated[list[Record], Meta(min_length=1)] | UnsetType = UNSET
    ids: list[Key | None] | UnsetType = UNSET


class FeedbackRow(Struct, frozen=True, forbid_unknown_fields=True):
    """What the answer `id` should have been (`label`), how good it was (`reward`), or which one was `chosen`."""

    id: Key
    label: Scalar | None = None
    reward: float | None = None
    chosen: Annotated[int, Meta(ge=0)] | None = None
    weight: float = 1.0
    source: Name = ""


class LearnRow(Struct, frozen=True, forbid_unknown_fields=True):
    """A record with its label: predicted, then learned, at once."""

    features: Record
    label: Scalar
    weight: float = 1.0
    id: Key | None = None
    source: Name = ""


class FeedbackRows(Struct, frozen=True, forbid_unknown_fields=True):
    """Several judgements; what is wrong with one does not keep the others out."""

    feedback: Annotated[list[Raw], Meta(min_length=1)]


class LearnRows(Struct, frozen=True, forbid_unknown_fields=True):
    """Several examples; what is wrong with one does not keep the others out."""

    examples: Annotated[list[Raw], Meta(min_length=1)]


class RowAnswer(Struct, frozen=True, omit_defaults=True):
    """An answer: its id, the answer itself, the probability of each class in the schema's order (none for a
    regression), and the version that gave it; `canary` where a candidate that came from that version answered;
    `contributions` where they were asked for."""

    id: str
    value: Scalar
    proba: tuple[float, ...]
    version: str
    canary: bool = False
    contributions: dict[str, Any] | UnsetType = UNSET


class Answer(Struct, frozen=True, omit_defaults=True):
    """As `RowAnswer`, with the last event that what answered had learned (`position`), and the seconds within which a
    label that is older is surely in it (`staleness`)."""

    id: str
    value: Scalar
    proba: tuple[float, ...]
    version: str
    position: int
    staleness: float | None
    canary: bool = False
    contributions: dict[str, Any] | UnsetType = UNSET


class Answers(Struct, frozen=True):
    """The answers to several records, in their order."""

    predictions: list[RowAnswer]
    position: int
    staleness: float | None


class RowError(Struct, frozen=True):
    """What is wrong with the row `index`, counted from 0."""

    index: int
    detail: str


class FeedbackReply(Struct, frozen=True, omit_defaults=True):
    """How many judgements are in the log now, how many of them were there before, and what was wrong with others."""

    accepted: int
    known: int
    errors: list[RowError] | UnsetType = UNSET


class LearnReply(Struct, frozen=True, omit_defaults=True):
    """How many examples are in the log now, their ids, and what was wrong with others."""

    accepted: int
    ids: list[str]
    errors: list[RowError] | UnsetType = UNSET


class Question(Struct, frozen=True, gc=False):
    """What /predict was asked: records with their keys (None: to be given one).

    `again` says that a key was found to be known, so that the log is to be asked for what was answered before.
    """

    records: list[dict[str, Any]]
    ids: list[str | None]
    single: bool
    explain: bool
    again: bool = False


R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Rows(Generic[R]):
    """Rows by their index in the request, and what was wrong with those that are not there."""

    good: dict[int, R]
    errors: dict[int, Exception]
    single: bool


class Fields:
    """What is kept of a record: the fields of the schema, and whose it is."""

    def __init__(self, spec: Spec) -> None:
        self._names = frozenset(spec.schema.fields)
        self._subject = spec.subject

    def held(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record as the log holds it; what JSON gave is what JSON gives again, so both are encoded alike."""
        if self._names.issuperset(record) and None not in record.values():
            return record
        return {name: value for name, value in record.items() if name in self._names and value is not None}

    def subject(self, record: dict[str, Any]) -> str:
        """Whose record it is, in one spelling for 7, 7.0 and "7"; InputError for what cannot name anybody."""
        if not self._subject:
            return ""
        try:
            return category(record.get(self._subject)).decode()
        except InputError as error:
            raise InputError(f"field {self._subject!r}: {error}") from None


def question(body: bytes, explain: bool, most: int) -> Question:
    """Read the body of /predict; raises msgspec's errors, InputError, or Refused for more than `most` records."""
    asked = _predict(body)
    if asked.features is not UNSET:
        if asked.instances is not UNSET or asked.ids is not UNSET:
            raise InputError("the body: got features beside instances or ids, expected features or instances")
        return Question([asked.features], [asked.id], True, explain)
    if asked.instances is UNSET:
        raise InputError('the body: got neither, expected "features" (one record) or "instances" (a list of records)')
    if asked.id is not None:
        raise InputError("id: got one key for several instances, expected a list of as many ids")
    count = len(asked.instances)
    _check_count(count, most)
    ids: list[str | None] = [None] * count if asked.ids is UNSET else asked.ids
    if len(ids) != count:
        raise InputError(f"ids: got {len(ids)} keys, expected {count}, one for each instance (null: give it one)")
    given = [id for id in ids if id is not None]
    if len(set(given)) < len(given):
        twice = next(id for id in given if given.count(id) > 1)
        raise InputError(f"ids: got {twice!r} twice, expected keys that differ")
    return Question(asked.instances, ids, False, explain)


def feedback_rows(body: bytes, most: int) -> Rows[FeedbackRow]:
    """Read the body of /feedback; raises as `question` does."""
    return _rows(body, _feedback_rows(body).feedback if _lists_feedback(body) else None, _feedback_row, most)


def learn_rows(body: bytes, most: int) -> Rows[LearnRow]:
    """Read the body of /learn; raises as `question` does."""
    return _rows(body, _learn_rows(body).examples if _lists_examples(body) else None, _learn_row, most)


def too_large(most: int) -> Refused:
    """The refusal of a body of more than `most` bytes."""
    members = {"expected": f"at most {most} bytes", "where": "the body", "fix": "send less"}
    detail = f"the body is too large, expected at most {most} bytes"
    return Refused(413, "", detail, members, headers=[(b"connection", b"close")])


def _rows(body: bytes, listed: list[Raw] | None, decode: Callable[[bytes | Raw], R], most: int) -> Rows[R]:
    if listed is None:
        return Rows({0: decode(body)}, {}, True)
    _check_count(len(listed), most)
    rows: Rows[R] = Rows({}, {}, False)
    for index, raw in enumerate(listed):
        try:
            rows.good[index] = decode(raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            rows.errors[index] = error
    return rows


def _check_count(count: int, most: int) -> None:
    if count > most:
        members = {"got": count, "expected": f"at most {most}", "fix": "send several requests"}
        raise Refused(413, "Too many rows", f"got {count} rows in one request, expected at most {most}", members)


class _Feedback(Struct):
    feedback: Raw | UnsetType = UNSET


class _Examples(Struct):
    examples: Raw | UnsetType = UNSET


def _lists_feedback(body: bytes) -> bool:
    return b'"feedback"' in body and _outer_feedback(body).feedback is not UNSET


def _lists_examples(body: bytes) -> bool:
    return b'"examples"' in body and _outer_examples(body).examples is not UNSET


_predict = msgspec.json.Decoder(PredictRequest).decode
_feedback_row = msgspec.json.Decoder(FeedbackRow).decode
_learn_row = msgspec.json.Decoder(LearnRow).decode
_feedback_rows = msgspec.json.Decoder(FeedbackRows).decode
_learn_rows = msgspec.json.Decoder(LearnRows).decode
_outer_feedback = msgspec.json.Decoder(_Feedback).decode
_outer_examples = msgspec.json.Decoder(_Examples).decode
encode = msgspec.json.Encoder().encode
