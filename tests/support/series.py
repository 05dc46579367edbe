"""Series of numbers for the tests of drift."""

from __future__ import annotations

import numpy as np


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
