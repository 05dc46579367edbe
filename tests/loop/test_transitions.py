"""Each action changes the roster and becomes payloads for the log. A roster, a registry and a log are enough for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn import events, gate, metrics, schema
from everlearn.errors import LogError, ModelError
from everlearn.gate.policy import (
    Action,
    Confirm,
    Expel,
    Nominate,
    PromoteCandidate,
    RaiseRate,
    Reject,
    ReportDrift,
    Restart,
    RollBack,
    StartChallenger,
    Withdraw,
)
from everlearn.learn.monitor import Monitor
from everlearn.loop.transitions import Transitions, apply, view
from everlearn.loop.versioning import Moment, TransitionContext, revive
from everlearn.records import Born, Decision, Evidence, Payload
from everlearn.schema import Encoder
from everlearn.serve.contestant import Contestant, Progress, Trial
from everlearn.serve.isolation import ModelFailure
from everlearn.serve.roster import Roster
from everlearn.spec import DriftSpec, GateSpec, Schema, Spec
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions
from tests.support.models import Mean, examples
from tests.support.rosters import roles, with_role

SCHEMA = Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric", "b": "numeric", "c": "numeric"})
EVIDENCE = Evidence(200, 1, 200, 0.1, 0.05, 0.15, 9.0, -9.0, 3.0)
NOW = Moment(50, Progress(50, 0))
broken = False


def fragile(spec: Mapping[str, Any]) -> Mean:
    """A family that cannot be built while `broken` is set."""
    if broken:
        raise ModelError("on purpose")
    return Mean(spec)


class Parts:
    """A started loop without its log's events: transitions, and what they work on."""

    def __init__(self, folder: Path, mode: Any, **changes: Any) -> None:
        settings: dict[str, Any] = {"model": {"family": "tests.support.models:Mean"}, "challengers": 3} | changes
        spec = Spec(schema=SCHEMA, mode=mode, **settings)
        shape, encoder = schema.shape(SCHEMA), Encoder(SCHEMA)
        monitor, roster = Monitor(spec, shape), Roster(mode == "live", 2, snapshots=mode == "gated")
        asked = msgspec.structs.replace(spec.gate, loss=monitor.loss)
        self.log = events.connect(str(folder / "log.sqlite"))
        self.context = TransitionContext(
            spec, asked, encoder, monitor, roster, Versions(Blobs(folder / "blobs")), self.log
        )
        self.roster, self.versions = roster, self.context.versions
        self.transitions = Transitions(spec, asked, encoder, monitor, roster, self.versions, self.log)
        self.first = self.noted(self.transitions.start(self.transitions.make(), "untrained", 0, Progress(0, 0)))

    def noted(self, payloads: list[Payload]) -> list[Payload]:
        """Payloads, after the registry and the log have them, as a commit would see to it."""
        for payload in payloads:
            self.versions.note(payload)
        self.log.append(payloads)
        return payloads

    def apply(self, action: Action) -> list[Payload]:
        return self.noted(apply(action, self.context, NOW))


@pytest.fixture(params=["gated", "live"])
def mode(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Any]:
    opened: list[Parts] = []

    def make(mode: str, **changes: Any) -> Parts:
        opened.append(Parts(tmp_path, mode, **changes))
        return opened[-1]

    yield make
    for parts in opened:
        parts.log.close()


def learn(contestant: Contestant, rows: int = 20) -> None:
    some = examples(rows)
    contestant.model.learn(some.batch, some.y, some.weight)


def snapshot(roster: Roster) -> Contestant:
    roster.nominate(Progress(40, 0))
    (found,) = with_role(roster, "candidate")
    return found


def words(payloads: list[Payload]) -> list[str]:
    """The kind of each payload: a version, or the action of a decision and who took it."""
    return ["version" if isinstance(one, Born) else f"{one.action} by {one.by}" for one in payloads]  # type: ignore


def last(payloads: list[Payload]) -> Decision:
    assert isinstance(payloads[-1], Decision)
    return payloads[-1]


# ---- the start -----------------------------------------------------------------------------------------------------


