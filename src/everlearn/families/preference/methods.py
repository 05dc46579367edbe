"""The ways in which a policy learns: each turns answers with rewards, or judged pairs, into losses.

`METHODS` names them. A method of kind "rewards" learns from candidates that were just sampled and scored. A method of
kind "pairs" learns from judged pairs, or, without any, from pairs of candidates with the reward model's probability as
a soft label: hard labels of a reward model make the policy collapse.

Losses are yielded in pieces that add up to a mean, so that a step needs memory for a few answers at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._torch import Tensor, torch
from everlearn.errors import ConfigError, did_you_mean
from everlearn.families.preference import losses
from everlearn.families.preference.passes import logprobs, token_logprobs, token_states
from everlearn.families.preference.policy import Policy
from everlearn.families.preference.sampling import Sampled
from everlearn.families.preference.text import Ids, device_of

Floats = NDArray[np.float32]


class Hyperparameters(NamedTuple):
    """Numbers of a method: `beta` holds the policy to the reference, `flip` is the rate of wrong labels, `clip` bounds
    ratios and moves of values, `gamma` is the margin of SimPO. `rows` answers are computed at a time."""

    beta: float
    flip: float = 0.1
    clip: float = 0.2
    gamma: float = 1.0
    rows: int = 64


class Candidates(NamedTuple):
    """Answers to p prompts: n of the policy, then m of the reference, with `scores` and `reference` float32 (p, n + m).

    `reference` is the log-probability under the reference, and `kl` the mean log-ratio of the policy's answers.
    `values` are those of the value head before the update, for each token of the policy's answers, where there is one.
    """

    prompts: list[Ids]
    answers: list[list[Sampled]]
    own: int
    scores: Floats
    reference: Floats
    kl: float
    values: tuple[Tensor, ...] = ()


class TokenPairs(NamedTuple):
    """Judged pairs. All arrays have shape (n,); `preferred` is 1 for the first answer, 0 for the second, .5 for a tie.

    `reference_first` and `reference_second` are log-probabilities under the reference, NaN where unknown.
    `reliability` is the probability that the annotator of each label is right. Where `second` has no tokens, the first
    answer alone was judged, 1 for a thumb up and 0 for down; only KTO learns from it.
    """

    prompts: list[Ids]
    first: list[Ids]
    second: list[Ids]
    preferred: Floats
    reference_first: Floats
    reference_second: Floats
    weight: Floats
    reliability: Floats


Learns = Callable[[Policy, Candidates, Hyperparameters], Iterator[Tensor]]
LearnsPairs = Callable[[Policy, TokenPairs, Hyperparameters], Iterator[Tensor]]


class UpdateMethod(NamedTuple):
    """A method, with the `beta` it has unless another is given."""

    kind: Literal["rewards", "pairs"]
    beta: float
    rewards: Learns | None = None
    pairs: LearnsPairs | None = None


def method(name: str) -> UpdateMethod:
    """Return a method. Raises `ConfigError` for an unknown one.

    >>> method("bon").kind, method("dpo").beta
    ('rewards', 0.1)
    """
    if name not in METHODS:
        raise ConfigError(
            f"improve.method: got {name!r}; expected one of {', '.join(METHODS)}{did_you_mean(name, METHODS)}"
        )
    return METHODS[name]


def silver(candidates: Candidates) -> TokenPairs:
    """Return the policy's candidates in pairs, preferred with the Bradley-Terry probability of their scores."""
    places = [(i, j) for i in range(len(candidates.prompts)) for j in range(0, candidates.own - 1, 2)]
    row, first = (np.array(one) for one in zip(*places, strict=True))
    gap = candidates.scores[row, first].astype(np.float64) - candidates.scores[row, first + 1]
    ones = np.ones(len(places), np.float32)
    return TokenPairs(
        [candidates.prompts[i] for i, _ in places],
        [candidates.answers[i][j].ids for i, j in places],
        [candidates.answers[i][j + 1].ids for i, j in places],
        (1 / (1 + np.exp(-gap.clip(-50, 50)))).astype(np.float32),
        candidates.reference[row, first],
        candidates.reference[row, first + 1],
        ones,
        ones,
    )


def referenced(policy: Policy, pairs: TokenPairs, rows: int) -> TokenPairs:
    """Return pairs whose log-probabilities under the reference are all known: those that are NaN are computed."""
    known = []
    for answers, given in ((pairs.first, pairs.reference_first), (pairs.second, pairs.reference_second)):
        unknown = np.flatnonzero(np.isnan(given))
        if len(unknown):
            given = given.copy()
            texts = [pairs.prompts[i] for i in unknown], [answers[i] for i in unknown]
            given[unknown] = policy.read(*texts, rows=rows).logp
        known.append(given)
    return pairs._replace(reference_first=known[0], reference_second=known[1])


