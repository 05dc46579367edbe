"""Records of what a decision carries in `Decision.detail`: one type for each kind of decision.

In the log, `detail` is a plain dict; `read` and `write` alone convert it. A key that a newer release added is ignored,
and one that an older release did not write takes the default of its field. A field of None is not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Struct

from everlearn.errors import ConfigError
from everlearn.records import Decision, Example, Label, Payload, Preference, Reward
from everlearn.serve.contestant import Progress

_Kind = TypeVar("_Kind", bound=Struct)


class Without(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A selection of labels to leave out: those of a source, those at positions `first` to `last`, or both at once.

    Source "web" selects "web" and all that begins with "web/": after the name of its token a sender writes anything.
    `last` 0 means up to the order itself. An unknown key is an error: ignoring it would leave out too much.
    """

    source: str = ""
    first: int = 0
    last: int = 0

    def selects(self, position: int, payload: Payload) -> bool:
        """Return True for a label or example that is to be left out."""
        if not isinstance(payload, Label | Reward | Preference | Example):
            return False
        inside = self.first <= position <= (self.last or position)
        return inside and (not self.source or f"{payload.source}/".startswith(f"{self.source}/"))


class MergeRequest(Struct, frozen=True):
    """A merge to make: names and version ids of the parents, the settings of the method, an ancestor ("": nearest)."""

    parents: list[str]
    versions: list[str]
    settings: dict[str, Any]
    ancestor: str = ""


class MergeRecipe(Struct, frozen=True):
    """A merge as it was made: all that is needed to make it again. `parents` and `ancestor` are version ids."""

    settings: dict[str, Any]
    parents: list[str]
    ancestor: str = ""


# ---- decisions of the loop, the gate and the guard -----------------------------------------------------------------
# `examples` is the number of examples scored before the decision, `learned` the progress of the version in question,
# `order` the id of the order that is carried out.


class Started(Struct, frozen=True):
    """The first version took its places. `spec` is the full spec of the loop."""

    examples: int = 0
    learned: Progress | None = None
    spec: dict[str, Any] | None = None


class Drifted(Struct, frozen=True):
    """Drift was detected; `restarts` is the version of the challenger that started again untrained because of it.

    `group` is the group whose preferences turned, where that is the drift.
    """

    examples: int = 0
    restarts: str | None = None
    group: str | None = None


class Promoted(Struct, frozen=True):
    """A version became the champion. `learns` is true if a copy of it learns on from then."""

    examples: int = 0
    order: str | None = None
    learned: Progress | None = None
    learns: bool | None = None


class RolledBack(Struct, frozen=True):
    """A frozen version took the seat back. `learns` is true if a copy of it learns on from then.

    `paused` is true if that copy stays out of the seat after too many rollbacks in `live` mode.
    """

    examples: int = 0
    order: str | None = None
    learns: bool | None = None
    paused: bool | None = None


class RolledBackWithout(Struct, frozen=True):
    """A version took the seat back, and every learner learned again without some labels.

    `first` is the position of the first such label; `again` and `left_out` count labels, `forgotten` rows of the replay
    memory, `rows_lost` rows of files that are not in the log. With `joined`, the log was joined again without them.
    """

    without: Without
    examples: int = 0
    order: str | None = None
    first: int = 0
    again: int = 0
    left_out: int = 0
    forgotten: int = 0
    rows_lost: int = 0
    joined: bool | None = None


class Challenged(Struct, frozen=True):
    """A learning challenger started."""

    examples: int = 0
    learned: Progress | None = None
    order: str | None = None


class Shadowed(Struct, frozen=True):
    """A stored version was put in shadow."""

    examples: int = 0
    order: str | None = None


class Merged(Struct, frozen=True):
    """A version was merged and put in shadow. `grown` is the progress of parents that were stored for it."""

    merge: MergeRecipe
    examples: int = 0
    order: str | None = None
    grown: dict[str, Progress] = {}
    learned: Progress | None = None


class Withdrawn(Struct, frozen=True):
    """A challenger left, or a live champion was stored before it was replaced (then with `learned`)."""

    examples: int = 0
    order: str | None = None
    learned: Progress | None = None


class CandidateRejected(Struct, frozen=True):
    """The gate rejected a candidate, or a reaction to drift failed."""

    examples: int = 0


class ModelExpelled(Struct, frozen=True):
    """A contestant left because its model failed. `contestant` is its uid."""

    examples: int = 0
    role: str = ""
    contestant: int = 0


class OrderRejected(Struct, frozen=True):
    """An order could not be carried out."""

    examples: int = 0
    order: str = ""


