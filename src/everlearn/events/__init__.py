"""Keep everything that happened in one ordered, durable, append-only log.

Payloads come in; events with positions go out, in order and each exactly once. `log` holds the protocol, `connect`
and `scan`, `sqlite` is the default home in one file, `file` opens that file, `rows` encodes payloads, `deduplication`
recognises equal events, and `seals` chains the decisions. The payloads are defined in `records.py`, and the fold that
reads them lives in `loop/`; `docs/why/log.md` states the guarantees under each kind of failure.
"""

from everlearn.events.deduplication import KINDS, key
from everlearn.events.file import Durability
from everlearn.events.log import (
    BOOK,
    FILE,
    Book,
    Covered,
    EncryptingLog,
    ErasableLog,
    Erasing,
    Index,
    Lease,
    Log,
    RemovingLog,
    RestingLog,
    RestorableLog,
    Restoring,
    Traffic,
    connect,
    evict,
    exists,
    has_broker,
    log_of,
    removed,
    rests,
    scan,
    url_of,
)
from everlearn.events.rows import Row, row, rows_of
from everlearn.events.seals import ChainCheck
from everlearn.events.sqlite import SqliteLog

__all__ = [
    "BOOK",
    "FILE",
    "KINDS",
    "Book",
    "ChainCheck",
    "Covered",
    "Durability",
    "EncryptingLog",
    "ErasableLog",
    "Erasing",
    "Index",
    "Lease",
    "Log",
    "RemovingLog",
    "RestingLog",
    "RestorableLog",
    "Restoring",
    "Row",
    "SqliteLog",
    "Traffic",
    "connect",
    "evict",
    "exists",
    "has_broker",
    "key",
    "log_of",
    "removed",
    "rests",
    "row",
    "rows_of",
    "scan",
    "url_of",
]
