"""What a server answers, as frozen records. Positions are positions in the log, times are seconds since 1970."""

from __future__ import annotations

import math
from typing import Any

from msgspec import Struct

from everlearn.records import Event, Evidence, Scalar


class Answer(Struct, frozen=True):
    """An answer: `proba` is in class order (empty for a regression), `version` gave it.

    Every label that is older than `staleness` seconds is in the weights that answered (infinity: not known);
    `position` is the last event that they had learned. `canary` says that a candidate that came from that version
    answered instead of it. `contributions` only where they were asked for.
    """

    id: str
    value: Scalar
    proba: tuple[float, ...]
    version: str
    position: int = 0
    staleness: float = math.inf
    canary: bool = False
    contributions: dict[str, Any] | None = None


class RowError(Struct, frozen=True):
    """What is wrong with row `index`, counted from 0."""

    index: int
    detail: str


class Taken(Struct, frozen=True):
    """How many judgements are in the log now, how many of them were there before, and which could not be used."""

    accepted: int
    known: int
    errors: tuple[RowError, ...] = ()


class Learned(Struct, frozen=True):
    """How many examples are in the log now, their ids, and which could not be used."""

    accepted: int
    ids: tuple[str, ...]
    errors: tuple[RowError, ...] = ()


class VersionEntry(Struct, frozen=True):
    """A version: what it came from, how good it was at birth, which aliases point to it, and whether its arrays are
    still kept. `born` and `time` say where and when the log tells of it."""

    id: str
    parents: tuple[str, ...]
    position: int
    reason: str
    spec: dict[str, Any]
    metrics: dict[str, float]
    blob: str
    aliases: list[str]
    kept: bool
    born: int
    time: float


class DecisionEntry(Struct, frozen=True):
    """A decision of the log with its seal, the hash that chains it to all decisions before it."""

    position: int
    time: float
    action: str
    at: int
    reason: str
    by: str
    alias: str
    version: str
    previous: str
    evidence: Evidence | None
    detail: dict[str, Any]
    seal: str


class Outcome(Struct, frozen=True):
    """What became of an order: where it stands in the log, whether the learner has carried it out (else it will),
    where the aliases point now, and the decisions that followed from it."""

    position: int
    folded: bool
    decision: DecisionEntry
    aliases: dict[str, str]
    followed: list[DecisionEntry]


class Story(Struct, frozen=True):
    """All that the log knows of one id: its events, what became of them (`state`, in words in `explanation`), and the
    decisions around them."""

    id: str
    state: str
    explanation: str
    events: list[Event]
    decisions: list[DecisionEntry]


class Health(Struct, frozen=True):
    """Whether the server is as it should be, and if not, why; `staleness` in seconds (infinity: not known)."""

    ok: bool
    detail: str = ""
    staleness: float = math.inf
