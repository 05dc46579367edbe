"""Check outside values: turn labels, rewards and preferences into feedback that the loop can learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from everlearn.errors import InputError, UnknownId
from everlearn.records import Feedback, Label, Preference, Reward, Scalar, Task


def target(feedback: Feedback, task: Task, label: Callable[[Scalar], float]) -> float:
    """What the model should have said, as the number it learns from; `label` encodes a class or number.

    A label is the answer itself. A reward is what a regression learns to predict. A preference needs a family
    that learns from preferences. Raises InputError where the two do not go together.
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
    """The error for feedback on a prediction that the log does not hold."""
    return UnknownId(
        f"no prediction with id {id!r} is in this loop's log; feedback needs the .id of an answer of this loop "
        "(or the id that you gave to predict)"
    )


def judgement(
    id: str, label: Scalar | None, reward: float | None, chosen: int | None, weight: float, source: str
) -> Feedback:
    """The one judgement that was given; InputError if there is not exactly one."""
    given = [part for part in (label, reward, chosen) if part is not None]
    if len(given) != 1:
        raise InputError(f"feedback for {id!r} needs exactly one of label, reward and chosen; got {len(given)} of them")
    if label is not None:
        return Label(id, scalar(label), weight, source)
    if reward is not None:
        return Reward(id, float(reward), weight, source)
    return Preference(id, int(chosen or 0), weight, source)


def checked_weight(weight: float) -> float:
    """A weight that can be learned with, or InputError."""
    if not (isinstance(weight, int | float | np.number) and 0 <= weight <= 1e30):
        raise InputError(f"weight: got {weight!r}, expected a number from 0 to 1e30")
    return float(weight)


def scalar(value: Any) -> Any:
    """A numpy scalar or array as the plain Python value it holds."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"got a {type(value).__name__} ({value!r}), expected a number, a string, a boolean or a list")
