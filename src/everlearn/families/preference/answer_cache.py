"""Answers of judge models, kept in one SQLite file, so that a restart pays for none of them again.

A row is added once and never changed; `forget` removes rows on request of the person whose texts were judged. Prompts
are kept as digests only.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from everlearn import _private
from everlearn.errors import BlobError

_APPLICATION = 0x45564A43  # "EVJC": marks the file, so that no other program's database is touched
_PATIENCE = 30.0  # seconds that a writer waits for another process


class Completion(NamedTuple):
    """The answer of a model: its text, why it ended, and the seconds that it took.

    `problem` says why there is no usable text: a refusal by a filter, or a prompt that is too long. It is empty
    otherwise.
    """

    text: str
    finish: str = "stop"
    problem: str = ""
    seconds: float = 0.0


Complete = Callable[[str], Completion]


class AnswerCache:
    """Completions by (source, prompt) in a file that threads and processes share.

    Raises `BlobError` where the file is damaged, or belongs to another program.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home:
    ...     cache = AnswerCache(Path(home) / "judge.db")
    ...     cache.put("judge/kind@1", "which?", Completion("Answer: A"))
    ...     cache.get("judge/kind@1", "which?").text, cache.get("judge/kind@2", "which?")
    ...     cache.close()
    ('Answer: A', None)
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            _private.touch(self.path)  # SQLite makes the files beside it with the same mode
            self._file = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            (application,) = self._file.execute("PRAGMA application_id").fetchone()
            (tables,) = self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if application != _APPLICATION and tables:
                self._file.close()
                raise BlobError(f"{self.path} is the database of another program; give the path of a new file")
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, text TEXT NOT NULL, finish TEXT NOT NULL,"
                " problem TEXT NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise BlobError(f"{self.path} cannot be used as a cache of answers: {error}; move it away") from error

    def get(self, source: str, prompt: str) -> Completion | None:
        """Return the kept completion; None where there is none."""
        row = self._run("SELECT text, finish, problem, seconds FROM answers WHERE key = ?", (key(source, prompt),))
        return Completion(*row) if row else None

    def put(self, source: str, prompt: str, completion: Completion) -> None:
        """Keep a completion, unless there is one for the same source and prompt."""
        self._run("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", (key(source, prompt), *completion))

    def forget(self, source: str, prompts: Iterable[str]) -> None:
        """Remove the completions of these prompts, for good."""
        for prompt in prompts:
            self._run("DELETE FROM answers WHERE key = ?", (key(source, prompt),))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _run(self, statement: str, values: tuple[Any, ...]) -> Any:
        with self._lock:
            try:
                return self._file.execute(statement, values).fetchone()
            except sqlite3.Error as error:
                raise BlobError(f"{self.path} failed: {error}; check the disk, or move the file away") from error


def key(source: str, prompt: str) -> bytes:
    """Return the key of a completion, 16 bytes, from the source of the judge and the whole prompt."""
    parts = (source.encode(), prompt.encode("utf-8", "replace"))
    return hashlib.blake2b(b"".join(hashlib.sha256(part).digest() for part in parts), digest_size=16).digest()


def kept(complete: Complete, source: str, cache: AnswerCache | None) -> Complete:
    """Return a function that asks only where the cache has no answer, and keeps each new answer.

    An answer that failed (an exception) is not kept: it is asked for again.
    """

    def answer(prompt: str) -> Completion:
        found = cache.get(source, prompt) if cache else None
        if found is None:
            start = perf_counter()
            found = complete(prompt)
            text = found.text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored
            found = found._replace(text=text, seconds=perf_counter() - start)
            if cache:
                cache.put(source, prompt, found)
        return found

    return answer
