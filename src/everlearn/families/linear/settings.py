"""The settings of the linear family: read, checked, and completed with their defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from everlearn.errors import ConfigError
from everlearn.families import specs
from everlearn.families.specs import Retired
from everlearn.records import Floats, RowTask

Loss = Literal["auto", "logistic", "softmax", "squared", "absolute", "quantile", "huber"]
Optimizer = Literal["auto", "blend", "quick", "sgd", "adagrad", "adam", "ftrl", "normalized"]
Interactions = Literal["none", "dense", "hashed", "all"]

# The numbers of losses and optimisers in kernels, which take globals as constants.
LOGISTIC, SOFTMAX, SQUARED, ABSOLUTE, QUANTILE, HUBER = range(6)
BLEND, QUICK, SGD, ADAGRAD, ADAM, FTRL, NORMALIZED = range(7)

# The positions of settings in the array that kernels take; see `kernel_settings`.
LOSS, OPTIMIZER, RATE, L1, L2, LOSS_PARAMETER, STANDARDIZE, SCALE_TARGET, CLIP = range(9)

LOSSES: dict[str, int] = {
    "logistic": LOGISTIC,
    "softmax": SOFTMAX,
    "squared": SQUARED,
    "absolute": ABSOLUTE,
    "quantile": QUANTILE,
    "huber": HUBER,
}
OPTIMIZERS: dict[str, int] = {
    "blend": BLEND,
    "quick": QUICK,
    "sgd": SGD,
    "adagrad": ADAGRAD,
    "adam": ADAM,
    "ftrl": FTRL,
    "normalized": NORMALIZED,
}
RATES: dict[str, float] = {
    "blend": 0.05,
    "quick": 0.05,
    "sgd": 0.05,
    "adagrad": 0.1,
    "adam": 0.01,
    "ftrl": 0.1,
    "normalized": 0.5,
}
TASK_LOSSES: dict[RowTask, tuple[str, ...]] = {
    "binary": ("logistic",),
    "multiclass": ("softmax",),
    "regression": ("squared", "absolute", "quantile", "huber"),
}
LOSS_PARAMETERS: dict[str, float] = {"quantile": 0.5, "huber": 1.0}
BLENDED = 3  # the first layout in which the default optimiser is "blend"
FORGETTING = 4  # the first layout in which moments forget a bad stretch
HASH_LIMIT = 1 << 31  # hashed indices are int32

RETIRED = {
    "clip": Retired(100.0, "Leave it out: one row weighs 100 at most, and a value counts as 100 deviations at most"),
}
_RENAMED = {"quantile": "quantile", "delta": "huber"}  # settings of release 0.1, and the loss whose parameter each was


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a linear model.

    `dense` is the number of dense columns, `hashed` the size of the hash space (0: no hashed entries). `loss_parameter`
    is the share of "quantile" (0.5), or the number where "huber" turns from quadratic to linear (1.0), in units of the
    numbers to predict. `optimizer` "auto" is "blend", and "quick" in a stored spec of layout 1 or 2. `rate` None is the
    default of the optimiser. `standardize` scales dense columns by their running mean and deviation.
    `forget_bad_stretches` lets these forget a bad stretch of values; None is true, and false in a stored spec of layout
    1 to 3. `interactions` "dense" adds the products of all pairs of dense columns; products of categories are
    `schema.interactions`. `seed` has no effect: nothing here is random.

    Retired: `clip`, and the values "hashed" and "all" of `interactions`, which add products of hashed entries.
    """

    family: str = "linear"
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    loss: Loss = "auto"
    loss_parameter: float | None = None
    optimizer: Optimizer = "auto"
    rate: float | None = None
    l1: float = 0.0
    l2: float = 0.0
    standardize: bool = True
    forget_bad_stretches: bool | None = None
    clip: float = 100.0
    interactions: Interactions = "none"
    seed: int = 0

    @property
    def outputs(self) -> int:
        """Columns of the result of `predict`: one for each class, or one for a regression."""
        return 1 if self.task == "regression" else self.classes

    @property
    def margins(self) -> int:
        """Linear scores of a row: one, or one for each class of a softmax."""
        return self.classes if self.task == "multiclass" else 1

    @property
    def pairs_dense(self) -> bool:
        """True if products of dense columns are inputs, too."""
        return self.interactions in ("dense", "all")

    @property
    def pairs_hashed(self) -> bool:
        """True if products of hashed entries are inputs, too."""
        return self.interactions in ("hashed", "all")

    @property
    def columns(self) -> int:
        """Dense weights of a score: one for each column, each pair of columns if set, and the intercept."""
        pairs = self.dense * (self.dense - 1) // 2 if self.pairs_dense else 0
        return self.dense + pairs + 1


