"""Write users' orders: check what a user asks for, and make the decision that asks the loop to do it.

An order changes nothing by itself. The loop carries it out when it folds it (`loop/user_orders.py`), and logs the
result, or the reason of a rejection, in a decision with the same order id; `outcome` finds that one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec
import numpy as np

from everlearn import model, schema
from everlearn.config import default_model
from everlearn.errors import ConfigError, EverlearnError, InputError, ModelError
from everlearn.events import Log, scan
from everlearn.loop import details
from everlearn.loop.details import (
    ChallengeOrder,
    KnownOrder,
    MergeOrder,
    MergeRequest,
    NameOrder,
    PauseOrder,
    PromoteOrder,
    ResumeOrder,
    RollBackOrder,
    ShadowOrder,
    WithdrawOrder,
    Without,
)
from everlearn.merge import METHODS, How, completed, differing
from everlearn.predict import new_id
from everlearn.records import Batch, Decision, Task, Version
from everlearn.spec import Spec
from everlearn.version.registry import Versions, related

CURRENT = ("champion", "challenger")  # aliases that stand, in a merge, for the models as they are by then

ALIASES = (*CURRENT, "previous")
"""Names of versions that the loop moves."""

_NAME = re.compile(r"[\w.-]{1,100}")
_FUNCTION = re.compile(r"[\w.]+:[\w.]+")  # the name of a function in a spec


def without(selection: Mapping[str, Any]) -> Without:
    """Parse a label selector. Raises InputError for an unknown key."""
    try:
        return msgspec.convert(dict(selection), Without)
    except msgspec.ValidationError as error:
        raise InputError(f"without: {error}; expected source (text), first and last (log positions)") from error


def promote(versions: Versions, name: str, reason: str) -> Decision:
    """Order that a version (its id, a unique beginning of it, or an alias) becomes the champion."""
    return _order(PromoteOrder(new_id()), reason, _loadable(versions, name))


def rollback(versions: Versions, reason: str, selection: Without | None = None, to: str = "previous") -> Decision:
    """Order that a former champion becomes the champion again.

    With a `selection` of labels, every learner starts again from that version and learns what came since, except those
    labels; "previous" then means the last champion that had learned none of them. Raises ConfigError if there is no
    previous champion, InputError for a selection that selects nothing.
    """
    if selection is None:
        if to == "previous" and versions.alias(to) is None:
            champion = versions.alias("champion")
            raise ConfigError(
                f"there is no champion before {champion} to roll back to; `to` names another version"
                if champion is not None
                else "there is no previous champion to roll back to: nothing has been promoted yet"
            )
        return _order(RollBackOrder(new_id()), reason, _loadable(versions, to))
    first, last = selection.first, selection.last
    if not (selection.source or first or last):
        raise InputError("without names no labels; give a source, or a range of log positions (first, last), or both")
    if not 0 <= first <= (last or first):
        raise InputError(f"without: got first = {first}, last = {last}; expected positions of the log, first <= last")
    version = "" if to == "previous" else _loadable(versions, to)
    return _order(RollBackOrder(new_id(), selection), reason, version)


def challenge(
    spec: Spec, model_spec: Mapping[str, Any], reason: str, trusted: Set[str] | None = frozenset(), warm: bool = True
) -> Decision:
    """Order a challenger of any family; `warm`: trained on the replay memory first, else untrained.

    Families are the built-in ones, the loop's own, and `trusted` ones ("module:function"). "foreign", whose models are
    pickles, counts as built-in only in a loop of such a model. None trusts any, for callers whose code runs here
    anyway. Raises ConfigError for an unknown family or setting, ModelError for a model that does
    not fit.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps({"family": model.DEFAULT, **model_spec}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"this model spec cannot be kept in the log: {error}; expected plain values") from error
    if trusted is not None:
        own = {*_functions(spec.model), *_families(spec.model)}
        known = {*model.FAMILIES} - model.PICKLED | own | trusted
        for function in (*_families(plain), *_functions(plain)):
            if function not in known:
                raise ConfigError(
                    f"{function!r} may not be started here; expected one of {', '.join(sorted(known))}, "
                    "or name it under serve.families in everlearn.toml"
                )
    if not model.newest_layout(spec.model) and (newest := model.newest_layout(plain)):
        plain = {"layout": newest, **plain}
    build(spec, plain)
    return _order(ChallengeOrder(plain, new_id(), warm), reason)