def with_values(policy: Policy, candidates: Candidates, rows: int) -> Candidates:
    """Return candidates with what the value head predicts now."""
    assert policy.head is not None
    with torch.no_grad():
        return candidates._replace(
            values=tuple(policy.head(group.states)[..., 0] * group.mask for group in _groups(policy, candidates, rows))
        )


# ---- rewards -------------------------------------------------------------------------------------------------------


def best_of_n(policy: Policy, candidates: Candidates, dials: Hyperparameters) -> Iterator[Tensor]:
    """Yield the losses of imitating the best candidate of each prompt, of the policy or of the reference.

    The best has the highest score minus `beta` times the log-ratio of the policy to the reference. Without that leash
    the policy runs after whatever the reward overrates. With it, the policy is at rest where it is the reference
    weighted by exp(score / beta): there all candidates are equally good, and imitation changes nothing on average.
    """
    scores = candidates.scores
    if dials.beta:
        scores = scores - dials.beta * (_logp(policy, candidates, dials.rows) - candidates.reference)
    best = scores.argmax(1)
    chosen: list[Ids] = [answers[i].ids for answers, i in zip(candidates.answers, best, strict=True)]
    yield from imitate(policy, candidates.prompts, chosen, dials.rows)


def _logp(policy: Policy, candidates: Candidates, rows: int) -> Floats:
    """Return the log-probabilities of all candidates under the policy, (p, n + m); its own were known when sampled."""
    own = np.array([[sum(one.logp) for one in answers[: candidates.own]] for answers in candidates.answers], np.float32)
    prompts: list[Ids] = []
    others: list[Ids] = []
    for prompt, answers in zip(candidates.prompts, candidates.answers, strict=True):
        prompts += [prompt] * (len(answers) - candidates.own)
        others += [one.ids for one in answers[candidates.own :]]
    with torch.no_grad():
        found = [logprobs(policy.module, prompts[part], others[part]).cpu() for part in _slices(len(others), rows)]
    return np.concatenate([own, torch.cat(found).numpy().reshape(len(own), -1)], 1)


def imitate(policy: Policy, prompts: list[Ids], answers: list[Ids], rows: int, weight: float = 1.0) -> Iterator[Tensor]:
    """Yield the losses of imitating answers: cross-entropy summed over tokens, averaged over answers, weighted."""
    for part in _slices(len(answers), rows):
        yield -logprobs(policy.module, prompts[part], answers[part]).sum() * (weight / len(answers))


