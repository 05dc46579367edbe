"""Hand the served models from the learner to the workers: immutable files in memory, and one word.

    publisher    writes a file, renames it to `current.safetensors`, then stores its number in the word
    reader       compares the word; when it has changed, maps the new file and reads that from then on

Neither waits for the other. A reader keeps the file that it has mapped for as long as it uses it, whatever was
published since. A file never changes, so no read sees half of an update. `docs/why/serving.md` describes the guarantees
when a process dies in between.
"""

from __future__ import annotations

import copy
import hashlib
import math
import mmap
import os
import stat
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlearn import _private
from everlearn.errors import BlobError, ConfigError
from everlearn.model import Model, Spec, answering, compare, prefixed, within
from everlearn.records import Arrays, Floats
from everlearn.version.codec import canonical, front, laid_out, map_readonly, octets
from everlearn.version.packing import pack, unpack

FORMAT, PACKED = 1, 2  # of the header of a snapshot; of one with arrays whose empty blocks are left out
CURRENT, WORDS, EPOCH = "current.safetensors", "words", "epoch"
ROOM = 32 << 20  # bytes that must be free in shared memory, so that large snapshots cannot fill it

_MEMORY = Path("/dev/shm")
# Places in the file of words. Each is read and written by one aligned move of eight bytes: that is what CPython's
# memoryview does for the formats "Q" and "d", while struct's "<Q" goes byte by byte.
_SEQUENCE, _POSITION, _FRESH, _BOOT = range(4)
_WORDS_BYTES = 64
_EPOCH_BITS = 32  # of a number, for the snapshots of one epoch
_SMALL = 1 << 16  # bytes: below this every file is checked as it is mapped, which takes 10 microseconds
_PAUSE = 0.005
_SPARES = 3  # models of one spec that wait to be filled again: as many as a snapshot has


