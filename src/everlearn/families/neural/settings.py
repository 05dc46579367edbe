"""The neural family's dials: read, checked, completed with their defaults."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field, inspect

from everlearn.errors import ConfigError
from everlearn.families.neural.terms import AnyTerm, fitting
from everlearn.families.neural.terms.replay import Replay
from everlearn.records import Task

MIB = 1 << 20

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class Memory(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is remembered: at most `rows` rows (0: any number) in at most `bytes` bytes, whichever is less.

    Dense columns are stored as `dtype`, and a row that this does not hold exactly is refused. `augment` names a
    function ("module:function", or "shift", "crop", "flip", "noise") that changes remembered rows when they are drawn.
    """

    kind: Literal["none", "window", "reservoir", "balanced", "loss", "gradient"] = "balanced"
    rows: Count = 0
    bytes: Count = 4 * MIB
    dtype: Literal["float32", "float16", "uint8", "int16", "int32"] = "float32"
    augment: str = ""


class Consolidate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When anchors are taken: `every` so many rows (0: never), or when who knows a border calls `consolidate()`
    (`told`); and what they look at: the newest `rows` rows."""

    every: Count = 0
    told: bool = False
    rows: Positive = 256


class Drift(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the network does when the detector sees its own loss rise: anchors are taken, and the learning rate is
    multiplied by `rate` for `grace_period` rows."""

    detector: Literal["none", "adwin", "page_hinkley", "ddm", "kswin"] = "none"
    sensitivity: Annotated[float, Meta(gt=0, lt=1)] = 0.002
    grace_period: Positive = 500
    rate: Annotated[float, Meta(gt=0)] = 1.0
    consolidate: bool = True


class Schedule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The learning rate over steps: up from 0 in `warmup` steps, then "constant", or down to `floor` times the rate
    in `steps` steps ("linear", "cosine")."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Count = 0
    steps: Positive = 1000
    floor: Annotated[float, Meta(ge=0, le=1)] = 0.1


