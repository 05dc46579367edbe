"""What serves, from the one process that learns to the many that answer: immutable files in memory, and a word.

    publisher    writes a file beside, renames it to `current.safetensors`, then stores its number in one word
    reader       compares that word; where it changed, maps the new file and goes on from there

Nobody waits for anybody. A reader holds on to the file that it has mapped for as long as it uses it, whatever was
published since; a file is never changed, so no read sees half of an update. `docs/why/serving.md` says what is
guaranteed when a process dies in between.
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

from everlearn.errors import BlobError, ConfigError
from everlearn.model import Model, Spec, answering, compare, prefixed, within
from everlearn.records import Arrays
from everlearn.version.codec import canonical, front, laid_out, map_readonly, octets

FORMAT = 1  # of the header of a snapshot
CURRENT, WORDS = "current.safetensors", "words"
ROOM = 32 << 20  # bytes that must be free in shared memory, lest large snapshots fill it up

_MEMORY = Path("/dev/shm")
# Places in the file of words. Each is read and written by one aligned move of eight bytes: that is what CPython's
# memoryview does for the formats "Q" and "d", while struct's "<Q" goes byte by byte.
_SEQUENCE, _POSITION, _FRESH, _BOOT = range(4)
_WORDS_BYTES = 64
_SMALL = 1 << 16  # bytes: below this every file is checked as it is mapped, which takes 10 microseconds
_PAUSE = 0.005


@dataclass(frozen=True, slots=True)
class Answering:
    """One model that may answer, and the version that it is of."""

    version: str
    model: Model


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What serves at one moment: everything up to `position` of the log was folded when it was published.

    `canary` answers a share of the traffic, where there is one. `arrays` is what else workers need, by name.
    """

    sequence: int
    position: int
    champion: Answering
    canary: Answering | None
    arrays: Arrays


