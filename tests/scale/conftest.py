"""Fixtures of the tests in this folder."""

from tests.support.database import endpoint, nats, place, server, stream, url

__all__ = ["endpoint", "nats", "place", "server", "stream", "url"]
