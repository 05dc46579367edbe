"""Preference models around a tiny language model."""

from __future__ import annotations

from typing import Any

from everlearn.families.preference import PreferenceModel, build
from tests.support.tiny_lms import tiny


def world() -> Any:
    return tiny("gpt2")


def made(more: dict[str, Any] | None = None, **choose: Any) -> PreferenceModel:
    bounds = {"prompt_tokens": 8, "answer_tokens": 4, "annotators": 4, "sources": 4, "groups": 4}
    small = {"candidates": 4, "selector": "thompson"} | choose
    where = "tests.support.preference_models:world"
    return build(
        {"family": "preference", "hashed": 50, "pairs": bounds, "model": where, "choose": small, **(more or {})}
    )
