"""Settings of the family: the messages for wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from everlearn.errors import ConfigError
from everlearn.families.anomaly.settings import read


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "regression"}, "task: got 'regression'; expected 'binary'"),
        ({"window": 10}, "window: got 10; expected 64 to 65536 rows"),
        ({"method": "half_spaces"}, "expected one of 'auto', 'half_space', 'isolation', 'quantile'"),
        ({"dense": 0, "hashed": 256, "method": "isolation"}, "'auto' or 'quantile' for rows without numbers"),
        ({"dense": 100_000, "window": 65536}, "expected at most"),
        ({"trees": 5000}, "trees: got 5000; expected 1 to 1000"),
    ],
)
def test_a_wrong_setting_is_named_with_the_right_ones(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read({"family": "anomaly", "task": "binary", "dense": 3, **given})


def test_the_number_of_trees_depends_on_the_method() -> None:
    shape = {"task": "binary", "dense": 3}
    assert [read({**shape, "method": method}).trees for method in ("auto", "isolation")] == [25, 32]
