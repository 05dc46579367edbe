"""Build preference models: read the spec, load the language model once, and share its frozen weights."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from everlearn.families.neural.settings import Lora
from everlearn.families.preference import examples, settings, text
from everlearn.families.preference.model import PreferenceModel
from everlearn.families.preference.policy import Policy, load_model, load_tokenizer
from everlearn.families.preference.policy_folder import read_adapters
from everlearn.families.preference.settings import Settings
from everlearn.families.preference.text import Ids


def build(spec: Mapping[str, Any]) -> PreferenceModel:
    """Build a preference model from a spec; see `settings.Settings`.

    Raises `ConfigError` for a wrong setting or a model that cannot be loaded, `MissingExtra` without transformers.
    """
    chosen = settings.read(spec)
    named = chosen.tokenizer or ("" if ":" in chosen.model else chosen.model)  # a function makes no tokenizer
    if chosen.weights == "all":  # nothing is frozen that could be shared
        return _made(chosen, _policy(chosen), load_tokenizer(named))
    key = msgspec.json.encode(chosen)
    origin = _ORIGINS.get(key)
    if origin is None:
        origin = _ORIGINS[key] = _Origin(_policy(chosen), load_tokenizer(named))
    made = _made(chosen, copy(origin.policy), origin.tokenizer)
    made.origin = origin
    return made


def _made(chosen: Settings, policy: Policy, tokenizer: Any) -> PreferenceModel:
    bounds, taught = chosen.pairs, list[tuple[Ids, Ids]]()
    if chosen.examples:
        stop = text.stop_tokens(policy.module, tokenizer)
        taught += examples.read(chosen.examples, tokenizer, stop, (bounds.prompt_tokens, bounds.answer_tokens))
    return PreferenceModel(chosen, policy, tokenizer, taught)


class _Origin:
    """An untrained policy whose frozen weights all models of one spec share, as long as one of them lives."""

    def __init__(self, policy: Policy, tokenizer: Any) -> None:
        self.policy = policy
        self.tokenizer = tokenizer


_ORIGINS: WeakValueDictionary[bytes, _Origin] = WeakValueDictionary()  # by spec


def _policy(chosen: Settings) -> Policy:
    module = load_model(chosen.model, device=chosen.device, dtype=chosen.dtype)
    return Policy(
        module,
        lora=read_adapters(module, chosen.adapter) if chosen.adapter else _lora(chosen),
        optimizer=chosen.optimizer,
        value=chosen.improve.method == "ppo",
        seed=chosen.seed,
    )


def _lora(chosen: Settings) -> Lora | None:
    return chosen.lora if chosen.weights == "adapters" else None
