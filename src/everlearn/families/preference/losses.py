"""Losses of preference learning, as pure functions of log-probabilities.

A loss of pairs takes `chosen`, `rejected`, `reference_chosen` and `reference_rejected`, shape (n,): the log-probability
of each answer, summed over its tokens, under the policy and under the reference. It returns one loss for each pair,
shape (n,), unreduced. Sums, not averages: a loss of averages per token favours the shortest answer. Where a method
divides by the number of tokens (IPO, SimPO, length-normalised DPO), the caller passes lengths, int64 (n,).

A loss of groups takes the n answers of each of p prompts, shape (p, n), or (p, n, t) where tokens count one by one.
All tensors are float32 or float64, on one device. Dials are keyword-only.
"""

from __future__ import annotations

from everlearn._torch import Tensor, functional, torch

_logsigmoid = functional.logsigmoid


def margin(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor) -> Tensor:
    """Return how much more the policy prefers the chosen answer than the reference does, in nats, shape (n,).

    >>> margin(*torch.tensor([[-1.0], [-3.0], [-2.0], [-3.0]]))
    tensor([1.])
    """
    return (chosen - reference_chosen) - (rejected - reference_rejected)


# ---- pairs ---------------------------------------------------------------------------------------------------------


def dpo(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, *, beta: float = 0.1
) -> Tensor:
    """Return -log sigmoid(beta margin): direct preference optimisation. Rafailov et al. 2023, arXiv 2305.18290, eq. 7.

    With enough pairs of a Bradley-Terry reward r, the minimum is reference * exp(r / beta).

    >>> dpo(*torch.zeros(4, 1))
    tensor([0.6931])
    """
    return -_logsigmoid(beta * margin(chosen, rejected, reference_chosen, reference_rejected))


def cdpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
    flip: float = 0.1,
) -> Tensor:
    """Return DPO with a share `flip` of the label on the other answer. Mitchell 2023, "A note on DPO with noisy
    preferences", eq. 2.

    The minimum is at beta * margin = logit(1 - flip), so margins stay bounded.

    >>> cdpo(*torch.zeros(4, 1), flip=0.3)
    tensor([0.6931])
    """
    z = beta * margin(chosen, rejected, reference_chosen, reference_rejected)
    return -(1 - flip) * _logsigmoid(z) - flip * _logsigmoid(-z)


def rdpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
    flip: float = 0.1,
) -> Tensor:
    """Return robust DPO: its mean over labels that flip at the rate `flip` < .5 is DPO on clean labels.

    Chowdhury et al. 2024, arXiv 2403.00409, section 3. It has no lower bound, and its variance grows as
    1 / (1 - 2 flip)^2.

    >>> rdpo(*torch.zeros(4, 1), flip=0.25)
    tensor([0.6931])
    """
    z = beta * margin(chosen, rejected, reference_chosen, reference_rejected)
    return (flip * _logsigmoid(-z) - (1 - flip) * _logsigmoid(z)) / (1 - 2 * flip)


def annotator_dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    reliability: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """Return -log(q sigmoid(z) + (1 - q) sigmoid(-z)), z = beta margin, for labels right with probability q, (n,).

    One q for each annotator: Chen et al. 2013, "Pairwise ranking aggregation in a crowdsourced setting", eq. 3, with
    the implicit reward of DPO. q = 1 is DPO, q = .5 teaches nothing, q = 0 is DPO with the label turned. Estimate q
    from predictions made before the label was learned: a model fitted to the labels agrees with each annotator.

    >>> annotator_dpo(*torch.tensor([[5.0], [0.0], [0.0], [0.0]]), torch.tensor([0.5]), beta=1.0)
    tensor([0.6931])
    """
    z = beta * margin(chosen, rejected, reference_chosen, reference_rejected)
    return -torch.logaddexp(reliability.log() + _logsigmoid(z), (1 - reliability).log() + _logsigmoid(-z))


def normalised_dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float = 5.0,
) -> Tensor:
    """Return DPO on log-ratios per token, so that length is no advantage. Lambert et al. 2024, "Tulu 3", arXiv
    2411.15124, section 5.1.

    >>> normalised_dpo(*torch.tensor([[-2.0], [-3.0], [-4.0], [-3.0]]), torch.tensor([2]), torch.tensor([3]), beta=1.0)
    tensor([0.3133])
    """
    left = (chosen - reference_chosen) / chosen_length.clamp(min=1)
    right = (rejected - reference_rejected) / rejected_length.clamp(min=1)
    return -_logsigmoid(beta * (left - right))


