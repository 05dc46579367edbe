"""Check values from outside: turn records, labels, rewards and preferences into what the log holds.

The loop in one process, the HTTP workers and label files call the same functions. Each value is checked before it
reaches the log, so that the fold need not refuse it later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
import numpy as np

from everlearn import schema
from everlearn.errors import IdTaken, InputError, UnknownId
from everlearn.events import Log
from everlearn.feedback.early_room import EarlyRoom, Ticket
from everlearn.feedback.names import FieldNames
from everlearn.records import Batch, Example, Feedback, Label, Outcome, Prediction, Preference, Reward, Scalar
from everlearn.schema import Encoder, Reading
from everlearn.schema.actions import spelled
from everlearn.schema.field import Field
from everlearn.schema.meaning import category
from everlearn.schema.nested import flat
from everlearn.schema.question import Asked, encode, judged
from everlearn.spec import Spec


@dataclass(frozen=True, slots=True)
class Admission:
    """The settings, the reading and the log that outside values are checked against.

    `plain(value, field)` turns a Python value into one that JSON can hold and that is encoded alike. It is None where
    records come from JSON, because their values are plain already. `names` counts unknown and missing names.
    """

    spec: Spec
    encoder: Reading
    log: Log
    plain: Callable[[Any, Field], Any] | None = None
    names: FieldNames | None = None
    room: EarlyRoom | None = None  # for feedback that comes before its prediction; None: any amount
    waits: Callable[[str], bool] = lambda id: False  # True only for the id of a prediction that is in the log

    @property
    def fields(self) -> Encoder:
        """The encoder of records. Raises InputError for a loop whose rows are pairs of answers."""
        return schema.features(self.encoder)


def features(admission: Admission, record: Mapping[str, Any], *, encodes: bool = False) -> dict[str, Any]:
    """Return a record as the log holds it: the fields of the schema that have a value.

    Serving and replay both encode this form, so they see the same numbers. A record from JSON is checked when it is
    encoded; of any other record each value is checked here. Where the caller `encodes` the result anyway, before it is
    logged, values that stay as they are are checked there. Raises InputError, naming the field, for a value that cannot
    be used.
    """
    kinds, plain = admission.fields.fields, admission.plain
    if isinstance(record, Mapping):
        record = _flat(admission, record)
    if admission.names is not None and isinstance(record, Mapping):
        admission.names.check(record)
    if plain is None:
        if kinds.keys() >= record.keys() and None not in record.values():
            return record  # type: ignore[return-value]  # JSON gives a dict, which the caller does not keep
        return {name: value for name, value in record.items() if value is not None and name in kinds}
    if not isinstance(record, Mapping):
        raise InputError(f"got a {type(record).__name__}, expected a record: a dict of field name -> value")
    held: dict[str, Any] = {}
    checked = False
    for name, field in admission.fields.fields.items():
        value = record.get(name)
        kind: Any = type(value)
        if kind is float and field.kind == "numeric" and not field.gone_numbers:
            value = None if value != value else value
        elif value is not None and kind not in (bool, int) and not (kind is str and value.isascii()):
            if not checked:
                admission.fields.record(record)  # `plain` drops values that cannot be used: refuse them first
                checked = True
            value = plain(value, field)
        if value is not None:
            held[name] = value
    if not (checked or encodes):
        admission.fields.record(record)
    return held


def _flat(admission: Admission, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record with the parts of its objects under dotted names, unless the home is of release 0.1.0."""
    schema = admission.spec.schema
    if schema.actions:
        record = spelled(record, schema)
    return flat(record, schema.fields) if schema.rules > 1 else record


def subject(admission: Admission, record: Mapping[str, Any]) -> str:
    """Return the person that a record is about, as text; "" if the settings or the record name none.

    Equal values have one spelling, which erasure looks for: 7, 7.0 and "7" are "7", True is "true". Raises InputError
    for a value that cannot name a person.
    """
    field = admission.spec.subject
    if not field:
        return ""
    try:
        return category((_flat(admission, record) if "." in field else record).get(field)).decode()
    except InputError as error:
        raise InputError(f"field {field!r}: {error}") from None


