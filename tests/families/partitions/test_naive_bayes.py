from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.merge.partitions import merged
from everlearn.records import Arrays
from tests.support.partitions import BINARY, grown, labelled, learner

COUNTED = {"family": "naive_bayes", **BINARY, "memory": 0}


def both(spec: dict[str, Any]) -> tuple[Arrays, Arrays]:
    """Return the arrays of three merged learners, and those of one learner of all rows."""
    base, more = labelled(100), [labelled(n, 1 + p) for p, n in enumerate((40, 30, 20))]
    start = learner(spec, base)
    parts = [grown(spec, start.arrays, p, 3, rows).arrays for p, rows in enumerate(more)]
    return merged(start.spec, start.arrays, parts, [40, 30, 20]), learner(spec, base, *more).arrays


def test_counts_are_exactly_those_of_one_learner() -> None:
    found, alone = both(COUNTED)
    for name in ("counts", "table", "totals"):
        assert found[name].tobytes() == alone[name].tobytes(), name
    assert found["columns"][:, :, 0].tolist() == alone["columns"][:, :, 0].tolist()
    np.testing.assert_allclose(found["columns"], alone["columns"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found["moments"][:, :3], alone["moments"][:, :3], rtol=1e-9, atol=1e-9)
    assert found["moments"][:, 3:].tobytes() == alone["moments"][:, 3:].tobytes()


def test_an_entry_that_several_parts_meet_first_is_counted_once() -> None:
    spec, start = COUNTED, learner(COUNTED)
    rows = [labelled(5, 1), labelled(5, 1)]
    parts = [grown(spec, start.arrays, p, 2, one).arrays for p, one in enumerate(rows)]
    found = merged(start.spec, start.arrays, parts, [5, 5])
    assert found["totals"][0, -1] == len(set(rows[0].batch.indices.tolist()))


def test_the_fading_bank_remembers_as_many_rows_as_one_learner() -> None:
    found, alone = both({**COUNTED, "memory": 20})
    assert found["counts"][0].tobytes() == alone["counts"][0].tobytes()
    weight = [one["counts"][1].sum() / one["state"][1, 0] for one in (found, alone)]
    assert weight[0] == pytest.approx(weight[1], rel=0.1)