def ipo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """Return (h - 1 / (2 beta))^2, h the difference of log-ratios per token. Azar et al. 2023, arXiv 2310.12036,
    eq. 17.

    The margin has a target, so that certain labels do not drive it to infinity. As in the authors' experiments and in
    TRL, h is an average over tokens; pass lengths of 1 for the formula as printed, where beta has another scale.

    >>> ipo(*torch.tensor([[1.0], [0.0], [0.0], [0.0]]), torch.tensor([1]), torch.tensor([1]), beta=0.5)
    tensor([0.])
    """
    left = (chosen - reference_chosen) / chosen_length.clamp(min=1)
    right = (rejected - reference_rejected) / rejected_length.clamp(min=1)
    return (left - right - 1 / (2 * beta)).square()


def simpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> Tensor:
    """Return -log sigmoid(beta (difference of log-probabilities per token) - gamma). Meng et al. 2024, arXiv
    2405.14734, eq. 6.

    No reference holds the policy: watch the KL divergence.

    >>> simpo(torch.tensor([-2.0]), torch.tensor([-4.0]), torch.tensor([2]), torch.tensor([2]), beta=1.0, gamma=1.0)
    tensor([0.6931])
    """
    difference = chosen / chosen_length.clamp(min=1) - rejected / rejected_length.clamp(min=1)
    return -_logsigmoid(beta * difference - gamma)


def regression(
    first: Tensor,
    second: Tensor,
    reference_first: Tensor,
    reference_second: Tensor,
    first_reward: Tensor,
    second_reward: Tensor,
    *,
    beta: float = 0.25,
    clip: float = 20.0,
) -> Tensor:
    """Return (margin - (r1 - r2) / beta)^2, the regression of log-ratios on rewards. Gao et al. 2024, "REBEL", arXiv
    2404.16767, eq. 4.

    The minimum is reference * exp(r / beta). The target is clipped to `clip` nats, as early rewards can be large.

    >>> regression(*torch.tensor([[2.0], [0.0], [0.0], [0.0], [1.0], [0.5]]), beta=0.25)
    tensor([0.])
    """
    target = ((first_reward - second_reward) / beta).clamp(-clip, clip)
    return (margin(first, second, reference_first, reference_second) - target).square()


# ---- single answers and rewards ------------------------------------------------------------------------------------


