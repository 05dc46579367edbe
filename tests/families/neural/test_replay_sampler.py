"""Minibatches of new and remembered rows, with and without kernels."""

from __future__ import annotations

import numpy as np
import pytest

import everlearn as el
from tests.support.neural_nets import CLASSES, DENSE, SPEC, examples, learn, one_thread  # noqa: F401  (one_thread)


@pytest.mark.parametrize("terms", [["replay"], ["distill"], ["distill", "replay"]])
def test_a_memory_that_kernels_do_not_reach_makes_the_same_minibatches(terms: list[str]) -> None:
    """As on a GPU: here because no kernel knows float16; of small whole numbers it holds what float32 does."""
    rows = examples(95, DENSE, CLASSES)
    rows.batch.dense[:] = np.round(rows.batch.dense * 4)
    spec = {**SPEC, "balance": True, "terms": [{"kind": one} for one in terms]}
    near, far = (el.build({**spec, "memory": {"rows": 30, "dtype": dtype}}) for dtype in ("float32", "float16"))
    assert (learn(near, rows) == learn(far, rows)).all()
    for name, one in near.arrays.items():
        if name != "learn/memory/dense":
            assert (far.arrays[name] == one).all(), name
    assert (far.arrays["learn/memory/dense"] == near.arrays["learn/memory/dense"]).all()
