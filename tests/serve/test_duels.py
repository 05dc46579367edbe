"""The contestant that the champion duels, in each mode."""

from __future__ import annotations

from everlearn.model import build
from everlearn.serve.duels import rival
from everlearn.serve.roster import Roster

PLAIN = {"family": "linear", "task": "binary", "dense": 1}


def test_before_the_start_there_is_none() -> None:
    assert rival(Roster()) is None


def test_a_champion_that_learns_duels_the_good_version() -> None:
    roster = Roster(live=True)
    roster.start("v", build(PLAIN))
    assert rival(roster) is roster.good is not None
    roster.confirm(roster.good)
    assert rival(roster) is None


def test_a_frozen_champion_duels_the_first_candidate_and_then_the_one_before_it() -> None:
    roster = Roster()
    roster.start("v", build(PLAIN))
    learner = roster.challenger
    assert rival(roster) is learner is not roster.champion
    roster.promote(learner, "w", "v")
    assert rival(roster) is roster.good


def test_an_untrained_start_duels_nothing() -> None:
    roster = Roster(live=True)
    roster.start("v", build(PLAIN), trained=False)
    assert rival(roster) is None
