"""Pairs of answers in a loop: asked, judged late, twice or never, revoked, erased, and learned again after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from everlearn.errors import IdTaken, InputError, UnknownId
from everlearn.loop.erase import erase
from everlearn.loop.loop import Loop
from everlearn.model import build
from everlearn.records import Example, Label, Payload, Prediction, Preference, Reward
from everlearn.schema import pairs
from everlearn.schema.question import Arm
from everlearn.serve.duels import rival
from everlearn.spec import FeedbackSpec, GateSpec, LimitsSpec
from tests.support import kills
from tests.support.loops import bytes_of as state_of
from tests.support.loops import spec as plain_spec
from tests.support.pairs import TOKENS, Tokens, answer, asking, drawn, question, read, settings, stories, story, taste
from tests.support.rebuilds import bytes_of, check, fill, learners, nothing, relearned


def ask(loop: Loop, number: int, arm: Arm = "random") -> str:
    return loop.record(drawn(number, arm), {"prompt": f"p{number}"}, id=str(number)).id


def judged(loop: Loop, numbers: range, source: str = "people/anna", arm: Arm = "random") -> None:
    """Ask these questions, and judge them by taste."""
    for number in numbers:
        loop.judge(ask(loop, number, arm), taste(drawn(number)), source=source)


def champion(loop: Loop) -> Tokens:
    model = loop.fold.roster.champion.model
    assert isinstance(model, Tokens)
    return model


# ---- what is learned, and what is scored -----------------------------------------------------------------------------


def test_a_loop_learns_a_taste_and_is_scored_before_it_learns(tmp_path: Path) -> None:
    """The same model beside the loop, tested and then taught with one pair after the other, is the oracle."""
    with Loop(settings(), tmp_path / "home") as loop:
        alone = build({"seed": 0, **TOKENS}, loop.fold.shape)
        squares = []
        for number in range(120):
            asked, one = drawn(number), Preference(str(number), taste(drawn(number)), source="people/anna")
            row = loop.fold.encoder.mark(loop.fold.encoder.read([asking(str(number), number)]), one)
            said = alone.learn(row, np.array([1.0 - one.chosen]), np.ones(1, np.float32))
            squares.append((float(said[0, 1]) - (1 - one.chosen)) ** 2)
            loop.judge(ask(loop, number), taste(asked), source="people/anna", seconds=2.0, why="kinder")
        report = loop.report()
        assert report["examples"] == 120
        assert report["metrics"]["champion"]["brier"] == pytest.approx(np.mean(squares), rel=1e-6)
        assert np.mean(squares[60:]) < 0.1 < np.mean(squares[:20])
        assert bytes_of(champion(loop)) == bytes_of(alone)


@pytest.mark.parametrize("family", [{"family": "linear"}, {"family": "gated"}])
def test_families_of_two_classes_take_pairs_as_they_are(tmp_path: Path, family: dict[str, Any]) -> None:
    with Loop(read(model=family), tmp_path / "home") as loop:
        judged(loop, range(40))
        assert loop.report()["metrics"]["champion"]["accuracy"] > 0.3
    with Loop(read(model=family), tmp_path / "home") as loop:
        assert loop.report()["examples"] == 40


@pytest.mark.parametrize("arm", pairs.ARMS)
def test_models_learn_from_every_arm_and_are_scored_on_four(tmp_path: Path, arm: Arm) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        for number in range(4):
            id = ask(loop, number, arm)
            if arm == "chat":
                loop.feedback(id, reward=1.0)
            else:
                loop.judge(id, 0)
        assert champion(loop).arrays["seen"] == 4
        assert loop.report()["examples"] == (4 if arm in ("random", "duel", "file") else 0)
        assert loop.report()["replay"]["rows"] == 4


def test_no_model_predicts_a_question_that_nobody_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    before = Tokens.predict
    monkeypatch.setattr(Tokens, "predict", lambda self, batch: calls.append(1) or before(self, batch))
    with Loop(settings(), tmp_path / "home") as loop:
        loop.ready()
        calls.clear()
        for number in range(5):
            ask(loop, number)
            ask(loop, number + 10, "chat")
        assert calls == []
        loop.judge("3", 0)
        assert calls != []


def test_a_tie_is_two_lessons_of_half_weight_predicted_at_once(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop, Loop(settings(), tmp_path / "none") as none:
        for one in (loop, none):
            judged(one, range(10))
            said = champion(one).predict(one.fold.encoder.read([asking("20", 20)]))
        loop.judge(ask(loop, 20), verdict="tie", source="people/anna")
        none.judge(ask(none, 20), -1, source="people/anna")
        assert learners(loop) == learners(none)
        assert champion(loop).arrays["seen"] == 12
        assert loop.report()["examples"] == 12
        held = loop.fold.monitor.remembered()
        assert held.y[-2:].tolist() == [1.0, 0.0]
        assert held.weight[-2:].tolist() == [0.5, 0.5]
        assert said[0].sum() == pytest.approx(1.0)


def test_a_skip_teaches_nothing_and_leaves_the_pair_to_others(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        id = ask(loop, 1)
        loop.judge(id, verdict="skip", source="people/anna")
        assert champion(loop).arrays["seen"] == 0
        assert len(loop.fold.pending) == 1
        loop.judge(id, 0, source="people/bert")
        assert champion(loop).arrays["seen"] == 1
        assert loop.report()["examples"] == 1


def test_the_same_judgement_counts_once_and_of_two_annotators_twice(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        id = ask(loop, 1)
        for seconds in (1.0, 5.0):
            loop.judge(id, 0, source="people/anna", seconds=seconds)
        assert (champion(loop).arrays["seen"], loop.log.count("preference")) == (1, 1)
        loop.judge(id, 0, source="people/bert")
        loop.judge(id, 1, source="people/anna")  # she changed her mind
        assert champion(loop).arrays["seen"] == 3
        assert loop.report()["examples"] == 1  # only the first judgement of an answer is scored


def test_rewards_rate_a_single_answer(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        id = ask(loop, 1, "chat")
        loop.feedback(id, reward=0.75, source="people/anna")  # four stars of five
        held = loop.fold.monitor.remembered()
        assert champion(loop).arrays["seen"] == 2
        assert held.y.tolist() == [1.0, 0.0]
        assert held.weight.tolist() == [0.75, 0.25]
        assert loop.report()["examples"] == 0
        with pytest.raises(InputError, match=r"reward: got 4.0 for '1'; expected 0 \(bad\) to 1 \(good\)"):
            loop.feedback(id, reward=4)
        with pytest.raises(InputError, match="got a preference for '1', which holds one answer"):
            loop.judge(id, 0)


def test_rows_say_who_judged(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        for number, source in enumerate(("people/anna", "people/bert", "judge/strict@12", "")):
            loop.judge(ask(loop, number), 0, source=source)
        dense = loop.fold.monitor.remembered().batch.dense
        who = [tuple(row) for row in dense[:, [pairs.WHO_LOW, pairs.WHO_HIGH]].tolist()]
        assert who == [pairs.who("people/anna"), pairs.who("people/bert"), pairs.who("judge/strict@12"), (0.0, 0.0)]
        kinds = [pairs.number("people"), pairs.number("people"), pairs.number("judge/strict@12"), 0.0]
        assert dense[:, pairs.KIND].tolist() == kinds
        assert dense[:, pairs.TRUSTED].tolist() == [1.0, 1.0, 0.0, 0.0]
        names = champion(loop).arrays["names"]
        assert names.shape == (3, 2)  # the capacity of the schema
        assert [tuple(row) for row in names.tolist()] == who[:3]


def test_the_memory_holds_whole_pairs(tmp_path: Path) -> None:
    longest = question(answer(*range(5, 10)), answer(*range(5, 11), finish="length"), prompt=(3, 4, 5, 6))
    with Loop(settings(), tmp_path / "home") as loop:
        loop.judge(loop.record(longest, {"prompt": "p"}).id, 1)
        held = loop.fold.monitor.remembered().batch
        assert held.indices.tolist() == [3, 4, 5, 6, *range(5, 10), 2, *range(5, 11)]
        assert loop.report()["replay"]["truncated"] == 0


# ---- duels -----------------------------------------------------------------------------------------------------------


def duel(loop: Loop, number: int, wins: bool, source: str = "people/anna", uids: tuple[int, int] | None = None) -> None:
    """Ask a duel of the champion and its rival, in random order, and let the one that learns win or lose it."""
    champion, other = loop.fold.roster.champion, rival(loop.fold.roster)
    assert other is not None
    learner, frozen = (champion, other) if champion.learns else (other, champion)
    learns, stays = uids or (learner.uid, frozen.uid)
    first = bool(np.random.default_rng(number).integers(2))
    sides = [(7, learns), (9, stays)] if first else [(9, stays), (7, learns)]
    asked = question(*(answer(token, uid=uid) for token, uid in sides), arm="duel")
    id = loop.record(asked, {"prompt": f"p{number}"}, id=f"duel-{number}").id
    loop.judge(id, 0 if first == wins else 1, source=source)


def evidence(loop: Loop) -> list[int]:
    """The number of duels behind each comparison."""
    return [one["examples"] for one in loop.status()["gate"]]


def test_the_gate_seats_a_learner_that_wins_duels(tmp_path: Path) -> None:
    chosen = settings(mode="gated", gate=GateSpec(minimum=30, alpha=0.2), tick=16)
    with Loop(chosen, tmp_path / "home") as loop:
        judged(loop, range(48))
        before = loop.fold.roster.challenger.uid
        for number in range(100, 260):
            duel(loop, number, number % 5 > 0)
            if loop.fold.roster.champion.uid == before:
                break
        assert loop.fold.roster.champion.uid == before
        moved = [(one.action, one.by) for one in loop.decisions() if one.alias == "champion"]
        assert moved[-1] == ("promote", "gate")


def test_a_better_reward_model_alone_wins_no_seat(tmp_path: Path) -> None:
    with Loop(settings(mode="gated", gate=GateSpec(minimum=30, alpha=0.2), tick=16), tmp_path / "home") as loop:
        judged(loop, range(400))
        assert [one.by for one in loop.decisions() if one.action == "promote"] == ["loop"]
        assert evidence(loop) == [0]
        assert loop.report()["metrics"]["challenger"]["accuracy"] > 0.75


def test_a_live_learner_that_loses_duels_goes_back(tmp_path: Path) -> None:
    with Loop(settings(gate=GateSpec(minimum=30), tick=16), tmp_path / "home") as loop:
        judged(loop, range(48))
        good = loop.fold.roster.good
        assert good is not None
        for number in range(100, 300):
            duel(loop, number, number % 5 == 0)
            if [one.action for one in loop.decisions()][-1] == "rollback":
                break
        back = loop.decisions()[-1]
        assert (back.action, back.by, back.version) == ("rollback", "guard", good.version)


@pytest.mark.parametrize("source", ["judge/strict@12", "implicit/edit", "", "peoples/anna"])
def test_duels_that_people_did_not_judge_only_teach(tmp_path: Path, source: str) -> None:
    with Loop(settings(gate=GateSpec(minimum=30), tick=16), tmp_path / "home") as loop:
        judged(loop, range(48))
        duel(loop, 100, wins=True, source=source)
        duel(loop, 101, wins=True, uids=(77, 78))  # contestants that are gone
        assert champion(loop).arrays["seen"] == 50
        assert evidence(loop) == [0]
        duel(loop, 102, wins=True, source="function/taste")
        assert evidence(loop) == [1]


def test_a_tie_is_one_duel_without_a_winner(tmp_path: Path) -> None:
    with Loop(settings(gate=GateSpec(minimum=30), tick=16), tmp_path / "home") as loop:
        judged(loop, range(48))
        roster = loop.fold.roster
        assert roster.good is not None
        asked = question(answer(7, uid=roster.champion.uid), answer(9, uid=roster.good.uid), arm="duel")
        loop.judge(loop.record(asked, {"prompt": "p"}).id, verdict="tie", source="people/anna")
        (found,) = loop.status()["gate"]
        assert (found["examples"], found["difference"]) == (1, 0.0)


def test_duels_count_alike_after_a_restart(tmp_path: Path) -> None:
    states = []
    for name, stops in (("whole", ()), ("cut", (110, 125))):
        loop = Loop(settings(gate=GateSpec(minimum=30), tick=16), tmp_path / name)
        judged(loop, range(48))
        for number in range(100, 140):
            duel(loop, number, number % 3 > 0)
            if number in stops:
                loop.close()
                loop = Loop(settings(gate=GateSpec(minimum=30), tick=16), tmp_path / name)
        held = loop.fold.state()[0]
        states.append({name: held[name].tobytes() for name in held if name.startswith("roster/evidence")})
        loop.close()
    assert states[0]
    assert states[0] == states[1]


# ---- doors -----------------------------------------------------------------------------------------------------------


def test_a_question_is_recorded_once_and_names_one_pair(tmp_path: Path) -> None:
    with Loop(settings(subject="user"), tmp_path / "home") as loop:
        features = {"prompt": "hello", "user": "zoe", "more": 1}
        first = loop.record(drawn(1), features, id="a", proba=(0.25, 0.75))
        again = loop.record(drawn(1), features, id="a")
        assert first == again == loop.log.find("prediction:a").payload  # type: ignore[union-attr]
        assert (first.features, first.subject, first.proba) == ({"prompt": "hello"}, "zoe", (0.25, 0.75))
        assert first.value == drawn(1).answers[0].text
        assert first.trace == b""
        with pytest.raises(IdTaken, match="the id 'a' names another record"):
            loop.record(drawn(2), features, id="a")
        with pytest.raises(InputError, match="a text cannot be stored as UTF-8"):
            loop.record(drawn(2), {"prompt": "\ud800"})
        with pytest.raises(InputError, match="proba: got"):
            loop.record(drawn(2), features, proba=(0.5,))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (question(answer(5), answer(6), prompt=(3,) * 5), r"the prompt has 5 tokens; expected at most 4"),
        (question(answer(5), answer(*[6] * 6)), r"the second answer has 7 tokens; expected at most 6"),
        (question(answer(5), answer(77)), r"the second answer has the token 77; expected ids below 32"),
        (question(answer(5), answer(6), pair=(0, 2)), r"pair: got \(0, 2\) of 2 answers"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused_before_it_is_recorded(tmp_path: Path, asked: Any, message: str) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        loop.ready()
        end = loop.log.end()
        with pytest.raises(InputError, match=message):
            loop.record(asked, {"prompt": "p"})
        assert loop.log.end() == end


def test_records_and_labels_are_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        ask(loop, 1)
        end = loop.log.end()
        for refused in (
            lambda: loop.predict({"prompt": "p"}),
            lambda: loop.learn({"prompt": "p"}, 1),
        ):
            with pytest.raises(InputError, match=r"this loop learns preferences.*loop\.record"):
                refused()
        with pytest.raises(InputError, match="send `chosen`"):
            loop.feedback("1", label=1)
        with pytest.raises(InputError, match="which asks for a choice between two answers"):
            loop.feedback("1", reward=1.0)
        with pytest.raises(InputError, match="chosen: got 2 for '1'; expected 0 or 1"):
            loop.judge("1", 2)
        with pytest.raises(InputError, match="chosen: got 0.5 for '1'; expected a whole number"):
            loop.judge("1", 0.5)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="needs exactly one of label, reward and chosen"):
            loop.judge("1")
        with pytest.raises(InputError, match="chosen: got 1 for '1' beside the verdict 'tie'"):
            loop.judge("1", 1, verdict="tie")
        with pytest.raises(InputError, match="seconds: got -1"):
            loop.judge("1", 1, seconds=-1)
        with pytest.raises(UnknownId):
            loop.judge("nowhere", 1)
        assert loop.log.end() == end
    with Loop(plain_spec(), tmp_path / "plain") as loop, pytest.raises(InputError, match="this loop's task is binary"):
        loop.record(drawn(1), {"a": 1.0})


def test_events_that_are_no_pairs_are_counted_and_passed_over(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        loop.ready()
        odd: list[Payload] = [Prediction("odd", {"prompt": "p"}, "text", (), "v"), Preference("odd", 0)]
        odd += [Example("e", {"prompt": "p"}, 1), Label("1", 1), Preference("1", 5), Reward("1", 7.0)]
        fill(loop, [(0.0, asking("1", 1)), *((1.0, one) for one in odd), (2.0, Preference("1", 0))])
        assert loop.fold.unusable == 5
        assert champion(loop).arrays["seen"] == 1
        assert relearned(loop, nothing)[1:] == (1, 0)


def test_a_limit_on_sources_holds_for_each_annotator(tmp_path: Path) -> None:
    chosen = settings(limits=LimitsSpec(source=0.1, window=50))
    with Loop(chosen, tmp_path / "home") as loop:
        judged(loop, range(20), "people/flood")
        judged(loop, range(20, 24), "people/anna")
        assert champion(loop).arrays["seen"] == 5 + 4
        for number in range(30, 40):
            loop.judge(ask(loop, number), verdict="tie", source="people/bert")
        assert champion(loop).arrays["seen"] == 5 + 4 + 2 * 5  # a tie is one judgement


# ---- late, revoked, killed -------------------------------------------------------------------------------------------


def test_a_loop_goes_on_where_it_was_closed(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "whole") as loop:
        for number in range(12):
            ask(loop, number)
        judged(loop, range(8))
        expected = state_of(loop)
    for number in range(12):
        with Loop(settings(), tmp_path / "pieces") as loop:
            ask(loop, number)
    for number in range(8):
        with Loop(settings(), tmp_path / "pieces") as loop:
            judged(loop, range(number, number + 1))
            got = state_of(loop)
    assert got.keys() == expected.keys()
    timed = ("waiting/time", "waiting/lag", "waiting/position", "learner/memory/position", "learner/memory/counters")
    assert [name for name in got if got[name] != expected[name] and name not in timed] == []


def work(home: Path) -> None:
    """Ask and judge as a client does that asks again whatever was not acknowledged."""
    with Loop(settings(checkpoint=20, mode="gated", gate=GateSpec(minimum=30, alpha=0.2)), home) as loop:
        loop.ready()
        for number in range(160):
            ask(loop, number)
            if number >= 6 and number % 5:
                late = number - 6
                loop.judge(str(late), taste(drawn(late)), source=f"people/{late % 3}")
            if number % 7 == 6:
                loop.judge(str(number), verdict="tie" if number % 2 else "skip", source="people/anna")


def test_killed_while_pairs_are_asked_and_judged(tmp_path: Path) -> None:
    chosen = settings(checkpoint=20, mode="gated", gate=GateSpec(minimum=30, alpha=0.2))
    kills.check(work, tmp_path, chosen, kills=6, clocked=True)


def test_judgements_before_their_question_wait_for_it(tmp_path: Path) -> None:
    chosen = settings(feedback=FeedbackSpec(early=10.0))
    events = [(0.0, Preference("1", 0, source="people/anna")), (1.0, Preference("1", -1, verdict="tie"))]
    with Loop(chosen, tmp_path / "home") as loop:
        fill(loop, [*events, (5.0, asking("1", 1))])
        assert champion(loop).arrays["seen"] == 3
        assert relearned(loop, nothing)[1:] == (3, 0)
        assert bytes_of(relearned(loop, nothing)[0]) == bytes_of(champion(loop))


def test_an_annotator_is_undone(tmp_path: Path) -> None:
    """After the rollback all is as in a loop that anna never judged for, and what comes later is learned."""
    with Loop(settings(), tmp_path / "home") as loop, Loop(settings(), tmp_path / "never") as never:
        for number in range(60):
            for one in (loop, never):
                ask(one, number)
                if number % 3 or one is loop:
                    wrong = number % 3 == 0
                    place = 1 - taste(drawn(number)) if wrong else taste(drawn(number))
                    one.judge(str(number), place, source="people/anna" if wrong else "people/bert")
        assert learners(loop) != learners(never)
        loop.rollback(without={"source": "people/anna"})
        assert learners(loop) == learners(never)
        sources = {int(row) for row in loop.fold.monitor.remembered().batch.dense[:, pairs.WHO_LOW]}
        assert sources == {int(pairs.who("people/bert")[0])}
        for one in (loop, never):
            judged(one, range(60, 80), "people/carl")
        assert learners(loop) == learners(never)


def test_one_judgement_is_revoked(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop, Loop(settings(), tmp_path / "never") as never:
        for one in (loop, never):
            judged(one, range(10))
        loop.judge(ask(loop, 10), 1, source="people/anna", why="a slip")
        slip = loop.log.end()
        ask(never, 10)
        for one in (loop, never):
            judged(one, range(11, 20))
        loop.rollback(without={"first": slip, "last": slip})
        assert learners(loop) == learners(never)
        loop.judge("10", 0, source="people/anna")
        never.judge("10", 0, source="people/anna")
        assert learners(loop) == learners(never)


def test_a_person_is_erased_with_their_prompts_and_answers(tmp_path: Path) -> None:
    chosen = settings(subject="user")
    secret = question(answer(5, 6, 7), answer(8), prompt=(3, 3))
    with Loop(chosen, tmp_path / "home") as loop, Loop(chosen, tmp_path / "never") as never:
        for one in (loop, never):
            one.ready()
            judged(one, range(10))
        given = loop.record(secret, {"prompt": "my secret", "user": "zoe"})
        loop.judge(given.id, 0, source="people/anna", why="secret, too")
        for one in (loop, never):
            judged(one, range(10, 20))
        expected = learners(never)
    done = erase(tmp_path / "home", chosen, {"user": "zoe"}, "asked for")
    assert done.detail["events"] == {"prediction": 1, "preference": 1}
    with Loop(chosen, tmp_path / "home") as loop:
        assert learners(loop) == expected
        ids = loop.fold.monitor.remembered().batch.indices.tolist()
        assert [5, 6, 7, 2, 8] not in [ids[at : at + 5] for at in range(len(ids))]
    left = b"".join(path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
    assert b"secret" not in left


@pytest.mark.parametrize("arm", ["random", "active"])
def test_a_challenger_warms_on_all_pairs_and_is_rebuilt_without_a_person(tmp_path: Path, arm: Arm) -> None:
    chosen = settings(subject="user")
    with Loop(chosen, tmp_path / "home") as loop, Loop(chosen, tmp_path / "never") as never:
        for one in (loop, never):
            one.ready()
            for number in range(12):
                user = "zoe" if number == 5 else "ann"
                if one is loop or user == "ann":
                    given = one.record(drawn(number, arm), {"prompt": "p", "user": user}, id=str(number))
                    one.judge(given.id, verdict=("tie", "choice")[number % 2], chosen=(None, 0)[number % 2])
            one.challenge(TOKENS, "once more")
        warmed = loop.fold.roster.challengers[-1].model.arrays["seen"][0]
        assert warmed == 18  # a tie is two rows
    erase(tmp_path / "home", chosen, {"user": "zoe"}, "asked for")
    with Loop(chosen, tmp_path / "home") as loop, Loop(chosen, tmp_path / "never") as never:
        assert learners(loop) == learners(never)


feedbacks = st.builds(
    FeedbackSpec,
    window=st.sampled_from([0.0, 3.0, 12.0]),
    early=st.sampled_from([0.0, 4.0, 100.0]),
    correction=st.sampled_from(["learn", "ignore"]),
    bytes=st.sampled_from([1, 9_000, 1 << 20]),
)
limits = st.builds(LimitsSpec, weight=st.sampled_from([1.0, 100.0]), source=st.sampled_from([0.2, 1.0]))
modes = st.sampled_from(["gated", "live"])


@hypothesis(derandomize=True, deadline=None, max_examples=15)
@given(modes, feedbacks, limits, stories)
def test_the_state_does_not_depend_on_how_the_log_is_cut(
    tmp_path_factory: Any, mode: Any, feedback: FeedbackSpec, bounds: LimitsSpec, told: Any
) -> None:
    chosen = settings(mode=mode, feedback=feedback, limits=bounds, gate=GateSpec(minimum=2, alpha=0.4))
    states = []
    for size in (1, 7, 1000):
        with Loop(chosen, tmp_path_factory.mktemp("loop")) as loop:
            loop.ready()
            loop.log.append([one for _, one in story(told)], time=1e6)
            while loop.catch_up(size):
                pass
            states.append(state_of(loop))
    assert states[0].keys() == states[1].keys() == states[2].keys()
    assert [name for name in states[0] if not states[0][name] == states[1][name] == states[2][name]] == []


@hypothesis(derandomize=True, deadline=None, max_examples=15)
@given(modes, feedbacks, limits, stories)
def test_rebuilding_everything_gives_the_bytes_that_the_loop_learned(
    tmp_path_factory: Any, mode: Any, feedback: FeedbackSpec, bounds: LimitsSpec, told: Any
) -> None:
    with Loop(settings(mode=mode, feedback=feedback, limits=bounds), tmp_path_factory.mktemp("loop")) as loop:
        loop.ready()
        fill(loop, story(told))
        assert bytes_of(relearned(loop, nothing)[0]) == learners(loop)[0]


@hypothesis(derandomize=True, deadline=None, max_examples=20)
@given(modes, feedbacks, limits, stories, stories)
def test_without_events_is_as_if_they_had_never_come(
    mode: Any, feedback: FeedbackSpec, bounds: LimitsSpec, told: Any, more: Any
) -> None:
    check(settings(mode=mode, feedback=feedback, limits=bounds, subject="user"), told, more, story=story)
