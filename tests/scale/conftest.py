"""Fixtures of the tests in this folder."""

__all__ = [
    *("any_place", "azurite", "endpoint", "mock_kafka", "nats", "place", "server", "stream", "tansu", "topic", "url"),
]