@dataclass(frozen=True, slots=True)
class Answering:
    """A model that may answer, its version, and the rule of its decisions (see `deciding`; None: the likeliest).

    `uid` is that of the contestant, 0 where it is not known; answers of a duel carry it.
    """

    version: str
    model: Model
    rule: Floats | None = None
    uid: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The served models at one moment: all events up to `position` were folded when they were published.

    `canary` answers a share of the traffic, if there is one. `arrays` maps names to the other arrays that workers need.
    `rival` is the contestant that duels the champion, published for pairs of answers alone.
    """

    sequence: int
    position: int
    champion: Answering
    canary: Answering | None
    arrays: Arrays
    rival: Answering | None = None


def folder(home: Path, room: int = ROOM) -> Path:
    """Return the folder that the processes of one home share; make it if needed.

    It is in memory if `room` bytes are free there, else home/serving. Raises `ConfigError` if the folder belongs to
    another user, or if others may enter it.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home:
    ...     folder(Path(home), room=1 << 60).name
    'serving'
    """
    home = home.absolute()
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    path = home / "serving"
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK):
        shared = os.statvfs(_MEMORY)
        path = _MEMORY / f"everlearn-{os.geteuid()}-{digest}" if shared.f_bavail * shared.f_frsize >= room else path
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    _check_ours(path, stat.S_IRWXG | stat.S_IRWXO)
    return path


class Publisher:
    """The one writer of a folder. Its numbers continue those of the publisher before it.

    At first, `position` and `version` are those of the snapshot that the folder already holds, or 0 and "".
    """

    def __init__(self, folder: Path) -> None:
        _check_ours(folder, stat.S_IWGRP | stat.S_IWOTH)
        self.folder = folder
        self.sequence = self.position = 0
        self.version = ""
        for unfinished in folder.glob(".*.unfinished"):
            unfinished.unlink(missing_ok=True)
        self._map = _writable_words(folder)
        self._words, self._moments = memoryview(self._map).cast("Q"), memoryview(self._map).cast("d")
        boot = _boot()
        if not boot or self._words[_BOOT] != boot:  # the clock of moments has restarted since
            self._moments[_FRESH] = 0.0
            self._words[_BOOT] = boot
        with suppress(BlobError, FileNotFoundError):
            held = _mapped(folder / CURRENT)
            self.sequence, self.position = held.header["sequence"], held.header["position"]
            self.version = held.header["champion"]["version"]
        self.sequence = max(self.sequence, self._words[_SEQUENCE])

    def publish(
        self,
        champion: Answering,
        canary: Answering | None,
        position: int,
        extra: Mapping[str, Any],
        rival: Answering | None = None,
    ) -> int:
        """Publish models to serve from now on; return the snapshot's number, one above the last.

        Arrays named "learn/..." are not published, since only learning needs them. Readers get `extra` as
        `Snapshot.arrays`. No argument is kept. Raises `BlobError` if the folder is full, with nothing changed;
        `ModelError` for arrays that cannot be stored.
        """
        arrays = prefixed("champion/", answering(champion.model.arrays)) | prefixed("extra/", extra)
        if canary is not None:
            arrays |= prefixed("canary/", answering(canary.model.arrays))
        if rival is not None:
            arrays |= prefixed("rival/", answering(rival.model.arrays))
        arms = {"champion": champion, "canary": canary}
        arrays |= {f"rule/{name}": arm.rule for name, arm in arms.items() if arm is not None and arm.rule is not None}
        stored, packed = pack(laid_out(arrays))
        tensors = laid_out(stored) if packed else stored
        checksum, body = 0, [octets(array) for array in tensors.values()]
        for part in body:
            checksum = zlib.crc32(part, checksum)
        header = (
            {
                "kind": "snapshot",
                "format": PACKED if packed else FORMAT,
                "sequence": self.sequence + 1,
                "position": position,
                "champion": _entry(champion),
                "canary": _entry(canary) if canary is not None else None,
                "checksum": checksum,
            }
            | ({"rival": _entry(rival)} if rival is not None else {})
            | ({"packed": packed} if packed else {})
        )
        self._put(CURRENT, [front(tensors, header), *body])
        self.sequence, self.position, self.version = self.sequence + 1, position, champion.version
        self._words[_POSITION] = position
        self._words[_SEQUENCE] = self.sequence  # last: a reader that sees it finds the file
        return self.sequence

    def begin(self, epoch: int) -> None:
        """Number snapshots from those of an epoch on, so that no two learners of a loop use one number."""
        self.sequence = max(self.sequence, epoch << _EPOCH_BITS)
        (self.folder / EPOCH).write_text(str(epoch))

    def adopt(self, data: bytes, sequence: int, position: int) -> None:
        """Publish a file that the learner of another machine has published, under the number that it has there."""
        self._put(CURRENT, [data])
        self.sequence, self.position = sequence, position
        self._words[_POSITION] = position
        self._words[_SEQUENCE] = sequence

    def fresh(self, moment: float) -> None:
        """Note that what serves includes every event committed before `moment` (`time.monotonic()`)."""
        self._moments[_FRESH] = moment

    def reached(self, position: int) -> None:
        """Note that the log was folded up to `position`, even if that did not change what serves."""
        self._words[_POSITION] = position

    def staleness(self, now: float) -> float:
        """Return the age in seconds above which all acknowledged labels are in what serves; see `Reader.staleness`."""
        return _since(self._moments[_FRESH], now)

    def close(self) -> None:
        """Release the folder; the last snapshot stays in use. Closing twice has no effect."""
        self._words.release()
        self._moments.release()
        self._map.close()

    def _put(self, name: str, parts: list[Any]) -> None:
        unfinished = self.folder / f".{name}.{os.getpid()}.unfinished"
        try:
            with _private.create(unfinished) as file:
                file.writelines(parts)
            unfinished.replace(self.folder / name)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            size = sum(len(part) for part in parts)
            raise BlobError(
                f"a snapshot of {size} bytes cannot be written to {self.folder}: {error}; what was published before "
                "goes on serving; make room there (in a container: more shared memory)"
            ) from error


def published(folder: Path) -> bytes | None:
    """Return the bytes of the newest snapshot; None if there is none yet."""
    try:
        return (folder / CURRENT).read_bytes()
    except FileNotFoundError:
        return None


def words(folder: Path) -> tuple[int, int, float]:
    """Return the number of the newest snapshot, the position that was folded, and the moment of `Publisher.fresh`."""
    try:
        data = (folder / WORDS).read_bytes()
    except FileNotFoundError:
        return 0, 0, 0.0
    held = memoryview(data)
    return held.cast("Q")[_SEQUENCE], held.cast("Q")[_POSITION], held.cast("d")[_FRESH]


class Reader:
    """The served models, as one process sees them; for one thread. `build` makes an untrained model of a spec.

    If the newest snapshot cannot be used, `trouble` says why, and the one before it stays in use. The first `current`
    waits up to `patience` seconds for a snapshot.

    With `reuse`, models that copy their arrays are filled again two snapshots later, since building one may take far
    longer: the caller must not use a snapshot once it has taken another one.
    """

    def __init__(
        self, folder: Path, build: Callable[[Spec], Model], patience: float = 10.0, reuse: bool = False
    ) -> None:
        _check_ours(folder, stat.S_IWGRP | stat.S_IWOTH)
        self.folder = folder
        self.trouble = ""
        self._build = build
        self._patience = patience
        self._reuse = reuse
        self._map: mmap.mmap | None = None
        self._words = memoryview(bytes(_WORDS_BYTES)).cast("Q")  # until the file of words exists
        self._moments = memoryview(bytes(_WORDS_BYTES)).cast("d")
        self._open_words()
        self._word = 0  # at the last look
        self._fresh = 0.0  # of the snapshot in use, not of one that cannot be read
        self._held: _Held | None = None
        self._snapshot: Snapshot | None = None
        self._patterns: dict[str, _Pattern] = {}

    def current(self) -> Snapshot:
        """Return the newest snapshot; the same object as before if nothing was published since.

        Raises `BlobError` if there is none after waiting, or none that can be read.
        """
        if self._snapshot is not None and self._words[_SEQUENCE] == self._word:
            return self._snapshot
        return self._look()

    def position(self) -> int:
        """Return the position up to which the log was folded, even if that did not change what serves."""
        self._open_words()
        return self._words[_POSITION]

    def staleness(self, now: float) -> float:
        """Return the age in seconds above which all acknowledged labels are in the snapshot in use.

        That is the snapshot that `current` last returned; if a newer one cannot be read, the age grows. `now` is
        `time.monotonic()`. Infinite while unknown.
        """
        self._open_words()
        fresh = self._moments[_FRESH]  # before the word: the moment of a newer snapshot is written after its word
        if self._snapshot is None or (not self.trouble and self._words[_SEQUENCE] == self._word):
            self._fresh = fresh
        return _since(self._fresh, now)

    def check(self) -> None:
        """Compare the snapshot in use with its checksum. Raises `BlobError` if its bytes are not those published."""
        self.current()
        if self._held is not None:
            self._held.check()

    def _look(self) -> Snapshot:
        """Map the published snapshot; wait if there is none yet."""
        deadline = time.monotonic() + self._patience
        while True:
            self._open_words()
            fresh, word = self._moments[_FRESH], self._words[_SEQUENCE]
            try:
                return self._take(_mapped(self.folder / CURRENT), word, fresh)
            except BlobError as error:
                self.trouble = str(error)
                if self._snapshot is None:
                    raise
                self._word = word  # look again when something else was published
                return self._snapshot
            except OSError as error:  # no file, or no descriptor or memory left for it: that may pass
                self.trouble = str(error)
                if self._snapshot is not None:
                    return self._snapshot
            if time.monotonic() >= deadline:
                raise BlobError(
                    f"nothing to serve in {self.folder} after {self._patience:g} s; the learner publishes there: "
                    f"start it, or look why it does not ({self.trouble})"
                )
            time.sleep(_PAUSE)

    def _take(self, held: _Held, word: int, fresh: float) -> Snapshot:
        sequence = held.header["sequence"]
        if self._snapshot is None or self._snapshot.sequence != sequence:
            if len(held.body) <= _SMALL:
                held.check()
            header, used = held.header, dict[str, _Pattern]()
            champion = self._answering(held, "champion", used)
            canary = self._answering(held, "canary", used) if header["canary"] else None
            extra = within(held.arrays, "extra/")
            rival = self._answering(held, "rival", used) if header.get("rival") else None
            if self._reuse and self._snapshot is not None:
                before = self._snapshot
                for arm in (before.champion, before.canary, before.rival):
                    if arm is not None and (pattern := used.get(canonical(dict(arm.model.spec)))) is not None:
                        pattern.spare(arm.model)
            self._snapshot = Snapshot(sequence, header["position"], champion, canary, extra, rival)
            self._held, self._patterns = held, used
        # A file below the word is one whose successor this processor does not see yet: look again next time. A file
        # above it is of a publisher that died before it stored the word.
        self._word, self.trouble = min(word, sequence), ""
        if sequence >= word:
            self._fresh = fresh
        return self._snapshot

    def _answering(self, held: _Held, arm: str, used: dict[str, _Pattern]) -> Answering:
        entry, arrays = held.header[arm], within(held.arrays, f"{arm}/")
        key = canonical(entry["spec"])
        pattern = used.get(key) or self._patterns.get(key) or _Pattern(self._build, entry["spec"])
        used[key] = pattern
        rule = held.arrays.get(f"rule/{arm}")
        return Answering(entry["version"], pattern.cast(arrays), rule, entry.get("uid", 0))

    def _open_words(self) -> None:
        if self._map is None:
            with suppress(OSError), (self.folder / WORDS).open("rb") as file:
                self._map = mmap.mmap(file.fileno(), _WORDS_BYTES, access=mmap.ACCESS_READ)
                self._words, self._moments = memoryview(self._map).cast("Q"), memoryview(self._map).cast("d")


@dataclass(frozen=True, slots=True)
class _Held:
    """A mapped file: it stays in memory while any of its arrays is used."""

    path: Path
    header: dict[str, Any]
    arrays: Arrays
    body: memoryview

    def check(self) -> None:
        found = zlib.crc32(self.body)
        if found != self.header["checksum"]:
            raise BlobError(
                f"snapshot {self.header['sequence']} in {self.path} is damaged: its {len(self.body)} bytes have the "
                f"checksum {found}, expected {self.header['checksum']}; restart the learner, which publishes it again"
            )


class _Pattern:
    """A maker of models of one spec around given arrays, which are not copied.

    Building a model allocates and fills arrays that would be thrown away at once. So a model is copied without its
    arrays, if such a copy takes new arrays as they are, and the original keeps its own.
    """

    def __init__(self, build: Callable[[Spec], Model], spec: Spec) -> None:
        self._build, self._spec = build, spec
        self._model = build(spec)
        self._apart: bool | None = None  # True if shallow copies are independent; None before the first arrays
        self._spares: list[Model] = []  # models that nothing uses any more

    def cast(self, arrays: Arrays) -> Model:
        differences = compare(answering(self._model.arrays), arrays)
        if differences:
            raise BlobError(f"the snapshot does not fit its own model: {'; '.join(differences)}")
        if self._apart is None:
            twin, own = copy.copy(self._model), dict(self._model.arrays)
            twin.arrays = dict(arrays)
            kept = all(self._model.arrays[name] is own[name] for name in own)
            self._apart = kept and all(twin.arrays[name] is arrays[name] for name in arrays)
        if not self._apart:
            self._model = self._spares.pop() if self._spares else self._build(self._spec)
        else:
            self._model = copy.copy(self._model)  # the last one is the next pattern, so that old arrays can go
        self._model.arrays = dict(arrays)
        return self._model

    def spare(self, model: Model) -> None:
        """Let a model that was cast before be filled again, if it copies its arrays."""
        if self._apart is False and len(self._spares) < _SPARES:
            self._spares.append(model)


def _boot() -> int:
    """Return a number that identifies this start of the machine; 0 if the system has none."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:16], 16)
    return 0


