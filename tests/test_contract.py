"""Every family, on every task and with every optimiser, against every check of the contract."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from everlearn import checks, model
from everlearn.checks import Build
from everlearn.records import Examples

TASKS: dict[str, dict[str, Any]] = {
    "binary": {"task": "binary", "classes": 2},
    "multiclass": {"task": "multiclass", "classes": 4},
    "regression": {"task": "regression", "classes": 0},
}
INPUTS: dict[str, dict[str, Any]] = {
    "dense": {"dense": 5, "hashed": 0},
    "hashed": {"dense": 0, "hashed": 64},
    "both": {"dense": 3, "hashed": 64},
}
OPTIMIZERS = ("blend", "quick", "sgd", "adagrad", "adam", "ftrl", "normalized")
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "linear": [
        *({"optimizer": optimizer} for optimizer in OPTIMIZERS),
        *({"optimizer": optimizer, "l1": 1e-3, "l2": 1e-3} for optimizer in OPTIMIZERS),
        *({"optimizer": optimizer, "interactions": "all", "layout": 1} for optimizer in ("blend", "quick", "adam")),
        {"standardize": False},
        {"rate": 10.0},
    ],
    "tree": [{"memory": 40_000, "grace": 5.0}],
    "forest": [{"trees": 3, "memory": 200_000, "grace": 5.0}],
    "mondrian": [{"trees": 3, "nodes": 60}],
    "neural": [
        {},
        {
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
            "terms": [{"kind": "replay"}, {"kind": "distill"}],
            "memory": {"rows": 25},
            "arguments": {"hidden": [8]},
            "ema": 0.0,
        },
    ],
}
ACTIONS = 3 * (1 + 2) + 2  # dense columns that 3 actions with 2 features need
BANDITS: list[dict[str, Any]] = [{}, {"explore": "thompson"}, {"learn": "dr"}]
ONLY = {  # the tasks of families that do not take all
    "naive_bayes": ("binary", "multiclass"),
    "factorization": ("binary", "regression"),
    "matrix": ("binary", "regression"),
    "popular": ("binary", "regression"),
    "kmeans": ("multiclass",),
    "anomaly": ("binary",),
    "forecast": ("regression",),
}
VARIANTS["anomaly"] = [{"window": 64}]
TREES_OF_ANOMALIES = [{"window": 64, "method": method, "trees": 5} for method in ("half_space", "isolation")]
LOSSES = [
    {"loss": loss, "optimizer": name}
    for loss in ("absolute", "quantile", "huber")
    for name in ("blend", "quick", "sgd")
]


FOREIGN = dict.fromkeys(TASKS, "river.linear_model:LogisticRegression") | {
    "regression": "river.linear_model:LinearRegression"
}


def specs() -> list[dict[str, Any]]:
    every = []
    # Some need pairs of answers, and "auto" and "registered" make models of other families.
    left = {"preference", "bandit", "auto", "dueling", "registered"}
    for family in [one for one in model.FAMILIES if one not in left]:
        for task, inputs in itertools.product(ONLY.get(family, TASKS), INPUTS):
            variants = VARIANTS.get(family, [{}])
            if family == "foreign":
                variants = [{"model": FOREIGN[task], "trusted": True, "bytes": 100_000}]
            if family == "anomaly" and inputs != "hashed":  # trees cut numbers
                variants = variants + TREES_OF_ANOMALIES
            if family == "linear" and task == "regression":
                variants = variants + LOSSES
            if family in ("tree", "forest", "mondrian") and task == "regression":
                variants = variants + [{**one, "loss": "quantile", "loss_parameter": 0.9} for one in variants]
            every += [{"family": family, **TASKS[task], **INPUTS[inputs], **variant} for variant in variants]
    for inputs, variant in itertools.product(({"dense": 3 + ACTIONS}, {"dense": ACTIONS, "hashed": 64}), BANDITS):
        every.append(
            {"family": "bandit", "task": "regression", "actions": 3, "action_features": 2, **inputs, **variant}
        )
    return every


def name(spec: dict[str, Any]) -> str:
    told = {key: value for key, value in spec.items() if key != "classes"}
    return "-".join(str(value) if isinstance(value, str | int | float) else key for key, value in told.items())


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("spec", specs(), ids=name)
def test_every_family_keeps_the_contract(spec: dict[str, Any], check: Callable[[Build, Examples], None]) -> None:
    count = 80 if spec["family"] == "neural" else 160  # a network steps in minibatches of ten
    check(lambda: model.build(spec), checks.sample(spec, count))
