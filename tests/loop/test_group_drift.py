"""Drift of one group as a decision: named, reported once, also across a restart, and visible in the status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from everlearn.loop.loop import Loop
from everlearn.schema import pairs
from tests.support.pairs import answer, question, settings
from tests.support.policies import TURN

REPORTS = {"family": "tests.support.policies:Reports"}


def judge(loop: Loop, number: int, group: str = "bills", turned: bool = False, **more: Any) -> None:
    asked = question(answer(TURN if turned else 7), answer(9), group=group, **more)
    loop.judge(loop.record(asked, {"prompt": f"p{number}"}, id=str(number)).id, 0, source="people/anna")


def drifts(loop: Loop) -> list[tuple[str, str]]:
    found = [one for one in loop.decisions() if one.action == "drift"]
    assert {one.by for one in found} <= {"drift"}
    return [(one.detail["group"], one.reason) for one in found]


def test_a_group_that_turns_is_named_once(tmp_path: Path) -> None:
    with Loop(settings(model=REPORTS), tmp_path / "home") as loop:
        for number in range(12):
            judge(loop, number, turned=number == 5)
        assert drifts(loop) == [
            ("bills", "preferences of group 'bills' turned: its labels from before count no longer")
        ]
        for number in range(12, 24):
            judge(loop, number, group="refunds" if number > 14 else "bills", turned=number == 16)
        assert [group for group, _ in drifts(loop)] == ["bills", "refunds"]
        for number in range(24, 30):
            judge(loop, number, turned=number == 25)
        assert [group for group, _ in drifts(loop)] == ["bills", "refunds", "bills"]
        assert loop.status()["drift"]["state"] == "drift"
        assert [one["kind"] for one in loop.status()["marks"]].count("drift") == 3


def test_a_restart_reports_nothing_again_and_forgets_nothing(tmp_path: Path) -> None:
    loop = Loop(settings(model=REPORTS), tmp_path / "home")
    for number in range(7):
        judge(loop, number, turned=number == 4)
    loop.close()
    with Loop(settings(model=REPORTS), tmp_path / "home") as loop:
        for number in range(7, 12):
            judge(loop, number)
        assert [group for group, _ in drifts(loop)] == ["bills"]
        judge(loop, 12, turned=True)
        for number in range(13, 16):
            judge(loop, number)
        assert [group for group, _ in drifts(loop)] == ["bills", "bills"]


def test_a_group_without_a_question_in_the_log_keeps_its_digest(tmp_path: Path) -> None:
    with Loop(settings(model=REPORTS), tmp_path / "home") as loop:
        for number in range(4):
            judge(loop, number)
        loop.fold.roster.challenger.model.arrays["groups"][0] = pairs.number("gone"), 5
        for number in range(4, 8):
            judge(loop, number)
        assert [group for group, _ in drifts(loop)] == [f"#{int(pairs.number('gone')):06x}"]
