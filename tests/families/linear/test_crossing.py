"""Products of columns and of hashed entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from everlearn.families.linear import build
from tests.support.linear_rows import (
    BINARY,
    dense_batch,
    hashed_batch,
)

Array = NDArray[Any]


@pytest.mark.parametrize("kind", ["dense", "hashed"])
def test_pairs_learn_what_no_sum_can(kind: str) -> None:
    """Exclusive or: no linear score of the two inputs tells, their product does."""
    random = np.random.default_rng(4)
    signs = random.choice([-1.0, 1.0], (2000, 2))
    y = (signs[:, 0] == signs[:, 1]).astype(float)
    hashed = hashed_batch([{int(a > 0): 1.0, 2 + int(b > 0): 1.0} for a, b in signs])
    batch = dense_batch(signs) if kind == "dense" else hashed
    shape = {"dense": 2} if kind == "dense" else {"dense": 0, "hashed": 1024}
    scores = {}
    for pairs in ("none", kind):
        model = build({**BINARY, **shape, "interactions": pairs, "layout": 1})
        scores[pairs] = ((model.learn(batch, y, np.ones(2000, np.float32))[1000:, 1] > 0.5) == y[1000:]).mean()
    assert scores["none"] < 0.6
    assert scores[kind] > 0.99
