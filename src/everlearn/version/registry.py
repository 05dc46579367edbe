"""The registry of versions: which versions exist, their parents, and where each alias points.

It follows from the log alone and has no file. `Blobs` (blobs.py) keeps the arrays in immutable files. Neither changes
anything that was written. `docs/why/versions.md` states the guarantees.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence, Set
from itertools import accumulate
from typing import Any, Protocol

from everlearn.errors import BlobError, ConfigError, InputError, ModelError
from everlearn.model import compare
from everlearn.records import Arrays, Born, Decision, Payload, Version
from everlearn.version.blobs import Blobs
from everlearn.version.codec import canonical, plain

_MOVES = frozenset(["start", "promote", "rollback", "challenger"])


class Naming(Protocol):
    """A replay of a log, which names versions as that log does."""

    def named(self, made: Version) -> Version:
        """Return a version that was made with the id and the metrics that the log has for it."""
        ...


class Versions:
    """All versions and aliases: a fold of the log's `Born` and `Decision` payloads.

    Feed it every payload of the log, in order, through `note`. With `naming`, the versions that it makes are named by a
    log. With `packed`, it stores them without the empty blocks of large arrays.
    """

    def __init__(self, blobs: Blobs, naming: Naming | None = None) -> None:
        self._blobs, self.naming, self.packed = blobs, naming, False
        self._versions: dict[str, Version] = {}  # in order of birth
        self._aliases: dict[str, str] = {}
        self._former: list[str] = []  # champions before the present one, oldest first
        self._notes: dict[str, str] = {}

    def note(self, payload: Payload) -> None:
        """Fold one payload of the log. Other kinds are ignored, and noting a payload twice changes nothing.

        A decision that starts, promotes, rolls back or sets a challenger moves its alias. "previous" is the champion
        before the present one: a rollback moves it further back. A name is an alias that stays. An erasure moves every
        alias to the rebuilt version.
        """
        match payload:
            case Born(version=version):
                self._versions.setdefault(version.id, version)
            case Decision(alias=alias, version=id, previous=previous) if alias and id and payload.action in _MOVES:
                if alias == "champion" and self._aliases.get(alias) != id:
                    self._succeed(id, previous, payload.action == "rollback")
                self._aliases[alias] = id
            case Decision(action="config", version=id, detail={"name": str(name), "note": str(written)}) if id:
                self._aliases |= {name: id} if name else {}
                self._notes |= {id: written} if written else {}
            case Decision(action="erase", detail={"versions": dict(rebuilt)}):
                dropped = payload.detail.get("dropped", ())
                self._aliases = {alias: rebuilt.get(id, id) for alias, id in self._aliases.items() if id not in dropped}
                self._former = [rebuilt.get(id, id) for id in self._former if id not in dropped]
                self._notes = {rebuilt.get(id, id): written for id, written in self._notes.items()}

    def make(
        self,
        arrays: Mapping[str, Any],
        spec: Mapping[str, Any],
        parents: Sequence[str],
        position: int,
        reason: str,
        metrics: Mapping[str, float],
    ) -> Version:
        """Store arrays and return their version; its id is a hash of its content.

        Nothing is appended to the log. Append `Born(version)` with the decision that needs it, in one group, then note
        both. Metrics that are not finite are left out, since the log cannot hold them. Raises `ModelError` for arrays
        or a spec that cannot be stored, `BlobError` if the disk refuses.
        """
        kept = plain(spec, "the spec")
        numbers = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        blob = self._blobs.put(arrays, {"spec": kept}, self.packed)
        content = [list(parents), int(position), blob, kept, numbers, reason]
        id = hashlib.sha256(canonical(content).encode()).hexdigest()[:12]
        made = Version(id, tuple(parents), int(position), blob, kept, numbers, reason)
        return made if self.naming is None else self.naming.named(made)

    def load(self, name: str, spec: Mapping[str, Any] | None = None, like: Mapping[str, Any] | None = None) -> Arrays:
        """Return the arrays of a version, named by its id, a unique beginning of it, or an alias.

        Raises `InputError` for an unknown name. Raises `ModelError` when the version has another spec than `spec`, or
        arrays of other names, shapes or dtypes than those in `like`. Raises `BlobError` when the snapshot is lost or
        damaged.
        """
        version = self.find(name)
        if spec is not None:
            differences = _differences(plain(spec, "the spec"), version.spec)
            if differences:
                raise ModelError(f"version {version.id} is of another model: {'; '.join(differences)}")
        arrays, header = self._blobs.get(version.blob)
        if header.get("spec") != version.spec:
            raise BlobError(
                f"the snapshot {version.blob[:12]} is not of version {version.id}: "
                f"{'; '.join(_differences(version.spec, header.get('spec') or {}))}"
            )
        if like is not None:
            differences = compare(like, arrays)
            if differences:
                raise ModelError(f"version {version.id} does not fit this model: {'; '.join(differences)}")
        return arrays

    def find(self, name: str) -> Version:
        """Return the version with this id, this alias, or an id that begins so.

        Raises `InputError`, with a list of the known ids and aliases, for an unknown or ambiguous name.
        """
        id = name if name in self._versions else self._aliases.get(name, name)
        if id in self._versions:
            return self._versions[id]
        matches = [version for known, version in self._versions.items() if name and known.startswith(name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            ids = _listed([version.id for version in matches])
            raise InputError(f"{name!r} may be any of {ids}; give more of the id")
        aliases = ", ".join(f"{alias} ({at})" for alias, at in sorted(self._aliases.items())) or "none"
        raise InputError(
            f"there is no version {name!r}; there are {_listed(list(self._versions)) or 'none'}; aliases: {aliases}"
        )

    def alias(self, name: str) -> str | None:
        """Return the id of the version that an alias points to; None for an alias that was never set."""
        return self._aliases.get(name)

    def aliases(self) -> dict[str, list[str]]:
        """Return the aliases of each version that has any, sorted, by version id."""
        found: dict[str, list[str]] = {}
        for alias, id in sorted(self._aliases.items()):
            found.setdefault(id, []).append(alias)
        return found

    def note_of(self, id: str) -> str:
        """Return the note that a user gave a version; "" without one."""
        return self._notes.get(id, "")

    def _succeed(self, champion: str, replaced: str, rolled_back: bool) -> None:
        """Note that a version replaces another as the champion, and move "previous"."""
        former = self._former
        if not rolled_back:
            former += [replaced] if replaced and replaced != champion else []
        elif champion in former:
            del former[len(former) - 1 - former[::-1].index(champion) :]
        else:  # a version that never served: what was born later is no way back from it
            born = [*self._versions]
            age = {id: place for place, id in enumerate(born)}
            self._former = former = [id for id in former if age.get(id, 0) < age.get(champion, 0)]
        self._aliases.pop("previous", None)
        if former:
            self._aliases["previous"] = former[-1]

    def prune(
        self, keep: int, hold: Set[str] = frozenset(), most: int = 0, sizes: Mapping[str, int] | None = None
    ) -> list[str]:
        """Delete old snapshots; return the ids of the versions that lost theirs.

        The newest `keep` versions keep their arrays, as many as have `most` bytes together (0: any number). So do the
        versions with an alias, and the parents of all of these. Blobs in `hold` (those of checkpoints) stay, and so
        does every blob that belongs to no version. `sizes` are those of `Blobs.sizes`, where the caller has just asked
        for them. Raises `ConfigError` if `keep` is negative.
        """
        if keep < 0:
            raise ConfigError(f"keep is {keep}, expected how many versions keep their arrays, 0 or more")
        order, sizes = [*self._versions], self._blobs.sizes() if sizes is None else sizes
        kept = set(self._within(order[max(0, len(order) - keep) :], most, sizes)) | set(self._aliases.values())
        parents = {parent for id in kept if id in self._versions for parent in self._versions[id].parents}
        needed = {self._versions[id].blob for id in kept | parents if id in self._versions} | hold
        gone = sizes.keys() & {version.blob for version in self._versions.values()} - needed
        for blob in sorted(gone):
            self._blobs.remove(blob)
        return [version.id for version in self._versions.values() if version.blob in gone]

    def _within(self, ids: Sequence[str], most: int, sizes: Mapping[str, int]) -> Sequence[str]:
        """Return the newest of some versions, as many as have `most` bytes together (0: all)."""
        if not most:
            return ids
        bytes = accumulate(sizes.get(self._versions[id].blob, 0) for id in reversed(ids))
        return ids[len(ids) - sum(held <= most for held in bytes) :]

    def list(self) -> list[Version]:
        """Return all versions in order of birth, those whose arrays were pruned too."""
        return [*self._versions.values()]


def related(versions: Mapping[str, Version], a: str, b: str) -> tuple[str | None, int | None]:
    """Return the nearest common ancestor, and the generations from `a` over it to `b`; (None, None) if there is none.

    A version is its own ancestor.
    """
    up, across = _ancestors(versions, a), _ancestors(versions, b)
    common = min(up.keys() & across.keys(), key=lambda id: (up[id] + across[id], id), default=None)
    return (common, up[common] + across[common]) if common is not None else (None, None)


def _ancestors(versions: Mapping[str, Version], id: str) -> dict[str, int]:
    """Return each ancestor, the version itself too, with the smallest number of generations to it."""
    found, generation, newest = {id: 0}, 0, [id]
    while newest:
        generation += 1
        parents = [parent for child in newest if child in versions for parent in versions[child].parents]
        newest = [parent for parent in dict.fromkeys(parents) if parent not in found]
        found |= dict.fromkeys(newest, generation)
    return found


def _differences(expected: Mapping[str, Any], got: Mapping[str, Any], where: str = "") -> list[str]:
    """Return the differences between two specs, in words."""
    found = []
    for name in sorted({*expected, *got}):
        here = f"{where}{name}"
        if name not in got:
            found.append(f"{here} is missing, expected {expected[name]!r}")
        elif name not in expected:
            found.append(f"{here} is {got[name]!r}, which was not expected")
        elif isinstance(expected[name], dict) and isinstance(got[name], dict):
            found += _differences(expected[name], got[name], f"{here}.")
        elif expected[name] != got[name]:
            found.append(f"{here} is {got[name]!r}, expected {expected[name]!r}")
    return found


def _listed(ids: Sequence[str]) -> str:
    """Return the newest few ids, in words."""
    newest = ", ".join(ids[-10:])
    return f"{newest} and {len(ids) - 10} older ones" if len(ids) > 10 else newest
