"""Fixtures of the tests in this folder."""

from tests.support.database import (
    any_place,
    azurite,
    cluster,
    endpoint,
    mock_kafka,
    nats,
    place,
    server,
    stream,
    tansu,
    topic,
    url,
)

__all__ = [
    "any_place",
    "azurite",
    "cluster",
    "endpoint",
    "mock_kafka",
    "nats",
    "place",
    "server",
    "stream",
    "tansu",
    "topic",
    "url",
]
