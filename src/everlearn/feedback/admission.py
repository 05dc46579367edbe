"""Check values from outside: turn records, labels, rewards and preferences into what the log holds.

The loop in one process, the HTTP workers and label files call the same functions. Each value is checked before it
reaches the log, so that the fold need not refuse it later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from everlearn.errors import IdTaken, InputError, UnknownId
from everlearn.events import Log
from everlearn.records import Batch, Example, Feedback, Label, Prediction, Preference, Reward, Scalar, Task
from everlearn.schema import Encoder
from everlearn.schema.meaning import category
from everlearn.spec import Spec


@dataclass(frozen=True, slots=True)
class Admission:
    """The settings, the encoder and the log that outside values are checked against.

    `plain(value, kind)` turns a Python value into one that JSON can hold and that is encoded alike. It is None where
    records come from JSON, because their values are plain already.
    """

    spec: Spec
    encoder: Encoder
    log: Log
    plain: Callable[[Any, str], Any] | None = None


def features(admission: Admission, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as the log holds it: the fields of the schema that have a value.

    Serving and replay both encode this form, so they see the same numbers. A record from JSON is checked when it is
    encoded; of any other record each value is checked here. Raises InputError, naming the field, for a value that
    cannot be used.
    """
    kinds, plain = admission.spec.schema.fields, admission.plain
    if plain is None:
        if kinds.keys() >= record.keys() and None not in record.values():
            return record  # type: ignore[return-value]  # JSON gives a dict, which the caller does not keep
        return {name: value for name, value in record.items() if value is not None and name in kinds}
    if not isinstance(record, Mapping):
        raise InputError(f"got a {type(record).__name__}, expected a record: a dict of field name -> value")
    admission.encoder.record(record)  # `plain` drops values that cannot be used: refuse them first
    held: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = record.get(name)
        if type(value) not in (bool, int) and not (type(value) is str and value.isascii()):
            value = plain(value, kind) if value is not None else None
        if value is not None:
            held[name] = value
    return held


def subject(admission: Admission, record: Mapping[str, Any]) -> str:
    """Return the person that a record is about, as text; "" if the settings or the record name none.

    Equal values have one spelling, which erasure looks for: 7, 7.0 and "7" are "7", True is "true". Raises InputError
    for a value that cannot name a person.
    """
    field = admission.spec.subject
    if not field:
        return ""
    try:
        return category(record.get(field)).decode()
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
) -> Feedback:
    """Return a label, a reward or a preference for the prediction `id`, ready for the log.

    Raises InputError unless exactly one of the three is given and the task can learn it, and UnknownId as
    `check_known` does.
    """
    weight = checked_weight(weight)
    given = _judgement(id, label, reward, chosen, weight, source)
    target(given, admission.spec.schema.task, admission.encoder.label)
    check_known(admission, id)
    return given


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
    held, label = features(admission, record), scalar(label)
    row = admission.encoder.record(held)
    admission.encoder.label(label)
    for reason in refused(row).values():
        raise InputError(reason)
    weight = checked_weight(weight)
    made = Example(id or new_id(), held, label, weight, source, subject(admission, record))
    if id and (found := admission.log.find(f"example:{id}")) is not None and found.payload != made:
        raise IdTaken(f"the id {id!r} names another example, which was sent before; use another id")
    return made


def check_known(admission: Admission, id: str) -> None:
    """Raise UnknownId unless the log holds the prediction `id`, or `feedback.early` lets labels come before it."""
    if not admission.spec.feedback.early and prediction(admission.log, id) is None:
        raise unknown(id)


def prediction(log: Log, id: str) -> Prediction | None:
    """Return the prediction `id`; None if the log does not hold it, or it was erased."""
    found = log.find(f"prediction:{id}")
    return found.payload if found is not None and isinstance(found.payload, Prediction) else None


def target(feedback: Feedback, task: Task, label: Callable[[Scalar], float]) -> float:
    """Return the number that a model learns from feedback; `label` encodes a class or a number.

    A label is the answer itself. A reward is what a regression learns to predict. A preference needs a family that
    learns from preferences. Raises InputError where the feedback does not fit the task.
    """
    match feedback:
        case Label(value=value):
            return label(value)
        case Reward(value=value) if task == "regression":
            return label(value)
        case Reward():
            raise InputError(
                f"got a reward for prediction {feedback.id!r}, but this loop's task is {task}: "
                "send a label, or declare the task a regression to learn rewards"
            )
        case Preference():
            raise InputError(
                f"got a preference for prediction {feedback.id!r}, but this loop's task is {task}: "
                "send a label; preferences are learned by preference families"
            )


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
        return Reward(id, float(reward), weight, source)
    return Preference(id, int(chosen or 0), weight, source)