def _since(moment: float, now: float) -> float:
    return max(0.0, now - moment) if moment else math.inf


def _entry(answering: Answering) -> dict[str, Any]:
    """Return the entry of a model in the header of a snapshot."""
    named = {"uid": answering.uid} if answering.uid else {}
    return {"version": answering.version, "spec": dict(answering.model.spec), **named}


def _mapped(path: Path) -> _Held:
    """Map a published file. Raises FileNotFoundError, or `BlobError` for a file that cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        if not size:
            raise BlobError(f"snapshot {path} is empty; restart the learner, which publishes it again")
        buffer = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    arrays, header = map_readonly(buffer, path)
    if header.get("kind") != "snapshot" or header.get("format") not in (FORMAT, PACKED):
        raise BlobError(
            f"snapshot {path} has kind {header.get('kind')!r} and format {header.get('format')!r}; this Everlearn "
            f"reads kind 'snapshot' and format {FORMAT} or {PACKED}; a newer one wrote it: restart this process with "
            "that one"
        )
    begin = 8 + int.from_bytes(buffer[:8], "little")
    arrays = unpack(arrays, header.get("packed", {}))
    for array in arrays.values():
        array.flags.writeable = False
    return _Held(path, header, arrays, memoryview(buffer)[begin:])


def _writable_words(folder: Path) -> mmap.mmap:
    """Map the file of words; make it at full length if needed, so that later writes cannot find a full disk."""
    path = folder / WORDS
    if not path.exists() or path.stat().st_size != _WORDS_BYTES:
        unfinished = folder / f".{WORDS}.{os.getpid()}.unfinished"
        _private.write(unfinished, bytes(_WORDS_BYTES))
        unfinished.replace(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        return mmap.mmap(descriptor, _WORDS_BYTES)
    finally:
        os.close(descriptor)


def _check_ours(path: Path, refused: int) -> None:
    """Raise `ConfigError` for a folder that another user could have prepared."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & refused:
        mode = stat.filemode(found.st_mode)
        raise ConfigError(
            f"{path} is not a folder of this user alone: got owner {found.st_uid} and mode {mode}, expected owner "
            f"{os.geteuid()} and no rights for others; remove it, or `chmod 700` it if it is yours"
        )
