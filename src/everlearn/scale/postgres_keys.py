"""The keys of a loop in a PostgreSQL database, in another schema than the log, so that a dump can leave them out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import psycopg
from psycopg import sql
from psycopg_pool import ConnectionPool, PoolTimeout

from everlearn.errors import LogError

_PATIENCE = 30.0  # seconds that a call waits for a connection
_SESSIONS = 2  # at once, of one process
_TABLES = (
    "CREATE TABLE keys (handle text PRIMARY KEY, subject bytea UNIQUE, secret bytea, made float8)",
    "CREATE INDEX destroyed ON keys (handle) WHERE secret IS NULL",
    "CREATE TABLE salt (bytes bytea NOT NULL)",
)

Connection = psycopg.Connection[Any]
Found = TypeVar("Found")


class PostgresKeys:
    """A store of keys in a database, for processes of any number of machines; see `everlearn.scale.keys.KeyStore`."""

    quick = False

    def __init__(self, conninfo: str, loop: str) -> None:
        """Open the keys of a loop, and create their tables where there are none. Raises `LogError`."""
        self.place = f"the keys of {loop} in PostgreSQL"
        self._schema = f"everkeys_{loop}"
        self._pool = ConnectionPool(
            conninfo,
            min_size=1,
            max_size=_SESSIONS,
            kwargs={"autocommit": True},
            configure=self._configure,
            check=ConnectionPool.check_connection,
            timeout=_PATIENCE,
            open=False,
        )
        try:
            with psycopg.connect(conninfo, autocommit=True) as connection:  # fails at once, with the cause
                self._create(connection)
            self._pool.open()
        except (psycopg.Error, PoolTimeout) as error:
            raise self._explained(error) from error

    def _configure(self, connection: Connection) -> None:
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(self._schema)))

    def _create(self, connection: Connection) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 1))", (self._schema,))
            ((known,),) = connection.execute("SELECT to_regnamespace(%s)", (f'"{self._schema}"',)).fetchall()
            if known is None:
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self._schema)))
                self._configure(connection)
                for statement in _TABLES:
                    connection.execute(cast(Any, statement))
                connection.execute("INSERT INTO salt VALUES (%s)", (os.urandom(32),))

    def salt(self) -> bytes:
        """Return the random bytes that digests of subjects are made with."""
        return bytes(self._rows("SELECT bytes FROM salt", ())[0][0])

    def destroyed(self) -> int:
        """Return the number of keys that were destroyed."""
        return int(self._rows("SELECT count(*) FROM keys WHERE secret IS NULL", ())[0][0])

    def held(self, handles: Sequence[str]) -> list[tuple[str, bytes | None]]:
        """Return each known handle with its secret; None for a destroyed key."""
        return self._rows("SELECT handle, secret FROM keys WHERE handle = ANY(%s)", (list(handles),))

    def known(self, subjects: Sequence[bytes]) -> list[tuple[bytes, str, bytes]]:
        """Return digest, handle and secret of each subject that has a key."""
        return self._rows("SELECT subject, handle, secret FROM keys WHERE subject = ANY(%s)", (list(subjects),))

    def made(self, subjects: Sequence[bytes]) -> list[tuple[str, float]]:
        """Return the handle of the key of each subject that has one, and when it was made, in seconds since 1970."""
        return self._rows("SELECT handle, made FROM keys WHERE subject = ANY(%s)", (list(subjects),))

    def add(self, keys: Sequence[tuple[bytes, str, bytes]], at: float) -> None:
        """Add keys (digest, handle, secret), made at a time, durably; a subject that has a key keeps it."""
        columns = [list(column) for column in zip(*sorted(keys), strict=True)]  # sorted: two writers cannot deadlock
        self._run(
            lambda connection: connection.execute(
                "INSERT INTO keys (subject, handle, secret, made) SELECT *, %s::float8"
                " FROM unnest(%s::bytea[], %s::text[], %s::bytea[]) ON CONFLICT (subject) DO NOTHING",
                [at, *columns],
            )
        )

    def destroy(self, handles: Sequence[str]) -> None:
        """Destroy keys durably, and rewrite the table without their bytes.

        The write-ahead log of the database, its archive, and backups of it keep them until they are recycled.
        """

        def remove(connection: Connection) -> None:
            connection.execute(
                "INSERT INTO keys (handle) SELECT unnest(%s::text[])"
                " ON CONFLICT (handle) DO UPDATE SET subject = NULL, secret = NULL, made = NULL",
                (list(handles),),
            )
            connection.execute("VACUUM (FULL) keys")

        self._run(remove)

    def rest(self) -> None:
        """Do nothing: the sessions are few, and shared."""

    def close(self) -> None:
        """Close all sessions; closing twice is allowed."""
        self._pool.close()

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        return [
            tuple(bytes(cell) if isinstance(cell, memoryview) else cell for cell in row)
            for row in self._run(lambda connection: connection.execute(cast(Any, query), values).fetchall())
        ]

    def _run(self, action: Callable[[Connection], Found]) -> Found:
        try:
            with self._pool.connection() as connection:
                return action(connection)
        except (psycopg.Error, PoolTimeout) as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> LogError:
        return LogError(f"{self.place}: {' '.join(str(error).split())}; check that the server runs, and do it again")
