"""Chats in the form of OpenAI's API, asked for with its own client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from everlearn.app.generator import device
from everlearn.records import Prediction
from everlearn.schema import asked as question
from tests.support.generators import HELLO, Generator, generating
from tests.support.preference_loops import settings
from tests.support.servers import until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    with generating(tmp_path_factory.mktemp("chat") / "home", settings()) as made:
        yield made


def logged(running: Generator, id: str) -> Prediction:
    event = running.loop.log.find(f"prediction:{id}")
    assert event is not None
    assert isinstance(event.payload, Prediction)
    return event.payload


def test_an_answer_is_in_the_log_with_its_tokens(running: Generator) -> None:
    reply = running.chat(user="zoe")
    (choice,) = reply.choices
    given = logged(running, reply.id)
    asked = question.decode(given.payload)
    (one,) = asked.answers
    assert given.value == choice.message.content == one.text
    assert given.features == {"prompt": '[{"role":"user","content":"hello there"}]'}
    assert (asked.arm, asked.sampling.limit, asked.aborted, one.seed) == ("chat", 8, False, 5)
    assert given.version == one.version == reply.system_fingerprint == running.loop.ready().version
    assert reply.usage.completion_tokens == len(one.ids) // 4
    assert reply.usage.prompt_tokens == len(asked.prompt) // 4
    assert choice.finish_reason == one.finish


def test_a_stream_is_what_the_whole_reply_is(running: Generator) -> None:
    whole = running.chat(n=2, logprobs=True, top_logprobs=2)
    texts, logprobs, finishes = ["", ""], [[], []], [None, None]
    stream = running.chat(n=2, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True})
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
            logprobs[choice.index] += choice.logprobs.content if choice.logprobs else []
    assert texts == [one.message.content for one in whole.choices]
    assert finishes == [one.finish_reason for one in whole.choices]
    assert usage == whole.usage
    assert logprobs == [one.logprobs.content for one in whole.choices]
    for one in logprobs[0]:
        assert len(one.top_logprobs) == 2
        assert one.top_logprobs[0].logprob >= one.logprob - 1e-6
    assert [logged(running, id).value for id in (whole.id, f"{whole.id}/1")] == texts
    assert texts[0] != texts[1]


def test_the_last_chunk_comes_after_the_event(running: Generator) -> None:
    for chunk in running.chat(stream=True):
        held = running.loop.log.find(f"prediction:{chunk.id}")
        if chunk.choices[0].finish_reason:
            assert held is not None
            return
        assert held is None or chunk.choices[0].delta.content
    pytest.fail("the stream has no last chunk")


def test_a_stop_text_ends_an_answer_before_it(running: Generator) -> None:
    free = running.chat(max_tokens=12).choices[0].message.content
    at = next(at for at in range(2, len(free) - 1) if free.find(free[at : at + 2]) == at)
    for stream in (False, True):
        given = running.chat(max_tokens=12, stop=[free[at : at + 2], "never"], stream=stream)
        if stream:
            parts = [chunk for chunk in given if chunk.choices]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in parts)
            id, finish = parts[0].id, parts[-1].choices[0].finish_reason
        else:
            id, text, finish = given.id, given.choices[0].message.content, given.choices[0].finish_reason
        assert (text, finish) == (free[:at], "stop")
        one = question.decode(logged(running, id).payload).answers[0]
        assert (one.text, one.finish) == (text, "length")  # the policy did not end it


def test_temperature_and_top_p_and_limits(running: Generator) -> None:
    greedy = {running.chat(temperature=0, seed=seed).choices[0].message.content for seed in range(3)}
    assert len(greedy) == 1
    assert {running.chat(top_p=0.0, seed=seed).choices[0].message.content for seed in range(3)} == greedy
    assert running.chat(max_tokens=500).usage.completion_tokens <= 12
    assert len({running.chat(seed=None).choices[0].message.content for _ in range(4)}) > 1


@pytest.mark.parametrize(
    ("more", "kind", "param", "code"),
    [
        ({"frequency_penalty": 1.0}, openai.BadRequestError, "frequency_penalty", "unsupported_parameter"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temprature", "unknown_parameter"),
        ({"model": "gpt-4"}, openai.NotFoundError, "model", "model_not_found"),
        (
            {"messages": [{"role": "user", "content": "hello " * 90}]},
            openai.BadRequestError,
            "messages",
            "context_length_exceeded",
        ),
    ],
)
def test_refusals_have_the_form_of_the_api(running: Generator, more: Any, kind: Any, param: str, code: str) -> None:
    for stream in (False, True):
        with pytest.raises(kind) as raised:
            running.chat(**more, stream=stream)
        assert (raised.value.param, raised.value.code) == (param, code)


def test_other_requests_under_v1(running: Generator) -> None:
    assert [one.id for one in running.openai.models.list()] == ["everlearn", "tests.support.preference_loops:model"]
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings is not supported"):
        running.openai.embeddings.create(model="everlearn", input="x")
    large = running.http.post("/v1/chat/completions", json={"x": "y" * (1 << 20)})
    assert (large.status_code, large.json()["error"]["param"]) == (413, None)
    foreign = running.http.post("/v1/chat/completions", json={}, headers={"host": "evil.example"})
    assert (foreign.status_code, foreign.json()["error"]["type"]) == (421, "invalid_request_error")


def test_a_broken_stream_is_logged_as_aborted(running: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = device.stream

    def slowly(*args: Any, **more: Any) -> Iterator[Any]:
        for step in steps(*args, **more):
            time.sleep(0.2)
            yield step

    whole = question.unpack_ids(question.decode(logged(running, running.chat(max_tokens=12).id).payload).answers[0].ids)
    monkeypatch.setattr(device, "stream", slowly)
    stream = running.chat(stream=True, max_tokens=12)
    chunk = next(chunk for chunk in stream if chunk.choices[0].delta.content)
    stream.close()
    until(lambda: running.loop.log.find(f"prediction:{chunk.id}") is not None)
    asked = question.decode(logged(running, chunk.id).payload)
    kept = question.unpack_ids(asked.answers[0].ids).tolist()
    assert (asked.aborted, asked.answers[0].finish) == (True, "length")
    assert kept == whole.tolist()[: len(kept)]
    assert 0 < len(kept) < len(whole)


def test_chats_at_once_are_answered_as_alone(running: Generator) -> None:
    alone = [running.chat(seed=seed).choices[0].message.content for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda seed: running.chat(seed=seed).choices[0].message.content, range(6)))
    assert together == alone


def test_a_new_version_is_taken_up(running: Generator) -> None:
    before = running.chat().choices[0].message.content
    for _ in range(8):
        running.loop.judge(running.loop.ask("hello").id, 0, source="people/anna")
    running.publish()
    after = running.chat()
    given = logged(running, after.id)
    assert given.position == running.publisher.position
    assert isinstance(before, str)
    assert HELLO[0]["content"] in given.features["prompt"]
