"""What the desk answers and what it is told, as records: the endpoints fill them, the OpenAPI document describes them.

Positions are positions in the log, times are seconds since 1970. A list has `next`: what to give as `after` for the
page behind it, null at the end.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from everlearn.records import Event, Evidence

Reason = Annotated[
    str,
    Meta(
        min_length=1, max_length=1000, description="Why; it is kept with the decision.", examples=["worse since noon"]
    ),
]
ModelSpec = Annotated[
    dict[str, Any], Meta(description="A family and its settings.", examples=[{"family": "linear", "l2": 0.001}])
]
Name = Annotated[str, Meta(min_length=1, max_length=200, examples=["champion"])]
State = Literal["queued", "waiting", "learned", "quarantined", "early", "overdue"]
Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


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


class VersionPage(Struct, frozen=True):
    """Versions in order of birth, and where each alias points."""

    versions: list[VersionEntry]
    aliases: dict[str, str]
    total: int
    next: int | None


class SpecChange(Struct, frozen=True):
    """One setting of the model that differs; null where a version lacks it."""

    name: str
    a: Any
    b: Any


class MetricPair(Struct, frozen=True):
    """One metric of two versions, each as measured when it was born."""

    name: str
    a: float | None
    b: float | None


class ArrayChange(Struct, frozen=True):
    """How far an array moved: the norm of a, of b - a, and their ratio; null where shapes differ or one is missing."""

    name: str
    shape: tuple[int, ...]
    norm: float | None
    moved: float | None
    relative: float | None


class Diff(Struct, frozen=True):
    """Two versions side by side. `common` is their nearest common ancestor, `steps` the generations from one over it
    to the other; `arrays` is null, and `missing` says why, when the arrays of one are no longer kept."""

    a: VersionEntry
    b: VersionEntry
    spec: list[SpecChange]
    metrics: list[MetricPair]
    arrays: list[ArrayChange] | None
    missing: str
    common: str | None
    steps: int | None


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


class Chain(Struct, frozen=True):
    """Whether the seals fit the decisions, as last checked up to position `checked`; `head` is the newest seal, and
    `broken` the first position that does not fit."""

    ok: bool
    head: str
    broken: int | None
    checked: int


class DecisionPage(Struct, frozen=True):
    """Decisions, oldest first unless asked otherwise."""

    decisions: list[DecisionEntry]
    total: int
    chain: Chain
    next: int | None


class EventPage(Struct, frozen=True):
    """Events, oldest first unless asked otherwise; a page may hold fewer than asked for while `next` is not null."""

    events: list[Event]
    end: int
    next: int | None


class Story(Struct, frozen=True):
    """All that the log knows of one id: its events, what became of them (`state`, in words in `explanation`), and the
    decisions around them."""

    id: str
    state: State
    explanation: str
    events: list[Event]
    decisions: list[DecisionEntry]


class Challenger(Struct, frozen=True):
    """Who runs beside the champion, or is it, with the evidence about it where the gate has some."""

    role: str
    version: str
    family: str
    learns: bool
    evidence: dict[str, Any] | None


class ChallengerList(Struct, frozen=True):
    """Everyone who is being compared, the champion first."""

    challengers: list[Challenger]


class Outcome(Struct, frozen=True):
    """What became of an order: where it stands in the log, whether the learner has carried it out, where the aliases
    point now, and the decisions that followed from it."""

    position: int
    folded: bool
    decision: DecisionEntry
    aliases: dict[str, str]
    followed: list[DecisionEntry]


class Traffic(Struct, frozen=True):
    """What the workers did in the last ten seconds; percentiles in seconds, null where nothing was asked."""

    requests_per_second: float
    p50: float | None
    p99: float | None


class Status(Struct, frozen=True):
    """How the loop and the server are, as the page shows it.

    The learner writes its part a few times a second; `age` says how many seconds ago it last did. `series` holds
    the last ten minutes, a point a second.
    """

    time: float
    age: float
    mode: str
    task: str
    metric: str
    label: str
    classes: list[Any]
    position: int
    end: int
    lag: dict[str, Any]
    staleness: dict[str, Any]
    counts: dict[str, int]
    metrics: dict[str, Any]
    curves: dict[str, Any]
    marks: list[dict[str, Any]]
    drift: dict[str, Any]
    replay: dict[str, Any]
    gate: list[dict[str, Any]]
    contestants: list[dict[str, Any]]
    aliases: dict[str, str]
    learner: dict[str, Any]
    traffic: Traffic
    workers: list[dict[str, Any]]
    desk: dict[str, Any]
    series: dict[str, Any]
    chain: Chain
    server: dict[str, Any]


class Healthy(Struct, frozen=True):
    """The learner writes its status, and what serves is as fresh as promised; in seconds."""

    status: Literal["ok"]
    staleness: float | None


class Promote(Struct, frozen=True, forbid_unknown_fields=True):
    """Make a version the champion."""

    reason: Reason


class LeftOut(Struct, frozen=True, forbid_unknown_fields=True):
    """Labels to leave out when learning again: those of a source, of positions `first` to `last`, or both."""

    source: Annotated[str, Meta(max_length=200)] = ""
    first: Number = 0
    last: Number = 0


class Rollback(Struct, frozen=True, forbid_unknown_fields=True):
    """Make a former champion the champion again; `without` relearns what came since, leaving out what is named."""

    reason: Reason
    without: LeftOut | None = None
    to: Annotated[str, Meta(min_length=1, max_length=200)] = "previous"


class Challenge(Struct, frozen=True, forbid_unknown_fields=True):
    """Start a challenger of this model spec; `warm`: from what the replay memory holds, else untrained."""

    model: ModelSpec
    reason: Reason
    warm: bool = True


class Merge(Struct, frozen=True, forbid_unknown_fields=True):
    """Merge two versions into a new one in shadow. `weights`: none, or one for each; `density` 0 is the method's own;
    `ancestor` "" is the nearest common one, where the method looks at one."""

    versions: tuple[Name, Name]
    reason: Reason
    method: Literal["linear", "ema", "fisher", "slerp", "task", "ties", "dare"] = "linear"
    weights: Annotated[list[float], Meta(max_length=2)] = []
    ancestor: Annotated[str, Meta(max_length=200)] = ""
    density: Annotated[float, Meta(ge=0, le=1)] = 0.0
    scale: float = 1.0
    seed: Number = 0


class Login(Struct, frozen=True, forbid_unknown_fields=True):
    """Start a session of the page with a token."""

    token: Annotated[str, Meta(max_length=200)]