def folder(home: Path, room: int = ROOM) -> Path:
    """The folder that the processes of one home share, made if it is not there: in memory, if `room` bytes are free.

    Otherwise it is home/serving. Raises `ConfigError` for one that is of another user, or that others may enter.

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
    """The one writer of a folder. Its numbers go on where those of the publisher before it stopped.

    `position` and `version` tell what the folder holds from before: the position and champion of a snapshot that
    can be read, or 0 and "".
    """

    def __init__(self, folder: Path) -> None:
        _check_ours(folder, stat.S_IWGRP | stat.S_IWOTH)
        self.folder = folder
        self.sequence = self.position = 0
        self.version = ""
        for left in folder.glob(".*.unfinished"):
            left.unlink(missing_ok=True)
        self._map = _writable_words(folder)
        self._words, self._moments = memoryview(self._map).cast("Q"), memoryview(self._map).cast("d")
        boot = _boot()
        if not boot or self._words[_BOOT] != boot:  # the clock of moments has begun anew since
            self._moments[_FRESH] = 0.0
            self._words[_BOOT] = boot
        with suppress(BlobError, FileNotFoundError):
            held = _mapped(folder / CURRENT)
            self.sequence, self.position = held.header["sequence"], held.header["position"]
            self.version = held.header["champion"]["version"]
        self.sequence = max(self.sequence, self._words[_SEQUENCE])

    def publish(self, champion: Answering, canary: Answering | None, position: int, extra: Mapping[str, Any]) -> int:
        """Let this serve from now on; return its number, one above the last.

        Of a model, that is what it needs to answer: arrays named "learn/..." stay here. `extra` are arrays that
        readers get as `Snapshot.arrays`. What is given is not held on to. Raises `BlobError` when the folder is full,
        with nothing changed; `ModelError` for arrays that cannot be stored.
        """
        arrays = prefixed("champion/", answering(champion.model.arrays)) | prefixed("extra/", extra)
        if canary is not None:
            arrays |= prefixed("canary/", answering(canary.model.arrays))
        tensors = laid_out(arrays)
        checksum, body = 0, [octets(one) for one in tensors.values()]
        for part in body:
            checksum = zlib.crc32(part, checksum)
        header = {
            "kind": "snapshot",
            "format": FORMAT,
            "sequence": self.sequence + 1,
            "position": position,
            "champion": _told(champion),
            "canary": _told(canary) if canary is not None else None,
            "checksum": checksum,
        }
        self._put(CURRENT, [front(tensors, header), *body])
        self.sequence, self.position, self.version = self.sequence + 1, position, champion.version
        self._words[_POSITION] = position
        self._words[_SEQUENCE] = self.sequence  # last: whoever sees it finds the file
        return self.sequence

    def fresh(self, moment: float) -> None:
        """Every event committed before `moment` (`time.monotonic()`) is in what serves."""
        self._moments[_FRESH] = moment

    def reached(self, position: int) -> None:
        """The log was folded up to `position`, whether or not that changed what serves."""
        self._words[_POSITION] = position

    def staleness(self, now: float) -> float:
        """What serves includes every label that was acknowledged longer ago than this; see `Reader.staleness`."""
        return _since(self._moments[_FRESH], now)

    def close(self) -> None:
        """Let go of the folder; what serves goes on serving. Closing twice is fine."""
        self._words.release()
        self._moments.release()
        self._map.close()

    def _put(self, name: str, parts: list[Any]) -> None:
        unfinished = self.folder / f".{name}.{os.getpid()}.unfinished"
        try:
            with unfinished.open("wb") as file:
                file.writelines(parts)
            unfinished.replace(self.folder / name)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            size = sum(len(part) for part in parts)
            raise BlobError(
                f"a snapshot of {size} bytes cannot be written to {self.folder}: {error}; what was published before "
                "goes on serving; make room there (in a container: more shared memory)"
            ) from error


class Reader:
    """What serves, as one process sees it; for one thread. `build` makes an untrained model of a spec.

    `trouble` says why the newest snapshot is not used, where it is not: the one before it goes on serving. The
    first `current` waits up to `patience` seconds for a snapshot.
    """

    def __init__(self, folder: Path, build: Callable[[Spec], Model], patience: float = 10.0) -> None:
        _check_ours(folder, stat.S_IWGRP | stat.S_IWOTH)
        self.folder = folder
        self.trouble = ""
        self._build = build
        self._patience = patience
        self._map: mmap.mmap | None = None
        self._words = memoryview(bytes(_WORDS_BYTES)).cast("Q")  # until there is a file of words
        self._moments = memoryview(bytes(_WORDS_BYTES)).cast("d")
        self._open_words()
        self._word = 0  # the last one that was looked into
        self._fresh = 0.0  # what was last said of the snapshot in use, and not of one that cannot be read
        self._held: _Held | None = None
        self._snapshot: Snapshot | None = None
        self._moulds: dict[str, _Mould] = {}

    def current(self) -> Snapshot:
        """The newest snapshot; the same object as before if nothing was published since.

        Raises `BlobError` when there is none after waiting, or none that can be read.
        """
        if self._snapshot is not None and self._words[_SEQUENCE] == self._word:
            return self._snapshot
        return self._look()

    def position(self) -> int:
        """How far the log was folded, whether or not that changed what serves."""
        self._open_words()
        return self._words[_POSITION]

    def staleness(self, now: float) -> float:
        """The snapshot in use includes every label that was acknowledged longer ago than this, in seconds.

        That is the one that `current` last returned; where a newer one cannot be read, this grows. `now` is
        `time.monotonic()`. Infinite as long as nothing is known.
        """
        self._open_words()
        fresh = self._moments[_FRESH]  # before the word: what is said of a newer snapshot comes after its word
        if self._snapshot is None or (not self.trouble and self._words[_SEQUENCE] == self._word):
            self._fresh = fresh
        return _since(self._fresh, now)

    def check(self) -> None:
        """Compare the snapshot in use with its checksum; raises `BlobError` if its bytes are not those published."""
        self.current()
        if self._held is not None:
            self._held.check()

    def _look(self) -> Snapshot:
        """Map what was published, and wait for it if nothing was yet."""
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
            header, used = held.header, dict[str, _Mould]()
            champion = self._answering(header["champion"], within(held.arrays, "champion/"), used)
            canary = header["canary"] and self._answering(header["canary"], within(held.arrays, "canary/"), used)
            extra = within(held.arrays, "extra/")
            self._snapshot = Snapshot(sequence, header["position"], champion, canary, extra)
            self._held, self._moulds = held, used
        # A file below the word is one whose successor this processor does not see yet: look again next time. A file
        # above it is of a publisher that died before it stored the word.
        self._word, self.trouble = min(word, sequence), ""
        if sequence >= word:
            self._fresh = fresh
        return self._snapshot

    def _answering(self, told: dict[str, Any], arrays: Arrays, used: dict[str, _Mould]) -> Answering:
        key = canonical(told["spec"])
        mould = used.get(key) or self._moulds.get(key) or _Mould(self._build, told["spec"])
        used[key] = mould
        return Answering(told["version"], mould.cast(arrays))

    def _open_words(self) -> None:
        if self._map is None:
            with suppress(OSError), (self.folder / WORDS).open("rb") as file:
                self._map = mmap.mmap(file.fileno(), _WORDS_BYTES, access=mmap.ACCESS_READ)
                self._words, self._moments = memoryview(self._map).cast("Q"), memoryview(self._map).cast("d")


@dataclass(frozen=True, slots=True)
class _Held:
    """A file as it lies in memory: it stays there as long as any of its arrays is used."""

    path: Path
    header: dict[str, Any]
    arrays: Arrays
    body: memoryview

    def check(self) -> None:
        found = zlib.crc32(self.body)
        if found != self.header["checksum"]:
            raise BlobError(
                f"snapshot {self.header['sequence']} in {self.path} is damaged: its {len(self.body)} bytes have the "
                f"checksum {found}, expected {self.header['checksum']}; restart the learner, which publishes it anew"
            )


class _Mould:
    """Makes models of one spec around arrays, without copying these, and without building anew where that can be.

    Building allocates, and fills, arrays that are thrown away at once; so a model is copied without its arrays,
    if such a copy takes new arrays as they are, and the model that it is a copy of keeps its own.
    """

    def __init__(self, build: Callable[[Spec], Model], spec: Spec) -> None:
        self._build, self._spec = build, spec
        self._model = build(spec)
        self._apart: bool | None = None  # whether shallow copies stand apart; not known before the first arrays

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
            self._model = self._build(self._spec)
        else:
            self._model = copy.copy(self._model)  # the last one is the next pattern, so that old arrays can go
        self._model.arrays = dict(arrays)
        return self._model


def _boot() -> int:
    """A number that this start of the machine has, and no other; 0 where the system has none."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:16], 16)
    return 0