def feedback(
    admission: Admission,
    id: str,
    label: Scalar | None = None,
    reward: float | None = None,
    chosen: int | None = None,
    weight: float = 1.0,
    source: str = "",
    verdict: Outcome = "choice",
    seconds: float = 0.0,
    why: str = "",
) -> Feedback:
    """Return a label, a reward or a preference for the prediction `id`, ready for the log.

    A `verdict` of "tie" or "skip" is a preference that needs no `chosen`. Raises InputError unless exactly one of the
    three is given and the task can learn it, and UnknownId as `check_known` does.
    """
    weight = checked_weight(weight)
    if verdict != "choice":
        chosen = _none_chosen(id, chosen, verdict)
    given = _judgement(id, label, reward, chosen, weight, source)
    if isinstance(given, Preference):
        given = Preference(id, given.chosen, weight, source, verdict, _checked_seconds(seconds), why)
    elif seconds or why:
        raise InputError(f"seconds and why: got them for {id!r} without a preference; expected `chosen` or a `verdict`")
    admission.encoder.judge(given)
    check_known(admission, id)
    if admission.encoder.late and (about := prediction(admission.log, id)) is not None:
        _check_judged(given, about)
    return given


def with_handle(admission: Admission, given: Feedback, handle: str) -> Feedback:
    """Return feedback that names the key of its subject. Raises InputError for a handle where the log has no keys."""
    if not handle:
        return given
    if not admission.spec.log.encrypt:
        raise InputError("handle: got one, and this loop's log does not encrypt; expected none. Leave it out")
    return msgspec.structs.replace(given, handle=handle)


def example(
    admission: Admission,
    record: Mapping[str, Any],
    label: Scalar,
    weight: float,
    id: str | None,
    source: str,
    *,
    refused: Callable[[Batch], Mapping[int, str]],
    new_id: Callable[[], str],
) -> Example:
    """Return a record with its label, ready for the log.

    `refused` maps the rows that the champion cannot take to reasons; `new_id` makes an id where none is given. Raises
    InputError for a record, label or weight that cannot be used, and IdTaken where `id` names another example.
    """
    encoder = admission.fields
    held, label = features(admission, record), scalar(label)
    row = encoder.record(held)
    encoder.label(label)
    for reason in refused(row).values():
        raise InputError(reason)
    weight = checked_weight(weight)
    made = Example(id or new_id(), held, label, weight, source, subject(admission, record))
    if id and (found := admission.log.find(f"example:{id}")) is not None and found.payload != made:
        raise IdTaken(f"the id {id!r} names another example, which was sent before; use another id")
    return made


def pair(
    admission: Admission,
    question: Asked,
    record: Mapping[str, Any],
    proba: Sequence[float],
    *,
    refused: Callable[[Batch], Mapping[int, str]],
) -> Prediction:
    """Return what was asked as a prediction for the log, which has no id and no version yet.

    `record` has values for the fields of the schema, and the subject's. `proba` is that of the second and of the first
    answer, as a model predicted it (empty: none did). `refused` maps rows that the champion cannot take to reasons.
    Raises InputError for a question that contradicts itself, or has more tokens than the schema allows.
    """
    if not admission.encoder.late:
        raise InputError(
            f"this loop's task is {admission.spec.schema.task}: its rows are records of fields. Predict a record with "
            "loop.predict(features), or set schema.task = 'preference'"
        )
    fields = admission.spec.schema.fields
    record = _flat(admission, record)
    held = {name: scalar(record[name]) for name in fields if record.get(name) is not None}
    if len(proba) not in (0, 2) or not all(0.0 <= share <= 1.0 for share in proba):
        raise InputError(f"proba: got {list(proba)}; expected two probabilities, or none")
    try:
        held, payload = msgspec.json.decode(msgspec.json.encode((held, encode(question))))  # as the log gives them back
    except UnicodeEncodeError as error:
        raise InputError(f"a text cannot be stored as UTF-8: {error}; expected text without lone surrogates") from error
    shown = judged(question)[0].text
    made = Prediction("", held, shown, tuple(map(float, proba)), "", propensity=question.propensity, payload=payload)
    for reason in refused(admission.encoder.read([made])).values():
        raise InputError(reason)
    return msgspec.structs.replace(made, subject=subject(admission, record))


def check_known(admission: Admission, id: str) -> None:
    """Raise UnknownId unless the log holds the prediction `id`, or `feedback.early` lets labels come before it."""
    if not admission.spec.feedback.early and not admission.waits(id) and prediction(admission.log, id) is None:
        raise unknown(id)


