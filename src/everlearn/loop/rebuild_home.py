"""Make the versions and the state of a home again, from its log alone.

The log holds every input and every decision. So the replay of the log gives the arrays of each version and of the
present state, byte for byte, even if all snapshots are lost. The replay follows the decisions of the log, and compares
its arrays with those that the log names before anything is written.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from everlearn import config
from everlearn.errors import BlobError, InputError, LogError
from everlearn.events import Log, scan
from everlearn.loop import details
from everlearn.loop.fold import Fold
from everlearn.loop.home import Home
from everlearn.loop.logged import LoggedHistory
from everlearn.loop.loop import Loop
from everlearn.loop.replay_log import replay_log
from everlearn.model import within
from everlearn.records import Arrays, Born, Checkpoint, Decision, Version
from everlearn.spec import LogSpec, Spec
from everlearn.stream import read
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions

_OFFLINE = re.compile(r"trained offline on (\d+) rows")
_OUTSIDE = ("prediction", "example", "label", "reward", "preference")
_INSTEAD = (
    "Use the release and the machine that wrote the log, or put back the snapshots from a backup; nothing was changed"
)


@dataclass(frozen=True, slots=True)
class RebuiltHome:
    """A finished rebuild: the end of the log, rows of files, versions, those whose arrays were lost, the champion."""

    position: int
    rows: int
    versions: int
    restored: int
    champion: str


def rebuild_home(home: Path, durability: LogSpec, source: Path | None = None) -> RebuiltHome:
    """Make the versions and the last checkpoint of a home again from its log.

    `source` is the file, folder or glob (default: that of the settings in the log) whose rows are the log themselves,
    if the loop has read one. Raises InUse while another process has the home open; InputError, with its path, where
    that file is missing; LogError for a log that the replay contradicts, or that does not hold all that was learned.
    """
    with closing(Home(home, durability)) as held, ExitStack() as stack:
        _check_whole(held.log, home)
        scratch = Path(stack.enter_context(TemporaryDirectory(dir=home, prefix=".rebuild-")))
        known = [one.version for one in held.read("version") if isinstance(one, Born)]
        rows, sources, last = _rows_of_files(held), dict[str, dict[str, Any]](), _LastModels(held)
        if rows:
            blobs = Blobs(scratch / "home" / "blobs")
            fold, sources, spec = _run_again(held, scratch / "home", source, rows, known)
        else:
            blobs = Blobs(scratch)
            versions, settings = Versions(blobs, LoggedHistory(held.log)), _first_settings(held)
            fold = replay_log(held.log, versions, settings, (last.at, last.look))
            spec = fold.spec
        _check_same(known, blobs, fold, home)
        if last.differ:
            raise LogError(
                f"{home}: the replay of the log gives other arrays for the models in the last checkpoint, the first "
                f"of them {last.differ[0]}; expected equal bytes. {_INSTEAD}"
            )
        restored = _take_over(home, blobs, known)
        arrays, header = fold.state()
        kept = {"fold": header, "sources": sources, "spec": config.stored(spec)}
        needed = {contestant.version for contestant in fold.roster.contestants}
        held.save([], sum(fold.cursor.values()), arrays, kept, needed, len(known))
        return RebuiltHome(held.log.end(), rows, len(known), restored, fold.roster.champion.version)


def _check_whole(log: Log, home: Path) -> None:
    """Raise LogError for a log from which events were erased."""
    for event in scan(log, kinds=("decision",)):
        if isinstance(event.payload, Decision) and event.payload.action == "erase":
            raise LogError(
                f"{home}: a subject was erased at position {event.position}, and metrics still count the erased rows, "
                "so that a replay of the log differs. Put back the snapshots from a backup made after the erasure"
            )


def _rows_of_files(home: Home) -> int:
    """Return the number of rows that the loop has taken from files that are themselves the log; 0 if there are none.

    A checkpoint names the sum of both cursors, and that of the log is 0 where it holds no event from outside.
    """
    learned = [
        progress.row
        for one in home.read("decision")
        if isinstance(one, Decision)
        for progress in details.progress(one).values()
    ]
    saved = [one.at for one in home.read("checkpoint") if isinstance(one, Checkpoint)]
    if not any(home.log.count(kind) for kind in _OUTSIDE):
        return saved[-1] if saved else max(learned, default=0)
    with suppress(BlobError):
        if (last := home.last()) is not None:
            return sum(source["rows"] for source in last[2]["sources"].values())
    return max(learned, default=0)


class _LastModels:
    """The models in the last checkpoint of a home, which no version holds yet; none if it is lost.

    `at` is its position in the log, and `differ` the names of their arrays that are others in the fold that `look` saw.
    """

    def __init__(self, home: Home) -> None:
        self.at, self.differ = 0, list[str]()
        self._arrays: Arrays = {}
        with suppress(BlobError):
            if (last := home.last()) is not None:
                self.at, self._arrays = last[2]["fold"]["cursor"]["log"], within(last[1], "roster/model/")

    def look(self, fold: Fold) -> None:
        """Compare the models of a fold of the log up to `at`."""
        made, held = within(fold.state()[0], "roster/model/"), self._arrays
        self.differ = sorted(made.keys() ^ held.keys()) if held else []
        self.differ += [name for name in held.keys() & made.keys() if not _same(held[name], made[name])]


def _same(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())


def _first_settings(home: Home) -> Spec | None:
    """Return the settings with which the loop began; None if neither the log nor a checkpoint holds them."""
    for one in home.read("decision"):
        if isinstance(one, Decision) and (stored := details.full_spec(one, before=True)) is not None:
            return config.read_stored(stored, str(home.folder))
    with suppress(BlobError):
        if (last := home.last()) is not None:
            return config.read_stored(last[2]["spec"], str(home.folder))
    return None


def _run_again(
    home: Home, scratch: Path, source: Path | None, rows: int, known: list[Version]
) -> tuple[Fold, dict[str, dict[str, Any]], Spec]:
    """Run the files again that are the log, in another home, up to the row that the loop had reached.

    Returns the fold, the progress in each file, and the settings of the loop.
    """
    spec, folder = _first_settings(home), home.folder
    if spec is None:
        raise LogError(f"{folder}: neither its log nor a checkpoint holds the settings. Put back a backup")
    orders = [one for one in home.read("decision") if isinstance(one, Decision) and one.action in ("order", "config")]
    if any(home.log.count(kind) for kind in _OUTSIDE) or orders:
        raise LogError(
            f"{folder}: the loop has read {rows} rows of a file, and events or orders of its log among them, and only "
            "checkpoints hold their order. Put back the snapshots from a backup"
        )
    path = source or (Path(spec.source) if spec.source else None)
    if path is None or not _exists(path):
        raise InputError(
            f"{path or 'source'}: the file is missing, and the first {rows} rows of it are not in the log of {folder}, "
            "which reads them from there. Put it back, or give its path with --source"
        )
    warm = _warm_start(spec, known, rows)
    with Loop(msgspec.structs.replace(spec, keep=max(spec.keep, len(known)), warm_start=warm), scratch) as loop:
        left = rows
        for part in read(str(path), schema=spec.schema).parts():
            if left:
                loop.run(part.first(left))
                left = rows - loop.intake.rows
        if left:
            raise InputError(f"{path}: got {rows - left} rows; expected the {rows} that the loop has read. Put it back")
        return loop.fold, loop.intake.sources, spec


def _warm_start(spec: Spec, known: list[Version], rows: int) -> float:
    """Return the warm start as a number of rows; a share is one of the rows that the files had when the loop began.

    The first version names the number. Without a version, all rows so far belong to the warm start.
    """
    if not 0 < spec.warm_start < 1:
        return spec.warm_start
    if not known:
        return float(rows)
    found = _OFFLINE.fullmatch(known[0].reason)
    return float(found[1]) if found else 0.0


def _exists(path: Path) -> bool:
    """Return True if there is a file or folder at a path, or any that a glob means."""
    inner = path.relative_to(path.anchor) if path.anchor else path
    return any(Path(path.anchor or ".").glob(str(inner)))


def _check_same(known: list[Version], blobs: Blobs, fold: Fold, home: Path) -> None:
    """Raise LogError where the replay did not make the arrays of a version that the log names, or makes others."""
    made = blobs.hashes()
    differ = [version.id for version in known if version.blob not in made]
    if differ:
        raise LogError(
            f"{home}: the replay of the log gives other arrays for {len(differ)} of {len(known)} versions, the first "
            f"of them {differ[0]}; expected equal bytes. {_INSTEAD}"
        )
    ids = {version.id for version in known}
    if new := [contestant.version for contestant in fold.roster.contestants if contestant.version not in ids]:
        raise LogError(f"{home}: the replay gives version {new[0]}, which is not in the log. {_INSTEAD}")


def _take_over(home: Path, made: Blobs, known: list[Version]) -> int:
    """Put the arrays of versions that the home lacks in their place; return their number."""
    kept = Blobs(home / "blobs")
    missing = {version.blob for version in known} - kept.hashes()
    for blob in missing:
        kept.take(made, blob)
    return len(missing)
