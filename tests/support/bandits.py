"""An environment for bandits with a known truth: the best action depends on the sign of one column."""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn.records import Floats
from everlearn.spec import GateSpec, Schema, Spec
from tests.support.bandit_models import FAMILY

ACTIONS = ("left", "middle", "right")
FIELDS = {"x": "numeric", "z": "numeric"}
LOG = np.array([0.2, 0.5, 0.3])  # the propensities of a logged policy that ignores the row


def schema(**changes: Any) -> Schema:
    return Schema(**({"label": "reward", "task": "bandit", "fields": FIELDS, "actions": ACTIONS} | changes))


def spec(**changes: Any) -> Spec:
    settings: dict[str, Any] = {
        "schema": schema(),
        "model": {"family": FAMILY},
        "tick": 20,
        "checkpoint": 300,
        "gate": GateSpec(minimum=100),
    }
    return Spec(**(settings | changes))


def contexts(rows: int, seed: int = 3) -> Floats:
    return np.random.default_rng(seed).normal(size=(rows, 2))


def record(context: Floats) -> dict[str, float]:
    return {"x": float(context[0]), "z": float(context[1])}


def truth(context: Floats, action: str) -> float:
    """The expected reward: "middle" is the best constant action, at 0.5; the best policy earns 0.8."""
    if action == "middle":
        return 0.5
    return 0.8 if (context[0] > 0) == (action == "right") else 0.1


def reward(context: Floats, action: str, seed: int) -> float:
    """1 or 0, drawn by the number of the row and the action."""
    draw = np.random.default_rng([seed, ACTIONS.index(action)]).random()
    return float(draw < truth(context, action))


def table(rows: int, seed: int = 5) -> dict[str, list[Any]]:
    """Logged rows of a policy that ignores the context."""
    draw, found = np.random.default_rng(seed), contexts(rows, seed)
    chosen = draw.choice(len(ACTIONS), rows, p=LOG)
    names = [ACTIONS[place] for place in chosen]
    return {
        "x": found[:, 0].tolist(),
        "z": found[:, 1].tolist(),
        "action": names,
        "propensity": LOG[chosen].tolist(),
        "reward": [reward(found[row], names[row], 10_000 + row) for row in range(rows)],
    }
