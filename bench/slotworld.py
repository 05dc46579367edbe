"""SlotWorld: prompts whose 4,096 answers can all be enumerated, so that reward, KL and win-rate are exact.

16 prompts; an answer is 3 slots of 16 words. The gold reward has a term for each prompt, slot and word and one for each
bigram. The reference policy is a small Llama, trained on samples of a base language. `World` has the tables, the two
kinds of features and the measures; `bench/preference.py` runs learners in it. `LinearWorld` has single questions with
normal features, for the choice of what to ask.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from everlearn.families.preference import reward
from slotllama import SlotLlama

PROMPTS, SLOTS, WORDS = 16, 3, 16
ANSWERS = WORDS**SLOTS
KAPPA = 2.0
Array = NDArray[np.float64]

WORDS_OF = np.stack(np.unravel_index(np.arange(ANSWERS), (WORDS,) * SLOTS), 1)  # (4096, 3)
"""The words of each answer, in the order of all tables."""


class World(NamedTuple):
    """Tables of one world, by prompt and answer, (16, 4096): gold reward and log-probability under the reference."""

    seed: int
    gold: Array
    reference: Array
    model: Any  # the Llama, as `slotllama` computes it


@lru_cache(maxsize=4)
def world(seed: int) -> World:
    """Return the world of a seed. Takes a few seconds, since the reference is trained."""
    generator = torch.Generator().manual_seed(1000 + seed)
    a = torch.randn(PROMPTS, SLOTS, WORDS, generator=generator)
    b = 0.7 * torch.randn(SLOTS - 1, WORDS, WORDS, generator=generator)
    language = 1.2 * torch.randn(SLOTS, WORDS, WORDS + PROMPTS, generator=generator)
    words = torch.from_numpy(WORDS_OF)
    gold = sum(a[:, i, words[:, i]] for i in range(SLOTS))
    gold = gold + sum(b[i, words[:, i], words[:, i + 1]] for i in range(SLOTS - 1))
    gold = standardized(gold.double().numpy())
    model = trained(language, generator, seed)
    return World(seed, gold, log_table(model), model)


def standardized(gold: Array) -> Array:
    """Return a gold table centred per prompt and divided by its standard deviation per prompt."""
    centred = gold - gold.mean(1, keepdims=True)
    return centred / centred.std(1, keepdims=True)


def trained(language: torch.Tensor, generator: torch.Generator, seed: int, steps: int = 400) -> Any:
    """Return the reference: a Llama of 2 layers, trained by AdamW on samples of the base language.

    Only words may follow, so logits of prompts play no part.
    """
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1000 + seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=PROMPTS + WORDS,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=16,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    probability = language.softmax(1)
    for _ in range(steps):
        tokens = [torch.randint(PROMPTS, (128,), generator=generator)]
        for i in range(SLOTS):
            each = probability[i, :, tokens[-1]].T
            tokens.append(PROMPTS + torch.multinomial(each, 1, generator=generator)[:, 0])
        ids = torch.stack(tokens, 1)
        logits = model(ids[:, :-1]).logits[..., PROMPTS:]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, WORDS), ids[:, 1:].reshape(-1) - PROMPTS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fast = SlotLlama(model, PROMPTS).eval()
    with torch.no_grad():
        expected = model(ids).logits[..., PROMPTS:]
        torch.testing.assert_close(fast(ids).logits[..., PROMPTS:], expected)
        cache = DynamicCache(config=model.config)
        fast(ids[:, :1], past_key_values=cache, use_cache=True)
        rest = fast(ids[:, 1:], past_key_values=cache, use_cache=True)
        torch.testing.assert_close(rest.logits[..., PROMPTS:], expected[:, 1:])
    return fast


def tokens(prompts: NDArray[np.int64], answers: NDArray[np.int64]) -> torch.Tensor:
    """Return the token ids of prompts with answers, int64 (n, 4): prompt x is token x, word w is token 16 + w."""
    return torch.from_numpy(np.concatenate([prompts[:, None], PROMPTS + WORDS_OF[answers]], 1))


def log_table(model: Any) -> Array:
    """Return log pi(answer | prompt) of a causal language model, (16, 4096), along the tree of prefixes.

    Only words may follow, so the distribution is that over the 16 words.
    """
    prefixes = tokens(np.repeat(np.arange(PROMPTS), WORDS**2), np.tile(np.arange(0, ANSWERS, WORDS), PROMPTS))[:, :-1]
    with torch.no_grad():
        logp = model(prefixes).logits[..., PROMPTS:].double().log_softmax(-1).numpy()
    logp = logp.reshape(PROMPTS, WORDS, WORDS, SLOTS, WORDS)
    total = logp[:, 0, 0, 0, :, None, None] + logp[:, :, 0, 1, :, None] + logp[:, :, :, 2, :]
    return np.asarray(total.reshape(PROMPTS, ANSWERS))


# ---- features ------------------------------------------------------------------------------------------------------


class Features(NamedTuple):
    """Features of all answers, float32 (16, 4096, d), or (1, 4096, d) where they do not depend on the prompt."""

    name: str
    table: NDArray[np.float32]
    shared: Any  # arguments of `reward.start`
    scale: Any
    variance: float

    def of(self, prompts: NDArray[np.int64], answers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of some answers, (n, d)."""
        return self.table[prompts if len(self.table) > 1 else np.zeros_like(prompts), answers]


