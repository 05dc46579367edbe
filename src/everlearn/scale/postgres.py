"""The log of a loop in a PostgreSQL database: one schema for each loop, shared by any number of machines.

Writers take turns by the row of `head`, which holds the newest position, so that positions have no gaps and become
visible in order. A group is one COPY and one commit. The lease is an advisory lock of the session that holds it, and an
epoch: a process that lost its session may live on, and its saves are refused, since `head` names a later epoch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import sleep
from time import time as now
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, cast

from everlearn.errors import ConfigError, InUse, LogError
from everlearn.events import ChainCheck, Row, row, seals
from everlearn.events.deduplication import DIGEST
from everlearn.events.rows import IS_RARE, RARE, check_agreement, check_kinds, check_usable, events_of, tombstone
from everlearn.records import Erased, Event, Payload

try:
    import psycopg
    from psycopg import sql
    from psycopg_pool import ConnectionPool, PoolTimeout
except ImportError as missing:
    raise ConfigError("a log in PostgreSQL needs psycopg; pip install 'everlearn[postgres]'") from missing

PATIENCE = 30.0  # seconds that a writer waits for other writers, and a call for a connection
FORMAT = 1
_SESSIONS = 4  # at once, of one process
_FEW = 8  # rows up to which one INSERT is quicker than a COPY
_LONGEST = 50  # bytes of the name of a loop: PostgreSQL cuts names of schemas at 63
_SELECT = "SELECT position, time, payload FROM events"
_COLUMNS = "(position, time, kind, key, payload)"
_TABLES = (
    "CREATE TABLE head (format integer NOT NULL, position bigint NOT NULL, epoch bigint NOT NULL)",
    "CREATE TABLE events (position bigint PRIMARY KEY, time double precision NOT NULL, kind text NOT NULL,"
    " key bytea NOT NULL UNIQUE, payload text NOT NULL)",
    "CREATE TABLE seals (position bigint PRIMARY KEY, digest text NOT NULL)",
    f"CREATE INDEX rare ON events (kind, position) WHERE {IS_RARE}",
    "CREATE INDEX erased ON events (position) WHERE kind = 'erased'",
    "CREATE FUNCTION fixed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " IF TG_OP = 'UPDATE' AND current_setting('everlearn.erasing', true) = 'on' THEN RETURN NEW; END IF;"
    " RAISE EXCEPTION 'the log is append-only'; END $$",
    "CREATE TRIGGER fixed BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION fixed()",
    "CREATE TRIGGER fixed BEFORE UPDATE OR DELETE ON seals FOR EACH ROW EXECUTE FUNCTION fixed()",
    f"INSERT INTO head VALUES ({FORMAT}, 0, 0)",
)
_ADVICE = (
    (psycopg.errors.DiskFull, "the disk of the database is full: free some space, then do it again"),
    (psycopg.errors.InsufficientPrivilege, "give this role the right to create schemas, or use another role"),
    (
        psycopg.errors.LockNotAvailable,
        f"another process held the log for {PATIENCE:.0f} seconds: end it, or do it again",
    ),
    (PoolTimeout, "check that the server runs, and that the URL names it; what was acknowledged is kept"),
    (psycopg.OperationalError, "check that the server runs, and that the URL names it; what was acknowledged is kept"),
)

# The lease is a lock on 64 bits, which the view of locks shows in two halves.
_END_HOLDER = (
    "SELECT pg_terminate_backend(pid), pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND (classid::bigint << 32) | objid::bigint = hashtextextended(%s, 0)"
)
# Without these, the session of a machine that lost its power holds the lease for two hours.
_ALIVE = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"

Connection = psycopg.Connection[Any]
Found = TypeVar("Found")


class PostgresLog:
    """A log in a schema of a PostgreSQL database, for processes of any number of machines.

    Any thread may call the methods; after a fork, open the log again. An acknowledged event survives whatever the
    database survives: with its defaults that is the loss of power. A lost connection is made again, and a group whose
    acknowledgement was lost is written once, since its keys are known. Raises `LogError` for a database that cannot be
    used, and for a log of a newer format.
    """

    quick = False

    def __init__(self, conninfo: str, loop: str) -> None:
        self.place = f"of {loop} in PostgreSQL"
        self._schema = f"everlearn_{loop}"
        self._conninfo = conninfo
        self._process = os.getpid()
        self._counted: dict[str, tuple[int, int]] = {}  # kind: number of events, up to which position
        self._lease: Connection | None = None
        self._pool = ConnectionPool(
            conninfo,
            min_size=1,
            max_size=_SESSIONS,
            kwargs={"autocommit": True},
            configure=self._configure,
            check=ConnectionPool.check_connection,
            timeout=PATIENCE,
            reconnect_timeout=PATIENCE,
            open=False,
        )
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:  # fails at once, with the cause
                self._create(connection)
            self._pool.open()
        except (psycopg.Error, PoolTimeout) as error:
            self._explain(error, "could not be opened")

    def _configure(self, connection: Connection) -> None:
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(self._schema)))

    def _create(self, connection: Connection) -> None:
        """Create the schema and its tables, unless they are there."""
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))", (self._schema,))
            known = connection.execute("SELECT to_regnamespace(%s)", (f'"{self._schema}"',)).fetchone()
            if known is None or known[0] is None:
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self._schema)))
                self._configure(connection)
                for statement in _TABLES:
                    connection.execute(cast(Any, statement))
        self._configure(connection)
        ((found,),) = connection.execute("SELECT format FROM head").fetchall()
        if found != FORMAT:
            raise LogError(
                f"the log {self.place} has format {found}, this Everlearn reads format {FORMAT}; upgrade Everlearn"
            )

    # ---- writing -----------------------------------------------------------------------------------------------

    def append(self, payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Write one group, as `SqliteLog.append` does."""
        at = now() if time is None else float(time)
        return self.write([row(payload, at) for payload in payloads])

    def write(self, rows: Sequence[Row]) -> list[int]:
        """Write rows that `everlearn.events.row` has encoded, as `append` does."""
        return self._written(rows)[0]

    def try_write(self, rows: Sequence[Row]) -> list[int] | None:
        """Write rows as `write` does, or write nothing and return None at once if another writer is busy."""
        put = self.try_put(rows)
        return None if put is None else put[0]

    def try_put(self, rows: Sequence[Row]) -> tuple[list[int], int] | None:
        """Write rows as `try_write` does, and also return the position of the last event before them."""
        try:
            return self._written(rows, patience=0.0)
        except LogError as error:
            if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                return None
            raise

    def save(self, payloads: Sequence[Payload], epoch: int) -> list[int]:
        """Write a group as `append` does, unless a later epoch has begun: then write nothing and raise `LogError`."""
        at = now()
        return self._written([row(payload, at) for payload in payloads], epoch=epoch)[0]

    def acquire(self) -> int:
        """Take the lease until the log is closed or its session is lost, and return the epoch.

        Raises `InUse` while another session holds it.
        """
        self._check_usable()
        try:
            session = psycopg.connect(self._conninfo, autocommit=True)
        except psycopg.Error as error:
            self._explain(error, "could not be leased")
        self._configure(session)
        session.execute(_ALIVE)
        taken = session.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (self._schema,)).fetchone()
        if taken is None or not taken[0]:
            session.close()
            raise InUse(f"the log {self.place} is in use by another process; end that one first, or name another loop")
        self._lease = session
        ((epoch,),) = session.execute("UPDATE head SET epoch = epoch + 1 RETURNING epoch").fetchall()
        return int(epoch)

    def evict(self) -> bool:
        """End the session that holds the lease, and wait until it has; return True if there was one.

        The role must own that session, or have the right to end it. Raises `LogError` otherwise.
        """
        until, found = now() + PATIENCE, False
        while ended := self._rows(_END_HOLDER, (self._schema,)):
            if now() > until:
                raise LogError(f"the log {self.place} is held by session {ended[0][1]}, which does not end; end it")
            sleep(0.05)
            found = True
        return found

    def tidy(self) -> None:
        """Do nothing: the database looks after itself."""

    def check_place(self) -> None:
        """Raise `LogError` if the log was closed, or opened by another process."""
        self._check_usable()

    def check_writable(self, patience: float) -> None:
        """Write nothing new, durably. Raise `LogError` if that fails within `patience` seconds."""

        def touch(connection: Connection) -> None:
            _lock(connection, patience)
            connection.execute("UPDATE head SET format = format")

        self._in_transaction(touch, "cannot be written", again=False)

    def _written(
        self, rows: Sequence[Row], patience: float = PATIENCE, epoch: int | None = None
    ) -> tuple[list[int], int]:
        """Write a group; return the positions and where the log ended before."""
        known = any(kind == "decision" for _, kind, _, _ in rows)  # which are sealed one by one

        def put(connection: Connection) -> tuple[list[int], int]:
            end, newest = _lock(connection, patience)
            if epoch is not None:
                seals.check_epoch(epoch, newest, self.place)
            if known:
                return self._add(connection, rows, end), end
            _insert(connection, rows, end)
            return list(range(end + 1, end + 1 + len(rows))), end

        what = f"refused a group of {len(rows)}, and holds none of it"
        try:
            return self._in_transaction(put, what)
        except LogError as error:
            if known or not isinstance(error.__cause__, psycopg.errors.UniqueViolation):
                raise
        known = True  # some key exists already: only this rare case looks keys up
        return self._in_transaction(put, what)

    def _add(self, connection: Connection, rows: Sequence[Row], end: int) -> list[int]:
        """Write the rows with new keys, and seal the decisions among them."""
        keys = list({_bytes(name) for _, _, name, _ in rows})
        query = "SELECT key, position, payload FROM events WHERE key = ANY(%s)"
        known = {bytes(name): (at, text) for name, at, text in connection.execute(query, (keys,))}
        positions, fresh = list[int](), list[Row]()
        for one in rows:
            _, _, name, text = one
            if (found := known.get(_bytes(name))) is None:
                fresh.append(one)
                found = known[_bytes(name)] = (end + len(fresh), text)
            check_agreement(found[0], found[1], text, self.place)
            positions.append(found[0])
        _insert(connection, fresh, end)
        for position, (at, kind, _, text) in enumerate(fresh, end + 1):
            if kind == "decision":
                seals.seal(_query(connection), position, at, text)
        return positions

    # ---- erasing -----------------------------------------------------------------------------------------------

    def erase(self, positions: Sequence[int], payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        """Replace each event by a tombstone, and append `payloads`, in one transaction, as `SqliteLog.erase` does."""
        at = now() if time is None else float(time)
        rows = [row(payload, at) for payload in payloads]

        def bury(connection: Connection) -> list[int]:
            end, _ = _lock(connection, PATIENCE)
            connection.execute("SET LOCAL everlearn.erasing = 'on'")
            query = "SELECT position, kind FROM events WHERE position = ANY(%s)"
            kinds = dict(connection.execute(query, (list(positions),)).fetchall())
            for position in positions:
                if (buried := tombstone(position, kinds.get(position))) is not None:
                    _, kind, name, text = buried
                    change = "UPDATE events SET kind = %s, key = %s, payload = %s WHERE position = %s"
                    connection.execute(change, (kind, _bytes(name), text, position))
            return self._add(connection, rows, end)

        added = self._in_transaction(
            bury, f"could not erase {len(positions)} events; all of them are still there", again=False
        )
        self._counted.clear()
        return added

    def scrub(self) -> None:
        """Rewrite the table of events, so that no erased bytes remain in it.

        The write-ahead log of the database, its archive, and backups keep them until they are recycled.
        """
        with self._session("could not be rewritten; do it again") as connection:
            connection.execute("VACUUM (FULL) events")

    # ---- reading -----------------------------------------------------------------------------------------------

    def read(self, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()) -> list[Event]:
        """Return the first `limit` events after position `after`, in order; only of these `kinds`, if given."""
        check_kinds(kinds)
        among = " AND kind = ANY(%s)" if kinds else ""
        rare = f" AND {IS_RARE}" if kinds and set(kinds) <= set(RARE) else ""
        query = f"{_SELECT} WHERE position > %s{among}{rare} ORDER BY position LIMIT %s"
        return self._events(query, (after, *([list(kinds)] if kinds else []), limit))

    def find(self, key: str) -> Event | None:
        """Return the event with this key (see `everlearn.events.key`)."""
        return next(iter(self._events(f"{_SELECT} WHERE key = %s", (_bytes(key),))), None)

    def about(self, id: str) -> list[Event]:
        """Return the prediction or example of an id and all feedback for it, in order."""
        searches, values = list[str](), list[Any]()
        for kind in ("prediction", "example"):
            searches.append(f"{_SELECT} WHERE key = %s")
            values.append(_bytes(f"{kind}:{id}"))
        for kind in ("label", "reward", "preference"):
            start = _bytes(f"{kind}:{id}:")
            searches.append(f"{_SELECT} WHERE key > %s AND key < %s AND octet_length(key) = %s")
            values += [start, _bytes(f"{kind}:{id};"), len(start) + DIGEST]
        return self._events(f"{' UNION ALL '.join(searches)} ORDER BY position", values)

    def last(self, kind: str) -> Event | None:
        """Return the newest event of a kind."""
        check_kinds([kind])
        rare = f" AND {IS_RARE}" if kind in RARE else ""
        query = f"{_SELECT} WHERE kind = %s{rare} ORDER BY position DESC LIMIT 1"
        return next(iter(self._events(query, (kind,))), None)

    def count(self, kind: str) -> int:
        """Return the number of events of a kind, including erased ones; later calls only scan new events."""
        check_kinds([kind])
        number, upto = self._counted.get(kind, (0, 0))
        end = self.end()
        query = "SELECT count(*) FROM events WHERE kind = %s AND position > %s AND position <= %s"
        number += int(self._rows(query, (kind, upto, end))[0][0])
        query = f"{_SELECT} WHERE kind = 'erased' AND position > %s AND position <= %s"
        erased = [event.payload for event in self._events(query, (upto, end))]
        number += sum(isinstance(payload, Erased) and payload.was == kind for payload in erased)
        self._counted[kind] = (number, end)
        return number

    def end(self) -> int:
        """Return the position of the newest event; 0 if there is none."""
        return int(self._rows("SELECT position FROM head", ())[0][0])

    def seals(self, after: int, upto: int) -> dict[int, str]:
        """Return the seal of each decision after position `after`, up to position `upto`."""
        query = "SELECT position, digest FROM seals WHERE position > %s AND position <= %s"
        return dict(self._rows(query, (after, upto)))

    def verify(self) -> ChainCheck:
        """Check that all decisions are unchanged since they were sealed, as `SqliteLog.verify` does."""

        def check(connection: Connection) -> ChainCheck:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            return seals.verify(_query(connection))

        return self._in_transaction(check, "could not be verified")

    def _events(self, query: str, values: Sequence[Any]) -> list[Event]:
        return events_of(self._rows(query, values), self.place)

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        for again in (True, False):
            try:
                with self._session("could not be read") as connection:
                    return connection.execute(cast(Any, query), values).fetchall()
            except LogError as error:
                if not (again and isinstance(error.__cause__, psycopg.OperationalError)):
                    raise
        raise AssertionError

    # ---- sessions ----------------------------------------------------------------------------------------------

    def _in_transaction(self, action: Callable[[Connection], Found], what: str, again: bool = True) -> Found:
        """Run an action in one transaction; run it again once if its session was lost, since its keys are known."""
        try:
            with self._session(what) as connection, connection.transaction():
                return action(connection)
        except LogError as error:
            if not (again and _is_lost(error.__cause__)):
                raise
        return self._in_transaction(action, what, again=False)

    @contextmanager
    def _session(self, what: str) -> Iterator[Connection]:
        self._check_usable()
        try:
            with self._pool.connection() as connection:
                yield connection
        except (psycopg.Error, PoolTimeout) as error:
            self._explain(error, what)

    def close(self) -> None:
        """Close all sessions, and give the lease back; closing twice is allowed."""
        if os.getpid() == self._process:
            self._pool.close()
            if self._lease is not None:
                self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_usable(self) -> None:
        check_usable(self.place, not self._pool.closed, self._process)

    def _explain(self, error: Exception, what: str) -> NoReturn:
        advice = next((advice for kind, advice in _ADVICE if isinstance(error, kind)), "see the cause above")
        raise LogError(f"the log {self.place} {what}: {' '.join(str(error).split())}; {advice}") from error


def connect(url: str) -> PostgresLog:
    """Open the log at `postgresql://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE?loop=NAME`; create it if there is none.

    Raises `ConfigError` for a URL without a loop.
    """
    return PostgresLog(*place_of(url))


def place_of(url: str) -> tuple[str, str]:
    """Return the connection string of a URL, and the name of its loop. Raises `ConfigError` for one without a loop.

    Parameters other than the loop are those of libpq.

    >>> place_of("postgresql://db.example/ml?loop=fraud&sslmode=require")
    ('postgresql://db.example/ml?sslmode=require', 'fraud')
    """
    front, _, parameters = url.partition("?")
    pairs = [part for part in parameters.split("&") if part]
    names = [part.removeprefix("loop=") for part in pairs if part.startswith("loop=")]
    if len(names) != 1 or not re.fullmatch(rf"[^\0\"]{{1,{_LONGEST}}}", names[0]) or len(_bytes(names[0])) > _LONGEST:
        raise ConfigError(
            f"log.url: got {_without_password(url)!r}; expected one parameter loop=NAME of 1 to {_LONGEST} bytes, such "
            "as postgresql://HOST/DATABASE?loop=fraud"
        )
    rest = "&".join(part for part in pairs if not part.startswith("loop="))
    return f"{front}?{rest}" if rest else front, names[0]


def evict(url: str) -> bool:
    """End the session that holds the lease of the log at a URL; return True if there was one. Raises `LogError`."""
    with connect(url) as log:
        return log.evict()


def _without_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*):.*@", r"\1:...@", url, flags=re.DOTALL)


