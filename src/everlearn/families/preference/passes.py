"""What a causal language model computes of given answers: log-probabilities, hidden states, features.

Answers of like lengths are computed together, so that short ones are not padded to the longest, and a prompt that
several answers share is computed once. Both change the last bits of floating-point sums alone. Gradients flow through
shared prompts as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from everlearn._torch import Tensor, functional, nn, torch
from everlearn.errors import InputError, ModelError
from everlearn.families.preference.text import Ids, Padded, device_of, pad

PASS = 64  # tokens that a CPU computes in the time that one more pass costs
LAUNCH = 4096  # the same on other devices, which compute many tokens at once


class Computed(NamedTuple):
    """What a pass computes of r answers with at most a tokens; answers end in the last column.

    `numbers` are the places of the answers among those given. `logp` is float32 (r, a), 0 where `mask`, bool (r, a), is
    False. `hidden` holds the states of each layer at the tokens, (r, a, width), and `before` those of the last layer
    before each token was chosen; both are empty where no states were wanted.
    """

    numbers: list[int]
    logp: Tensor
    mask: Tensor
    hidden: tuple[Tensor, ...]
    before: tuple[Tensor, ...]


def token_logprobs(model: nn.Module, prompts: Sequence[Ids], answers: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each token of the answers, float32 (n, a), and the mask of tokens, bool (n, a).

    Answers end in the last column; columns without a token hold 0. Gradients flow to the model's weights.
    """
    found = list(passes(model, prompts, answers))
    return _joined(found, [one.logp for one in found]), _joined(found, [one.mask for one in found])


def logprobs(model: nn.Module, prompts: Sequence[Ids], answers: Sequence[Ids]) -> Tensor:
    """Return the log-probability of each answer, the sum over its tokens, float32 (n,). Gradients flow.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> sizes = {"vocab_size": 9, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    >>> model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()
    >>> every = [[i, j] for i in range(9) for j in range(9)]
    >>> round(logprobs(model, [[4, 3]] * 81, every).exp().sum().item(), 4)
    1.0
    """
    found = list(passes(model, prompts, answers))
    return _joined(found, [one.logp.sum(1, keepdim=True) for one in found])[:, 0]


