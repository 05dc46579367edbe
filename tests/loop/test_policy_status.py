"""Measures of policies in status and report: duels, lag, spend, alarms, and agreement of judges with people."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from everlearn.loop.loop import Loop
from everlearn.loop.policy_status import agreements, policies
from everlearn.schema import pairs
from everlearn.spec import GateSpec
from tests.support.pairs import answer, drawn, question, settings
from tests.support.policies import ALARM

REPORTS = {"family": "tests.support.policies:Reports"}


def ask(loop: Loop, number: int) -> str:
    return loop.record(drawn(number), {"prompt": f"p{number}"}, id=str(number)).id


def test_duels_are_measured_for_the_candidate(tmp_path: Path) -> None:
    with Loop(settings(gate=GateSpec(minimum=6), model=REPORTS), tmp_path / "home") as loop:
        for number in range(6):
            loop.judge(ask(loop, number), 0, source="people/anna")
        roster = loop.fold.roster
        assert roster.good is not None
        for number, win in enumerate((True, True, False)):
            asked = question(answer(7, 8, 5, uid=roster.champion.uid), answer(9, uid=roster.good.uid), arm="duel")
            loop.judge(loop.record(asked, {"prompt": "p"}, id=f"d{number}").id, 0 if win else 1, source="people/anna")
        found = loop.status()["preference"]
        assert msgspec.json.decode(msgspec.json.encode(found)) == found == loop.report()["preference"]
        (one,) = found["duels"]
        assert (one["candidate"], one["reference"], one["count"]) == ("champion", "previous", 3)
        assert one["win"]["value"] == pytest.approx(2 / 3)
        assert one["overrated"]["value"] == pytest.approx(0.5 - 2 / 3)
        assert found["rival"] == roster.good.version
        assert found["lag"]["judgements"] == 9
        assert 0.0 <= found["lag"]["seconds"] < 5.0
        assert policies(loop.fold, {"people": 0.5})["spend"] == {"people": 1.5}


def test_a_loop_of_features_has_none(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        assert "preference" not in loop.status()  # before the start
        loop.judge(ask(loop, 1), 0)
        assert loop.status()["preference"]["duels"] == []


def test_an_alarm_rolls_a_live_learner_back_with_its_reason(tmp_path: Path) -> None:
    with Loop(settings(gate=GateSpec(minimum=6), model=REPORTS), tmp_path / "home") as loop:
        for number in range(9):
            loop.judge(ask(loop, number), 0, source="people/anna")
        good = loop.fold.roster.good
        assert good is not None
        loop.judge(loop.record(question(answer(ALARM), answer(9)), {}, id="loud").id, 0, source="people/anna")
        assert loop.status()["preference"]["guards"] == {
            loop.fold.roster.champion.version: {"kl": "KL to the anchor: too far"}
        }
        for number in range(9, 12):
            loop.judge(ask(loop, number), 0, source="people/anna")
        back = loop.decisions()[-1]
        assert (back.action, back.by, back.version, back.reason) == (
            "rollback",
            "guard",
            good.version,
            "KL to the anchor: too far",
        )
        assert loop.status()["preference"]["guards"] == {}


def test_judges_are_compared_with_people_on_pairs_that_both_judged(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        for number in range(8):
            id = ask(loop, number)
            loop.judge(id, number % 2, source="judge/strict@12")
            if number < 6:
                loop.judge(id, 0, source="people/anna")
            loop.judge(id, verdict="skip", source="people/bert")
        loop.judge("7", verdict="tie", source="people/bert")
        found = agreements(loop.log)
        assert list(found) == ["judge/strict@12"]
        assert found["judge/strict@12"]["pairs"] == 7
        assert found["judge/strict@12"]["share"] == pytest.approx(3 / 7)
        assert pairs.kind("people/bert") == "people"
