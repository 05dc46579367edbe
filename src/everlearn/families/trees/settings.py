"""The settings of the families "tree" and "forest": read, checked, and completed with their defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from everlearn.errors import ConfigError
from everlearn.families import specs
from everlearn.families.trees import layout
from everlearn.records import Floats, Loss, LossKind, RowTask

MEMORY = {"tree": 16 << 20, "forest": 24 << 20}  # bytes, more where blocks are wide
ROOMY = 16  # blocks of each tree that a default budget has at least
RATE, NUMBER_RATE = 6.0, 3.0  # of the Poisson weights, for classes and for numbers
NUMBER_SHARE = 0.8  # of the columns that a leaf of a forest of numbers looks at
# the losses of a regression, by the names that the gate has for them
LOSSES: dict[str, LossKind] = {"squared": "squared", "absolute": "absolute", "quantile": "pinball"}
ENTRIES = 64  # hashed entries that a leaf observes
SHRINK = {"tree": 10.0, "forest": 0.1}  # rows of the prior variance in each variance of a leaf
TIE = 0.05  # a bound below which the better of two splits is taken (Domingos & Hulten 2000)
PARENTAL = 6  # the layout since which `prior` is "parent" for classes
PARENT, STREAM = "parent", "stream"
TWICE_ROOTED = 5  # the layout since which it is the share of forests of classes
TWICE_ROOT = "twice_root"  # of the columns, and 0.3 of them at least
HASHED_SHARE = 0.5  # of hashed entries at a leaf of a forest without dense columns


class TreeSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a Hoeffding tree or of an adaptive random forest.

    `dense`, `hashed` and `classes` are the shape of the rows. `trees` and `share` are those of a forest: members, and
    the share of the columns that a leaf looks at. "twice_root", the default for classes, is max(2 sqrt(columns), 0.3
    columns) of them. None is 0.8 for numbers, and max(sqrt(columns) + 1, 0.3 columns) for classes, as before layout 5.
    `memory` is the budget of all arrays of nodes and leaves in bytes. A leaf is examined after each
    `grace` of weight, and split with a confidence of 1 - `delta`. Each row counts as often as a Poisson number with
    mean `rate` says (None: 6, and 3 for numbers); 0 is once. `drift` replaces trees whose errors rise. `prior` says
    towards which variances those of a leaf of classes are drawn: those of its "parent", or of the "stream" as before
    layout 6; None, which numbers have, is that of the layout. `seed` decides all draws.

    `loss` is that of a regression: "squared", "absolute", or "quantile", of which `loss_parameter` (0.5) is the share.
    All grow the same trees, by variance; the leaves answer with a mean, or with a running quantile.
    """

    family: Literal["tree", "forest"] = "tree"
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    trees: int | None = None
    share: float | str | None = None
    memory: int | None = None
    grace: float = 50.0
    delta: float = 0.01
    rate: float | None = None
    drift: bool = True
    prior: Literal["parent", "stream"] | None = None
    loss: str | None = None
    loss_parameter: float | None = None
    seed: int = 0


def read(spec: Mapping[str, Any]) -> TreeSettings:
    """Check a spec and fill in its defaults.

    Raises `ConfigError`, which names the setting, its value and the right values.

    >>> read({"family": "forest", "task": "binary", "dense": 8}).trees
    10
    """
    given = dict(spec)
    family = str(given.get("family", "tree"))
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    if family == "forest" and given.get("task") != "regression" and specs.layout(spec, family) >= TWICE_ROOTED:
        given.setdefault("share", TWICE_ROOT)
    if given.get("task") != "regression":
        given.setdefault("prior", PARENT if specs.layout(spec, family) >= PARENTAL else STREAM)
    settings = specs.convert(given, TreeSettings, family, {})
    if settings.trees is None:
        settings = msgspec.structs.replace(settings, trees=10 if family == "forest" else 1)
    if settings.rate is None:
        settings = msgspec.structs.replace(settings, rate=NUMBER_RATE if settings.task == "regression" else RATE)
    if settings.task == "regression" and settings.loss is None:
        settings = msgspec.structs.replace(settings, loss="squared")
    if settings.loss == "quantile" and settings.loss_parameter is None:
        settings = msgspec.structs.replace(settings, loss_parameter=0.5)
    _check(settings)
    if settings.memory is None:
        settings = msgspec.structs.replace(settings, memory=max(MEMORY[family], _roomy(settings)))
    least = layout.needed(*_sizes(settings), columns=settings.dense, quick=settings.prior == PARENT)
    _expect(settings, (settings.memory or 0) >= least, "memory", f"at least {least} bytes for rows of this shape")
    return settings


def with_memory(spec: Mapping[str, Any], memory: int) -> dict[str, Any]:
    """Return a spec with a budget of `memory` bytes, more where rows are wide. Raises `ConfigError` as `read` does.

    >>> with_memory({"family": "forest", "task": "binary", "dense": 8}, 8 << 20)["memory"]
    8388608
    >>> with_memory({"family": "forest", "task": "multiclass", "classes": 100, "dense": 1000}, 8 << 20)["memory"] >> 20
    110
    """
    return {**spec, "memory": max(memory, _roomy(read(spec)))}


def written(settings: TreeSettings) -> dict[str, Any]:
    """Return the complete spec of settings; `read` makes the same settings from it."""
    return specs.written(settings, {})


