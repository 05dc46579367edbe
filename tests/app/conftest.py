"""Fixtures of a real database and an S3 server, for the tests in this folder."""

from tests.support.database import endpoint, place, server

__all__ = ["endpoint", "place", "server"]
