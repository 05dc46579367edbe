from __future__ import annotations

import numpy as np
import pytest

from everlearn.merge.partitions import merged
from tests.support.partitions import BINARY, NUMBERS, grown, labelled, learner


def test_the_last_label_is_that_of_the_last_part_with_rows() -> None:
    spec = {"family": "last", **BINARY}
    base, rows = learner(spec, labelled(50)), [labelled(9, 1), labelled(7, 2), labelled(0)]
    parts = [grown(spec, base.arrays, p, 3, one).arrays for p, one in enumerate(rows)]
    found = merged(base.spec, base.arrays, parts, [9, 7, 0])
    assert found["label"].tolist() == [int(rows[1].y[-1])]
    expected = np.average([part["followed"] for part in parts[:2]], axis=0, weights=[9, 7])
    np.testing.assert_allclose(found["followed"], expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [BINARY, NUMBERS], ids=["binary", "numbers"])
@pytest.mark.parametrize("family", ["passive_aggressive", "factorization"])
def test_moments_are_those_of_one_learner(family: str, shape: dict[str, object]) -> None:
    spec, task = {"family": family, **shape}, str(shape["task"])
    base, rows = learner(spec, labelled(50, task=task)), [labelled(40, 1, task), labelled(20, 2, task)]
    parts = [grown(spec, base.arrays, p, 2, one).arrays for p, one in enumerate(rows)]
    found = merged(base.spec, base.arrays, parts, [40, 20])
    alone = learner(spec, labelled(50, task=task), *rows).arrays
    np.testing.assert_allclose(found["moments"], alone["moments"], rtol=1e-9, atol=1e-9)


def test_passive_aggressive_weights_are_averaged_by_rows() -> None:
    spec = {"family": "passive_aggressive", **BINARY}
    base = learner(spec, labelled(50))
    parts = [grown(spec, base.arrays, p, 2, labelled(n, 1 + p)).arrays for p, n in enumerate((40, 20))]
    found = merged(base.spec, base.arrays, parts, [40, 20])
    expected = np.average([part["weights"] for part in parts], axis=0, weights=[40, 20])
    np.testing.assert_allclose(found["weights"], expected, rtol=1e-12)


def test_factors_count_by_the_squares_that_each_part_summed() -> None:
    spec = {"family": "factorization", **BINARY}
    base = learner(spec, labelled(50))
    parts = [grown(spec, base.arrays, p, 2, labelled(n, 1 + p)).arrays for p, n in enumerate((40, 20))]
    found = merged(base.spec, base.arrays, parts, [40, 20])
    for name in ("dense", "hashed"):
        squares = [part[name][:, 1].astype(float) - base.arrays[name][:, 1] for part in parts]
        total = base.arrays[name][:, 1] + sum(squares)
        np.testing.assert_allclose(found[name][:, 1], total, rtol=1e-5)
        known = sum(squares) > 0.0
        expected = sum(own * part[name][:, 0] for own, part in zip(squares, parts, strict=True))
        np.testing.assert_allclose(found[name][:, 0][known], (expected[known] / sum(squares)[known]), rtol=1e-4)