@lru_cache(maxsize=8)
def hidden(seed: int, pooled: str = "summed", width: int = 96) -> Features:
    """Return generic features: frozen hidden states of the reference, whitened on 256 samples of it.

    "summed" adds the states of both layers over the answer's positions; "concatenated" keeps those of the last layer
    apart by position, which only answers of one length allow.
    """
    one = world(seed)
    raw = []
    with torch.no_grad():
        for prompt in range(PROMPTS):
            ids = tokens(np.full(ANSWERS, prompt), np.arange(ANSWERS))
            states = one.model(ids, output_hidden_states=True).hidden_states
            if pooled == "summed":
                raw.append(torch.cat([layer[:, 1:].sum(1) for layer in states[1:]], 1).numpy())
            else:
                raw.append(states[-1][:, 1:].reshape(ANSWERS, -1).numpy())
    table = np.stack(raw)
    random = np.random.default_rng([seed, 7])
    prompts = np.repeat(np.arange(PROMPTS), 16)
    arrays = reward.whiten(table[prompts, sampled(one.reference, prompts, random)], width)
    found = np.stack([reward.whitened(arrays, rows) for rows in table])
    return Features(f"hid {pooled}", found, reward.SHARED, 1.0, reward.VARIANCE)


@lru_cache(maxsize=1)
def slots() -> Features:
    """Return well-specified features: indicators of slot x word (shared and per prompt) and of bigrams (shared)."""
    table = np.zeros((ANSWERS, SLOTS * WORDS + (SLOTS - 1) * WORDS * WORDS), np.float32)
    every = np.arange(ANSWERS)
    for i in range(SLOTS):
        table[every, i * WORDS + WORDS_OF[:, i]] = 1.0
    for i in range(SLOTS - 1):
        table[every, (SLOTS + i * WORDS) * WORDS + WORDS_OF[:, i] * WORDS + WORDS_OF[:, i + 1]] = 1.0
    of_word = np.arange(table.shape[1]) < SLOTS * WORDS
    return Features("lin", table[None], np.where(of_word, 0.25, 1.0), np.where(of_word, 1.0, 0.49), 1.0)


def started(features: Features, **more: Any) -> reward.Arrays:
    """Return an untrained head on these features, with a part for each prompt."""
    return reward.start(
        features.table.shape[2],
        groups=PROMPTS,
        shared=features.shared,
        scale=features.scale,
        variance=features.variance,
        **more,
    )


def rewards(head: reward.Arrays, features: Features) -> tuple[Array, Array]:
    """Return the rewards of all answers: the mean, (16, 4096), and draws, (E, 16, 4096), centred per prompt."""
    weights = head["weights"][0] + head["weights"][1:]
    spread = head["deviations"][:, :1] + head["deviations"][:, 1:]
    mean, draws = np.empty((PROMPTS, ANSWERS)), np.empty((len(spread), PROMPTS, ANSWERS))
    for prompt in range(PROMPTS):
        rows = features.table[prompt if len(features.table) > 1 else 0]
        mean[prompt] = rows @ weights[prompt]
        draws[:, prompt] = mean[prompt] + (rows @ spread[:, prompt].T).T
    return mean - mean.mean(1, keepdims=True), draws - draws.mean(2, keepdims=True)