class Lora(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Low-rank adapters (through PEFT): only they are trained, and `also` (names of modules, for instance the head).

    `targets` are names of modules, or their ends ("q_proj"); empty: every linear or convolution layer but the last,
    which is in `also` then.
    """

    rank: Positive = 8
    alpha: Annotated[float, Meta(gt=0)] = 16.0
    targets: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    dora: bool = False
    rslora: bool = False


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a neural model is made of.

    `module` names the function (or class) that makes the network, called with `arguments`; "mlp" is a built-in one.
    The shape of a row is (`dense`,), or `shape` where columns are an image or a sequence; columns are cast to `dtype`
    and multiplied by `scale`, or, with `normalize`, standardised by their running mean and deviation (None: where
    there is neither shape nor scale). Rows have at most `width` hashed features. A step is taken for each `batch`
    rows, `passes` times over; `clip` bounds the norm of the gradient (0: it is not).

    `ema` is how much of the average of weights that serves stays at each step (0: what is trained serves); with
    `restart` the average begins anew when a class is met for the first time and after drift, so that it does not lag.
    With `balance` classes are learned as if all were equally frequent (the log of how frequent each is in what is
    learned is added to its output: Menon et al. 2021), and answers expect it to be as frequent as it was: half of this
    is its share of all rows, half that of about the newest `prior` rows (0: all of it is its share of all rows).

    `heads` are groups of classes that have a softmax of their own while learning; `head` "ncm" answers by the nearest
    class mean. A class is answered once a row of it was met, or at once where they are all `known` to the module.
    `frozen` says where weights that are not trained live: in arrays ("kept"), or made anew with the module
    ("rebuilt"), which saves room.
    """

    family: str = "neural"
    module: str = "mlp"
    arguments: dict[str, Any] = {}
    task: Task
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
        """Whether classes are learned as if all were equally frequent; a loss of the user's own is left as it is."""
        return self.balance and self.classes > 0 and self.loss == "auto"

    @property
    def outputs(self) -> int:
        """Columns of what `predict` returns, and of what the network does."""
        return 1 if self.task == "regression" else self.classes


def read(spec: Mapping[str, Any]) -> Settings:
    """Check a spec and fill in its defaults; raise `ConfigError` that names the dial, what was got and expected.

    >>> read({"task": "binary", "dense": 8}).classes
    2
    """
    given = dict(spec)
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    if isinstance(given.get("optimizer"), str):
        given["optimizer"] = {"name": given["optimizer"]}
    try:
        chosen = msgspec.convert(given, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"neural model: {_fault(str(error), given)}") from error
    _check(chosen)
    return msgspec.structs.replace(chosen, terms=fitting(chosen.terms, chosen.memory.kind, told="terms" in given))


def _check(chosen: Settings) -> None:
    """Refuse classes and heads that do not fit the task, and a head of means without rows to make them of."""
    expected = {
        "regression": (chosen.classes == 0, "0, for there are none; set task to 'multiclass' where there are"),
        "binary": (chosen.classes == 2, "2; set task to 'multiclass' for more"),
        "multiclass": (chosen.classes >= 2, "at least 2: set it to how many classes labels can have"),
    }
    fits, words = expected[chosen.task]
    if not fits:
        raise ConfigError(f"neural model: classes is {chosen.classes} and task is {chosen.task!r}, expected {words}")
    if chosen.heads and not chosen.classes:
        raise ConfigError(
            f"neural model: heads are {chosen.heads} and task is 'regression', which has no classes to group; leave "
            "heads out"
        )
    if chosen.head == "ncm" and chosen.memory.kind == "none":
        raise ConfigError(
            "neural model: head is 'ncm', which answers by means of remembered rows, and memory.kind is 'none'; "
            "expected another memory.kind, or head 'module'"
        )


def _fault(message: str, given: Mapping[str, Any]) -> str:
    """What msgspec says of a spec, with the path of the dial, what was got, and what that place may hold."""
    what, _, where = message.rpartition(" - at ")
    if not what or " in " in where:  # of the whole spec, or of a key that is no text
        what, where = what or where, where.partition(" in ")[2]
    path = [int(one) if one.isdigit() else one for one in re.findall(r"[^$`.\[\]]+", where)]
    kind, got = _walked(given, path)
    holder, at, above = _walked(given, path[:-1])[0], _written(path), _written(path[:-1])
    if found := re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", what):
        name = found[2]
        if found[1] == "missing required":
            return f"{at or 'the spec'} lacks {name!r}; {_known(kind, at)}"
        here = f"{at}.{name}" if at else name
        return f"{here} is {reprlib.repr(got.get(name))}, and there is no such dial; {_known(kind, at)}"
    if isinstance(kind, inspect.LiteralType):
        what = f"expected one of {', '.join(map(repr, kind.values))}"
    elif path and path[-1] == "kind" and (kinds := _terms(holder)):
        return f"{at} is {reprlib.repr(got)}, expected one of {', '.join(map(repr, kinds))}"
    known = f"; {_known(holder, above)}" if isinstance(holder, inspect.StructType) else ""
    return f"{at} is {reprlib.repr(got)}, {what[0].lower()}{what[1:]}{known}"


def _walked(given: Any, path: Sequence[int | str]) -> tuple[Any, Any]:
    """What msgspec holds of the type at a path within a spec, and the value that is there."""
    kind: Any = inspect.type_info(Settings)
    value: Any = given
    for step in path:
        if isinstance(kind, inspect.StructType):
            kind = next((one.type for one in kind.fields if one.encode_name == step), None)
        else:
            kind = getattr(kind, "item_type", None)
        within = isinstance(value, Mapping) or (isinstance(value, Sequence) and isinstance(step, int))
        value = value[step] if within else None
        if isinstance(kind, inspect.UnionType):
            structs = [one for one in kind.types if isinstance(one, inspect.StructType)]
            tag = value.get("kind") if isinstance(value, Mapping) else None
            kind = next((one for one in structs if one.tag == tag), kind)
    return kind, value


def _terms(kind: Any) -> list[str]:
    """The kinds of terms there are, of the type of one that is not known."""
    return sorted(str(one.tag) for one in getattr(kind, "types", ()) if getattr(one, "tag", None))


def _written(path: Sequence[int | str]) -> str:
    """A path as people write it: terms[0].kind."""
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in path).removeprefix(".")


def _known(kind: Any, at: str) -> str:
    """The dials of a table, or the kinds of terms."""
    if tags := _terms(kind):
        return f"expected kind to be one of {', '.join(map(repr, tags))}"
    names = [one.encode_name for one in kind.fields] if isinstance(kind, inspect.StructType) else []
    of = f" of {kind.tag}" if getattr(kind, "tag", None) else f" of {at}" if at else ""
    return f"known dials{of}: {', '.join(names) or 'none'}"
