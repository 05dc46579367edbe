"""Merge versions: find the parents that an order names, and make the arrays of the new version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from everlearn.errors import ConfigError, InputError
from everlearn.loop import commands
from everlearn.loop.details import MergeRecipe, MergeRequest
from everlearn.merge import METHODS, How, completed, merged
from everlearn.model import Model
from everlearn.records import Arrays, Born, Version
from everlearn.serve.contestant import UNKNOWN, Contestant, Progress
from everlearn.serve.roster import Roster
from everlearn.version.registry import Versions


class Parent(NamedTuple):
    """A version to merge, its model and its progress; `born` if it was stored only for this merge."""

    version: Version
    model: Model
    learned: Progress
    born: Born | None = None


class MergeResult(NamedTuple):
    """The merged arrays, their progress, the name of the method, and the recipe to make them again."""

    arrays: Arrays
    learned: Progress
    method: str
    recipe: MergeRecipe


def contestant(roster: Roster, name: str, version: str) -> Contestant | None:
    """Return the contestant that a name stands for; None for a version that no contestant learns on from.

    `version` is the one that the name pointed to when the order was given: it tells several challengers apart.
    """
    if name == "champion":
        return roster.champion
    learners = [challenger for challenger in roster.challengers if challenger.learns]
    same = [challenger for challenger in learners if challenger.version == version]
    if name == "challenger":
        return (same or learners or [roster.champion])[0]
    return next((challenger for challenger in same if challenger.by != "loop"), None)


def merge(
    request: MergeRequest,
    parents: Sequence[Parent],
    versions: Versions,
    revive: Callable[[str], Model],
    known: Mapping[str, Progress],
) -> MergeResult:
    """Merge parents as requested; `revive` returns the model of a version, `known` the progress of each at birth.

    The result has learned everything that a parent, or their ancestor, had learned. Raises InputError for parents that
    are the same version, ConfigError for settings of a newer release.
    """
    ids = [parent.version.id for parent in parents]
    if len(set(ids)) < len(ids):
        raise InputError(
            f"merge: {' and '.join(request.parents)} are the same version {ids[0]}: nothing was learned since"
        )
    how, ancestor = _how(request.settings, len(parents)), ""
    if METHODS[how.method].ancestor:
        ancestor = request.ancestor or commands.common(versions, ids, [parent.version for parent in parents])
    arrays = merged(how, [parent.model for parent in parents], revive(ancestor) if ancestor else None)
    learned = [parent.learned for parent in parents] + ([known.get(ancestor, UNKNOWN)] if ancestor else [])
    latest = UNKNOWN
    if UNKNOWN not in learned:
        latest = Progress(max(each.log for each in learned), max(each.row for each in learned))
    return MergeResult(arrays, latest, how.method, MergeRecipe(msgspec.to_builtins(how), ids, ancestor))


def merge_again(recipe: MergeRecipe, parents: Sequence[Model], ancestor: Model | None) -> Arrays:
    """Merge rebuilt parents as before."""
    return merged(_how(recipe.settings, len(recipe.parents)), parents, ancestor)


def stored_progress(parents: Sequence[Parent]) -> dict[str, Progress]:
    """Return the progress of the parents that were stored only to be merged, by version id."""
    return {parent.version.id: parent.learned for parent in parents if parent.born is not None}


def _how(settings: Mapping[str, Any], parents: int) -> How:
    try:
        return completed(msgspec.convert(dict(settings), How), parents)
    except msgspec.ValidationError as error:
        raise ConfigError(f"merge: {error}; a newer Everlearn wrote this order: upgrade") from error
