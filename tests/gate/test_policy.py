"""The policy as a table: a view of the roster in, the actions out. No model, log or file is needed."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from everlearn.gate.policy import (
    Action,
    CandidateVerdict,
    Confirm,
    Contender,
    Expel,
    KeepGood,
    Nominate,
    PromoteCandidate,
    RaiseRate,
    Reject,
    ReportDrift,
    Restart,
    RollBack,
    SeatFirst,
    StartChallenger,
    View,
    Withdraw,
    alpha_share,
    contending,
    decide,
    react,
    replace,
)
from everlearn.records import Evidence, Verdict
from everlearn.spec import DriftSpec

MINIMUM = 100

# gated: everything that answers is frozen, and challengers nominate snapshots
FROZEN_START = Contender(1, "baseline", "v0")
CHAMPION = Contender(2, "champion", "v1")
GOOD = Contender(3, "good", "v0")
STANDING = Contender(4, "challenger", "v1", learns=True, by="loop")
STARTED = Contender(5, "challenger", "v5", learns=True, by="drift")
SHADOW = Contender(6, "challenger", "v6", by="user")
SNAPSHOT = Contender(7, "snapshot", "v1")
OTHER_SNAPSHOT = Contender(8, "snapshot", "v5")
GATED = (FROZEN_START, CHAMPION, GOOD, STANDING, STARTED, SHADOW, SNAPSHOT, OTHER_SNAPSHOT)

# live: the champion learns, and so do the challengers themselves
LEARNER = Contender(2, "champion", "v1", learns=True)
LIVE = (FROZEN_START, GOOD, LEARNER, STARTED, SHADOW)


def known(examples: int = 500, better: float = 1.0) -> Evidence:
    return Evidence(examples, 1, examples, 0.1, -0.1, 0.2, better, -1.0, 3.0)


def said(action: Literal["promote", "reject", "wait"], **changes: Any) -> Verdict:
    return Verdict(action, action, known(**changes))


YES, NO, WAIT = said("promote"), said("reject"), said("wait")
EARLY = said("reject", examples=4 * MINIMUM - 1)
HOPELESS = said("wait", examples=2 * MINIMUM, better=0.0)


def view(live: bool, *comparisons: tuple[Contender, Verdict | None], limit: int = 3) -> View:
    compared = tuple(CandidateVerdict(*pair) for pair in comparisons)
    return View(live, LIVE if live else GATED, compared, limit, MINIMUM, learning=live, snapshots=not live)


def promote(uid: int) -> Action:
    return PromoteCandidate(uid, "promote", YES.evidence)


def reject(uid: int) -> Action:
    return Reject(uid, "reject", NO.evidence)


def back(uid: int, verdict: Verdict) -> Action:
    return RollBack(uid, verdict.reason, verdict.evidence)


# ---- evidence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comparisons", "expected"),
    [
        ([], []),
        ([(SNAPSHOT, None)], []),
        ([(SNAPSHOT, WAIT)], []),
        ([(SNAPSHOT, YES)], [promote(7)]),
        ([(SNAPSHOT, NO)], [reject(7)]),
        ([(SHADOW, YES)], [promote(6)]),
        ([(SHADOW, NO)], [reject(6)]),
        ([(GOOD, YES)], [back(3, YES)]),
        ([(GOOD, NO)], [Confirm(3)]),
        ([(FROZEN_START, YES)], [back(1, YES)]),
        ([(FROZEN_START, NO)], [Confirm(1)]),
        # a snapshot that had its time makes room for a newer one; a version in shadow stays, and so does the guard's
        ([(SNAPSHOT, HOPELESS)], [Withdraw(7)]),
        ([(SNAPSHOT, said("wait", examples=2 * MINIMUM - 1, better=0.0))], []),
        ([(SNAPSHOT, said("wait", examples=2 * MINIMUM, better=0.1))], []),
        ([(SHADOW, HOPELESS), (GOOD, HOPELESS)], []),
        # a rejection leaves the others' evidence as it is; a move of the seat makes all of it void
        ([(SNAPSHOT, NO), (SHADOW, NO), (GOOD, NO)], [reject(7), reject(6), Confirm(3)]),
        ([(SNAPSHOT, NO), (OTHER_SNAPSHOT, YES)], [reject(7), promote(8)]),
        ([(SNAPSHOT, YES), (OTHER_SNAPSHOT, YES), (SHADOW, NO), (GOOD, YES)], [promote(7)]),
        ([(SNAPSHOT, HOPELESS), (FROZEN_START, YES), (GOOD, NO)], [Withdraw(7), back(1, YES)]),
    ],
)
def test_gated_verdicts_become_actions_and_learners_nominate(comparisons: Any, expected: list[Action]) -> None:
    assert decide(view(False, *comparisons)) == [*expected, Nominate()]


@pytest.mark.parametrize(
    ("comparisons", "expected"),
    [
        ([], []),
        ([(LEARNER, None)], []),
        ([(LEARNER, WAIT)], []),
        ([(LEARNER, YES)], [KeepGood(2, "promote", YES.evidence)]),  # it is the good version from now on
        ([(LEARNER, NO)], [back(3, NO)]),  # to the good version
        ([(STARTED, YES)], [promote(5)]),
        ([(STARTED, NO)], [reject(5)]),
        ([(STARTED, EARLY)], []),  # it had too little time to learn
        ([(SHADOW, said("reject", examples=MINIMUM))], [Reject(6, "reject", known(MINIMUM))]),  # it does not learn
        ([(SHADOW, YES)], [promote(6)]),
        ([(FROZEN_START, YES)], [back(1, YES)]),
        ([(FROZEN_START, NO), (LEARNER, NO)], [Confirm(1), back(3, NO)]),
        ([(STARTED, HOPELESS)], []),  # it learns on, and may do better
        ([(STARTED, YES), (LEARNER, NO)], [promote(5)]),
    ],
)
def test_live_the_guard_compares_the_champion_with_good(comparisons: Any, expected: list[Action]) -> None:
    assert decide(view(True, *comparisons)) == expected


@pytest.mark.parametrize(
    ("scored", "layout", "contenders", "keeps"),
    [
        (MINIMUM, 2, (FROZEN_START, LEARNER), True),  # the first version that has learned
        (MINIMUM - 1, 2, (FROZEN_START, LEARNER), False),
        (MINIMUM, 2, (GOOD, LEARNER), False),
        (MINIMUM, 1, (FROZEN_START, LEARNER), False),  # release 0.1.0 starts with a good version
    ],
)
def test_live_the_first_trained_version_is_kept_as_good(
    scored: int, layout: int, contenders: tuple[Contender, ...], keeps: bool
) -> None:
    actions = decide(View(True, contenders, (), 1, MINIMUM, scored, layout, learning=True, untrained=True))
    assert [type(action) for action in actions] == [KeepGood] * keeps
    assert [action.uid for action in actions if isinstance(action, KeepGood)] == [LEARNER.uid] * keeps


def test_challengers_share_alpha_and_the_guard_does_not() -> None:
    shares = {
        concept: alpha_share(concept, 4) for concept in ("champion", "good", "baseline", "challenger", "snapshot")
    }
    assert shares == {"champion": 1.0, "good": 1.0, "baseline": 1.0, "challenger": 0.25, "snapshot": 0.25}


def test_learners_and_versions_in_shadow_contend() -> None:
    assert contending(GATED) == 3
    assert contending(LIVE) == 3
    assert contending((FROZEN_START, CHAMPION, GOOD)) == 0


# ---- drift -----------------------------------------------------------------------------------------------------------


def report(reaction: str, note: str = "", restarts: str = "") -> Action:
    return ReportDrift(f"adwin on loss: reaction {reaction!r}{note}", restarts)


FULL = ", but as many learn already as may"
FRESH, EMPTY = (StartChallenger("drift", "fresh challenger after drift", warm) for warm in (True, False))


@pytest.mark.parametrize(
    ("reaction", "live", "limit", "expected"),
    [
        ("note", False, 4, [report("note")]),
        ("note", True, 3, [report("note")]),
        ("rate", False, 4, [report("rate"), RaiseRate()]),
        ("rate", True, 3, [report("rate"), RaiseRate()]),
        ("challenger", False, 4, [report("challenger"), FRESH]),
        ("challenger", False, 3, [report("challenger", FULL)]),
        ("challenger", True, 4, [report("challenger"), FRESH]),
        ("reset", False, 3, [report("reset", restarts="v1"), Restart(4)]),
        ("reset", True, 4, [report("reset"), EMPTY]),
        ("reset", True, 3, [report("reset", FULL)]),
    ],
)
def test_drift_is_reported_and_answered_as_the_spec_says(
    reaction: Any, live: bool, limit: int, expected: list[Action]
) -> None:
    assert react(view(live, limit=limit), DriftSpec(reaction=reaction)) == expected


def test_gated_without_a_standing_challenger_a_reset_starts_one() -> None:
    alone = View(False, (FROZEN_START, CHAMPION), limit=1)
    assert react(alone, DriftSpec(reaction="reset")) == [report("reset"), EMPTY]


# ---- models that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("failing", [1, 3, 5, 6])
def test_a_failing_model_that_does_not_answer_is_expelled(live: bool, failing: int) -> None:
    assert replace(view(live), failing, "why") == [Expel(failing, "why")]


OLDER = Contender(9, "baseline", "v9")


@pytest.mark.parametrize(
    ("live", "contenders", "tried", "expected"),
    [
        (False, (CHAMPION, GOOD, FROZEN_START), set(), [3]),  # both are v0: one try is enough
        (False, (OLDER, CHAMPION, GOOD), set(), [3, 9]),  # the good version first
        (False, (OLDER, CHAMPION, GOOD), {"v0"}, [9]),
        (False, (OLDER, CHAMPION, GOOD), {"v0", "v9"}, []),
        (False, (CHAMPION, Contender(1, "baseline", "v1")), set(), []),  # frozen alike, it would fail again
        (True, (LEARNER, Contender(3, "good", "v1")), set(), [3]),  # the champion has learned since
        (True, (LEARNER, Contender(3, "good", "v1")), {"v1"}, []),
    ],
)
def test_a_failing_champion_goes_back_to_what_was_not_tried(
    live: bool, contenders: tuple[Contender, ...], tried: set[str], expected: list[int]
) -> None:
    actions = replace(View(live, contenders, learning=live), 2, "why", tried)
    assert actions == [RollBack(uid, "why") for uid in expected]


# ---- gated: the gate compares learners -------------------------------------------------------------------------------

SEATED = Contender(4, "champion", "v4", learns=True)


@pytest.mark.parametrize(
    ("comparisons", "expected"),
    [
        ([], []),
        ([(STANDING, WAIT)], []),
        ([(STANDING, YES)], [promote(4)]),
        ([(STANDING, NO)], [reject(4)]),
        ([(STANDING, said("reject", examples=MINIMUM))], [Reject(4, "reject", known(MINIMUM))]),  # the loop's own
        ([(STARTED, EARLY)], []),
        ([(STARTED, NO), (STANDING, YES)], [reject(5), promote(4)]),
        ([(GOOD, YES), (STANDING, YES)], [back(3, YES)]),
        ([(STANDING, HOPELESS)], []),
    ],
)
def test_gated_learners_take_the_seat_themselves(comparisons: Any, expected: list[Action]) -> None:
    compared = tuple(CandidateVerdict(*pair) for pair in comparisons)
    contenders = (FROZEN_START, CHAMPION, GOOD, STANDING, STARTED)
    assert decide(View(False, contenders, compared, 3, MINIMUM)) == expected


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [(YES, [KeepGood(4, "promote", YES.evidence)]), (NO, [back(3, NO)]), (WAIT, [])],
)
def test_gated_a_learner_in_the_seat_is_under_the_guard(verdict: Verdict, expected: list[Action]) -> None:
    compared = (CandidateVerdict(SEATED, verdict),)
    assert decide(View(False, (GOOD, SEATED), compared, 3, MINIMUM, 9 * MINIMUM, learning=True)) == expected


@pytest.mark.parametrize("snapshots", [False, True])
@pytest.mark.parametrize("learning", [False, True])
def test_gated_the_first_trained_version_is_seated_frozen(snapshots: bool, learning: bool) -> None:
    def decided(scored: int) -> list[Action]:
        settings = {"scored": scored, "learning": learning, "snapshots": snapshots, "untrained": True}
        return [one for one in decide(View(False, (), (), 1, MINIMUM, **settings)) if not isinstance(one, Nominate)]

    assert decided(MINIMUM - 1) == []
    assert decided(MINIMUM) == [SeatFirst("the first version that has learned 100 examples")]


def test_a_learner_in_the_seat_gets_a_good_version_where_it_has_none() -> None:
    (action,) = decide(View(True, (LEARNER,), (), 1, MINIMUM, MINIMUM, learning=True))
    assert action == KeepGood(2, "there was no good version to go back to")


# ---- too many rollbacks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rollbacks", "live", "learning", "layout", "pauses"),
    [
        ((), True, True, 2, False),
        ((15_000,), True, True, 2, False),
        ((10_001, 19_999), True, True, 2, True),  # the third one within 10,000 labels
        ((10_000, 19_999), True, True, 2, False),
        ((10_001, 19_999), False, True, 2, False),  # gated, what serves after a rollback is frozen anyway
        ((10_001, 19_999), True, False, 2, False),
        ((10_001, 19_999), True, True, 1, False),
    ],
)
def test_three_rollbacks_within_ten_thousand_labels_pause_learning(
    rollbacks: tuple[int, ...], live: bool, learning: bool, layout: int, pauses: bool
) -> None:
    contenders, compared = (GOOD, LEARNER), (CandidateVerdict(LEARNER, NO),)
    state: dict[str, Any] = {"scored": 20_000, "layout": layout, "learning": learning, "rollbacks": rollbacks}
    seen = View(live, contenders, compared, 1, MINIMUM, **state)
    for action in (*decide(seen), *replace(seen, LEARNER.uid, "why")):
        assert isinstance(action, RollBack)
        assert action.pause == pauses
        assert ("stops learning" in action.reason) == pauses


# ---- guards on policies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [None, said("wait"), said("promote")])
def test_a_live_champion_with_an_alarm_goes_back(verdict: Verdict | None) -> None:
    view = View(True, LIVE, (CandidateVerdict(LEARNER, verdict),), learning=True, alarms={2: "KL"})
    assert decide(view) == [RollBack(3, "KL", verdict.evidence if verdict else None)]


def test_a_candidate_with_an_alarm_is_not_promoted() -> None:
    view = View(False, GATED, (CandidateVerdict(STANDING, said("promote")),), alarms={4: "KL"})
    assert decide(view) == [Reject(4, "promote, but KL", known())]
    view = View(False, GATED, (CandidateVerdict(STANDING, said("wait")),), alarms={4: "KL"})
    assert decide(view) == []
