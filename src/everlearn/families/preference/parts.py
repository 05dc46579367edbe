"""The arrays of a preference model beside its policy before any label, and their names in the model."""

from __future__ import annotations

import numpy as np

from everlearn.families.preference import (
    annotators,
    choose,
    examples,
    features,
    first_come,
    groups,
    improve,
    measures,
    memories,
    reward,
)
from everlearn.families.preference.methods import METHODS
from everlearn.families.preference.settings import Settings
from everlearn.model import LEARN
from everlearn.records import Arrays

REMEMBERED = 64  # rounds whose measurements are kept

_LEARNING = ("pool", "judged", "drift", "examples")  # parts that only learning needs


def untrained_head(chosen: Settings, width: int) -> Arrays:
    given = chosen.reward
    return reward.start(
        width,
        groups=chosen.pairs.groups,
        kinds=chosen.pairs.sources,
        window=given.window,
        draws=given.draws,
        variance=given.variance,
        shared=given.shared,
        seed=chosen.seed,
    )


def untrained_parts(chosen: Settings, raw: int, taught: examples.Taught) -> dict[str, Arrays]:
    """Return the parts of a model beside its policy, before any label."""
    bounds = chosen.pairs
    width = min(chosen.reward.width, raw)
    parts = {
        "features": features.start(raw, width),
        "reward": untrained_head(chosen, width),
        "kinds": first_come.start(bounds.sources),
        "groups": first_come.start(bounds.groups),
        "annotators": annotators.start(bounds.annotators),
        "drift": groups.start(bounds.groups),
        "pool": memories.prompts(chosen.prompts, bounds.prompt_tokens),
        "measures": measures.start(bounds.sources),
        "asking": choose.start(),
        "progress": {
            "counts": np.zeros(4),
            "first": np.zeros(1 + len(improve.Round._fields)),
            "rounds": np.zeros((REMEMBERED, 1 + len(improve.Round._fields))),
        },
    }
    if METHODS[chosen.improve.method].kind == "pairs":
        parts["judged"] = memories.judged(chosen.judged, bounds.prompt_tokens + 2 * bounds.answer_tokens)
    if taught:
        parts["examples"] = examples.start(taught)
    return parts


def name_of(part: str, name: str) -> str:
    """Return the name of an array of the model: those that only learning needs begin with "learn/"."""
    if part in _LEARNING:
        return f"{LEARN}{part}/{name}"
    return f"{LEARN}{part}/{name.removeprefix(LEARN)}" if name.startswith(LEARN) else f"{part}/{name}"
