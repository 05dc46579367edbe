"""What a person tells the loop to do: checked, and written as a decision for the log, which the loop then carries out.

An order changes nothing by itself. When the loop folds it, it notes what it did, or why it could not, in a decision
that carries the same `detail["order"]`; `outcome` finds that one. So what the log says was done was done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from everlearn import model, schema
from everlearn.errors import ConfigError, EverlearnError, InputError, ModelError
from everlearn.events import Log, scan
from everlearn.merge import METHODS, How, completed, differing
from everlearn.predict import new_id
from everlearn.records import Batch, Decision, Example, Label, Payload, Preference, Reward, Task, Version
from everlearn.spec import Spec
from everlearn.version.registry import Versions, related

AS_THEY_ARE = ("champion", "challenger")  # aliases that mean, to a merge, what these have learned by then


_FUNCTION = re.compile(r"[\w.]+:[\w.]+")  # as a spec names one


class Without(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Labels to leave out: those of a source, those at log positions `first` to `last`, or those that are both.

    Source "web" is "web" and all that begins with "web/": behind the name of a token a sender writes what it likes.
    `last` 0 means up to the order itself.
    """

    source: str = ""
    first: int = 0
    last: int = 0

    def names(self, position: int, payload: Payload) -> bool:
        """Whether a label or example is meant."""
        if not isinstance(payload, Label | Reward | Preference | Example):
            return False
        inside = self.first <= position <= (self.last or position)
        return inside and (not self.source or f"{payload.source}/".startswith(f"{self.source}/"))


def without(named: Mapping[str, Any]) -> Without:
    """Labels as a plain dict names them; InputError for a name that there is not."""
    try:
        return msgspec.convert(dict(named), Without)
    except msgspec.ValidationError as error:
        raise InputError(f"without: {error}; expected source (text), first and last (log positions)") from error


def promote(versions: Versions, name: str, reason: str) -> Decision:
    """Order: make a version (its id, a unique beginning of it, or an alias) the champion."""
    return _order("promote", reason, _loadable(versions, name))


def rollback(versions: Versions, reason: str, named: Without | None = None, to: str = "previous") -> Decision:
    """Order: make a former champion the champion again.

    With labels `named`, everyone that learns starts again from that version, and learns what came since but for those
    labels; "previous" then means the last champion that had learned none of them.
    """
    if named is None:
        if to == "previous" and versions.alias(to) is None:
            raise ConfigError("there is no previous champion to roll back to: nothing has been promoted yet")
        return _order("rollback", reason, _loadable(versions, to))
    if not (named.source or named.first or named.last):
        raise InputError("without names no labels; give a source, or a range of log positions (first, last), or both")
    if not 0 <= named.first <= (named.last or named.first):
        raise InputError(
            f"without: got first = {named.first}, last = {named.last}; expected positions of the log, first <= last"
        )
    version = "" if to == "previous" else _loadable(versions, to)
    return _order("rollback", reason, version, {"without": msgspec.to_builtins(named)})


