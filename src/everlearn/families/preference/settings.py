"""Settings of the preference family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from everlearn.errors import ConfigError
from everlearn.families import specs
from everlearn.families.neural.settings import Lora
from everlearn.families.preference.choose import SELECTORS
from everlearn.families.preference.guards import Guards
from everlearn.families.preference.improve import Improve, Share
from everlearn.families.preference.methods import METHODS
from everlearn.schema.layout import PAIR_COLUMNS
from everlearn.spec import NotNegative, Positive

NUMBERS = "task", "dense", "hashed", "classes", "pairs"  # come from the schema


class PairBounds(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Most tokens of a prompt and of an answer, and capacities for annotators, kinds of sources and groups."""

    prompt_tokens: Positive = 512
    answer_tokens: Positive = 256
    annotators: Annotated[int, Meta(ge=2)] = 64
    sources: Annotated[int, Meta(ge=2)] = 16
    groups: Annotated[int, Meta(ge=2)] = 16


class RewardSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the reward model.

    With `learn` false it stays as it was restored, as in classic RLHF. It has at most `width` features, of the hidden
    states of `layers` (default: the middle and the last), keeps the newest `window` labels for exact fits, and draws
    `draws` samples of the posterior. `whitening` says how far directions in which answers differ little count as much
    as others (`reward.whiten`). `variance` is that of an answer's reward before any label, in squared logits; the part
    `shared` of it is common to all groups. A policy learns from the mean minus `caution` standard deviations.
    """

    learn: bool = True
    width: Positive = 256
    window: Annotated[int, Meta(ge=128)] = 2048
    draws: Annotated[int, Meta(ge=2)] = 8
    whitening: Annotated[float, Meta(ge=0, le=1)] = 0.5
    variance: Annotated[float, Meta(gt=0)] = 16.0
    shared: Annotated[float, Meta(gt=0, le=1)] = 0.5
    caution: NotNegative = 0.0
    layers: tuple[int, ...] = ()


class Choose(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the choice of pairs: `candidates` answers to a prompt, the share `reference` of them the reference's.

    The `selector` chooses two of them; the share `random` of questions is always chosen at random. While the policy can
    be compared with another one, the share `duel` are duels; a candidate is nominated for them once the reward model
    expects it to win the share `nominate` (0: always). While evidence of the reward model's skill is what bounds the
    policy (`improve.proof`), questions are those that give evidence soonest: the best of `prove` answers against the
    worst (0: as at other times).
    """

    selector: str = "random"
    candidates: Annotated[int, Meta(ge=2)] = 8
    reference: Share = 0.25
    random: Annotated[float, Meta(gt=0, le=1)] = 0.125
    duel: Share = 0.2
    nominate: Annotated[float, Meta(ge=0, lt=1)] = 0.65
    prove: Annotated[int, Meta(ge=0)] = 16


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a preference model.

    `model` is a causal language model: a name on the Hub, a folder, or "module:function"; `tokenizer` likewise
    (default: that of the model). Either the `weights` of "adapters" (`lora`) are trained, or "all". `adapter` is a
    folder of PEFT whose adapters the policy starts from; its rank, alpha and layers count instead of `lora`. After
    every `round` labels the policy takes a round of steps (`improve`). It remembers the newest `prompts` prompts and,
    for methods that learn from judged pairs, the newest `judged` pairs. `examples` is a file of prompts with
    completions that it imitates in each step, with the weight `improve.mix`.
    """

    family: str = "preference"
    task: Literal["binary"] = "binary"
    dense: int = PAIR_COLUMNS
    hashed: Positive
    classes: Literal[2] = 2
    pairs: PairBounds = field(default_factory=PairBounds)
    model: str
    tokenizer: str = ""
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    weights: Literal["adapters", "all"] = "adapters"
    lora: Lora = field(default_factory=Lora)
    adapter: str = ""
    optimizer: dict[str, Any] = field(default_factory=lambda: {"name": "adam", "lr": 1e-3})
    round: Positive = 32
    prompts: Positive = 256
    judged: Positive = 512
    examples: str = ""
    reward: RewardSettings = field(default_factory=RewardSettings)
    improve: Improve = field(default_factory=Improve)
    choose: Choose = field(default_factory=Choose)
    guards: Guards = field(default_factory=Guards)
    seed: int = 0


def read(spec: Mapping[str, Any]) -> Settings:
    """Return the settings of a spec. Raises `ConfigError` for unknown, missing or wrong ones."""
    found = specs.convert(spec, Settings, "preference", {})
    if found.dense != PAIR_COLUMNS:
        raise ConfigError(
            f"preference model: dense: got {found.dense}; expected {PAIR_COLUMNS}, the columns of a pair of answers. "
            'Set task = "preference" in the schema'
        )
    for name, given, known in (
        ("choose.selector", found.choose.selector, SELECTORS),
        ("improve.method", found.improve.method, tuple(METHODS)),
    ):
        if given not in known:
            raise ConfigError(f"preference model: {name}: got {given!r}; expected one of {', '.join(known)}")
    if found.choose.random + found.choose.duel > 1.0:
        raise ConfigError(
            f"preference model: choose: got random {found.choose.random:g} and duel {found.choose.duel:g}; expected "
            "shares that add up to at most 1. Lower one of them"
        )
    if found.weights == "all" and found.adapter:
        raise ConfigError(
            f"preference model: adapter: got {found.adapter!r} with all weights trained; expected none. Use "
            'weights = "adapters", or merge the adapters into the model with peft first'
        )
    if found.weights == "all" and found.dtype != "float32":
        raise ConfigError(
            f"preference model: dtype: got {found.dtype!r} with all weights trained; expected float32. "
            'Use weights = "adapters", or drop dtype'
        )
    return found


def written(settings: Settings) -> dict[str, Any]:
    """Return the complete spec of settings, as plain values."""
    return specs.written(settings, {})
