"""The messages of the HTTP interface: bodies of requests and replies, shared by client, worker and admin.

JSON is decoded straight into these records, which checks it. They need msgspec only, so a client runs without numpy.
Positions are positions in the log; times are seconds since 1970. A request about one row is a record; a request about
several holds a list of them, and so does its reply. A page of a list ends with `next`: the value of `after` for the
following page, null on the last one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from everlearn.records import Event, Evidence, Outcome, Scalar

Scope = Literal["predict", "feedback", "read", "admin"]
State = Literal[
    "queued", "waiting", "learned", "corrected", "paused", "quarantined", "settled", "left_out", "refused", "early",
    "expired", "overdue", "evicted",
]  # fmt: skip
Key = Annotated[
    str,
    Meta(min_length=1, max_length=200, description="An id chosen by the client; it names one record for ever."),
]
Source = Annotated[str, Meta(max_length=200)]
Rationale = Annotated[str, Meta(max_length=4000)]
Record = Annotated[
    dict[str, Any], Meta(description="A value for each field of the schema; an absent field counts as missing.")
]
Offers = Annotated[
    list[str | dict[str, Any]],
    Meta(min_length=1, description="The actions on offer: names, or objects with a name and fields of the action."),
]
Reason = Annotated[
    str,
    Meta(min_length=1, max_length=1000, description="Recorded with the decision.", examples=["worse since noon"]),
]
ModelSpec = Annotated[
    dict[str, Any], Meta(description="A family and its settings.", examples=[{"family": "linear", "l2": 0.001}])
]
VersionName = Annotated[str, Meta(min_length=1, max_length=200, examples=["champion"])]
Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


# ---- predictions, feedback and examples --------------------------------------------------------------------------


class PredictRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One record (`features`, with `id` as its key) or several (`instances`, with `ids`).

    `actions` lists what a bandit may choose for one record; without it, all actions are on offer.
    """

    features: Record | UnsetType = UNSET
    id: Key | None = None
    actions: Offers | UnsetType = UNSET
    instances: Annotated[list[Record], Meta(min_length=1)] | UnsetType = UNSET
    ids: list[Key | None] | UnsetType = UNSET


class Answer(Struct, frozen=True, omit_defaults=True):
    """The prediction for one record.

    `proba` holds the probability of each class in the schema's order; it is empty for a regression. `version` names
    the version that answered, and `position` the last event that its weights had learned. Every label older than
    `staleness` seconds is in those weights; null: unknown (clients give infinity). `canary` marks an answer of a
    challenger that started from that version. `contributions` holds the share of each field, if requested. A bandit
    answers with an action: `proba` is then in the order of its actions, and `propensity` that of this action. `handle`
    names the key of the subject where the log encrypts; send it with the feedback. `interval` holds the bounds that a
    forecast came with.
    """

    id: str
    value: Scalar
    proba: tuple[float, ...]
    version: str
    position: int
    staleness: float | None
    canary: bool = False
    contributions: dict[str, Any] | None = None
    propensity: float | None = None
    handle: str = ""
    interval: tuple[float, float] | None = None


class RowAnswer(Struct, frozen=True, omit_defaults=True):
    """The prediction for one of several records; see `Answer` for the fields."""

    id: str
    value: Scalar
    proba: tuple[float, ...]
    version: str
    canary: bool = False
    contributions: dict[str, Any] | None = None
    propensity: float | None = None
    handle: str = ""
    interval: tuple[float, float] | None = None


class Answers(Struct, frozen=True):
    """The predictions for several records, in their order; `position` and `staleness` hold for all of them."""

    predictions: list[RowAnswer]
    position: int
    staleness: float | None


