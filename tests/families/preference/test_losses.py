"""Losses of preference learning: closed forms, exact enumeration of a small policy, and stored values of TRL."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.families.preference import losses

TRL: dict[str, Any] = json.loads(Path(__file__).with_name("trl_values.json").read_text(encoding="utf-8"))
ANSWERS, BETA = 5, 0.5


def table(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a policy, log-probabilities of a reference and rewards, of one prompt with five answers."""
    draw = torch.Generator().manual_seed(seed)
    logits, reference, rewards = torch.randn(3, ANSWERS, generator=draw, dtype=torch.float64)
    return logits.requires_grad_(), reference.log_softmax(0), rewards


def descend(logits: Tensor, objective: Callable[[Tensor], Tensor], steps: int = 60) -> Tensor:
    """Minimise an exact objective of log-probabilities; return those at the minimum."""
    optimizer = torch.optim.LBFGS([logits], max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-16)

    def closure() -> float:
        optimizer.zero_grad()
        loss = objective(logits.log_softmax(0))
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    return logits.detach().log_softmax(0)


def every_pair() -> tuple[Tensor, Tensor]:
    a, b = zip(*itertools.permutations(range(ANSWERS), 2), strict=True)
    return torch.tensor(a), torch.tensor(b)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- fixed points, by enumeration ----------------------------------------------------------------------------------


def test_the_minimum_of_dpo_is_the_reference_tilted_by_the_reward() -> None:
    logits, reference, rewards = table()
    a, b = every_pair()
    chosen = torch.sigmoid(rewards[a] - rewards[b])  # P(a preferred), as Bradley and Terry have it

    def objective(logp: Tensor) -> Tensor:
        return (chosen * losses.dpo(logp[a], logp[b], reference[a], reference[b], beta=BETA)).sum()

    expected = (reference + rewards / BETA).log_softmax(0)
    torch.testing.assert_close(descend(logits, objective), expected, atol=1e-6, rtol=0)


def test_the_minimum_of_the_regression_is_the_same() -> None:
    logits, reference, rewards = table(1)
    a, b = every_pair()

    def objective(logp: Tensor) -> Tensor:
        loss = losses.regression(logp[a], logp[b], reference[a], reference[b], rewards[a], rewards[b], beta=BETA)
        return loss.sum()

    expected = (reference + rewards / BETA).log_softmax(0)
    torch.testing.assert_close(descend(logits, objective), expected, atol=1e-7, rtol=0)
    clipped = losses.regression(*torch.zeros(4, 1), torch.tensor([1e6]), torch.tensor([0.0]), beta=BETA, clip=3.0)
    assert float(clipped) == 9.0


def test_the_leash_makes_the_tilted_reference_the_best_policy() -> None:
    _, reference, rewards = table(2)
    best = (reference + rewards / BETA).log_softmax(0)

    def worth(logp: Tensor) -> float:
        return float((logp.exp() * losses.leashed(rewards, logp, reference, beta=BETA)).sum())

    others = [(best + 0.3 * drawn(ANSWERS, seed=seed)).log_softmax(0) for seed in range(50)]
    assert all(worth(other) < worth(best) for other in others)
    assert worth(best) == pytest.approx(float(BETA * (reference + rewards / BETA).logsumexp(0)))


# ---- pairs ---------------------------------------------------------------------------------------------------------


def test_the_gradient_of_dpo_at_equal_ratios() -> None:
    pair = drawn(2, 3).requires_grad_()
    losses.dpo(*pair, *pair.detach(), beta=0.3).sum().backward()
    assert pair.grad is not None
    torch.testing.assert_close(pair.grad, torch.tensor([[-0.15], [0.15]], dtype=torch.float64).expand(2, 3))


@pytest.mark.parametrize("flip", [0.0, 0.1, 0.4])
def test_robust_dpo_averages_to_dpo_on_clean_labels(flip: float) -> None:
    c, r, ref_c, ref_r = drawn(4, 6) * 4
    clean = losses.dpo(c, r, ref_c, ref_r, beta=BETA)
    right = losses.rdpo(c, r, ref_c, ref_r, beta=BETA, flip=flip)
    turned = losses.rdpo(r, c, ref_r, ref_c, beta=BETA, flip=flip)
    torch.testing.assert_close((1 - flip) * right + flip * turned, clean)