def shadow(versions: Versions, name: str, reason: str) -> Decision:
    """Order that the gate compares a version, which does not learn, with the champion."""
    return _order(ShadowOrder(new_id()), reason, _loadable(versions, name))


def merge(
    spec: Spec, versions: Versions, parents: Sequence[str], how: How, reason: str, ancestor: str = ""
) -> Decision:
    """Order that versions (ids, their beginnings, aliases) are merged, and the result is compared with the champion.

    "champion" and "challenger" stand for these models as they are when the order is carried out, and so does the id of
    a challenger that learns. Where the method needs an `ancestor` and none is named, it is the nearest common one.
    Raises InputError for versions that cannot be merged, ConfigError for settings.
    """
    found = [versions.find(name) for name in parents]
    names = [name if name in CURRENT else version.id for name, version in zip(parents, found, strict=True)]
    how = completed(how, len(names))
    if len(set(names)) < len(names):
        raise InputError(f"merge: got {', '.join(names)}; expected different versions")
    try:
        specs = [build(spec, versions.find(_loadable(versions, version.id)).spec).spec for version in found]
    except ModelError as error:
        raise InputError(f"merge: {error}") from error
    for other in specs[1:]:
        if differences := differing(specs[0], other):
            raise InputError("these models cannot be merged: " + "; ".join(differences))
    ids, needed = [version.id for version in found], METHODS[how.method].ancestor
    if ancestor and not needed:
        raise InputError(f"merge: got an ancestor, which {how.method!r} does not look at; leave it out")
    if needed:
        _loadable(versions, ancestor or common(versions, ids))
    root = versions.find(ancestor).id if ancestor else ""
    return _order(MergeOrder(MergeRequest(names, ids, msgspec.to_builtins(how), root), new_id()), reason)


def common(versions: Versions, ids: Sequence[str], unlisted: Sequence[Version] = ()) -> str:
    """Return the nearest common ancestor of versions; InputError if there is none.

    `unlisted` are versions that the registry does not know yet.
    """
    known = {version.id: version for version in (*versions.list(), *unlisted)}
    nearest: str | None = ids[0]
    for id in ids[1:]:
        nearest = related(known, nearest, id)[0] if nearest is not None else None
    if nearest is None:
        raise InputError(f"versions {', '.join(ids)} have no common ancestor; name one, or merge by a method without")
    return nearest


def withdraw(versions: Versions, name: str, reason: str) -> Decision:
    """Order that a challenger, or a version in shadow, leaves."""
    return _order(WithdrawOrder(new_id()), reason, versions.find(name).id)


def pause(reason: str) -> Decision:
    """Order that labels are scored, and not learned, from now on."""
    return _order(PauseOrder(new_id()), reason)


def resume(reason: str) -> Decision:
    """Order that models learn on after a pause."""
    return _order(ResumeOrder(new_id()), reason)


def name(versions: Versions, version: str, called: str, note: str, reason: str) -> Decision:
    """Order that a version gets a name by which it can be found, a note, or both.

    Raises InputError for a name that is an id, the beginning of one, or an alias that the loop moves.
    """
    if not (called or note):
        raise InputError("a name or a note is needed; got neither")
    taken = next((one.id for one in versions.list() if called and one.id.startswith(called)), None)
    if called in ALIASES or taken is not None:
        what = f"the beginning of version {taken}" if taken is not None else "an alias that the loop moves"
        raise InputError(f"name: got {called!r}, which is {what}; choose another one")
    if called and not _NAME.fullmatch(called):
        raise InputError(f"name: got {called!r}; expected 1 to 100 letters, digits, dots, dashes or underscores")
    return _order(NameOrder(called, note, new_id()), reason, versions.find(version).id)