def _regression(policy: Policy, candidates: Candidates, dials: Hyperparameters) -> Iterator[Tensor]:
    pairs = silver(candidates)
    own = candidates.scores[:, : candidates.own // 2 * 2].reshape(-1, 2)
    for part in _slices(len(pairs.prompts), max(1, dials.rows // 2)):
        logp, reference = _both(policy, pairs, part)
        rewards = torch.from_numpy(own[part]).to(logp.device).unbind(1)
        yield losses.regression(*logp, *reference, *rewards, beta=dials.beta).sum() / len(own)


def _one_of_n(policy: Policy, candidates: Candidates, dials: Hyperparameters) -> Iterator[Tensor]:
    """Yield the losses of choices among a prompt's candidates, with the reward's probabilities as soft labels."""
    for group in _groups(policy, candidates, dials.rows):
        implicit = dials.beta * (group.logp.sum(-1) - group.reference)
        yield losses.plackett_luce(implicit, group.scores.softmax(1)).sum() / len(candidates.prompts)


def _rloo(policy: Policy, candidates: Candidates, dials: Hyperparameters) -> Iterator[Tensor]:
    for group in _groups(policy, candidates, dials.rows):
        logp, reference = group.logp.sum(-1), group.reference
        behaviour = group.behaviour.sum(-1)
        rewards = losses.leashed(group.scores, behaviour, reference, beta=dials.beta)
        loss = losses.rloo(logp, behaviour, rewards, clip=dials.clip)
        yield loss.sum() / candidates.scores[:, : candidates.own].size


def _grpo(policy: Policy, candidates: Candidates, dials: Hyperparameters) -> Iterator[Tensor]:
    for group in _groups(policy, candidates, dials.rows):
        given = (group.logp, group.behaviour, _tokens_of_reference(policy, group), group.scores, group.mask.float())
        loss = losses.grpo(*given, beta=dials.beta, clip=dials.clip)
        yield loss.sum() / candidates.scores[:, : candidates.own].size


def _ppo(policy: Policy, candidates: Candidates, dials: Hyperparameters) -> Iterator[Tensor]:
    """Yield losses of policy and value head; the reward of an answer comes with its last token, the leash with each."""
    if policy.head is None:
        raise ConfigError(
            "improve.method: got 'ppo' for a policy without a value head; build the policy with value=True"
        )
    for group, before in zip(_groups(policy, candidates, dials.rows), candidates.values, strict=True):
        reference, mask = _tokens_of_reference(policy, group), group.mask.float().flatten(0, 1)
        logp, behaviour = group.logp.flatten(0, 1), group.behaviour.flatten(0, 1)
        rewards = losses.leashed(torch.zeros_like(logp), behaviour, reference.flatten(0, 1), beta=dials.beta) * mask
        rewards[:, -1] += group.scores.flatten()
        values = policy.head(group.states.flatten(0, 1))[..., 0] * mask
        advantages, targets = losses.gae(rewards, before.flatten(0, 1), mask)
        loss = losses.ppo(logp, behaviour, advantages, mask, clip=dials.clip)
        loss = loss + losses.value(values, before.flatten(0, 1), targets, mask, clip=dials.clip)
        yield loss.sum() / candidates.scores[:, : candidates.own].size


class _Group(NamedTuple):
    """The policy's answers to some prompts: tensors (p, n, t), but scores and reference (p, n), states (p, n, t, d)."""

    prompts: list[Ids]
    answers: list[Ids]
    logp: Tensor
    behaviour: Tensor
    mask: Tensor
    states: Tensor
    scores: Tensor
    reference: Tensor


def _groups(policy: Policy, candidates: Candidates, rows: int) -> Iterator[_Group]:
    """Yield the policy's answers, some prompts at a time, with log-probabilities now and when they were sampled."""
    own, device = candidates.own, device_of(policy.module)
    for part in _slices(len(candidates.prompts), max(1, rows // own)):
        sampled = [one for answers in candidates.answers[part] for one in answers[:own]]
        prompts = [prompt for prompt in candidates.prompts[part] for _ in range(own)]
        ids: list[Ids] = [one.ids for one in sampled]
        logp, mask, states = token_states(policy.module, prompts, ids)
        width = mask.shape[1]
        behaviour = torch.tensor([[0.0] * (width - len(one.logp)) + list(one.logp) for one in sampled], device=device)
        shape = (len(sampled) // own, own, width)
        scores, reference = (
            torch.from_numpy(one[part, :own].copy()).to(device) for one in (candidates.scores, candidates.reference)
        )
        held = (logp.view(shape), behaviour.view(shape), mask.view(shape), states.view(*shape, -1))
        yield _Group(prompts, ids, *held, scores, reference)


def _tokens_of_reference(policy: Policy, group: _Group) -> Tensor:
    """Return the log-probability of each token under the reference, (p, n, t).

    The graph of the policy's pass refers to weights, not to values: these are back before gradients are computed.
    """
    with policy.reference() as module, torch.no_grad():
        return token_logprobs(module, group.prompts, group.answers)[0].view(group.logp.shape)


# ---- pairs ---------------------------------------------------------------------------------------------------------


def _symmetric(loss: Callable[..., Tensor], lengths: bool, reference: bool = True) -> Callable[..., Iterator[Tensor]]:
    """Return a method that weighs a loss of (chosen, rejected) by the label, and that of the reverse by the rest."""

    def learns(policy: Policy, pairs: TokenPairs, dials: Hyperparameters) -> Iterator[Tensor]:
        for part in _slices(len(pairs.prompts), max(1, dials.rows // 2)):
            (a, b), (ref_a, ref_b) = _both(policy, pairs, part)
            label, weight, sizes = _labels(pairs, part, a.device)
            forward = [a, b, *((ref_a, ref_b) if reference else ()), *(sizes if lengths else ())]
            back = [b, a, *((ref_b, ref_a) if reference else ()), *(reversed(sizes) if lengths else ())]
            each = label * loss(*forward, dials) + (1 - label) * loss(*back, dials)
            yield (weight * (sizes[1] > 0) * each).sum() / len(pairs.prompts)

    return learns


def _annotators(policy: Policy, pairs: TokenPairs, dials: Hyperparameters) -> Iterator[Tensor]:
    for part in _slices(len(pairs.prompts), max(1, dials.rows // 2)):
        (a, b), (ref_a, ref_b) = _both(policy, pairs, part)
        label, weight, sizes = _labels(pairs, part, a.device)
        q = torch.from_numpy(pairs.reliability[part]).to(a.device)
        forward = losses.annotator_dpo(a, b, ref_a, ref_b, q, beta=dials.beta)
        back = losses.annotator_dpo(b, a, ref_b, ref_a, q, beta=dials.beta)
        yield (weight * (sizes[1] > 0) * (label * forward + (1 - label) * back)).sum() / len(pairs.prompts)


def _kto(policy: Policy, pairs: TokenPairs, dials: Hyperparameters) -> Iterator[Tensor]:
    """Yield losses of each answer as one with a thumb; an answer to the next prompt is the mismatched one."""
    others = pairs.first[1:] + pairs.first[:1]
    zeros = [_mismatched(policy, pairs, others, part) for part in _slices(len(others), dials.rows)]
    mismatched, reference_mismatched = (torch.cat(one) for one in zip(*zeros, strict=True))
    for part in _slices(len(pairs.prompts), max(1, dials.rows // 2)):
        logp, reference = _both(policy, pairs, part)
        label, weight, sizes = _labels(pairs, part, logp.device)
        both = (logp.flatten(), reference.flatten(), torch.cat([label, 1 - label]))
        each = losses.kto(*both, mismatched, reference_mismatched, beta=dials.beta).view(2, -1)
        yield (weight * (each[0] + (sizes[1] > 0) * each[1])).sum() / len(pairs.prompts)


def _mismatched(policy: Policy, pairs: TokenPairs, others: list[Ids], part: slice) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of answers to other prompts, under the policy and under the reference."""
    with torch.no_grad():
        logp = logprobs(policy.module, pairs.prompts[part], others[part])
        with policy.reference() as module:
            return logp, logprobs(module, pairs.prompts[part], others[part])


def _both(policy: Policy, pairs: TokenPairs, part: slice) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of both answers under the policy and under the reference, each (2, n)."""
    prompts, answers = pairs.prompts[part], [*pairs.first[part], *pairs.second[part]]
    logp = logprobs(policy.module, [*prompts, *prompts], answers).view(2, -1)
    reference = torch.from_numpy(np.stack([pairs.reference_first[part], pairs.reference_second[part]]))
    return logp, reference.to(logp.device)


def _labels(pairs: TokenPairs, part: slice, device: torch.device) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return labels, weights, and the numbers of tokens of both answers."""
    label, weight = (torch.from_numpy(one[part]).to(device) for one in (pairs.preferred, pairs.weight))
    first, second = (
        torch.tensor([len(answer) for answer in one[part]], device=device) for one in (pairs.first, pairs.second)
    )
    return label, weight, (first, second)


def _slices(count: int, size: int) -> Sequence[slice]:
    return [slice(at, at + size) for at in range(0, count, size)]


METHODS: dict[str, UpdateMethod] = {
    "bon": UpdateMethod("rewards", 0.3, rewards=best_of_n),
    "regression": UpdateMethod("rewards", 0.25, rewards=_regression),
    "plackett_luce": UpdateMethod("rewards", 0.1, rewards=_one_of_n),
    "rloo": UpdateMethod("rewards", 0.25, rewards=_rloo),
    "grpo": UpdateMethod("rewards", 0.04, rewards=_grpo),
    "ppo": UpdateMethod("rewards", 0.05, rewards=_ppo),
    "dpo": UpdateMethod("pairs", 0.1, pairs=_symmetric(lambda *x: losses.dpo(*x[:-1], beta=x[-1].beta), False)),
    "cdpo": UpdateMethod(
        "pairs", 0.1, pairs=_symmetric(lambda *x: losses.cdpo(*x[:-1], beta=x[-1].beta, flip=x[-1].flip), False)
    ),
    "rdpo": UpdateMethod(
        "pairs", 0.1, pairs=_symmetric(lambda *x: losses.rdpo(*x[:-1], beta=x[-1].beta, flip=x[-1].flip), False)
    ),
    "annotators": UpdateMethod("pairs", 0.1, pairs=_annotators),
    "normalised": UpdateMethod(
        "pairs", 5.0, pairs=_symmetric(lambda *x: losses.normalised_dpo(*x[:-1], beta=x[-1].beta), True)
    ),
    "ipo": UpdateMethod("pairs", 0.1, pairs=_symmetric(lambda *x: losses.ipo(*x[:-1], beta=x[-1].beta), True)),
    "simpo": UpdateMethod(
        "pairs",
        2.0,
        pairs=_symmetric(lambda *x: losses.simpo(*x[:-1], beta=x[-1].beta, gamma=x[-1].gamma), True, reference=False),
    ),
    "kto": UpdateMethod("pairs", 0.1, pairs=_kto),
}
