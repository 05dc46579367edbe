"""The settings of the neural family: read, checked, and completed with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from everlearn.errors import ConfigError
from everlearn.families import specs
from everlearn.families.neural.terms import AnyTerm, fitting
from everlearn.families.neural.terms.replay import Replay
from everlearn.families.specs import Retired
from everlearn.records import RowTask

MIB = 1 << 20

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]

_OWN = "Write a module with it: module = 'your_module:function'"
RETIRED = {
    "compile": Retired(False, "Compile inside your module, which is made by your own function"),
    "consolidate.told": Retired(False, "Leave it out; a call of model.consolidate() needs no setting"),
    "schedule.floor": Retired(0.1, "Leave it out: a tenth of the rate is left"),
    "drift.grace_period": Retired(500, "Leave it out: 500 rows calibrate the detector"),
    "lora.dropout": Retired(0.0, f"Leave it out. {_OWN}"),
    "terms.agem.rows": Retired(64, "Leave it out: 64 remembered rows give the reference"),
    "terms.gdumb.epochs": Retired(30, "Leave it out: there are 30 passes, as published"),
    "terms.ewc.labels": Retired("model", "Leave it out: labels are drawn from the network's own predictions"),
    "terms.si.damping": Retired(0.1, "Leave it out: the damping is 0.1, as published"),
    "terms.mas.decay": Retired(0.5, "Leave it out: half of the importance stays at each consolidation"),
    "terms.lwf.temperature": Retired(2.0, "Leave it out: the temperature is 2, as published"),
    "terms.continual_backprop.maturity": Retired(100, "Leave it out: a unit matures in 100 steps"),
    "terms.continual_backprop.decay": Retired(0.99, "Leave it out: the decay of utilities is 0.99"),
}
"""Settings of release 0.1 with a fixed value now; see `everlearn.families.specs`."""

CLASS_SETTINGS = ("restart", "balance", "prior", "known")  # of release 0.1; part of `new_classes` now
NEW_CLASSES: dict[str, tuple[bool, bool, int, bool]] = {
    "recent": (True, True, 500, False),
    "overall": (True, True, 0, False),
    "final": (False, True, 0, False),
    "known": (True, True, 500, True),
    "plain": (False, False, 500, False),
    "fixed": (True, False, 500, True),
}
"""The values of `restart`, `balance`, `prior` and `known` for each value of `new_classes`."""


class Memory(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The replay memory: at most `rows` rows (0: no limit) in at most `bytes` bytes, whichever is less.

    Dense columns are stored as `dtype`; a row that this type does not hold exactly is refused. `augment` names a
    function ("module:function", or "shift", "crop", "flip", "noise") that changes rows when they are drawn.
    """

    kind: Literal["none", "window", "reservoir", "balanced", "loss", "gradient"] = "balanced"
    rows: Count = 0
    bytes: Count = 4 * MIB
    dtype: Literal["float32", "float16", "uint8", "int16", "int32"] = "float32"
    augment: str = ""


class Consolidate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Consolidation: terms take anchors from the newest `rows` rows, after each `every` rows (0: never by rows).

    A call of `model.consolidate()` takes anchors, too. Retired: `told`.
    """

    every: Count = 0
    told: bool = False
    rows: Positive = 256


class Drift(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The reaction to a rise of the network's own loss: `consolidate` takes anchors, and the learning rate is
    multiplied by `rate` for 500 rows. Retired: `grace_period`, these rows."""

    detector: Literal["none", "adwin", "page_hinkley", "ddm", "kswin"] = "none"
    sensitivity: Annotated[float, Meta(gt=0, lt=1)] = 0.002
    grace_period: Positive = 500
    rate: Annotated[float, Meta(gt=0)] = 1.0
    consolidate: bool = True


class Schedule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The learning rate over steps: up from 0 in `warmup` steps, then "constant", or down to a tenth of the rate in
    `steps` steps ("linear", "cosine"). Retired: `floor`, this tenth."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Count = 0
    steps: Positive = 1000
    floor: Annotated[float, Meta(ge=0, le=1)] = 0.1


