"""Make the versions and the state of a home again, from its log alone.

The log holds every input and every decision. So the replay of the log gives the arrays of each version and of the
present state, byte for byte, even if all snapshots are lost. The replay follows the decisions of the log, and compares
its arrays with those that the log names before anything is written. Where a loop has read rows of files between events,
checkpoints in the log say in which order; where they leave two, the bytes decide.

What an erasure has removed is not in the log, and comes back in no way: the replay learns without it, as the erasure
did. Metrics and evidence then count the rows that are left.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from everlearn import config, events
from everlearn.errors import BlobError, EverlearnError, InputError, LogError
from everlearn.events import scan
from everlearn.loop import details
from everlearn.loop.fold import Fold
from everlearn.loop.home import UNFINISHED, Home, held
from everlearn.loop.logged import LoggedHistory
from everlearn.loop.rebuild import training_positions
from everlearn.loop.replay_log import LogReplay
from everlearn.loop.timeline import Order, Timeline
from everlearn.model import within
from everlearn.records import Arrays, Born, Decision, Erased, Version
from everlearn.serve.contestant import Progress
from everlearn.spec import LogSpec, Spec
from everlearn.stream import Stream, read
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions

_OFFLINE = re.compile(r"trained offline on (\d+) rows")
_ARRANGED = 4  # files of which all orders are tried
_INSTEAD = (
    "Use the release and the machine that wrote the log, or put back the snapshots from a backup; nothing was changed"
)


@dataclass(frozen=True, slots=True)
class RebuiltHome:
    """A finished rebuild: the end of the log, rows of files, versions, those whose arrays were lost, the champion.

    `erased` counts the events that erasures have removed, which no metric counts any more; `forgotten` the versions
    that had learned from them, which have no arrays any more.
    """

    position: int
    rows: int
    versions: int
    restored: int
    champion: str
    erased: int = 0
    forgotten: int = 0


def rebuild_home(home: Path, durability: LogSpec, source: Path | None = None) -> RebuiltHome:
    """Make the versions and the last checkpoint of a home again from its log, and its book, if a broker has the log.

    `source` is the file, folder or glob (default: that of the settings in the log) whose rows are the log themselves,
    if the loop has read one. After an erasure, a last checkpoint that is whole stays: it has counted more. Raises InUse
    while another process has the home open; InputError, with its path, where that file is missing; LogError for a log
    that the replay contradicts, or that does not hold all that was learned.
    """
    _restore_book(home, durability)
    with closing(Home(home, durability)) as opened, ExitStack() as stack:
        log = _ReadLog(opened)
        for left in home.glob(f"{UNFINISHED}*"):  # of a rebuild that was killed
            shutil.rmtree(left)
        scratch = Path(stack.enter_context(TemporaryDirectory(dir=home, prefix=UNFINISHED)))
        replay, blobs = _replayed(opened, log, source, scratch)
        restored = _take_over(opened.blobs, blobs, log.needed)
        if not (log.erased and log.last):
            arrays, header = replay.fold.state()
            kept = {"fold": header, "sources": replay.ingest.sources, "spec": config.stored(replay.fold.spec)}
            needed = {contestant.version for contestant in replay.fold.roster.contestants}
            opened.save([], sum(replay.fold.cursor.values()), arrays, kept, needed, len(log.known))
        forgotten = sum(version.blob not in log.needed for version in log.known)
        counts = opened.log.end(), replay.ingest.rows, len(log.known), restored
        return RebuiltHome(*counts, replay.fold.roster.champion.version, log.erased, forgotten)


def _restore_book(home: Path, log: LogSpec) -> None:
    """Make the book of a log again from the log, where it is elsewhere and was lost."""
    if events.has_broker(log.url):
        place = events.url_of(home, log.url, log.book)
        with held(home), closing(events.connect(place, log.durability)) as opened:
            if isinstance(opened, events.RestorableLog):
                opened.restore_book()


class _ReadLog:
    """What the log of a home says: its versions, its last checkpoint, and what was erased.

    `needed` are the blobs that a replay must make: those of all versions, except of those that learned erased events.
    """

    def __init__(self, home: Home) -> None:
        self.folder = home.folder
        self.known = [one.version for one in home.read("version") if isinstance(one, Born)]
        self.saved: dict[str, Any] | None = None  # the settings in the last checkpoint
        self.last: tuple[Progress, dict[str, Any], Arrays] | None = None
        with suppress(BlobError):
            if (last := home.last()) is not None:
                cursor = last[2]["fold"]["cursor"]
                self.saved = last[2]["spec"]
                models = within(last[1], "roster/model/")
                self.last = Progress(cursor["log"], cursor["row"]), last[2]["fold"], models
        gone = [event for event in scan(home.log, kinds=("erased",)) if isinstance(event.payload, Erased)]
        self.erased = len(gone)
        self.excused = _forgotten(home, self.known, min((event.position for event in gone), default=0))
        self.needed = {version.blob for version in self.known if version.id not in self.excused}

    def models(self, header: dict[str, Any], arrays: Arrays) -> dict[str, Any]:
        """Return the arrays of the models in a state, named by what does not depend on evidence."""
        found, seen = dict[str, Any](), dict[str, int]()
        for entry in header["roster"]["contestants"]:
            name = f"{entry['role']} {entry['version']}"
            seen[name] = number = seen.get(name, -1) + 1
            if not (self.erased and entry["role"] == "candidate"):
                mine = within(arrays, f"{entry['uid']}/")
                found |= {f"{name}{f' ({number})' if number else ''}: {array}": mine[array] for array in mine}
        return found

    def differs(self, fold: Fold) -> list[str]:
        """Return the names of the arrays of models in the last checkpoint that are others in a fold."""
        if self.last is None:
            return []
        arrays, header = fold.state()
        made, held = self.models(header, within(arrays, "roster/model/")), self.models(*self.last[1:])
        found = sorted(made.keys() ^ held.keys())
        return found + [name for name in held.keys() & made.keys() if not _same(held[name], made[name])]


def _forgotten(home: Home, known: list[Version], first: int) -> set[str]:
    """Return the versions that had learned an erased event, the first of which is at position `first`."""
    found, learned, born = set[str](), training_positions(home.log), set[str]()
    for event in scan(home.log, kinds=("version", "decision")):
        if isinstance(event.payload, Born):
            born.add(event.payload.version.id)
        elif isinstance(event.payload, Decision) and event.payload.action == "erase":
            replaced = details.replaced(event.payload)
            new = set(replaced.values())
            since = event.payload.detail.get("first") or first
            found |= replaced.keys()
            found |= {id for id in born - new if since and learned.get(id, Progress(0, 0)).log >= since}
    return found


def _replayed(home: Home, log: _ReadLog, source: Path | None, scratch: Path) -> tuple[LogReplay, Blobs]:
    """Replay the log in the orders that are possible, up to the first that gives its arrays.

    The error of the likeliest one is raised where none does.
    """
    settings, timeline = _first_settings(home, log), Timeline(home.log)
    files, most = _files(settings, source)
    failed: EverlearnError | None = None
    rows = log.last[0].row if log.last else None
    tries = ((order, arranged) for order in timeline.orders(rows, most) for arranged in _arranged(order, files))
    for number, (order, streams) in enumerate(tries):
        if order.rows and not streams:
            failed = failed or _missing(settings, source, order.rows, log.folder)
            continue
        blobs, stored = Blobs(scratch / str(number)), home.blobs
        exact = {version.id for version in log.known if version.id not in log.excused} if failed else set[str]()
        history = LoggedHistory(home.log, order.of_rows, bool(log.erased), order.unfolded, stored, exact)
        try:
            replay = LogReplay(home.log, Versions(blobs, history), settings, streams, _warm_rows(settings, log.known))
            differ = list[str]()

            def look(fold: Fold, differ: list[str] = differ) -> None:
                differ[:] = log.differs(fold)

            replay.run(order, (log.last[0], look) if log.last else None)
            _check_same(log, blobs, replay.fold, differ)
            return replay, blobs
        except (LogError, InputError) as error:
            failed = failed or error
            shutil.rmtree(scratch / str(number))
    assert failed is not None
    raise failed


def _files(settings: Spec | None, source: Path | None) -> tuple[list[Stream], int]:
    """Return the files whose rows are the log, and the number of these rows; none if they are missing."""
    path = source or (Path(settings.source) if settings is not None and settings.source else None)
    if settings is None or path is None or not _exists(path):
        return [], 1 << 62
    parts = read(str(path), schema=settings.schema).parts()
    return parts, sum(part.rows or 0 for part in parts)


def _arranged(order: Order, files: list[Stream]) -> Iterator[list[Stream]]:
    """Yield the orders in which the loop may have read files, that of their names first: no checkpoint says which."""
    if order.rows and 1 < len(files) <= _ARRANGED:
        yield from (list(arranged) for arranged in permutations(files))
    else:
        yield files


def _missing(settings: Spec | None, source: Path | None, rows: int, folder: Path) -> InputError:
    path = source or (settings.source if settings is not None else "")
    return InputError(
        f"{path or 'source'}: the file is missing, and the first {rows} rows of it are not in the log of {folder}, "
        "which reads them from there. Put it back, or give its path with --source"
    )


def _first_settings(home: Home, log: _ReadLog) -> Spec | None:
    """Return the settings with which the loop began; None if neither the log nor a checkpoint holds them."""
    for one in home.read("decision"):
        if isinstance(one, Decision) and (stored := details.full_spec(one, before=True)) is not None:
            return config.read_stored(stored, str(home.folder))
    return config.read_stored(log.saved, str(home.folder)) if log.saved is not None else None


def _warm_rows(settings: Spec | None, known: list[Version]) -> int | None:
    """Return the rows of the warm start where the settings give a share of the rows that the files had then.

    The first version names the number.
    """
    if settings is None or not 0 < settings.warm_start < 1 or not known:
        return None
    found = _OFFLINE.fullmatch(known[0].reason)
    return int(found[1]) if found else 0


def _exists(path: Path) -> bool:
    """Return True if there is a file or folder at a path, or any that a glob means."""
    inner = path.relative_to(path.anchor) if path.anchor else path
    return any(Path(path.anchor or ".").glob(str(inner)))


def _same(one: Any, other: Any) -> bool:
    return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())


def _check_same(log: _ReadLog, blobs: Blobs, fold: Fold, differ: list[str]) -> None:
    """Raise LogError where the replay did not make the arrays that the log names, or makes others."""
    made, home, known = blobs.hashes(), log.folder, log.known
    others = [version for version in known if version.blob in log.needed - made]
    if others:
        why = ""
        if log.erased and (found := [version for version in others if " remembered rows" in version.reason]):
            why = (
                f". Version {found[0].id} learned remembered rows first, and an erasure has changed which ones, or how "
                "they were clipped"
            )
        raise LogError(
            f"{home}: the replay of the log gives other arrays for {len(others)} of {len(known)} versions, the first "
            f"of them {others[0].id}; expected equal bytes{why}. {_INSTEAD}"
        )
    ids = {version.id for version in known}
    if new := [contestant.version for contestant in fold.roster.contestants if contestant.version not in ids]:
        raise LogError(f"{home}: the replay gives version {new[0]}, which is not in the log. {_INSTEAD}")
    if differ:
        raise LogError(
            f"{home}: the replay of the log gives other arrays for the models in the last checkpoint, the first "
            f"of them {differ[0]}; expected equal bytes. {_INSTEAD}"
        )


def _take_over(kept: Blobs, made: Blobs, needed: set[str]) -> int:
    """Put the arrays of versions that the home lacks in their place; return their number."""
    missing = needed - kept.hashes()
    for blob in missing:
        kept.take(made, blob)
    return len(missing)
