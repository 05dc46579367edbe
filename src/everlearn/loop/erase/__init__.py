"""Forgetting a person on request: their events become tombstones, and what had learned from them learns again without.

The steps, and why killing the process at any moment is safe:

    1. rebuild        new snapshots are written beside the old ones; nothing refers to them yet
    2. one transaction: tombstones, the rebuilt versions, the decision, and a checkpoint of the state without them
    3. clean          old snapshots and checkpoints are removed, the log is written anew

Killed before 2, nothing has happened; killed after it, the same call again does step 3.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from everlearn import replay
from everlearn.errors import ConfigError, InputError
from everlearn.events import SqliteLog, scan
from everlearn.learn import limits
from everlearn.loop.erase.finding import Found, find
from everlearn.loop.erase.forgetting import Flags, forget
from everlearn.loop.erase.rebuilding import Rebuilding, Rebuilt
from everlearn.loop.fold import Fold
from everlearn.loop.home import Home
from everlearn.records import Batch, Born, Checkpoint, Decision, Examples, Payload, Scalar
from everlearn.serve import snapshot
from everlearn.spec import Spec
from everlearn.version.blobs import Blobs

__all__ = ["erase"]


def erase(folder: Path, spec: Spec, where: Mapping[str, Scalar], reason: str) -> Decision:
    """Erase all events of the rows for which each field in `where` has its value, and all that was learned from them.

    `folder` is the home of a loop that is not open anywhere: stop its server first. Fields are those of the schema, or
    `spec.subject`. Predictions, examples, their feedback, and rows set aside become tombstones; every version with
    arrays that had learned from them is rebuilt from one that had not, and so are the models that learn, the replay
    memory and what waits. Returns the decision in the log that proves it: counts, the versions replaced, and a salted
    digest of `where`, but no value. Calling again completes what was interrupted.

    Raises `InputError` when nothing matches, `LogError` while another process has the loop open, or when models
    learned from rows that are not in the log. `docs/how-to/erase.md` says what it costs.
    """
    if not (folder / "log.sqlite").exists():
        raise InputError(f"{folder} is not the home of a loop: it has no log.sqlite; name the folder of the loop")
    told = [name for name, value in where.items() if str(value) and str(value) in reason]
    if told:
        raise InputError(f"the reason holds the value of {told[0]}, and would stay in the log; say it without")
    with closing(Home(folder, spec.log)) as home:
        if not isinstance(home.log, SqliteLog):
            raise ConfigError(f"{folder} keeps its log elsewhere; events can be erased only from a log of SQLite")
        found = find(home.log, spec, where)
        if found.positions:
            decision = _Erasing(folder, home, home.log, spec, found).run(where, reason)
        elif (before := _done(home.log, where)) is not None:
            decision = before
        else:
            shown = ", ".join(f"{name}={value}" for name, value in where.items())
            raise InputError(f"nothing in the log of {folder} is about {shown}; check the value, and its field")
        _clean(folder, home.log, spec)
    return decision


class _Erasing:
    """The state of a loop at its last checkpoint, and how it is changed."""

    def __init__(self, folder: Path, home: Home, log: SqliteLog, spec: Spec, found: Found) -> None:
        self._home, self._log, self._found = home, log, found
        self._blobs = Blobs(folder / "blobs", spec.log.durability)
        self._last = home.last()
        if self._last is not None:  # the spec that the state was made with
            spec = msgspec.convert(self._last[2]["spec"], Spec)
        self._spec = spec
        self._gone = set(found.positions)

    def run(self, where: Mapping[str, Scalar], reason: str) -> Decision:
        payloads: list[Payload] = []
        rebuilt, forgotten, at = Rebuilt(), 0, self._log.end()
        if self._last is not None:
            at, arrays, header = self._last
            fold = Fold(self._spec, self._home.versions, self._log)
            fold.load(arrays, header["fold"])
            parts = fold, self._home.versions, self._log, self._blobs.hashes(), self._gone, self._found.first
            rebuilt = Rebuilding(*parts).run()
            forgotten = self._forget(fold)
            fold.rejoin(lambda event: event.position in self._gone or fold.is_left_out(event), fold.cursor["log"])
            fold.taken.note(self._found.ids)  # as what comes behind the checkpoint will not be told any more
            arrays, told = fold.state()
            payloads = [Born(version) for version in rebuilt.versions.values()]
            payloads.append(Checkpoint(at, self._blobs.put(arrays, header | {"fold": told})))
        detail = _mark(where) | {
            "events": self._found.kinds,
            "versions": {old: new.id for old, new in rebuilt.versions.items()},
            "forgotten": forgotten,
            "relearned": rebuilt.learned,
        }
        decision = Decision("erase", at, reason, "user", detail=detail)
        self._log.erase(self._found.positions, [*payloads[:-1], decision, *payloads[-1:]])
        return decision

    def _forget(self, fold: Fold) -> int:
        """Take the person out of the replay memory and out of what waits; return how many rows and predictions."""
        waited = sum(fold.pending.take(id) is not None for id in self._found.ids)
        waited += sum(len(fold.early.take(id)) for id in self._found.ids)
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
        """Which remembered rows are the person's: by position; and where default labels are learned, whose position
        is that of another event, by their content."""
        positions = np.array(self._found.positions, np.int64)
        content: set[tuple[bytes, ...]] = set()
        width = fold.monitor.replay.width
        if self._spec.feedback.default is not None:
            batch, _ = fold.encoder.records(self._found.features)
            for one in (batch, limits.clip(fold.monitor.limits, self._spec.limits, batch)):
                content |= {_content(one, row, width) for row in range(len(one))}

        def gone(rows: Examples) -> Flags:
            same = [bool(content) and _content(rows.batch, row, width) in content for row in range(len(rows.y))]
            return np.array(same, bool) | np.isin(rows.position, positions)

        return gone


def _content(batch: Batch, row: int, width: int) -> tuple[bytes, ...]:
    held = slice(batch.indptr[row], min(batch.indptr[row + 1], batch.indptr[row] + width))
    return batch.dense[row].tobytes(), batch.indices[held].tobytes(), batch.values[held].tobytes()


def _clean(folder: Path, log: SqliteLog, spec: Spec) -> None:
    """Remove every snapshot that an erasure has replaced, and every byte of what the log held; may be done again."""
    blobs = Blobs(folder / "blobs", spec.log.durability)
    replaced: set[str] = set()
    versions: dict[str, str] = {}
    newest = ""  # checkpoint; those before it may hold what was erased
    for event in scan(log, kinds=("version", "decision", "checkpoint")):
        match event.payload:
            case Born(version=version):
                versions[version.id] = version.blob
            case Checkpoint(blob=blob):
                newest = blob
            case Decision(action="erase", detail=detail):
                replaced |= detail["versions"].keys()
    needed = {blob for id, blob in versions.items() if id not in replaced} | {newest}
    for blob in blobs.hashes() - needed:
        blobs.remove(blob)
    for left in blobs.folder.glob(".*.unfinished"):
        left.unlink(missing_ok=True)
    for left in snapshot.folder(folder).glob(f"*{snapshot.CURRENT}*"):
        left.unlink(missing_ok=True)
    log.scrub()


def _done(log: SqliteLog, where: Mapping[str, Scalar]) -> Decision | None:
    """The erasure that was made for `where` before, if there is one."""
    found = None
    for event in scan(log, kinds=("decision",)):
        match event.payload:
            case Decision(action="erase", detail={"salt": str(salt), "digest": str(digest)}) as decision:
                found = decision if _digest(where, salt) == digest else found
    return found


def _mark(where: Mapping[str, Scalar]) -> dict[str, Any]:
    salt = secrets.token_hex(16)
    return {"fields": sorted(where), "salt": salt, "digest": _digest(where, salt)}


def _digest(where: Mapping[str, Scalar], salt: str) -> str:
    """Slow on purpose: it can be checked for a value, but hardly be used to guess one."""
    text = json.dumps({name: str(value) for name, value in sorted(where.items())})
    return hashlib.scrypt(text.encode(), salt=salt.encode(), n=1 << 14, r=8, p=1, dklen=32).hex()
