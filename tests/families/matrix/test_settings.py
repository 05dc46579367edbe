"""The settings of matrix factorisation: what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from everlearn.errors import ConfigError
from everlearn.model import build


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"loss": "squared"}, "loss: got 'squared'; expected one of ('softmax', 'bpr', 'log_loss') for task 'binary'"),
        ({"task": "regression", "loss": "bpr"}, "loss: got 'bpr'; expected one of ('squared',)"),
        ({"negatives": 0}, "negatives: got 0; expected a number from 1 to 1,000"),
        ({"factors": 1000}, "factors: got 1000"),
        ({"task": "multiclass", "classes": 3}, "task: got 'multiclass'"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build({"family": "matrix", "task": "binary", "dense": 0, "hashed": 8, **changed})
    assert words in str(refused.value)


def test_the_loss_follows_the_task() -> None:
    shape = {"family": "matrix", "dense": 0, "hashed": 8}
    assert build({**shape, "task": "binary"}).spec["loss"] == "softmax"
    assert build({**shape, "task": "regression"}).spec["loss"] == "squared"
