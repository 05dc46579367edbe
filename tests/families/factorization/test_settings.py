"""The settings of factorization machines: what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from everlearn.errors import ConfigError
from everlearn.model import build


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"task": "multiclass", "classes": 3}, "task: got 'multiclass'; expected one of 'binary', 'regression'"),
        ({"factors": 0}, "factors: got 0; expected a number from 1 to 256"),
        ({"rate": 0.0}, "rate: got 0.0; expected a finite number from 1e-09 to 10"),
        ({"l2": 2.0}, "l2: got 2.0; expected a finite number from 0 to 1"),
        ({"spread": -1.0}, "spread: got -1.0"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build({"family": "factorization", "task": "binary", "dense": 1, **changed})
    assert words in str(refused.value)
