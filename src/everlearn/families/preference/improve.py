"""Rounds of steps that improve a policy between labels, by a reward model or by judged pairs.

A round is a function of the policy's arrays, the arguments, and the number of labels learned so far: prompts, samples
and their order are drawn by counters. So it can be repeated, and gives the same bytes on the CPU.

Three things hold the policy back. Its KL divergence from the reference, in nats per answer, has a budget that grows
with the number of trusted labels; a step beyond it imitates answers of the reference instead, whatever their score. A
share of the candidates is the reference's, since a concentrated policy no longer samples what may turn out to be
better. And old prompts are used beside new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from everlearn._torch import Tensor
from everlearn.errors import InputError, ModelError
from everlearn.families.preference.methods import (
    Candidates,
    Hyperparameters,
    TokenPairs,
    UpdateMethod,
    imitate,
    method,
    referenced,
    silver,
    with_values,
)
from everlearn.families.preference.policy import Policy
from everlearn.families.preference.sampling import Sampled, Truncation, generate_many
from everlearn.families.preference.text import Ids
from everlearn.spec import NotNegative, Positive

Share = Annotated[float, Meta(ge=0, lt=1)]
_MOST = 20.0  # nats by which the reference may be above the policy in one answer, in k3
Reward = Callable[[list[Ids], list[Ids], NDArray[np.float32]], NDArray[np.floating]]


FREE = 0.1  # nats of KL divergence that need no evidence
LUCK = 2.0  # nats of evidence that labels at random ever exceed in at most one run of seven
LAG = 0.5  # nats below the bound of a round at which a policy takes more steps
MOVING = 0.25  # nats that a policy moves in the steps of a turn, or it is at rest
LIMIT = 64  # tokens of a candidate where no limit is known


class Improve(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of rounds.

    `method` is one of `methods.METHODS`. A round takes `steps` steps, each on `prompts` prompts, of which the share
    `old` was seen in earlier rounds, with `candidates` answers to each, of which the share `reference`, at least one,
    is the reference's. `passes` steps are taken on the same candidates. Candidates have at most `limit` tokens (0: 64;
    in a loop, `schema.answer_tokens`). Where the steps end more than half a nat below the bound, and the policy still
    moves, it takes as many again, up to `turns` times in all.

    `budget` bounds the KL divergence in nats per answer; each `ramp` trusted labels allow one nat (0: all of it from
    the start), and a policy that starts late moves no faster. Beyond a tenth of a nat, each nat needs `proof` nats of
    evidence that the reward predicts labels better than chance (0: none): the most that there ever was, less two nats.
    `beta` holds the policy to the reference (default: that of the method); `flip`, `clip` and `gamma` are numbers of
    some methods. `mix` is the weight of the loss of imitating given examples, which keep old skills.

    `rows` answers are computed at a time. `layers` are those whose hidden states are given to the reward (default: the
    middle and the last).
    """

    method: str = "bon"
    steps: Positive = 16
    turns: Positive = 2
    prompts: Positive = 16
    candidates: Annotated[int, Meta(ge=2)] = 8
    reference: Share = 0.25
    old: Share = 0.5
    budget: NotNegative = 6.0
    ramp: NotNegative = 16.0
    proof: NotNegative = 1.0
    beta: NotNegative | None = None
    flip: Annotated[float, Meta(ge=0, lt=0.5)] = 0.1
    clip: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    gamma: NotNegative = 1.0
    mix: NotNegative = 0.25
    limit: Annotated[int, Meta(ge=0)] = 0
    passes: Positive = 1
    rows: Positive = 64
    layers: tuple[int, ...] = ()


_Key = tuple[tuple[int, ...], tuple[int, ...]]  # the tokens of a prompt and of an answer
_Read = dict[_Key, tuple[np.float32, NDArray[np.float32]]]  # log-probability and features under the reference


class _Plan(NamedTuple):
    """The draws of a step, made before it begins: prompts, judged pairs, numbers of answers, and seeds.

    Each prompt gets `own` answers of the policy and `theirs` of the reference, drawn with a seed each. `draw` goes on
    from there.
    """

    prompts: list[Ids]
    judged: TokenPairs | None
    own: int
    theirs: int
    own_seeds: list[int]
    reference_seeds: list[int]
    draw: np.random.Generator


class _Reference(NamedTuple):
    """The reference's answers to the prompts of a step, and what it computes of those of all steps."""

    answers: list[list[Sampled]]
    read: _Read


