"""The contestants of a roster as a checkpoint holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from everlearn.model import prefixed
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
    """Return the arrays of all contestants, and an entry of plain values for each."""
    arrays: Arrays = {}
    entries: list[dict[str, Any]] = []
    for contestant in roster.contestants:
        role, owner = roster.role_of(contestant), roster.owner(contestant)
        if differs(role, contestant.learns):
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
        entry |= {"noticed": contestant.noticed} if contestant.noticed >= 0 else {}
        entries.append(entry | ({"by": contestant.by} if contestant.by == "drift" else {}))
    return arrays, entries


def differs(role: Role, learns: bool) -> bool:
    """Return True if a contestant's arrays are not (or no longer) those of its version."""
    return learns or role == "candidate"
