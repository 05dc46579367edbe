"""SIGKILLs while pairs are judged and chats are answered: no judgement is lost, none is learned twice.

The generator, the learner and the whole server are killed at random moments. `EVERLEARN_TEST_KILLS` changes the number,
and `EVERLEARN_TEST_SECONDS` bounds the time of killing.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from everlearn.loop.loop import Loop
from everlearn.records import Prediction, Preference
from everlearn.spec import Spec
from tests.support.generators import HELLO
from tests.support.plain_lms import settings
from tests.support.servers import ServerProcess, check_learned, events_of, until

KILLS = int(os.environ.get("EVERLEARN_TEST_KILLS", "100"))
SECONDS = float(os.environ.get("EVERLEARN_TEST_SECONDS", "inf"))
WHOLE = 0.12  # share of kills of the whole server
PAUSE = 2.0  # seconds: a kill comes up to so long after a judgement that was acknowledged since the last one
PATIENCE = 600.0  # seconds for a judgement after a kill


@dataclass
class PairMemory:
    """What was sent and acknowledged: judgements by (pair, source), and ids of chats."""

    sent: dict[tuple[str, str], str] = field(default_factory=dict)
    judged: dict[tuple[str, str], str] = field(default_factory=dict)
    chats: set[str] = field(default_factory=set)
    unanswered: int = 0
    wrong: list[str] = field(default_factory=list)


class Caller:
    """A client that repeats its work until it is stopped, across restarts of the server."""

    def __init__(self, server: ServerProcess, memory: PairMemory, name: str) -> None:
        self.server, self.memory, self.name = server, memory, name
        self.draw = np.random.default_rng(sum(name.encode()))

    def request(self, method: str, path: str, **more: Any) -> Any:
        """Return the JSON of a reply; None where there was none, or the server said that it cannot answer now."""
        try:
            reply = httpx.request(method, f"{self.server.url}{path}", timeout=30.0, **more)
        except httpx.HTTPError:
            self.memory.unanswered += 1
            time.sleep(0.05)
            return None
        if reply.status_code >= 500:
            self.memory.unanswered += 1
            time.sleep(0.05)
        elif reply.status_code >= 400:
            self.memory.wrong.append(f"{method} {path}: {reply.status_code} {reply.text}")
        return reply.json() if reply.status_code < 400 else None

    def label(self) -> None:
        """Judge a pair; a judgement without a reply is sent again, as it may be in the log already."""
        pair = self.request("GET", "/label/next", params={"annotator": self.name})
        if pair is None:
            return
        verdict = str(self.draw.choice(["left", "right", "tie", "skip"], p=[0.45, 0.4, 0.1, 0.05]))
        key = pair["id"], f"people/{self.name}"
        for _ in range(200):
            self.memory.sent[key] = verdict
            body = {"id": pair["id"], "annotator": self.name, "verdict": verdict}
            if self.request("POST", "/label/judge", json=body) is not None:
                self.memory.judged[key] = verdict
                return

    def chat(self) -> None:
        """Ask for a completion, whole or as a stream."""
        body = {"model": "everlearn", "messages": HELLO, "max_tokens": 12, "seed": int(self.draw.integers(1000))}
        reply = self.request("POST", "/v1/chat/completions", json=body)
        if reply is not None:
            self.memory.chats.add(reply["id"])


@contextmanager
def working(server: ServerProcess) -> Iterator[PairMemory]:
    """Let two annotators and one chat client work while the block runs."""
    memory, over = PairMemory(), threading.Event()
    anna, bert, chats = (Caller(server, memory, name) for name in ("anna", "bert", "chats"))
    broken: list[BaseException] = []

    def work(step: Callable[[], None]) -> None:
        try:
            while not over.is_set():
                step()
        except BaseException as error:
            broken.append(error)

    threads = [threading.Thread(target=work, args=(step,)) for step in (anna.label, bert.label, chats.chat)]
    for thread in threads:
        thread.start()
    try:
        yield memory
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not broken, broken


def more_judged(memory: PairMemory, before: int) -> bool:
    return len(memory.judged) > before


def killed(server: ServerProcess, memory: PairMemory, kills: int) -> Counter[str]:
    """Kill processes at random moments; return how often each was killed."""
    draw, done, end = np.random.default_rng(7), Counter[str](), time.monotonic() + SECONDS
    for _ in range(kills):
        until(partial(more_judged, memory, len(memory.judged)), "no judgement is acknowledged", PATIENCE)
        if time.monotonic() > end:
            break
        time.sleep(float(draw.uniform(0.0, PAUSE)))
        what = "server" if draw.random() < WHOLE else str(draw.choice(["generator", "learner"]))
        done[what] += 1
        if what == "server":
            server.kill_everything()
            server.start()
        else:
            server.kill(what)
        print(f"{done.total()} killed, {len(memory.judged)} judgements, {len(memory.chats)} chats", flush=True)
    return done


def check_judgements(memory: PairMemory, home: Path, spec: Spec) -> None:
    """Assert that the log holds each acknowledged judgement once, and that each was learned once."""
    events = [event.payload for event in events_of(home)]
    kept = [one for one in events if isinstance(one, Preference)]
    count = Counter((one.id, one.source) for one in kept)
    assert memory.wrong == []
    assert memory.judged.keys() <= count.keys() <= memory.sent.keys()
    assert max(count.values()) == 1
    assert memory.chats <= {one.id for one in events if isinstance(one, Prediction)}
    for one in kept:
        verdict = memory.sent[one.id, one.source]
        assert one.verdict == ("choice" if verdict in ("left", "right") else verdict)
    with Loop(spec, home) as loop:
        model: Any = loop.ready().model
        assert model.summary()["labels"] == labels_learned(loop)


def labels_learned(loop: Loop) -> float:
    """Return the number of labels that the champion has learned if each was learned once.

    That are those of the version that took the seat last, by a rollback or a promotion, and all that came afterwards.
    Gold questions and questions that were asked again teach nothing about answers. A tie has two lessons of half a
    label; a decision may fall between them, and the version then has half a label that the champion learns afterwards.
    """
    learned, begin, count = 0.0, 0, 0
    for decision in loop.decisions():
        if decision.alias == "champion" and decision.action in ("rollback", "promote"):
            learned = float(loop.home.versions.load(decision.version)["progress/counts"][0])
            begin = decision.at
    for event in loop.log.read(begin, 100_000, ("preference",)):
        one = event.payload
        assert isinstance(one, Preference)
        asked = loop.log.find(f"prediction:{one.id}")
        assert asked is not None
        assert isinstance(asked.payload, Prediction)
        count += one.verdict != "skip" and asked.payload.payload["arm"] not in ("gold", "again")
    return learned + learned % 1.0 + count


@pytest.mark.slow
def test_kills_lose_nothing_and_teach_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("hello\nhow are you\nwho is there\n")
    spec = settings(prompts=str(tmp_path / "prompts.txt"), serve={"port": 0, "workers": 1})
    with ServerProcess(spec, tmp_path / "home", pause=0.2) as server:
        with working(server) as memory:
            done = killed(server, memory, KILLS)
        server.stop()
    print(f"killed {dict(done)}; {len(memory.judged)} judgements, {len(memory.chats)} chats acknowledged, "
          f"{memory.unanswered} requests without an answer")  # fmt: skip
    check_judgements(memory, tmp_path / "home", spec)
    check_learned(tmp_path / "home", spec, tmp_path / "replayed")
