"""The settings of passive-aggressive models: what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from everlearn.errors import ConfigError
from everlearn.model import build


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"variant": "PA-III"}, "variant: got 'PA-III'"),
        ({"aggressiveness": 0.0}, "aggressiveness: got 0.0; expected a finite number from 1e-09, or 1 to 8 of them"),
        ({"aggressiveness": [0.1] * 9}, "1 to 8 of them"),
        ({"aggressiveness": []}, "1 to 8 of them"),
        ({"epsilon": -1.0}, "epsilon: got -1.0; expected a finite number from 0"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build({"family": "passive_aggressive", "task": "binary", "dense": 1, **changed})
    assert words in str(refused.value)


def test_each_aggressiveness_has_a_model() -> None:
    shape = {"family": "passive_aggressive", "task": "multiclass", "classes": 3, "dense": 2, "hashed": 8}
    assert build(shape).arrays["weights"].shape == (2, 3, 3)
    assert build({**shape, "aggressiveness": 0.5}).arrays["hashed"].shape == (1, 8, 3)