def test_the_first_version_takes_every_place(made: Any, mode: Any) -> None:
    parts = made(mode)
    assert words(parts.first) == ["version", "start by loop", "start by loop"]
    id = parts.versions.list()[0].id
    assert parts.versions.aliases() == {id: ["challenger", "champion"]}
    assert last(parts.first).detail == {"examples": 0, "learned": [0, 0]}
    assert set(roles(parts.roster).values()) == {id}


# ---- the seat ------------------------------------------------------------------------------------------------------


def test_a_promoted_snapshot_is_stored_with_what_it_had_learned(made: Any) -> None:
    parts = made("gated")
    learn(parts.roster.challenger)
    candidate = snapshot(parts.roster)
    learn(parts.roster.challenger)
    first = parts.roster.champion.version
    payloads = parts.apply(PromoteCandidate(candidate.uid, "better", EVIDENCE))
    decision = last(payloads)
    assert words(payloads) == ["version", "promote by gate"]
    assert (decision.alias, decision.previous, decision.evidence) == ("champion", first, EVIDENCE)
    assert decision.detail == {"examples": 0, "learned": [40, 0]}
    version = parts.versions.find(decision.version)
    assert (version.parents, version.position, version.reason) == ((first,), 50, "better")
    assert parts.roster.champion.version == version.id
    assert revive(parts.context, version.id).arrays["count"] == 20
    assert parts.roster.good.version == first


def test_a_version_in_shadow_is_promoted_as_it_is(made: Any, mode: Any) -> None:
    parts = made(mode)
    other = parts.versions.make(Mean().arrays | {"count": np.array(9)}, parts.context.spec.model, (), 1, "why", {})
    parts.noted([Born(other)])
    shadow = parts.roster.shadow(other.id, revive(parts.context, other.id))
    payloads = parts.apply(PromoteCandidate(shadow.uid, "better", EVIDENCE))
    assert words(payloads) == ["promote by gate"]
    assert last(payloads).detail == {"examples": 0}
    assert parts.roster.champion.version == other.id


def test_live_a_champion_that_got_better_is_stored_and_becomes_good(made: Any) -> None:
    parts = made("live")
    champion = parts.roster.champion
    learn(champion)
    payloads = parts.apply(PromoteCandidate(champion.uid, "better", EVIDENCE))
    assert words(payloads) == ["version", "promote by gate"]
    assert last(payloads).detail["learned"] == [50, 0]
    assert parts.roster.champion is champion
    assert parts.roster.good.version == champion.version == last(payloads).version


def test_live_a_champion_is_stored_before_it_is_replaced(made: Any) -> None:
    parts = made("live")
    first = parts.roster.champion.version
    learn(parts.roster.champion)
    payloads = parts.apply(RollBack(parts.roster.good.uid, "worse", EVIDENCE))
    assert words(payloads) == ["version", "withdraw by loop", "rollback by guard"]
    decision = last(payloads)
    assert (decision.version, decision.evidence) == (first, EVIDENCE)
    kept = parts.versions.find(decision.previous)
    assert kept.parents == (first,)
    assert revive(parts.context, kept.id).arrays["count"] == 20
    assert parts.roster.champion.model.arrays["count"] == 0
    assert parts.versions.alias("previous") is None  # nothing served before the version that is back


def test_gated_a_rollback_leaves_no_good_version(made: Any) -> None:
    parts = made("gated")
    parts.apply(PromoteCandidate(snapshot(parts.roster).uid, "better", EVIDENCE))
    good = parts.roster.good
    payloads = parts.apply(RollBack(good.uid, "worse"))
    assert words(payloads) == ["rollback by guard"]
    assert (parts.roster.champion.version, parts.roster.good) == (good.version, None)


# ---- challengers ---------------------------------------------------------------------------------------------------


def test_a_rejected_candidate_leaves(made: Any) -> None:
    parts = made("gated")
    candidate = snapshot(parts.roster)
    payloads = parts.apply(Reject(candidate.uid, "worse", EVIDENCE))
    assert words(payloads) == ["reject by gate"]
    assert (last(payloads).version, last(payloads).detail) == (candidate.version, {"examples": 0})
    assert with_role(parts.roster, "candidate") == []


