"""What the tests of access control share: access objects, requests, and a clock that a test moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everlearn.app.auth import Access
from everlearn.app.auth.sessions import Sessions
from everlearn.app.problems import Refused
from everlearn.app.process import Setup
from everlearn.spec import Schema, ServeSpec, Spec

HOST = (b"host", b"localhost:8000")


JSON = (b"content-type", b"application/json")


def setup(home: Path, secure: bool = False, **serve: Any) -> Setup:
    schema = Schema(label="y", task="binary", fields={"x": "numeric"}, classes=(0, 1))
    return Setup(spec=Spec(schema=schema, serve=ServeSpec(**serve)), home=str(home), serving=str(home), secure=secure)


def access(home: Path, page: bool = False, **more: Any) -> Access:
    made = setup(home, **more)
    return Access(made, Sessions(made.secure) if page else None)


def refused(call: Callable[..., Any], *arguments: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [HOST, (b"authorization", b"Bearer " + token.encode())]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


class Clock:
    """Stands in for the module `time`, and moves only when a test moves it."""

    def __init__(self) -> None:
        self._time, self._monotonic = time.time(), time.monotonic()

    def time(self) -> float:
        return self._time

    def monotonic(self) -> float:
        return self._monotonic

    def pass_by(self, seconds: float) -> None:
        self._time += seconds
        self._monotonic += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in ("auth", "auth.sessions", "auth.tokens"):
        monkeypatch.setattr(f"everlearn.app.{module}.time", made)
    return made
