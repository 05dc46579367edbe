"""The protocol of a server started by this process, as `Loop.serve` returns it."""

from __future__ import annotations

from typing import Protocol, Self

from everlearn.client._sync import Client


class Running(Protocol):
    """A running server; a context manager that stops it on exit."""

    @property
    def url(self) -> str:
        """The address at which it answers."""
        ...

    @property
    def processes(self) -> dict[str, int]:
        """The process ids, keyed by process name."""
        ...

    def client(self, token: str = "") -> Client:
        """Return a client of this server."""
        ...

    def stop(self) -> None:
        """Finish the requests under way, learn the rest of the log, save, and stop."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
