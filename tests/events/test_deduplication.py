"""Keys: equal events have equal keys, and a duplicate label is written once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from everlearn.events import connect
from everlearn.events.deduplication import key
from everlearn.records import Label, Payload, Preference, Reward


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (Label("a", 1), Label("a", 1.0), True),
        (Label("a", True), Label("a", 1), True),
        (Label("a", "1"), Label("a", 1), False),
        (Label("a", 1), Label("b", 1), False),
        (Label("a", 1, weight=2.0), Label("a", 1), False),
        (Label("a", 1, source="x"), Label("a", 1), False),
        (Reward("a", 1.0), Label("a", 1), False),
        (Preference("a", 0), Preference("a", 0), True),
        (Preference("a", 0), Preference("a", 1), False),
        (Preference("a", 0, seconds=2.0, why="kind"), Preference("a", 0, seconds=9.0), True),
        (Preference("a", -1, verdict="tie"), Preference("a", -1, verdict="tie"), True),
        (Preference("a", -1, verdict="tie"), Preference("a", -1, verdict="skip"), False),
        (Preference("a", -1, verdict="tie"), Preference("a", -1), False),
        (Preference("a", 0, source="people/anna"), Preference("a", 0, source="people/bert"), False),
    ],
)
def test_equal_feedback_has_equal_keys(first: Payload, second: Payload, equal: bool) -> None:
    assert (key(first) == key(second)) == equal


def test_a_duplicate_label_is_written_once_and_a_correction_again(tmp_path: Path) -> None:
    labels: list[Any] = [Label("a", 1), Label("a", 1.0), Label("a", 0)]
    with connect(str(tmp_path / "log.sqlite")) as log:
        positions = [log.append([label])[0] for label in labels]
        assert positions == [1, 1, 2]
        assert log.count("label") == 2


def test_keys_of_preferences_are_those_of_logs_without_verdicts() -> None:
    assert key(Preference("a", 1, 2.0, "x")) == "preference:a:ece9469199164fe4b9ff24c7"
    assert msgspec.json.decode(b'{"kind":"preference","id":"a","chosen":1}', type=Preference) == Preference("a", 1)
