"""The exact fit of the reward head: Laplace's approximation in function space, draws, and what leaves the window.

`reward` has the model and its arrays. A fit finds the mode by damped Newton steps (Rasmussen and Williams 2006,
"Gaussian Processes for Machine Learning", algorithm 3.1), and draws by Matheron's rule (Wilson et al. 2021, "Pathwise
conditioning of Gaussian processes"). At the mode each dual variable equals the slope of its label's log-likelihood, and
the weights are the prior mean plus prior variance times gradient.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import ModelError
from everlearn.families.preference.dual_kernels import curve, sweep
from everlearn.records import Arrays, Floats, Ints

SWEEPS = 4  # passes over the window for a label between two fits
STEPS, TOLERANCE = 60, 1e-5  # Newton steps of one fit at most; the largest residual of a dual variable at its end
BLOCK = 128  # rows of a block of the triangular solver
LEAST_CURVATURE = 1e-12
ENOUGH = 0.7  # a step that leaves at most this part of the residual needs no new factorisation
COLUMNS = (  # of the window: a row for each label, under "learn/"
    *("difference", "terms", "noise", "label", "weight", "dual", "reliability"),
    *("group", "kind", "who", "arm", "number"),
)
SMALLEST, FARTHEST = 1e-6, 1e-3  # part of a Newton step; residual of a fit on reliable labels that is still used

COUNT, TOTAL, FITTED, NEWTON = range(
    4
)  # columns of "learn/counts": labels held, labels learned, at last fit, its steps


def refine(arrays: Arrays, sweeps: int = SWEEPS) -> None:
    """Move the mean by coordinate steps on the window's dual variables, newest label first, in place.

    Draws move along with the mean. Repeated, this reaches the mean of `fit`. A sweep costs about 8 n d operations.

    >>> from everlearn.families.preference.reward import start
    >>> refine(start(2))
    """
    n = int(arrays["learn/counts"][COUNT])
    sweep(
        sweeps,
        arrays["learn/difference"][:n],
        arrays["learn/terms"][:n],
        arrays["learn/group"][:n],
        arrays["learn/kind"][:n],
        np.stack([arrays[f"learn/{name}"][:n] for name in ("label", "weight", "reliability")]),
        arrays["learn/dual"][:n],
        arrays["weights"],
        arrays["learn/prior_variance"],
        arrays["bias"],
        arrays["learn/bias_variance"],
    )


def fit(arrays: Arrays, reliability: Floats | None = None) -> float:
    """Fit mean and draws to the window exactly, in place, starting from the present dual variables.

    `reliability` as in `learn`; where given, all labels of the window get their annotator's present value. Returns the
    largest residual of a dual variable. Where labels are doubted, the posterior may have saddles, which steps leave
    slowly: a fit that ends there is used, and the next one goes on from it. Raises `ModelError` if the Newton steps do
    not converge on labels that are all reliable, or reach a value that is not finite.

    >>> from everlearn.families.preference.reward import start
    >>> fit(start(2))
    0.0
    """
    counts = arrays["learn/counts"]
    n = int(counts[COUNT])
    counts[FITTED], counts[NEWTON] = counts[TOTAL], 0
    if not n:
        return 0.0
    if reliability is not None:
        arrays["learn/reliability"][:n] = reliability[arrays["learn/who"][:n]]
    kernel = _kernel(arrays, n)
    offset = _logits(arrays, n, arrays["learn/prior_mean"][None], arrays["learn/bias_mean"][None])[:, 0]
    dual, f, residual = _newton(arrays, n, kernel, offset)
    arrays["learn/dual"][:n] = dual
    _, slope, curvature, _ = _likelihood(arrays, n, f)
    root = np.sqrt(np.maximum(curvature, LEAST_CURVATURE))
    weights, bias = prior_draws(arrays)
    prior = _logits(arrays, n, weights, bias)
    gap = root[:, None] * (f[:, None] - prior) + (slope / root)[:, None] - arrays["learn/noise"][:n]
    lower = _factor(kernel, root)
    pull = root[:, None] * _solved(lower, gap)
    moved, _ = _pulled(arrays, n, pull)
    mean, shift = _pulled(arrays, n, dual[:, None])
    arrays["weights"][:] = arrays["learn/prior_mean"] + mean[0]
    arrays["bias"][:] = arrays["learn/bias_mean"] + shift[0]
    arrays["deviations"][:] = weights + moved - arrays["weights"]
    return residual


def _newton(arrays: Arrays, n: int, kernel: Floats, offset: Floats) -> tuple[Floats, Floats, float]:
    """Return the dual variables of the mode, its logits and the largest residual.

    The curvature is the observed information where positive; it is renewed when a step has not reduced the residual to
    `ENOUGH` of what it was, since the factorisation costs most. A step is halved until the posterior does not fall.
    """
    dual = arrays["learn/dual"][:n].copy()
    f = offset + kernel @ dual
    value, slope, _, curvature = _likelihood(arrays, n, f)
    best = value - 0.5 * float(dual @ (f - offset))
    before = np.inf
    for step in range(STEPS):
        residual = float(np.abs(dual - slope).max())
        if residual < TOLERANCE:
            return dual, f, residual
        if step == 0 or residual > ENOUGH * before:
            root = np.sqrt(np.maximum(curvature, LEAST_CURVATURE))
            lower = _factor(kernel, root)
        before = residual
        wanted = root**2 * (f - offset) + slope
        target = wanted - root * _solved(lower, root * (kernel @ wanted))
        size, change = 1.0, target - dual
        moved = kernel @ change
        while True:
            new, logits = dual + size * change, f + size * moved
            value, slope, _, curvature = _likelihood(arrays, n, logits)
            reached = value - 0.5 * float(new @ (logits - offset))
            if reached >= best - 1e-12 * (1.0 + abs(best)) or size < SMALLEST:
                break
            size *= 0.5
        dual, f, best = new, logits, reached
        arrays["learn/counts"][NEWTON] = step + 1
    residual = float(np.abs(dual - slope).max())
    doubted = bool((arrays["learn/reliability"][:n] < 1).any())
    if not np.isfinite(residual) or (residual > FARTHEST and not doubted):
        raise ModelError(
            f"reward: Newton stopped at a residual of {residual:.2g} after {STEPS} steps; expected below {FARTHEST}. "
            "Check the features for columns of extreme size."
        )
    return dual, f, residual


def _likelihood(arrays: Arrays, n: int, f: Floats) -> tuple[float, Floats, Floats, Floats]:
    """Return the log-likelihood of the window's labels, its slope, Fisher and observed information by logit."""
    label, weight, reliability = (arrays[f"learn/{name}"][:n] for name in ("label", "weight", "reliability"))
    value, slope, fisher, observed = curve(f, label, weight, reliability)
    return float(value.sum()), slope, fisher, observed