@pytest.mark.parametrize("warm", [False, True])
def test_a_challenger_starts_untrained_where_nothing_is_remembered(made: Any, mode: Any, warm: bool) -> None:
    parts = made(mode)
    payloads = parts.apply(StartChallenger("drift", "fresh challenger after drift", warm))
    assert words(payloads) == ["version", "challenger by drift"]
    assert last(payloads).reason == "fresh challenger after drift, untrained"
    assert last(payloads).detail == {"examples": 0, "learned": [50, 0]}
    (fresh,) = with_role(parts.roster, "fresh")
    assert (fresh.learns, fresh.by, fresh.version) == (True, "drift", parts.versions.alias("challenger"))


def test_actions_that_only_change_the_roster_log_nothing(made: Any) -> None:
    parts = made("gated")
    assert parts.apply(Nominate()) == []
    (candidate,) = with_role(parts.roster, "candidate")
    assert candidate.learned == NOW.learned
    assert parts.apply(Withdraw(candidate.uid)) == []
    assert with_role(parts.roster, "candidate") == []
    learn(parts.roster.challenger)
    standing = parts.roster.standing
    assert parts.apply(Restart(standing.uid)) == []
    assert parts.roster.standing is standing
    assert standing.model.arrays["count"] == 0
    assert parts.apply(Confirm(parts.roster.baselines[0].uid)) == []
    assert parts.apply(RaiseRate()) == []
    assert parts.context.monitor.boosting


def test_an_action_on_a_contestant_that_left_is_an_error(made: Any) -> None:
    parts = made("gated")
    with pytest.raises(LookupError, match="no contestant has uid 99"):
        parts.apply(Withdraw(99))


def test_drift_is_logged(made: Any, mode: Any) -> None:
    payloads = made(mode).apply(ReportDrift("adwin on loss"))
    assert words(payloads) == ["drift by drift"]
    assert last(payloads).detail == {"examples": 0}


def test_a_reaction_that_fails_is_reported_and_changes_nothing(made: Any, mode: Any, monkeypatch: Any) -> None:
    parts = made(mode, model={"family": "tests.loop.test_transitions:fragile"}, drift=DriftSpec(reaction="challenger"))
    before = roles(parts.roster)
    monkeypatch.setattr("tests.loop.test_transitions.broken", True)
    payloads = parts.transitions.react(*NOW)
    assert words(payloads) == ["drift by drift", "reject by loop"]
    assert last(payloads).reason == "after drift: on purpose"
    assert roles(parts.roster) == before


# ---- decisions -----------------------------------------------------------------------------------------------------


def judged(parts: Parts, candidate: Contestant, better: bool, rows: int = 2000) -> None:
    """Give a candidate the evidence of rows on which it is much better, or much worse."""
    evidence, draw = gate.start(parts.context.gate), np.random.default_rng(0)
    low, high = 0.1 + 0.1 * draw.random(rows), 0.6 + 0.1 * draw.random(rows)
    gate.update(evidence, parts.context.gate, *((high, low) if better else (low, high)))
    candidate.trial = Trial(evidence, metrics.start("binary", 2, points=2), rows)


def test_gated_evidence_seats_the_snapshot_and_its_challenger_nominates_again(made: Any) -> None:
    parts = made("gated", gate=GateSpec(minimum=100))
    judged(parts, snapshot(parts.roster), better=True)
    payloads = parts.noted(parts.transitions.decide(*NOW))
    assert words(payloads) == ["version", "promote by gate"]
    (candidate,) = with_role(parts.roster, "candidate")
    assert (candidate.trial, candidate.version) == (None, parts.roster.champion.version)
    assert words(parts.transitions.decide(*NOW)) == []


def test_live_evidence_against_the_champion_brings_the_good_version_back(made: Any) -> None:
    parts = made("live", gate=GateSpec(minimum=100))
    learn(parts.roster.champion)
    judged(parts, parts.roster.champion, better=False)
    payloads = parts.noted(parts.transitions.decide(*NOW))
    assert words(payloads) == ["version", "withdraw by loop", "rollback by guard"]
    assert parts.roster.champion.learns
    assert parts.roster.champion.trial is None