def _since(moment: float, now: float) -> float:
    return max(0.0, now - moment) if moment else math.inf


def _told(one: Answering) -> dict[str, Any]:
    return {"version": one.version, "spec": dict(one.model.spec)}


def _mapped(path: Path) -> _Held:
    """Map a file that a publisher put there. Raises FileNotFoundError, or `BlobError` for one that cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        if not size:
            raise BlobError(f"snapshot {path} is empty; restart the learner, which publishes it anew")
        buffer = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
    arrays, header = map_readonly(buffer, path)
    if header.get("kind") != "snapshot" or header.get("format") != FORMAT:
        raise BlobError(
            f"snapshot {path} has kind {header.get('kind')!r} and format {header.get('format')!r}; this Everlearn "
            f"reads kind 'snapshot' and format {FORMAT}; a newer one wrote it: restart this process with that one"
        )
    begin = 8 + int.from_bytes(buffer[:8], "little")
    return _Held(path, header, arrays, memoryview(buffer)[begin:])


def _writable_words(folder: Path) -> mmap.mmap:
    """The file of words, made at full length if it is not there, so that writing to it can find no full disk."""
    path = folder / WORDS
    if not path.exists() or path.stat().st_size != _WORDS_BYTES:
        unfinished = folder / f".{WORDS}.{os.getpid()}.unfinished"
        unfinished.write_bytes(bytes(_WORDS_BYTES))
        unfinished.replace(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        return mmap.mmap(descriptor, _WORDS_BYTES)
    finally:
        os.close(descriptor)


def _check_ours(path: Path, refused: int) -> None:
    """Refuse a folder that another user could have prepared for us."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & refused:
        mode = stat.filemode(found.st_mode)
        raise ConfigError(
            f"{path} is not a folder of this user alone: got owner {found.st_uid} and mode {mode}, expected owner "
            f"{os.geteuid()} and no rights for others; remove it, or `chmod 700` it if it is yours"
        )
