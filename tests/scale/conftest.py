"""Fixtures of the tests in this folder."""

from tests.support.database import any_place, azurite, endpoint, place, server, url

__all__ = ["any_place", "azurite", "endpoint", "place", "server", "url"]
