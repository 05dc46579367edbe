"""Merge mixes of the partitions of one stream: member by member, and then the stackers over them.

The weights of the stackers, their recent losses and mean squared gradients follow the stream at a constant rate, so
they are averaged by rows; the rows that they have learned are added. Which members rest is one decision, so it is that
of the first partition, with its evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from everlearn.families.mix import reach
from everlearn.families.mix.model import Mix
from everlearn.families.mix.settings import SHAPE
from everlearn.families.mix.stacking import ROWS, WEIGHT
from everlearn.merge import partitions
from everlearn.merge.partitions import PartitionRules, added, averaged
from everlearn.model import LEARN, Model, prefixed, within
from everlearn.records import Arrays, Floats


def merge(spec: Mapping[str, Any], base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Return the merged arrays of mixes."""
    merged: Arrays = {}
    for number, member in enumerate(_members(spec)):
        own = partitions.merged(member, _of(base, number), [_of(part, number) for part in parts], rows.tolist())
        learning = {name for name in own if name.startswith(LEARN)}
        merged |= prefixed(f"members/{number}/", {name: own[name] for name in own.keys() - learning})
        merged |= prefixed(f"{LEARN}members/{number}/", within(own, LEARN))
    for name in base:
        held = [part[name] for part in parts]
        if name.startswith("stack/"):
            merged[name] = _counts(base[name], held, rows) if name == "stack/counts" else averaged(held, rows)
        elif name == "rest/counts":
            merged[name] = _counts(base[name], held, rows)
        elif name == f"{LEARN}reach/labels":
            merged[name] = averaged(held, rows)
            merged[name][reach.ROWS] = added(base[name], held)[reach.ROWS]
        elif name == "rest/rested":
            merged[name] = added(base[name], held)
        elif name.startswith("rest/"):
            merged[name] = parts[0][name]
    return merged


def _counts(base: Floats, parts: Sequence[Floats], rows: Floats) -> Floats:
    """Add the rows learned, and average their mean weight."""
    found = averaged(parts, rows)
    found[..., ROWS] = added(base[..., ROWS], [part[..., ROWS] for part in parts])
    found[..., WEIGHT] = averaged([part[..., WEIGHT] for part in parts], rows)
    return found


def _members(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the specs of the members, with the shape of the rows, which they share."""
    shared = {name: spec[name] for name in SHAPE}
    return [{**shared, **member} for member in cast(Sequence[Mapping[str, Any]], spec["members"])]


def _of(arrays: Arrays, number: int) -> Arrays:
    """Return the arrays of a member under its own names."""
    return within(arrays, f"members/{number}/") | prefixed(LEARN, within(arrays, f"{LEARN}members/{number}/"))


def local(spec: Mapping[str, Any], name: str) -> bool:
    """Return True for an array that a member keeps in its partition."""
    learning = name.startswith(f"{LEARN}members/")
    if not (learning or name.startswith("members/")):
        return False
    number, _, own = name.removeprefix(LEARN).removeprefix("members/").partition("/")
    member = _members(spec)[int(number)]
    return partitions.rules(member).local(member, LEARN + own if learning else own)


def own(model: Model, partition: int, count: int) -> None:
    """Let each member train only what its partition owns. Raises `ConfigError` as the members do."""
    for member in cast(Mix, model).members:
        partitions.rules(member.spec).own(member, partition, count)


def check(spec: Mapping[str, Any]) -> None:
    """Raise ConfigError for a member that cannot be merged."""
    for member in _members(spec):
        partitions.rules(member)


RULES = {"mix": PartitionRules(merge, local, own, check)}