def early_ticket(admission: Admission, given: Feedback) -> Ticket | None:
    """Return the ticket of feedback that comes before its prediction; None for other feedback. Raises NoRoom."""
    if not admission.spec.feedback.early or admission.room is None:
        return None
    return admission.room.take(given) if prediction(admission.log, given.id) is None else None


@contextmanager
def early_room(admission: Admission, given: Sequence[Feedback], end: Callable[[], int]) -> Iterator[None]:
    """Hold room for early feedback while it is written; `end` returns the position up to which the log then holds it.

    Raises NoRoom if one piece has no room; then none is counted.
    """
    tickets: list[Ticket] = []
    try:
        tickets.extend(ticket for one in given if (ticket := early_ticket(admission, one)) is not None)
        yield
    except BaseException:
        if admission.room is not None:
            admission.room.release(tickets)
        raise
    position = end() if tickets else 0
    for ticket in tickets:
        ticket.until = position


def prediction(log: Log, id: str) -> Prediction | None:
    """Return the prediction `id`; None if the log does not hold it, or it was erased."""
    found = log.find(f"prediction:{id}")
    return found.payload if found is not None and isinstance(found.payload, Prediction) else None


def unknown(id: str) -> UnknownId:
    """Return the error for feedback on a prediction that the log does not hold."""
    return UnknownId(
        f"no prediction with id {id!r} is in this loop's log; feedback needs the .id of an answer of this loop "
        "(or the id that you gave to predict)"
    )


def checked_weight(weight: float) -> float:
    """Return a weight as a float. Raises InputError unless it is a number from 0 to 1e30."""
    if not (isinstance(weight, int | float | np.number) and 0 <= weight <= 1e30):
        raise InputError(f"weight: got {weight!r}, expected a number from 0 to 1e30")
    return float(weight)


def scalar(value: Any) -> Any:
    """Return a value as plain Python: numpy scalars and arrays as what they hold. Raises InputError for other types."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"got a {type(value).__name__} ({value!r}), expected a number, a string, a boolean or a list")


def _judgement(
    id: str, label: Scalar | None, reward: float | None, chosen: int | None, weight: float, source: str
) -> Feedback:
    given = [value for value in (label, reward, chosen) if value is not None]
    if len(given) != 1:
        raise InputError(f"feedback for {id!r} needs exactly one of label, reward and chosen; got {len(given)} of them")
    if label is not None:
        return Label(id, scalar(label), weight, source)
    if reward is not None:
        if not (isinstance(reward, int | float | np.number) and np.isfinite(reward)):
            raise InputError(f"reward: got {reward!r} for {id!r}; expected a number")
        return Reward(id, float(reward), weight, source)
    if not isinstance(chosen, int | np.integer):
        raise InputError(f"chosen: got {chosen!r} for {id!r}; expected a whole number, the place of an answer")
    return Preference(id, int(chosen), weight, source)


def _none_chosen(id: str, chosen: int | None, verdict: Outcome) -> int:
    """Return the answer that a tie or a skip chooses, which is none. Raises InputError for another."""
    if chosen not in (None, -1):
        raise InputError(f"chosen: got {chosen} for {id!r} beside the verdict {verdict!r}; expected none. Leave it out")
    if verdict not in get_args(Outcome):
        raise InputError(f"verdict: got {verdict!r} for {id!r}; expected one of {', '.join(get_args(Outcome))}")
    return -1


def _checked_seconds(seconds: float) -> float:
    if not (isinstance(seconds, int | float | np.number) and 0 <= seconds < np.inf):
        raise InputError(f"seconds: got {seconds!r}; expected a time from 0, or leave it out")
    return float(seconds)


def _check_judged(given: Feedback, about: Prediction) -> None:
    """Raise InputError for a choice between answers where one was given, or a rating of one where two were."""
    pair = bool(about.payload.get("pair"))
    if isinstance(given, Preference) and not pair:
        raise InputError(
            f"got a preference for {given.id!r}, which holds one answer; expected a reward from 0 (bad) to 1 (good)"
        )
    if isinstance(given, Reward) and pair:
        raise InputError(
            f"got a reward for {given.id!r}, which asks for a choice between two answers; expected `chosen` or a "
            "`verdict`"
        )
