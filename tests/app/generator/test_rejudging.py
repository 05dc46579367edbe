"""Old pairs under a changed rubric: each is asked about once more, and the new verdicts take the place of the old."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlearn.app.generator import judging
from everlearn.app.generator.rejudging import rejudge_log
from everlearn.errors import ConfigError
from everlearn.events import Log
from everlearn.families.preference.judge import JudgeSettings, judged, model_judge
from everlearn.families.preference.judged_pairs import preference_fields
from everlearn.loop.loop import Loop
from everlearn.records import Preference
from everlearn.spec import Spec
from tests.support.judge_endpoints import JudgeEndpoint, endpoint
from tests.support.preference_loops import settings

__all__ = ["endpoint"]


def spec(folder: Path, endpoint: JudgeEndpoint) -> Spec:
    (folder / "rubric.txt").write_text("Prefer the answer that comes first in the alphabet.\n")
    judge = {"name": "abc", "url": endpoint.url, "model": "m", "rubric": str(folder / "rubric.txt"), "price": 0.5}
    judge |= {"at_once": 1}
    return settings(judge=judge)


def verdicts(log: Log) -> list[Preference]:
    found = [event.payload for event in log.read(0, 10_000, ("preference",))]
    return [one for one in found if isinstance(one, Preference)]


def test_new_verdicts_supersede_the_old_ones(tmp_path: Path, endpoint: JudgeEndpoint) -> None:
    given, home = spec(tmp_path, endpoint), tmp_path / "home"
    with Loop(given, home) as loop:
        judge = model_judge(JudgeSettings("abc", given.judge.rubric, "m"), lambda prompt: endpoint.verdict(prompt))
        for _ in range(5):
            pair = loop.ask("hello")
            fields = preference_fields(judged(judge, judging.answer_pair(pair)))
            loop.judge(fields.pop("id"), **fields)
        loop.judge(loop.ask("hello").id, 0, source="people/anna")
        before = verdicts(loop.log)
    choices = [one for one in before if one.verdict == "choice" and one.source != "people/anna"]
    assert choices
    Path(given.judge.rubric).write_text("Prefer the answer that comes last.\n")
    endpoint.decide = lambda a, b: "Answer: A" if a.lower() > b.lower() else "Answer: B"
    endpoint.script = [None, None, 401]  # the third request is refused: one pair is judged before it
    with pytest.raises(ConfigError, match="401"):
        rejudge_log(home, given)
    found = rejudge_log(home, given)
    assert found.pairs == 4
    assert found.changed >= len(choices) - 1
    assert found.replaced == [before[0].source]
    assert found.cost == 0.5 * found.pairs
    assert rejudge_log(home, given, newest=3).pairs == 0  # all were judged
    again = rejudge_log(home, given)
    assert (again.pairs, again.replaced) == (0, [])  # and the old verdicts are left out already
    with Loop(given, home) as loop:
        new = [one for one in verdicts(loop.log) if one.source == found.source]
        assert sorted(one.id for one in new) == sorted(one.id for one in before if one.source != "people/anna")
        assert {one.id: one.chosen for one in new} == {
            one.id: 1 - one.chosen if one.verdict == "choice" else -1 for one in before if one.source != "people/anna"
        }
        assert [one.action for one in loop.decisions()].count("rollback") == 1
        assert loop.ready().model.arrays["progress/counts"][0] == 6  # five new verdicts and anna's
        assert loop.rollback(without={"source": "people/anna"})
        assert loop.ready().model.arrays["progress/counts"][0] == 5


def test_without_a_judge_there_is_nothing_to_ask(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home"):
        pass
    with pytest.raises(ConfigError, match="judge: got neither url nor function"):
        rejudge_log(tmp_path / "home", settings())
