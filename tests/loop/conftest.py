"""Fixtures of real servers, for loops whose log is elsewhere."""

from tests.support.database import nats, server, stream, url

__all__ = ["nats", "server", "stream", "url"]
