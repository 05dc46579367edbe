"""An order to merge, carried out: who the parents are at that moment, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from everlearn import merge
from everlearn.errors import ConfigError, InputError
from everlearn.loop import commands
from everlearn.merge import How
from everlearn.model import Model
from everlearn.records import Arrays, Born, Version
from everlearn.serve.roster import UNKNOWN, Contestant, Progress, Roster
from everlearn.version.registry import Versions


class Parent(NamedTuple):
    """A version to be merged, its model, and what that has learned; `born` where it is stored only for this."""

    version: Version
    model: Model
    learned: Progress
    born: Born | None = None


class Joined(NamedTuple):
    """The arrays that came of it, what they have learned, the method, and all that must be known to do it again."""

    arrays: Arrays
    learned: Progress
    method: str
    told: dict[str, Any]


def meant(roster: Roster, name: str, version: str) -> Contestant | None:
    """The contestant that a name stands for; None where it is a version that nobody learns on from.

    `version` is what the name pointed to when the order was given: of several challengers it tells which one.
    """
    if name == "champion":
        return roster.champion
    learners = [one for one in roster.contestants if one.role in ("challenger", "fresh")]
    if name == "challenger":
        own = [one for one in learners if one.version == version]
        return (own or learners or [roster.champion])[0]
    return next((one for one in learners if one.role == "fresh" and one.version == version), None)


def join(
    told: Mapping[str, Any],
    parents: Sequence[Parent],
    versions: Versions,
    revive: Callable[[str], Model],
    known: Mapping[str, Progress],
) -> Joined:
    """Merge parents as an order tells; `revive` gives the model of a version, `known` what each had learned at birth.

    What was made has learned whatever any of its parents, or their ancestor, had.
    """
    ids = [one.version.id for one in parents]
    if len(set(ids)) < len(ids):
        raise InputError(
            f"merge: {' and '.join(told['parents'])} are the same version {ids[0]}: nothing was learned since"
        )
    how, ancestor = _how(told), ""
    if merge.METHODS[how.method].ancestor:
        ancestor = told["ancestor"] or commands.common(versions, ids, [one.version for one in parents])
    arrays = merge.merged(how, [one.model for one in parents], revive(ancestor) if ancestor else None)
    learned = [one.learned for one in parents] + ([known.get(ancestor, UNKNOWN)] if ancestor else [])
    upto = UNKNOWN if UNKNOWN in learned else Progress(max(one.log for one in learned), max(one.row for one in learned))
    return Joined(arrays, upto, how.method, {**msgspec.to_builtins(how), "parents": ids, "ancestor": ancestor})


def again(told: Mapping[str, Any], parents: Sequence[Model], ancestor: Model | None) -> Arrays:
    """The same merge of parents that have been made anew; `told` is as `Joined.told`."""
    return merge.merged(_how(told), parents, ancestor)


def grown(parents: Sequence[Parent]) -> dict[str, list[int]]:
    """What those parents have learned that were stored only to be merged."""
    return {one.version.id: list(one.learned) for one in parents if one.born is not None}


def _how(told: Mapping[str, Any]) -> How:
    dials = {name: value for name, value in told.items() if name not in ("parents", "versions", "ancestor")}
    try:
        return merge.completed(msgspec.convert(dials, How), len(told["parents"]))
    except msgspec.ValidationError as error:
        raise ConfigError(f"merge: {error}; a newer Everlearn wrote this order: upgrade") from error
