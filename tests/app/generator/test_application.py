"""A whole server that learns preferences: chats and pairs pass through workers, and the generator may be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from everlearn.app.auth import create
from everlearn.app.supervisor import Server
from everlearn.events import connect
from everlearn.records import Event, Prediction
from everlearn.schema import question
from everlearn.spec import ServeSpec
from tests.support.generators import HELLO
from tests.support.preference_loops import SLOW, settings
from tests.support.servers import events_of, until


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file that slows the models of the server down while it exists."""
    path = tmp_path_factory.mktemp("slow") / "now"
    os.environ[SLOW] = str(path)
    yield path
    del os.environ[SLOW]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, slow: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "prompts.txt").write_text("hello\nhow are you\n")
    spec = settings(prompts=str(folder / "prompts.txt"), serve={"port": 0})
    assert spec.serve == ServeSpec(port=0)
    with Server(spec, folder / "home") as running:
        yield running


@pytest.fixture(scope="module")
def chats(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0, timeout=60) as client:
        yield client


def complete(chats: openai.OpenAI, **more: Any) -> Any:
    given: dict[str, Any] = {"model": "everlearn", "messages": HELLO, "seed": 5, "max_tokens": 12}
    return chats.chat.completions.create(**(given | more))


def found(server: Server, id: str) -> Event | None:
    log = connect(str(server.home / "log.sqlite"), tidy=False)
    try:
        return log.find(f"prediction:{id}")
    finally:
        log.close()


def logged(server: Server, id: str) -> Prediction:
    event = found(server, id)
    assert event is not None
    assert isinstance(event.payload, Prediction)
    return event.payload


def test_a_stream_equals_the_whole_reply_and_its_event_comes_first(server: Server, chats: openai.OpenAI) -> None:
    whole = complete(chats)
    text = ""
    for chunk in complete(chats, stream=True):
        text += chunk.choices[0].delta.content or ""
        if chunk.choices[0].finish_reason:
            assert logged(server, chunk.id).value == text
    assert text == whole.choices[0].message.content == logged(server, whole.id).value


def test_workers_relay_and_hold_no_language_model(server: Server) -> None:
    pids = server.processes
    maps = {name: Path(f"/proc/{pid}/maps").read_text() for name, pid in pids.items()}
    assert {name for name in maps if "libtorch" in maps[name]} == {"generator", "learner"}
    reply = httpx.post(f"{server.url}/predict", json={"features": {"prompt": "hello"}})
    assert (reply.status_code, "POST /v1/chat/completions" in reply.json()["detail"]) == (422, True)
    assert httpx.get(f"{server.url}/healthz").json()["status"] == "ok"
    shown = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/models", "/v1/feedback", "/label/next"} <= shown.keys()
    until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200)


def test_judgements_reach_the_policy_that_answers(server: Server, chats: openai.OpenAI) -> None:
    before = complete(chats)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for number in range(12):
            pair = client.get("/label/next", params={"annotator": "anna"}).raise_for_status().json()
            verdict = {"id": pair["id"], "annotator": "anna", "verdict": "left" if number % 2 else "right"}
            judged = client.post("/label/judge", json=verdict).raise_for_status().json()
        assert judged["progress"]["judged"] == 12
        id = complete(chats, seed=6).id
        assert client.post("/v1/feedback", json={"id": id, "up": True}).raise_for_status().json()["accepted"] == 1
        row = {"id": pair["id"], "verdict": "tie", "source": "people/bert"}
        assert client.post("/feedback", json=row).raise_for_status().json()["accepted"] == 1
        end = max(event.position for event in events_of(server.home))
        until(lambda: client.get("/status").json()["position"] >= end)
        assert client.get("/status").json()["examples"] >= 12

    def taken_up() -> bool:
        reply = complete(chats)
        given = logged(server, reply.id)
        return given.position >= end and given.payload["answers"] != logged(server, before.id).payload["answers"]

    until(taken_up)


def test_killed_while_it_streams(server: Server, chats: openai.OpenAI, slow: Path) -> None:
    acknowledged = [complete(chats, seed=seed).id for seed in range(4)]
    pid = server.processes["generator"]
    slow.touch()
    stream = complete(chats, stream=True)
    first = next(iter(stream))
    with pytest.raises((openai.APIError, httpx.HTTPError)):  # noqa: PT012
        os.kill(pid, signal.SIGKILL)
        for chunk in stream:
            assert not chunk.choices[0].finish_reason
    slow.unlink()
    until(lambda: server.processes.get("generator", pid) != pid)

    def answers() -> bool:
        try:
            return bool(complete(chats).id)
        except (openai.InternalServerError, openai.APIConnectionError):  # 502 while it starts
            return False

    until(answers)
    kept = {event.payload.id for event in events_of(server.home) if isinstance(event.payload, Prediction)}
    assert set(acknowledged) <= kept
    assert first.id not in kept  # its last chunk was never sent


def test_a_client_that_goes_away_leaves_an_aborted_event(server: Server, chats: openai.OpenAI, slow: Path) -> None:
    slow.touch()
    stream = complete(chats, stream=True)
    chunk = next(chunk for chunk in stream if chunk.choices[0].delta.content)
    stream.close()
    until(lambda: found(server, chunk.id) is not None)
    slow.unlink()
    assert question.decode(logged(server, chunk.id).payload).aborted


def test_pages_log_in_with_a_token(server: Server, chats: openai.OpenAI) -> None:
    """The session lives in the admin process; this test comes last, as the server is closed from here on."""
    token = create(server.home / "tokens.json", "anna", ["read", "feedback"])
    until(lambda: httpx.get(f"{server.url}/label/next", params={"annotator": "anna"}).status_code == 401)
    with pytest.raises(openai.AuthenticationError):
        complete(chats)
    with httpx.Client(base_url=server.url, timeout=60) as page:
        session = page.post("/session", json={"token": token}).raise_for_status().json()
        assert session["scopes"] == ["feedback", "read"]
        pair = page.get("/label/next", params={"annotator": "anna"}).raise_for_status().json()
        verdict = {"id": pair["id"], "annotator": "anna", "verdict": "tie"}
        assert page.post("/label/judge", json=verdict).status_code == 403
        csrf = {"x-csrf-token": session["csrf"]}
        assert page.post("/label/judge", json=verdict, headers=csrf).status_code == 200
        everything = page.post("/label/undo", json={"annotator": "anna", "what": "everything"}, headers=csrf)
        assert everything.status_code == 403
    answering = create(server.home / "tokens.json", "app", ["predict"])
    time.sleep(1.1)
    with chats.with_options(api_key=answering) as client:
        assert complete(client).id
