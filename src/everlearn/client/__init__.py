"""Call an Everlearn server from Python: `Client`, and `AsyncClient` with the same methods to await.

Records, feedback and commands come in; answers, versions and decisions come back as the records of `records`, and
refusals as the exceptions that a loop raises in the same process. `wire` encodes and decodes both; the server itself is
in `app/`.

>>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
...     answer = client.predict({"amount": 12.0, "country": "NL"})
...     client.feedback(answer.id, label="fine")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from everlearn.client.records import (
    Answer,
    CommandOutcome,
    DecisionEntry,
    FeedbackReply,
    Health,
    LearnReply,
    Lifecycle,
    RowError,
    VersionEntry,
)

if TYPE_CHECKING:
    from everlearn.client._async import AsyncClient
    from everlearn.client._sync import Client
    from everlearn.client.wire import RequestRefused, Unreachable

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "CommandOutcome",
    "DecisionEntry",
    "FeedbackReply",
    "Health",
    "LearnReply",
    "Lifecycle",
    "RequestRefused",
    "RowError",
    "Unreachable",
    "VersionEntry",
]

# Loaded on first use: the server shares the records, and needs no HTTP client for them.
_MODULES = {
    "AsyncClient": "everlearn.client._async",
    "Client": "everlearn.client._sync",
    "RequestRefused": "everlearn.client.wire",
    "Unreachable": "everlearn.client.wire",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
