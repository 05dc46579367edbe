"""A dueling bandit: which of two rows of features is preferred, and which two of many to compare next.

A row holds the features of two things one after the other, and its label is 1 if the first was preferred. The model is
that of Bradley & Terry (1952) with a linear score: the logit that a is preferred to b is w . (a - b), in deviations of
each feature over the first hundred duels. (Later ones do not count, since chosen pairs resemble each other.) The
posterior of w is normal, and each row is one step of an extended Kalman
filter for the logistic model: with p the predicted probability, z the variance of the logit and h = p (1 - p),

    w += P x (y - p) / (1 + h z),   P -= P x x' P h / (1 + h z)

Pairs are chosen by double Thompson sampling (Wu & Liu 2016, arXiv 1604.07101): two posterior draws, and the best row by
each. Where both agree again and again, the second is the row whose difference from the first is least known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.errors import ConfigError, InputError
from everlearn.families import batches, specs
from everlearn.families.bandit.rows import LARGEST_DEVIATION, LARGEST_VALUE, SETTLED_AFTER, dot, shrink, variance_along
from everlearn.families.bandit.settings import LARGEST_WEIGHT, full
from everlearn.families.kernel_parts import compiled, inlined, source_hash
from everlearn.model import described
from everlearn.records import Arrays, Batch, Floats, Singles

PRIOR_VARIANCE = 1.0  # of each weight before the first duel
COUNTED = 200.0  # values of each feature that are counted, two for each duel
DRAWS = 20  # second draws before the next best row is taken


class DuelingSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a dueling bandit.

    `dense` is twice the number of features; `seed` decides which pairs it takes.
    """

    family: Literal["dueling"] = "dueling"
    task: Literal["binary"] = "binary"
    dense: int
    hashed: int = 0
    classes: int = 2
    seed: int = 0


