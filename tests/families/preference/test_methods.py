"""Gradients of the methods, by hand and however the answers are cut into pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.families.preference import methods
from everlearn.families.preference.methods import METHODS, Candidates, Hyperparameters, TokenPairs
from everlearn.families.preference.passes import logprobs, read_answers, token_logprobs
from everlearn.families.preference.policy import Policy
from everlearn.families.preference.sampling import generate_many
from tests.support.tiny_lms import tiny

PROMPTS = [[1, 2, 3], [4], [5, 6]]
STOP = tuple(range(30, 50))
OWN, ALL = 4, 5


def moved(value: bool = False) -> Policy:
    """A policy a few steps away from its reference, so that no ratio is 1."""
    policy = Policy(tiny("llama"), optimizer={"name": "sgd", "lr": 0.02}, value=value)
    for _ in range(3):
        policy.step([logprobs(policy.module, PROMPTS, [[7, 8], [9], [10]]).sum()])
    return policy


def sampled(policy: Policy) -> Candidates:
    answers = generate_many(policy.module, PROMPTS, ALL, seeds=[1, 2, 3], limit=5, stop=STOP)
    asked = [prompt for prompt in PROMPTS for _ in range(ALL)]
    with policy.reference() as module:
        reference = read_answers(module, asked, [one.ids for group in answers for one in group]).logp
    scores = np.random.default_rng(0).normal(size=(3, ALL)).astype(np.float32)
    found = Candidates(PROMPTS, answers, OWN, scores, reference.reshape(3, ALL), 0.0)
    return methods.with_values(policy, found, 64) if policy.head is not None else found


def losses_of(policy: Policy, name: str, candidates: Candidates, rows: int) -> tuple[float, list[torch.Tensor]]:
    """The loss of a method, and its gradients."""
    chosen = methods.method(name)
    dials = Hyperparameters(chosen.beta, rows=rows)
    policy.module.zero_grad()
    if chosen.rewards is not None:
        if policy.head is not None:
            candidates = methods.with_values(policy, candidates, rows)
        pieces = chosen.rewards(policy, candidates, dials)
    else:
        assert chosen.pairs is not None
        pieces = chosen.pairs(policy, methods.silver(candidates), dials)
    total = 0.0
    for piece in pieces:
        piece.backward()
        total += float(piece.detach())
    gradients = [weight.grad for weight in policy.module.parameters() if weight.grad is not None]
    return total, [one.clone() for one in gradients]


@pytest.mark.parametrize("name", METHODS)
def test_pieces_do_not_change_a_step(name: str) -> None:
    policy = moved(value=name == "ppo")
    candidates = sampled(policy)
    total, gradients = losses_of(policy, name, candidates, 1000)
    again, pieces = losses_of(policy, name, candidates, 2)
    assert again == pytest.approx(total, rel=1e-4, abs=1e-5)
    assert any(bool(one.abs().max() > 1e-6) for one in gradients)
    for one, other in zip(gradients, pieces, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def by_hand(policy: Policy, loss: torch.Tensor) -> list[torch.Tensor]:
    policy.module.zero_grad()
    loss.backward()
    return [weight.grad.clone() for weight in policy.module.parameters() if weight.grad is not None]


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_best_of_n_imitates_the_best_of_all_candidates_with_sums_over_tokens() -> None:
    policy = moved()
    candidates = sampled(policy)
    policy.module.zero_grad()
    for piece in methods.best_of_n(policy, candidates, methods.Hyperparameters(beta=0.0)):
        piece.backward()
    found = [weight.grad.clone() for weight in policy.module.parameters() if weight.grad is not None]
    best = [group[int(i)].ids for group, i in zip(candidates.answers, candidates.scores.argmax(1), strict=True)]
    loss = torch.zeros(())
    for prompt, answer in zip(PROMPTS, best, strict=True):
        logits = policy.module(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
        targets = torch.tensor(answer)
        loss = loss + torch.nn.functional.cross_entropy(logits[len(prompt) - 1 : -1], targets, reduction="sum")
    same(found, by_hand(policy, loss / 3))


def test_best_of_n_is_held_by_its_log_ratio_to_the_reference() -> None:
    policy = moved()
    candidates = sampled(policy)
    answers = [one.ids for group in candidates.answers for one in group]
    prompts = [prompt for prompt, group in zip(PROMPTS, candidates.answers, strict=True) for _ in group]
    logp = logprobs(policy.module, prompts, answers).detach().numpy().reshape(candidates.scores.shape)
    flat = candidates._replace(scores=0 * candidates.scores)  # only the leash chooses
    chosen = (candidates.reference - logp).argmax(1)
    expected = -sum(logp[i, one] for i, one in enumerate(chosen)) / len(chosen)
    loss = sum(
        float(piece.detach()) for piece in methods.best_of_n(policy, flat, methods.Hyperparameters(beta=2.0, rows=2))
    )
    assert loss == pytest.approx(float(expected), rel=1e-4)


def test_silver_pairs_have_soft_labels() -> None:
    policy = moved()
    candidates = sampled(policy)
    pairs = methods.silver(candidates)
    assert len(pairs.prompts) == 6  # two pairs of the policy's four candidates, for each of three prompts
    expected = 1 / (1 + np.exp(candidates.scores[1, 1] - candidates.scores[1, 0]))
    assert pairs.preferred[2] == pytest.approx(float(expected))
    assert pairs.first[2] == candidates.answers[1][0].ids
    _, found = losses_of(policy, "dpo", candidates, 64)
    logp = logprobs(policy.module, pairs.prompts * 2, pairs.first + pairs.second).view(2, -1)
    ratio = 0.1 * (logp[0] - logp[1] - torch.from_numpy(pairs.reference_first - pairs.reference_second))
    label = torch.from_numpy(pairs.preferred)
    same(found, by_hand(policy, torch.nn.functional.binary_cross_entropy_with_logits(ratio, label)))


def test_group_methods_use_the_policys_candidates_alone() -> None:
    policy = moved()
    candidates = sampled(policy)
    other = candidates.scores.copy()
    other[:, OWN:] = 99.0
    for name in ("rloo", "grpo", "regression"):
        same(
            losses_of(policy, name, candidates, 64)[1],
            losses_of(policy, name, candidates._replace(scores=other), 64)[1],
        )


def test_rloo_is_reinforce_with_the_leash_in_the_reward() -> None:
    policy = moved()
    candidates = sampled(policy)
    _, found = losses_of(policy, "rloo", candidates, 64)
    flat = [one for group in candidates.answers for one in group[:OWN]]
    logp = logprobs(policy.module, [prompt for prompt in PROMPTS for _ in range(OWN)], [one.ids for one in flat]).view(
        3, OWN
    )
    reward = torch.from_numpy(candidates.scores[:, :OWN] + 0.25 * candidates.reference[:, :OWN]) - 0.25 * logp.detach()
    others = (reward.sum(1, keepdim=True) - reward) / (OWN - 1)
    same(found, by_hand(policy, -((reward - others) * logp).mean()))


def test_grpo_keeps_its_gradient_while_the_weights_of_the_reference_are_used() -> None:
    policy = moved()
    candidates = sampled(policy)
    _, found = losses_of(policy, "grpo", candidates, 64)
    flat = [(prompt, one) for prompt, group in zip(PROMPTS, candidates.answers, strict=True) for one in group[:OWN]]
    scores = torch.from_numpy(candidates.scores[:, :OWN])
    advantages = ((scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + 1e-4)).flatten()
    loss = torch.zeros(())
    for (prompt, one), advantage in zip(flat, advantages, strict=True):
        with policy.reference() as module, torch.no_grad():
            reference = token_logprobs(module, [prompt], [one.ids])[0][0]
        logp = token_logprobs(policy.module, [prompt], [one.ids])[0][0]
        ratio = (reference - logp).exp()
        loss = loss + (-advantage * (logp - torch.tensor(one.logp)).exp() + 0.04 * (ratio - 1 - ratio.log())).mean()
    same(found, by_hand(policy, loss / len(flat)))


def test_unknown_log_probabilities_of_the_reference_are_computed() -> None:
    policy = moved()
    pairs = methods.silver(sampled(policy))
    lost = pairs._replace(reference_first=pairs.reference_first.copy())
    lost.reference_first[[0, 3]] = np.nan
    found = methods.referenced(policy, lost, 64)
    np.testing.assert_allclose(found.reference_first, pairs.reference_first, atol=1e-5)
    assert found.reference_second is pairs.reference_second


def test_reliability_turns_labels_of_the_annotator_who_inverts_them() -> None:
    policy = moved()
    silver = methods.silver(sampled(policy))
    label = (silver.preferred > 0.5).astype(np.float32)
    chosen, dials = methods.method("annotators"), Hyperparameters(0.1)
    assert chosen.pairs is not None

    def gradients(pairs: TokenPairs) -> list[torch.Tensor]:
        return by_hand(policy, sum(chosen.pairs(policy, pairs, dials), torch.zeros(())))  # type: ignore[misc]

    right = gradients(silver._replace(preferred=label))
    same(gradients(silver._replace(preferred=1 - label, reliability=np.zeros(6, np.float32))), right)
    nothing = gradients(silver._replace(preferred=label, reliability=np.full(6, 0.5, np.float32)))
    assert max(float(one.abs().max()) for one in nothing) < 1e-6


def test_answers_judged_alone_teach_kto_only() -> None:
    policy = moved()
    silver = methods.silver(sampled(policy))
    lone = silver._replace(second=[()] * 6, preferred=np.array([1, 0, 1, 0, 0, 1], np.float32))
    lone = methods.referenced(policy, lone._replace(reference_second=np.full(6, np.nan, np.float32)), 64)
    for name in ("dpo", "simpo", "annotators"):
        chosen = methods.method(name)
        assert chosen.pairs is not None
        assert sum(float(one.detach()) for one in chosen.pairs(policy, lone, Hyperparameters(0.1))) == 0.0
    kto = methods.method("kto").pairs
    assert kto is not None
    found = by_hand(policy, sum(kto(policy, lone, Hyperparameters(0.1, rows=4)), torch.zeros(())))
    others = lone.first[1:] + lone.first[:1]
    gap = logprobs(policy.module, lone.prompts, others).detach() - torch.from_numpy(
        policy.read(lone.prompts, others).logp
    )
    ratio = logprobs(policy.module, lone.prompts, lone.first) - torch.from_numpy(lone.reference_first)
    gain = 0.1 * (ratio - gap.mean().clamp(min=0))
    up = torch.from_numpy(lone.preferred)
    same(found, by_hand(policy, (up * torch.sigmoid(-gain) + (1 - up) * torch.sigmoid(gain)).mean()))


def test_unknown_methods_and_a_missing_value_head_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"improve.method: got 'bonn'; expected one of bon, .*did you mean 'bon'"):
        methods.method("bonn")
    policy = moved()
    with pytest.raises(ConfigError, match=r"build the policy with value=True"):
        losses_of(policy, "ppo", sampled(policy), 64)