class Erasure(Struct, frozen=True):
    """Events were erased, from position `first` on. `versions` maps each replaced version to the one rebuilt; `events`
    counts by kind; `taken` is the last row taken of each stream that an erased row came from; `keys` are the handles of
    the destroyed keys. Where a broker had removed all events up to position `removed`, `dropped` are the versions that
    lost their arrays, and `grown` is the progress of those learned from what it still had."""

    fields: list[str] = []
    salt: str = ""
    digest: str = ""
    events: dict[str, int] = {}
    versions: dict[str, str] = {}
    forgotten: int = 0
    relearned: int = 0
    first: int = 0
    taken: dict[str, int] = {}
    keys: list[str] | None = None
    removed: int | None = None
    dropped: list[str] | None = None
    grown: dict[str, Progress] | None = None


class SettingsChanged(Struct, frozen=True):
    """A change of settings: `settings` maps names to new values; `number` counts decisions; `spec` is the full spec."""

    settings: dict[str, Any] = {}
    number: int = 0
    spec: dict[str, Any] | None = None
    before: dict[str, Any] | None = None  # the full spec until then, where the log does not hold it


class LearningPaused(Struct, frozen=True):
    """Learning was paused (`paused`), or goes on. In between, labels are scored, and no model learns them."""

    paused: bool = False
    examples: int = 0
    order: str | None = None


class VersionNamed(Struct, frozen=True):
    """A version got a name, a note, or both; "" leaves what was there."""

    name: str = ""
    note: str = ""
    examples: int = 0
    order: str | None = None


class WarmStart(Struct, frozen=True):
    """The number of rows that are learned before anything is served."""

    warm_rows: int


# ---- orders --------------------------------------------------------------------------------------------------------
# `order` identifies an order. `token` is the name of the token that it came with.


class PromoteOrder(Struct, frozen=True, tag="promote", tag_field="ask"):
    """Make a version the champion."""

    order: str = ""
    token: str | None = None


class RollBackOrder(Struct, frozen=True, tag="rollback", tag_field="ask"):
    """Make a former champion the champion again; with `without`, learn again without those labels."""

    order: str = ""
    without: Without | None = None
    token: str | None = None


class ChallengeOrder(Struct, frozen=True, tag="challenge", tag_field="ask"):
    """Start a challenger of the spec `model`, trained on the replay memory if `warm`."""

    model: dict[str, Any]
    order: str = ""
    warm: bool = True
    token: str | None = None


class ShadowOrder(Struct, frozen=True, tag="shadow", tag_field="ask"):
    """Put a version in shadow."""

    order: str = ""
    token: str | None = None


class MergeOrder(Struct, frozen=True, tag="merge", tag_field="ask"):
    """Merge versions, and put the result in shadow."""

    merge: MergeRequest
    order: str = ""
    token: str | None = None


class WithdrawOrder(Struct, frozen=True, tag="withdraw", tag_field="ask"):
    """Remove a challenger or a version in shadow."""

    order: str = ""
    token: str | None = None


class PauseOrder(Struct, frozen=True, tag="pause", tag_field="ask"):
    """Pause learning: labels that come from now on are scored, and no model learns them."""

    order: str = ""
    token: str | None = None


class ResumeOrder(Struct, frozen=True, tag="resume", tag_field="ask"):
    """Learn on, from the next label."""

    order: str = ""
    token: str | None = None


class NameOrder(Struct, frozen=True, tag="name", tag_field="ask"):
    """Give a version a name, a note, or both."""

    name: str = ""
    note: str = ""
    order: str = ""
    token: str | None = None


class UnknownOrder(Struct, frozen=True):
    """An order of a newer release."""

    order: str = ""
    ask: str = ""


KnownOrder = (
    PromoteOrder
    | RollBackOrder
    | ChallengeOrder
    | ShadowOrder
    | MergeOrder
    | WithdrawOrder
    | PauseOrder
    | ResumeOrder
    | NameOrder
)
Order = KnownOrder | UnknownOrder

Detail = (
    Started
    | Drifted
    | Promoted
    | RolledBack
    | RolledBackWithout
    | Challenged
    | Shadowed
    | Merged
    | Withdrawn
    | CandidateRejected
    | ModelExpelled
    | OrderRejected
    | Erasure
    | SettingsChanged
    | LearningPaused
    | VersionNamed
    | WarmStart
    | Order
)

_ORDERS: dict[str, type[KnownOrder]] = {str(kind.__struct_config__.tag): kind for kind in get_args(KnownOrder)}


# ---- reading and writing -------------------------------------------------------------------------------------------


