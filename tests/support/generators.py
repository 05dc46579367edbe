"""A generator on a real log and a real snapshot, at its Unix socket, in a thread of the tests' process."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from everlearn.app.generator.application import listening, serving
from everlearn.app.generator.context import GeneratorContext
from everlearn.app.process import Setup
from everlearn.loop.loop import Loop
from everlearn.records import Event
from everlearn.serve import snapshot
from everlearn.serve.snapshot import Publisher
from everlearn.spec import Spec

HELLO: list[dict[str, str]] = [{"role": "user", "content": "hello there"}]


@dataclass
class Generator:
    """A running generator, the loop that it answers for, and clients of it."""

    setup: Setup
    loop: Loop
    publisher: Publisher
    http: httpx.Client
    openai: openai.OpenAI

    def publish(self) -> None:
        """Let the generator answer with the champion of the loop as it is now."""
        self.publisher.publish(self.loop.ready(), None, self.loop.position, {})

    def events(self) -> list[Event]:
        return self.loop.log.read(0, 10_000)

    def chat(self, **more: Any) -> Any:
        """Ask for one completion."""
        given: dict[str, Any] = {"model": "everlearn", "messages": HELLO, "seed": 5, "max_tokens": 8}
        return self.openai.chat.completions.create(**(given | more))


@contextmanager
def generating(home: Path, spec: Spec) -> Iterator[Generator]:
    """Run a generator for a new loop, which no learner follows: `loop.catch_up` and `publish` take its place."""
    with Loop(spec, home) as loop:
        setup = Setup(spec=spec, home=str(home), serving=str(snapshot.folder(home)))
        publisher = Publisher(Path(setup.serving))
        publisher.publish(loop.ready(), None, loop.position, {})
        with GeneratorContext(setup) as context, listening(setup) as listener:
            server = serving(context)
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            try:
                transport = httpx.HTTPTransport(uds=str(setup.generator))
                with httpx.Client(transport=transport, base_url="http://localhost", timeout=60) as client:
                    while not server.started:
                        time.sleep(0.01)
                    chats = openai.OpenAI(
                        api_key="none", base_url="http://localhost/v1", http_client=client, max_retries=0
                    )
                    yield Generator(setup, loop, publisher, client, chats)
            finally:
                server.should_exit = True
                thread.join()
        publisher.close()
    shutil.rmtree(setup.serving)
