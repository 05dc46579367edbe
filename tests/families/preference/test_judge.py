"""Judges over real HTTP, from functions, with caches, revisions and changed rubrics."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import ConfigError, ModelError
from everlearn.families.preference.answer_cache import AnswerCache, Completion
from everlearn.families.preference.endpoint import Endpoint, EndpointClient, JudgeUnavailable
from everlearn.families.preference.judge import (
    LONGEST,
    Judge,
    JudgeSettings,
    function_judge,
    judged,
    judged_all,
    model_judge,
    rejudge,
)
from everlearn.families.preference.judged_pairs import AnswerPair, JudgeVerdict
from tests.support.judge_endpoints import JudgeEndpoint, completion

PAIR = AnswerPair("q1", "Where is my parcel?", "It is lost, bad luck.", "Sorry! We send another one today.")


@pytest.fixture
def settings(tmp_path: Path) -> JudgeSettings:
    rubric = tmp_path / "kind.txt"
    rubric.write_text("Prefer the kinder answer.")
    return JudgeSettings("kind", str(rubric), "m")


@pytest.fixture
def client(endpoint: JudgeEndpoint) -> Iterator[EndpointClient]:
    with EndpointClient(Endpoint(endpoint.url, "m", pause=0.001, retries=2)) as made:
        yield made


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    made = AnswerCache(tmp_path / "judge.db")
    yield made
    made.close()


def kind(a: str, b: str) -> str:
    return "B is rude.\nAnswer: A" if "Sorry" in a else "A is rude.\nAnswer: B"


def test_both_orders_are_asked_over_http(
    settings: JudgeSettings, endpoint: JudgeEndpoint, client: EndpointClient
) -> None:
    endpoint.decide = kind
    found = judged(model_judge(settings, client), PAIR)
    assert (found.id, found.chosen, found.verdict, found.orders) == ("q1", 1, "choice", ("second", "second"))
    assert found.why == "A is rude."
    assert found.seconds > 0.0
    assert re.fullmatch(r"judge/kind@[0-9a-f]{16}", found.source)
    one, other = endpoint.prompts
    assert one.index("bad luck") < one.index("Sorry")
    assert other.index("bad luck") > other.index("Sorry")
    assert "Prefer the kinder answer." in one


def test_a_judge_that_prefers_a_place_finds_ties(
    settings: JudgeSettings, endpoint: JudgeEndpoint, client: EndpointClient
) -> None:
    endpoint.decide = lambda a, b: "Answer: A"
    found = judged(model_judge(settings, client), PAIR)
    assert (found.chosen, found.verdict, found.orders) == (-1, "tie", ("first", "second"))


def test_a_judge_that_loves_length(settings: JudgeSettings, endpoint: JudgeEndpoint, client: EndpointClient) -> None:
    endpoint.decide = lambda a, b: f"**Answer: {'A' if len(a) > len(b) else 'B'}**"
    pairs = [AnswerPair(str(n), "Why?", "x" * n, "y" * (7 * n % 11)) for n in range(1, 11)]
    for pair, found in zip(pairs, judged_all(model_judge(settings, client), pairs), strict=True):
        assert found.chosen == int(len(pair.second) > len(pair.first))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (["I'm sorry, I can't judge this."], "the judge refused"),
        (["Answer: B", "banana"], "no verdict: banana"),
        ([lambda body: completion("Answer", "length")], "cut at the limit of tokens"),
        ([lambda body: completion(None, refusal="No.")], "the model refused: No."),
        ([lambda body: completion("", "content_filter")], "a content filter"),
    ],
)
def test_no_verdict_is_a_skip_that_keeps_the_reason(
    settings: JudgeSettings, endpoint: JudgeEndpoint, client: EndpointClient, script: list[Any], reason: str
) -> None:
    endpoint.script = list(script)
    found = judged(model_judge(settings, client), PAIR)
    assert (found.chosen, found.verdict) == (-1, "skip")
    assert reason in found.why
    assert len(endpoint.got) == len(script)  # the other order is not asked after a skip


def test_a_judge_that_is_down_judges_nothing(
    settings: JudgeSettings, endpoint: JudgeEndpoint, client: EndpointClient, cache: AnswerCache
) -> None:
    endpoint.decide = kind
    endpoint.script = ["Answer: B", 500, 500, 500]
    judge = model_judge(settings, client, cache)
    with pytest.raises(JudgeUnavailable):
        judged(judge, PAIR)
    assert judged(judge, PAIR).chosen == 1
    assert len(endpoint.got) == 5  # the first order was kept: only the other was asked again


def test_a_restart_asks_nothing_twice(
    settings: JudgeSettings, endpoint: JudgeEndpoint, client: EndpointClient, tmp_path: Path
) -> None:
    endpoint.decide = kind
    pairs = [AnswerPair(str(n), f"Question {n}", f"No {n}.", f"Sorry {n}.") for n in range(6)]
    verdicts: list[list[JudgeVerdict]] = []
    for upto in (3, 6, 6):
        cache = AnswerCache(tmp_path / "judge.db")
        verdicts.append(list(judged_all(model_judge(settings, client, cache), pairs[:upto])))
        cache.close()
    assert len(endpoint.got) == 12
    assert verdicts[1] == verdicts[2]
    assert verdicts[0] == verdicts[2][:3]


JUDGING = """
import sys
from everlearn.families.preference.answer_cache import AnswerCache
from everlearn.families.preference.endpoint import Endpoint, EndpointClient
from everlearn.families.preference.judge import JudgeSettings, judged_all, model_judge
from everlearn.families.preference.judged_pairs import AnswerPair
url, rubric, cache = sys.argv[1:]
pairs = [AnswerPair(str(n), f"Question {n}", f"No {n}.", f"Sorry {n}.") for n in range(40)]
settings = JudgeSettings("kind", rubric, "m", at_once=3)
judge = model_judge(settings, EndpointClient(Endpoint(url, "m")), AnswerCache(cache))
for found in judged_all(judge, pairs):
    print(found.id, found.chosen, flush=True)
