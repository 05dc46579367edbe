"""A log that can only be appended to, as that of a broker: a real SQLite log without its erasure."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from everlearn.events import ChainCheck, Row, SqliteLog
from everlearn.events import log as events_log
from everlearn.records import Event, Payload

SCHEME = "append"


class AppendOnlyLog:
    """All parts of a log except `erase` and `scrub`."""

    quick = True

    def __init__(self, path: str) -> None:
        self._log = SqliteLog(path)

    def append(self, payloads: Sequence[Payload], time: float | None = None) -> list[int]:
        return self._log.append(payloads, time)

    def write(self, rows: Sequence[Row]) -> list[int]:
        return self._log.write(rows)

    def try_write(self, rows: Sequence[Row]) -> list[int] | None:
        return self._log.try_write(rows)

    def try_put(self, rows: Sequence[Row]) -> tuple[list[int], int] | None:
        return self._log.try_put(rows)

    def read(self, after: int = 0, limit: int = 1000, kinds: Sequence[str] = ()) -> list[Event]:
        return self._log.read(after, limit, kinds)

    def find(self, key: str) -> Event | None:
        return self._log.find(key)

    def about(self, id: str) -> list[Event]:
        return self._log.about(id)

    def last(self, kind: str) -> Event | None:
        return self._log.last(kind)

    def count(self, kind: str) -> int:
        return self._log.count(kind)

    def end(self) -> int:
        return self._log.end()

    def save(self, payloads: Sequence[Payload], epoch: int) -> list[int]:
        return self._log.save(payloads, epoch)

    def acquire(self) -> int:
        return self._log.acquire()

    def seals(self, after: int, upto: int) -> dict[int, str]:
        return self._log.seals(after, upto)

    def verify(self) -> ChainCheck:
        return self._log.verify()

    def tidy(self) -> None:
        self._log.tidy()

    def check_place(self) -> None:
        self._log.check_place()

    def check_writable(self, patience: float) -> None:
        self._log.check_writable(patience)

    def close(self) -> None:
        self._log.close()


def connect(url: str) -> AppendOnlyLog:
    """Open the log at `append:///PATH`."""
    return AppendOnlyLog(url.partition("://")[2].partition("?")[0])


def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let URLs with the scheme name such logs."""
    monkeypatch.setitem(events_log._SCHEMES, SCHEME, f"{__name__}:connect")