class Round(NamedTuple):
    """Measurements of the policy's own candidates in a round, each the mean over its steps.

    `kl` and `entropy` are in nats per answer, `length` is in tokens, `distinct` is the share of a prompt's answers that
    differ, `cut` the share of answers that the limit ended. `reward` is the mean score, `held` the share of steps that
    were beyond the budget, `loss` the mean loss. `k3` is the KL divergence by the estimator k3, which is never negative
    (Schulman 2020), and `repetition` the share of trigrams of an answer that it holds already.
    """

    kl: float
    budget: float
    entropy: float
    distinct: float
    length: float
    cut: float
    reward: float
    held: float
    loss: float
    k3: float
    repetition: float


def allowed(settings: Improve, trusted: float, evidence: float = np.inf) -> float:
    """Return the KL divergence that so many trusted labels, and so much evidence in nats, allow, in nats per answer.

    Evidence is the most that the logarithm of an e-value has ever been. Labels at random ever bring it above x with
    probability exp(-x) at most. So one run in seven has more than `LUCK` by luck, and only evidence beyond it counts.

    >>> [allowed(Improve(budget=6.0, ramp=16.0), trusted) for trusted in (0, 32, 1000)]
    [0.0, 2.0, 6.0]
    >>> [allowed(Improve(proof=2.0), 1000, evidence) for evidence in (0.5, 4.0, 99.0)]
    [0.1, 1.1, 6.0]
    """
    most = min(settings.budget, trusted / settings.ramp) if settings.ramp else settings.budget
    return min(most, FREE + max(0.0, evidence - LUCK) / settings.proof) if settings.proof else most


def unproven(settings: Improve, trusted: float, evidence: float) -> bool:
    """Return True if more evidence would let the policy move farther, as `allowed` says.

    >>> [unproven(Improve(), trusted, 3.0) for trusted in (0, 8, 64)]
    [False, False, True]
    """
    return allowed(settings, trusted, evidence) < allowed(settings, trusted)


def improve(
    policy: Policy,
    prompts: Sequence[Ids],
    reward: Reward,
    settings: Improve,
    *,
    labels: int,
    trusted: float | None = None,
    evidence: float = np.inf,
    stride: float = np.inf,
    old: Sequence[Ids] = (),
    pairs: TokenPairs | None = None,
    examples: Sequence[tuple[Ids, Ids]] = (),
    stop: Sequence[int] = (),
    seed: int = 0,
) -> Round:
    """Take a round of steps, and return what was measured.

    `reward` maps the ids of prompts, the ids of answers, and features float32 (n, d) of the frozen reference to scores
    (n,), larger for better, in logits. It is asked once a step, about answers that all differ. `labels` is the number
    learned so far; `trusted` that of trusted ones (default: all), and `evidence` as in `allowed`. The policy moves
    `stride` nats farther at most. `pairs` are judged pairs for the methods that learn from them; without any, the
    reward labels pairs of candidates. `examples` are prompts with answers to imitate in all steps, as Ouyang et al.
    2022 mix old data in (arXiv 2203.02155, eq. 2). `stop` tokens end an answer.

    Raises `InputError` without prompts, `ConfigError` for an unknown method, `ModelError` for scores that are not
    finite or of another shape.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> sizes = {"vocab_size": 9, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
    >>> model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    >>> policy, settings = Policy(model, optimizer={"lr": 0.02}), Improve(prompts=4, limit=4)
    >>> fives = lambda prompts, answers, features: np.array([answer.count(5) for answer in answers])
    >>> rounds = [improve(policy, [[1], [2]], fives, settings, labels=32 * i) for i in (1, 2)]
    >>> rounds[1].reward > 4 * 4 / 9, rounds[1].budget  # four tokens of nine: 4 / 9 by chance
    (True, 4.0)
    """
    if not prompts:
        raise InputError("prompts: got none; expected at least one")
    chosen = method(settings.method)
    budget = allowed(settings, labels if trusted is None else trusted, evidence)
    judged = pairs if chosen.kind == "pairs" else None
    bound, measured = budget, list[Round]()
    for turn in range(settings.turns):
        keys = [[seed, labels, turn * settings.steps + number] for number in range(settings.steps)]
        plans = [_plan(policy, prompts, old, judged, settings, key) for key in keys]
        measured = []
        for plan, theirs in zip(plans, _of_reference(policy, plans, settings, stop), strict=True):
            candidates = _sampled(policy, plan, theirs, reward, settings, stop)
            if not turn and not measured:
                bound = min(budget, candidates.kl + stride)
            held = candidates.kl > bound
            loss = _step(policy, plan, candidates, settings, examples, held)
            measured.append(_measured(candidates, budget, held, loss))
        if judged is not None or not _behind(measured, bound):
            break
    return Round(*(float(one) for one in np.mean(np.array(measured), axis=0)))