# ---- policies and measures -----------------------------------------------------------------------------------------


def tilted(reference: Array, values: Array, b: float) -> Array:
    """Return the log-probabilities of ref * exp(values / b), normalised per prompt."""
    log = reference + values / b
    return np.asarray(log - np.logaddexp.reduce(log, 1, keepdims=True))


def kl(policy: Array, reference: Array) -> float:
    """Return KL(policy || reference) in nats, the mean over prompts."""
    return float((np.exp(policy) * (policy - reference)).sum(1).mean())


def tilted_to(reference: Array, values: Array, budget: float, least: float = 1e-3) -> Array:
    """Return ref * exp(values / b) with the b at which its KL is `budget`, or `least` where no b is that far."""
    low, high = np.log(least), np.log(1e3)
    for _ in range(24):
        middle = 0.5 * (low + high)
        if kl(tilted(reference, values, float(np.exp(middle))), reference) > budget:
            low = middle
        else:
            high = middle
    return tilted(reference, values, float(np.exp(high)))


def win(policy: Array, one: World, gold: Array | None = None) -> float:
    """Return the strict win-rate of a policy against the reference, ties half, the mean over prompts."""
    return float(wins(policy, one, gold).mean())


def wins(policy: Array, one: World, gold: Array | None = None) -> Array:
    """Return the win-rate against the reference for each prompt, (16,)."""
    gold = one.gold if gold is None else gold
    found = np.empty(PROMPTS)
    for prompt in range(PROMPTS):
        levels, place = np.unique(gold[prompt], return_inverse=True)
        reference = np.bincount(place, np.exp(one.reference[prompt]), len(levels))
        beaten = np.cumsum(reference) - 0.5 * reference
        found[prompt] = np.exp(policy[prompt]) @ beaten[place]
    return found


def measures(policy: Array, one: World, gold: Array | None = None) -> dict[str, float]:
    """Return win, KL and eta of a policy: the gain in gold as a part of the most that its KL allows."""
    gold = one.gold if gold is None else gold
    far = kl(policy, one.reference)
    best = tilted_to(one.reference, gold, far)
    j, start, top = ((np.exp(log) * gold).sum(1).mean() for log in (policy, one.reference, best))
    return {"win": win(policy, one, gold), "kl": far, "eta": float((j - start) / max(top - start, 1e-12))}


def sampled(log: Array, prompts: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Return an answer sampled from a policy for each prompt, (n,)."""
    chance = np.cumsum(np.exp(log), 1)[prompts]
    return (random.random((len(prompts), 1)) * chance[:, -1:] > chance).sum(1)


def labelled(gold: Array, prompts: Any, first: Any, second: Any, random: np.random.Generator) -> Array:
    """Return labels, (n,): 1 where the first answer is preferred, by Bradley-Terry with kappa 2."""
    p = 1 / (1 + np.exp(-KAPPA * (gold[prompts, first] - gold[prompts, second])))
    return (random.random(len(p)) < p).astype(np.float64)


# ---- the linear world ----------------------------------------------------------------------------------------------


class LinearWorld(NamedTuple):
    """A linear gold reward over features of different scales, and a source of candidates."""

    gold: Array
    scale: Array

    def candidates(self, random: np.random.Generator, prompts: int, each: int = 16) -> Array:
        """Return candidates' features, (prompts, each, 24)."""
        return random.normal(size=(prompts, each, len(self.scale))) * self.scale


def linear_world(seed: int, width: int = 24) -> LinearWorld:
    """Return the linear world of a seed: gold of norm 2, scales from 1 to 0.1 in geometric steps."""
    gold = np.random.default_rng([seed, 24]).normal(size=width)
    return LinearWorld(2.0 * gold / np.linalg.norm(gold), np.geomspace(1.0, 0.1, width))
