"""Contestants of a roster by the word that the status shows for them."""

from __future__ import annotations

from everlearn.serve.contestant import Contestant, Role
from everlearn.serve.roster import Roster


def with_role(roster: Roster, role: Role) -> list[Contestant]:
    return [one for one in roster.contestants if roster.role_of(one) == role]


def roles(roster: Roster) -> dict[str, str]:
    """The version in each role."""
    return {roster.role_of(one): one.version for one in roster.contestants}
