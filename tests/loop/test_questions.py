"""A loop asks: its champion answers prompts, and people get the pairs that wait for a judgement."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlearn.errors import InputError
from everlearn.loop.loop import Loop
from everlearn.records import Preference
from everlearn.schema import question
from everlearn.stream.prompts import Prompt
from tests.support.loops import spec as plain_spec
from tests.support.pairs import settings as token_settings
from tests.support.preference_loops import MODEL, settings


def test_a_champion_answers_a_prompt_and_learns_the_judgement(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        pair = loop.ask("hello there", group="greetings")
        asked = question.decode(pair.payload)
        assert pair.features == {"prompt": "hello there"}
        assert (asked.group, len(asked.answers), len(asked.pair), asked.arm) == ("greetings", 4, 2, "random")
        assert asked.reference
        assert asked.tokenizer
        assert asked.answers[0].version == pair.version
        assert pair.value == question.judged(asked)[0].text
        assert sum(pair.proba) == pytest.approx(1.0)
        assert loop.log.find(f"prediction:{pair.id}").payload == pair  # type: ignore[union-attr]
        loop.judge(pair.id, 0, source="people/anna")
        assert loop.report()["examples"] == 1
        messages = [{"role": "user", "content": "how are you"}]
        again = loop.ask(messages)
        assert again.features == {"prompt": '[{"role":"user","content":"how are you"}]'}
        with pytest.raises(InputError, match="prompt: .*expected text, or messages with a role and a content"):
            loop.ask([{"role": "user"}])
        with pytest.raises(InputError, match=r"the prompt has \d+ tokens; expected at most 48"):
            loop.ask("hello " * 60)


def test_the_champion_duels_the_good_version_of_a_live_loop(tmp_path: Path) -> None:
    model = MODEL | {"choose": {"candidates": 4, "duel": 0.5, "prove": 0}}
    with Loop(settings(model=model, mode="live", gate={"minimum": 4}, tick=4), tmp_path / "home") as loop:
        arms = []
        for number in range(24):
            pair = loop.ask(f"hello {number}")
            asked = question.decode(pair.payload)
            arms.append(asked.arm)
            if asked.arm == "duel":
                assert len({one.uid for one in asked.answers}) == 2
            loop.judge(pair.id, 0, source="people/anna")
        assert "duel" not in arms[:4]  # there is no good version yet
        found = loop.report()["preference"]["duels"]
        assert sum(one["count"] for one in found) == arms.count("duel") > 0


def test_answers_are_drawn_from_seed_and_position(tmp_path: Path) -> None:
    payloads = []
    for name in ("one", "other"):
        with Loop(settings(), tmp_path / name) as loop:
            payloads.append([loop.ask("hello").payload for _ in range(2)])
    assert payloads[0][0]["answers"] == payloads[1][0]["answers"]
    assert payloads[0][0]["answers"] != payloads[0][1]["answers"]


def test_each_annotator_gets_the_oldest_pair_that_waits(tmp_path: Path) -> None:
    prompts = [Prompt("hello", "a"), "how are you"]
    with Loop(settings(), tmp_path / "home") as loop:
        loop.feedback(loop.record(_single(loop), {"prompt": "p"}).id, reward=1.0)
        loop.record(_single(loop), {"prompt": "p"})  # one answer: no pair to be judged
        first, second = (loop.next_pair("anna", prompts).id for _ in range(2))
        assert first != second
        assert loop.next_pair("bert").id == first
        loop.judge(first, 1, source="people/bert")
        assert loop.next_pair("bert").id == second
        loop.judge(second, verdict="skip", source="people/bert")
    with Loop(settings(), tmp_path / "home") as loop:
        assert loop.next_pair("anna").id == second
        with pytest.raises(InputError, match="prompts: got none"):
            loop.next_pair("bert")  # who skipped it before


def test_prompts_come_from_the_file_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('"hello"\n{"prompt": "how are you", "group": "b"}\n')
    with Loop(settings(prompts=str(tmp_path / "prompts.jsonl")), tmp_path / "home") as loop:
        found = {(pair.features["prompt"], pair.payload.get("group", "")) for pair in map(loop.next_pair, "abcdefgh")}
        assert len(found) == 1  # all see the one pair that waits
        for _ in range(8):
            pair = loop.next_pair("anna")
            found.add((pair.features["prompt"], pair.payload.get("group", "")))
        assert found == {("hello", ""), ("how are you", "b")}


def test_a_model_that_writes_no_answers_is_refused(tmp_path: Path) -> None:
    with Loop(token_settings(), tmp_path / "home") as loop, pytest.raises(InputError, match="Tokens, which writes no"):
        loop.ask("hello")
    with Loop(plain_spec(), tmp_path / "plain") as loop, pytest.raises(InputError, match="which writes no answers"):
        loop.ask("hello")


def test_judgements_of_questions_are_kept(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        for place in range(5):
            loop.judge(loop.next_pair("anna", ["hello"]).id, place % 2, source="people/anna")
        judged = [event.payload for event in loop.log.read(kinds=("preference",))]
        assert [one.chosen for one in judged if isinstance(one, Preference)] == [0, 1, 0, 1, 0]
        model = loop.fold.roster.champion.model
        assert model.arrays["progress/counts"].tolist()[:4] == [5.0, 5.0, 1.0, 0.0]


def _single(loop: Loop) -> question.Asked:
    one = question.SampledAnswer(ids=question.pack_ids([5]), logp=question.pack_logp([-1.0]), finish="stop")
    return question.Asked(prompt=question.pack_ids([7]), answers=(one,), arm="chat")
