"""The table of guards beside the win: limits on a policy that a loop checks before it keeps or promotes it.

A guard reads the newest rounds of a policy, or its judged duels, and answers with a reason while its limit is exceeded.
No guard reads the verdict of a judge: rounds are measured on the policy's own answers, and duels are decided by people
and functions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from everlearn.families.preference.improve import Round
from everlearn.metrics import duels
from everlearn.records import Arrays, Floats
from everlearn.spec import NotNegative

NEWEST = 3  # rounds that are averaged

Share = Annotated[float, Meta(ge=0, le=1)]


class Guards(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of the guards; a guard is off where its limit is 0.

    `kl` bounds the divergence from the anchor, in budgets (`improve.budget`). The entropy of answers may fall to the
    part `entropy` of that of the first round. `repetition` is the most by which the share of repeated trigrams may
    exceed that of the first round. `length`: the win at equal length must not be shown to be below it. `reward`: the
    most by which the reward model may be shown to expect more wins than people give.
    """

    kl: NotNegative = 2.0
    entropy: Share = 0.05
    repetition: Share = 0.25
    length: Share = 0.5
    reward: Share = 0.1


class Measured(NamedTuple):
    """What guards read: the first round, the mean of the newest rounds, the full KL budget, and the judged duels."""

    first: Round | None
    now: Round | None
    budget: float
    duels: Arrays | None


def rounds(first: Floats, held: Floats, taken: int) -> tuple[Round | None, Round | None]:
    """Return the first round, and the mean of the newest `NEWEST` of `taken` rounds; None before the first.

    `first` (1 + fields,) and `held` (n, 1 + fields) begin with the number of labels; `held` is a ring.

    >>> import numpy as np
    >>> one = np.arange(1 + len(Round._fields), dtype=float)
    >>> rounds(one, np.stack([one, 3 * one]), 2)[1].kl
    2.0
    """
    if not taken:
        return None, None
    newest = [(taken - 1 - back) % len(held) for back in range(min(NEWEST, taken, len(held)))]
    return Round(*first[1:].tolist()), Round(*held[newest, 1:].mean(0).tolist())


def alarms(measured: Measured, limits: Guards) -> dict[str, str]:
    """Return the reasons of all guards whose limit is exceeded, by guard; pure.

    >>> calm = Round(**{name: 1.0 for name in Round._fields})
    >>> alarms(Measured(calm, calm._replace(k3=20.0), 6.0, None), Guards())
    {'kl': 'KL to the anchor: 20 nats per answer, at most 12 allowed'}
    """
    found = {name: guard(measured, limits) for name, guard in GUARDS.items()}
    return {name: reason for name, reason in found.items() if reason}


# ---- the guards ----------------------------------------------------------------------------------------------------


def _kl(measured: Measured, limits: Guards) -> str:
    most = limits.kl * measured.budget
    if measured.now is None or not most or measured.now.k3 <= most:
        return ""
    return f"KL to the anchor: {measured.now.k3:.3g} nats per answer, at most {most:.3g} allowed"


def _entropy(measured: Measured, limits: Guards) -> str:
    if measured.now is None or measured.first is None or not limits.entropy:
        return ""
    least = limits.entropy * measured.first.entropy
    if measured.now.entropy >= least:
        return ""
    return f"entropy: {measured.now.entropy:.3g} nats per answer, at least {least:.3g} expected"


def _repetition(measured: Measured, limits: Guards) -> str:
    if measured.now is None or measured.first is None or not limits.repetition:
        return ""
    most = measured.first.repetition + limits.repetition
    if measured.now.repetition <= most:
        return ""
    return f"repetition: a share of {measured.now.repetition:.3g} of trigrams is repeated, at most {most:.3g} allowed"


def _length(measured: Measured, limits: Guards) -> str:
    if measured.duels is None or not limits.length:
        return ""
    win = duels.at_equal_length(measured.duels)
    if win.high >= limits.length:
        return ""
    return f"win at equal length: {win.value:.3g}, shown to be below {limits.length:g} ({_span(win)})"


def _reward(measured: Measured, limits: Guards) -> str:
    if measured.duels is None or not limits.reward:
        return ""
    gap, win = duels.overrated(measured.duels), duels.won(measured.duels)
    if gap.low <= limits.reward:
        return ""
    expected = win.value + gap.value
    return (
        f"reward is up while duels are not: a win of {expected:.3g} was expected, {win.value:.3g} came ({_span(win)})"
    )


def _span(found: duels.Interval) -> str:
    return f"{found.low:.3g} to {found.high:.3g}"


GUARDS: dict[str, Callable[[Measured, Guards], str]] = {
    "kl": _kl,
    "entropy": _entropy,
    "repetition": _repetition,
    "length": _length,
    "reward": _reward,
}
