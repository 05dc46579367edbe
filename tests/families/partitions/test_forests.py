from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.errors import ConfigError
from everlearn.families.partitions.forests import merge_columns
from everlearn.families.trees import layout
from everlearn.merge.partitions import merged
from tests.support.partitions import BINARY, NUMBERS, grown, labelled, learner

SLOTS = {"forest": ("nodes", "counts", "blocks", "choices", "trees", "windows")}
SLOTS["mondrian"] = ("nodes", "beliefs", "counts", "trees", "columns", "learn/boxes", "learn/windows")
SPECS = [
    ({"family": family, **shape, **({"memory": 1 << 18} if family == "forest" else {"nodes": 200}), "trees": 4})
    for family in SLOTS
    for shape in (BINARY, NUMBERS)
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec['family']} {spec['task']}")
def test_a_tree_is_that_of_a_forest_trained_on_the_rows_of_its_owner_alone(spec: dict[str, Any]) -> None:
    base = learner(spec, labelled(300, task=spec["task"]))
    rows = [labelled(400, 1, spec["task"]), labelled(300, 2, spec["task"])]
    parts = [grown(spec, base.arrays, p, 2, own).arrays for p, own in enumerate(rows)]
    found = merged(base.spec, base.arrays, parts, [400, 300])
    for partition, own in enumerate(rows):
        alone = learner(spec, labelled(300, task=spec["task"]), own).arrays
        for name in SLOTS[spec["family"]]:
            for tree in range(partition, 4, 2):
                assert found[name][tree].tobytes() == alone[name][tree].tobytes(), (name, tree)
    moved = [not np.array_equal(found["nodes"][tree], base.arrays["nodes"][tree]) for tree in range(4)]
    assert all(moved)  # each tree has grown


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec['family']} {spec['task']}")
def test_a_partition_predicts_with_all_trees(spec: dict[str, Any]) -> None:
    """The rows of a batch are predicted before the first of them is learned by no tree but the owner's."""
    base = learner(spec, labelled(300, task=spec["task"]))
    row = labelled(1, 5, spec["task"])
    expected = base.predict(row.batch)
    for partition in range(2):
        own = grown(spec, base.arrays, partition, 2, labelled(0))
        assert own.learn(row.batch, row.y, row.weight).tobytes() == expected.tobytes()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec['family']} {spec['task']}")
def test_clocks_and_moments_count_the_rows_of_all(spec: dict[str, Any]) -> None:
    task = spec["task"]
    base = learner(spec, labelled(300, task=task))
    rows = [labelled(40, 1, task), labelled(30, 2, task)]
    parts = [grown(spec, base.arrays, p, 2, own).arrays for p, own in enumerate(rows)]
    found = merged(base.spec, base.arrays, parts, [40, 30])
    alone = learner(spec, labelled(300, task=task), *rows).arrays
    prefix = "learn/" if spec["family"] == "mondrian" else ""
    assert found[f"{prefix}clock"].tolist() == alone[f"{prefix}clock"].tolist() == [370]
    np.testing.assert_allclose(found[f"{prefix}moments"], alone[f"{prefix}moments"], rtol=1e-9, atol=1e-9)
    if "target" in found:
        np.testing.assert_allclose(found["target"], alone["target"], rtol=1e-9, atol=1e-9)


def column(*values: float) -> Any:
    """Return the moments of one column of a forest, counted value by value."""
    spec = {"family": "forest", "task": "binary", "dense": 1, "trees": 1, "memory": 1 << 18}
    rows = labelled(len(values))
    dense = np.array(values, np.float32)[:, None]
    batch = type(rows.batch)(dense, np.zeros(len(values) + 1, np.int64), rows.batch.indices[:0], rows.batch.values[:0])
    made = learner(spec)
    made.learn(batch, rows.y, rows.weight)
    return made.arrays["moments"]


def test_a_column_of_two_values_stays_one() -> None:
    found = merge_columns(column(0.0), [column(0.0, 1.0), column(0.0, 0.0)])
    assert found[layout.KIND, 0] == layout.BINARY
    np.testing.assert_allclose(found[: layout.ORIGIN], column(0.0, 1.0, 0.0)[: layout.ORIGIN], rtol=1e-12)


def test_a_column_whose_parts_saw_different_values_is_numeric() -> None:
    found = merge_columns(column(0.0), [column(0.0, 1.0), column(0.0, 2.0)])
    assert found[layout.KIND, 0] == layout.NUMERIC


def test_a_column_that_only_parts_have_seen_counts_from_the_origin_of_the_first() -> None:
    nan = float("nan")
    found = merge_columns(column(nan), [column(nan, 5.0, 7.0), column(nan, 9.0)])
    assert found[layout.ORIGIN, 0] == 5.0
    assert found[layout.COUNT, 0] == 3.0
    assert found[layout.CENTRE, 0] == pytest.approx((0.0 + 2.0 + 4.0) / 3.0)


def test_more_partitions_than_trees_are_refused() -> None:
    spec = SPECS[0]
    with pytest.raises(ConfigError, match="got 5 for a forest of 4 trees; expected at most 4"):
        grown(spec, learner(spec).arrays, 0, 5, labelled(1))
