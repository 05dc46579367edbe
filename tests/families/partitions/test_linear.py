from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.families.partitions.linear import kept
from everlearn.merge.partitions import merged
from everlearn.records import Arrays
from tests.support.linear_rows import OPTIMIZERS
from tests.support.partitions import BINARY, NUMBERS, grown, labelled, learner

PLAIN = {"standardize": False}


def two(spec: dict[str, Any], task: str = "binary") -> tuple[Any, Arrays, list[Arrays], list[int]]:
    """Return a base, and two learners that went on from it with 70 and 30 rows."""
    base = learner(spec, labelled(200, task=task))
    own = [grown(spec, base.arrays, p, 2, labelled(n, 1 + p, task)).arrays for p, n in enumerate((70, 30))]
    return base, base.arrays, own, [70, 30]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_dense_weights_are_averaged_by_rows(optimizer: str) -> None:
    spec = {"family": "linear", **BINARY, **PLAIN, "optimizer": optimizer}
    base, arrays, parts, rows = two(spec)
    found = merged(base.spec, arrays, parts, rows)
    expected = np.average([part["weights"][0] for part in parts], axis=0, weights=rows)
    np.testing.assert_allclose(found["weights"][0], expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [BINARY, NUMBERS], ids=["binary", "numbers"])
def test_counts_and_moments_are_those_of_one_learner(shape: dict[str, Any]) -> None:
    spec = {"family": "linear", **shape, "forget_bad_stretches": False}
    base, arrays, parts, rows = two(spec, shape["task"])
    more = [labelled(n, 1 + p, shape["task"]) for p, n in enumerate((70, 30))]
    alone = learner(spec, labelled(200, task=shape["task"]), *more).arrays
    found = merged(base.spec, arrays, parts, rows)
    assert found["counts"].tolist() == alone["counts"].tolist()
    assert found["moments"][0].tolist() == alone["moments"][0].tolist()
    np.testing.assert_allclose(found["moments"], alone["moments"], rtol=1e-9, atol=1e-9)
    if shape["task"] == "binary":
        assert found["blend"][4:6].tolist() == alone["blend"][4:6].tolist()  # the weight of each class


@pytest.mark.parametrize("optimizer", ["blend", "quick", "adagrad"])
def test_an_entry_that_one_part_alone_saw_moves_as_in_that_part(optimizer: str) -> None:
    spec = {"family": "linear", **BINARY, "standardize": False, "optimizer": optimizer}
    base = learner(spec, labelled(200))
    rows = [labelled(40, 1), labelled(40, 2)]
    rows[0].batch.indices[::2] = 1  # the first part meets entry 1, the second entry 2
    rows[1].batch.indices[::2] = 2
    parts = [grown(spec, base.arrays, p, 2, one).arrays for p, one in enumerate(rows)]
    found = merged(base.spec, base.arrays, parts, [40, 40])
    for entry, part in ((1, parts[0]), (2, parts[1])):
        np.testing.assert_allclose(found["hashed"][entry], part["hashed"][entry], rtol=1e-5)
    assert found["hashed"][5].tobytes() == base.arrays["hashed"][5].tobytes()  # no part met it


def test_squared_gradients_add_up() -> None:
    spec = {"family": "linear", **BINARY, "standardize": False, "optimizer": "quick"}
    base, arrays, parts, rows = two(spec)
    found = merged(base.spec, arrays, parts, rows)
    sums = [one["hashed"][:, :, 1].astype(float) ** -4.0 - 1.0 for one in (arrays, *parts, found)]
    np.testing.assert_allclose(sums[3], sums[1] + sums[2] - sums[0], rtol=1e-4, atol=1e-4)


def test_a_settled_column_is_the_mean_that_one_learner_has() -> None:
    """Each part sees the same quick weights throughout, so its mean of them is known without another learner."""
    spec = {"family": "linear", **BINARY, **PLAIN}
    base, arrays, parts, rows = two(spec)
    quick = np.array([[1.0, 2.0, 3.0, 4.0]])
    for part, n in zip(parts, rows, strict=True):
        settled = arrays["weights"][1].copy()
        for row in range(200, 200 + n):
            settled += 4.0 / (row + 1 + 3.0) * (quick - settled)
        part["weights"][0], part["weights"][1] = quick, settled
    expected = arrays["weights"][1].copy()
    for row in range(200, 300):
        expected += 4.0 / (row + 1 + 3.0) * (quick - expected)
    found = merged(base.spec, arrays, parts, rows)
    np.testing.assert_allclose(found["weights"][1], expected, rtol=1e-12)


@pytest.mark.parametrize(("rows", "more"), [(0, 5), (100, 900), (39_000, 2_000), (90_000, 500)])
def test_what_a_settled_column_keeps_is_the_product_over_the_rows(rows: int, more: int) -> None:
    left = 1.0
    for row in range(rows + 1, rows + more + 1):
        left *= 1.0 - max(4.0 / (row + 3.0), float(np.float32(1e-4)))
    assert kept(rows, more) == pytest.approx(left, rel=1e-6)


def test_learners_relative_to_other_moments_predict_alike_after_a_merge() -> None:
    """Two parts that learned the same rows are one model, whose predictions a merge must keep."""
    spec = {"family": "linear", **BINARY, "optimizer": "quick"}
    base = learner(spec, labelled(200))
    part = grown(spec, base.arrays, 0, 2, labelled(50, 1))
    other = grown(spec, base.arrays, 1, 2, labelled(50, 1))
    rows = labelled(20, 9)
    expected = part.predict(rows.batch)
    part.arrays = merged(base.spec, base.arrays, [part.arrays, other.arrays], [50, 50])
    assert np.abs(part.predict(rows.batch) - expected).max() < 0.02


@pytest.mark.parametrize(
    "shape", [BINARY, NUMBERS, {**BINARY, "interactions": "dense"}], ids=["binary", "numbers", "pairs"]
)
def test_the_quick_columns_are_merged_as_those_of_the_quick_optimiser(shape: dict[str, Any]) -> None:
    """The oracle is in steps of numpy; both optimisers have the same quick columns in the same coordinates."""
    spec = {"family": "linear", **shape}
    base, arrays, parts, rows = two(spec, shape["task"])

    def quick(held: Arrays) -> Arrays:
        return {
            **{name: array for name, array in held.items() if name != "blend"},
            "weights": held["weights"][:1],
            "hashed": held["hashed"][:, :, :2],
        }

    plain = {**base.spec, "optimizer": "quick"}
    expected = merged(plain, quick(arrays), [quick(part) for part in parts], rows)
    found = quick(merged(base.spec, arrays, parts, rows))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6 if name == "hashed" else 1e-10, atol=1e-12)
