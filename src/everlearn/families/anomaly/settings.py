"""The settings of the family "anomaly": read, checked, and completed with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from msgspec import Struct

from everlearn.errors import ConfigError
from everlearn.families import specs

HALF_SPACE, QUANTILE, ISOLATION = range(3)  # detectors, and the places of their scores
USES = {
    "auto": (HALF_SPACE, QUANTILE),
    "half_space": (HALF_SPACE,),
    "quantile": (QUANTILE,),
    "isolation": (ISOLATION,),
}
HEIGHT = 8  # of half-space trees
LEAF_ROWS = 32  # rows from which the root of an isolation tree splits
WIDEST = 64  # dense columns that one isolation tree looks at
CELLS = 1 << 14  # most cells that count hashed entries
MOST_BYTES = 1 << 30
MISSING = float(np.finfo(np.float32).max)  # stands for a missing value in arrays, which are finite


class AnomalySettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a model of anomalies.

    `method` is "auto" (half-space trees and quantiles), "half_space", "quantile" or "isolation". A row is compared
    with the last `window` rows that were learned. `trees` are the trees of half spaces (25) or of isolation (32).
    Without `learn_anomalies`, rows labelled with the second class are not learned. `seed` decides all draws.
    """

    family: Literal["anomaly"] = "anomaly"
    task: Literal["binary"]
    dense: int
    hashed: int = 0
    classes: int = 2
    method: Literal["auto", "half_space", "quantile", "isolation"] = "auto"
    trees: int = 0
    window: int = 1024
    learn_anomalies: bool = True
    seed: int = 0


def read(spec: Mapping[str, Any]) -> AnomalySettings:
    """Check a spec and fill in its defaults.

    Raises `ConfigError`, which names the setting, its value and the right values.

    >>> read({"family": "anomaly", "task": "binary", "dense": 8}).trees
    25
    """
    given = dict(spec)
    if given.get("task", "binary") != "binary":
        raise ConfigError(
            f"anomaly model: task: got {given['task']!r}; expected 'binary', whose second class is the anomaly. "
            "Give the schema two classes, or run `everlearn init DATA --task anomaly`"
        )
    if not given.get("trees"):
        given["trees"] = 32 if given.get("method") == "isolation" else 25
    settings = specs.convert(given, AnomalySettings, "anomaly", {})
    _expect(settings, 0 <= settings.dense < 1 << 24, "dense", "a number of columns from 0 to 16777215")
    _expect(settings, 0 <= settings.hashed < 1 << 31, "hashed", "the size of a hash space, 0 to 2147483647")
    _expect(settings, settings.classes == 2, "classes", "2, normal rows and anomalies")
    _expect(settings, 1 <= settings.trees <= 1000, "trees", "1 to 1000")
    _expect(settings, 64 <= settings.window <= 1 << 16, "window", "64 to 65536 rows")
    _expect(settings, 0 <= settings.seed < 1 << 53, "seed", "a whole number from 0, below 2**53")
    if settings.method in ("half_space", "isolation"):
        _expect(settings, settings.dense > 0, "method", "'auto' or 'quantile' for rows without numbers: trees cut them")
    size = 8 * settings.window * settings.dense
    if size > MOST_BYTES:
        raise ConfigError(
            f"anomaly model: window: got {settings.window} rows of {settings.dense} columns, {size:,} bytes; expected "
            f"at most {MOST_BYTES:,} bytes. Lower `window`"
        )
    return settings


def written(settings: AnomalySettings) -> dict[str, Any]:
    """Return the complete spec of settings; `read` makes the same settings from it."""
    return specs.written(settings, {})


def depth(settings: AnomalySettings) -> int:
    """Return the depth of isolation trees: the binary logarithm of the leaves that a window fills."""
    return max(int(np.log2(settings.window / LEAF_ROWS)), 1)


def _expect(settings: AnomalySettings, right: bool, name: str, expected: str) -> None:
    if not right:
        raise ConfigError(f"anomaly model: {name}: got {getattr(settings, name)!r}; expected {expected}")