def test_conservative_dpo_has_its_minimum_at_the_logit() -> None:
    flip, zero = 0.2, torch.zeros(1, dtype=torch.float64)
    best = math.log((1 - flip) / flip) / BETA
    at = torch.tensor([best], dtype=torch.float64, requires_grad=True)
    losses.cdpo(at, zero, zero, zero, beta=BETA, flip=flip).sum().backward()
    assert at.grad is not None
    assert float(at.grad) == pytest.approx(0.0, abs=1e-12)
    c, r, ref_c, ref_r = drawn(4, 6)
    torch.testing.assert_close(losses.cdpo(c, r, ref_c, ref_r, flip=0.0), losses.dpo(c, r, ref_c, ref_r))


def test_reliability_selects_between_dpo_nothing_and_the_turned_label() -> None:
    c, r, ref_c, ref_r = given = drawn(4, 6) * 4
    one = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(losses.annotator_dpo(*given, one, beta=BETA), losses.dpo(*given, beta=BETA))
    turned = losses.dpo(r, c, ref_r, ref_c, beta=BETA)
    torch.testing.assert_close(losses.annotator_dpo(*given, 0 * one, beta=BETA), turned)
    for q, expected in ((0.0, True), (0.5, False), (0.8, True), (1.0, True)):
        leaf = c.clone().requires_grad_()
        losses.annotator_dpo(leaf, r, ref_c, ref_r, q * one, beta=BETA).sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert bool(leaf.grad.abs().max() > 1e-12) == expected
    z = BETA * losses.margin(*given)
    formula = -(0.8 * torch.sigmoid(z) + 0.2 * torch.sigmoid(-z)).log()
    torch.testing.assert_close(losses.annotator_dpo(*given, 0.8 * one, beta=BETA), formula)


def test_losses_per_token_equal_those_of_sums_where_lengths_are_equal() -> None:
    c, r, ref_c, ref_r = given = drawn(4, 6)
    four = torch.full((6,), 4)
    expected = losses.dpo(*given, beta=0.5)
    torch.testing.assert_close(losses.normalised_dpo(*given, four, four, beta=2.0), expected)
    ratio = (c - ref_c - r + ref_r) / 4
    torch.testing.assert_close(losses.ipo(*given, four, four, beta=0.25), (ratio - 2.0).square())
    uniform = torch.zeros(
        6, dtype=torch.float64
    )  # to a uniform reference, SimPO without gamma is length-normalised DPO
    simple = losses.simpo(c, r, four, four, beta=2.0, gamma=0.0)
    torch.testing.assert_close(simple, losses.normalised_dpo(c, r, uniform, uniform, four, four, beta=2.0))
    more = losses.simpo(c, r, four, four, beta=2.0, gamma=0.7)
    torch.testing.assert_close(more, -torch.nn.functional.logsigmoid((c - r) / 2 - 0.7))


def test_a_longer_answer_gains_nothing_from_tokens_alike() -> None:
    short, long = torch.tensor([2]), torch.tensor([8])
    per_token = torch.tensor([0.1])
    given = (short * per_token, long * per_token, torch.zeros(1), torch.zeros(1))
    assert float(losses.normalised_dpo(*given, short, long)) == pytest.approx(math.log(2))
    assert float(losses.dpo(*given, beta=5.0)) > math.log(2)


# ---- single answers, rewards, one of n -----------------------------------------------------------------------------


def test_thumbs_are_measured_from_a_point_that_is_detached_and_never_negative() -> None:
    logp, other = drawn(6).requires_grad_(), drawn(4, seed=1).requires_grad_()
    reference, other_reference = drawn(6, seed=2), drawn(4, seed=3)
    up = torch.tensor([1.0, 0, 1, 0, 1, 0], dtype=torch.float64)
    losses.kto(logp, reference, up, other + 5, other_reference, beta=0.5).sum().backward()
    assert other.grad is None
    assert logp.grad is not None
    assert (logp.grad[up == 1] < 0).all()
    assert (logp.grad[up == 0] > 0).all()
    ratio = (logp - reference).detach()
    found = losses.kto(logp, reference, up, other - 99, other_reference, beta=0.5, weights=(2.0, 3.0))
    formula = torch.where(up == 1, 2 * (1 - torch.sigmoid(0.5 * ratio)), 3 * (1 - torch.sigmoid(-0.5 * ratio)))
    torch.testing.assert_close(found.detach(), formula)