def _lock(connection: Connection, patience: float) -> tuple[int, int]:
    """Lock the log for writing until the transaction ends; return its newest position, and its epoch."""
    if patience > 0.0:
        connection.execute(cast(Any, f"SET LOCAL lock_timeout = {int(patience * 1000)}"))
    wait = "" if patience > 0.0 else " NOWAIT"
    ((end, epoch),) = connection.execute(cast(Any, f"SELECT position, epoch FROM head FOR UPDATE{wait}")).fetchall()
    return end, epoch


def _insert(connection: Connection, rows: Sequence[Row], end: int) -> None:
    """Write rows with new keys after position `end`, within the transaction that holds the lock."""
    if not rows:
        return
    numbered = [(end + place, at, kind, _bytes(name), text) for place, (at, kind, name, text) in enumerate(rows, 1)]
    if len(rows) <= _FEW:
        values = ", ".join(["(%s, %s, %s, %s, %s)"] * len(rows))
        connection.execute(
            cast(Any, f"INSERT INTO events {_COLUMNS} VALUES {values}"), [cell for one in numbered for cell in one]
        )
    else:
        with (
            connection.cursor() as cursor,
            cursor.copy(cast(Any, f"COPY events {_COLUMNS} FROM STDIN (FORMAT BINARY)")) as copy,
        ):
            copy.set_types(["int8", "float8", "text", "bytea", "text"])
            for one in numbered:
                copy.write_row(one)
    connection.execute("UPDATE head SET position = %s", (end + len(rows),))


def _query(connection: Connection) -> seals.Query:
    """Return the queries of a connection in the form that seals are written with."""
    return lambda text, values: _fetched(connection.execute(cast(Any, text.replace("?", "%s")), tuple(values)))


def _fetched(cursor: psycopg.Cursor[Any]) -> list[Any]:
    return cursor.fetchall() if cursor.description else []


def _bytes(text: str) -> bytes:
    """Return text as the log holds its keys, which may have any character."""
    return text.encode("utf-8", "surrogatepass")


def _is_lost(error: BaseException | None) -> bool:
    """Return True for an error that says only that the session ended."""
    lost = isinstance(error, psycopg.OperationalError | PoolTimeout)
    return lost and not isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.DiskFull)