class FeedbackRow(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Feedback for the prediction `id`: its true `label`, a `reward` for it, or which answer was `chosen`.

    A `verdict` of "tie" or "skip" needs no `chosen`. `seconds` is the time from shown to judged, `why` a rationale.
    `handle` is that of the answer, where the log encrypts.
    """

    id: Key
    label: Scalar | None = None
    reward: float | None = None
    chosen: Annotated[int, Meta(ge=-1)] | None = None
    weight: float = 1.0
    source: Source = ""
    verdict: Outcome = "choice"
    seconds: Annotated[float, Meta(ge=0)] = 0.0
    why: Rationale = ""
    handle: Source = ""


class FeedbackRows(Struct, frozen=True, forbid_unknown_fields=True):
    """Feedback for several predictions; an unusable row does not affect the others."""

    feedback: Annotated[list[Raw], Meta(min_length=1)]


class LearnRow(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A record with its label: predicted and learned in one request."""

    features: Record
    label: Scalar
    id: Key | None = None
    weight: float = 1.0
    source: Source = ""


class LearnRows(Struct, frozen=True, forbid_unknown_fields=True):
    """Several labelled records; an unusable one does not affect the others."""

    examples: Annotated[list[Raw], Meta(min_length=1)]


class RowError(Struct, frozen=True):
    """Why row `index` of a request, counted from 0, cannot be used."""

    index: int
    detail: str


class FeedbackReply(Struct, frozen=True, omit_defaults=True):
    """How many rows of feedback were accepted, how many of those were in the log already, and the unusable rows."""

    accepted: int
    known: int
    errors: tuple[RowError, ...] = ()


class LearnReply(Struct, frozen=True, omit_defaults=True):
    """How many examples were accepted, their ids, and the unusable rows."""

    accepted: int
    ids: tuple[str, ...]
    errors: tuple[RowError, ...] = ()


# ---- versions and decisions --------------------------------------------------------------------------------------


class VersionEntry(Struct, frozen=True):
    """A version, its metrics when it was stored, and the names that point to it.

    `position` counts what `unit` says ("": unknown), `born` and `time` are of its event, `kept`: its arrays are stored.
    """

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
    note: str = ""
    unit: Literal["row", "event", ""] = ""


class VersionPage(Struct, frozen=True):
    """Versions in the order in which they were stored, and the version that each alias points to."""

    versions: list[VersionEntry]
    aliases: dict[str, str]
    total: int
    next: int | None


class SpecChange(Struct, frozen=True):
    """One model setting that differs between two versions; null where a version lacks it."""

    name: str
    a: Any
    b: Any


class MetricPair(Struct, frozen=True):
    """One metric of two versions, each as measured when the version was stored."""

    name: str
    a: float | None
    b: float | None


class ArrayChange(Struct, frozen=True):
    """How far one array moved: the norm of a, the norm of b - a, and their ratio.

    All three are null where the shapes differ or one version lacks the array.
    """

    name: str
    shape: tuple[int, ...]
    norm: float | None
    moved: float | None
    relative: float | None


class Diff(Struct, frozen=True):
    """Two versions side by side.

    `common` is their nearest common ancestor, and `steps` the number of generations between them through it. Where
    the arrays of one version are no longer stored, `arrays` is null and `missing` gives the reason.
    """

    a: VersionEntry
    b: VersionEntry
    spec: list[SpecChange]
    metrics: list[MetricPair]
    arrays: list[ArrayChange] | None
    missing: str
    common: str | None
    steps: int | None


class DecisionEntry(Struct, frozen=True):
    """A decision of the log with its seal: the hash that chains it to all decisions before it."""

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


class ChainStatus(Struct, frozen=True):
    """Result of the last check of the seals, which covered the log up to position `checked`.

    `head` is the newest seal, and `broken` the first position whose seal does not match.
    """

    ok: bool
    head: str
    broken: int | None
    checked: int


class DecisionPage(Struct, frozen=True):
    """Decisions, oldest first by default."""

    decisions: list[DecisionEntry]
    total: int
    chain: ChainStatus
    next: int | None


class PromoteCommand(Struct, frozen=True, forbid_unknown_fields=True):
    """Make a version the champion."""

    reason: Reason


class PauseCommand(Struct, frozen=True, forbid_unknown_fields=True):
    """Pause learning, or learn on."""

    reason: Reason


class NameCommand(Struct, frozen=True, forbid_unknown_fields=True):
    """Give a version a name by which it can be found, a note, or both."""

    reason: Reason
    name: Annotated[str, Meta(max_length=100)] = ""
    note: Annotated[str, Meta(max_length=1000)] = ""


class LabelSelector(Struct, frozen=True, forbid_unknown_fields=True):
    """Labels to exclude when learning again: those of a source, those at positions `first` to `last`, or both."""

    source: Source = ""
    first: Number = 0
    last: Number = 0


class RollbackCommand(Struct, frozen=True, forbid_unknown_fields=True):
    """Make a former champion the champion again; `without` learns the later events again, excluding some labels."""

    reason: Reason
    without: LabelSelector | None = None
    to: Annotated[str, Meta(min_length=1, max_length=200)] = "previous"


class MergeCommand(Struct, frozen=True, forbid_unknown_fields=True):
    """Merge two versions into a new one, which runs in shadow.

    `weights`: none, or one for each version. `density` 0 selects the default of the method. An empty `ancestor`
    selects the nearest common one, for the methods that need an ancestor.
    """

    versions: tuple[VersionName, VersionName]
    reason: Reason
    method: Literal["linear", "ema", "fisher", "slerp", "task", "ties", "dare"] = "linear"
    weights: Annotated[list[float], Meta(max_length=2)] = []
    ancestor: Annotated[str, Meta(max_length=200)] = ""
    density: Annotated[float, Meta(ge=0, le=1)] = 0.0
    scale: float = 1.0
    seed: Number = 0


class CommandOutcome(Struct, frozen=True):
    """The result of a command: its position in the log, if the learner has carried it out, and the decisions since.

    `folded` is false while the learner has not reached the command; it will. `followed` holds the decisions that the
    command caused, and `aliases` the version that each alias points to now.
    """

    position: int
    folded: bool
    decision: DecisionEntry
    aliases: dict[str, str]
    followed: list[DecisionEntry]


# ---- challengers -------------------------------------------------------------------------------------------------


class Challenger(Struct, frozen=True):
    """A model on the roster, with the gate's evidence about it if there is any, and the members of a mix."""

    role: str
    version: str
    family: str
    learns: bool
    evidence: dict[str, Any] | None
    members: list[dict[str, Any]] = []


class ChallengerList(Struct, frozen=True):
    """All models on the roster, the champion first."""

    challengers: list[Challenger]


class ChallengeCommand(Struct, frozen=True, forbid_unknown_fields=True):
    """Start a challenger of this model spec; `warm` trains it on the replay memory first."""

    model: ModelSpec
    reason: Reason
    warm: bool = True


# ---- events ------------------------------------------------------------------------------------------------------


class EventPage(Struct, frozen=True):
    """Events, oldest first by default; a page may be shorter than `limit` even if `next` is not null."""

    events: list[Event]
    end: int
    next: int | None


class Lifecycle(Struct, frozen=True):
    """Everything in the log about one id: its events, its state, an explanation, and the decisions around them."""

    id: str
    state: State
    explanation: str
    events: list[Event]
    decisions: list[DecisionEntry]


# ---- the server --------------------------------------------------------------------------------------------------


class RequestRates(Struct, frozen=True):
    """The requests of the last ten seconds; percentiles in seconds, null without requests."""

    requests_per_second: float
    p50: float | None
    p99: float | None


class Status(Struct, frozen=True):
    """The state of the loop and of the server, as the dashboard shows it.

    The learner writes its part a few times a second; `age` is the number of seconds since it last did. `gain` is the
    difference between the champion and the baseline with its interval, null until both answered enough rows. `paused`
    is true while no model learns, and `labelled_at` the time of the newest label. `members`
    lists, for each role that is a mix, its members with their weights, and those at rest. `series` holds the last ten
    minutes, one point a second. `desk` is the admin process.
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
    gain: dict[str, Any] | None
    labelled_at: float | None
    paused: bool
    segments: dict[str, Any]
    reliability: dict[str, Any]
    curves: dict[str, Any]
    marks: list[dict[str, Any]]
    drift: dict[str, Any]
    replay: dict[str, Any]
    gate: list[dict[str, Any]]
    contestants: list[dict[str, Any]]
    aliases: dict[str, str]
    learner: dict[str, Any]
    traffic: RequestRates
    workers: list[dict[str, Any]]
    desk: dict[str, Any]
    series: dict[str, Any]
    chain: ChainStatus
    server: dict[str, Any]
    members: dict[str, list[dict[str, Any]]] = {}


class Healthy(Struct, frozen=True):
    """The reply of a healthy server; `staleness` in seconds."""

    status: Literal["ok"]
    staleness: float | None


class Health(Struct, frozen=True):
    """Health of a server as a client reports it: if it is healthy, why not, and its staleness in seconds."""

    ok: bool
    detail: str = ""
    staleness: float = float("inf")


# ---- sessions of the dashboard -----------------------------------------------------------------------------------


class Login(Struct, frozen=True, forbid_unknown_fields=True):
    """Start a dashboard session with a token."""

    token: Annotated[str, Meta(max_length=200)]


class PageSession(Struct, frozen=True):
    """The session of a dashboard page; `open` is true on a server that needs no token.

    `name` and `scopes` are those of the token, `expires` the end of the session, and `csrf` the value that the page
    sends as X-CSRF-Token with every change.
    """

    open: bool
    name: str
    scopes: tuple[Scope, ...]
    expires: float
    csrf: str
