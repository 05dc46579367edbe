"""Merge forests of the partitions of one stream: each tree has an owner, which alone trains it.

Partition p of n owns the trees p, p + n, p + 2n and so on. A partition predicts with all trees, and trains its own on
its rows; a merge takes each tree from its owner. Trees are never averaged. What the trees share is merged: the moments
of the columns of the stream are those of all rows, and the clock counts all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import ConfigError
from everlearn.families.mondrian import layout as mondrian
from everlearn.families.mondrian.model import Mondrian
from everlearn.families.trees import layout
from everlearn.families.trees.model import Trees
from everlearn.merge.partitions import PartitionRules, added, pooled_since
from everlearn.model import Model
from everlearn.records import Arrays, Floats

_SHARED = frozenset({"moments", "clock", "learn/moments", "learn/clock", "centres", "target"})


def owned(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return an array whose place t on the first axis comes from its owner, part t modulo the number of parts.

    >>> owned([np.array([1, 1, 1]), np.array([2, 2, 2])]).tolist()
    [1, 2, 1]
    """
    found = np.array(parts[0])
    for partition in range(1, len(parts)):
        found[partition :: len(parts)] = parts[partition][partition :: len(parts)]
    return found


def merge_forest(spec: Mapping[str, Any], base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Return the merged arrays of forests."""
    merged = {name: owned([part[name] for part in parts]) for name in base if name not in _SHARED}
    merged["clock"] = added(base["clock"], [part["clock"] for part in parts])
    merged["moments"] = merge_columns(base["moments"], [part["moments"] for part in parts])
    if spec["task"] == "regression":  # the last column is that of the targets, and OTHER their unit
        merged["moments"][layout.KIND, -1] = base["moments"][layout.KIND, -1]
    return merged


def merge_columns(base: Floats, parts: Sequence[Floats]) -> Floats:
    """Merge the moments of the columns of a stream, float64 (6, columns).

    Values count from an origin, the first value of a column. Parts whose base had none yet have their own; the first
    one is taken, and the means of the others are moved to it. A column is binary if all parts saw the same two values.
    """
    origins = [part[layout.ORIGIN] for part in parts]
    counted = [part[layout.COUNT] > 0.0 for part in parts]
    origin, begun = base[layout.ORIGIN].copy(), base[layout.COUNT] > 0.0
    for own, has in zip(origins, counted, strict=True):
        origin = np.where(~begun & has, own, origin)
        begun = begun | has
    moved = [part.copy() for part in parts]
    for part, has in zip(moved, counted, strict=True):
        part[layout.CENTRE] += np.where(has, part[layout.ORIGIN] - origin, 0.0)
    sums = slice(layout.COUNT, layout.DEVIATIONS + 1)
    found = np.concatenate([pooled_since(base[sums], [part[sums] for part in moved]), np.zeros((3, base.shape[1]))])
    found[layout.ORIGIN] = origin
    other, kind = base[layout.OTHER].copy(), base[layout.KIND].copy()
    for part, has in zip(parts, counted, strict=True):
        own = part[layout.OTHER] + np.where(has, part[layout.ORIGIN] - origin, 0.0)
        apart = (kind == layout.BINARY) & (part[layout.KIND] == layout.BINARY) & (own != other)
        shifted = has & (part[layout.ORIGIN] != origin)
        varied = part[layout.KIND] > layout.CONSTANT
        other = np.where((kind == layout.CONSTANT) & varied, own, other)
        kind = np.where(apart | (shifted & varied), layout.NUMERIC, np.maximum(kind, part[layout.KIND]))
    found[layout.OTHER], found[layout.KIND] = other, kind
    return found


def merge_mondrian(spec: Mapping[str, Any], base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Return the merged arrays of Mondrian forests."""
    merged = {name: owned([part[name] for part in parts]) for name in base if name not in _SHARED}
    merged["learn/clock"] = added(base["learn/clock"], [part["learn/clock"] for part in parts])
    moments = pooled_since(base["learn/moments"], [part["learn/moments"] for part in parts])
    merged["learn/moments"] = moments
    if "target" in base:
        merged["centres"] = moments[mondrian.CENTRE][: len(base["centres"])]
        merged["target"] = merge_targets(base["target"], [part["target"] for part in parts])
    return merged


def merge_targets(base: Floats, parts: Sequence[Floats]) -> Floats:
    """Merge the knowledge of the targets: their number and mean are those of all rows, their range is that of all."""
    found = next((part.copy() for part in (base, *parts) if part[mondrian.UNIT] > 0.0), parts[0].copy())
    seen = [part[mondrian.SEEN_TARGETS] - base[mondrian.SEEN_TARGETS] for part in parts]
    found[mondrian.SEEN_TARGETS] = base[mondrian.SEEN_TARGETS] + sum(seen)
    sums = base[mondrian.SEEN_TARGETS] * base[mondrian.TARGET_MEAN]
    for part in parts:
        sums += part[mondrian.SEEN_TARGETS] * part[mondrian.TARGET_MEAN]
        sums -= base[mondrian.SEEN_TARGETS] * base[mondrian.TARGET_MEAN]
    found[mondrian.TARGET_MEAN] = sums / max(found[mondrian.SEEN_TARGETS], 1.0)
    counted = [part for part in parts if part[mondrian.SEEN_TARGETS] > 0.0] or list(parts)
    found[mondrian.FLOOR] = min(part[mondrian.FLOOR] for part in counted)
    found[mondrian.CEILING] = max(part[mondrian.CEILING] for part in counted)
    return found


def own(model: Model, partition: int, partitions: int) -> None:
    """Let a forest train its own trees alone. Raises `ConfigError` if there are more partitions than trees."""
    trees = len(model.arrays["trees"])
    if partitions > trees:
        raise ConfigError(
            f"partitions: got {partitions} for a forest of {trees} trees; expected at most {trees}, since each "
            "partition trains other trees. Give the model more trees, or fewer partitions"
        )
    cast(Trees | Mondrian, model).train_every(partition, partitions)


RULES = {
    "forest": PartitionRules(merge_forest, own=own),
    "mondrian": PartitionRules(merge_mondrian, own=own),
}
