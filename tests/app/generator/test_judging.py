"""The judge of a server, a real HTTP endpoint: verdicts, budgets, agreement with people, and kills."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from everlearn.app.generator import judging
from everlearn.app.supervisor import Server
from everlearn.errors import ConfigError
from everlearn.events import Log, SqliteLog
from everlearn.families.preference.agreement import agreement
from everlearn.records import Decision, Prediction, Preference
from everlearn.schema import question
from everlearn.spec import ServeSpec, Spec
from tests.support.generators import Generator, generating
from tests.support.judge_endpoints import JudgeEndpoint, endpoint
from tests.support.preference_loops import settings
from tests.support.servers import events_of, until

__all__ = ["endpoint"]


def spec(folder: Path, endpoint: JudgeEndpoint, ask: dict[str, Any] | None = None, **judge: Any) -> Spec:
    folder.mkdir(exist_ok=True)
    (folder / "prompts.txt").write_text("hello\nhow are you\n")
    if not (folder / "rubric.txt").exists():
        (folder / "rubric.txt").write_text("Prefer the answer that comes first in the alphabet.\n")
    named = {"name": "abc", "url": endpoint.url, "model": "m", "rubric": str(folder / "rubric.txt"), "at_once": 2}
    named |= {"price": 1.0, "budget": 8.0}
    return settings(
        prompts=str(folder / "prompts.txt"), judge=named | judge, ask={"both": 0.0, "least": 0.0} | (ask or {})
    )


@contextmanager
def judging_server(folder: Path, endpoint: JudgeEndpoint, **more: Any) -> Iterator[Generator]:
    with generating(folder / "home", spec(folder, endpoint, **more)) as running:
        yield running


def verdicts(log: Log) -> list[Preference]:
    given = [event.payload for event in log.read(0, 10_000, ("preference",))]
    return [one for one in given if isinstance(one, Preference) and one.source.startswith("judge/")]


def status(running: Generator) -> dict[str, Any]:
    found: dict[str, Any] = running.http.get("/v1/preferences").raise_for_status().json()
    return found


def test_the_server_asks_the_judge_in_both_orders_and_logs_its_verdicts(
    tmp_path: Path, endpoint: JudgeEndpoint
) -> None:
    with judging_server(tmp_path, endpoint) as running:
        until(lambda: len(verdicts(running.loop.log)) >= 8)
        found = verdicts(running.loop.log)[:6]
        for one in found:
            event = running.loop.log.find(f"prediction:{one.id}")
            assert event is not None
            assert isinstance(event.payload, Prediction)
            asked = question.decode(event.payload.payload)
            first, second = (answer.text.strip().lower() for answer in question.judged(asked))
            assert asked.arm == "random"
            assert (one.verdict, one.chosen) == (("tie", -1) if first == second else ("choice", int(first > second)))
        sources = {one.source for one in found}
        assert len(sources) == 1
        before = running.loop.ready().model.arrays["progress/counts"][0]
        while running.loop.catch_up():
            pass
        assert running.loop.ready().model.arrays["progress/counts"][0] >= before + 6
        shown = status(running)
        assert shown["judge"]["source"] in sources
        assert shown["judge"]["trouble"] == ""
        assert shown["sources"][1]["labels"] >= 6
    asked = Counter(endpoint.prompts)
    assert max(asked.values()) == 1  # no answer is paid for twice
    (first,) = [one for one in decisions(tmp_path) if "judge.source" in one.detail]
    assert first.detail["judge.source"] in sources
    (tmp_path / "rubric.txt").write_text("Prefer the shorter answer.\n")
    with judging_server(tmp_path, endpoint) as running:
        until(lambda: any("it was" in one.reason for one in decisions(tmp_path)))
    changed = [one for one in decisions(tmp_path) if "judge.source" in one.detail]
    assert [one.by for one in changed] == ["user", "user"]
    assert changed[1].reason.endswith(f"; it was {changed[0].detail['judge.source']}")


def decisions(folder: Path) -> list[Decision]:
    log = SqliteLog(folder / "home" / "log.sqlite", tidy=False)
    found = [event.payload for event in log.read(0, 10_000, ("decision",))]
    log.close()
    return [one for one in found if isinstance(one, Decision)]


def test_a_budget_holds_and_people_get_the_doubtful_pairs(tmp_path: Path, endpoint: JudgeEndpoint) -> None:
    with judging_server(tmp_path, endpoint, price=0.5, budget=2.4, ask={"price": 2.0, "budget": 4.0}) as running:
        until(lambda: len(verdicts(running.loop.log)) == 4)
        time.sleep(1.5)
        assert len(verdicts(running.loop.log)) == 4
        shown = status(running)
        people, judge = shown["sources"]
        assert (judge["hour"], judge["left"], people["left"]) == (2.0, 0, 2)
        for _ in range(2):
            pair = running.http.get("/label/next", params={"annotator": "anna"}).raise_for_status().json()
            given = {"id": pair["id"], "annotator": "anna", "verdict": "left"}
            running.http.post("/label/judge", json=given).raise_for_status()
        refused = running.http.get("/label/next", params={"annotator": "anna"})
        assert refused.status_code == 503
        assert "budget of this hour" in refused.json()["detail"]


def test_agreement_is_on_pairs_that_both_judged(tmp_path: Path, endpoint: JudgeEndpoint) -> None:
    with judging_server(tmp_path, endpoint, ask={"both": 1.0, "planted": 0.0}, budget=40.0) as running:
        log = running.loop.log
        for number in range(8):
            pair = running.http.get("/label/next", params={"annotator": "anna"}).raise_for_status().json()
            given = {"id": pair["id"], "annotator": "anna", "verdict": "left" if number % 2 else "right"}
            running.http.post("/label/judge", json=given).raise_for_status()
            until(lambda id=pair["id"]: any(one.id == id for one in verdicts(log)))
        until(lambda: status(running)["agreement"] and status(running)["agreement"][0]["pairs"] == 8)
        judge = {one.id: one.chosen for one in verdicts(log)}
        people = [
            event.payload
            for event in log.read(0, 10_000, ("preference",))
            if isinstance(event.payload, Preference) and event.payload.source == "people/anna"
        ]
        expected = agreement(np.array([judge[one.id] for one in people]), np.array([one.chosen for one in people]))
        (found,) = status(running)["agreement"]
        assert (found["share"], found["low"], found["high"]) == pytest.approx(
            (expected.all.share, expected.low, expected.high)
        )
        # bert gives a second opinion on pairs that anna has judged
        pair = running.http.get("/label/next", params={"annotator": "bert"}).raise_for_status().json()
        assert pair["id"] in {one.id for one in people}
        given = {"id": pair["id"], "annotator": "bert", "verdict": "left"}
        reply = running.http.post("/label/judge", json=given).raise_for_status().json()
        anna = next(one for one in people if one.id == pair["id"])
        assert reply["progress"]["shared"] == 1
        assert reply["progress"]["with_others"] == float(anna.chosen == int(pair["swapped"]))


def test_a_judge_that_fails_is_asked_again(
    tmp_path: Path, endpoint: JudgeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "Endpoint", partial(judging.Endpoint, pause=0.001))
    endpoint.script = [503] * 5
    with judging_server(tmp_path, endpoint, at_once=1) as running:
        until(lambda: "503" in status(running)["judge"]["trouble"])
        assert status(running)["judge"]["busy"] == 0  # it waits, and asks for nothing
        until(lambda: len(verdicts(running.loop.log)) >= 2)
        until(lambda: status(running)["judge"]["trouble"] == "")
        assert running.http.get("/label/next", params={"annotator": "anna"}).status_code == 200
        files = [*(tmp_path / "home").glob("judge.db*"), running.setup.asking]
        assert {one.stat().st_mode & 0o777 for one in files} == {0o600}


def test_a_function_is_a_judge_with_the_digest_of_its_code(tmp_path: Path, endpoint: JudgeEndpoint) -> None:
    function = "tests.app.generator.test_judging:shorter"
    given = spec(tmp_path, endpoint)
    judge = msgspec.structs.replace(given.judge, url="", model="", rubric="", function=function)
    with generating(tmp_path / "home", msgspec.structs.replace(given, judge=judge)) as running:
        until(lambda: len(verdicts(running.loop.log)) >= 2)
        assert all(one.source.startswith("judge/abc@") for one in verdicts(running.loop.log))
    with pytest.raises(ConfigError, match="judge.function: got 'tests:nothing'"):
        judging.trusted_judge("abc", "tests:nothing")


def shorter(prompt: str, a: str, b: str) -> str:
    return "A" if len(a) < len(b) else "B" if len(b) < len(a) else "tie"


def test_pairs_that_the_judge_had_are_taken_up_again(tmp_path: Path, endpoint: JudgeEndpoint) -> None:
    """The first process ends while the judge answers; the second one asks only for what is missing."""
    given = {"ask": {"price": 1.0, "budget": 0.5}, "budget": 4.0, "at_once": 2}  # no pair is for people
    if (left := 3600.0 - time.time() % 3600.0) < 60.0:
        time.sleep(left)  # a budget is that of an hour, and the next one allows a fifth verdict
    endpoint.slow = 0.2
    with judging_server(tmp_path, endpoint, **given) as running:
        until(lambda: endpoint.now == 2 and len(endpoint.got) >= 4)
        asked = {event.payload.id for event in running.events() if isinstance(event.payload, Prediction)}
        before = {one.id for one in verdicts(running.loop.log)}
    endpoint.slow = 0.0
    with judging_server(tmp_path, endpoint, **given) as running:
        until(lambda: len(verdicts(running.loop.log)) == 4)
        time.sleep(0.5)
        found = [one.id for one in verdicts(running.loop.log)]
    assert len(found) == len(set(found)) == 4
    assert before < set(found)
    assert len(set(found) & asked) >= len(before) + 1  # pairs of the first process were not left
    assert max(Counter(endpoint.prompts).values()) <= 2


@pytest.mark.slow
def test_no_verdict_is_lost_or_doubled_when_the_generator_is_killed(tmp_path: Path, endpoint: JudgeEndpoint) -> None:
    endpoint.slow = 0.05
    given = msgspec.structs.replace(spec(tmp_path, endpoint, budget=40.0), serve=ServeSpec(port=0))
    with Server(given, tmp_path / "home") as server:

        def judged() -> list[Preference]:
            payloads = [event.payload for event in events_of(server.home)]
            return [one for one in payloads if isinstance(one, Preference)]

        for kill in range(3):
            until(lambda wanted=3 * kill + 2: len(judged()) >= wanted)
            until(lambda: endpoint.now > 0)
            os.kill(server.processes["generator"], signal.SIGKILL)
        until(lambda: len(judged()) >= 12)
        shown = httpx.get(f"{server.url}/v1/preferences").raise_for_status().json()
        found = judged()
        assert shown["sources"][1]["labels"] >= 12
        until(lambda: "asking" in (httpx.get(f"{server.url}/status").json().get("preference") or {}))
    assert max(Counter((one.id, one.source) for one in found).values()) == 1
    assert max(Counter(endpoint.prompts).values()) <= 4  # an answer that was on its way is asked for again, once a kill
