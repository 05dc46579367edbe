"""A log whose events are messages of a broker, with a book beside it and an index on each machine.

    broker   all events in one order: predictions, feedback, orders, and a copy of each decision
    book     another log: decisions, versions, checkpoints, seals and the lease; what it holds decides
    index    the number and the place of each event, see `everlearn.scale.index`

An event is acknowledged once the broker has it and the index of this machine has numbered it. The book is written
first, in one transaction of the epoch, and its rows are published afterwards, so that readers meet them in the order of
the log. What a killed process had not published, the next one publishes when it takes the lease.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import time as now
from types import TracebackType
from typing import Self, cast
from urllib.parse import parse_qsl, urlencode

from everlearn import events
from everlearn.errors import ConfigError, EventsGone, LogError
from everlearn.events import ChainCheck, Log, Row, key, row, scan
from everlearn.events.rows import check_agreement, check_kinds, check_usable, decode, events_of
from everlearn.records import Event, Payload
from everlearn.scale.broker import Broker, Message, packed
from everlearn.scale.index import LocalIndex, Place, counted, digest
from everlearn.scale.tail import BrokerTail

INDEX = "index.sqlite"  # in the home
_KEPT = ("decision", "version", "checkpoint")  # what the book holds
_JUDGED = ("prediction", "example", "version")  # kinds whose key has one content
_PAGE = 1000
_BROKERS = {"nats": "everlearn.scale.nats:connect", "kafka": "everlearn.scale.kafka:connect"}


class BrokeredLog:
    """A log made of a broker, a book and an index. Any thread may call the methods; after a fork, open it again.

    An acknowledged event survives what the broker survives. A group of rows is one message, and atomic, unless it is
    longer than a message may be. Two writers that use one key at the same moment on two machines both write: the first
    event counts, and the second writer gets `InputError` where the contents differ.
    """

    quick = False

    def __init__(self, broker: Broker, book: Log, index: LocalIndex) -> None:
        self.place = broker.place
        self._broker, self._book, self._index = broker, book, index
        self._tail = BrokerTail(broker, index)
        self._process = os.getpid()
        self._open = True
        self._ledger = _Ledger(book, self._tail)
        self._seals: dict[bytes, str] = {}  # of the decisions in the book up to `_sealed`, by digest of the key
        self._sealed = 0
        self._sealing = threading.Lock()
        self._tail.check_same()

    # ---- writing -----------------------------------------------------------------------------------------------

    def append(self, payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Write one group, as `SqliteLog.append` does."""
        at = now() if time is None else float(time)
        return self.write([row(payload, at) for payload in payloads])

    def write(self, rows: Sequence[Row]) -> list[int]:
        """Write rows that `everlearn.events.row` has encoded, as `append` does."""
        return self.try_put(rows)[0]

    def try_write(self, rows: Sequence[Row]) -> list[int]:
        """Write rows as `write` does: writers to a broker do not wait for each other."""
        return self.try_put(rows)[0]

    def try_put(self, rows: Sequence[Row]) -> tuple[list[int], int]:
        """Write rows as `write` does, and also return the position of the last event before them."""
        self._check_usable()
        names = [name for _, _, name, _ in rows]
        known = self._index.find(names)
        self._check_agree(rows, {name: known[name] for name in names if name in known})
        fresh = {one[2]: one for one in rows if one[2] not in known}
        written = self._published(packed(list(fresh.values()), self._broker.most_bytes))
        made = self._index.find(fresh)
        self._check_agree([one for one in fresh.values() if made[one[2]].sequence not in written], made)
        positions = [(known.get(name) or made[name]).position for name in names]
        new = [made[name].position for name in fresh if made[name].sequence in written]
        return positions, min(new) - 1 if new else max(positions, default=0)

    def _published(self, messages: Sequence[Message]) -> set[int]:
        """Publish messages one after the other, and index them; return their sequences."""
        written: set[int] = set()
        for message in messages:
            (sequence,) = self._broker.publish([message])
            self._tail.take(sequence, message.body)
            written.add(sequence)
        return written

    def _check_agree(self, rows: Sequence[Row], known: dict[str, Place]) -> None:
        """Raise `InputError` for rows whose key came before with other content, in the log or among themselves."""
        judged = [one for one in rows if one[1] in _JUDGED]
        texts: dict[str, tuple[int, str]] = {}
        places = {name: known[name] for _, _, name, _ in judged if name in known}
        for (name, place), (_, _, _, text) in zip(places.items(), self._tail.rows(list(places.values())), strict=True):
            texts[name] = place.position, text
        following = self._index.cursor().events + 1 if judged else 0
        for _, _, name, text in judged:
            position, kept = texts.setdefault(name, (following, text))
            check_agreement(position, kept, text, self.place)

    def tidy(self) -> None:
        """Do the maintenance of the book; the broker and the index look after themselves."""
        self._book.tidy()

    def check_place(self) -> None:
        """Raise `LogError` if the log was closed or opened by another process, or its book is not in its place."""
        self._check_usable()
        self._book.check_place()

    def check_writable(self, patience: float) -> None:
        """Raise `LogError` if broker or book could not be written within `patience` seconds."""
        self._check_usable()
        self._broker.check(patience)
        self._book.check_writable(patience)

    # ---- reading -----------------------------------------------------------------------------------------------

    def read(self, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()) -> list[Event]:
        """Return the first `limit` events after position `after`, in order; only of these `kinds`, if given."""
        self._check_usable()
        check_kinds(kinds)
        places = self._index.after(after, limit, kinds)
        while len(places) < limit and self._tail.advance():
            last = places[-1].position if places else after
            places += self._index.after(last, limit - len(places), kinds)
        return self._events(places)

    def find(self, key: str) -> Event | None:
        """Return the event with this key (see `everlearn.events.key`)."""
        self._check_usable()
        if not (found := self._index.find([key])):
            self._tail.reach_end()
            found = self._index.find([key])
        return next(iter(self._events(list(found.values()))), None)

    def about(self, id: str) -> list[Event]:
        """Return the prediction or example of an id and all feedback for it, in order."""
        self._check_usable()
        self._tail.reach_end()
        return self._events(self._index.about(id))

    def last(self, kind: str) -> Event | None:
        """Return the newest event of a kind."""
        self._check_usable()
        check_kinds([kind])
        self._tail.reach_end()
        found = self._index.last(kind)
        return self._events([found])[0] if found is not None else None

    def count(self, kind: str) -> int:
        """Return the number of events of a kind."""
        self._check_usable()
        check_kinds([kind])
        self._tail.reach_end()
        return self._index.count(kind)

    def end(self) -> int:
        """Return the position of the newest event; 0 if there is none."""
        self._check_usable()
        self._tail.reach_end()
        return self._index.cursor().events

    def removed(self) -> int:
        """Return the position of the newest event whose message the broker has removed; 0 if it has all."""
        self._check_usable()
        self._tail.reach_end()
        return self._index.before(self._broker.first())

    def _events(self, places: Sequence[Place]) -> list[Event]:
        rows = zip(places, self._rows(places), strict=True)
        return events_of([(place.position, time, text) for place, (time, _, _, text) in rows], self.place)

    def _rows(self, places: Sequence[Place]) -> list[Row]:
        """Return the rows of events; the book has those whose messages the broker no longer has."""
        try:
            return self._tail.rows(places)
        except EventsGone as gone:
            lost = {place.key for place in places if place.sequence < gone.first}
            rows = (row(event.payload, event.time) for event in scan(self._book))
            kept = {digest(one[2]): one for one in rows if digest(one[2]) in lost}
            if kept.keys() < lost:
                raise
            left = iter(self._tail.rows([place for place in places if place.sequence >= gone.first]))
            return [kept[place.key] if place.sequence < gone.first else next(left) for place in places]

    # ---- the book ----------------------------------------------------------------------------------------------

    def acquire(self) -> int:
        """Take the lease of the book until the log is closed, and return the epoch.

        Publishes what the holder before had saved and not published. Raises `InUse` while another process has the
        lease, and `LogError` for a broker whose decisions are of another book.
        """
        self._check_usable()
        epoch = self._book.acquire()
        self._tail.reach_end()
        self._ledger.begin()
        self._publish()
        return epoch

    def save(self, payloads: Sequence[Payload], epoch: int) -> list[int]:
        """Write a group as `append` does, unless a later epoch has begun: then write nothing and raise `LogError`.

        The book holds the group before anything is published. If publishing fails, so does this call, and the rest is
        published by the next one, or when the lease is taken again.
        """
        self._check_usable()
        orders = self._ledger.orders()
        self._book.save([*orders, *payloads], epoch)
        self._ledger.copied()
        self._publish()
        found = self._index.find(key(payload) for payload in payloads)
        return [found[key(payload)].position for payload in payloads]

    def restore_book(self) -> int:
        """Copy the decisions, versions and checkpoints of the log that the book lacks to it; return their number.

        Use it for a book that was lost, or put back from an older copy. Raises `InUse` while another process has the
        lease of the book.
        """
        self._check_usable()
        epoch, copied, after = self._book.acquire(), 0, 0
        self._tail.reach_end()
        while page := self._index.after(after, _PAGE, _KEPT):
            lost = [one for one in self._tail.rows(page) if self._book.find(one[2]) is None]
            self._book.save([decode(text) for _, _, _, text in lost], epoch)
            copied += len(lost)
            after = page[-1].position
        return copied

    def _publish(self) -> None:
        """Publish the rows of the book that are not in the log yet, in the order of the book."""
        rows, upto = self._ledger.unpublished()
        self._published(packed(rows, self._broker.most_bytes, counted(self._index.cursor())))
        self._ledger.published(upto)

    def seals(self, after: int, upto: int) -> dict[int, str]:
        """Return the seal of each decision after position `after`, up to position `upto`; of those in the book."""
        self._check_usable()
        with self._sealing:
            for event in scan(self._book, self._sealed, ("decision",)):
                seal = self._book.seals(event.position - 1, event.position)[event.position]
                self._seals[digest(key(event.payload))] = seal
                self._sealed = event.position
        if self._index.cursor().events < upto:
            self._tail.reach_end()
        found: dict[int, str] = {}
        while after < upto and (page := self._index.after(after, _PAGE, ("decision",))):
            sealed = [place for place in page if place.position <= upto and place.key in self._seals]
            found |= {place.position: self._seals[place.key] for place in sealed}
            after = page[-1].position
        return found

    def verify(self) -> ChainCheck:
        """Check that all decisions of the book are unchanged, and that the log holds them with the same content."""
        self._check_usable()
        checked = self._book.verify()
        if not checked.ok:
            return checked._replace(bad=self._in_log(checked.bad))
        kept = {key(event.payload): event.payload for event in scan(self._book, kinds=("decision",))}
        for event in scan(cast(Log, self), kinds=("decision",)):
            if kept.get(key(event.payload), event.payload) != event.payload:
                return ChainCheck(False, checked.head, event.position)
        return checked

    def _in_log(self, position: int | None) -> int | None:
        """Return the position in the log of an event of the book, or that in the book if the log does not have it."""
        for event in self._book.read(position - 1, 1) if position is not None else ():
            name = key(event.payload)
            return self._index.find([name])[name].position if self._index.find([name]) else position
        return position

    # ---- closing -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close broker, book and index, and give the lease back; closing twice is allowed."""
        if self._open and os.getpid() == self._process:
            self._open = False
            self._broker.close()
            self._book.close()
            self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_usable(self) -> None:
        check_usable(self.place, self._open, self._process)


