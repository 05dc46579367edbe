"""A real HTTP server that answers like an OpenAI-compatible endpoint with a judge model behind it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

_ANSWER = r"\[answer {0} (\w+)\]\n(.*?)\n\[end of answer {0} \1\]"


@dataclass
class JudgeEndpoint:
    """A running endpoint: `script` holds the replies to the next requests, `decide` those to all others.

    A reply of the script is a status, a pair of status and headers, bytes, or a function of the request's body.
    """

    port: int = 0
    decide: Callable[[str, str], str] = lambda a, b: "Answer: A" if a.lower() < b.lower() else "Answer: B"
    script: list[Any] = field(default_factory=list)
    got: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    slow: float = 0.0
    now: int = 0
    most: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for _, body in self.got]

    async def answer(self, request: Request) -> Response:
        body = msgspec.json.decode(await request.body())
        self.got.append((dict(request.headers), body))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.slow)
            turn = self.script.pop(0) if self.script else None
            if callable(turn):
                turn = turn(body)
            return turn if isinstance(turn, Response) else self.reply(turn, body)
        finally:
            self.now -= 1

    def reply(self, turn: Any, body: dict[str, Any]) -> Response:
        if isinstance(turn, int):
            return Response(b'{"error": {"message": "scripted"}}', turn)
        if isinstance(turn, tuple):
            return Response(b'{"error": {"message": "scripted"}}', turn[0], headers=turn[1])
        if isinstance(turn, bytes):
            return Response(turn)
        text = turn if isinstance(turn, str) else self.verdict(body["messages"][-1]["content"])
        return Response(completion(text))

    def verdict(self, prompt: str) -> str:
        a, b = (re.search(_ANSWER.format(letter), prompt, re.S) for letter in "AB")
        assert a is not None
        assert b is not None
        return self.decide(a[2], b[2])


def completion(text: str | None, finish: str = "stop", **message: Any) -> bytes:
    """Return a chat completion with one choice, as OpenAI's endpoint writes it."""
    answer = {"role": "assistant", "content": text} | message
    choice = {"index": 0, "message": answer, "finish_reason": finish, "logprobs": None}
    usage = {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}
    head = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m"}
    return msgspec.json.encode(head | {"choices": [choice], "usage": usage})


def dripping(body: dict[str, Any]) -> Response:
    """Return a reply that never ends: one byte every 20 ms."""

    async def drops() -> Any:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    return StreamingResponse(drops())


@contextlib.contextmanager
def answering() -> Iterator[JudgeEndpoint]:
    made = JudgeEndpoint()
    application = Starlette(routes=[Route("/v1/chat/completions", made.answer, methods=["POST"])])
    opened = socket.create_server(("127.0.0.1", 0))
    made.port = opened.getsockname()[1]
    config = uvicorn.Config(application, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.should_exit = True
        thread.join(10)
        opened.close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeEndpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with answering() as made:
        yield made
