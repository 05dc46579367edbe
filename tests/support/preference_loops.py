"""Loops with a tiny language model that learns preferences."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from everlearn import config
from everlearn.spec import Spec
from tests.support import tiny_lms

SLOW = "EVERLEARN_TEST_SLOW"  # an environment variable: while the file of that name exists, each token takes 0.3 s


def model() -> Any:
    """A tiny Llama over the tokens of `tokenizer`, which writes short answers."""
    made = tiny_lms.tiny("llama", vocabulary=300)
    if path := os.environ.get(SLOW, ""):
        made.register_forward_pre_hook(lambda *_: time.sleep(0.3) if Path(path).exists() else None)
    return made


def tokenizer() -> Any:
    return tiny_lms.tokenizer(True)


MODEL: dict[str, Any] = {
    "family": "preference",
    "model": "tests.support.preference_loops:model",
    "tokenizer": "tests.support.preference_loops:tokenizer",
    "lora": {"rank": 2},
    "round": 4,
    "prompts": 16,
    "judged": 16,
    "reward": {"width": 8, "window": 128, "draws": 4},
    "improve": {"steps": 2},
    "choose": {"candidates": 4},
}


def settings(**changes: Any) -> Spec:
    """Return the settings of a loop with a tiny language model."""
    schema = {"label": "chosen", "task": "preference", "fields": {"prompt": "text"}, "vocabulary": 300}
    schema |= {"prompt_tokens": 48, "answer_tokens": 12}
    alone = {"both": 0.0}  # each pair goes to one annotator
    given = {"schema": schema, "model": MODEL, "seed": 3, "replay": {"bytes": 1 << 20}, "ask": alone}
    return config.convert(given | changes)