def drawn(settings: TreeSettings) -> int:
    """Return how many dense columns each leaf looks at.

    >>> [drawn(read({"family": "forest", "task": "binary", "dense": d})) for d in (8, 54, 33)]
    [6, 16, 11]
    """
    d = settings.dense
    if settings.family == "tree" or d == 0:
        return d
    share = NUMBER_SHARE if settings.share is None and settings.task == "regression" else settings.share
    if share == TWICE_ROOT:
        return min(max(round(2.0 * math.sqrt(d)), round(0.3 * d)), d)
    if isinstance(share, float):
        return min(max(round(share * d), 1), d)
    return min(max(math.isqrt(d) + 1, round(0.3 * d)), d)


def sizes(settings: TreeSettings) -> layout.Shapes:
    """Return the sizes of each tree."""
    return layout.shapes(
        settings.memory or 0, *_sizes(settings), columns=settings.dense, quick=settings.prior == PARENT
    )


def kernel_settings(settings: TreeSettings) -> Floats:
    """Return the settings that kernels take, float64, at the positions `layout.SEED` to `layout.STEP`."""
    if settings.family == "tree":
        share = 1.0
    elif isinstance(settings.share, float):
        share = settings.share
    else:
        share = max(HASHED_SHARE, drawn(settings) / settings.dense) if settings.dense else HASHED_SHARE
    found: Floats = np.zeros(layout.SETTINGS)
    found[layout.SEED] = settings.seed
    found[[layout.GRACE, layout.BITS, layout.TIE]] = settings.grace, -math.log(settings.delta), TIE
    times = max(settings.rate or 0.0, 1.0) if settings.family == "tree" and settings.prior == PARENT else 1.0
    found[[layout.SHRINK, layout.RATE]] = SHRINK[settings.family] * times, settings.rate or 0.0
    found[[layout.SHARE, layout.DETECTS, layout.STEP]] = share, settings.drift, 1.0
    loss = own_loss(settings)
    if loss is not None and loss.kind != "squared":
        found[layout.QUANTILE] = loss.parameter or 0.5
        found[layout.NORMAL] = NormalDist().inv_cdf(found[layout.QUANTILE])
    return found


def own_loss(settings: TreeSettings) -> Loss | None:
    """Return the loss of a regression by the name of the gate; None for classes.

    >>> own_loss(read({"task": "regression", "dense": 8, "loss": "quantile", "loss_parameter": 0.9}))
    Loss(kind='pinball', parameter=0.9)
    """
    kind = LOSSES.get(settings.loss or "")
    return Loss(kind, settings.loss_parameter or 0.0) if kind is not None else None


def _roomy(settings: TreeSettings) -> int:
    """Return the bytes of trees of `ROOMY` blocks each."""
    return layout.needed(*_sizes(settings), blocks=ROOMY, columns=settings.dense, quick=settings.prior == PARENT)


def _sizes(settings: TreeSettings) -> tuple[int, int, int, int]:
    entries = ENTRIES if settings.hashed else 0
    return settings.trees or 1, settings.classes, drawn(settings), entries


def _check(settings: TreeSettings) -> None:
    """Raise `ConfigError` for values that do not fit the task or the family, or are out of range."""
    classes = settings.classes
    _expect(settings, 0 <= settings.dense < 1 << 24, "dense", "a number of columns from 0 to 16777215")
    _expect(settings, 0 <= settings.hashed < 1 << 31, "hashed", "the size of a hash space, 0 to 2147483647")
    if settings.task == "binary":
        _expect(settings, classes == 2, "classes", "2 for task 'binary'")
    if settings.task == "regression":
        _expect(settings, classes == 0, "classes", "0 for task 'regression'")
        _expect(settings, settings.prior is None, "prior", "none for task 'regression'")
        known = ", ".join(map(repr, LOSSES))
        _expect(settings, settings.loss in LOSSES, "loss", f"one of {known}; the family 'linear' has 'huber'")
    else:
        _expect(settings, 2 <= classes <= 1 << 16, "classes", "2 to 65536")
        _expect(settings, settings.loss is None, "loss", f"none for task {settings.task!r}")
        _expect(settings, settings.prior is not None, "prior", "'parent' or 'stream'")
    if settings.loss == "quantile":
        right = 0.0 < (settings.loss_parameter or 0.0) < 1.0
        _expect(settings, right, "loss_parameter", "a share between 0 and 1 for loss 'quantile'")
    else:
        _expect(settings, settings.loss_parameter is None, "loss_parameter", f"none for loss {settings.loss!r}")
    if settings.family == "tree":
        _expect(settings, settings.trees == 1, "trees", "1 for the family 'tree'; use the family 'forest'")
        _expect(settings, settings.share is None, "share", "none for the family 'tree'; use the family 'forest'")
    _expect(settings, 1 <= (settings.trees or 1) <= 10_000, "trees", "1 to 10000")
    if isinstance(settings.share, float):
        _expect(settings, 0.0 < settings.share <= 1.0, "share", "above 0, at most 1")
    elif settings.share is not None:
        right, more = settings.share == TWICE_ROOT and classes > 0, f", or {TWICE_ROOT!r} for classes"
        _expect(settings, right, "share", f"above 0, at most 1{more}")
    _expect(settings, 1.0 <= settings.grace < math.inf, "grace", "a finite weight from 1")
    _expect(settings, 0.0 < settings.delta < 1.0, "delta", "a probability between 0 and 1")
    _expect(settings, 0.0 <= (settings.rate or 0.0) <= 20.0, "rate", "0 to 20")
    _expect(settings, 0 <= settings.seed < 1 << 53, "seed", "a whole number from 0, below 2**53")


def _expect(settings: TreeSettings, right: bool, name: str, expected: str) -> None:
    if not right:
        got = getattr(settings, name)
        raise ConfigError(f"{settings.family} model: {name}: got {got!r}; expected {expected}")