class Dueling:
    """A Bradley-Terry model of two rows of features, with a normal posterior.

    Arrays: `weights` float64 (d,); `covariance` float64 (d, d), or its diagonal (1, d) above 64 features; `moments`
    float64 (3, d), count, mean and squared deviations of the features; `counts` float64 (1,), duels learned.
    """

    def __init__(self, spec: dict[str, Any], settings: DuelingSettings) -> None:
        self.spec: Mapping[str, Any] = spec
        self._columns, self._seed = settings.dense, settings.seed
        d = settings.dense // 2
        self.arrays: Arrays = {
            "weights": np.zeros(d),
            "covariance": PRIOR_VARIANCE * (np.eye(d) if full(d, 1) else np.ones((1, d))),
            "moments": np.zeros((3, d)),
            "counts": np.zeros(1),
        }

    def __repr__(self) -> str:
        return described(self)

    def predict(self, batch: Batch) -> Singles:
        """Return the probabilities that the second and the first of each row are preferred, float32 (n, 2).

        Raises `InputError` for another number of columns.
        """
        dense, out = batches.rows(batch, self._columns)[0], np.empty((len(batch), 2), np.float32)
        _kernels()[0](*self._state(), dense, out)
        return out

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Predict and then learn n duels, in order; return the predictions. `y` is 1 where the first is preferred.

        A row with a label that is not finite or a weight that is not a finite number above 0 is only predicted. Raises
        `InputError`, with nothing learned, if the batch does not fit or a label is neither 0 nor 1.
        """
        dense, out = batches.rows(batch, self._columns)[0], np.empty((len(batch), 2), np.float32)
        y, weight = batches.labels(y, weight, len(batch))
        batches.check_classes(y, 2)
        _kernels()[1](*self._state(), dense, y, weight, out)
        return out

    def choose(self, rows: Singles, key: int = 0) -> tuple[int, int]:
        """Return the two of n rows, float32 (n, d), that should be compared next.

        The pair is a function of the seed, the duels learned, and `key`. Raises `InputError` for fewer than two rows,
        or another number of features.
        """
        rows = np.asarray(rows, np.float64)
        if rows.ndim != 2 or len(rows) < 2 or 2 * rows.shape[1] != self._columns:
            raise InputError(
                f"choose: got rows of shape {rows.shape}; expected at least 2 rows of {self._columns // 2} features"
            )
        count, _, m2 = self.arrays["moments"]
        scale = np.where(m2 > 0.0, np.sqrt(count / np.where(m2 > 0.0, m2, 1.0)), 1.0)
        inputs = np.where(np.isfinite(rows), rows, 0.0) * scale
        random = np.random.default_rng([self._seed, int(self.arrays["counts"][0]), key])
        covariance, weights = self.arrays["covariance"], self.arrays["weights"]
        one_axis = covariance.shape[0] != covariance.shape[1]
        root = np.sqrt(covariance[0]) if one_axis else np.linalg.cholesky(covariance + 1e-12 * np.eye(len(weights)))
        first = -1
        for _ in range(1 + DRAWS):
            noise = random.standard_normal(len(weights))
            worth = inputs @ (weights + (root * noise if one_axis else root @ noise))
            best = int(worth.argmax())
            if first >= 0 and best != first:
                return first, best
            first = best
        worth[first] = -math.inf
        return first, int(worth.argmax())

    def _state(self) -> list[NDArray[Any]]:
        return [self.arrays[name] for name in ("weights", "covariance", "moments", "counts")]


@inlined
def counted(v: float, n: float, mean: float, m2: float) -> tuple[float, float, float]:
    """Return count, mean and sum of squared deviations with one more value (Welford 1962), within bounds."""
    delta = v - mean
    if n >= SETTLED_AFTER and m2 > 0.0:
        most = LARGEST_VALUE * math.sqrt(m2 / n)
        delta = min(max(delta, -most), most)
    return n + 1.0, mean + delta / (n + 1.0), m2 + delta * delta * n / (n + 1.0)


@inlined
def with_row(moments: Floats, j: int, first: float, second: float) -> tuple[float, float, float]:
    """Return the moments of feature j with both values of a row, as long as they are counted."""
    n, mean, m2 = moments[0, j], moments[1, j], moments[2, j]
    if n < COUNTED:
        n, mean, m2 = counted(first, n, mean, m2)
        n, mean, m2 = counted(second, n, mean, m2)
    return n, mean, m2


@inlined
def differ(weights: Floats, covariance: Floats, moments: Floats, dense: Singles, i: int, x: Floats, g: Floats) -> float:
    """Write the scaled differences of row i to `x` and P x to `g`; return the variance of the logit."""
    d = len(weights)
    for j in range(d):
        first, second = np.float64(dense[i, j]), np.float64(dense[i, d + j])
        x[j] = 0.0
        if abs(first - second) < math.inf:
            n, _, m2 = with_row(moments, j, first, second)
            if m2 > 0.0:
                v = (first - second) * math.sqrt(n / m2)
                x[j] = min(max(v, -2.0 * LARGEST_DEVIATION), 2.0 * LARGEST_DEVIATION)
    return variance_along(covariance, x, g) if d > 0 else 0.0


@inlined
def sigmoid(v: float) -> float:
    """Return the logistic function."""
    return 1.0 / (1.0 + math.exp(-min(max(v, -500.0), 500.0)))


@inlined
def write(margin: float, z: float, out: Singles, i: int) -> None:
    """Write both probabilities, averaged over the posterior of the logit (MacKay 1992)."""
    p = sigmoid(margin / math.sqrt(1.0 + math.pi * z / 8.0))
    out[i, 0] = 1.0 - p
    out[i, 1] = p


def _predictor(sources: str) -> Callable[..., int]:
    @exact_kernel
    def predict(weights, covariance, moments, counts, dense, out):  # type: ignore[no-untyped-def]
        _ = sources
        x, g = np.zeros(len(weights)), np.zeros(len(weights))
        for i in range(len(dense)):
            z = differ(weights, covariance, moments, dense, i, x, g)
            write(dot(weights, x), z, out, i)
        return 0

    return predict


def _learner(sources: str) -> Callable[..., int]:
    @exact_kernel
    def learn(weights, covariance, moments, counts, dense, y, weight, out):  # type: ignore[no-untyped-def]
        _ = sources
        d = len(weights)
        x, g = np.zeros(d), np.zeros(d)
        for i in range(len(dense)):
            z = differ(weights, covariance, moments, dense, i, x, g)
            margin = dot(weights, x)
            write(margin, z, out, i)
            if not (abs(y[i]) < math.inf and weight[i] > 0.0 and weight[i] < math.inf):
                continue
            w, p = min(np.float64(weight[i]), LARGEST_WEIGHT), sigmoid(margin)
            h = w * p * (1.0 - p)
            move = w * (y[i] - p) / (1.0 + h * max(z, 0.0))
            for j in range(d):
                weights[j] += move * g[j]
            if d > 0:
                shrink(covariance, g, h / (1.0 + h * max(z, 0.0)), h / (1.0 + h * max(z, 0.0)))
            counts[0] += 1.0
            for j in range(d):
                first, second = np.float64(dense[i, j]), np.float64(dense[i, d + j])
                if abs(first - second) < math.inf:
                    moments[0, j], moments[1, j], moments[2, j] = with_row(moments, j, first, second)
        return 0

    return learn


@cache
def _kernels() -> tuple[Callable[..., int], Callable[..., int]]:
    """Return the kernels that predict and learn."""
    sources = source_hash(Path(__file__).parent, ())
    state, written = "float64:1 float64:2 float64:2 float64:1", "float64:1! float64:2! float64:2! float64:1!"
    return (
        compiled(_predictor(sources), f"{state} float32:2 float32:2!"),
        compiled(_learner(sources), f"{written} float32:2 float64:1 float32:1 float32:2!"),
    )


def build(spec: Mapping[str, Any]) -> Dueling:
    """Make an untrained dueling bandit. Raises `ConfigError` for an unknown setting or a wrong value.

    >>> model, random = build({"dense": 4}), np.random.default_rng(0)
    >>> things = random.normal(size=(6, 2)).astype(np.float32)
    >>> nothing = np.array([0, 0]), np.zeros(0, np.int32), np.zeros(0, np.float32)
    >>> for _ in range(200):
    ...     a, b = model.choose(things)
    ...     duel = Batch(np.concatenate([things[a], things[b]])[None, :], *nothing)
    ...     y = np.array([float(things[a, 0] > things[b, 0])])
    ...     answer = model.learn(duel, y, np.ones(1, np.float32))
    >>> int(things[:, 0].argmax()) in model.choose(things)
    True
    """
    settings = specs.convert(dict(spec), DuelingSettings, "dueling", {})
    if settings.dense < 0 or settings.dense % 2 or settings.hashed or settings.classes != 2:
        raise ConfigError(
            f"dueling model: got dense {settings.dense}, hashed {settings.hashed} and classes {settings.classes}; "
            "expected an even number of dense columns (the features of the first, then of the second), no hashed "
            "entries, and 2 classes"
        )
    return Dueling(specs.written(settings, {}), settings)