def challenge(
    spec: Spec, model_spec: Mapping[str, Any], reason: str, trusted: Set[str] | None = frozenset(), warm: bool = True
) -> Decision:
    """Order: let a new model of any family learn in shadow; `warm`: from what is remembered, else untrained.

    Families are the built-in ones, the loop's own, and `trusted` ones ("module:function"); None trusts any, and is for
    callers whose code runs here anyway. Raises ConfigError for a family or dial that there is not, ModelError for a
    model that does not fit.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(model_spec), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"this model spec cannot be kept in the log: {error}; expected plain values") from error
    if trusted is not None:
        known = {*model.FAMILIES, *_code(spec.model)} | trusted
        for named in (str(plain.get("family", "linear")), *_code(plain)):
            if named not in known:
                raise ConfigError(
                    f"{named!r} may not be started here; expected one of {', '.join(sorted(known))}, "
                    "or name it under serve.families in everlearn.toml"
                )
    build(spec, plain)
    return _order("challenge", reason, "", {"model": plain, "warm": warm})


def shadow(versions: Versions, name: str, reason: str) -> Decision:
    """Order: compare a version, which does not learn, with the champion; the gate is asked about it."""
    return _order("shadow", reason, _loadable(versions, name))


def merge(
    spec: Spec, versions: Versions, parents: Sequence[str], how: How, reason: str, ancestor: str = ""
) -> Decision:
    """Order: merge versions (ids, their beginnings, aliases) into a new one, and compare that with the champion.

    "champion" and "challenger" stand for what these have learned when the order is carried out, and so does the id of a
    fresh challenger. Where the method asks for an `ancestor` and none is named, it is the nearest common one.
    Raises InputError for versions that cannot be merged, ConfigError for dials.
    """
    found = [versions.find(name) for name in parents]
    asked = [name if name in AS_THEY_ARE else one.id for name, one in zip(parents, found, strict=True)]
    how = completed(how, len(asked))
    if len(set(asked)) < len(asked):
        raise InputError(f"merge: got {', '.join(asked)}; expected different versions")
    try:
        specs = [build(spec, versions.find(_loadable(versions, one.id)).spec).spec for one in found]
    except ModelError as error:
        raise InputError(f"merge: {error}") from error
    for other in specs[1:]:
        if differences := differing(specs[0], other):
            raise InputError("these models cannot be merged: " + "; ".join(differences))
    needed = METHODS[how.method].ancestor
    if ancestor and not needed:
        raise InputError(f"merge: got an ancestor, which {how.method!r} does not look at; leave it out")
    if needed:
        _loadable(versions, ancestor or common(versions, [one.id for one in found]))
    told: dict[str, Any] = {"parents": asked, "versions": [one.id for one in found]}
    told |= {**msgspec.to_builtins(how), "ancestor": versions.find(ancestor).id if ancestor else ""}
    return _order("merge", reason, "", {"merge": told})


def common(versions: Versions, ids: Sequence[str], more: Sequence[Version] = ()) -> str:
    """The nearest common ancestor of versions, of which those in `more` are not known yet; InputError if none."""
    known = {one.id: one for one in (*versions.list(), *more)}
    nearest: str | None = ids[0]
    for id in ids[1:]:
        nearest = related(known, nearest, id)[0] if nearest is not None else None
    if nearest is None:
        raise InputError(f"versions {', '.join(ids)} have no common ancestor; name one, or merge by a method without")
    return nearest


def withdraw(versions: Versions, name: str, reason: str) -> Decision:
    """Order: let a challenger that was started, or a version that was put in shadow, go."""
    return _order("withdraw", reason, versions.find(name).id)


def outcome(log: Log, order: Decision, after: int = 0) -> Decision | None:
    """What became of an order that stands behind position `after`; None if it was not folded yet."""
    for event in scan(log, after, ("decision",)):
        decision = event.payload
        if not isinstance(decision, Decision) or decision.action == "order":
            continue
        if decision.detail.get("order") == order.detail["order"]:
            return decision
    return None


def champions(log: Log, scored: int) -> tuple[list[str], list[Without]]:
    """The champions there have been, in order, and what orders have left out.

    `scored` examples are folded: a lost checkpoint is folded again with decisions in the log that have not been taken
    yet.
    """
    served: list[str] = []
    left_out: list[Without] = []
    for event in scan(log, kinds=("decision",)):
        decision = event.payload
        if not isinstance(decision, Decision) or decision.detail.get("examples", 0) > scored:
            continue
        if decision.alias == "champion":
            served.append(decision.version)
            left_out += [msgspec.convert(decision.detail["without"], Without)] if "without" in decision.detail else []
        elif decision.action == "erase":  # it replaced versions
            served = [decision.detail["versions"].get(version, version) for version in served]
    return served, left_out


def first(log: Log, named: Without, at: int) -> int:
    """The position of the first label that is meant, before position `at`; InputError if there is none."""
    for event in scan(log, max(0, named.first - 1), upto=at - 1):
        if named.names(event.position, event.payload):
            return event.position
    raise InputError("there is no such label in the log; see its source and position")


def build(spec: Spec, model_spec: Mapping[str, Any]) -> model.Model:
    """An untrained model for this loop, whose answers have the right shape.

    Raises ConfigError or ModelError for one that cannot be built, or that answers otherwise.
    """
    shape = schema.shape(spec.schema)
    task: Task = shape["task"]
    family = str(model_spec.get("family", "linear"))
    try:
        one = model.build({"seed": spec.seed, **model_spec}, shape)
        row = np.zeros((1, int(shape["dense"])), np.float32)
        said = one.predict(Batch(row, np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)))
    except EverlearnError:
        raise
    except Exception as error:  # a family of the user's may raise anything
        raise ModelError(f"family {family!r} cannot be built and asked: {type(error).__name__}: {error}") from error
    columns = 1 if task == "regression" else int(shape["classes"])
    if np.shape(said) != (1, columns):
        raise ModelError(f"family {family!r} answers one row with shape {np.shape(said)}; expected {(1, columns)}")
    return one


def _code(value: Any) -> list[str]:
    """All names of functions ("module:function") in a spec, however deep."""
    if isinstance(value, str):
        return [value] if _FUNCTION.fullmatch(value) else []
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [name for one in inner for name in _code(one)]


def _order(ask: str, reason: str, version: str, more: Mapping[str, Any] | None = None) -> Decision:
    detail = {"order": new_id(), "ask": ask, **(more or {})}
    return Decision("order", 0, reason, "user", version=version, detail=detail)


def _loadable(versions: Versions, name: str) -> str:
    """The id of a version whose arrays are there; InputError or BlobError if not."""
    version = versions.find(name)
    versions.load(version.id)
    return version.id
