"""A log whose events of a subject are encrypted with the key of the subject, over any other log.

The log below holds the kind, the unique key, the time and a ciphertext of each such event, and orders and finds them as
it does others. Destroying a key erases its events in the log and in every copy of it: they are then read as tombstones
(`Erased`), as events are that a log has erased in place. Decisions, versions and checkpoints are not encrypted.

A rejected row has its own key, and so has feedback that came before its prediction without a handle.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from time import time as now
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from everlearn.errors import EventsGone, IdTaken, InputError, LogError, UnknownId
from everlearn.events import (
    KINDS,
    ChainCheck,
    Covered,
    ErasableLog,
    Log,
    Row,
    has_broker,
    removed,
    rests,
    row,
    scan,
    url_of,
)
from everlearn.events.deduplication import DIGEST
from everlearn.events.log import LogSettings
from everlearn.events.rows import ERASABLE, check_kinds, decode
from everlearn.records import (
    Decision,
    Encrypted,
    Erased,
    Event,
    Label,
    Payload,
    Preference,
    Reward,
)
from everlearn.scale.keys import MASTER, Keys, KeyStore, SubjectKey
from everlearn.scale.sqlite_keys import FILE, SqliteKeys

_PAGE = 4096  # events read at a time
_FEW = 256  # events read at the least, where some of them may be dropped
_JUDGEMENTS = ("label", "reward", "preference")
_ERASED = KINDS[Erased]


class _About(msgspec.Struct):
    """What a row says of its key: the id of its prediction, and its subject or its handle."""

    id: str = ""
    subject: str = ""
    handle: str = ""


class _Wanted(NamedTuple):
    """The key that a row needs: that of a subject, or of a handle; neither for a row that is not encrypted."""

    subject: str = ""
    handle: str = ""


_about = msgspec.json.Decoder(_About).decode
_encode = msgspec.json.Encoder().encode


class EncryptedLog:
    """A log over another one; see the module. It closes both the log and the keys."""

    def __init__(self, log: Log, keys: Keys) -> None:
        self._log, self._keys = log, keys
        self.quick = log.quick and keys.quick
        self.in_place = isinstance(log, ErasableLog)
        self.rests = rests(log)
        self._epoch = 0

    # ---- writing -----------------------------------------------------------------------------------------------

    def append(self, payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Write one group, as the log below does. Raises `InputError` also for the handle of a destroyed key."""
        at = now() if time is None else float(time)
        return self.write([row(payload, at) for payload in payloads])

    def write(self, rows: Sequence[Row]) -> list[int]:
        """Write rows that `row` has encoded, as `append` does."""
        sealed = self._sealed(rows)
        try:
            return self._log.write(sealed)
        except InputError as error:
            return self._log.write(self._agreed(rows, sealed, error))

    def try_write(self, rows: Sequence[Row]) -> list[int] | None:
        """Write rows as `write` does, or write nothing and return None at once if another writer is busy."""
        put = self.try_put(rows)
        return None if put is None else put[0]

    def try_put(self, rows: Sequence[Row]) -> tuple[list[int], int] | None:
        """Write rows as `try_write` does, and also return the position of the last event before them."""
        sealed = self._sealed(rows)
        try:
            return self._log.try_put(sealed)
        except InputError as error:
            return self._log.try_put(self._agreed(rows, sealed, error))

    def handle(self, subject: str) -> str:
        """Return the handle of the key of a subject, which gets one if it has none; "" for the empty subject."""
        return self._keys.of_subjects([f"s:{subject}"])[f"s:{subject}"].handle if subject else ""

    def _sealed(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with their payloads encrypted, where they are about a subject."""
        wanted = self._wanted(rows)
        by_subject = self._keys.of_subjects(one.subject for one in wanted if one.subject)
        by_handle = self._keys.of_handles(one.handle for one in wanted if one.handle)
        return [
            self._one_sealed(given, by_subject[one.subject] if one.subject else by_handle.get(one.handle), one)
            for given, one in zip(rows, wanted, strict=True)
        ]

    def _one_sealed(self, given: Row, key: SubjectKey | None, wanted: _Wanted) -> Row:
        at, kind, name, text = given
        if key is None:
            if wanted.handle:
                raise UnknownId(
                    f"handle: {wanted.handle!r} names the key of a subject who was erased; send no more about it"
                )
            return given
        if kind in _JUDGEMENTS:
            name = name[:-DIGEST] + key.digest(name[-DIGEST:], DIGEST)  # the plain one would tell the label
            text = _without_handle(text)
        return at, kind, name, _encode(Encrypted(kind, key.handle, key.encrypt(text, kind))).decode()

    def _wanted(self, rows: Sequence[Row]) -> list[_Wanted]:
        """Return which key each row needs."""
        abouts = [_about(text) if kind in ERASABLE else _About() for _, kind, _, text in rows]
        ids = {about.id for (_, kind, _, _), about in zip(rows, abouts, strict=True) if kind in _JUDGEMENTS}
        early = self._keys.existing(f"f:{id}" for id in ids) if ids else {}
        subjects = {
            about.id: about.subject for (_, kind, _, _), about in zip(rows, abouts, strict=True) if kind == "prediction"
        }
        return [self._one_wanted(given, about, early, subjects) for given, about in zip(rows, abouts, strict=True)]

    def _one_wanted(
        self, given: Row, about: _About, early: Mapping[str, SubjectKey], subjects: Mapping[str, str]
    ) -> _Wanted:
        _, kind, name, _ = given
        if kind in ("prediction", "example"):
            return _Wanted(f"s:{about.subject}" if about.subject else "")
        if kind == "rejected":
            return _Wanted(f"r:{name}")
        if kind not in _JUDGEMENTS:
            return _Wanted()
        if f"f:{about.id}" in early:  # the same feedback as before must have the same key
            return _Wanted(f"f:{about.id}")
        if about.handle:
            return _Wanted(handle=about.handle)
        if about.id in subjects:
            return _Wanted(f"s:{subjects[about.id]}" if subjects[about.id] else "")
        try:
            found = self._log.find(f"prediction:{about.id}")
        except EventsGone:  # the broker has removed the prediction, so that its key is not known
            found = None
        if found is None:
            return _Wanted(f"f:{about.id}")
        return _Wanted(handle=found.payload.handle) if isinstance(found.payload, Encrypted) else _Wanted()

    def _agreed(self, rows: Sequence[Row], sealed: Sequence[Row], error: InputError) -> list[Row]:
        """Return the rows with the ciphertexts that the log has of equal payloads; raise the error if there are none.

        Payloads are equal also where their fields have another order. Raises `InputError` for other content.
        """
        agreed = list(sealed)
        for place, (given, offered) in enumerate(zip(rows, sealed, strict=True)):
            at, kind, name, _ = offered
            known = self._log.find(name) if kind in ("prediction", "example") else None
            if known is None or not isinstance(known.payload, Encrypted):
                continue
            before = self._opened([known])[0].payload
            if isinstance(before, Erased):
                raise IdTaken(f"the {kind} of this id was erased; use another id")
            if before != decode(given[3]):
                raise error
            agreed[place] = at, kind, name, _encode(known.payload).decode()
        if agreed == list(sealed):
            raise error
        return agreed

    # ---- the book ----------------------------------------------------------------------------------------------

    def save(self, payloads: Sequence[Payload], epoch: int) -> list[int]:
        """Write decisions, versions and checkpoints, as the log below does."""
        return self._log.save(payloads, epoch)

    def acquire(self) -> int:
        """Take the lease, and return the epoch. Destroy the keys of erasures that were interrupted."""
        self._epoch = self._log.acquire()
        self._destroy(event.payload for event in scan(self._log, kinds=("decision",)))
        return self._epoch

    def seals(self, after: int, upto: int) -> dict[int, str]:
        """Return the seal of each decision after position `after`, up to position `upto`."""
        return self._log.seals(after, upto)

    def verify(self) -> ChainCheck:
        """Check that all decisions are unchanged since they were sealed."""
        return self._log.verify()

    # ---- erasing -----------------------------------------------------------------------------------------------

    def removed(self) -> int:
        """Return the position of the newest event that the broker below has removed; 0 if there is none."""
        return removed(self._log)

    def held(self, subjects: Collection[str]) -> dict[str, float]:
        """Return when the key of each of these subjects was made, in seconds since 1970, by the handle of the key."""
        return self._keys.made(f"s:{subject}" for subject in subjects)

    def under(self, handles: Collection[str], after: int = 0) -> list[Event]:
        """Return the events behind position `after` that are encrypted with the keys of these handles, in order."""
        found = [
            event
            for event in scan(self._log, after, ERASABLE)
            if isinstance(event.payload, Encrypted) and event.payload.handle in handles
        ]
        return self._opened(found)

    def covered(self, positions: Collection[int], after: int = 0) -> Covered:
        """Return the keys whose destruction erases events at these positions and no others behind `after`.

        Reads the log twice.
        """
        chosen = set(positions)
        within = [event for event in scan(self._log, after, ERASABLE) if event.position in chosen]
        handles = {event.payload.handle for event in within if isinstance(event.payload, Encrypted)}
        shared = {
            event.payload.handle
            for event in scan(self._log, after, ERASABLE)
            if isinstance(event.payload, Encrypted) and event.position not in chosen
        }
        alone = handles - shared
        kept = [
            event for event in within if not (isinstance(event.payload, Encrypted) and event.payload.handle in alone)
        ]
        return Covered(tuple(sorted(alone)), len(kept))

    def erase(self, positions: Sequence[int], payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Append payloads, and destroy the keys that an erasure among them names.

        Where the log below can, it replaces each event by a tombstone as well. Call `acquire` before. A process that is
        killed between the two leaves the second to the next `acquire`.
        """
        if isinstance(self._log, ErasableLog):
            added = self._log.erase(positions, payloads, time)
        else:
            added = self._log.save(payloads, self._epoch)
        self._destroy(payloads)
        return added

    def scrub(self) -> None:
        """Remove the erased bytes from the disk, where the log below can."""
        if isinstance(self._log, ErasableLog):
            self._log.scrub()

    def _destroy(self, payloads: Iterable[Payload]) -> None:
        """Destroy the keys that erasures name."""
        made = [one for one in payloads if isinstance(one, Decision) and one.action == "erase"]
        if handles := [str(handle) for decision in made for handle in decision.detail.get("keys", ())]:
            self._keys.destroy(handles)

    # ---- reading -----------------------------------------------------------------------------------------------

    def read(self, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()) -> list[Event]:
        """Return the first `limit` events after position `after`, in order, decrypted; only of these `kinds`, if given.

        An event whose key was destroyed is a tombstone. Raises `LogError` for one whose key is missing.
        """
        check_kinds(kinds)
        if not kinds:
            return self._opened(self._log.read(after, limit))
        below = [*dict.fromkeys([*kinds, *ERASABLE])] if _ERASED in kinds and self._keys.destroyed else kinds
        found: list[Event] = []
        while len(found) < limit and (page := self._log.read(after, max(limit - len(found), _FEW), below)):
            found += [event for event in self._opened(page) if KINDS[type(event.payload)] in kinds]
            after = page[-1].position
        return found[:limit]

    def find(self, key: str) -> Event | None:
        """Return the event with this key; None for feedback, whose keys are secret."""
        found = self._log.find(key)
        return None if found is None else self._left(self._opened([found]))

    def about(self, id: str) -> list[Event]:
        """Return the prediction or example of an id and all feedback for it, in order, without what was erased."""
        return [event for event in self._opened(self._log.about(id)) if not isinstance(event.payload, Erased)]

    def last(self, kind: str) -> Event | None:
        """Return the newest event of a kind."""
        found = self._log.last(kind)
        if found is None or kind == _ERASED or kind not in ERASABLE:
            return found
        if (opened := self._left(self._opened([found]))) is not None:
            return opened
        after, newest = 0, None
        while page := self.read(after, _PAGE, (kind,)):
            after, newest = page[-1].position, page[-1]
        return newest

    def count(self, kind: str) -> int:
        """Return the number of events of a kind, including erased ones."""
        return self._log.count(kind)

    def end(self) -> int:
        """Return the position of the newest event; 0 if there is none."""
        return self._log.end()

    @staticmethod
    def _left(events: Sequence[Event]) -> Event | None:
        return next((event for event in events if not isinstance(event.payload, Erased)), None)

    def _opened(self, events: Sequence[Event]) -> list[Event]:
        """Return events decrypted; those whose key was destroyed as tombstones."""
        handles = [event.payload.handle for event in events if isinstance(event.payload, Encrypted)]
        if not handles:
            return list(events)
        try:
            keys = self._keys.of_handles(handles)
        except UnknownId as error:
            raise LogError(f"the log holds events that cannot be decrypted: {error}") from error
        return [self._one_opened(event, keys) for event in events]

    @staticmethod
    def _one_opened(event: Event, keys: Mapping[str, SubjectKey | None]) -> Event:
        held = event.payload
        if not isinstance(held, Encrypted):
            return event
        key = keys[held.handle]
        if key is None:
            return Event(event.position, event.time, Erased(event.position, held.was))
        return Event(event.position, event.time, decode(key.decrypt(held.data, held.was)))

    # ---- the place ---------------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Do the maintenance of the log below."""
        self._log.tidy()

    def check_place(self) -> None:
        """Raise `LogError` if the log is no longer where it was opened."""
        self._log.check_place()

    def check_writable(self, patience: float) -> None:
        """Raise `LogError` if an event could not be written durably within `patience` seconds."""
        self._log.check_writable(patience)

    @property
    def resting(self) -> bool:
        """True while the connections are closed until the next call."""
        return rests(self._log) and self._log.resting

    def rest(self) -> None:
        """Close the connections of the log and of the keys until the next call, where the log below can."""
        if rests(self._log):
            self._log.rest()
            self._keys.rest()

    def economize(self) -> None:
        """Hold as little memory as possible from now on, where the log below can."""
        if rests(self._log):
            self._log.economize()

    def close(self) -> None:
        """Close the log and the keys; closing twice is allowed."""
        self._log.close()
        self._keys.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _without_handle(text: str) -> str:
    if '"handle"' not in text:
        return text
    held = decode(text)
    assert isinstance(held, Label | Reward | Preference)
    return _encode(msgspec.structs.replace(held, handle="")).decode()


def encrypted(log: Log, home: str | Path, settings: LogSettings) -> EncryptedLog:
    """Return the log of a loop with its events encrypted. The keys are in its database, or in that of
    its book, or in the folder of the loop.

    Raises `ConfigError` for a wrong master key, and `LogError` for keys that cannot be used.
    """
    store: KeyStore
    database = settings.book or settings.url
    if database.startswith("postgresql://"):
        from everlearn.scale.postgres import place_of
        from everlearn.scale.postgres_keys import PostgresKeys

        store = PostgresKeys(*place_of(url_of(home, database)))
    else:
        # Events at a broker outlive a loss of power here, and so must their keys.
        store = SqliteKeys(Path(home) / FILE, settings.durability == "power" or has_broker(settings.url))
    try:
        keys = Keys(store, os.environ.get(MASTER, ""))
        return EncryptedLog(log, keys)
    except BaseException:
        store.close()
        raise