def test_one_of_n_is_bradley_terry_for_two_and_ignores_answers_not_shown() -> None:
    a, b = drawn(2, 6)
    hidden = torch.full_like(a, -math.inf)
    first = torch.zeros(6, dtype=torch.int64)
    found = losses.plackett_luce(torch.stack([a, b, hidden], 1), first)
    torch.testing.assert_close(found, losses.bradley_terry(a, b))
    shared = losses.plackett_luce(torch.stack([a, b], 1), torch.tensor([[0.25, 0.75]], dtype=a.dtype).expand(6, 2))
    torch.testing.assert_close(shared, 0.25 * losses.bradley_terry(a, b) + 0.75 * losses.bradley_terry(b, a))
    rewards = drawn(1, 4)
    chances = torch.cat([(-losses.plackett_luce(rewards, torch.tensor([i]))).exp() for i in range(4)])
    torch.testing.assert_close(chances, rewards[0].softmax(0))


def test_the_reward_loss_is_that_of_logistic_regression() -> None:
    w, features = drawn(3), drawn(2, 6, 3, seed=1)
    a, b = features @ w
    found = losses.bradley_terry(a, b).sum()
    odds = (features[0] - features[1]) @ w
    expected = torch.nn.functional.binary_cross_entropy_with_logits(odds, torch.ones_like(odds), reduction="sum")
    torch.testing.assert_close(found, expected)


# ---- best of n -----------------------------------------------------------------------------------------------------


