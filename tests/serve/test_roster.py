"""The roster moves contestants between roles, shares no arrays between those that learn, and comes back whole."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.model import copy
from everlearn.records import Batch
from everlearn.serve.roster import Contestant, Progress, Roster, Trial
from tests.support.models import Mean, examples


def started(live: bool = False) -> Roster:
    roster = Roster(live)
    roster.start("v0", Mean())
    return roster


def roles(roster: Roster) -> dict[str, str]:
    return {one.role: one.version for one in roster.contestants}


def asked(roster: Roster) -> set[tuple[str, str]]:
    return {(candidate.role, reference.role) for candidate, reference in roster.questions()}


def candidate(roster: Roster) -> Contestant:
    roster.nominate()
    found = roster.find("candidate")
    assert found is not None
    return found


def learn(contestant: Contestant, rows: int = 20) -> None:
    some = examples(rows)
    contestant.model.learn(some.batch, some.y, some.weight)


def test_gated_the_champion_stays_as_it_is_while_the_challenger_learns():
    roster = started()
    learn(roster.challenger)
    assert roles(roster) == {"frozen": "v0", "champion": "v0", "challenger": "v0"}
    assert asked(roster) == set()
    assert roster.champion.model.arrays["count"] == 0
    assert roster.challenger.model.arrays["count"] == 20


def test_gated_what_is_asked_about_is_a_snapshot_that_does_not_learn():
    roster = started()
    learn(roster.challenger)
    one = candidate(roster)
    assert asked(roster) == {("candidate", "champion")}
    learn(roster.challenger)
    assert (one.learns, one.model.arrays["count"]) == (False, 20)
    roster.nominate()
    assert roster.find("candidate") is one  # one at a time for each challenger
    roster.withdraw(one)
    assert candidate(roster).model.arrays["count"] == 40


def test_what_was_tested_is_promoted_and_the_reverse_question_is_asked():
    roster = started()
    learn(roster.challenger)
    one = candidate(roster)
    learn(roster.challenger)
    roster.promote(one, "v1")
    assert roles(roster) == {"frozen": "v0", "previous": "v0", "champion": "v1", "challenger": "v1"}
    assert asked(roster) == {("previous", "champion")}
    assert roster.champion.model.arrays["count"] == 20
    assert roster.challenger.model.arrays["count"] == 40


def test_a_fresh_challenger_that_wins_replaces_the_standing_one():
    roster = started()
    candidate(roster)
    fresh = roster.challenge("v1", Mean())
    roster.nominate()
    winner = next(one for one in roster.contestants if one.of == fresh.uid)
    roster.promote(winner, "v2")
    assert roles(roster) == {"frozen": "v0", "previous": "v0", "champion": "v2", "challenger": "v2"}
    assert roster.challenger is fresh


def test_rejection_ends_a_fresh_challenger_and_only_the_candidate_of_the_standing_one():
    roster = started()
    learn(roster.challenger)
    roster.reject(candidate(roster))
    assert roster.challenger.model.arrays["count"] == 20
    fresh = roster.challenge("v1", Mean())
    roster.nominate()
    roster.reject(next(one for one in roster.contestants if one.of == fresh.uid))
    assert roles(roster) == {"frozen": "v0", "champion": "v0", "challenger": "v0", "candidate": "v0"}


def test_live_the_champion_learns_and_is_itself_the_candidate():
    roster = started(live=True)
    assert roster.champion.learns
    assert asked(roster) == {("champion", "previous")}
    rows = examples(20)
    roster.champion.model.learn(rows.batch, rows.y, rows.weight)
    assert roster.move(roster.champion, "reject") == "rollback"
    previous = roster.find("previous")
    assert previous is not None
    roster.install("v0", copy(previous.model), keep=False)
    assert roster.champion.model.arrays["count"] == 0
    roster.champion.model.learn(rows.batch, rows.y, rows.weight)
    assert previous.model.arrays["count"] == 0


@pytest.mark.parametrize("live", [False, True])
def test_a_roster_comes_back_from_its_arrays_and_header(live):
    roster = started(live)
    rows = examples(20)
    roster.challenger.model.learn(rows.batch, rows.y, rows.weight)
    roster.promote(roster.challenger if live else candidate(roster), "v1")
    roster.nominate()
    roster.contestants[-1].trial = Trial({"sums": np.arange(3.0)}, {"n": np.ones(())}, tested=5)
    arrays, header = roster.state()
    twin = Roster(live)
    stored = {one.version: one.model.arrays for one in roster.contestants if not one.learns and one.role != "candidate"}
    twin.load(arrays, header, lambda version: Mean(), stored.__getitem__)
    again, header_again = twin.state()
    assert header_again == header
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    batch: Batch = rows.batch
    for one, other in zip(roster.contestants, twin.contestants, strict=True):
        assert one.model.predict(batch).tobytes() == other.model.predict(batch).tobytes()


def test_a_version_in_shadow_is_compared_and_takes_over_as_it_is():
    for live in (False, True):
        roster = started(live)
        learned = Mean()
        one = roster.shadow("v7", learned)
        assert ("shadow", "champion") in asked(roster)
        assert roster.move(one, "promote") == "promote"
        roster.promote(one, "v7")
        assert roster.champion.model is learned
        assert roster.champion.learns == live
        previous = roster.find("previous")
        assert previous is not None
        assert previous.version == ("v7" if live else "v0")
        assert previous.model is not learned


def test_who_contends_is_bounded_by_those_who_learn_or_are_in_shadow():
    roster = started()
    assert roster.contending() == 1
    fresh, shadow = roster.challenge("v1", Mean()), roster.shadow("v0", Mean())
    roster.nominate()
    assert roster.contending() == 3
    roster.dismiss(fresh)
    roster.dismiss(shadow)
    assert roles(roster) == {"frozen": "v0", "champion": "v0", "challenger": "v0", "candidate": "v0"}


def test_the_canary_is_what_the_first_challenger_has_nominated_or_the_fresh_one():
    roster, live = started(), started(live=True)
    assert roster.canary is None
    assert live.canary is None
    roster.challenge("v1", Mean())
    roster.nominate(Progress(12, 0))
    canary = roster.canary
    assert canary is not None
    assert (canary.role, canary.of, canary.learned) == ("candidate", roster.challenger.uid, Progress(12, 0))
    assert live.challenge("v1", Mean()) is live.canary
