"""The roster keeps four concepts, shares no arrays between models that learn, and comes back from a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.gate.policy import By, contending
from everlearn.model import copy
from everlearn.serve.contestant import Contestant, Progress, Trial
from everlearn.serve.roster import Roster
from tests.support.models import Mean, examples
from tests.support.rosters import roles, with_role


def started(live: bool = False) -> Roster:
    roster = Roster(live, snapshots=not live)
    roster.start("v0", Mean())
    return roster


def compared(roster: Roster) -> set[tuple[str, str]]:
    return {(roster.role_of(candidate), roster.role_of(reference)) for candidate, reference in roster.comparisons()}


def snapshot(roster: Roster) -> Contestant:
    roster.nominate()
    found = roster.challenger.snapshot
    assert found is not None
    return found


def learn(contestant: Contestant, rows: int = 20) -> None:
    some = examples(rows)
    contestant.model.learn(some.batch, some.y, some.weight)


def test_a_learner_with_the_bits_of_good_is_stored_once():
    roster = started(live=True)
    learn(roster.champion)
    roster.keep_good("v1")
    kept = {name: array.copy() for name, array in roster.champion.model.arrays.items()}
    (arrays, header), fetched = roster.state(), []
    assert not any(name.startswith("model/") for name in arrays)
    assert [entry.get("stored", False) for entry in header["contestants"]] == [one.learns for one in roster.contestants]

    def fetch(version: str) -> dict[str, np.ndarray]:
        fetched.append(version)
        return kept

    twin = Roster(True, snapshots=False)
    twin.load(arrays, header, lambda version: Mean(), fetch)
    assert fetched.count("v1") == 2  # for good, and for the champion
    learn(twin.champion)  # alone: good stays as it was
    assert (twin.champion.model.arrays["count"], kept["count"]) == (40, 20)
    assert twin.good is not None
    assert twin.good.model.arrays["count"] == 20
    assert "stored" not in str(twin.state()[1])
    assert any(name.startswith("model/") for name in twin.state()[0])


# ---- gated, with snapshots -----------------------------------------------------------------------------------------


def test_gated_the_champion_stays_as_it_is_while_the_challenger_learns():
    roster = started()
    learn(roster.challenger)
    assert roles(roster) == {"frozen": "v0", "champion": "v0", "challenger": "v0"}
    assert roster.good is None
    assert compared(roster) == set()
    assert roster.champion.model.arrays["count"] == 0
    assert roster.challenger.model.arrays["count"] == 20


def test_gated_a_challenger_is_compared_as_a_snapshot_that_does_not_learn():
    roster = started()
    learn(roster.challenger)
    first = snapshot(roster)
    assert compared(roster) == {("candidate", "champion")}
    learn(roster.challenger)
    assert (first.learns, first.model.arrays["count"]) == (False, 20)
    roster.nominate()
    assert roster.challenger.snapshot is first  # one at a time for each challenger
    roster.withdraw(first)
    assert snapshot(roster).model.arrays["count"] == 40


def test_the_snapshot_that_was_tested_is_promoted_and_the_reverse_question_is_asked():
    roster = started()
    learn(roster.challenger)
    tested = snapshot(roster)
    learn(roster.challenger)
    roster.promote(tested, "v1")
    assert roles(roster) == {"frozen": "v0", "previous": "v0", "champion": "v1", "challenger": "v1"}
    assert compared(roster) == {("previous", "champion")}
    assert not roster.champion.learns
    assert roster.champion.model.arrays["count"] == 20
    assert roster.challenger.model.arrays["count"] == 40


def test_gated_a_candidate_that_learns_goes_on_learning_in_the_seat():
    roster = started()
    fresh = roster.challenge("v1", Mean())
    roster.promote(fresh, "v2")
    assert roster.champion is fresh
    assert (fresh.learns, fresh.version) == (True, "v2")


def test_a_started_challenger_that_wins_becomes_the_standing_one():
    roster = started()
    roster.nominate()
    fresh = roster.challenge("v1", Mean())
    roster.nominate()
    assert fresh.snapshot is not None
    roster.promote(fresh.snapshot, "v2")
    assert roles(roster) == {"frozen": "v0", "previous": "v0", "champion": "v2", "challenger": "v2"}
    assert roster.standing is fresh


def test_rejection_ends_a_started_challenger_and_only_the_snapshot_of_the_standing_one():
    roster = started()
    learn(roster.challenger)
    roster.reject(snapshot(roster))
    assert roster.challenger.model.arrays["count"] == 20
    fresh = roster.challenge("v1", Mean())
    roster.nominate()
    assert fresh.snapshot is not None
    roster.reject(fresh.snapshot)
    assert roles(roster) == {"frozen": "v0", "champion": "v0", "challenger": "v0", "candidate": "v0"}


def test_gated_only_a_promotion_by_order_leaves_the_old_champion_good():
    roster = started()
    old = roster.champion
    roster.install("v7", Mean(), keep=True)
    assert roster.good is old
    roster.install("v8", Mean(), keep=False)
    assert roster.good is None
    assert not roster.champion.learns


# ---- gated, with learners ------------------------------------------------------------------------------------------


def gated(trained: bool = True) -> Roster:
    roster = Roster()
    roster.start("v0", Mean(), trained)
    return roster


def seated() -> Roster:
    """A roster whose first learner took the seat, as v1."""
    roster = gated()
    learn(roster.challenger)
    roster.promote(roster.challenger, "v1")
    return roster


def test_a_learner_is_compared_itself_takes_the_seat_with_its_arrays_and_learns_on():
    roster = gated()
    assert compared(roster) == {("challenger", "champion")}
    learner, frozen = roster.challenger, roster.champion
    learn(learner)
    assert not roster.promote(learner, "v1")
    assert roles(roster) == {"frozen": "v0", "previous": "v0", "champion": "v1"}
    assert (roster.champion, roster.good, roster.standing) == (learner, frozen, None)
    assert roster.serves_learner
    assert learner.learns
    assert compared(roster) == {("champion", "previous")}
    assert roster.scored()["challenger"] == learner.uid  # the learner, whichever place it has


def test_an_untrained_learner_serves_until_a_frozen_copy_takes_the_seat():
    roster = gated(trained=False)
    learner = roster.champion
    assert roster.serves_learner
    assert roster.comparisons() == []
    assert "frozen" not in roster.scored()
    learn(learner)
    roster.seat_first("v1")
    assert not roster.untrained
    assert roles(roster) == {"champion": "v1", "challenger": "v1"}
    assert roster.challenger is learner
    assert compared(roster) == {("challenger", "champion")}
    learn(learner)
    assert (roster.champion.model.arrays["count"], learner.model.arrays["count"]) == (20, 40)


def test_with_snapshots_the_untrained_start_serves_frozen_until_a_copy_of_the_learner_takes_the_seat():
    roster = Roster(snapshots=True)
    roster.start("v0", Mean(), trained=False)
    assert not roster.serves_learner
    learn(roster.challenger)
    roster.seat_first("v1")
    assert roles(roster) == {"champion": "v1", "challenger": "v1"}
    assert roster.champion.model.arrays["count"] == 20


def test_after_a_rollback_the_restored_model_serves_frozen_and_a_copy_of_it_learns_on():
    roster = seated()
    lost, good = roster.champion, roster.good
    assert good is not None
    assert roster.install(good.version, good.model, keep=False)
    assert roles(roster) == {"frozen": "v0", "champion": "v0", "challenger": "v0"}
    assert lost not in roster.contestants
    learn(roster.challenger)
    assert (roster.champion.model.arrays["count"], roster.challenger.model.arrays["count"]) == (0, 20)


def test_a_rejected_learner_goes_unless_nothing_else_learns():
    roster = gated()
    standing = roster.challenger
    standing.trial = Trial({}, {}, 5)
    roster.reject(standing)
    assert roster.challengers == [standing]
    assert standing.trial is None  # it is compared anew
    started = roster.challenge("v5", Mean(), "drift")
    roster.reject(standing)
    assert roster.challengers == [started]
    assert roster.standing is started
    other = seated()
    shown_worse = other.challenge("v5", Mean(), "drift")
    other.reject(shown_worse)
    assert other.challengers == []  # the champion learns


def test_a_challenger_that_beats_a_learner_in_the_seat_leaves_that_as_good():
    roster = seated()
    old = roster.champion
    learn(old)
    fresh = roster.challenge("v5", Mean(), "drift")
    roster.promote(fresh, "v6", previous="v7")
    assert roster.good is not None
    assert (roster.good.version, roster.good.learns, roster.good.model) == ("v7", False, old.model)
    assert roster.champion is fresh
    assert compared(roster) == {("champion", "previous")}


def test_a_version_that_was_in_shadow_serves_frozen_and_a_copy_of_it_learns_on():
    roster = seated()
    shadow = roster.shadow("v9", Mean())
    assert roster.promote(shadow, "v9", previous="v2")
    assert not roster.serves_learner
    assert roles(roster) == {"frozen": "v0", "previous": "v2", "champion": "v9", "challenger": "v9"}
    assert roster.challenger.learns


def test_a_version_promoted_by_order_leaves_a_challenger_that_learns_in_place():
    roster = gated()
    standing = roster.challenger
    assert not roster.install("v7", Mean(), keep=True)
    assert roster.standing is standing
    assert roster.good is not None
    assert roster.good.version == "v0"


def test_a_live_champion_whose_learning_is_paused_serves_frozen_beside_a_copy_that_learns():
    roster = started(live=True)
    learn(roster.champion)
    good = roster.good
    assert good is not None
    assert roster.install(good.version, good.model, keep=False, pause=True)
    assert roles(roster) == {"frozen": "v0", "champion": "v0", "challenger": "v0"}
    assert not roster.champion.learns
    assert compared(roster) == {("challenger", "champion")}
    learner = roster.challenger
    learn(learner)
    roster.promote(learner, "v1")
    assert (roster.champion, roster.serves_learner) == (learner, True)
    roster.install("v0", Mean(), keep=False)  # an order ends a pause as well
    assert roster.challengers == []


@pytest.mark.parametrize("trained", [False, True])
def test_gated_rosters_with_learners_come_back(trained: bool):
    for roster in (gated(trained), seated()):
        roster.rollbacks = [100, 2_000]
        learn(roster.challenger)
        twin = reloaded(roster)
        assert twin.contenders() == roster.contenders()
        assert (twin.untrained, twin.serves_learner) == (roster.untrained, roster.serves_learner)
        assert twin.rollbacks == roster.rollbacks
        assert compared(twin) == compared(roster)


# ---- live ----------------------------------------------------------------------------------------------------------


def test_live_the_champion_learns_and_is_compared_with_good():
    roster = started(live=True)
    assert roster.champion.learns
    assert compared(roster) == {("champion", "previous")}
    learn(roster.champion)
    good, uid = roster.good, roster.champion.uid
    assert good is not None
    roster.install("v0", copy(good.model), keep=False)
    assert roster.champion.model.arrays["count"] == 0
    assert roster.champion.uid != uid
    learn(roster.champion)
    assert roster.good is not None
    assert roster.good.model.arrays["count"] == 0


def test_live_a_champion_that_got_better_keeps_its_seat_and_a_copy_of_it_is_good():
    roster = started(live=True)
    champion = roster.champion
    learn(champion)
    roster.promote(champion, "v1")
    assert roster.champion is champion
    learn(champion)
    assert roster.good is not None
    assert (roster.good.version, roster.good.learns, roster.good.model.arrays["count"]) == ("v1", False, 20)


# ---- both ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [False, True])
def test_a_version_in_shadow_is_compared_and_takes_over_as_it_is(live: bool):
    roster = started(live)
    learned = Mean()
    shadow = roster.shadow("v7", learned)
    assert ("shadow", "champion") in compared(roster)
    roster.promote(shadow, "v7")
    assert roster.champion.model is learned
    assert roster.champion.learns == live
    assert roster.challengers == [] if live else [roster.standing]
    assert roster.good is not None
    assert roster.good.version == ("v7" if live else "v0")
    assert roster.good.model is not learned


def test_challengers_contend_until_they_are_dismissed():
    roster = started()
    assert contending(roster.contenders()) == 1
    fresh, shadow = roster.challenge("v1", Mean()), roster.shadow("v0", Mean())
    roster.nominate()
    assert contending(roster.contenders()) == 3
    roster.dismiss(fresh)
    roster.dismiss(shadow)
    assert roles(roster) == {"frozen": "v0", "champion": "v0", "challenger": "v0", "candidate": "v0"}


def test_the_canary_is_the_oldest_challenger_gated_its_snapshot():
    roster, live = started(), started(live=True)
    assert roster.canary is None
    assert live.canary is None
    roster.challenge("v1", Mean())
    roster.nominate(Progress(12, 0))
    canary = roster.canary
    assert canary is not None
    assert canary is roster.challenger.snapshot
    assert canary.learned == Progress(12, 0)
    live.shadow("v0", Mean())
    first = live.challenge("v1", Mean())
    live.challenge("v2", Mean())
    assert live.canary is first


def test_live_an_untrained_start_is_neither_good_nor_a_baseline():
    roster = Roster(live=True)
    roster.start("v0", Mean(), trained=False)
    assert roster.good is None
    assert "frozen" not in roster.scored()
    assert roster.comparisons() == []
    learn(roster.champion)
    challenger = roster.challenge("v5", Mean())
    challenger.trial = Trial({}, {}, 5)
    roster.keep_good("v1")
    good = roster.good
    assert good is not None
    assert (good.version, good.learns, roster.champion.version, roster.baselines) == ("v1", False, "v1", [])
    assert good.model.arrays["count"] == roster.champion.model.arrays["count"] == 20
    assert challenger.trial is not None  # it is compared with the same model as before
    assert compared(roster) == {("fresh", "champion"), ("champion", "previous")}
    learn(roster.champion)
    assert good.model.arrays["count"] == 20  # the copy does not learn


def test_live_baselines_are_scored_and_never_compared():
    roster = started(live=True)
    assert roster.scored()["frozen"] == roster.baselines[0].uid
    roster.install("v1", Mean(), keep=False)
    assert ("frozen", "champion") not in compared(roster)


@pytest.mark.parametrize("live", [False, True])
def test_baselines_are_scored_and_compared_once_they_differ(live: bool):
    """In `gated` mode, and in every mode of release 0.1.0."""
    roster = Roster(live, layout=1)
    roster.start("v0", Mean())
    assert roster.scored()["frozen"] == roster.baselines[0].uid
    assert ("frozen", "champion") not in compared(roster)
    roster.install("v1", Mean(), keep=False)
    assert ("frozen", "champion") in compared(roster)
    (frozen,) = roster.baselines
    frozen.trial = Trial({}, {}, 5)
    roster.confirm(frozen)
    assert (roster.baselines, frozen.trial) == ([frozen], None)  # its comparison begins again
    roster.expel(frozen)
    assert roster.frozen_start() is roster.champion
    assert "frozen" not in roster.scored()


def test_the_scored_words_are_those_of_the_metrics():
    roster, live = started(), started(live=True)
    assert roster.scored() == {"champion": 2, "challenger": 3, "frozen": 1}
    assert live.scored() == {"champion": 3, "challenger": 3, "frozen": 1}
    roster.expel(roster.challenger)
    assert roster.scored() == {"champion": 2, "frozen": 1}


def test_a_confirmed_champion_has_no_good_version_left():
    roster = started()
    roster.promote(snapshot(roster), "v1")
    good = roster.good
    assert good is not None
    roster.confirm(good)
    assert (roster.good, roles(roster)) == (None, {"frozen": "v0", "champion": "v1", "challenger": "v1"})


def test_when_the_standing_challenger_fails_the_oldest_learner_takes_its_place():
    roster = started()
    roster.shadow("v0", Mean())
    older, newer = roster.challenge("v1", Mean()), roster.challenge("v2", Mean())
    roster.nominate()
    assert roster.standing is not None
    roster.expel(roster.standing)
    assert roster.standing is older
    assert [roster.role_of(one) for one in (older, newer)] == ["challenger", "fresh"]
    assert [one.version for one in with_role(roster, "candidate")] == ["v1", "v2"]


@pytest.mark.parametrize("live", [False, True])
def test_the_flat_view_keeps_its_order_when_a_contestant_starts_again(live: bool):
    roster = started(live)
    first, second = roster.challenge("v1", Mean()), roster.challenge("v2", Mean())
    before = [one.version for one in roster.contestants]
    roster.restart(first, Mean(), "v1")
    assert first.uid > second.uid
    assert [one.version for one in roster.contestants] == before
    assert roster.known(first.uid) is first


def test_before_the_start_there_is_no_champion():
    with pytest.raises(LookupError, match="the roster is empty"):
        _ = Roster().champion


# ---- checkpoints ---------------------------------------------------------------------------------------------------


def reloaded(roster: Roster) -> Roster:
    arrays, header = roster.state()
    frozen = [one for one in roster.contestants if not one.learns and roster.role_of(one) != "candidate"]
    stored = {one.version: one.model.arrays for one in frozen}
    twin = Roster(roster.live, snapshots=roster.snapshots)
    twin.load(arrays, header, lambda version: Mean(), stored.__getitem__)
    return twin


@pytest.mark.parametrize("live", [False, True])
def test_a_roster_comes_back_from_its_arrays_and_header(live: bool):
    roster = started(live)
    learn(roster.challenger)
    roster.promote(roster.challenger if live else snapshot(roster), "v1")
    roster.nominate()
    roster.contestants[-1].trial = Trial({"sums": np.arange(3.0)}, {"n": np.ones(())}, tested=5)
    twin = reloaded(roster)
    (arrays, header), (again, header_again) = roster.state(), twin.state()
    assert header_again == header
    assert {name: array.tobytes() for name, array in again.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    batch = examples(20).batch
    for one, other in zip(roster.contestants, twin.contestants, strict=True):
        assert one.model.predict(batch).tobytes() == other.model.predict(batch).tobytes()


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("by", ["drift", "user"])
def test_every_concept_comes_back(live: bool, by: By):
    roster = started(live)
    roster.install("v1", Mean(), keep=True)
    roster.challenge("v2", Mean(), by)
    roster.shadow("v0", Mean())
    roster.nominate(Progress(7, 3))
    twin = reloaded(roster)
    assert twin.contenders() == roster.contenders()
    assert [one.by for one in twin.challengers] == [one.by for one in roster.challengers]
    assert roles(twin) == roles(roster)
    assert [one.learned for one in twin.contestants] == [one.learned for one in roster.contestants]


def test_a_checkpoint_of_an_older_release_names_no_origin_of_a_challenger():
    roster = started()
    roster.challenge("v1", Mean(), "drift")
    arrays, header = roster.state()
    entries = [{name: value for name, value in entry.items() if name != "by"} for entry in header["contestants"]]
    for entry in entries:
        del entry["learned"]  # nor what a snapshot had learned
    twin = Roster()
    twin.load(arrays, header | {"contestants": entries}, lambda version: Mean(), lambda version: Mean().arrays)
    assert [one.by for one in twin.challengers] == ["loop", "user"]
    assert roles(twin) == roles(roster)