def token_states(model: nn.Module, prompts: Sequence[Ids], answers: Sequence[Ids]) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities and mask as `token_logprobs` does, and the last hidden states before each token.

    States, float32 (n, a, hidden), are detached: column i holds what the model computed before it chose token i.
    """
    found = list(passes(model, prompts, answers, states=True))
    parts = ([one.logp for one in found], [one.mask for one in found], [one.before[0].detach() for one in found])
    logp, mask, states = (_joined(found, each) for each in parts)
    return logp, mask, states.float()


class FrozenPass(NamedTuple):
    """What a frozen model computes of n answers: `logp` float32 (n,), and `features` float32 (n, d)."""

    logp: np.ndarray[Any, np.dtype[np.float32]]
    features: np.ndarray[Any, np.dtype[np.float32]]


def read_answers(
    model: nn.Module, prompts: Sequence[Ids], answers: Sequence[Ids], *, layers: Sequence[int] = (), rows: int = 64
) -> FrozenPass:
    """Return log-probabilities and features of answers, from passes of at most `rows` at a time, without gradients.

    Features are, for each of `layers` (0: the embedding, -1: the last; default: the middle and the last), the hidden
    states summed over the answer's tokens and the one of its last token; then the number of tokens. Sums, not averages:
    the average hides a phrase in a long answer. The sum hardly knows the order of tokens, which the last state does.
    """
    if not answers:
        raise InputError("answers: got none; expected at least one")
    logp = np.empty(len(answers), np.float32)
    features = None
    with torch.no_grad():
        for found in passes(model, prompts, answers, states=True, rows=rows):
            marked, states = found.mask[..., None], found.hidden
            parts = []
            for i in layers or ((len(states) - 1) // 2, len(states) - 1):
                of_answer = states[i].float() * marked
                parts += [of_answer.sum(1), of_answer[:, -1]]
            made = torch.cat([*parts, found.mask.sum(1, keepdim=True).float()], 1).cpu().numpy()
            features = np.empty((len(answers), made.shape[1]), np.float32) if features is None else features
            logp[found.numbers], features[found.numbers] = found.logp.sum(1).cpu().numpy(), made
    assert features is not None
    return FrozenPass(logp, features)


def passes(
    model: nn.Module, prompts: Sequence[Ids], answers: Sequence[Ids], *, states: bool = False, rows: int = 0
) -> Iterator[Computed]:
    """Yield what the model computes of answers, at most `rows` at a time (0: any number), short answers first.

    Raises `InputError` for an empty prompt.
    """
    if any(not len(prompt) for prompt in prompts):
        raise InputError("prompt: got no tokens; expected at least one, as the first token of an answer follows it")
    device = device_of(model)
    price = PASS if device.type == "cpu" else LAUNCH
    widest = max(map(len, prompts), default=0)
    order = sorted(range(len(answers)), key=lambda i: len(answers[i]))
    for start, end in cuts([len(answers[i]) for i in order], widest, price, rows or len(order)):
        numbers = order[start:end]
        own, theirs = [prompts[i] for i in numbers], [answers[i] for i in numbers]
        different = len({tuple(prompt) for prompt in own})
        shared = (len(own) - different) * widest > price
        yield (_after_shared if shared else _whole)(model, numbers, own, theirs, states)


def cuts(lengths: Sequence[int], prompt: int, price: int, rows: int) -> list[tuple[int, int]]:
    """Return where to cut answers, ordered by length, into passes: pairs (start, end), least tokens computed.

    A pass of r answers costs `price` tokens, and r times the tokens of prompt and longest answer.

    >>> cuts([2, 3, 3, 40], prompt=8, price=16, rows=4), cuts([2, 3, 3, 40], prompt=8, price=500, rows=2)
    ([(0, 3), (3, 4)], [(0, 2), (2, 4)])
    """
    ends = [i for i in range(1, len(lengths) + 1) if i == len(lengths) or lengths[i] != lengths[i - 1] or not i % rows]
    best: dict[int, tuple[int, int]] = {0: (0, 0)}  # tokens up to an end, and where its pass starts
    for end in ends:
        starts = (start for start in best if 0 < end - start <= rows)
        wide = prompt + lengths[end - 1]
        best[end] = min((best[start][0] + price + (end - start) * wide, start) for start in starts)
    found: list[tuple[int, int]] = []
    at = len(lengths)
    while at:
        found.append((best[at][1], at))
        at = best[at][1]
    return found[::-1]


def _joined(found: Sequence[Computed], parts: Sequence[Tensor]) -> Tensor:
    """Return parts of all answers in the order in which these were given, as wide as the widest."""
    width = max(part.shape[1] for part in parts)
    wide = [
        functional.pad(part, (*(0, 0) * (part.dim() - 2), width - part.shape[1], 0)) if part.shape[1] < width else part
        for part in parts
    ]
    order = np.argsort(np.concatenate([one.numbers for one in found]))
    return torch.cat(wide)[torch.from_numpy(order).to(wide[0].device)]


def _whole(
    model: nn.Module, numbers: list[int], prompts: Sequence[Ids], answers: Sequence[Ids], states: bool
) -> Computed:
    """Compute prompts with their answers, padded on the left."""
    batch = pad(prompts, answers, device_of(model))
    longest = batch.answer.shape[1]
    done = model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        output_hidden_states=states,
        logits_to_keep=longest + 1,
    )
    ids, logits = batch.ids[:, -longest:], done.logits
    if logits.shape[1] <= longest:  # prompts of one token, and no answer has a token
        logp = torch.zeros_like(ids, dtype=torch.float32)
    else:
        logp = _chosen(logits[:, -longest - 1 : -1], ids).masked_fill(~batch.answer, 0.0)
    if not states:
        return Computed(numbers, logp, batch.answer, (), ())
    hidden = tuple(one[:, -longest:] for one in done.hidden_states)
    before = functional.pad(done.hidden_states[-1], (0, 0, 1, 0))[:, -longest - 1 : -1]
    return Computed(numbers, logp, batch.answer, hidden, (before,))


def _after_shared(
    model: nn.Module, numbers: list[int], prompts: Sequence[Ids], answers: Sequence[Ids], states: bool
) -> Computed:
    """Compute different prompts, and then the answers from their keys and values.

    The answers are padded on the right, so that they follow their prompts; the result ends in the last column.
    """
    places: dict[tuple[int, ...], int] = {}
    where = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    first: Padded = pad(list(places), [()] * len(places), device_of(model))
    device, cache = first.ids.device, new_cache(model)
    opened = model(
        input_ids=first.ids,
        attention_mask=first.mask,
        position_ids=first.positions,
        use_cache=True,
        output_hidden_states=states,
        logits_to_keep=1,
        **cache,
    )
    index = torch.tensor(where, device=device)
    next(iter(cache.values())).batch_select_indices(index)
    longest = max(1, *map(len, answers))
    ids = torch.tensor([[*answer, *[0] * (longest - len(answer))] for answer in answers], device=device)
    lengths = torch.tensor([len(answer) for answer in answers], device=device)[:, None]
    column = torch.arange(longest, device=device)[None]
    opening = first.mask[index]
    done = model(
        input_ids=ids,
        attention_mask=torch.cat([opening, (column < lengths).long()], 1),
        position_ids=opening.sum(1, keepdim=True) + torch.minimum(column, (lengths - 1).clamp(min=0)),
        use_cache=True,
        output_hidden_states=states,
        **cache,
    )
    back = column - (longest - lengths)  # the column of a token, by the one in which it is returned
    mask, back = back >= 0, back.clamp(min=0)
    logits = torch.cat([opened.logits[index], done.logits[:, :-1]], 1)
    logp = _chosen(logits, ids).gather(1, back).masked_fill(~mask, 0.0)
    if not states:
        return Computed(numbers, logp, mask, (), ())
    row = torch.arange(len(ids), device=device)[:, None]
    hidden = tuple(one[row, back] for one in done.hidden_states)
    last = torch.cat([opened.hidden_states[-1][index, -1:], done.hidden_states[-1][:, :-1]], 1)
    return Computed(numbers, logp, mask, hidden, (last[row, back],))


def _chosen(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probability of each id, float32 (n, a), from logits (n, a, vocabulary)."""
    logits = logits.float()
    return logits.gather(2, ids[..., None])[..., 0] - logits.logsumexp(2)


def new_cache(model: nn.Module) -> dict[str, Any]:
    """Return an empty cache of keys and values under the name by which the model's `forward` takes it.

    Raises `ModelError` for a module that is none of transformers.
    """
    from transformers.cache_utils import DynamicCache

    cache: Any = DynamicCache(config=config_of(model))
    names = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache}  # the latter before transformers 5.24


def config_of(model: nn.Module) -> Any:
    """Return the config of a model of transformers. Raises `ModelError` for other modules."""
    config: Any = getattr(model, "config", None)
    if config is None:
        raise ModelError(f"model: got a {type(model).__name__} without a config; expected one of transformers")
    return config.get_text_config() if callable(getattr(config, "get_text_config", None)) else config
