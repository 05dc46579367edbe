"""Fixtures of the tests in this folder."""

from tests.support.database import endpoint, place, server, url

__all__ = ["endpoint", "place", "server", "url"]
