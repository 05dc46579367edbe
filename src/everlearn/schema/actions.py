"""The columns of a bandit's rows: the context, what each action offers, and the action that was served.

A record of a bandit has the fields of the schema. Under dotted names it has those of its actions, named
"actions.NAME.available" and "actions.NAME.FIELD". A logged row also has the action that was taken, and its propensity.
The dense columns are, in this order, those of the context; for each action 1 where it is on offer, then its fields; the
index of the served action; its propensity. The last two are NaN before an action is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError, did_you_mean
from everlearn.records import Batch, Floats, Prediction, Singles
from everlearn.spec import Schema

UNIFORM = "uniform"  # the setting `propensity` for rows of which all actions had the same probability
PREFIX = "actions"
AVAILABLE = "available"
ACTION, PROPENSITY = -2, -1  # the last two dense columns
EXPECTED, FALLBACK = "expected", "fallback"  # in the payload of a prediction
SPARE = 1e-30  # the lowest propensity, which float32 can hold


def columns(schema: Schema) -> dict[str, str]:
    """Return all fields of a record with their kinds, in column order: those of the schema, and those of its actions.

    >>> schema = Schema(label="r", task="bandit", fields={"x": "numeric"}, actions=("a", "b"))
    >>> list(columns(schema))
    ['x', 'actions.a.available', 'actions.b.available', 'action', 'propensity']
    """
    if not schema.actions:
        return schema.fields
    made = dict(schema.fields)
    for action in schema.actions:
        made[f"{PREFIX}.{action}.{AVAILABLE}"] = "offered"
        made |= {f"{PREFIX}.{action}.{name}": kind for name, kind in schema.action_fields.items()}
    return {**made, schema.action: "action", schema.propensity: "propensity"}


def shape(schema: Schema) -> dict[str, Any]:
    """Return the settings of a bandit beside its columns: numbers of actions and of their fields, bounds of rewards."""
    return {
        "actions": len(schema.actions),
        "action_features": len(schema.action_fields),
        "rewards": [*schema.rewards],
    }


def spelled(record: Mapping[str, Any], schema: Schema) -> Mapping[str, Any]:
    """Return a record with its list of "actions" on offer under dotted names; the record itself where it has none.

    The list holds names, or objects with a "name" and values for the fields of the action; actions that are not in it
    are not on offer. Raises `InputError` for anything else.

    >>> schema = Schema(label="r", task="bandit", fields={"x": "numeric"}, actions=("a", "b"))
    >>> spelled({"x": 1, "actions": ["b"]}, schema)
    {'x': 1, 'actions.a.available': False}
    """
    listed = record.get(PREFIX)
    if listed is None or PREFIX in schema.fields:
        return record
    if isinstance(listed, str | bytes | Mapping) or not isinstance(listed, Iterable):
        raise InputError(f"actions: got {listed!r}; expected a list of names among {listing(schema.actions)}")
    made = {name: value for name, value in record.items() if name != PREFIX}
    offered: set[str] = set()
    for one in listed:
        name, values = (one.get("name"), one) if isinstance(one, Mapping) else (one, {})
        if name not in schema.actions:
            raise InputError(
                f"actions: got {name!r}; expected names among {listing(schema.actions)}"
                f"{did_you_mean(str(name), schema.actions)}"
            )
        if unknown := [field for field in values if field not in ("name", *schema.action_fields)]:
            expected = listing(tuple(schema.action_fields)) or "none (see schema.action_fields)"
            raise InputError(f"actions: got the field {unknown[0]!r} of {name!r}; expected {expected}")
        if name in offered:
            raise InputError(f"actions: got {name!r} twice; list each action once")
        offered.add(name)
        made |= {f"{PREFIX}.{name}.{field}": value for field, value in values.items() if field != "name"}
    if not offered:
        raise InputError("actions: got an empty list; expected at least one action, or no list for all of them")
    return made | {f"{PREFIX}.{name}.{AVAILABLE}": False for name in schema.actions if name not in offered}


def listing(names: Sequence[str], most: int = 20) -> str:
    """Return names in a sentence, the first ones of many."""
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def index(schema: Schema, value: Any) -> float:
    """Return the index of an action as a column holds it; NaN for a value that is none."""
    return float(schema.actions.index(value)) if value in schema.actions else np.nan


def served(schema: Schema, batch: Batch, predictions: Sequence[Prediction]) -> Batch:
    """Return the rows of predictions with the actions that they answered; rows of other tasks as they are."""
    if not schema.actions:
        return batch
    return filled(batch, [index(schema, one.value) for one in predictions], [one.propensity for one in predictions])


def filled(batch: Batch, chosen: Sequence[float] | Floats, propensity: Sequence[float] | Floats) -> Batch:
    """Return a copy of n rows with the index of the action and the propensity of each."""
    dense = batch.dense.copy()
    dense[:, ACTION], dense[:, PROPENSITY] = chosen, propensity
    return Batch(dense, batch.indptr, batch.indices, batch.values)


def logged(schema: Schema, batch: Batch) -> Batch:
    """Return rows that came with their rewards; where all actions had the same probability, each row's is filled in."""
    if not schema.actions or schema.propensity != UNIFORM:
        return batch
    dense = batch.dense
    known = ~np.isnan(dense[:, ACTION])
    dense[:, PROPENSITY] = np.where(known, 1.0 / np.maximum(offered(schema, batch).sum(1), 1), np.nan)
    return batch


def offered(schema: Schema, batch: Batch) -> NDArray[np.bool_]:
    """Return which actions are on offer, bool (n, actions); all are where a row offers none."""
    per = 1 + len(schema.action_fields)
    first = batch.dense.shape[1] - 2 - per * len(schema.actions)
    found: NDArray[np.bool_] = batch.dense[:, first : batch.dense.shape[1] - 2 : per] > 0.0
    return found | ~found.any(1, keepdims=True)


def refused(schema: Schema, batch: Batch) -> dict[int, str]:
    """Return the rows with rewards from which nothing can be learned, with the reasons; empty for other tasks."""
    if not schema.actions:
        return {}
    reasons: dict[int, str] = {}
    chosen, propensity, open_to = batch.dense[:, ACTION], batch.dense[:, PROPENSITY], offered(schema, batch)
    for row in np.flatnonzero(np.isnan(chosen) | np.isnan(propensity)).tolist():
        if np.isnan(chosen[row]):
            reasons[row] = f"field {schema.action!r}: missing; expected the action that was taken"
        else:
            reasons[row] = (
                f"field {schema.propensity!r}: missing; expected the probability with which the action was chosen. "
                'Log it, or set schema.propensity = "uniform" if all actions had the same'
            )
    for row in range(len(batch)):
        if row not in reasons and not open_to[row, int(chosen[row])]:
            name = schema.actions[int(chosen[row])]
            reasons[row] = f"field {schema.action!r}: got {name!r}, which was not on offer in this row"
    return reasons


def answered(schema: Schema, prediction: Prediction) -> Singles:
    """Return the scores, float32 (1, k), that a prediction was answered with.

    For a bandit that is the reward expected of the served action; the middle of the rewards where no model answered.
    """
    if not schema.actions:
        return np.array([prediction.proba or (float(prediction.value),)], np.float32)
    return np.array([[prediction.payload.get(EXPECTED, middle(schema))]], np.float32)


def middle(schema: Schema) -> float:
    """Return the middle of the rewards."""
    return (schema.rewards[0] + schema.rewards[1]) / 2.0
