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
from everlearn.records import Floats

MEMORY = 24 << 20  # bytes
ROOMY = 256  # nodes of each tree that a default budget has at least
PRIOR = 0.5  # rows that every node has before its first, spread evenly over the classes


class MondrianSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of an aggregated Mondrian forest.

    `dense`, `hashed` and `classes` are the shape of the rows. `trees` are the members. A tree has at most `nodes`
    nodes, and fewer where all trees would take more than `memory` bytes. `drift` replaces trees whose errors rise.
    `seed` decides all draws.
    """

    family: Literal["mondrian"] = "mondrian"
    task: Literal["binary", "multiclass"]
    dense: int
    hashed: int = 0
    classes: int = 0
    trees: int = 10
    nodes: int = 4000
    memory: int | None = None
    drift: bool = True
    seed: int = 0


def read(spec: Mapping[str, Any]) -> MondrianSettings:
    """Check a spec and fill in its defaults.

    Raises `ConfigError`, which names the setting, its value and the right values.

    >>> read({"family": "mondrian", "task": "binary", "dense": 8}).memory
    25165824
    """
    given = dict(spec)
    if given.get("task") == "regression":
        raise ConfigError(
            "mondrian model: task: got 'regression'; expected 'binary' or 'multiclass'. Use the family 'linear'"
        )
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    settings = specs.convert(given, MondrianSettings, "mondrian", {})
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
    """Return the settings that kernels take, float64, at the positions `layout.SEED` to `layout.DETECTS`."""
    found: Floats = np.zeros(layout.SETTINGS)
    found[[layout.SEED, layout.PRIOR, layout.DETECTS]] = settings.seed, PRIOR / settings.classes, settings.drift
    return found


def _check(settings: MondrianSettings) -> None:
    """Raise `ConfigError` for values that do not fit the task, or are out of range."""
    _expect(settings, 0 <= settings.dense < 1 << 24, "dense", "a number of columns from 0 to 16777215")
    _expect(settings, 0 <= settings.hashed < 1 << 31, "hashed", "the size of a hash space, 0 to 2147483647")
    if settings.task == "binary":
        _expect(settings, settings.classes == 2, "classes", "2 for task 'binary'")
    _expect(settings, 2 <= settings.classes <= 1 << 16, "classes", "2 to 65536")
    _expect(settings, 1 <= settings.trees <= 10_000, "trees", "1 to 10000")
    least = layout.LEAST_NODES
    _expect(settings, least <= settings.nodes <= 1 << 24, "nodes", f"{least} to 16777216")
    _expect(settings, 0 <= settings.seed < 1 << 53, "seed", "a whole number from 0, below 2**53")


def _expect(settings: MondrianSettings, right: bool, name: str, expected: str) -> None:
    if not right:
        raise ConfigError(f"mondrian model: {name}: got {getattr(settings, name)!r}; expected {expected}")
