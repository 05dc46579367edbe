"""Class weights: factors on the weights that models learn with, and on nothing else.

A table gives each class a factor. "balanced" gives a class with the weight w of the total W of k classes so far the
factor (W + k) / (k (w + 1)): scikit-learn's W / (k w), as it stands before each label, with one row of each class to
begin with (Laplace). It is at most 100. Metrics, the gate, the naive baselines and replay keep the plain weights.
"""

from __future__ import annotations

import numpy as np

from everlearn._jit import exact_kernel
from everlearn.errors import ConfigError
from everlearn.records import Arrays, Floats, Singles
from everlearn.serve.deciding import class_index
from everlearn.spec import Spec

MOST = 100.0


class ClassWeights:
    """The factors of one loop; `arrays` is all their state, empty unless they are "balanced".

    Raises `ConfigError` for a regression, and for an unknown class.
    """

    def __init__(self, spec: Spec) -> None:
        classes, given = len(spec.schema.classes), spec.class_weight
        if given and not classes:
            raise ConfigError("class_weight: got it for a regression; expected a task with classes. Remove it")
        self.arrays: Arrays = {"counts": np.zeros(classes)} if given == "balanced" else {}
        self._fixed = np.ones(classes)
        if isinstance(given, dict):
            for name, factor in given.items():
                if not 0.0 < factor < np.inf:
                    raise ConfigError(f"class_weight.{name}: got {factor}; expected a finite number above 0")
                self._fixed[class_index(spec.schema, name, "class_weight")] = factor
        self._is_plain = not given

    def __bool__(self) -> bool:
        """Return True if any factor may differ from 1."""
        return not self._is_plain

    def take(self, y: Floats, weight: Singles) -> Singles | None:
        """Return the factors of n labels, float32 (n,), and count them, in order; None where all factors are 1.

        `y` is float64 (n,), `weight` float32 (n,). A factor knows the labels before its own.
        """
        if self._is_plain:
            return None
        if not self.arrays:
            return self._fixed[y.astype(np.int64)].astype(np.float32)
        factors = np.empty(len(y), np.float32)
        labels, weights = np.ascontiguousarray(y, np.float64), np.ascontiguousarray(weight, np.float32)
        _balance(self.arrays["counts"], labels, weights, factors)
        return factors

    def one(self, y: float, weight: float) -> float:
        """Return the factor of one label, and count it."""
        if self._is_plain:
            return 1.0
        factors = self.take(np.array([y]), np.array([weight], np.float32))
        assert factors is not None
        return float(factors[0])

    def now(self, y: Floats, weight: Singles) -> Singles:
        """Return `weight` times the factors of this moment, float32 (n,), without counting the labels again."""
        if self._is_plain:
            return weight
        factors = self._fixed
        if self.arrays:
            counts = self.arrays["counts"]
            factors = np.minimum((counts.sum() + len(counts)) / (len(counts) * (counts + 1.0)), MOST)
        return weight * factors[y.astype(np.int64)].astype(np.float32)

    def weigh(self, y: Floats, weight: Singles) -> Singles:
        """Return `weight` times the factors of n labels, float32 (n,), and count the labels in order."""
        factors = self.take(y, weight)
        return weight if factors is None else weight * factors


@exact_kernel
def _balance(counts: Floats, y: Floats, weight: Singles, factors: Singles) -> None:
    classes = len(counts)
    for row in range(len(y)):
        label = np.int64(y[row])
        factors[row] = min((counts.sum() + classes) / (classes * (counts[label] + 1.0)), MOST)
        counts[label] += np.float64(weight[row])
