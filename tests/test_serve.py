"""The roster moves contestants between roles, shares no arrays between those that learn, and comes back whole."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.records import Batch
from everlearn.serve import Roster

from .models import Mean, examples


def started(live: bool = False) -> Roster:
    roster = Roster(live)
    roster.start("v0", Mean())
    return roster


def roles(roster: Roster) -> dict[str, str]:
    return {one.role: one.version for one in roster.contestants}


def asked(roster: Roster) -> set[tuple[str, str]]:
    return {(candidate.role, reference.role) for candidate, reference in roster.questions()}


def test_gated_the_champion_stays_as_it_is_while_the_challenger_learns():
    roster = started()
    rows = examples(20)
    roster.challenger.model.learn(rows.batch, rows.y, rows.weight)
    assert roles(roster) == {"frozen": "v0", "champion": "v0", "challenger": "v0"}
    assert asked(roster) == {("challenger", "champion")}
    assert roster.champion.model.arrays["count"] == 0
    assert roster.challenger.model.arrays["count"] == 20


def test_promotion_copies_the_challenger_and_asks_the_reverse_question():
    roster = started()
    rows = examples(20)
    roster.challenger.model.learn(rows.batch, rows.y, rows.weight)
    roster.promote(roster.challenger, "v1")
    assert roles(roster) == {"frozen": "v0", "previous": "v0", "champion": "v1", "challenger": "v1"}
    assert asked(roster) == {("challenger", "champion"), ("previous", "champion")}
    roster.challenger.model.learn(rows.batch, rows.y, rows.weight)
    assert roster.champion.model.arrays["count"] == 20
    assert roster.challenger.model.arrays["count"] == 40


def test_a_fresh_challenger_that_wins_replaces_the_standing_one():
    roster = started()
    fresh = roster.challenge("v1", Mean())
    roster.promote(fresh, "v2")
    assert roles(roster) == {"frozen": "v0", "previous": "v0", "champion": "v2", "challenger": "v2"}
    assert roster.challenger.model is fresh.model


def test_rejection_restarts_the_standing_challenger_from_the_champion():
    roster = started()
    rows = examples(20)
    roster.challenger.model.learn(rows.batch, rows.y, rows.weight)
    before = roster.challenger.uid
    roster.reject(roster.challenger)
    assert roster.challenger.uid != before
    assert roster.challenger.model.arrays["count"] == 0
    fresh = roster.challenge("v1", Mean())
    roster.reject(fresh)
    assert roster.find("fresh") is None


def test_live_the_champion_learns_and_is_itself_the_candidate():
    roster = started(live=True)
    assert roster.champion.learns
    assert asked(roster) == {("champion", "previous")}
    rows = examples(20)
    roster.champion.model.learn(rows.batch, rows.y, rows.weight)
    assert roster.move(roster.champion, "reject") == "rollback"
    previous = roster.find("previous")
    assert previous is not None
    roster.install("v0", previous.model.arrays, keep=False)
    assert roster.champion.model.arrays["count"] == 0
    roster.champion.model.learn(rows.batch, rows.y, rows.weight)
    assert previous.model.arrays["count"] == 0


@pytest.mark.parametrize("live", [False, True])
def test_a_roster_comes_back_from_its_arrays_and_header(live):
    roster = started(live)
    rows = examples(20)
    roster.challenger.model.learn(rows.batch, rows.y, rows.weight)
    roster.promote(roster.challenger, "v1")
    roster.contestants[-1].question = {"sums": np.arange(3.0)}
    arrays, header = roster.state()
    twin = Roster(live)
    twin.load(arrays, header, Mean)
    again, header_again = twin.state()
    assert header_again == header
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    batch: Batch = rows.batch
    for one, other in zip(roster.contestants, twin.contestants, strict=True):
        assert one.model.predict(batch).tobytes() == other.model.predict(batch).tobytes()
