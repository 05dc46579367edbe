"""The linear family's dials: read, checked, completed with their defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from everlearn.errors import ConfigError
from everlearn.records import Floats, Task

Loss = Literal["auto", "logistic", "softmax", "squared", "absolute", "quantile", "huber"]
Optimizer = Literal["auto", "sgd", "adagrad", "adam", "ftrl", "normalized"]
Interactions = Literal["none", "dense", "hashed", "all"]

# The numbers by which kernels know losses and optimisers; a kernel takes globals as constants.
LOGISTIC, SOFTMAX, SQUARED, ABSOLUTE, QUANTILE, HUBER = range(6)
AUTO, SGD, ADAGRAD, ADAM, FTRL, NORMALIZED = range(6)

LOSSES: dict[str, int] = {
    "logistic": LOGISTIC,
    "softmax": SOFTMAX,
    "squared": SQUARED,
    "absolute": ABSOLUTE,
    "quantile": QUANTILE,
    "huber": HUBER,
}
OPTIMIZERS: dict[str, int] = {
    "auto": AUTO,
    "sgd": SGD,
    "adagrad": ADAGRAD,
    "adam": ADAM,
    "ftrl": FTRL,
    "normalized": NORMALIZED,
}
RATES: dict[str, float] = {"auto": 0.05, "sgd": 0.05, "adagrad": 0.1, "adam": 0.01, "ftrl": 0.1, "normalized": 0.5}
FITTING: dict[Task, tuple[str, ...]] = {
    "binary": ("logistic",),
    "multiclass": ("softmax",),
    "regression": ("squared", "absolute", "quantile", "huber"),
}
LIMIT = 1 << 31  # hashed indices are int32


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a linear model is made of; `rate` None is the optimiser's own default.

    `dense` counts the dense columns, `hashed` the size of the hash space (0: no hashed part). `quantile` and
    `delta` belong to the losses "quantile" and "huber". `standardize` scales dense columns by their running
    mean and deviation; `interactions` adds the products of all pairs of dense columns or of hashed entries.
    """

    family: str = "linear"
    task: Task
    dense: int
    hashed: int = 0
    classes: int = 0
    loss: Loss = "auto"
    quantile: float = 0.5
    delta: float = 1.0
    optimizer: Optimizer = "auto"
    rate: float | None = None
    l1: float = 0.0
    l2: float = 0.0
    standardize: bool = True
    clip: float = 100.0
    interactions: Interactions = "none"
    seed: int = 0

    @property
    def outputs(self) -> int:
        """Columns of what `predict` returns: one per class, or one for a regression."""
        return 1 if self.task == "regression" else self.classes

    @property
    def margins(self) -> int:
        """Linear scores per row: one, or one per class for softmax."""
        return self.classes if self.task == "multiclass" else 1

    @property
    def columns(self) -> int:
        """Dense weights per score: the columns, their pairs if asked for, and the intercept."""
        pairs = self.dense * (self.dense - 1) // 2 if self.interactions in ("dense", "all") else 0
        return self.dense + pairs + 1


def read(spec: Mapping[str, Any]) -> Settings:
    """Check a spec and fill in its defaults; raise `ConfigError` that names the dial, what was got and expected.

    >>> read({"task": "binary", "dense": 8}).rate
    0.05
    """
    given = dict(spec)
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    try:
        settings = msgspec.convert(given, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"linear model: {error}; known dials: {', '.join(Settings.__struct_fields__)}") from error
    loss = FITTING[settings.task][0] if settings.loss == "auto" else settings.loss
    rate = RATES[settings.optimizer] if settings.rate is None else settings.rate
    settings = msgspec.structs.replace(settings, loss=loss, rate=rate)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    task, classes = settings.task, settings.classes
    _expect(settings.loss in FITTING[task], "loss", settings.loss, f"one of {FITTING[task]} for the task {task!r}")
    _expect(0 <= settings.dense < LIMIT, "dense", settings.dense, "a number of columns from 0")
    _expect(0 <= settings.hashed < LIMIT, "hashed", settings.hashed, f"the size of a hash space, 0 to {LIMIT - 1}")
    if task == "binary":
        _expect(classes == 2, "classes", classes, "2 for the task 'binary'")
    elif task == "multiclass":
        _expect(classes >= 2, "classes", classes, "at least 2 for the task 'multiclass'")
    else:
        _expect(classes == 0, "classes", classes, "0 for the task 'regression'")
    _expect(0.0 < settings.quantile < 1.0, "quantile", settings.quantile, "a share strictly between 0 and 1")
    for name, low in (("delta", False), ("rate", False), ("l1", True), ("l2", True), ("clip", True)):
        value = getattr(settings, name)
        right = math.isfinite(value) and (value >= 0.0 if low else value > 0.0)
        _expect(right, name, value, f"a finite number, {'at least' if low else 'above'} 0")


def _expect(right: bool, dial: str, got: object, expected: str) -> None:
    if not right:
        raise ConfigError(f"linear model: {dial} is {got!r}, expected {expected}")


def dials(settings: Settings) -> Floats:
    """What the kernels need of the settings, as numbers, in the order in which `rows` unpacks them."""
    shape = {"quantile": settings.quantile, "huber": settings.delta}.get(settings.loss, 0.0)
    rate = RATES[settings.optimizer] if settings.rate is None else settings.rate
    # The default optimiser also learns the scale of the numbers to predict; the others take them as they are.
    scaled_target = settings.task == "regression" and settings.optimizer == "auto"
    return np.array(
        [
            LOSSES[settings.loss],
            OPTIMIZERS[settings.optimizer],
            rate,
            settings.l1,
            settings.l2,
            shape,
            settings.standardize,
            scaled_target,
            settings.clip or math.inf,
        ],
        dtype=np.float64,
    )
