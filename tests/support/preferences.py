"""Pairs of answers in the small world of `slotworld`, with labels that follow its gold reward, and a model for them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from everlearn import model, schema
from everlearn.families.preference import PreferenceModel
from everlearn.model import stack
from everlearn.records import Batch, Examples, Floats, Preference
from everlearn.schema.pairs import PairReading
from everlearn.schema.question import Arm, Asked, SampledAnswer, pack_ids, pack_logp
from everlearn.spec import Schema
from tests.support import slotworld

SCHEMA = Schema(
    label="chosen",
    task="preference",
    fields={"prompt": "text"},
    vocabulary=slotworld.PROMPTS + slotworld.WORDS,
    prompt_tokens=4,
    answer_tokens=slotworld.SLOTS,
    annotators=4,
    sources=4,
    groups=slotworld.PROMPTS + 1,
)
SPEC: dict[str, Any] = {
    "family": "preference",
    "model": "tests.support.slotworld:reference",
    "round": 16,
    "prompts": 8,
    "reward": {"window": 128},
    "improve": {"limit": slotworld.SLOTS, "steps": 2, "prompts": 4, "candidates": 4},
    "choose": {"candidates": 4},
}


def build(**changes: Any) -> PreferenceModel:
    made = model.build(SPEC | changes, schema.shape(SCHEMA))
    assert isinstance(made, PreferenceModel)
    return made


def row(
    prompt: int,
    first: int,
    second: int,
    *,
    source: str = "people/anna",
    arm: Arm = "random",
    group: str = "",
    seconds: float = 0.0,
    before: Literal[-1, 0, 1] = -1,
) -> Batch:
    """A judged pair; the answers are numbers among all answers of the world."""
    answers = slotworld.world_answers()
    two = tuple(
        SampledAnswer(ids=pack_ids(answers[one]), logp=pack_logp([-1.0] * slotworld.SLOTS), finish="length")
        for one in (first, second)
    )
    asked = Asked(prompt=pack_ids([prompt]), answers=two, pair=(0, 1), arm=arm, group=group, before=before)
    reading = PairReading(SCHEMA)
    return reading.mark(reading.row(asked), Preference("id", 0, source=source, seconds=seconds))


def labelled(
    n: int, seed: int = 0, *, sign: float = 1.0, groups: bool = False, source: str = "people/anna"
) -> Examples:
    """n random pairs whose label is drawn by the gold reward, times `sign`; with `groups`, each prompt is one."""
    draw = np.random.default_rng(seed)
    gold = slotworld.world().gold
    rows: list[Batch] = []
    y: Floats = np.empty(n)
    for at in range(n):
        prompt, (first, second) = int(draw.integers(slotworld.PROMPTS)), draw.integers(gold.shape[1], size=2).tolist()
        rows.append(row(prompt, first, second, source=source, group=f"prompt {prompt}" if groups else ""))
        logit = sign * slotworld.KAPPA * (gold[prompt, first] - gold[prompt, second])
        y[at] = draw.random() < 1 / (1 + np.exp(-logit))
    return Examples(stack(rows), y, np.ones(n, np.float32), np.arange(1, n + 1))
