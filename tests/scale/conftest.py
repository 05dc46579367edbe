"""Fixtures of the tests in this folder."""

from tests.support.database import server, url

__all__ = ["server", "url"]
