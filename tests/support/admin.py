"""A small loop with a learner and an admin process beside it, all real, in one process."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import everlearn as el
from everlearn import config
from everlearn.app.admin.application import listening, serving
from everlearn.app.admin.context import AdminContext
from everlearn.app.counters import Counters
from everlearn.app.learner import Learner
from everlearn.app.process import Setup
from everlearn.serve import snapshot
from everlearn.spec import Spec

JSON = {"content-type": "application/json"}
SPEC: dict[str, Any] = {
    "schema": {"label": "y", "task": "binary", "classes": [0, 1], "fields": {"x": "numeric", "z": "numeric"}},
    "model": {"family": "linear"},
    "mode": "gated",
    "gate": {"minimum": 100},
}


def grown(home: Path, spec: dict[str, Any] = SPEC, examples: int = 1500) -> Spec:
    """Make a home whose loop learned, was promoted and rolled back by hand, predicted, and got some labels."""
    draw = random.Random(1)
    with el.open(spec, home=home) as loop:
        for _ in range(examples):
            x, z = draw.gauss(0, 1), draw.gauss(0, 1)
            loop.learn({"x": x, "z": z}, int(x + z > 0))
        loop.promote(loop.versions()[0].id, "to try")
        loop.rollback("tried")
        for number in range(30):
            loop.predict({"x": number / 10, "z": 0.0}, id=f"p{number}")
        for number in range(0, 30, 3):
            loop.feedback(f"p{number}", label=1)
        loop.feedback("p0", label=0)
    return config.convert(spec)


@contextmanager
def set_up(home: Path, spec: Spec) -> Iterator[Setup]:
    """Yield the set-up of a server at that home, with some requests counted."""
    setup = Setup(spec=spec, home=str(home), serving=str(snapshot.folder(home)))
    for index in range(spec.serve.workers):
        counters = Counters(setup.counters(index))
        counters.add("predict_2xx", 30)
        counters.add("learn_4xx", 1)
        for number in range(31):
            counters.observe("predict" if number < 30 else "learn", number * 1e-5)
        counters.close()
    yield setup
    shutil.rmtree(setup.serving)


@contextmanager
def learning(setup: Setup) -> Iterator[None]:
    """Run the server's learner in a thread."""
    stop, ready, failures = threading.Event(), threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            Learner(setup, stop, ready.set).run()
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(60), "the learner does not start"
        assert not failures, failures
        yield
    finally:
        stop.set()
        thread.join()


@dataclass
class Admin:
    """A running admin application and a client of it."""

    setup: Setup
    context: AdminContext
    client: httpx.Client

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def send(self, method: str, path: str, **body: object) -> httpx.Response:
        return self.client.request(method, path, content=msgspec.json.encode(body), headers=JSON)


@contextmanager
def admin(setup: Setup) -> Iterator[Admin]:
    """Run the server's admin application in a thread, at its socket."""
    with AdminContext(setup) as context, listening(setup) as listener:
        server = serving(context)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            transport = httpx.HTTPTransport(uds=str(setup.admin))
            with httpx.Client(transport=transport, base_url="http://localhost", timeout=30) as client:
                until(lambda: server.started)
                yield Admin(setup, context, client)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Setup]:
    """The set-up of a home that only this test uses."""
    with set_up(tmp_path / "home", grown(tmp_path / "home", examples=700)) as made:
        yield made


def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.005)