def _step(
    policy: Policy,
    plan: _Plan,
    candidates: Candidates,
    settings: Improve,
    examples: Sequence[tuple[Ids, Ids]],
    held: bool,
) -> float:
    """Take a step on candidates, towards the reference if `held`; return the loss of its last pass."""
    chosen = method(settings.method)
    beta = chosen.beta if settings.beta is None else settings.beta
    dials = Hyperparameters(beta, settings.flip, settings.clip, settings.gamma, settings.rows)
    if policy.head is not None:
        candidates = with_values(policy, candidates, settings.rows)
    some = plan.draw.permutation(len(examples))[: settings.prompts if settings.mix else 0]
    taught, answers = [examples[i][0] for i in some], [examples[i][1] for i in some]
    loss = 0.0
    for _ in range(settings.passes):
        kept = imitate(policy, taught, answers, dials.rows, settings.mix)
        loss = policy.step(chain(_losses(policy, candidates, chosen, dials, held, plan.judged), kept))
    return loss


def _behind(steps: Sequence[Round], bound: float) -> bool:
    """Return True if the policy is more than `LAG` below the bound of the round after these steps, and moves to it."""
    part = max(1, len(steps) // 4)
    first, last = (float(np.mean([one.kl for one in some])) for some in (steps[:part], steps[-part:]))
    return last < bound - LAG and last > first + MOVING


def _losses(
    policy: Policy,
    candidates: Candidates,
    chosen: UpdateMethod,
    dials: Hyperparameters,
    held: bool,
    pairs: TokenPairs | None,
) -> Iterator[Tensor]:
    """Return the losses of a step: towards the reference where the policy is beyond the budget, else by the method."""
    if held:
        own = candidates.own
        return imitate(policy, candidates.prompts, [group[own].ids for group in candidates.answers], dials.rows)
    if chosen.rewards is not None:
        return chosen.rewards(policy, candidates, dials)
    assert chosen.pairs is not None
    return chosen.pairs(policy, silver(candidates) if pairs is None else pairs, dials)


def _picked(prompts: Sequence[Ids], old: Sequence[Ids], settings: Improve, draw: np.random.Generator) -> list[Ids]:
    """Return the prompts of a step: all different where there are enough."""
    again = round(settings.prompts * settings.old) if old else 0
    found: list[Ids] = []
    for pool, count in ((prompts, settings.prompts - again), (old, again)):
        while count > 0:
            order = draw.permutation(len(pool))[:count]
            found += [pool[i] for i in order]
            count -= len(order)
    return found


def _some(policy: Policy, pairs: TokenPairs | None, settings: Improve, draw: np.random.Generator) -> TokenPairs | None:
    """Return as many of the judged pairs as a step has prompts, with what the reference makes of them; None if none."""
    if pairs is None or not pairs.prompts:
        return None
    rows = draw.permutation(len(pairs.prompts))[: settings.prompts]
    prompts, first, second = ([one[i] for i in rows] for one in (pairs.prompts, pairs.first, pairs.second))
    return referenced(policy, TokenPairs(prompts, first, second, *(one[rows] for one in pairs[3:])), settings.rows)


def _plan(
    policy: Policy,
    prompts: Sequence[Ids],
    old: Sequence[Ids],
    pairs: TokenPairs | None,
    settings: Improve,
    key: Sequence[int],
) -> _Plan:
    """Draw all of a step that does not depend on the policy."""
    draw = np.random.default_rng(key)
    picked = _picked(prompts, old, settings, draw)
    judged = _some(policy, pairs, settings, draw)
    count = settings.candidates if judged is None else 3  # enough to be measured
    theirs = max(1, round(count * settings.reference))
    seeds = draw.integers(2**62, size=(2, len(picked))).tolist()
    return _Plan(picked, judged, max(2, count - theirs), theirs, seeds[0], seeds[1], draw)


def _of_reference(
    policy: Policy, plans: Sequence[_Plan], settings: Improve, stop: Sequence[int]
) -> Iterator[_Reference]:
    """Yield the answers of the reference for each step.

    The reference does not move, so that its answers for all steps are sampled and read together.
    """
    prompts = [prompt for plan in plans for prompt in plan.prompts]
    seeds = [seed for plan in plans for seed in plan.reference_seeds]
    with policy.reference():
        answers = _answers(policy, prompts, plans[0].theirs, seeds, settings, stop)
    read = _read(policy, prompts, answers, settings)
    for start in range(0, len(answers), len(plans[0].prompts)):
        yield _Reference(answers[start : start + len(plans[0].prompts)], read)


def _read(policy: Policy, prompts: Sequence[Ids], answers: Sequence[Sequence[Sampled]], settings: Improve) -> _Read:
    """Compute the different answers under the reference."""
    different = dict.fromkeys(_keys(prompts, answers))
    found = policy.read(
        [prompt for prompt, _ in different],
        [ids for _, ids in different],
        layers=settings.layers,
        rows=settings.rows,
    )
    return dict(zip(different, zip(found.logp, found.features, strict=True), strict=True))


def _keys(prompts: Sequence[Ids], answers: Sequence[Sequence[Sampled]]) -> list[_Key]:
    """Return what tells answers apart: the tokens of the prompt and the answer, of all answers in order."""
    return [(tuple(prompt), one.ids) for prompt, group in zip(prompts, answers, strict=True) for one in group]


def _sampled(
    policy: Policy, plan: _Plan, theirs: _Reference, reward: Reward, settings: Improve, stop: Sequence[int]
) -> Candidates:
    """Sample answers of the policy beside those of the reference, and score them."""
    prompts, own = plan.prompts, plan.own
    sampled = _answers(policy, prompts, own, plan.own_seeds, settings, stop)
    answers = [one + other for one, other in zip(sampled, theirs.answers, strict=True)]
    known = theirs.read
    fresh = [
        [one for one in group if (tuple(p), one.ids) not in known] for p, group in zip(prompts, sampled, strict=True)
    ]
    if any(fresh):
        known = known | _read(policy, prompts, fresh, settings)
    keys = _keys(prompts, answers)
    numbers: dict[_Key, int] = {}  # of different answers: each is scored once
    where = np.array([numbers.setdefault(key, len(numbers)) for key in keys]).reshape(len(prompts), -1)
    features = np.stack([known[key][1] for key in numbers])
    scores = np.asarray(reward([key[0] for key in numbers], [key[1] for key in numbers], features), np.float32)
    if scores.shape != (len(numbers),) or not np.isfinite(scores).all():
        raise ModelError(
            f"reward: got scores of shape {scores.shape}; expected {len(numbers)} finite numbers, one an answer"
        )
    reference = np.array([known[key][0] for key in numbers], np.float32)[where]
    logp = np.array([[sum(one.logp) for one in group[:own]] for group in answers])
    kl = float((logp - reference[:, :own]).mean())
    return Candidates(prompts, answers, own, scores[where], reference, kl)


def _answers(
    policy: Policy, prompts: list[Ids], n: int, seeds: list[int], settings: Improve, stop: Sequence[int]
) -> list[list[Sampled]]:
    """Sample n answers to each prompt at temperature 1, as the module computes now."""
    found: list[list[Sampled]] = []
    size = max(1, settings.rows // n)
    for at in range(0, len(prompts), size):
        part, own = prompts[at : at + size], seeds[at : at + size]
        found += generate_many(
            policy.module, part, n, seeds=own, truncation=Truncation(), limit=settings.limit or LIMIT, stop=stop
        )
    return found


def _measured(candidates: Candidates, budget: float, held: bool, loss: float) -> Round:
    """Measure the policy's candidates of one step."""
    own = [group[: candidates.own] for group in candidates.answers]
    flat = [one for group in own for one in group]
    behind = candidates.reference[:, : candidates.own] - np.array([[sum(one.logp) for one in group] for group in own])
    return Round(
        kl=candidates.kl,
        budget=budget,
        entropy=float(np.mean([-sum(one.logp) for one in flat])),
        distinct=float(np.mean([len({one.ids for one in group}) / len(group) for group in own])),
        length=float(np.mean([len(one.ids) for one in flat])),
        cut=float(np.mean([one.cut for one in flat])),
        reward=float(candidates.scores[:, : candidates.own].mean()),
        held=float(held),
        loss=loss,
        k3=float(np.mean(np.exp(np.minimum(behind, _MOST)) - 1.0 - behind)),
        repetition=float(np.mean([repeated(one.ids) for one in flat])),
    )


def repeated(ids: Ids) -> float:
    """Return the share of an answer's trigrams that it holds already; 0 for an answer of fewer than 3 tokens.

    >>> repeated([5, 6, 7, 5, 6, 7, 5, 6])
    0.5
    """
    trigrams = [tuple(ids[at : at + 3]) for at in range(len(ids) - 2)]
    return 1.0 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0
