"""Whole numbers that stand for things: shops, schools, postcodes.

A tree can only cut between numbers, and a linear model only weigh them. Where the label jumps from each number to the
next, in the first half of the rows as in the second, the order of the numbers says little: they are codes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.records import Floats

FEWEST, MOST = 5, 1_000  # different numbers of a column that is tried
ROWS = 10  # of each number, on average
NEEDED = 3  # rows of a number in each half of the sample
SHARE = 0.02  # of the variance of the label that the jumps must explain
SURE = 4.0  # standard errors by which their sum must be above 0, if only the noise of the label is random
EVERYWHERE = 2.0  # and if the numbers are, too: a step between two numbers is no code

Jumps = tuple[Floats, Floats, Floats]


def tried(numbers: Floats) -> bool:
    """Return True for a column of whole numbers, NaN where missing, that are few enough to be codes."""
    known = numbers[np.isfinite(numbers)]
    if len(known) < FEWEST * ROWS or np.any(known != np.floor(known)):
        return False
    different = len(np.unique(known))
    return FEWEST <= different <= MOST and len(known) >= ROWS * different


def jump(numbers: Floats, targets: Floats) -> bool:
    """Return True if the label jumps from number to number.

    `numbers` is float64 (n,), NaN where missing; `targets` float64 (n, k) are the label as k numbers, in stream order:
    ranks of a number, or one column of 0 and 1 for each class. The jump of a number is how far the mean of its rows is
    from the line between the means of its two neighbours. Sampling noise is independent in the two halves of the rows,
    and so is what lasted for a time only. So the sum of the products of both jumps, weighted by rows, estimates the
    variance that codes explain, without bias.

    >>> rng = np.random.default_rng(0)
    >>> shop = rng.integers(0, 50, 5000).astype(float)
    >>> worth = rng.normal(size=50)[shop.astype(int)] + rng.normal(size=5000)
    >>> jump(shop, worth[:, None]), jump(shop, (np.sqrt(shop) + rng.normal(size=5000))[:, None])
    (True, False)
    """
    known = np.isfinite(numbers) & np.isfinite(targets).all(1)
    values, places = np.unique(numbers[known], return_inverse=True)
    targets = targets[known]
    half = len(targets) // 2
    parts = [_means(places[:half], targets[:half], len(values)), _means(places[half:], targets[half:], len(values))]
    kept = np.all([counts >= NEEDED for counts, _, _ in parts], axis=0)
    if kept.sum() < FEWEST:
        return False
    first, second = (_jumps(values[kept], counts[kept], means[kept], noise) for counts, means, noise in parts)
    rows = parts[0][0][kept][1:-1] + parts[1][0][kept][1:-1]
    weights = rows / rows.sum()
    products = (first[0] * second[0]).sum(1)
    found = float(weights @ products)
    noise = float(np.sqrt(weights**2 @ (first[1] * second[1]).sum(1)))
    spread = float(np.sqrt(weights**2 @ (products - found) ** 2))
    return found > max(SURE * noise, EVERYWHERE * spread, SHARE * float(targets.var(0).sum()))


def _means(places: NDArray[np.intp], targets: Floats, count: int) -> Jumps:
    """Return of each number its rows, (count,), the means of its targets, (count, k), and their variance, (k,)."""
    counts = np.bincount(places, minlength=count).astype(np.float64)
    sums = np.stack([np.bincount(places, column, count) for column in targets.T], axis=1)
    means = sums / np.maximum(counts, 1.0)[:, None]
    noise = ((targets - means[places]) ** 2).sum(0) / max(len(places) - np.count_nonzero(counts), 1)
    return counts, means, noise


def _jumps(values: Floats, counts: Floats, means: Floats, noise: Floats) -> tuple[Floats, Floats]:
    """Return the jump of each number but the ends, and the variance of its noise, both (count - 2, k)."""
    right = ((values[1:-1] - values[:-2]) / (values[2:] - values[:-2]))[:, None]
    away = means[1:-1] - (1.0 - right) * means[:-2] - right * means[2:]
    rows = counts[:, None]
    spread = 1.0 / rows[1:-1] + (1.0 - right) ** 2 / rows[:-2] + right**2 / rows[2:]
    return away, spread * noise
