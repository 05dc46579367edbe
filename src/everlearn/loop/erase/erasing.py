"""Erase a person on request: their events become tombstones, and models that learned from them are rebuilt.

The steps, and why the process may be killed at any moment:

    1. rebuild        new snapshots are written beside the old ones; nothing refers to them yet
    2. one transaction: tombstones, the rebuilt versions, the decision, and a checkpoint of the state without them
    3. clean          old snapshots and checkpoints are removed, the log file is rewritten

Killed before 2, nothing has happened. Killed after it, the same call again does step 3.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from everlearn import config, events, replay
from everlearn.errors import ConfigError, InputError
from everlearn.events import EncryptingLog, ErasableLog, Log, scan
from everlearn.learn import limits
from everlearn.loop import details
from everlearn.loop.details import Erasure
from everlearn.loop.erase.finding import Found, find, find_left
from everlearn.loop.erase.rebuilding import Rebuilding, Rebuilt, join_again
from everlearn.loop.erase.replay_memory import Flags, forget
from everlearn.loop.fold import Fold
from everlearn.loop.home import UNFINISHED, Home
from everlearn.loop.offsets import StreamOffsets
from everlearn.records import Batch, Born, Checkpoint, Decision, Examples, Payload, Scalar
from everlearn.schema import features
from everlearn.serve import snapshot
from everlearn.serve.contestant import Progress
from everlearn.spec import Spec
from everlearn.version.blobs import blobs_of

__all__ = ["erase"]


def erase(folder: Path, spec: Spec, where: Mapping[str, Scalar], reason: str) -> Decision:
    """Erase all events of the rows in which each field in `where` has its value, and all that was learned from them.

    `folder` is the home of a loop that is not open anywhere: stop its server first. Fields are those of the schema, or
    `spec.subject`. Predictions, examples, their feedback, and rows set aside become tombstones; every version with
    arrays that had learned from them is rebuilt from one that had not, and so are the models that learn, the replay
    memory and the pending predictions. Returns the decision in the log that proves it: counts, the versions replaced,
    and a salted digest of `where`, but no value. The same call again completes an interrupted one.

    Raises `InputError` when nothing matches, or when models learned from rows that are not in the log; `LogError` while
    another process has the loop open. `docs/how-to/erase.md` says what it costs.
    """
    if not events.exists(folder, spec.log.url):
        raise InputError(f"{folder} is not the home of a loop: it has no log.sqlite; name the folder of the loop")
    named = [name for name, value in where.items() if str(value) and str(value) in reason]
    if named:
        raise InputError(f"the reason holds the value of {named[0]}, and would stay in the log. Leave the value out")
    with closing(Home(folder, spec.log)) as home:
        if not isinstance(home.log, ErasableLog):
            raise ConfigError(
                f"{folder} keeps its log elsewhere; events can be erased only from a log of SQLite or PostgreSQL, or "
                "from one that was started with log.encrypt = true"
            )
        _check_encrypted(home, folder, spec)
        removed = events.removed(home.log)
        found = find_left(home.log, spec, where, removed) if removed else find(home.log, spec, where)
        if found.positions or found.keys:
            decision = _Erasing(folder, home, home.log, spec, found).run(where, reason)
        elif (before := _done(home.log, where)) is not None:
            decision = before
        else:
            shown = ", ".join(f"{name}={value}" for name, value in where.items())
            raise InputError(f"nothing in the log of {folder} is about {shown}; check the value, and its field")
        _clean(folder, home.log, spec)
    return decision


def _check_encrypted(home: Home, folder: Path, spec: Spec) -> None:
    """Raise ConfigError if the events are encrypted and the settings hide that: no row would be found."""
    last = home.last()
    if last is not None and config.read_stored(last[2]["spec"], str(folder)).log.encrypt and not spec.log.encrypt:
        raise ConfigError(
            f"log.encrypt: got false, and the events of {folder} are encrypted; expected true. Set it as it was when "
            "the loop was started"
        )


class _Erasing:
    """The erasure of events from a loop, starting from its last checkpoint."""

    def __init__(self, folder: Path, home: Home, log: ErasableLog, spec: Spec, found: Found) -> None:
        self._home, self._log, self._found = home, log, found
        self._blobs = blobs_of(folder, spec.log)
        self._last = home.last()
        if self._last is not None:  # the spec that the state was made with
            spec = config.read_stored(self._last[2]["spec"], str(folder))
        self._spec = spec
        self._gone = set(found.positions)
        self._keys = _keys(log, spec, found)

    def run(self, where: Mapping[str, Scalar], reason: str) -> Decision:
        payloads: list[Payload] = []
        rebuilt, forgotten, taken, at = Rebuilt(), 0, dict[str, int](), self._log.end()
        grown: dict[str, Progress] = {}
        if self._last is not None:
            at, arrays, header = self._last
            fold = Fold(self._spec, self._home.versions, self._log)
            fold.load(arrays, header["fold"])
            registry, stored = self._home.versions, self._blobs.hashes()
            kept = {version.id for version in registry.list() if version.blob in stored}
            parts = fold, registry, self._log, kept, self._gone, self._found.first
            rebuilt = Rebuilding(*parts, removed=self._found.removed).run()
            grown = dict.fromkeys(rebuilt.made, Progress(fold.cursor["log"], fold.cursor["row"]))
            forgotten = self._forget(fold)
            join_again(fold, rebuilt, self._gone, self._found.removed)
            fold.taken.note(self._found.ids)  # events behind the checkpoint lose their ids
            taken = self._taken(fold)
            arrays, state = fold.state()
            born = {made.id: made for made in rebuilt.versions.values()} | rebuilt.made
            payloads = [Born(version) for version in born.values()]
            payloads.append(Checkpoint(at, self._blobs.put(arrays, header | {"fold": state}, packed=True)))
        salt, versions = secrets.token_hex(16), {old: new.id for old, new in rebuilt.versions.items()}
        mark = sorted(where), salt, _digest(where, salt)
        found, learned = self._found, rebuilt.learned
        lost = (found.removed, rebuilt.dropped, grown) if found.removed else ()
        erasure = Erasure(*mark, found.kinds, versions, forgotten, learned, found.first, taken, self._keys, *lost)
        decision = Decision("erase", at, reason, "user", detail=details.write(erasure))
        self._log.erase(self._found.positions, [*payloads[:-1], decision, *payloads[-1:]])
        return decision

    def _taken(self, fold: Fold) -> dict[str, int]:
        """Return how far each stream was taken that an erased row came from: its rows must not be taken again."""
        named = StreamOffsets()
        named.note(self._found.ids)
        return {name: row for name, row in fold.taken.rows.items() if name in named.rows}

    def _forget(self, fold: Fold) -> int:
        """Remove the person from the replay memory and the pending predictions; return the number removed.

        What came from events that a broker has removed leaves as well, where some of these may be about the person.
        """
        unseen = self._found.unseen
        ids = self._found.ids | {one.id for one in fold.pending if one.position <= unseen}
        ids |= {one.feedback.id for one in fold.early if one.position <= unseen}
        waited = sum(fold.pending.take(id) is not None for id in ids)
        waited += sum(len(fold.early.take(id)) for id in ids)
        learner = fold.monitor
        if learner.replay.kind == "none":
            return waited
        shape = fold.shape
        empty = replay.start(
            learner.replay, int(shape["dense"]), int(shape["hashed"]), int(shape["classes"]), self._spec.seed
        )
        rows = forget(learner.memory, learner.replay, empty, self._is_gone(fold))
        return rows + waited

    def _is_gone(self, fold: Fold) -> Callable[[Examples], Flags]:
        """Return the test for remembered rows of the person: by position, and by content where defaults are learned.

        The position of a default label is that of another event.
        """
        positions = np.array(self._found.positions, np.int64)
        content: set[tuple[bytes, ...]] = set()
        width = fold.monitor.replay.width
        if self._spec.feedback.default is not None:
            batch, _ = features(fold.encoder).records(self._found.features)
            for rows in (batch, limits.clip(fold.monitor.limits, self._spec.limits, batch)):
                content |= {_content(rows, row, width) for row in range(len(rows))}

        def gone(rows: Examples) -> Flags:
            same = [bool(content) and _content(rows.batch, row, width) in content for row in range(len(rows.y))]
            return np.array(same, bool) | np.isin(rows.position, positions) | (rows.position <= self._found.unseen)

        return gone


def _keys(log: Log, spec: Spec, found: Found) -> list[str] | None:
    """Return the handles of the keys that erase the events; None for a log that does not encrypt.

    Raises InputError where some events would stay, since they cannot be replaced by tombstones.
    """
    if not isinstance(log, EncryptingLog):
        return None
    covered = log.covered(found.positions, found.removed)
    if covered.left and not log.in_place:
        raise InputError(
            f"where: {covered.left} of {len(found.positions)} events have no key, or share one with events that stay; "
            f"expected all events of a subject, since this log erases by keys. Name {spec.subject}=VALUE alone"
        )
    return sorted({*covered.handles, *found.keys})


def _content(batch: Batch, row: int, width: int) -> tuple[bytes, ...]:
    held = slice(batch.indptr[row], min(batch.indptr[row + 1], batch.indptr[row] + width))
    return batch.dense[row].tobytes(), batch.indices[held].tobytes(), batch.values[held].tobytes()


def _clean(folder: Path, log: ErasableLog, spec: Spec) -> None:
    """Remove every snapshot that an erasure has replaced, and every erased byte of the log; safe to repeat."""
    blobs = blobs_of(folder, spec.log)
    replaced: set[str] = set()
    versions: dict[str, str] = {}
    newest = ""  # checkpoint; those before it may hold what was erased
    for event in scan(log, kinds=("version", "decision", "checkpoint")):
        match event.payload:
            case Born(version=version):
                versions[version.id] = version.blob
            case Checkpoint(blob=blob):
                newest = blob
            case Decision() as decision:
                replaced |= {*details.replaced(decision), *details.dropped(decision)}
    needed = {blob for id, blob in versions.items() if id not in replaced} | {newest}
    for blob in blobs.hashes() - needed:
        blobs.remove(blob)
    for answers in folder.glob("judge.db*"):  # a judge's reasons may quote what was erased; it can be asked again
        answers.unlink()
    for left in (folder / "blobs").glob(".*.unfinished"):
        left.unlink(missing_ok=True)
    for left in folder.glob(f"{UNFINISHED}*"):  # of a rebuild that was killed before the erasure
        shutil.rmtree(left)
    for left in snapshot.folder(folder).glob(f"*{snapshot.CURRENT}*"):
        left.unlink(missing_ok=True)
    log.scrub()


def _done(log: ErasableLog, where: Mapping[str, Scalar]) -> Decision | None:
    """Return the earlier erasure for `where`; None if there was none."""
    found = None
    for event in scan(log, kinds=("decision",)):
        decision = event.payload
        if isinstance(decision, Decision) and decision.action == "erase":
            erasure = details.read(decision)
            if isinstance(erasure, Erasure) and _digest(where, erasure.salt) == erasure.digest:
                found = decision
    return found


def _digest(where: Mapping[str, Scalar], salt: str) -> str:
    """Return the salted digest of the values; slow on purpose, so that it is of little use for guessing."""
    text = json.dumps({name: str(value) for name, value in sorted(where.items())})
    return hashlib.scrypt(text.encode(), salt=salt.encode(), n=1 << 14, r=8, p=1, dklen=32).hex()
