"""The settings of naive Bayes: what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from everlearn.errors import ConfigError
from everlearn.model import build


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"task": "regression"}, "task: got 'regression'; expected one of 'binary', 'multiclass'"),
        ({"memory": 1.0}, "memory: got 1.0; expected 0, or 2 and more"),
        ({"shrink": 0.0}, "shrink: got 0.0; expected a finite number from 1e-06"),
        ({"smoothing": float("inf")}, "smoothing: got inf"),
        ({"classes": 3}, "classes: got 3; expected 2 for task 'binary'"),
        ({"hashed": -1}, "hashed: got -1; expected a hash space"),
        ({"dense": -1}, "dense: got -1"),
        ({"smoothed": 1.0}, "smoothed"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build({"family": "naive_bayes", "task": "binary", "dense": 1, **changed})
    assert words in str(refused.value)


def test_without_memory_there_is_one_half() -> None:
    shape = {"family": "naive_bayes", "task": "binary", "dense": 1, "hashed": 8}
    assert build(shape).arrays["table"].shape == (2, 8, 2)
    assert build({**shape, "memory": 0}).arrays["table"].shape == (1, 8, 2)
