"""The settings of nearest neighbours: what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from everlearn.errors import ConfigError
from everlearn.model import build


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"window": 0}, "window: got 0; expected a number of rows from 1 to 1,000,000"),
        ({"nearest": 0}, "nearest: got 0; expected a number from 1 to 100, or 1 to 8 of them"),
        ({"nearest": [5] * 9}, "1 to 8 of them"),
        ({"entries": 0}, "entries: got 0; expected a number from 1 to 4,096"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build({"family": "neighbours", "task": "binary", "dense": 1, **changed})
    assert words in str(refused.value)


def test_without_a_hash_space_no_entries_are_kept() -> None:
    shape = {"family": "neighbours", "task": "binary", "dense": 2}
    assert build(shape).arrays["entries"].shape == (1000, 0)
    assert build({**shape, "hashed": 8}).arrays["entries"].shape == (1000, 64)
