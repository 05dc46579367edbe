"""Weights of the experts for each horizon, and the bounds of intervals.

The weights are shares in proportion to a power of the inverse mean absolute error of late (Bates and Granger 1969 have
the first power of squared errors). Errors of long horizons are known late and come in runs, on which gradient steps
oscillate. The bounds track the quantiles of
the errors of each horizon: a bound moves out by step * share of misses allowed if it held, and in the other direction
if not (Gibbs and Candes 2021; the quantile tracking of Angelopoulos, Candes and Tibshirani, "Conformal PID control for
time series prediction", 2023). So the share of misses is right in the long run on any stream.
"""

from __future__ import annotations

import math

from everlearn.families.kernel_parts import outlined
from everlearn.records import Floats

POWER, KEEP = 8.0, 0.998
TINY, FAR = 1e-9, 1e6
ERROR, SEEN, TRACKED = 0, 1, 2  # of `errors`, for each horizon: mean absolute error and its count
LOW, HIGH, POINT, OFFSETS = 0, 1, 2, 3
NORMAL, RECENT = 100.0, 100.0  # errors up to which bounds are those of a normal law; errors of the mean one
FAST, SLOW, HORIZON = 1.0, 0.15, 1_000.0  # of the steps of a bound, in mean errors


@outlined
def combined(shares: Floats, answers: Floats) -> float:
    """Return the weighted forecast."""
    total = 0.0
    for k in range(len(shares)):
        if shares[k] > 0.0:
            total += shares[k] * answers[k]
    return total


@outlined
def weigh(shares: Floats, losses: Floats, answers: Floats, y: float, unit: float) -> None:
    """Learn the losses of the experts in use, those with a share above 0, and set the shares again."""
    best = math.inf
    for k in range(len(shares)):
        losses[k] = KEEP * losses[k] + min(abs(answers[k] - y) / unit, FAR)
        if shares[k] > 0.0:
            best = min(best, losses[k])
    total = 0.0
    for k in range(len(shares)):
        if shares[k] > 0.0:
            shares[k] = max(((best + TINY) / (losses[k] + TINY)) ** POWER, TINY)
            total += shares[k]
    for k in range(len(shares)):
        shares[k] /= total


@outlined
def track(
    offsets: Floats,
    errors: Floats,
    given: Floats,
    away: float,
    horizon: int,
    level: float,
    share: float,
    reach: float,
) -> None:
    """Move the bounds after an error, y less the forecast, in units of its series.

    `offsets` float64 (3,) are the lower bound, the upper bound, and the quantile `share`; `given` float64 (3,) are
    those with which the forecast was made, `horizon` rows ago. `errors` float64 (2,). Since so many forecasts are
    under way, steps of long horizons are smaller; they are larger for bounds that are far out. The median stays where
    the experts have it. The first bounds are `reach` mean errors away.
    """
    errors[SEEN] = min(errors[SEEN] + 1.0, HORIZON)
    size = min(abs(away), 20.0 * errors[ERROR]) if errors[SEEN] > 10.0 else abs(away)
    errors[ERROR] += (size - errors[ERROR]) / min(errors[SEEN], RECENT)
    if errors[SEEN] <= NORMAL:
        offsets[LOW], offsets[HIGH] = -reach * errors[ERROR], reach * errors[ERROR]
        return
    rate = (SLOW + FAST / math.sqrt(errors[SEEN])) / math.sqrt(horizon)
    outside = 0.5 * (1.0 - level)
    low, high = rate * max(errors[ERROR], abs(offsets[LOW])), rate * max(errors[ERROR], abs(offsets[HIGH]))
    offsets[LOW] -= low * ((1.0 if away < given[LOW] else 0.0) - outside)
    offsets[HIGH] += high * ((1.0 if away > given[HIGH] else 0.0) - outside)
    if share != 0.5:
        step = rate * max(errors[ERROR], abs(offsets[POINT]))
        offsets[POINT] += step * ((1.0 if away > given[POINT] else 0.0) - (1.0 - share))