def read(spec: Mapping[str, Any]) -> Settings:
    """Check a spec and fill in its defaults.

    `quantile` and `delta`, as release 0.1 names the parameters of two losses, are read as `loss_parameter`. Raises
    `ConfigError`, which names the setting, its value and the right values.

    >>> read({"task": "binary", "dense": 8}).rate
    0.05
    """
    given = dict(spec)
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    for name, loss in _RENAMED.items():
        value = given.pop(name, None)
        if value is not None and given.get("loss") == loss:
            given.setdefault("loss_parameter", value)
    if given.get("interactions") in ("hashed", "all") and specs.layout(spec, "linear") != specs.STORED:
        raise ConfigError(
            f"linear model: interactions: got {given['interactions']!r}; expected 'none' or 'dense'. For products of "
            "categories, set schema.interactions to true"
        )
    settings = specs.convert(given, Settings, "linear", RETIRED)
    if settings.optimizer == "auto":
        chosen = "blend" if specs.layout(spec, "linear") >= BLENDED else "quick"
        settings = msgspec.structs.replace(settings, optimizer=chosen)
    if settings.forget_bad_stretches is None:
        forgets = specs.layout(spec, "linear") >= FORGETTING
        settings = msgspec.structs.replace(settings, forget_bad_stretches=forgets)
    loss = TASK_LOSSES[settings.task][0] if settings.loss == "auto" else settings.loss
    rate = RATES[settings.optimizer] if settings.rate is None else settings.rate
    parameter = LOSS_PARAMETERS.get(loss) if settings.loss_parameter is None else settings.loss_parameter
    settings = msgspec.structs.replace(settings, loss=loss, rate=rate, loss_parameter=parameter)
    _check(settings)
    return settings


def written(settings: Settings) -> dict[str, Any]:
    """Return the complete spec of settings; `read` makes the same settings from it."""
    spec = specs.written(settings, RETIRED)
    return {**spec, "layout": specs.STORED} if settings.pairs_hashed else spec


def _check(settings: Settings) -> None:
    """Raise `ConfigError` for values that do not fit the task, or are out of range."""
    task, classes, parameter = settings.task, settings.classes, settings.loss_parameter
    _expect(settings.loss in TASK_LOSSES[task], "loss", settings.loss, f"one of {TASK_LOSSES[task]} for task {task!r}")
    _expect(0 <= settings.dense < HASH_LIMIT, "dense", settings.dense, "a number of columns from 0")
    _expect(
        0 <= settings.hashed < HASH_LIMIT, "hashed", settings.hashed, f"the size of a hash space, 0 to {HASH_LIMIT - 1}"
    )
    if task == "binary":
        _expect(classes == 2, "classes", classes, "2 for task 'binary'")
    elif task == "multiclass":
        _expect(classes >= 2, "classes", classes, "at least 2 for task 'multiclass'")
    else:
        _expect(classes == 0, "classes", classes, "0 for task 'regression'")
    if parameter is None or settings.loss not in LOSS_PARAMETERS:
        _expect(parameter is None, "loss_parameter", parameter, f"none for loss {settings.loss!r}")
    elif settings.loss == "quantile":
        _expect(0.0 < parameter < 1.0, "loss_parameter", parameter, "a share between 0 and 1 for loss 'quantile'")
    else:
        right = math.isfinite(parameter) and parameter > 0.0
        _expect(right, "loss_parameter", parameter, "a finite number above 0 for loss 'huber'")
    for name, from_zero in (("rate", False), ("l1", True), ("l2", True), ("clip", True)):
        value = getattr(settings, name)
        right = math.isfinite(value) and (value >= 0.0 if from_zero else value > 0.0)
        _expect(right, name, value, f"a finite number {'from' if from_zero else 'above'} 0")


def _expect(right: bool, setting: str, got: object, expected: str) -> None:
    if not right:
        raise ConfigError(f"linear model: {setting}: got {got!r}; expected {expected}")


def kernel_settings(settings: Settings) -> Floats:
    """Return the settings that kernels take, float64 (9,), at the positions `LOSS` to `CLIP`."""
    rate = RATES[settings.optimizer] if settings.rate is None else settings.rate
    # These optimisers also learn the scale of the numbers to predict; the others take them as they are.
    scale_target = settings.task == "regression" and settings.optimizer in ("blend", "quick")
    found: Floats = np.zeros(9)
    found[[LOSS, OPTIMIZER]] = LOSSES[settings.loss], OPTIMIZERS[settings.optimizer]
    found[[RATE, L1, L2]] = rate, settings.l1, settings.l2
    found[LOSS_PARAMETER] = settings.loss_parameter or 0.0
    found[[STANDARDIZE, SCALE_TARGET, CLIP]] = settings.standardize, scale_target, settings.clip or math.inf
    return found
