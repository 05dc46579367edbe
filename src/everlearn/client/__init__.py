"""Clients of an Everlearn server: `Client`, and `AsyncClient` with the same methods to await.

with everlearn.Client("http://127.0.0.1:8000") as client:
    answer = client.predict({"amount": 12.0, "country": "NL"})
    client.feedback(answer.id, label="fine")
"""

from everlearn.client._async import AsyncClient
from everlearn.client._sync import Client
from everlearn.client.results import (
    Answer,
    DecisionEntry,
    Health,
    Learned,
    Outcome,
    RowError,
    Story,
    Taken,
    VersionEntry,
)
from everlearn.client.wire import RequestRefused, Unreachable

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "DecisionEntry",
    "Health",
    "Learned",
    "Outcome",
    "RequestRefused",
    "RowError",
    "Story",
    "Taken",
    "Unreachable",
    "VersionEntry",
]
