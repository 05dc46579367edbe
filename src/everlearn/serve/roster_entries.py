"""The contestants of a roster as a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from everlearn.model import compare, prefixed
from everlearn.records import Arrays
from everlearn.serve.contestant import Contestant, Role


class Seated(Protocol):
    """The part of a roster that is written."""

    @property
    def contestants(self) -> Sequence[Contestant]:
        """All contestants, in their stable order."""

    def role_of(self, contestant: Contestant) -> Role:
        """Return the word for a contestant."""

    def owner(self, snapshot: Contestant) -> Contestant | None:
        """Return the challenger that nominated a snapshot; None for any other contestant."""


def written(roster: Seated) -> tuple[Arrays, list[dict[str, Any]]]:
    """Return the arrays of all contestants, and an entry of plain values for each.

    A model that learns has none where a frozen contestant of its version has the same bits, as after each promotion:
    the version holds them. Its entry is then marked as "stored".
    """
    arrays: Arrays = {}
    entries: list[dict[str, Any]] = []
    fixed = [one for one in roster.contestants if not differs(roster.role_of(one), one.learns)]
    for contestant in roster.contestants:
        role, owner = roster.role_of(contestant), roster.owner(contestant)
        other = differs(role, contestant.learns)
        if stored := other and any(_same(contestant, frozen) for frozen in fixed):
            other = False
        if other:
            arrays |= prefixed(f"model/{contestant.uid}/", contestant.model.arrays)
        if contestant.trial is not None:
            arrays |= prefixed(f"evidence/{contestant.uid}/", contestant.trial.evidence)
            arrays |= prefixed(f"metrics/{contestant.uid}/", contestant.trial.metrics)
        entry: dict[str, Any] = {
            "uid": contestant.uid,
            "role": role,
            "version": contestant.version,
            "learns": contestant.learns,
        }
        entry["of"] = owner.uid if owner is not None else 0
        entry["tested"] = contestant.trial.tested if contestant.trial is not None else None
        entry["learned"] = list(contestant.learned)
        entry |= {"stored": True} if stored else {}
        entry |= {"noticed": contestant.noticed} if contestant.noticed >= 0 else {}
        entries.append(entry | ({"by": contestant.by} if contestant.by == "drift" else {}))
    return arrays, entries


def _same(contestant: Contestant, frozen: Contestant) -> bool:
    """Return True if a model has the bits of a frozen one of the same version."""
    if frozen.version != contestant.version:
        return False
    one, other = contestant.model.arrays, frozen.model.arrays
    return not compare(one, other) and all(np.array_equal(_bits(one[name]), _bits(other[name])) for name in one)


def _bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def differs(role: Role, learns: bool) -> bool:
    """Return True if a contestant's arrays are not (or no longer) those of its version."""
    return learns or role == "candidate"
