"""The settings of the family "mondrian": read, checked, and completed with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from everlearn.errors import ConfigError
from everlearn.families import specs
from everlearn.families.mondrian import layout
from everlearn.records import Floats, Loss, LossKind, RowTask

MEMORY = 24 << 20  # bytes
NUMBER_TREES, NUMBER_NODES = 5, 1000  # of numbers, whose nodes take more time
ROOMY = 256  # nodes of each tree that a default budget has at least
# the losses of a regression, by the names that the gate has for them
LOSSES: dict[str, LossKind] = {"squared": "squared", "absolute": "absolute", "quantile": "pinball"}
PRIOR = 0.5  # rows that every node has before its first, spread evenly over the classes


class MondrianSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of an aggregated Mondrian forest.

    `dense`, `hashed` and `classes` are the shape of the rows. `trees` are the members (5 for numbers). A tree has at
    most `nodes` nodes (1000 for numbers), and fewer where all trees would take more than `memory` bytes. `drift`
    replaces trees whose errors rise. `seed` decides all draws.

    `loss` is that of a regression: "squared", "absolute", or "quantile", of which `loss_parameter` (0.5) is the share.
    """

    family: Literal["mondrian"] = "mondrian"
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    trees: int = 10
    nodes: int = 4000
    memory: int | None = None
    drift: bool = True
    loss: str | None = None
    loss_parameter: float | None = None
    seed: int = 0


def read(spec: Mapping[str, Any]) -> MondrianSettings:
    """Check a spec and fill in its defaults.

    Raises `ConfigError`, which names the setting, its value and the right values.

    >>> read({"family": "mondrian", "task": "binary", "dense": 8}).memory
    25165824
    """
    given = dict(spec)
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    if given.get("task") == "regression":
        given.setdefault("trees", NUMBER_TREES)
        given.setdefault("nodes", NUMBER_NODES)
    settings = specs.convert(given, MondrianSettings, "mondrian", {})
    if settings.task == "regression" and settings.loss is None:
        settings = msgspec.structs.replace(settings, loss="squared")
    if settings.loss == "quantile" and settings.loss_parameter is None:
        settings = msgspec.structs.replace(settings, loss_parameter=0.5)
    _check(settings)
    shape = settings.trees, settings.classes, settings.dense, settings.hashed
    if settings.memory is None:
        roomy = layout.needed(*shape, nodes=min(ROOMY, settings.nodes))
        settings = msgspec.structs.replace(settings, memory=max(MEMORY, roomy))
    least = layout.needed(*shape)
    _expect(settings, (settings.memory or 0) >= least, "memory", f"at least {least} bytes for rows of this shape")
    return settings


def written(settings: MondrianSettings) -> dict[str, Any]:
    """Return the complete spec of settings; `read` makes the same settings from it."""
    return specs.written(settings, {})


def sizes(settings: MondrianSettings) -> layout.PoolSizes:
    """Return the sizes of each tree."""
    shape = settings.classes, settings.dense, settings.hashed
    return layout.shapes(settings.memory or 0, settings.trees, settings.nodes, *shape)


def kernel_settings(settings: MondrianSettings) -> Floats:
    """Return the settings that kernels take, float64, at the positions `layout.SEED` to `layout.STEP`."""
    found: Floats = np.zeros(layout.SETTINGS)
    found[[layout.SEED, layout.DETECTS, layout.STEP]] = settings.seed, settings.drift, 1.0
    loss = own_loss(settings)
    if loss is None:
        found[layout.PRIOR] = PRIOR / settings.classes
    elif loss.kind != "squared":
        found[layout.QUANTILE] = loss.parameter or 0.5
    return found


def own_loss(settings: MondrianSettings) -> Loss | None:
    """Return the loss of a regression by the name of the gate; None for classes.

    >>> own_loss(read({"family": "mondrian", "task": "regression", "dense": 8, "loss": "quantile"}))
    Loss(kind='pinball', parameter=0.5)
    """
    kind = LOSSES.get(settings.loss or "")
    return Loss(kind, settings.loss_parameter or 0.0) if kind is not None else None


def _check(settings: MondrianSettings) -> None:
    """Raise `ConfigError` for values that do not fit the task, or are out of range."""
    _expect(settings, 0 <= settings.dense < 1 << 24, "dense", "a number of columns from 0 to 16777215")
    _expect(settings, 0 <= settings.hashed < 1 << 31, "hashed", "the size of a hash space, 0 to 2147483647")
    if settings.task == "binary":
        _expect(settings, settings.classes == 2, "classes", "2 for task 'binary'")
    if settings.task == "regression":
        _expect(settings, settings.classes == 0, "classes", "0 for task 'regression'")
        known = ", ".join(map(repr, LOSSES))
        _expect(settings, settings.loss in LOSSES, "loss", f"one of {known}; the family 'linear' has 'huber'")
    else:
        _expect(settings, 2 <= settings.classes <= 1 << 16, "classes", "2 to 65536")
        _expect(settings, settings.loss is None, "loss", f"none for task {settings.task!r}")
    if settings.loss == "quantile":
        right = 0.0 < (settings.loss_parameter or 0.0) < 1.0
        _expect(settings, right, "loss_parameter", "a share between 0 and 1 for loss 'quantile'")
    else:
        _expect(settings, settings.loss_parameter is None, "loss_parameter", f"none for loss {settings.loss!r}")
    _expect(settings, 1 <= settings.trees <= 10_000, "trees", "1 to 10000")
    least = layout.LEAST_NODES
    _expect(settings, least <= settings.nodes <= 1 << 24, "nodes", f"{least} to 16777216")
    _expect(settings, 0 <= settings.seed < 1 << 53, "seed", "a whole number from 0, below 2**53")


def _expect(settings: MondrianSettings, right: bool, name: str, expected: str) -> None:
    if not right:
        raise ConfigError(f"mondrian model: {name}: got {getattr(settings, name)!r}; expected {expected}")
