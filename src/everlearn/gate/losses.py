"""The loss that contestants are compared by, and the most that it can be."""

from __future__ import annotations

import math

from everlearn.metrics import loss_kind
from everlearn.records import Loss, Task
from everlearn.spec import GateSpec

FLOOR = 0.001  # lowest probability that the log loss counts


def chosen(spec: GateSpec, task: Task) -> Loss:
    """Return the loss that the settings choose, with its parameter.

    Raises `ConfigError` for a loss that does not fit the task or the model.

    >>> chosen(GateSpec(), "binary"), chosen(GateSpec(own=Loss("pinball", 0.95)), "regression")
    (Loss(kind='brier', parameter=0.0), Loss(kind='pinball', parameter=0.95))
    """
    found = loss_kind(spec.loss, task, spec.own)
    return Loss("log_loss", FLOOR) if found.kind == "log_loss" and spec.layout > 1 else found


def bound(spec: GateSpec) -> float:
    """Return the most that the loss of resolved settings can be; infinity for a loss without a bound.

    Under layout 1 the log loss has none. A loss of "auto" counts as a loss in [0, 1].
    """
    if spec.loss == "log_loss" and spec.layout > 1:
        return -math.log(FLOOR)
    return 1.0 if spec.loss in ("auto", "brier", "error") else math.inf
