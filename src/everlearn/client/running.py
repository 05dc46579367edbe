"""A server that this process has started, as the one who started it sees it."""

from __future__ import annotations

from typing import Protocol, Self

from everlearn.client._sync import Client


class Running(Protocol):
    """A running server; a context manager that stops it at the end."""

    @property
    def url(self) -> str:
        """Where it answers."""
        ...

    @property
    def processes(self) -> dict[str, int]:
        """The ids of its processes, by name."""
        ...

    def client(self, token: str = "") -> Client:
        """A client of it."""
        ...

    def stop(self) -> None:
        """Stop it: requests are finished, what came is learned and saved."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