class _Ledger:
    """What the book has and the log not, and the other way round, as the holder of the lease knows it."""

    def __init__(self, book: Log, tail: BrokerTail) -> None:
        self._book, self._tail = book, tail
        self._orders: list[Payload] = []  # decisions of users in the log that the book does not have
        self._looked = 0  # position in the log up to which decisions were compared
        self._published = 0  # position in the book up to which all rows are in the log

    def begin(self) -> None:
        """Compare book and log. Raises `LogError` for a log with versions or checkpoints that the book lacks."""
        index = self._tail.index
        kept = {digest(key(event.payload)) for event in scan(self._book, kinds=("decision", "version"))}
        last = self._book.last("checkpoint")
        published = last is not None and bool(index.find([key(last.payload)]))
        self._published = last.position if last is not None and published else 0
        self._orders = []
        after = 0
        while page := index.after(after, _PAGE, ("decision", "version")):
            self._note(self._tail.rows([place for place in page if place.key not in kept]))
            after = page[-1].position
        newest = index.last("checkpoint")
        if newest is not None and (last is None or newest.key != digest(key(last.payload))):
            self._note([one for one in self._tail.rows([newest]) if self._book.find(one[2]) is None])
        self._looked = index.cursor().events

    def orders(self) -> list[Payload]:
        """Return the decisions that the book must hold before those that follow from them."""
        index = self._tail.index
        while page := index.after(self._looked, _PAGE, _KEPT):
            self._note([one for one in self._tail.rows(page) if self._book.find(one[2]) is None])
            self._looked = page[-1].position
        return self._orders

    def copied(self) -> None:
        """Note that the book holds the orders now."""
        self._orders = []

    def unpublished(self) -> tuple[list[Row], int]:
        """Return the rows of the book that the log does not have, and the position of its last row."""
        upto, rows = self._published, list[Row]()
        for event in scan(self._book, self._published):
            rows.append(row(event.payload, event.time))
            upto = event.position
        known = self._tail.index.find(name for _, _, name, _ in rows)
        return [one for one in rows if one[2] not in known], upto

    def published(self, upto: int) -> None:
        """Note that the log has all rows of the book up to a position there."""
        self._published = upto

    def _note(self, unknown: Sequence[Row]) -> None:
        for _, kind, name, text in unknown:
            if kind != "decision":
                raise LogError(
                    f"the log {self._tail.broker.place} has {name!r}, which the book does not have: another loop "
                    "learns from this stream, or the book was lost. Give each loop a stream and a book, or make the "
                    "book again with `everlearn rebuild`"
                )
            self._orders.append(decode(text))


def connect(url: str) -> BrokeredLog:
    """Open the log at a URL that `everlearn.events.url_of` made: that of a broker, with `home` and `book`.

    The first part names the broker, such as `nats://HOST/STREAM`. Raises `ConfigError` for a URL without a home.
    """
    front, _, parameters = url.partition("?")
    given = parse_qsl(parameters, keep_blank_values=True)
    own = dict(given)
    if "home" not in own or "book" not in own:
        raise ConfigError(
            f"log.url: got a {front.partition('://')[0]} log without home and book; expected "
            "everlearn.events.url_of(HOME, URL, BOOK)"
        )
    rest = urlencode([(name, value) for name, value in given if name not in ("home", "book")])
    module, _, name = _BROKERS[front.partition("://")[0]].partition(":")
    open_broker = cast(Callable[[str], Broker], getattr(importlib.import_module(module), name))
    index = LocalIndex(Path(own["home"]) / INDEX)
    try:
        broker = open_broker(f"{front}?{rest}" if rest else front)
    except BaseException:
        index.close()
        raise
    try:
        return BrokeredLog(broker, events.connect(own["book"], "power"), index)
    except BaseException:
        broker.close()
        index.close()
        raise
