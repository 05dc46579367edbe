"""The file of answers: nothing is asked twice, whatever dies in between."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from everlearn.errors import BlobError
from everlearn.families.preference.answer_cache import AnswerCache, Completion, kept

WRITER = """
import sys
from everlearn.families.preference.answer_cache import AnswerCache, Completion
cache = AnswerCache(sys.argv[1])
for number in range(1_000_000):
    cache.put("judge/a@1", f"prompt {number}", Completion(f"Answer {number}"))
    print(number, flush=True)
"""


def test_what_was_kept_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "judge.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = -1
        while last < 200:
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        last = max(last, *(int(line) for line in process.stdout.read().split("\n")[:-1] or [-1]))
    cache = AnswerCache(path)
    found = [cache.get("judge/a@1", f"prompt {number}") for number in range(last + 1)]
    assert [one.text for one in found if one] == [f"Answer {number}" for number in range(last + 1)]
    cache.close()


def test_source_and_prompt_both_decide(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "judge.db")
    cache.put("judge/a@1", "2", Completion("x", "length", "problem", 1.5))
    cache.put("judge/a@1", "2", Completion("y"))
    assert cache.get("judge/a@1", "2") == Completion("x", "length", "problem", 1.5)
    assert cache.get("judge/a@", "12") is None
    assert cache.get("judge/a@2", "2") is None
    cache.forget("judge/a@1", ["2", "3"])
    assert cache.get("judge/a@1", "2") is None
    cache.close()


def test_no_prompt_stands_in_the_file(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "judge.db")
    cache.put("judge/a@1", "a very private question", Completion("Answer: A"))
    cache.close()
    assert b"private" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_an_answer_is_asked_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def complete(prompt: str) -> Completion:
        asked.append(prompt)
        if len(asked) == 1:
            raise RuntimeError("down")
        return Completion("half \ud83d")

    for _ in range(2):
        cache = AnswerCache(tmp_path / "judge.db")
        answer = kept(complete, "judge/a@1", cache)
        if not asked:
            with pytest.raises(RuntimeError):
                answer("q")
        first = answer("q")
        assert first.text == "half ?"
        assert first == answer("q")
        cache.close()
    assert asked == ["q", "q"]


def test_threads_and_connections_share_a_file(tmp_path: Path) -> None:
    caches = [AnswerCache(tmp_path / "judge.db") for _ in range(2)]

    def put(cache: AnswerCache) -> None:
        for number in range(50):
            cache.put("judge/a@1", str(number), Completion(str(number)))

    threads = [threading.Thread(target=put, args=(cache,)) for cache in caches * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cache in caches:
        assert [cache.get("judge/a@1", str(number)) for number in range(50)] == [
            Completion(str(number)) for number in range(50)
        ]
        cache.close()


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(BlobError, match="database of another program"):
        AnswerCache(tmp_path / "other.db")
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(BlobError, match="cannot be used as a cache"):
        AnswerCache(tmp_path / "text")
    with pytest.raises(BlobError, match="cannot be used as a cache"):
        AnswerCache(tmp_path / "no folder" / "judge.db")