def read(decision: Decision) -> Detail:
    """Return the record of a decision's detail. Raises ConfigError if a key that is known holds another type.

    >>> read(Decision("promote", 7, "better", "gate", "champion", "v1", detail={"examples": 5, "learned": [7, 0]}))
    Promoted(examples=5, order=None, learned=Progress(log=7, row=0), learns=None)
    """
    detail = decision.detail
    match decision.action:
        case "order":
            return read_order(decision)
        case "start":
            return _convert(detail, Started)
        case "drift":
            return _convert(detail, Drifted)
        case "promote":
            return _convert(detail, Promoted)
        case "rollback" if "without" in detail:
            return _convert(detail, RolledBackWithout)
        case "rollback":
            return _convert(detail, RolledBack)
        case "challenger" if "merge" in detail:
            return _convert(detail, Merged)
        case "challenger" if decision.alias:
            return _convert(detail, Challenged)
        case "challenger":
            return _convert(detail, Shadowed)
        case "withdraw":
            return _convert(detail, Withdrawn)
        case "reject" if "contestant" in detail:
            return _convert(detail, ModelExpelled)
        case "reject" if "order" in detail:
            return _convert(detail, OrderRejected)
        case "reject":
            return _convert(detail, CandidateRejected)
        case "erase":
            return _convert(detail, Erasure)
        case "config" if "warm_rows" in detail:
            return _convert(detail, WarmStart)
        case "config" if "paused" in detail:
            return _convert(detail, LearningPaused)
        case "config" if "name" in detail:
            return _convert(detail, VersionNamed)
        case "config":
            return _read_settings(detail)


def read_order(decision: Decision) -> Order:
    """Return the record of an order. Raises ConfigError if a key that is known holds another type."""
    detail = decision.detail
    if (kind := _ORDERS.get(str(detail.get("ask", "")))) is not None:
        return _convert(detail, kind)
    return _convert(detail, UnknownOrder)


def write(detail: Detail) -> dict[str, Any]:
    """Return the dict that the log holds for a record.

    >>> write(PromoteOrder("7"))
    {'order': '7', 'ask': 'promote'}
    """
    written, names = dict[str, Any](), list(detail.__struct_fields__)
    if isinstance(detail, KnownOrder):
        written = {"order": detail.order, "ask": detail.__struct_config__.tag}
    elif isinstance(detail, Merged | RolledBackWithout):  # the order of keys in the log
        names = ["examples", "order", *names]
    for name in names:
        value = getattr(detail, name)
        if value is None or name in written:
            continue
        if isinstance(detail, SettingsChanged) and name == "settings":
            written |= value
        else:
            written[name] = _plain(value)
    return written


def order_id(decision: Decision) -> str | None:
    """Return the id of the order that a decision is, or that it carries out; None where there is none."""
    return decision.detail.get("order")


def full_spec(decision: Decision, before: bool = False) -> dict[str, Any] | None:
    """Return the full spec of the loop that a decision holds: a start, or a change of settings; else None."""
    return decision.detail.get("before" if before and "before" in decision.detail else "spec")


def examples(decision: Decision) -> int:
    """Return the number of examples scored before a decision; 0 where it does not say."""
    return int(decision.detail.get("examples", 0))


def progress(decision: Decision) -> dict[str, Progress]:
    """Return the progress that a decision logs, by version: of the version it is about, and of parents of a merge."""
    logged = dict(decision.detail.get("grown", {}))
    if "learned" in decision.detail:
        logged.setdefault(decision.version, decision.detail["learned"])
    return {version: Progress(*learned) for version, learned in logged.items()}


def replaced(decision: Decision) -> dict[str, str]:
    """Return the versions that an erasure has replaced, and the version in the place of each; else nothing."""
    return dict(decision.detail.get("versions", {})) if decision.action == "erase" else {}


def dropped(decision: Decision) -> list[str]:
    """Return the versions that an erasure has left without arrays."""
    return list(decision.detail.get("dropped", ())) if decision.action == "erase" else []


def is_pause(action: str, detail: Mapping[str, Any]) -> bool:
    """Return True for the action and detail of a rollback after which what serves stops learning."""
    return action == "rollback" and bool(detail.get("paused"))


def with_token(order: Decision, token: str) -> Decision:
    """Return an order that carries the name of the token that it came with."""
    return msgspec.structs.replace(order, detail=order.detail | {"token": token})


def _convert(detail: dict[str, Any], kind: type[_Kind]) -> _Kind:
    if "merge" in detail:
        detail = detail | {"merge": _nested(detail["merge"])}
    try:
        return msgspec.convert(detail, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"this decision cannot be read: {error}; a newer Everlearn wrote it: upgrade") from error


def _nested(merge: dict[str, Any]) -> dict[str, Any]:
    """Return a merge with the settings of its method in a dict; the log has them beside the other keys."""
    own = {name: merge[name] for name in ("parents", "versions", "ancestor") if name in merge}
    return own | {"settings": {name: value for name, value in merge.items() if name not in own}}


def _read_settings(detail: dict[str, Any]) -> SettingsChanged:
    own = {name: detail[name] for name in ("number", "spec", "before") if name in detail}
    settings = {name: value for name, value in detail.items() if name not in own}
    return _convert(own | {"settings": settings}, SettingsChanged)


def _plain(value: Any) -> Any:
    """Return a value as the log will give it back: dicts, lists and scalars."""
    if isinstance(value, MergeRequest | MergeRecipe):
        written: dict[str, Any] = {}
        for name in value.__struct_fields__:
            inner = _plain(getattr(value, name))
            written |= inner if name == "settings" else {name: inner}
        return written
    if isinstance(value, Struct):
        return msgspec.to_builtins(value)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