def test_several_challengers_share_alpha_in_the_view(made: Any) -> None:
    parts = made("live", challengers=4, gate=GateSpec(minimum=100))
    fresh = parts.roster.challenge("v", Mean())
    judged(parts, fresh, better=True)
    judged(parts, parts.roster.champion, better=True)
    comparisons = view(parts.context).comparisons
    needed = {
        candidate.concept: verdict.evidence.threshold for candidate, verdict in comparisons if verdict is not None
    }
    assert needed["challenger"] == pytest.approx(needed["champion"] + np.log(4))


# ---- models that fail ----------------------------------------------------------------------------------------------


def test_a_challenger_that_fails_is_expelled_with_its_role_in_the_log(made: Any, mode: Any) -> None:
    parts = made(mode)
    shadow = parts.roster.shadow("v7", Mean())
    payloads = parts.transitions.expel([ModelFailure(shadow.uid, "it raised")], *NOW)
    assert words(payloads) == ["reject by loop"]
    assert last(payloads).detail == {"examples": 0, "role": "shadow", "contestant": shadow.uid}
    assert parts.roster.known(shadow.uid) is None
    assert parts.apply(Nominate()) == []


def test_expelling_a_snapshot_takes_a_started_challenger_along(made: Any) -> None:
    parts = made("gated")
    parts.apply(StartChallenger("drift", "fresh", warm=False))
    parts.apply(Nominate())
    (fresh,) = with_role(parts.roster, "fresh")
    assert fresh.snapshot is not None
    parts.apply(Expel(fresh.snapshot.uid, "it raised"))
    assert with_role(parts.roster, "fresh") == []


def test_live_a_champion_that_fails_goes_back_and_does_not_learn_that_event(made: Any) -> None:
    parts = made("live")
    learn(parts.roster.champion)
    payloads = parts.transitions.expel([ModelFailure(parts.roster.champion.uid, "it raised")], *NOW)
    assert words(payloads) == ["version", "withdraw by loop", "rollback by guard"]
    assert (last(payloads).reason, last(payloads).evidence) == ("it raised", None)
    assert not parts.roster.champion.learns
    parts.transitions.relent()
    assert parts.roster.champion.learns


def test_a_champion_with_nothing_to_go_back_to_ends_the_fold(made: Any, mode: Any) -> None:
    parts = made(mode)
    others = [one for one in parts.roster.contestants if one is not parts.roster.champion]
    failures = [ModelFailure(one.uid, "it raised") for one in others]
    parts.transitions.expel(failures, *NOW)
    with pytest.raises(ModelError, match="there is no good version to go back to: it raised"):
        parts.transitions.expel([ModelFailure(parts.roster.champion.uid, "it raised")], *NOW)


def test_a_failure_of_an_unknown_model_ends_the_fold(made: Any, mode: Any) -> None:
    with pytest.raises(ModelError, match="it raised"):
        made(mode).transitions.expel([ModelFailure(99, "it raised")], *NOW)


# ---- orders that cannot be carried out -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("detail", "reason"),
    [
        ({"order": "7", "ask": "sing"}, "there is no order 'sing'"),
        ({"order": "7"}, "there is no order ''"),
        ({"order": "7", "ask": "rollback", "without": {"sauce": "x"}}, "upgrade"),
        ({"order": "7", "ask": "challenge"}, "upgrade"),
        ({"order": "7", "ask": "promote"}, "there is no version 'v9'"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_rejected_with_its_id(made: Any, detail: Any, reason: str) -> None:
    parts = made("gated")
    before = roles(parts.roster)
    payloads = parts.transitions.obey(Decision("order", 0, "why", "user", version="v9", detail=detail), *NOW)
    assert words(payloads) == ["reject by loop"]
    assert reason in last(payloads).reason
    assert last(payloads).version == "v9"
    assert last(payloads).detail == {"examples": 0, "order": "7"}
    assert roles(parts.roster) == before


def test_a_log_that_cannot_be_read_rejects_no_order(made: Any) -> None:
    parts = made("gated")
    parts.log.close()
    order = Decision("order", 0, "why", "user", detail={"order": "7", "ask": "rollback", "without": {"source": "web"}})
    with pytest.raises(LogError):
        parts.transitions.obey(order, *NOW)
