"""The values of the policies of one loop: how much reward each contestant would have earned, by what was served.

Each labelled row was served with a known probability, so that a row says what any policy earns there (off-policy
evaluation, `everlearn.metrics.policy`). A contestant is judged by the probability that its policy gave to the served
action at the prediction, before anything of the row was learned. Beside the contestants stand what was served, the
uniform policy, and each constant action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from everlearn.feedback.pending import ANSWER, chance, worth
from everlearn.metrics import policy
from everlearn.model import copied, prefixed, within
from everlearn.records import Arrays, Batch, Examples, Floats, Prediction, Singles
from everlearn.schema import actions
from everlearn.serve.shadows import ShadowPredictions
from everlearn.spec import Schema

ENOUGH = 30.0  # effective rows below which a value is unknown

# Columns of "actions": times served; weight of rewards, their weighted sum; both over the propensity; squares of that.
SERVED, REWARDED, REWARD, INVERSE, EARNED, SQUARED = range(6)
_SERVED, _UNIFORM, _CONSTANT = "served", "uniform", "constant"


class PolicyValues:
    """The values of policies by role; false, and without anything in it, for a schema without actions."""

    def __init__(self, schema: Schema, roles: Sequence[str]) -> None:
        self._schema, self._roles = schema, tuple(roles)
        count = len(schema.actions)
        self._counts: Arrays = {"actions": np.zeros((count, 6)), "fallbacks": np.zeros(1)} if count else {}
        names = (*roles, _SERVED, _UNIFORM, *(f"{_CONSTANT}/{place}" for place in range(count))) if count else ()
        self._values: dict[str, Arrays] = {name: policy.start() for name in names}

    @property
    def arrays(self) -> Arrays:
        """All counts and sums; `load` restores them."""
        held = dict(self._counts)
        for name, arrays in self._values.items():
            held |= prefixed(f"{name}/", arrays)
        return held

    def __bool__(self) -> bool:
        return bool(self._schema.actions)

    def now(self, prediction: Prediction, shadows: ShadowPredictions, row: int, champion: int) -> dict[int, Singles]:
        """Count a prediction; return, in the form of scores (1, 1), what each policy gives to its action and expects.

        `shadows` has predicted the row. What was served has the trace that was recorded; where a canary answered, or no
        model did, it is that of the champion (its uid).
        """
        if not self:
            return {}
        place = actions.index(self._schema, prediction.value)
        if place == place:
            self._counts["actions"][int(place), SERVED] += 1.0
        self._counts["fallbacks"] += bool(prediction.payload.get(actions.FALLBACK))
        traces = shadows.all_traces(row)
        traces[ANSWER] = traces[champion]
        if prediction.payload.get(actions.FALLBACK):
            traces[ANSWER] = np.array([[1.0, actions.middle(self._schema)]], np.float32)
        elif prediction.trace and not prediction.canary:
            traces[ANSWER] = np.frombuffer(prediction.trace, "<f4")[None, :].astype(np.float32)
        return _numbered(traces)

    def rows(self, batch: Batch, traces: Mapping[int, Singles]) -> dict[int, Singles]:
        """Count rows that came with their rewards; return the numbers of `now` for them, float32 (n, 1)."""
        if not self:
            return {}
        chosen = batch.dense[:, actions.ACTION].astype(np.int64)
        np.add.at(self._counts["actions"][:, SERVED], chosen, 1.0)
        return _numbered(traces)

    def uids(self, roles: Mapping[str, int]) -> set[int]:
        """Return the uids of the numbers that `test` reads for these roles."""
        return {of(uid) for uid in roles.values() for of in (chance, worth)} if self else set()

    def test(self, examples: Examples, predictions: Mapping[int, Singles], roles: Mapping[str, int]) -> None:
        """Add n labelled rows, in order; `predictions` maps uids to float32 (n, 1) and `roles` roles to uids."""
        if not self:
            return
        schema, batch = self._schema, examples.batch
        chosen = batch.dense[:, actions.ACTION]
        propensity = batch.dense[:, actions.PROPENSITY].astype(np.float64)
        usable = np.isfinite(chosen) & (propensity > 0.0)
        place, nothing = np.where(usable, chosen, 0).astype(np.int64), np.zeros(len(chosen))
        weight = np.where(usable, examples.weight, 0.0).astype(np.float32)
        known = propensity, examples.y, weight
        heavy = weight.astype(np.float64)
        inverse = heavy / np.where(usable, propensity, 1.0)
        for column, amount in (
            (REWARDED, heavy),
            (REWARD, heavy * examples.y),
            (INVERSE, inverse),
            (EARNED, inverse * examples.y),
            (SQUARED, inverse * inverse),
        ):
            np.add.at(self._counts["actions"][:, column], place, amount)
        for role in self._roles:
            uid = roles.get(role)
            if uid is not None and chance(uid) in predictions and uid in predictions:
                given, value, forecast = (
                    predictions[of][:, 0].astype(np.float64) for of in (chance(uid), worth(uid), uid)
                )
                self._add(role, given, value, forecast, *known)
        self._add(_SERVED, propensity, nothing, nothing, *known)
        open_to = actions.offered(schema, batch)
        self._add(_UNIFORM, 1.0 / open_to.sum(1), nothing, nothing, *known)
        for action in range(len(schema.actions)):
            self._add(f"{_CONSTANT}/{action}", (place == action) * 1.0, nothing, nothing, *known)

    def report(self) -> dict[str, Any]:
        """Return the values as plain numbers; empty for other tasks, or before the first reward.

        "served" is the mean reward of what was served, with a confidence sequence; "policies" maps roles, "uniform" and
        "best constant", the action that would have earned most, to their off-policy values; a `value` is None where too
        few rows say anything about it. "actions" lists how often each action was served, and its mean
        reward there.
        """
        if not self:
            return {}
        counts, names = self._counts["actions"], self._schema.actions
        total = max(float(counts[:, SERVED].sum()), 1.0)
        found: dict[str, Any] = {
            "fallbacks": int(self._counts["fallbacks"][0]),
            "actions": [
                {
                    "action": name,
                    "served": int(row[SERVED]),
                    "share": float(row[SERVED]) / total,
                    "reward": float(row[REWARD] / row[REWARDED]) if row[REWARDED] > 0.0 else None,
                }
                for name, row in zip(names, counts, strict=True)
            ],
        }
        if not counts[:, REWARDED].any():
            return found | {"served": {}, "policies": {}}
        values = {name: self._value(name) for name in (*self._roles, _UNIFORM)}
        best = _best(counts)
        values["best constant"] = {**self._value(f"{_CONSTANT}/{best}", len(names)), "action": names[best]}
        return found | {
            "served": self._value(_SERVED),
            "policies": {name: value for name, value in values.items() if value["rows"]},
        }

    def load(self, arrays: Arrays) -> None:
        """Restore `arrays`; without any, as of a home of another task, begin with none."""
        if self and arrays:
            self._counts = copied({name: arrays[name] for name in self._counts})
            self._values = {name: copied(within(arrays, f"{name}/")) for name in self._values}

    def _add(
        self,
        name: str,
        probability: Floats,
        value: Floats,
        forecast: Floats,
        propensity: Floats,
        reward: Floats,
        weight: Singles,
    ) -> None:
        policy.add(self._values[name], probability, value, forecast, propensity, reward, weight)

    def _value(self, name: str, among: int = 1) -> dict[str, Any]:
        """Return the value of a policy that was chosen `among` so many by its value, for all of which the ends hold."""
        found: dict[str, Any] = dict(policy.report(self._values[name], self._schema.rewards, policy.ALPHA / among))
        return found if found["effective rows"] >= ENOUGH else found | {"value": None}


def _best(counts: Floats) -> int:
    """Return the action that would have earned most, of those about which enough rows say something, if there are any.

    `counts` is "actions"; estimates are self-normalised.
    """
    inverse, earned, squared = counts[:, INVERSE], counts[:, EARNED], counts[:, SQUARED]
    served = inverse > 0.0
    mean = np.where(served, earned / np.where(served, inverse, 1.0), -np.inf)
    enough = inverse * inverse >= ENOUGH * np.maximum(squared, 1e-300)
    return int(np.where(enough & served, mean, -np.inf).argmax() if (enough & served).any() else mean.argmax())


def _numbered(traces: Mapping[int, Singles]) -> dict[int, Singles]:
    """Return the first two numbers of traces, each in its own column, by `chance` and `worth` of the uid."""
    found = {chance(uid): trace[:, :1].clip(0.0, 1.0) for uid, trace in traces.items()}
    return found | {worth(uid): trace[:, 1:2] for uid, trace in traces.items()}
