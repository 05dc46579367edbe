"""The memory after a step: rows that prevent a step are not remembered."""

from __future__ import annotations

import numpy as np
import pytest

import everlearn as el
from everlearn.families.neural.training_state import PASSES, SKIPPED, TAKEN
from tests.support.neural_nets import BALANCED, HERE, bytes_of, examples, learn, one_thread, resumed  # noqa: F401  (one_thread)


@pytest.mark.parametrize("kind", ["window", "reservoir", "balanced", "loss", "gradient"])
@pytest.mark.parametrize("fault", ["weight", "answer"])
def test_a_row_that_makes_a_step_impossible_is_not_remembered(kind: str, fault: str) -> None:
    spec = {**BALANCED, "family": HERE + "Steep", "terms": [{"kind": "distill"}], "memory": {"kind": kind, "rows": 200}}
    rows = examples(100, 5, 3)
    if fault == "weight":
        rows.weight[[12, 17]] = 1e25
    else:
        rows.batch.dense[[12, 17], 1] = 1e5
    model = el.build(spec)
    learn(model, rows)
    counts = model.arrays["learn/counts"]
    assert (counts[PASSES], counts[TAKEN], counts[SKIPPED]) == (10, 9, 1)
    positions = model.arrays["learn/memory/position"][:98].tolist()
    assert sorted(positions) == [at for at in range(100) if at not in (12, 17)]
    assert np.isfinite(model.arrays["learn/memory/said"]).all()
    held = dict(zip(positions, model.arrays["learn/memory/y"], strict=False))
    assert all(held[at] == rows.y[at] for at in positions)
    assert bytes_of(resumed(spec, rows, 13, 20, 34).arrays) == bytes_of(model.arrays)
