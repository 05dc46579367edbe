"""Decode the bodies of /predict, /feedback and /learn, for one row or several; refuse malformed or oversized ones.

The messages themselves are in `everlearn.client.records`. A bad row of a list is reported with its index and does not
affect the other rows; a bad record of /predict refuses the whole request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from everlearn.app.problems import Refused
from everlearn.client.records import FeedbackRow, FeedbackRows, LearnRow, LearnRows, PredictRequest
from everlearn.errors import InputError

R = TypeVar("R")


class DecodedRecords(Struct, frozen=True, gc=False):
    """A decoded request to /predict: records with their keys; a key of None is replaced by a new id.

    `again` is set on a second attempt, after a key turned out to be in the log: its earlier answer is then looked up.
    """

    records: list[dict[str, Any]]
    ids: list[str | None]
    single: bool
    explain: bool
    again: bool = False


@dataclass(frozen=True, slots=True)
class DecodedRows(Generic[R]):
    """The decoded rows of a request by their index, and an error for each of the others."""

    good: dict[int, R]
    errors: dict[int, Exception]
    single: bool


def predict_records(body: bytes, explain: bool, most: int) -> DecodedRecords:
    """Decode the body of /predict. Raises msgspec's errors, InputError, or Refused for more than `most` records."""
    request = _predict(body)
    if request.features is not UNSET:
        if request.instances is not UNSET or request.ids is not UNSET:
            raise InputError("the body: got features beside instances or ids, expected features or instances")
        offers = {} if request.actions is UNSET else {"actions": request.actions}
        return DecodedRecords([request.features | offers], [request.id], True, explain)
    if request.instances is UNSET:
        raise InputError('the body: got neither, expected "features" (one record) or "instances" (a list of records)')
    if request.actions is not UNSET:
        raise InputError('actions: got a list for several instances, expected "actions" within each of them')
    if request.id is not None:
        raise InputError("id: got one key for several instances, expected a list of as many ids")
    count = len(request.instances)
    _check_count(count, most)
    ids: list[str | None] = [None] * count if request.ids is UNSET else request.ids
    if len(ids) != count:
        raise InputError(f"ids: got {len(ids)} keys, expected {count}, one for each instance (null: give it one)")
    given = [id for id in ids if id is not None]
    if len(set(given)) < len(given):
        twice = next(id for id in given if given.count(id) > 1)
        raise InputError(f"ids: got {twice!r} twice, expected keys that differ")
    return DecodedRecords(request.instances, ids, False, explain)


def feedback_rows(body: bytes, most: int) -> DecodedRows[FeedbackRow]:
    """Decode the body of /feedback; raises the errors of `predict_records`."""
    return _rows(body, _feedback_rows(body).feedback if _lists_feedback(body) else None, _feedback_row, most)


def learn_rows(body: bytes, most: int) -> DecodedRows[LearnRow]:
    """Decode the body of /learn; raises the errors of `predict_records`."""
    return _rows(body, _learn_rows(body).examples if _lists_examples(body) else None, _learn_row, most)


def too_large(most: int) -> Refused:
    """Return the refusal (413) of a body of more than `most` bytes."""
    members = {"expected": f"at most {most} bytes", "where": "the body", "fix": "send less"}
    detail = f"the body is too large, expected at most {most} bytes"
    return Refused(413, "", detail, members, headers=[(b"connection", b"close")])


def _rows(body: bytes, listed: list[Raw] | None, decode: Callable[[bytes | Raw], R], most: int) -> DecodedRows[R]:
    if listed is None:
        return DecodedRows({0: decode(body)}, {}, True)
    _check_count(len(listed), most)
    rows: DecodedRows[R] = DecodedRows({}, {}, False)
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