def _kernel(arrays: Arrays, n: int) -> Floats:
    """Return the prior covariance of the window's logits, (n, n)."""
    x, variance = arrays["learn/difference"][:n].astype(np.float64), arrays["learn/prior_variance"]
    kernel = (x * variance[0]) @ x.T
    for rows, group in _each(arrays["learn/group"][:n]):
        kernel[np.ix_(rows, rows)] += (x[rows] * variance[1 + group]) @ x[rows].T
    for rows, kind in _each(arrays["learn/kind"][:n]):
        terms = arrays["learn/terms"][rows]
        kernel[np.ix_(rows, rows)] += (terms * arrays["learn/bias_variance"][kind]) @ terms.T
    return np.asarray(kernel)


def _each(numbers: Ints) -> list[tuple[Ints, int]]:
    return [(np.flatnonzero(numbers == one), int(one)) for one in np.unique(numbers)]


def _logits(arrays: Arrays, n: int, weights: Floats, bias: Floats) -> Floats:
    """Return the window's logits, (n, m), for m sets of weights, (m, 1 + G, d), and of bias coefficients, (m, K, 3)."""
    x = arrays["learn/difference"][:n].astype(np.float64)
    found = x @ weights[:, 0].T
    for rows, group in _each(arrays["learn/group"][:n]):
        found[rows] += x[rows] @ weights[:, 1 + group].T
    for rows, kind in _each(arrays["learn/kind"][:n]):
        found[rows] += arrays["learn/terms"][rows] @ bias[:, kind].T
    return np.asarray(found)


def _pulled(arrays: Arrays, n: int, dual: Floats) -> tuple[Floats, Floats]:
    """Return prior variance times the gradient by the weights, (m, 1 + G, d), and by the biases, for duals (n, m)."""
    x = arrays["learn/difference"][:n].astype(np.float64)
    weights = np.zeros((dual.shape[1], *arrays["weights"].shape))
    bias = np.zeros((dual.shape[1], *arrays["bias"].shape))
    weights[:, 0] = dual.T @ x
    for rows, group in _each(arrays["learn/group"][:n]):
        weights[:, 1 + group] = dual[rows].T @ x[rows]
    for rows, kind in _each(arrays["learn/kind"][:n]):
        bias[:, kind] = dual[rows].T @ arrays["learn/terms"][rows]
    return weights * arrays["learn/prior_variance"], bias * arrays["learn/bias_variance"]


