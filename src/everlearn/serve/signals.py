"""What a model of policies reports beside its predictions: alarms of its guards, drift of groups, and measures.

These methods are optional. A family that has all of them is asked; others report nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from everlearn.model import Model
from everlearn.records import Arrays


@runtime_checkable
class Reporting(Protocol):
    """A model that reports about its policy. None of the methods writes."""

    def alarms(self, duels: Arrays | None) -> dict[str, str]:
        """Return the reasons of the guards whose limit is exceeded, by guard; `duels` as `metrics.duels` keeps them."""
        ...

    def drifted(self) -> dict[int, int]:
        """Return the groups whose preferences turned: by digest, the number of the label of the last alarm."""
        ...

    def measures(self) -> dict[str, Any]:
        """Return measurements of the policy and the reward model, as plain values."""
        ...


@runtime_checkable
class Nominating(Protocol):
    """A model that says when its policy is worth comparing. The method does not write arrays."""

    def nominates(self, champion: Model) -> bool:
        """Return True if this candidate shall be compared with the champion."""
        ...


def nominated(candidate: Model, champion: Model) -> bool:
    """Return True if a candidate shall be compared with the champion, as every model of another family shall."""
    return candidate.nominates(champion) if isinstance(candidate, Nominating) else True


def alarms(model: Model, duels: Arrays | None) -> dict[str, str]:
    """Return the alarms of a model's guards; empty for a family without guards."""
    held = duels if duels is not None and "duels" in duels else None
    return model.alarms(held) if isinstance(model, Reporting) else {}


def drifted(model: Model) -> Mapping[int, int]:
    """Return the groups that drifted; empty for a family without groups."""
    return model.drifted() if isinstance(model, Reporting) else {}


def measures(model: Model) -> dict[str, Any]:
    """Return the measurements of a model; empty for a family that has none."""
    return model.measures() if isinstance(model, Reporting) else {}
