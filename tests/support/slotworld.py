"""A small world in which everything about a policy is exact: all answers of all prompts can be enumerated.

An answer is `SLOTS` words of `WORDS`, one token each; the gold reward adds a term for each word in its slot and for
each pair of neighbours. The reference is a small Llama that has learned a random language.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from everlearn.families.preference.improve import Reward
from everlearn.families.preference.passes import read_answers
from everlearn.families.preference.text import Ids

PROMPTS, SLOTS, WORDS = 6, 3, 7
KAPPA = 2.0  # labels are drawn with the probability sigmoid(KAPPA (gold A - gold B))


class Exact(NamedTuple):
    """Expected gold reward, KL divergence from the reference in nats, and win against it with ties half."""

    gold: float
    kl: float
    win: float


class World(NamedTuple):
    """All answers, their gold rewards (prompts, answers), and the reference's log-probabilities of them."""

    answers: list[tuple[int, ...]]
    gold: NDArray[np.float64]
    reference: NDArray[np.float64]


def prompts() -> list[list[int]]:
    return [[x] for x in range(PROMPTS)]


@cache
def _tables(seed: int) -> tuple[NDArray[np.float64], Tensor]:
    """Gold rewards of all answers, centred and scaled for each prompt, and logits of the language."""
    draw = torch.Generator().manual_seed(1000 + seed)
    a = torch.randn(PROMPTS, SLOTS, WORDS, generator=draw)
    b = 0.7 * torch.randn(SLOTS - 1, WORDS, WORDS, generator=draw)
    language = 1.2 * torch.randn(SLOTS, WORDS, WORDS + PROMPTS, generator=draw)
    words = torch.tensor(list(itertools.product(range(WORDS), repeat=SLOTS)))
    reward = sum(a[:, i, words[:, i]] for i in range(SLOTS))
    reward = reward + sum(b[i, words[:, i], words[:, i + 1]] for i in range(SLOTS - 1))
    reward = (reward - reward.mean(1, keepdim=True)) / reward.std(1, keepdim=True)
    return reward.double().numpy(), language


def speaker(seed: int, samples: Tensor, language: Tensor) -> Tensor:
    """Sample answers of the random language to prompts (n,): token ids (n, slots)."""
    draw, previous, found = torch.Generator().manual_seed(seed), samples, []
    for i in range(SLOTS):
        chances = language[i][:, previous].T.softmax(1)
        word = torch.multinomial(chances, 1, generator=draw)[:, 0]
        previous = word + PROMPTS
        found.append(previous)
    return torch.stack(found, 1)


@cache
def _trained(seed: int) -> dict[str, Tensor]:
    model, language = _untrained(seed), _tables(seed)[1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(60):
        prompt = torch.randint(PROMPTS, (96,), generator=torch.Generator().manual_seed(step))
        said = speaker(10_000 + step, prompt, language)
        ids = torch.cat([prompt[:, None], said], 1)
        loss = nn.functional.cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1), said.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def _untrained(seed: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=PROMPTS + WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model: nn.Module = LlamaForCausalLM(config)
    torch.random.set_rng_state(state)
    return model


def reference(seed: int = 0) -> nn.Module:
    """A copy of the trained reference, in eval mode."""
    model = _untrained(seed)
    model.load_state_dict(_trained(seed))
    return model.eval()


def table(model: nn.Module) -> NDArray[np.float64]:
    """Log-probabilities of all answers to all prompts, (prompts, answers)."""
    answers = world_answers()
    asked: list[Ids] = [[x] for x in range(PROMPTS) for _ in answers]
    flat: list[Ids] = answers * PROMPTS
    return read_answers(model, asked, flat, layers=[-1], rows=4096).logp.astype(np.float64).reshape(PROMPTS, -1)


def world_answers() -> list[tuple[int, ...]]:
    words = range(PROMPTS, PROMPTS + WORDS)
    return list(itertools.product(words, repeat=SLOTS))


@cache
def world(seed: int = 0) -> World:
    logp = table(reference(seed))
    return World(world_answers(), _tables(seed)[0], logp - np.log(np.exp(logp).sum(1, keepdims=True)))


def measure(model: nn.Module, seed: int = 0) -> Exact:
    """Measure a policy exactly, its mass outside of words left out."""
    given, logp = world(seed), table(model)
    logp = logp - np.log(np.exp(logp).sum(1, keepdims=True))
    chance, other = np.exp(logp), np.exp(given.reference)
    order = np.argsort(given.gold, axis=1)
    below = np.cumsum(np.take_along_axis(other, order, 1), 1)
    half = below - 0.5 * np.take_along_axis(other, order, 1)
    win = (np.take_along_axis(chance, order, 1) * half).sum(1).mean()
    kl = (chance * (logp - given.reference)).sum(1).mean()
    return Exact(float((chance * given.gold).sum(1).mean()), float(kl), float(win))


def gold(seed: int = 0, scale: float = KAPPA) -> Reward:
    """The gold reward, in logits of labels, as a reward of rounds; words outside of the language score -9."""
    given = world(seed)
    index = {answer: i for i, answer in enumerate(given.answers)}

    def reward(asked: list[Ids], answers: list[Ids], features: NDArray[np.float32]) -> NDArray[np.float64]:
        assert len(asked) == len(answers) == len(features)
        found = [
            given.gold[prompt[0], index[tuple(answer)]] if tuple(answer) in index else -9.0
            for prompt, answer in zip(asked, answers, strict=True)
        ]
        return scale * np.array(found)

    return reward