def samples(logp: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Every tuple of n answers (m, n), and its probability (m,)."""
    index = torch.tensor(list(itertools.product(range(ANSWERS), repeat=n)))
    return index, logp[index].sum(1).exp()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_best_of_n_beats_one_sample_as_often_as_it_should(n: int) -> None:
    many = 400  # equally likely answers, so that ties hardly count
    below = (torch.arange(many, dtype=torch.float64) + 0.5) / many  # P(a sample is worse), ties half
    edges = torch.arange(many + 1, dtype=torch.float64) / many
    best = edges[1:] ** n - edges[:-1] ** n  # the distribution of the best of n
    assert float((best * below).sum()) == pytest.approx(n / (n + 1), abs=1e-4)
    logits, _, rewards = table(3)
    index, chance = samples(logits.detach().log_softmax(0), n)
    leaf = logits.detach().log_softmax(0).requires_grad_()
    (chance * losses.best_of_n(leaf[index], rewards[index])).sum().backward()
    ranked = rewards.argsort()
    above = logits.detach().softmax(0)[ranked].cumsum(0)
    expected = above**n - torch.cat([above.new_zeros(1), above[:-1]]) ** n
    assert leaf.grad is not None
    torch.testing.assert_close(-leaf.grad[ranked], expected)  # the weight of each answer is its chance to be the best


def test_the_best_of_one_moves_nothing_on_average() -> None:
    logits, _, rewards = table(4)
    logp = logits.log_softmax(0)
    index, chance = samples(logp.detach(), 1)
    (chance * losses.best_of_n(logp[index], rewards[index])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12


# ---- policy gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3])
def test_leave_one_out_is_unbiased(n: int) -> None:
    logits, _, rewards = table(5)
    logp = logits.log_softmax(0)
    exact = torch.autograd.grad(-(logp.exp() * rewards).sum(), logits, retain_graph=True)[0]
    index, chance = samples(logp.detach(), n)
    loss = losses.rloo(logp[index], logp[index].detach(), rewards[index]).mean(1)
    found = torch.autograd.grad((chance * loss).sum(), logits)[0]
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)


def test_the_leash_in_rewards_adds_the_gradient_of_the_divergence() -> None:
    logits, reference, rewards = table(6)
    logp = logits.log_softmax(0)
    objective = (logp.exp() * (rewards - BETA * (logp - reference))).sum()
    exact = torch.autograd.grad(-objective, logits, retain_graph=True)[0]
    index, chance = samples(logp.detach(), 2)
    held = losses.leashed(rewards[index], logp[index], reference[index], beta=BETA)
    loss = losses.rloo(logp[index], logp[index].detach(), held).mean(1)
    torch.testing.assert_close(torch.autograd.grad((chance * loss).sum(), logits)[0], exact, atol=1e-12, rtol=0)


def test_equal_rewards_teach_nothing_and_unscaled_groups_are_leave_one_out() -> None:
    logp, behaviour, reference = drawn(3, 2, 4, 3)
    mask, same = torch.ones(2, 4, 3), torch.full((2, 4), 7.0)
    assert losses.grpo(logp, behaviour, reference, same, mask).abs().max() == 0
    rewards = drawn(2, 4, seed=9)
    torch.testing.assert_close(
        losses.group_relative(rewards, scale=False), losses.leave_one_out(rewards) * 3 / 4, atol=1e-12, rtol=0
    )
    scaled = losses.group_relative(rewards)
    torch.testing.assert_close(scaled.std(1), torch.ones(2, dtype=torch.float64), atol=1e-3, rtol=0)


def test_tokens_after_the_stop_do_not_count_in_groups() -> None:
    logp, behaviour, reference = drawn(3, 1, 2, 4) * 0.1
    rewards = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[[1.0, 1, 0, 0], [1, 1, 1, 1]]])
    found = losses.grpo(logp, behaviour, reference, rewards, mask, beta=0.3)
    cut = losses.grpo(logp[..., :2], behaviour[..., :2], reference[..., :2], rewards, mask[..., :2], beta=0.3)
    torch.testing.assert_close(found[0, 0], cut[0, 0])
    constant = losses.grpo(logp, behaviour, reference, rewards, mask, beta=0.3, length=8)
    torch.testing.assert_close(constant, found * mask.sum(-1) / 8)


def test_ppo_at_ratio_one_is_reinforce_with_a_baseline() -> None:
    leaf, advantages = drawn(2, 3).requires_grad_(), drawn(2, 3, seed=1)
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    losses.ppo(leaf, leaf.detach(), advantages, mask).sum().backward()
    torch.testing.assert_close(leaf.grad, -advantages * mask)


def test_the_clip_stops_gradients_beyond_the_region_only_where_they_help() -> None:
    logp = torch.tensor([0.5, 0.5, -0.5, -0.5], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    losses.clipped(logp, torch.zeros(4, dtype=torch.float64), advantages, clip=0.2).sum().backward()
    assert logp.grad is not None
    assert (logp.grad != 0).tolist() == [False, True, True, False]


@pytest.mark.parametrize(("discount", "decay"), [(1.0, 1.0), (0.9, 1.0), (0.9, 0.5), (1.0, 0.0)])
def test_advantages_are_sums_of_surprises(discount: float, decay: float) -> None:
    rewards, values = drawn(2, 2, 4)
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.float64)
    advantages, targets = losses.gae(rewards, values, mask, discount=discount, decay=decay)
    for row, length in enumerate((4, 2)):
        v = [*values[row, :length].tolist(), 0.0]
        surprise = [float(rewards[row, i]) + discount * v[i + 1] - v[i] for i in range(length)]
        for i in range(length):
            expected = sum((discount * decay) ** (j - i) * surprise[j] for j in range(i, length))
            assert float(advantages[row, i]) == pytest.approx(expected)
            if decay == 1.0:
                returns = sum(discount ** (j - i) * float(rewards[row, j]) for j in range(i, length))
                assert float(targets[row, i]) == pytest.approx(returns)
    assert (advantages[1, 2:] == 0).all()


def test_the_value_loss_takes_the_worse_of_two_errors() -> None:
    values, before, targets = drawn(3, 2, 4)
    mask = torch.tensor([[1.0, 1, 1, 0]]).expand(2, 4)
    free = losses.value(values, before, targets, mask, clip=1e9)
    torch.testing.assert_close(free, (0.5 * (values - targets).square() * mask).sum(1))
    assert (losses.value(values, before, targets, mask, clip=0.1) >= free).all()


# ---- divergence ----------------------------------------------------------------------------------------------------


def test_estimates_of_the_divergence_by_enumeration() -> None:
    logits, reference, _ = table(7)
    logp = logits.log_softmax(0)
    chance, exact = logp.exp(), (logp.exp() * (logp - reference)).sum()
    for unbiased in (losses.k1, losses.k3):
        torch.testing.assert_close((chance * unbiased(logp, reference)).sum(), exact)
    assert (losses.k3(logp, reference) >= 0).all()
    slope = torch.autograd.grad(exact, logits, retain_graph=True)[0]
    held = chance.detach()  # as samples are: their distribution passes no gradient
    found = [
        torch.autograd.grad((held * kind(logp, reference)).sum(), logits, retain_graph=True)[0]
        for kind in (losses.k1, losses.k2)
    ]
    torch.testing.assert_close(found[0], torch.zeros_like(slope), atol=1e-12, rtol=0)
    torch.testing.assert_close(found[1], slope, atol=1e-12, rtol=0)


def test_k2_is_close_for_policies_that_are() -> None:
    logits, _, _ = table(8)
    logp = logits.detach().log_softmax(0)
    near = (logp + 0.01 * drawn(ANSWERS, seed=4)).log_softmax(0)
    exact = float((logp.exp() * (logp - near)).sum())
    assert float((logp.exp() * losses.k2(logp, near)).sum()) == pytest.approx(exact, rel=0.05)


# ---- TRL -----------------------------------------------------------------------------------------------------------


def stored(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_pairs_equal_trl() -> None:
    kept = TRL["pairs"]
    logp, lengths = stored(kept["logp"]), torch.tensor(kept["lengths"])
    found = {
        "sigmoid": losses.dpo(*logp, beta=kept["sigmoid"]["beta"]),
        "ipo": losses.ipo(*logp, *lengths, beta=kept["ipo"]["beta"]),
        "robust": losses.rdpo(*logp, beta=kept["robust"]["beta"], flip=kept["robust"]["flip"]),
        "sigmoid_norm": losses.normalised_dpo(*logp, *lengths, beta=kept["sigmoid_norm"]["beta"]),
        "cpo_simpo": losses.simpo(*logp[:2], *lengths, beta=kept["cpo_simpo"]["beta"], gamma=1.0),
        "cpo_sigmoid": losses.cdpo(*logp[:2], *torch.zeros(2, 6), beta=0.1, flip=kept["cpo_sigmoid"]["flip"]),
    }
    for kind, loss in found.items():
        torch.testing.assert_close(loss, stored(kept[kind]["losses"]), atol=1e-5, rtol=1e-5, msg=kind)


@pytest.mark.parametrize("sign", ["positive", "clamped"])
def test_thumbs_equal_trl(sign: str) -> None:
    kept = TRL["thumbs"]
    logp, reference, mismatched, reference_mismatched = stored(kept["logp"])
    up, weights = stored(kept["label"]), tuple(kept["weights"])
    moved = mismatched + kept[sign]["shift"]
    found = losses.kto(logp, reference, up, moved, reference_mismatched, beta=kept["beta"], weights=weights)
    ordered = torch.cat([found[up == 1], found[up == 0]])
    torch.testing.assert_close(ordered, stored(kept[sign]["losses"]), atol=1e-5, rtol=1e-5)


def test_rewards_equal_trl() -> None:
    kept = TRL["rewards"]
    chosen, rejected = stored(kept["rewards"]).chunk(2)
    assert float(losses.bradley_terry(chosen, rejected).mean()) == pytest.approx(kept["plain"], abs=1e-6)
    each = losses.bradley_terry(chosen, rejected, least=stored(kept["margin"]))
    assert float(each.mean()) == pytest.approx(kept["margins"], abs=1e-6)


def test_groups_equal_trl() -> None:
    kept = TRL["groups"]
    scores = stored(kept["scores"]).view(3, 4)
    for scale in ("group", "none"):
        found = losses.group_relative(scores, scale=scale == "group")
        torch.testing.assert_close(found.flatten(), stored(kept[f"advantages_{scale}"]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        losses.leave_one_out(scores).flatten(), stored(kept["advantages_rloo"]), atol=1e-5, rtol=0
    )
    logp, behaviour, reference = (stored(kept[name]).view(3, 4, 5) for name in ("logp", "behaviour", "reference"))
    mask = (torch.arange(5) < torch.tensor(kept["lengths"]).view(3, 4, 1)).double()
    for kind, scale, length in itertools.product(("grpo", "dr_grpo"), ("group", "none"), (0, 5)):
        if (kind == "dr_grpo") == (length > 0):
            found = losses.grpo(
                logp, behaviour, reference, scores, mask, beta=0.04, scale=scale == "group", length=length
            )
            assert float(found.mean()) == pytest.approx(kept[f"{kind}_{scale}"], abs=1e-5)
    found = losses.rloo((logp * mask).sum(-1), (behaviour * mask).sum(-1), scores)
    torch.testing.assert_close(found.flatten(), stored(kept["rloo"]), atol=1e-5, rtol=1e-5)
