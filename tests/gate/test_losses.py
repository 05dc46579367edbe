"""The loss that contestants are compared by: the model's own where it has one, and the bound of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from everlearn import metrics
from everlearn.errors import ConfigError
from everlearn.gate import losses
from everlearn.records import Loss, Task
from everlearn.spec import GateSpec

PINBALL, HUBER = Loss("pinball", 0.95), Loss("huber", 2.0)


@pytest.mark.parametrize(
    ("loss", "own", "task", "expected"),
    [
        ("auto", None, "binary", Loss("brier")),
        ("auto", None, "regression", Loss("absolute")),
        ("auto", PINBALL, "regression", PINBALL),
        ("auto", HUBER, "regression", HUBER),
        ("auto", Loss("squared"), "regression", Loss("squared")),
        ("auto", Loss("log_loss"), "multiclass", Loss("log_loss", 0.001)),
        ("auto", Loss("error"), "binary", Loss("error")),
        ("absolute", PINBALL, "regression", Loss("absolute")),
        ("pinball", PINBALL, "regression", PINBALL),
        ("log_loss", None, "binary", Loss("log_loss", 0.001)),
    ],
)
def test_auto_is_the_loss_of_the_model(loss: Any, own: Loss | None, task: Task, expected: Loss) -> None:
    assert losses.chosen(GateSpec(loss=loss, own=own), task) == expected


@pytest.mark.parametrize(
    ("loss", "own", "task", "says"),
    [
        ("pinball", None, "regression", "got 'pinball' for a regression task; expected one of auto, absolute, squared"),
        ("huber", PINBALL, "regression", "a model of the loss 'pinball'; expected one of .*, pinball"),
        ("auto", PINBALL, "binary", "got 'pinball' for a binary task"),
        ("brier", None, "regression", "got 'brier' for a regression task"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(loss: Any, own: Loss | None, task: Task, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        losses.chosen(GateSpec(loss=loss, own=own), task)


def test_the_bound_of_the_log_loss_is_that_of_the_floor() -> None:
    spec = GateSpec(loss="log_loss")
    kind, parameter = losses.chosen(spec, "binary")
    worst = metrics.losses(kind, np.array([[1.0, 0.0]], np.float32), np.ones(1), parameter)[0]
    assert worst == losses.bound(spec) == math.log(1000.0)
    assert losses.chosen(GateSpec(loss="log_loss", layout=1), "binary") == Loss("log_loss")


def test_bounds() -> None:
    kinds: tuple[Any, ...] = ("auto", "brier", "error", "absolute", "squared", "pinball", "huber")
    assert [losses.bound(GateSpec(loss=kind)) for kind in kinds] == [1.0] * 3 + [math.inf] * 4
    assert losses.bound(GateSpec(loss="log_loss", layout=1)) == math.inf
