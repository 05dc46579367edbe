"""Sample answers from a causal language model: one pass over each prompt, then one token of all answers at a time.

Random numbers are functions of (seed of the prompt, number of the answer, position of the token), so that an answer
does not depend on the requests it was batched with. Batches change the last bits of floating-point sums alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn._random import uniform
from everlearn._torch import Tensor, nn, torch
from everlearn.errors import ConfigError, InputError, ModelError
from everlearn.families.preference.passes import config_of, new_cache
from everlearn.families.preference.text import Ids, device_of, pad


class Sampled(NamedTuple):
    """An answer: its tokens, and the log-probabilities of each.

    `logp` is under the model, without temperature and truncation; `sent` is under the distribution that was sampled
    from. `cut` is True where the limit ended the answer: the ids then hold no stop token.
    """

    ids: tuple[int, ...]
    logp: tuple[float, ...]
    sent: tuple[float, ...]
    cut: bool


class TokenStep(NamedTuple):
    """One more token of each unfinished answer.

    `rows` are numbers of answers: answer j of prompt i is i * n + j. All lists have the same length. `top`
    holds the likeliest tokens in that place with their log-probabilities, as many as were asked for.
    """

    rows: list[int]
    tokens: list[int]
    logp: list[float]
    sent: list[float]
    ended: list[bool]
    top: list[list[tuple[int, float]]]


class Truncation(NamedTuple):
    """How a model's distribution is changed before a token is drawn: a `temperature`, then the nucleus of `top_p`.

    temperature 0 takes the most probable token. top_p < 1 keeps the fewest tokens with this much probability together
    (Holtzman et al. 2020, arXiv 1904.09751, section 3.1).
    """

    temperature: float = 1.0
    top_p: float = 1.0


def generate(
    model: nn.Module,
    prompt_ids: Ids,
    n: int = 1,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    limit: int = 64,
    stop: Sequence[int] = (),
) -> list[Sampled]:
    """Return n answers to a prompt, each of at most `limit` tokens, ended by the first token of `stop`.

    The prompt is computed once for all n. Raises `InputError` for a prompt that is empty or leaves no room for
    `limit` tokens, `ConfigError` for settings out of range, `ModelError` for a model in training mode.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> sizes = {"vocab_size": 9, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    >>> model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()
    >>> answers = generate(model, [1, 2, 3], 20, seed=7, limit=4, stop=[7, 8])
    >>> all(one.cut == (one.ids[-1] not in (7, 8)) and len(one.ids) <= 4 for one in answers)
    True
    >>> fewer = generate(model, [1, 2, 3], 5, seed=7, limit=4, stop=[7, 8])  # another batch, equal tokens
    >>> [one.ids for one in answers[:5]] == [one.ids for one in fewer]
    True
    """
    truncation = Truncation(temperature, top_p)
    return generate_many(model, [prompt_ids], n, seeds=[seed], truncation=truncation, limit=limit, stop=stop)[0]


def generate_many(
    model: nn.Module,
    prompts: Sequence[Ids],
    n: int = 1,
    *,
    seeds: Sequence[int],
    truncation: Truncation | None = None,
    limit: int = 64,
    stop: Sequence[int] = (),
) -> list[list[Sampled]]:
    """Return n answers to each prompt, computed as one batch; the seeds are one for each prompt. See `generate`."""
    ids: list[list[int]] = [[] for _ in range(len(prompts) * n)]
    logp: list[list[float]] = [[] for _ in ids]
    sent: list[list[float]] = [[] for _ in ids]
    cut = [True] * len(ids)
    for step in stream(model, prompts, n, seeds=seeds, truncation=truncation, limit=limit, stop=stop):
        for row, token, before, after, ended, _ in zip(*step, strict=True):
            ids[row].append(token)
            logp[row].append(before)
            sent[row].append(after)
            cut[row] = not ended
    made = [Sampled(tuple(ids[i]), tuple(logp[i]), tuple(sent[i]), cut[i]) for i in range(len(ids))]
    return [made[i * n : (i + 1) * n] for i in range(len(prompts))]


def stream(
    model: nn.Module,
    prompts: Sequence[Ids],
    n: int = 1,
    *,
    seeds: Sequence[int],
    truncation: Truncation | None = None,
    limit: int = 64,
    stop: Sequence[int] = (),
    top: int = 0,
) -> Iterator[TokenStep]:
    """Yield the next token of each unfinished answer, until all are ended or have `limit` tokens. See `generate`.

    Each token comes with the `top` likeliest ones in its place.
    """
    truncation = truncation or Truncation()
    _check(model, prompts, n, seeds, truncation, limit)
    decoder = _Decoder(model, prompts, n)
    rows, ends, own_seeds = list(range(len(prompts) * n)), frozenset(stop), np.array(seeds, np.uint64)
    for position in range(limit):
        drawn = _uniforms(own_seeds, np.array(rows), n, position)
        tokens, logp, sent = (one.tolist() for one in draw(decoder.logits, drawn, truncation))
        ended = [token in ends for token in tokens]
        yield TokenStep(list(rows), tokens, logp, sent, ended, _likeliest(decoder.logits, top))
        left = [i for i, done in enumerate(ended) if not done]
        if not left or position + 1 == limit:
            return
        rows, tokens = [rows[i] for i in left], [tokens[i] for i in left]
        decoder.advance(tokens, left)


def _likeliest(logits: Tensor, top: int) -> list[list[tuple[int, float]]]:
    """Return the `top` likeliest tokens of each row with their log-probabilities, most likely first."""
    if not top:
        return [[] for _ in range(len(logits))]
    logp, tokens = logits.float().log_softmax(1).topk(min(top, logits.shape[1]), 1)
    return [list(zip(ids, values, strict=True)) for ids, values in zip(tokens.tolist(), logp.tolist(), strict=True)]


@exact_kernel
def _uniforms(seeds: NDArray[np.uint64], rows: NDArray[np.int64], n: int, position: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each row: answer row % n of prompt row // n."""
    found = np.empty(len(rows))
    for i in range(len(rows)):
        found[i] = uniform(seeds[rows[i] // n], rows[i] % n, position)
    return found


def draw(
    logits: Tensor, numbers: Sequence[float] | NDArray[np.float64], truncation: Truncation
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens drawn by numbers in [0, 1), int64 (n,), and their log-probabilities before and after truncation.

    A token is the first whose cumulated probability, in the order of ids, exceeds the number.

    >>> logits = torch.log(torch.tensor([[0.5, 0.2, 0.3]] * 2))
    >>> tokens, logp, sent = draw(logits, [0.4, 0.8], Truncation(top_p=0.7))
    >>> tokens, logp.exp(), sent.exp()
    (tensor([0, 2]), tensor([0.5000, 0.3000]), tensor([0.6250, 0.3750]))
    """
    logp = logits.float().log_softmax(1)
    if truncation.temperature == 0:
        tokens = logp.argmax(1)
        return tokens, logp.gather(1, tokens[:, None])[:, 0], torch.zeros_like(logp[:, 0])
    sent = logp if truncation.temperature == 1 else (logp / truncation.temperature).log_softmax(1)
    if truncation.top_p < 1:
        ordered, order = sent.sort(dim=1, descending=True, stable=True)
        before = ordered.exp().cumsum(1) - ordered.exp()
        outside = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= truncation.top_p)
        sent = sent.masked_fill(outside, -torch.inf).log_softmax(1)
    cumulated = sent.double().exp().cumsum(1)
    share = torch.as_tensor(numbers, dtype=torch.float64, device=logits.device).clamp(max=1 - 2**-40)  # rounding
    tokens = torch.searchsorted(cumulated, (share * cumulated[:, -1])[:, None], right=True)[:, 0]
    return tokens, logp.gather(1, tokens[:, None])[:, 0], sent.gather(1, tokens[:, None])[:, 0]


class _Decoder:
    """A batch of sequences with their keys and values, one prompt computed for its n answers.

    Finished answers stay in the cache until they are half of it, as leaving them out copies the cache.
    """

    def __init__(self, model: nn.Module, prompts: Sequence[Ids], n: int) -> None:
        self._model, self._given = model, new_cache(model)
        (self._cache,) = self._given.values()
        batch = pad(prompts, [()] * len(prompts), device_of(model))
        logits = self._run(batch.ids, batch.mask, batch.positions)
        self._cache.batch_repeat_interleave(n)
        self._mask = batch.mask.repeat_interleave(n, 0)
        self._next = batch.mask.sum(1).repeat_interleave(n)  # position of the next token
        self._rows = list(range(len(self._next)))  # the rows of the cache that hold unfinished answers
        self.logits = logits.repeat_interleave(n, 0)  # of unfinished answers, (rows, vocabulary)

    def advance(self, tokens: Sequence[int], left: Sequence[int]) -> None:
        """Append a token to each answer of `left`, indices of the answers that were unfinished before."""
        device = self._mask.device
        self._rows = [self._rows[i] for i in left]
        if 2 * len(left) <= len(self._mask):
            kept = torch.tensor(self._rows, device=device)
            self._cache.batch_select_indices(kept)
            self._mask, self._next = self._mask[kept], self._next[kept]
            self._rows = list(range(len(left)))
        where = torch.tensor(self._rows, device=device)
        ids = torch.zeros((len(self._mask), 1), dtype=torch.int64, device=device)
        ids[where, 0] = torch.tensor(tokens, device=device)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        self.logits = self._run(ids, self._mask, self._next[:, None])[where]
        self._next = self._next + 1

    @torch.inference_mode()
    def _run(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        given = self._given | {"use_cache": True, "logits_to_keep": 1}
        done = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, **given)
        logits: Tensor = done.logits[:, -1]
        return logits


def _check(
    model: nn.Module, prompts: Sequence[Ids], n: int, seeds: Sequence[int], truncation: Truncation, limit: int
) -> None:
    """Raise for requests that cannot be answered."""
    temperature, top_p = truncation
    if temperature < 0 or not 0 < top_p <= 1 or limit < 1 or n < 1:
        raise ConfigError(
            f"sampling: got temperature {temperature}, top_p {top_p}, limit {limit}, n {n}; expected temperature >= 0, "
            "0 < top_p <= 1, limit >= 1 and n >= 1"
        )
    if len(seeds) != len(prompts):
        raise ConfigError(f"sampling: got {len(seeds)} seeds for {len(prompts)} prompts; expected one for each")
    if model.training:
        raise ModelError("model: got one in training mode, in which dropout changes answers. Call model.eval()")
    room, longest = getattr(config_of(model), "max_position_embeddings", None), max(map(len, prompts), default=0)
    if not longest:
        raise InputError("prompts: got none; expected at least one with a token")
    if room is not None and longest + limit > room:
        raise InputError(
            f"prompt: got {longest} tokens, with up to {limit} for the answer; the model has room for {room}. Shorten "
            "the prompt or lower the limit"
        )