def prior_draws(arrays: Arrays) -> tuple[Floats, Floats]:
    """Return draws from the prior: the same standard normals at every fit, so that draws move little between fits."""
    random = np.random.default_rng([int(arrays["learn/seed"][0]), 0])
    draws = len(arrays["deviations"])
    weights = random.standard_normal((draws, *arrays["weights"].shape))
    bias = random.standard_normal((draws, *arrays["bias"].shape))
    weights = arrays["learn/prior_mean"] + np.sqrt(arrays["learn/prior_variance"]) * weights
    return weights, arrays["learn/bias_mean"] + np.sqrt(arrays["learn/bias_variance"]) * bias


def _factor(kernel: Floats, root: Floats) -> Floats:
    """Return the Cholesky factor of 1 + W^(1/2) K W^(1/2)."""
    inner = kernel * root[:, None] * root
    inner.flat[:: len(inner) + 1] += 1.0
    return np.asarray(np.linalg.cholesky(inner))


def _solved(lower: Floats, right: Floats) -> Floats:
    """Return (L L')^-1 applied to (n,) or (n, m), by blocks."""
    found, n = np.array(right, np.float64), len(lower)
    for begin in range(0, n, BLOCK):
        rows = slice(begin, begin + BLOCK)
        found[rows] = np.linalg.solve(lower[rows, rows], found[rows] - lower[rows, :begin] @ found[:begin])
    for begin in range((n - 1) // BLOCK * BLOCK, -1, -BLOCK):
        rows = slice(begin, begin + BLOCK)
        rest = lower[begin + BLOCK :, rows].T @ found[begin + BLOCK :]
        found[rows] = np.linalg.solve(lower[rows, rows].T, found[rows] - rest)
    return found


# ---- leaving the window --------------------------------------------------------------------------------------------


def absorb(arrays: Arrays, oldest: int) -> None:
    """Move the oldest labels of the window into the prior, where the mode of the posterior stays as it is.

    The dual variables are the slopes of the likelihood at the mode, so the mode is prior mean + variance * gradient.
    """
    slope, variance = arrays["learn/dual"], arrays["learn/prior_variance"]
    f = _logits(arrays, oldest, arrays["weights"][None], arrays["bias"][None])[:, 0]
    _, _, curvature, _ = _likelihood(arrays, oldest, f)
    x, terms = arrays["learn/difference"][:oldest].astype(np.float64), arrays["learn/terms"]
    for rows, part in [(np.arange(oldest), 0), *((r, 1 + g) for r, g in _each(arrays["learn/group"][:oldest]))]:
        _tightened(
            arrays["learn/prior_mean"][part], variance[part], arrays["weights"][part],
            slope[rows] @ x[rows], curvature[rows] @ x[rows] ** 2,
        )  # fmt: skip
    for rows, kind in _each(arrays["learn/kind"][:oldest]):
        _tightened(
            arrays["learn/bias_mean"][kind], arrays["learn/bias_variance"][kind], arrays["bias"][kind],
            slope[rows] @ terms[rows], curvature[rows] @ terms[rows] ** 2,
        )  # fmt: skip
    kept = np.ones(int(arrays["learn/counts"][COUNT]), np.bool_)
    kept[:oldest] = False
    keep(arrays, kept)


def _tightened(mean: Floats, variance: Floats, mode: Floats, gradient: Floats, information: Floats) -> None:
    """Add a Gaussian factor to a diagonal prior, in place, whose gradient at the mode is the given one.

    With precision P and P' = P + information: P' (mode - mean') = P (mode - mean) - gradient; all in variances, since
    a variance may be 0.
    """
    new = variance / (1.0 + variance * information)
    ratio = np.divide(new, variance, out=np.ones_like(variance), where=variance > 0)
    mean[:] = mode - ratio * (mode - mean) + new * gradient
    variance[:] = new


def keep(arrays: Arrays, kept: NDArray[np.bool_]) -> None:
    """Close the gaps that labels leave in the window."""
    n, left = len(kept), int(kept.sum())
    for name in COLUMNS:
        column = arrays[f"learn/{name}"]
        column[:left] = column[:n][kept]
        column[left:n] = 0
    arrays["learn/counts"][COUNT] = left
