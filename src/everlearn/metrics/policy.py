"""The value of a policy from rows that another policy served: what it would have earned, with a confidence sequence.

Each logged row has an action drawn with a known probability, its propensity, and the reward of that action alone. With
w the probability that the evaluated policy gives to the action over its propensity, the mean of w times the reward is
the value of the policy. The state is a handful of sums, so that it does not depend on how rows are cut into calls.

The interval holds at every moment, and for policies and streams that change: it is about the mean, over the rows so
far, of what the policy was expected to earn in each. Rewards are scaled to [0, 1], so that x = w * reward is at least
0, however large w is, and x less a centre c in [0, 1] is at least -1. For a bet b in (0, 1), the product over rows of

    exp(b (x - mean) - psi(b) (x - c)^2),   psi(b) = -log(1 - b) - b

is a supermartingale (Fan, Grama & Liu 2015, "Exponential inequalities for martingales with applications", lemma 4.1;
Howard, Ramdas, McAuliffe & Sekhon 2021, arXiv 1810.08240, theorem 4), and so is a mixture of such products over bets
and centres. A mean at which it exceeds 2 / alpha is excluded (Ville's inequality); 1 - reward, the reward that was
missed, gives the other end. This is the use that Waudby-Smith, Wu, Ramdas, Karampatziakis & Mineiro make of it (arXiv
2210.10768, sec. 3 and 4) for values that vary over time. No weight is clipped, so nothing is biased.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from everlearn.errors import ConfigError, InputError
from everlearn.records import Arrays, Floats

ALPHA = 0.05
CENTRES = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
BETS = 0.75 * 0.5 ** np.arange(25.0)
_PRIOR = np.repeat(1.0 / np.square(np.arange(25.0) + 2.0), len(CENTRES))
_LOG_PRIOR = np.log(_PRIOR / _PRIOR.sum()).reshape(len(BETS), len(CENTRES))
_HALVINGS = 40  # of the interval in which an end is looked for

# Positions in the array of sums. g is the weight of a row, w its importance weight, r its reward.
(_ROWS, _G, _GW, _GWR, _GG, _GGW, _GGWR, _GGWW, _GGWWR, _GGWWRR, _DIRECT, _FORECASTS, _LARGEST) = range(13)


PolicyValue = TypedDict(
    "PolicyValue",
    {
        "value": float,
        "low": float,
        "high": float,
        "ips": float,
        "snips": float,
        "dr": float,
        "rows": int,
        "effective rows": float,
    },
)
"""The value of a policy, its interval, three estimates, and the rows behind them."""


def start() -> Arrays:
    """Return the arrays of a policy without rows: `policy_sums` float64 (13,).

    >>> {name: array.shape for name, array in start().items()}
    {'policy_sums': (13,)}
    """
    return {"policy_sums": np.zeros(13)}


def add(
    arrays: Arrays,
    probability: ArrayLike,
    value: ArrayLike,
    forecast: ArrayLike,
    propensity: ArrayLike,
    reward: ArrayLike,
    weight: ArrayLike = 1.0,
) -> None:
    """Add logged rows, in place; each argument is a number, or float (n,).

    `probability` is what the evaluated policy gives to the served action, `value` the reward that its model expects of
    the policy, and `forecast` that of the served action (both 0 where there is no model), all known before the reward.
    `propensity` is the probability with which the action was served. `weight` must not depend on action or reward.
    Rows whose propensity is not in (0, 1], or in which any number is not finite, or with a weight not above 0, are left
    out. Raises `InputError` for shapes that do not fit, or a probability outside [0, 1].

    >>> held = start()
    >>> add(held, [1.0, 0.0, 1.0], 0.0, 0.0, [0.5, 0.5, 0.5], [1.0, 0.0, 0.0])
    >>> found = report(held)
    >>> found["rows"], round(found["ips"], 3), found["snips"]
    (3, 0.667, 0.5)
    """
    given = [np.atleast_1d(np.asarray(one, np.float64)) for one in (probability, value, forecast)]
    given += [np.atleast_1d(np.asarray(one, np.float64)) for one in (propensity, reward, weight)]
    try:
        p, v, f, mu, r, g = np.broadcast_arrays(*given)
    except ValueError:
        shapes = ", ".join(str(one.shape) for one in given)
        raise InputError(f"policy value: got shapes {shapes}; expected numbers, or (n,) of one n") from None
    usable = np.isfinite([p, v, f, mu, r, g]).all(axis=0) & (mu > 0.0) & (mu <= 1.0 + 1e-6) & (g > 0.0)
    p, v, f, mu, r, g = (one[usable] for one in (p, v, f, mu, r, g))
    if not ((p >= 0.0) & (p <= 1.0 + 1e-6)).all():
        raise InputError(f"policy value: got a probability of {p[(p < 0.0) | (p > 1.0)][0]:g}; expected 0 to 1")
    if len(p):
        w = p / np.minimum(mu, 1.0)
        _accumulate(arrays["policy_sums"], w, v, f, r, g)


def _accumulate(sums: Floats, w: Floats, v: Floats, f: Floats, r: Floats, g: Floats) -> None:
    """Add rows one after the other, so that the bits do not depend on how they are cut."""
    gw, ggw = g * w, g * g * w
    columns = np.stack(
        [
            *(np.ones(len(w)), g, gw, gw * r, g * g, ggw, ggw * r, ggw * w, ggw * w * r, ggw * w * r * r),
            *(g * (v + w * (r - f)), g * (np.abs(v) + np.abs(f))),
        ]
    )
    sums[:_LARGEST] = np.cumsum(np.column_stack([sums[:_LARGEST], columns]), axis=1)[:, -1]
    sums[_LARGEST] = max(sums[_LARGEST], float(g.max()))


def report(arrays: Arrays, rewards: tuple[float, float] = (0.0, 1.0), alpha: float = ALPHA) -> PolicyValue:
    """Return the value of a policy, in units of the reward.

    `low` and `high` hold the mean expected reward of the policy over the rows so far, at all times with probability at
    least 1 - `alpha`, if rewards lie within `rewards`, the lowest and the highest one, and propensities are right.
    `ips` weights rewards (inverse propensity scores), `snips` divides that by the mean weight, `dr` is doubly robust
    (Dudik, Langford & Li 2011). `value` is `dr` where a model gave forecasts, else `snips`, cut to the interval.
    `effective rows` is (sum of weights)^2 over the sum of their squares: so many rows of the policy itself say as much.

    Raises `ConfigError` for an alpha outside (0, 1), or rewards that are not a range.

    >>> random = np.random.default_rng(0)
    >>> action, held = random.integers(0, 2, 4000), start()
    >>> add(held, action == 1, 0.7, 0.7, 0.5, random.random(4000) < np.where(action, 0.7, 0.4))
    >>> found = report(held)
    >>> round(found["value"], 2), bool(found["low"] < 0.7 < found["high"]), round(found["high"] - found["low"], 2)
    (0.7, True, 0.09)
    """
    low, high = float(rewards[0]), float(rewards[1])
    if not (0.0 < alpha < 1.0 and math.isfinite(high - low) and low < high):
        raise ConfigError(
            f"policy value: got rewards {low:g} to {high:g} and an alpha of {alpha!r}; expected the lowest and the "
            "highest reward, and a probability above 0 and below 1"
        )
    sums = arrays["policy_sums"]
    total, weights = float(sums[_G]), float(sums[_GW])
    if total <= 0.0:
        middle = 0.5 * (low + high)
        return {
            "value": middle,
            "low": low,
            "high": high,
            "ips": middle,
            "snips": middle,
            "dr": middle,
            "rows": 0,
            "effective rows": 0.0,
        }
    ips = float(sums[_GWR]) / total
    snips = float(sums[_GWR]) / weights if weights > 0.0 else 0.5 * (low + high)
    dr = float(sums[_DIRECT]) / total
    wide = high - low
    least = _least(sums, low, 1.0 / wide, 0.5 * alpha)
    most = 1.0 - _least(sums, high, -1.0 / wide, 0.5 * alpha)
    ends = low + wide * least, low + wide * max(most, least)
    best = dr if sums[_FORECASTS] > 0.0 else snips
    return {
        "value": min(max(best, ends[0]), ends[1]),
        "low": ends[0],
        "high": ends[1],
        "ips": ips,
        "snips": snips,
        "dr": dr,
        "rows": int(sums[_ROWS]),
        "effective rows": weights * weights / float(sums[_GGWW]) if weights > 0.0 else 0.0,
    }


def _least(sums: Floats, origin: float, scale: float, alpha: float) -> float:
    """Return the lower end for the mean of w * (reward - origin) * scale, which is never negative."""
    total, square = float(sums[_G]), scale * scale
    earned = scale * float(sums[_GWR] - origin * sums[_GW])
    second = square * float(sums[_GGWWRR] - 2.0 * origin * sums[_GGWWR] + origin * origin * sums[_GGWW])
    mixed = scale * float(sums[_GGWR] - origin * sums[_GGW])
    spread = np.maximum(second - 2.0 * CENTRES * mixed + CENTRES * CENTRES * sums[_GG], 0.0)
    largest = max(float(sums[_LARGEST]), 1.0)
    usable = BETS * largest < 1.0  # what was put on larger bets is lost
    scaled = np.where(usable, BETS * largest, 0.5)
    cost = (-np.log1p(-scaled) - scaled) / (largest * largest)
    fixed = np.where(usable[:, None], _LOG_PRIOR - cost[:, None] * spread[None, :], -math.inf)
    threshold = math.log(1.0 / alpha)

    def wealth(mean: float) -> float:
        logs = fixed + (BETS * (earned - total * mean))[:, None]
        highest = float(logs.max())
        return highest + math.log(float(np.exp(logs - highest).sum()))

    if wealth(0.0) < threshold:
        return 0.0
    inside, outside = 1.0, 0.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (inside + outside)
        inside, outside = (middle, outside) if wealth(middle) < threshold else (inside, middle)
    return outside