def outcome(log: Log, order: Decision, after: int = 0) -> Decision | None:
    """Return the decision that carries out or rejects an order behind position `after`; None if it is not folded."""
    for event in scan(log, after, ("decision",)):
        decision = event.payload
        if not isinstance(decision, Decision) or decision.action == "order":
            continue
        if details.order_id(decision) == details.order_id(order):
            return decision
    return None


def build(spec: Spec, model_spec: Mapping[str, Any]) -> model.Model:
    """Return an untrained model for this loop, after checking the shape of its predictions.

    A spec without a layout, such as that of a version, has the layout of the loop. Raises ConfigError or ModelError for
    a model that cannot be built, or whose predictions have another shape.
    """
    shape = schema.shape(spec.schema)
    model_spec = with_layout(spec, model_spec)
    task: Task = shape["task"]
    family = model.family_of(model_spec)
    try:
        built = model.build({"seed": spec.seed, **model_spec}, shape)
        row = np.zeros((1, int(shape["dense"])), np.float32)
        tokens = np.zeros(3 if spec.schema.task == "preference" else 0, np.int32)  # a pair has a prompt and two answers
        row[0, : len(tokens)] = 1.0
        one = Batch(row, np.array([0, len(tokens)], np.int64), tokens, np.zeros(len(tokens), np.float32))
        scores, _ = model.predict_traced(built, one)
    except EverlearnError:
        raise
    except Exception as error:  # a family of the user's may raise anything
        raise ModelError(f"family {family!r} cannot be built and asked: {type(error).__name__}: {error}") from error
    if spec.schema.task == "bandit" and not (callable(getattr(built, "policy", None)) and model.traced(built) >= 2):
        raise ConfigError(
            f"model.family: got {family!r}, which has no policy over actions; expected a family with policy(batch) and "
            'a trace that begins with the probability of the action and the value of the policy, such as "bandit"'
        )
    columns = 1 if task == "regression" else int(shape["classes"])
    if np.shape(scores) != (1, columns):
        raise ModelError(f"family {family!r} answers one row with shape {np.shape(scores)}; expected {(1, columns)}")
    return built


def settled(spec: Spec) -> Spec:
    """Return the spec of a new loop with its model, and the loss that this is trained for where the gate asks for it.

    Raises ConfigError or ModelError for a model that cannot be built, or whose loss does not fit.
    """
    spec = default_model.completed(spec, schema.shape(spec.schema))
    if spec.gate.own is not None or spec.gate.loss not in ("auto", "pinball", "huber"):
        return spec
    own = model.own_loss(build(spec, spec.model))
    return msgspec.structs.replace(spec, gate=msgspec.structs.replace(spec.gate, own=own))


def with_layout(spec: Spec, model_spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the stored spec of a model with its family, and with the layout of the loop where it names none.

    A loop of a user's family has no layout; its challengers of other families name theirs since layout 3.
    """
    layout = spec.model.get("layout") if model.newest_layout(spec.model) else model.UNNUMBERED
    model_spec = {"family": model.INNER, **model_spec}
    return {"layout": layout, **model_spec} if layout and model.newest_layout(model_spec) else model_spec


def without_layout(model_spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of a model as versions store it: its layout is that of the loop."""
    return {name: value for name, value in model_spec.items() if name != "layout"}


def _functions(value: Any) -> list[str]:
    """Return all names of functions ("module:function") in a spec, at any depth."""
    if isinstance(value, str):
        return [value] if _FUNCTION.fullmatch(value) else []
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [name for each in inner for name in _functions(each)]


def _families(value: Any) -> list[str]:
    """Return all names of families in a spec, at any depth."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    own = [str(value["family"])] if isinstance(value, Mapping) and "family" in value else []
    return own + [name for each in inner for name in _families(each)]


def _order(order: KnownOrder, reason: str, version: str = "") -> Decision:
    return Decision("order", 0, reason, "user", version=version, detail=details.write(order))


def _loadable(versions: Versions, name: str) -> str:
    """Return the id of a version whose arrays are there; InputError or BlobError if not."""
    version = versions.find(name)
    versions.load(version.id)
    return version.id