def kto(
    logp: Tensor,
    reference: Tensor,
    desirable: Tensor,
    mismatched: Tensor,
    reference_mismatched: Tensor,
    *,
    beta: float = 0.1,
    weights: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Return the loss of answers with a thumb: 1 - sigmoid(beta (ratio - z0)) where up, 1 - sigmoid(beta (z0 - ratio))
    where down. Ethayarajh et al. 2024, "KTO", arXiv 2402.01306, section 4.

    `desirable` (n,) is 1 or 0, or the share of thumbs up. z0 estimates the KL divergence from log-probabilities (m,) of
    answers to other prompts (`mismatched`); it is detached, and at least 0. `weights` are those of up and down: choose
    them so that both sums of weights are about equal.

    >>> kto(*torch.zeros(2, 2), torch.tensor([1.0, 0.0]), *torch.zeros(2, 3))
    tensor([0.5000, 0.5000])
    """
    zero = (mismatched - reference_mismatched).detach().mean().clamp(min=0)
    gain = beta * (logp - reference - zero)
    return weights[0] * desirable * torch.sigmoid(-gain) + weights[1] * (1 - desirable) * torch.sigmoid(gain)


def bradley_terry(chosen: Tensor, rejected: Tensor, *, least: Tensor | float = 0.0) -> Tensor:
    """Return -log sigmoid(r_chosen - r_rejected - least) of rewards (n,). Bradley and Terry 1952, Biometrika 39, as in
    Ouyang et al. 2022, arXiv 2203.02155, eq. 1.

    Rewards are known up to a constant for each prompt: centre them per prompt before they are compared across prompts.

    >>> bradley_terry(torch.tensor([2.0]), torch.tensor([2.0]))
    tensor([0.6931])
    """
    return -_logsigmoid(chosen - rejected - least)


def plackett_luce(rewards: Tensor, best: Tensor) -> Tensor:
    """Return -log P(answer `best` is chosen of n) with rewards (p, n). Plackett 1975, Applied Statistics 24; Luce 1959,
    "Individual choice behavior".

    `best` is the number of the answer, int64 (p,), or the share of choices of each, (p, n). The reward may be the
    implicit one, beta (log policy - log reference). Set rewards of answers not shown to -inf, where `best` is a number.

    >>> plackett_luce(torch.zeros(1, 4), torch.tensor([2]))
    tensor([1.3863])
    """
    return functional.cross_entropy(rewards, best, reduction="none")


def best_of_n(logp: Tensor, rewards: Tensor) -> Tensor:
    """Return minus the log-probability of the best of each prompt's n answers, shape (p,), of (p, n).

    Imitating the best of n own samples: Sessa et al. 2024, "BOND", arXiv 2407.14622. The target beats a single sample
    in n / (n + 1) of ties-free comparisons; its KL divergence is at most log n - (n - 1) / n. Of equal rewards the
    first counts.

    >>> best_of_n(torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[0.0, 4.0, 1.0]]))
    tensor([2.])
    """
    return -logp.gather(1, rewards.argmax(1, keepdim=True))[:, 0]


# ---- policy gradients ----------------------------------------------------------------------------------------------


def leave_one_out(rewards: Tensor) -> Tensor:
    """Return each reward less the mean of the others of its prompt, of (p, n), n >= 2. Ahmadian et al. 2024, arXiv
    2402.14740, eq. 6.

    >>> leave_one_out(torch.tensor([[3.0, 1.0]]))
    tensor([[ 2., -2.]])
    """
    n = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * (n / (n - 1))


def group_relative(rewards: Tensor, *, scale: bool = True) -> Tensor:
    """Return rewards (p, n) less their prompt's mean, divided by their standard deviation. Shao et al. 2024,
    "DeepSeekMath", arXiv 2402.03300, section 4.1.

    Division by the deviation gives more weight to prompts whose answers hardly differ; `scale` = False leaves it out
    (Liu et al. 2025, "Dr. GRPO", arXiv 2503.20783). Equal rewards give 0.

    >>> group_relative(torch.tensor([[1.0, 0.0], [2.0, 2.0]]), scale=False)
    tensor([[ 0.5000, -0.5000],
            [ 0.0000,  0.0000]])
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + 1e-4) if scale else centred


def clipped(logp: Tensor, behaviour: Tensor, advantages: Tensor, *, clip: float = 0.2) -> Tensor:
    """Return -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), ratio = exp(logp - behaviour), elementwise. Schulman et
    al. 2017, "PPO", arXiv 1707.06347, eq. 7.

    `behaviour` is the log-probability when the answer was sampled. Neither it nor the advantages pass gradients.

    >>> clipped(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0]))
    tensor([-1.2000])
    """
    ratio, advantages = torch.exp(logp - behaviour.detach()), advantages.detach()
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def rloo(logp: Tensor, behaviour: Tensor, rewards: Tensor, *, clip: float = 0.2) -> Tensor:
    """Return the REINFORCE loss with a leave-one-out baseline, (p, n), of summed log-probabilities and rewards (p, n).
    Ahmadian et al. 2024, arXiv 2402.14740, eq. 6.

    An answer is one action. At ratio 1 the gradient is unbiased: its mean over samples is the policy gradient. Subtract
    the KL penalty from the rewards with `leashed`.

    >>> rloo(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    tensor([[-1.,  1.]])
    """
    return clipped(logp, behaviour, leave_one_out(rewards), clip=clip)


