"""Settings of the preference family, and the page that lists them."""

from __future__ import annotations

import re

import msgspec
import pytest

from everlearn.errors import ConfigError
from everlearn.families.preference import settings
from everlearn.families.preference.guards import Guards
from everlearn.families.preference.improve import Improve
from everlearn.families.preference.settings import Choose, RewardSettings, Settings
from tests.support import ROOT

PAGE = (ROOT / "docs/reference/preference.md").read_text(encoding="utf-8")
PARTS = {
    "The model": Settings,
    "`reward`": RewardSettings,
    "`improve`": Improve,
    "`choose`": Choose,
    "`guards`": Guards,
}
ELSEWHERE = {
    Settings: {*settings.NUMBERS, "family", "reward", "improve", "choose", "guards"},
    Improve: {"layers"},  # those of the reward model
}
LEAST = {"hashed": 50, "model": "tiny"}


@pytest.mark.parametrize("title", PARTS)
def test_the_page_lists_each_setting_once(title: str) -> None:
    (section,) = [part for part in PAGE.split("\n## ")[1:] if part.startswith(title)]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`([a-z_]+)`", row)]
    record = PARTS[title]
    known = {field.name for field in msgspec.structs.fields(record)}
    assert sorted(listed) == sorted(known - ELSEWHERE.get(record, set()))


def test_a_spec_is_completed_and_read_again() -> None:
    found = settings.read(LEAST)
    assert settings.read(settings.written(found)) == found
    assert found.improve.method == "bon"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense": 3}, "dense: got 3; expected 16"),
        ({"choose": {"random": 0.9, "duel": 0.2}}, "expected shares that add up to at most 1"),
        ({"improve": {"budget": -1}}, "improve.budget: got -1"),
        ({"guards": {"kll": 1}}, "guards.kll: unknown setting"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        settings.read(LEAST | changes)
