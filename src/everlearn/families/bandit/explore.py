"""Exploration: the probability of each action, from its expected reward and how well that is known.

- "epsilon": the best action, and with probability epsilon any of the available ones. Epsilon falls as the cube root of
  the rows learned (the rate of Langford & Zhang 2007, "The epoch-greedy algorithm"), to a floor.
- "squarecb": 1 / (k + gamma * gap) for each action that is not the best, gap being how much less it may earn (Foster &
  Rakhlin 2020, arXiv 2002.04926, eq. 3; Abe & Long 1999). Gamma grows with the rows learned. The most that an action
  may earn is here its expected reward and one posterior deviation, so that little known actions are tried more.
- "linucb": the action with the highest upper bound (Li, Chu, Langford & Schapire 2010, arXiv 1003.0146).
- "thompson": the probability that an action is the best under independent normal posteriors (Agrawal & Goyal 2013,
  arXiv 1209.3352), as an integral, so that nothing is drawn and the propensity is exact.
- "greedy": the best action.

All but "squarecb" keep a floor of probability for every available action, so that logged rows can be weighted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from everlearn.families.bandit.rows import ALPHA, DECAY, EPSILON, EXPLORE, FLOOR, GAMMA, GAMMA_POWER
from everlearn.families.kernel_parts import inlined, outlined
from everlearn.records import Floats

EPSILON_GREEDY, SQUARE_CB, LIN_UCB, THOMPSON, GREEDY = range(5)
KINDS = {"epsilon": EPSILON_GREEDY, "squarecb": SQUARE_CB, "linucb": LIN_UCB, "thompson": THOMPSON, "greedy": GREEDY}
UNCERTAIN = ("linucb", "thompson")  # those that need the variance of scores
CELLS = 48  # of the integral of "thompson"
TIE = 1e-12


@inlined
def normal(z: float) -> float:
    """Return the normal distribution function."""
    return 0.5 * math.erfc(-z * 0.7071067811865476)


@outlined
def best_of(values: Floats, available: NDArray[np.bool_], p: Floats) -> int:
    """Return an available action with the highest value; write 1 for each such action to `p`, 0 for the others.

    Equal values share: before anything is learned every action is as good as any other.
    """
    best = -1
    for a in range(len(values)):
        if available[a] and (best < 0 or values[a] > values[best]):
            best = a
    for a in range(len(values)):
        p[a] = 1.0 if available[a] and values[a] >= values[best] - TIE else 0.0
    return best


@inlined
def even(p: Floats) -> None:
    """Divide numbers by their sum."""
    total = 0.0
    for a in range(len(p)):
        total += p[a]
    for a in range(len(p)):
        p[a] /= total


@outlined
def square_cb(values: Floats, available: NDArray[np.bool_], count: int, gamma: float, p: Floats) -> None:
    """Write the probabilities of inverse gap weighting; equally good actions share the rest."""
    best = best_of(values, available, p)
    rest, ties = 1.0, 0.0
    for a in range(len(values)):
        if p[a] > 0.0:
            ties += 1.0
        elif available[a]:
            gap = min(max(values[best], 0.0), 1.0) - min(max(values[a], 0.0), 1.0)
            p[a] = -1.0 / (count + gamma * max(gap, 0.0))
            rest += p[a]
    for a in range(len(values)):
        p[a] = -p[a] if p[a] < 0.0 else p[a] * rest / ties


@outlined
def best_chances(values: Floats, deviations: Floats, available: NDArray[np.bool_], p: Floats) -> None:
    """Write the probability that each available action has the highest of independent normal numbers.

    The integral over the highest number is taken in equal cells: in each, an action has the exact mass of that action's
    number, and all others lie below the middle of the cell.
    """
    low, high = -math.inf, -math.inf
    for a in range(len(values)):
        p[a] = 0.0
        if available[a]:
            low = max(low, values[a] - 4.0 * deviations[a])
            high = max(high, values[a] + 4.0 * deviations[a])
    if not high > low:
        best_of(values, available, p)
        even(p)
        return
    width = (high - low) / CELLS
    for cell in range(-1, CELLS):  # the first one is all that lies below
        top = low + (cell + 1) * width
        middle = top - 0.5 * width
        below = 1.0
        for a in range(len(values)):
            if available[a]:
                below *= max(normal((middle - values[a]) / max(deviations[a], 1e-300)), 1e-300)
        if below == 0.0:
            continue
        for a in range(len(values)):
            if available[a]:
                deviation = max(deviations[a], 1e-300)
                mass = normal((top - values[a]) / deviation)
                if cell >= 0:
                    mass -= normal((top - width - values[a]) / deviation)
                p[a] += mass * below / max(normal((middle - values[a]) / deviation), 1e-300)
    even(p)


@outlined
def probabilities(
    settings: Floats,
    rows: float,
    values: Floats,
    deviations: Floats,
    available: NDArray[np.bool_],
    count: int,
    p: Floats,
) -> int:
    """Write the probability of each action to `p`, after `rows` learned rows; return the best action.

    `values` are scaled rewards, `deviations` their posterior standard deviations where the exploration needs them.
    """
    kind, floor = int(settings[EXPLORE]), settings[FLOOR]
    best = best_of(values, available, p)
    if kind == SQUARE_CB:
        for a in range(len(values)):
            deviations[a] = values[a] + settings[ALPHA] * deviations[a]
        square_cb(deviations, available, count, settings[GAMMA] * (1.0 + rows) ** settings[GAMMA_POWER], p)
        return best
    if kind == LIN_UCB:
        for a in range(len(values)):
            deviations[a] = values[a] + settings[ALPHA] * deviations[a]
        best_of(deviations, available, p)
    elif kind == THOMPSON:
        best_chances(values, deviations, available, p)
    elif kind == EPSILON_GREEDY:
        floor = max(settings[EPSILON], settings[DECAY] / (1.0 + rows) ** (1.0 / 3.0))
        floor = min(floor, 1.0)
    even(p)
    for a in range(len(values)):
        p[a] = (1.0 - floor) * p[a] + (floor / count if available[a] else 0.0)
    return best


@inlined
def draw(p: Floats, u: float) -> int:
    """Return the first action whose cumulated probability exceeds `u`."""
    total, last = 0.0, 0
    for a in range(len(p)):
        if p[a] > 0.0:
            last = a
            total += p[a]
            if total > u:
                return a
    return last