def grpo(
    logp: Tensor,
    behaviour: Tensor,
    reference: Tensor,
    rewards: Tensor,
    mask: Tensor,
    *,
    beta: float = 0.0,
    clip: float = 0.2,
    scale: bool = True,
    length: int = 0,
) -> Tensor:
    """Return the loss of each answer, (p, n), of log-probabilities and a mask of tokens (p, n, t) and rewards (p, n).
    Shao et al. 2024, "DeepSeekMath", arXiv 2402.03300, eq. 3.

    Each token has the advantage of its answer, and beta times the estimate k3 of the KL divergence is added. Losses of
    tokens are averaged over the answer, which makes long wrong answers cheap; with `length` > 0 their sum is divided by
    this constant instead (Liu et al. 2025, arXiv 2503.20783).

    >>> grpo(*torch.zeros(3, 1, 2, 3), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, 3), scale=False)
    tensor([[-0.5000,  0.5000]])
    """
    losses = clipped(logp, behaviour, group_relative(rewards, scale=scale)[..., None], clip=clip)
    losses = losses + beta * k3(logp, reference) if beta else losses
    return (losses * mask).sum(-1) / (length if length else mask.sum(-1).clamp(min=1))


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float = 1.0, decay: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return generalised advantages and value targets, both (n, t), of rewards, values and a mask (n, t). Schulman et
    al. 2015, arXiv 1506.02438, eq. 16.

    values[:, i] is the estimate before token i. Tokens of an answer are adjacent; nothing follows its last token.
    decay = 1 makes the targets the discounted sums of later rewards.

    >>> gae(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]]), torch.ones(1, 2), decay=1.0)
    (tensor([[0.5000, 0.5000]]), tensor([[1., 1.]]))
    """
    advantages, later = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(later)
    for i in reversed(range(rewards.shape[1])):
        surprise = rewards[:, i] + discount * following - values[:, i]
        later = (surprise + discount * decay * later) * mask[:, i]
        advantages[:, i], following = later, values[:, i] * mask[:, i]
    return advantages.detach(), ((advantages + values) * mask).detach()


def ppo(logp: Tensor, behaviour: Tensor, advantages: Tensor, mask: Tensor, *, clip: float = 0.2) -> Tensor:
    """Return the clipped loss of each answer, (n,), summed over its tokens, of (n, t). Schulman et al. 2017, arXiv
    1707.06347, eq. 7.

    >>> ppo(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([-1.])
    """
    return (clipped(logp, behaviour, advantages, clip=clip) * mask).sum(-1)


def value(values: Tensor, before: Tensor, targets: Tensor, mask: Tensor, *, clip: float = 0.2) -> Tensor:
    """Return the loss of the value head for each answer, (n,), of (n, t): the larger of two squared errors, of the
    values and of the values moved at most `clip` from those `before` the update.

    As in the implementation of Schulman et al. 2017; Huang et al. 2022, "The 37 implementation details of PPO", 9.

    >>> value(torch.tensor([[1.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.ones(1, 1))
    tensor([0.3200])
    """
    near = before + (values - before).clamp(-clip, clip)
    return (0.5 * torch.max((values - targets).square(), (near - targets).square()) * mask).sum(-1)


# ---- the distance to the reference ---------------------------------------------------------------------------------


def k1(logp: Tensor, reference: Tensor) -> Tensor:
    """Return log(policy / reference) of the policy's samples: an unbiased estimate of the KL divergence, of any sign.
    Schulman 2020, "Approximating KL divergence".

    As a loss its mean gradient is 0; use it in rewards (`leashed`).

    >>> k1(torch.tensor([-1.0]), torch.tensor([-2.0]))
    tensor([1.])
    """
    return logp - reference


def k2(logp: Tensor, reference: Tensor) -> Tensor:
    """Return half the squared log-ratio: a biased estimate with little variance, whose mean gradient is that of the KL
    divergence. Schulman 2020, "Approximating KL divergence".

    >>> k2(torch.tensor([-1.0]), torch.tensor([-3.0]))
    tensor([2.])
    """
    return 0.5 * (logp - reference).square()


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """Return reference / policy - 1 - log(reference / policy): an unbiased estimate that is never negative. Schulman
    2020, "Approximating KL divergence".

    >>> k3(torch.tensor([-1.0]), torch.tensor([-1.0]))
    tensor([0.])
    """
    return torch.expm1(reference - logp) - (reference - logp)


def leashed(rewards: Tensor, logp: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """Return rewards less beta times k1, detached, elementwise. Stiennon et al. 2020, arXiv 2009.01325, section 3.4.

    The expectation of these rewards is largest at reference * exp(r / beta).

    >>> leashed(torch.tensor([1.0]), torch.tensor([-1.0]), torch.tensor([-3.0]), beta=0.25)
    tensor([0.5000])
    """
    return rewards - beta * k1(logp, reference).detach()