class Lora(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Low-rank adapters (through PEFT). Only they are trained, and the modules named in `also`, such as the head.

    `targets` are names of modules, or their ends ("q_proj"); empty: every linear or convolution layer but the last,
    which is then trained as a whole. The scale of what adapters add is alpha / rank, with `rslora` alpha / sqrt(rank).
    `dora` learns the length of each row of a weight apart from its direction. Retired: `dropout`.
    """

    rank: Positive = 8
    alpha: Annotated[float, Meta(gt=0)] = 16.0
    targets: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    dora: bool = False
    rslora: bool = False


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a neural model.

    `module` names the function (or class) that makes the network, called with `arguments`; "mlp" is built in. A row
    has the shape (`dense`,), or `shape` for an image or a sequence. Columns are cast to `dtype` and multiplied by
    `scale`, or, with `normalize`, standardised by their running mean and deviation (None: without shape and scale).
    Rows have at most `width` hashed features. Each `batch` rows make `passes` steps; `clip` bounds the norm of the
    gradient (0: no bound). `ema` is the share of the average of weights that stays at each step; the average predicts
    (0: the trained weights predict).

    `new_classes` selects how classes that appear, or change in frequency, are learned and predicted:

    "recent"   Learn classes as if all were equally frequent: the log of the share of each class in the learned rows
               is added to its output (Menon et al. 2021). Predictions expect a class as often as in all rows (one half)
               and in about the newest 500 rows (the other half). A class is predicted once a row of it has come. The
               average of weights restarts at the first row of a class and after drift, so that it does not lag.
    "overall"  As "recent", but predictions expect a class as often as in all rows.
    "final"    As "overall", but the average does not restart: for a test of all classes at the end of a stream.
    "known"    As "recent", but every class is predicted from the start, for a module that was trained on them.
    "plain"    Learn and predict classes as they come, without a correction. A class is predicted once a row of it has
               come, and the average does not restart.
    "fixed"    As "known", but without a correction.

    `heads` are groups of classes; each group has a separate softmax while learning. `head` "ncm" predicts the nearest
    class mean. `frozen` is where weights that are not trained are stored: in arrays ("kept"), or nowhere, since the
    module makes them again ("rebuilt"), which saves room.

    Retired: `compile`, and `restart`, `balance`, `prior` and `known`, which `new_classes` sets together.
    """

    family: str = "neural"
    module: str = "mlp"
    arguments: dict[str, Any] = {}
    task: RowTask
    dense: Count
    hashed: Count = 0
    classes: Count = 0
    width: Positive = 64
    shape: tuple[Positive, ...] = ()
    dtype: Literal["float32", "int64"] = "float32"
    scale: float = 1.0
    normalize: bool | None = None
    optimizer: dict[str, Any] = field(default_factory=lambda: {"name": "adam", "lr": 0.001})
    schedule: Schedule = Schedule()
    loss: str = "auto"
    batch: Positive = 10
    passes: Positive = 1
    clip: NotNegative = 0.0
    ema: Annotated[float, Meta(ge=0, lt=1)] = 0.998
    new_classes: Literal["recent", "overall", "final", "known", "plain", "fixed"] = "recent"
    restart: bool = True
    balance: bool = True
    prior: Count = 500
    known: bool = False
    memory: Memory = Memory()
    terms: tuple[AnyTerm, ...] = (Replay(),)
    consolidate: Consolidate = Consolidate()
    drift: Drift = Drift()
    heads: tuple[tuple[Count, ...], ...] = ()
    head: Literal["module", "ncm"] = "module"
    lora: Lora | None = None
    frozen: Literal["kept", "rebuilt"] = "kept"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    compile: bool = False
    one_at_a_time: bool = True
    seed: int = 0

    @property
    def balances(self) -> bool:
        """True if classes are learned as if all were equally frequent; never with a loss of the user."""
        return self.balance and self.classes > 0 and self.loss == "auto"

    @property
    def outputs(self) -> int:
        """Columns of the result of `predict`, and of the output of the network."""
        return 1 if self.task == "regression" else self.classes


def read(spec: Mapping[str, Any]) -> Settings:
    """Check a spec and fill in its defaults.

    `restart`, `balance`, `prior` and `known`, as release 0.1 writes them, are read as `new_classes`. Raises
    `ConfigError`, which names the setting, its value and the right values.

    >>> read({"task": "binary", "dense": 8}).classes
    2
    >>> read({"task": "binary", "dense": 8, "restart": True, "balance": True, "prior": 0, "known": False}).new_classes
    'overall'
    """
    given = dict(spec)
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    if isinstance(given.get("optimizer"), str):
        given["optimizer"] = {"name": given["optimizer"]}
    settings = specs.convert(_with_new_classes(given), Settings, "neural", RETIRED, hidden=CLASS_SETTINGS)
    _check(settings)
    terms = fitting(settings.terms, settings.memory.kind, given="terms" in given)
    return msgspec.structs.replace(settings, terms=terms)


def written(settings: Settings) -> dict[str, Any]:
    """Return the complete spec of settings; `read` makes the same settings from it."""
    spec = specs.written(settings, RETIRED)
    if NEW_CLASSES[settings.new_classes] == tuple(spec[name] for name in CLASS_SETTINGS):
        return {name: value for name, value in spec.items() if name not in CLASS_SETTINGS}
    return {**spec, "layout": specs.STORED}


def _with_new_classes(given: dict[str, Any]) -> dict[str, Any]:
    """Return a spec in which `new_classes` and the retired settings that it stands for agree.

    Raises `ConfigError` where retired settings are given in a combination that no value of `new_classes` has, unless
    the spec is a stored one.
    """
    base = NEW_CLASSES.get(str(given.get("new_classes", "recent")))
    if base is None:
        return given  # refused with the right values by the record
    values = tuple(given.get(name, value) for name, value in zip(CLASS_SETTINGS, base, strict=True))
    if not values[1] and specs.layout(given, "neural") != specs.STORED:
        values = (values[0], values[1], base[2], values[3])  # without `balance`, `prior` has no effect
    choice = next((name for name, known in NEW_CLASSES.items() if known == values), None)
    if choice is not None:
        given = {**given, "new_classes": choice}
    elif specs.layout(given, "neural") != specs.STORED:
        retired = {name: given[name] for name in CLASS_SETTINGS if name in given}
        raise ConfigError(
            f"neural model: got {', '.join(f'{name} {value!r}' for name, value in retired.items())}; these settings "
            f"are part of new_classes now. Leave them out and set new_classes to one of {', '.join(NEW_CLASSES)}"
        )
    return given | dict(zip(CLASS_SETTINGS, values, strict=True))


def _check(settings: Settings) -> None:
    """Raise `ConfigError` for classes and heads that do not fit the task, and for "ncm" without a memory."""
    expected = {
        "regression": (settings.classes == 0, "0. For classes, set task to 'multiclass'"),
        "binary": (settings.classes == 2, "2. For more, set task to 'multiclass'"),
        "multiclass": (settings.classes >= 2, "at least 2, the number of classes that labels can have"),
    }
    fits, words = expected[settings.task]
    if not fits:
        raise ConfigError(
            f"neural model: classes: got {settings.classes} with task {settings.task!r}; expected {words}"
        )
    if settings.heads and not settings.classes:
        raise ConfigError(
            f"neural model: heads: got {settings.heads} with task 'regression'; expected none, as there are no classes "
            "to group. Leave heads out"
        )
    if settings.head == "ncm" and settings.memory.kind == "none":
        raise ConfigError(
            "neural model: head: got 'ncm' with memory.kind 'none'; expected a memory, as the class means are those of "
            "remembered rows. Set another memory.kind, or head to 'module'"
        )