"""


def test_a_judge_that_is_killed_asks_again_only_what_was_under_way(
    settings: JudgeSettings, endpoint: JudgeEndpoint, tmp_path: Path
) -> None:
    endpoint.decide, endpoint.slow = kind, 0.005
    command = [sys.executable, "-c", JUDGING, endpoint.url, settings.rubric, str(tmp_path / "judge.db")]
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            asked = len(endpoint.got)
            while len(endpoint.got) < asked + 15 and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
    endpoint.slow = 0.0
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [f"{n} 1" for n in range(40)]
    asked_twice = len(endpoint.prompts) - len(set(endpoint.prompts))
    assert len(set(endpoint.prompts)) == 80
    assert asked_twice <= 3 * 3  # at most three questions were under way at each kill


def test_the_other_order_of_a_pair_is_the_same_two_questions(
    settings: JudgeSettings, endpoint: JudgeEndpoint, client: EndpointClient, cache: AnswerCache
) -> None:
    endpoint.decide = kind
    judge = model_judge(settings, client, cache)
    found = judged(judge, PAIR), judged(judge, AnswerPair("q2", PAIR.prompt, PAIR.second, PAIR.first))
    assert [one.chosen for one in found] == [1, 0]
    assert len(endpoint.got) == 2


def test_requests_at_once_are_limited(settings: JudgeSettings, endpoint: JudgeEndpoint, client: EndpointClient) -> None:
    endpoint.decide, endpoint.slow = kind, 0.02
    pairs = [AnswerPair(str(n), f"Question {n}", "No.", f"Sorry {n}.") for n in range(12)]
    limited = JudgeSettings(settings.name, settings.rubric, settings.model, at_once=3)
    found = list(judged_all(model_judge(limited, client), pairs))
    assert [one.id for one in found] == [pair.id for pair in pairs]
    assert endpoint.most == 3


def test_pairs_are_read_as_verdicts_are_taken() -> None:
    read: list[int] = []

    def endless() -> Iterator[AnswerPair]:
        while True:
            read.append(len(read))
            yield AnswerPair(str(len(read)), "Why?", "short", "rather long")

    verdicts = judged_all(function_judge("shorter", lambda prompt, a, b: "A" if len(a) < len(b) else "B"), endless())
    assert [next(verdicts).chosen for _ in range(5)] == [0] * 5
    assert len(read) <= 7
    verdicts.close()  # type: ignore[attr-defined]


def test_an_error_comes_after_the_verdicts_before_it() -> None:
    def function(prompt: str, a: str, b: str) -> Any:
        return 1 / 0 if prompt == "4" else "A" if a < b else "B"

    verdicts = judged_all(function_judge("order", function), [AnswerPair(str(n), str(n), "a", "b") for n in range(9)])
    assert [next(verdicts).id for _ in range(4)] == ["0", "1", "2", "3"]
    with pytest.raises(ModelError, match="function/order failed: ZeroDivisionError"):
        next(verdicts)


def test_a_function_must_answer_with_a_verdict() -> None:
    wrong: Callable[..., Any] = lambda prompt, a, b: 0  # noqa: E731
    with pytest.raises(ModelError, match="returned 0; expected 'A', 'B', 'tie' or 'skip'"):
        judged(function_judge("wrong", wrong), PAIR)
    assert judged(function_judge("none", lambda prompt, a, b: "skip"), PAIR).verdict == "skip"


def test_a_local_callable_answers_a_prompt(settings: JudgeSettings) -> None:
    found = judged(model_judge(settings, lambda prompt: "Answer: A" if "[answer A" in prompt else ""), PAIR)
    assert found.orders == ("first", "second")
    assert judged(model_judge(settings, lambda prompt: Completion("[[C]]")), PAIR).verdict == "tie"


def test_equal_and_oversized_answers_are_not_asked() -> None:
    def never(prompt: str, a: str, b: str) -> Any:
        raise AssertionError

    judge = function_judge("never", never)
    assert judged(judge, AnswerPair("1", "Why?", "so", " so\n")).verdict == "tie"
    found = judged(judge, AnswerPair("1", "Why?", "so", "x" * LONGEST))
    assert (found.verdict, found.why) == ("skip", f"got {LONGEST + 6} characters; expected at most {LONGEST}")


def test_the_better_answer_is_criticised_and_rewritten(
    settings: JudgeSettings, endpoint: JudgeEndpoint, client: EndpointClient, cache: AnswerCache
) -> None:
    revising = JudgeSettings(settings.name, settings.rubric, settings.model, revise=True)
    endpoint.script = ["Answer: B", "Answer: A", "It names no day.", "Sorry! It comes on Monday.\n"]
    judge = model_judge(revising, client, cache)
    found = judged(judge, PAIR)
    assert (found.chosen, found.revised) == (1, "Sorry! It comes on Monday.")
    assert "We send another one today." in endpoint.prompts[2]
    assert "bad luck" not in endpoint.prompts[2]
    assert "It names no day." in endpoint.prompts[3]
    assert judged(judge, PAIR) == found
    assert len(endpoint.got) == 4


@pytest.mark.parametrize(
    "script",
    [
        ["Answer: B", "Answer: A", "Fine.", PAIR.second],
        ["Answer: B", "Answer: A", " "],
        ["Answer: B", "Answer: A", "Fine.", lambda body: completion("Sorry! We", "length")],
        ["nonsense"],
    ],
)
def test_a_revision_that_is_none_is_left_out(
    settings: JudgeSettings, endpoint: JudgeEndpoint, client: EndpointClient, script: list[Any]
) -> None:
    revising = JudgeSettings(settings.name, settings.rubric, settings.model, revise=True)
    endpoint.script = list(script)
    assert judged(model_judge(revising, client), PAIR).revised == ""
    assert len(endpoint.got) == len(script)


def test_a_changed_rubric_judges_old_pairs_again(
    settings: JudgeSettings, endpoint: JudgeEndpoint, client: EndpointClient, cache: AnswerCache
) -> None:
    endpoint.decide = kind
    pairs = [AnswerPair(str(n), f"Question {n}", f"No {n}.", f"Sorry {n}.") for n in range(5)]
    before = list(judged_all(model_judge(settings, client, cache), pairs))
    Path(settings.rubric).write_text("Prefer the curt answer.")
    endpoint.decide = lambda a, b: "Answer: B" if "Sorry" in a else "Answer: A"
    changed = model_judge(settings, client, cache)
    mixed = [*before[:3], *judged_all(changed, pairs[3:])]
    asked = len(endpoint.got)
    after = list(rejudge(changed, zip(pairs, mixed, strict=True)))
    assert [old for old, _ in after] == mixed
    assert [new.chosen for _, new in after] == [0] * 5
    assert [old is new for old, new in after] == [False] * 3 + [True] * 2
    assert {new.source for _, new in after} == {changed.source} != {before[0].source}
    assert len(endpoint.got) == asked + 6


def test_settings_are_checked(settings: JudgeSettings) -> None:
    with pytest.raises(ConfigError, match=r"judge\.at_once: got 0"):
        model_judge(JudgeSettings(settings.name, settings.rubric, "m", at_once=0), lambda prompt: "")
    with pytest.raises(ConfigError, match=r"judge\.template"):
        model_judge(JudgeSettings(settings.name, settings.rubric, "m", template="none.txt"), lambda prompt: "")


def test_the_endpoint_asks_the_model_in_the_source(settings: JudgeSettings, client: EndpointClient) -> None:
    for other in (
        JudgeSettings(settings.name, settings.rubric, "other"),
        JudgeSettings(settings.name, settings.rubric, "m", temperature=0.5),
    ):
        with pytest.raises(ConfigError, match=r"an endpoint for 'm' at 0"):
            model_judge(other, client)


def test_leaving_early_ends_the_threads() -> None:
    started = threading.active_count()
    slow = Judge("function/slow", function_judge("slow", lambda prompt, a, b: (time.sleep(0.005), "A")[1]).ask, 4)
    verdicts = judged_all(slow, (AnswerPair(str(n), "q", "a", "b") for n in range(1000)))
    next(verdicts)
    verdicts.close()  # type: ignore[attr-defined]
    assert threading.active_count() == started
