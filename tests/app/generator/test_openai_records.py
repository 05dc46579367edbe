"""Requests and replies in OpenAI's form, checked with the types and the client of the `openai` package."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from everlearn.app.generator.openai_records import (
    _IGNORED,
    _NEUTRAL,
    _READ,
    DONE,
    MOST_MESSAGES,
    ApiError,
    ChatAnswer,
    ChatRequest,
    Finish,
    ReplyHead,
    TokenLogprob,
    TopLogprob,
    chat_request,
    closing,
    completion,
    error_event,
    opening,
    text_chunk,
    usage_chunk,
)
from everlearn.families.preference.endpoint import Endpoint, EndpointClient
from everlearn.stream.preferences import ChatTurn

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
HEAD = ReplyHead("chatcmpl-1", 1_700_000_000, "m", "v7")


def read(**changes: Any) -> ChatRequest:
    return chat_request(msgspec.json.encode(ASKED | changes))


def refused(**changes: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        read(**changes)
    assert raised.value.status == 400
    return raised.value


# ---- requests ------------------------------------------------------------------------------------------------------


def test_a_request_has_defaults() -> None:
    assert read() == ChatRequest("m", (ChatTurn("user", "Hello"),))
    nothing = dict.fromkeys([*_READ, *_NEUTRAL, *_IGNORED])
    assert read(**(nothing | ASKED)) == read()


def test_every_setting_is_read() -> None:
    found = read(
        messages=[
            {"role": "system", "content": "Be kind."},
            {
                "role": "user",
                "name": "anna",
                "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
            },
            {"role": "assistant", "content": "Hi!", "refusal": None, "tool_calls": None},
            {"role": "user", "content": ""},
        ],
        n=3,
        stream=True,
        stream_options={"include_usage": True},
        stop=["\n", "END"],
        seed=-5,
        temperature=0,
        top_p=0.5,
        max_completion_tokens=7,
        logprobs=True,
        top_logprobs=2,
        user="anna",
    )
    talk = (("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi!"), ("user", ""))
    messages = tuple(ChatTurn(role, text) for role, text in talk)
    assert found == ChatRequest("m", messages, 3, True, True, ("\n", "END"), -5, 0.0, 0.5, 7, 2, "anna")
    assert read(stop="x").stop == ("x",)
    assert read(max_tokens=4, max_completion_tokens=4).max_tokens == 4
    assert read(logprobs=True).top_logprobs == 0
    assert read(logprobs=False).top_logprobs is None


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"model": ""}, "model", "model: got ''"),
    ({"model": None}, "model", "model: got nothing"),
    ({"model": 7}, "model", "model: got 7"),
    ({"messages": []}, "messages", "messages: got 0 messages; expected a list of 1 to 1,000"),
    ({"messages": None}, "messages", "messages: got nothing"),
    ({"messages": "Hello"}, "messages", "messages: got 'Hello'"),
    ({"messages": [{"role": "user", "content": "x"}] * (MOST_MESSAGES + 1)}, "messages", "got 1001 messages"),
    ({"messages": ["Hello"]}, "messages[0]", "expected {"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "expected one of system, developer"),
    ({"messages": [{"role": [], "content": "x"}]}, "messages[0].role", "messages[0].role: got []"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "got nothing; expected text"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "got []"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0]",
        "messages[0].content[0]: got",
    ),
    (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
        "messages[0].tool_calls",
        "not supported",
    ),
    ({"n": 0}, "n", "n: got 0; expected a whole number from 1 to 16"),
    ({"n": 17}, "n", "n: got 17"),
    ({"n": True}, "n", "n: got True"),
    ({"n": 1.5}, "n", "n: got 1.5"),
    ({"stream": "yes"}, "stream", "stream: got 'yes'; expected true or false"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "without a stream"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options", "stream_options: got"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "got 1"),
    ({"stop": ["a"] * 5}, "stop", "at most 4"),
    ({"stop": [""]}, "stop", "stop: got ['']"),
    ({"stop": {"a": 1}}, "stop", "stop: got"),
    ({"seed": 2**63}, "seed", "seed: got"),
    ({"temperature": 2.1}, "temperature", "expected a number from 0 to 2"),
    ({"temperature": -1}, "temperature", "temperature: got -1"),
    ({"temperature": "hot"}, "temperature", "got 'hot'"),
    ({"top_p": 1.1}, "top_p", "expected a number from 0 to 1"),
    ({"max_tokens": 0}, "max_tokens", "max_tokens: got 0"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "give one of them"),
    ({"top_logprobs": 3}, "top_logprobs", "set logprobs to true"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
    ({"user": 7}, "user", "user: got 7"),
    ({"tools": [{"type": "function"}]}, "tools", "this parameter is not supported"),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
    ({"frequency_penalty": False}, "frequency_penalty", "not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
    ({"logit_bias": {"50256": -100}}, "logit_bias", "not supported"),
    ({"store": True}, "store", "not supported"),
    ({"top_k": 5}, "top_k", "top_k: an unknown parameter; did you mean 'top_p'?"),
    ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
]


@pytest.mark.parametrize(("changes", "param", "message"), WRONG)
def test_what_cannot_be_answered_as_asked_is_refused(changes: dict[str, Any], param: str, message: str) -> None:
    error = refused(**changes)
    assert error.param == param
    assert message in str(error)
    body = msgspec.json.decode(error.content)["error"]
    assert body.keys() == {"message", "type", "param", "code"}
    assert body["type"] == "invalid_request_error"


def test_what_asks_for_nothing_is_accepted() -> None:
    for name, values in _NEUTRAL.items():
        for value in values:
            assert read(**{name: value}) == read()
    for name in _IGNORED:
        assert read(**{name: "x"}) == read()
    assert read(frequency_penalty=0.0) == read()


def test_every_parameter_of_openai_is_known() -> None:
    """So that a new one is decided upon, and none is refused as unknown."""
    known = {*_READ, *_NEUTRAL, *_IGNORED}
    assert set(CompletionCreateParamsBase.__annotations__) - known == set()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"model": "\\ud800"}'])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError):
        chat_request(body)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(-9.0, 9.0) | st.text(max_size=5)
NAMES = st.sampled_from(["role", "content", "type", "text"])
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner), max_leaves=6)


@given(st.dictionaries(st.sampled_from([*_READ, "tools", "store"]), JSON))
def test_any_request_is_read_or_refused(changes: dict[str, Any]) -> None:
    try:
        found = chat_request(msgspec.json.encode(ASKED | changes))
    except ApiError as error:
        message = msgspec.json.decode(error.content)["error"]["message"]
    else:
        message = "" if found.messages and 1 <= found.n <= 16 and 0 <= found.temperature <= 2 else "a wrong request"
    assert message != "a wrong request"


def test_errors_have_the_type_of_their_status() -> None:
    for status, kind in ((401, "authentication_error"), (429, "rate_limit_error"), (503, "server_error")):
        assert msgspec.json.decode(ApiError("no", status=status).content)["error"]["type"] == kind


# ---- replies -------------------------------------------------------------------------------------------------------

LOGPROBS = [
    TokenLogprob("Sor", -0.5, (83, 111, 114), (TopLogprob("Sor", -0.5, (83, 111, 114)),)),
    TokenLogprob("ry", -1.0),
]


def test_a_reply_is_a_chat_completion() -> None:
    answers = [ChatAnswer("Sorry", "stop", 3, LOGPROBS), ChatAnswer("No", "length", 2)]
    found = ChatCompletion.model_validate_json(completion(HEAD, answers, 5), strict=True)
    assert (found.id, found.created, found.model, found.system_fingerprint) == HEAD
    assert [(one.index, one.message.content, one.finish_reason) for one in found.choices] == [
        (0, "Sorry", "stop"),
        (1, "No", "length"),
    ]
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (5, 5, 10)
    first, second = found.choices
    assert first.logprobs is not None
    assert first.logprobs.content is not None
    assert [(one.token, one.logprob, one.bytes) for one in first.logprobs.content] == [
        ("Sor", -0.5, [83, 111, 114]),
        ("ry", -1.0, None),
    ]
    assert [one.token for one in first.logprobs.content[0].top_logprobs] == ["Sor"]
    assert second.logprobs is None


def test_each_event_is_a_chunk() -> None:
    events = [
        opening(HEAD, 0, usage=True),
        text_chunk(HEAD, 0, "Sorry", LOGPROBS, usage=True),
        closing(HEAD, 0, "stop", usage=True),
        usage_chunk(HEAD, 5, 3),
    ]
    for event in events:
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        assert event.count(b"\n") == 2
    chunks = [ChatCompletionChunk.model_validate_json(event[6:], strict=True) for event in events]
    assert [chunk.choices[0].delta.content for chunk in chunks[:3]] == ["", "Sorry", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:3]] == [None, None, "stop"]
    assert chunks[3].choices == []
    assert [chunk.usage and chunk.usage.total_tokens for chunk in chunks] == [None, None, None, 8]
    assert b'"usage":null' in events[0]
    assert b"usage" not in text_chunk(HEAD, 0, "x\ny")


# ---- the client ----------------------------------------------------------------------------------------------------


def answer(asked: ChatRequest) -> ChatAnswer:
    text, finish = asked.messages[-1].content.upper(), "stop"
    if asked.max_tokens is not None and len(text) > asked.max_tokens:
        text, finish = text[: asked.max_tokens], "length"
    kept: Finish = "length" if finish == "length" else "stop"
    return ChatAnswer(text, kept, len(text), None if asked.top_logprobs is None else LOGPROBS)


async def reply(request: Request) -> Response:
    try:
        asked = chat_request(await request.body())
    except ApiError as error:
        return Response(error.content, error.status, media_type="application/json")
    made = [answer(asked)] * asked.n
    if not asked.stream:
        return Response(completion(HEAD, made, 5), media_type="application/json")

    async def events() -> Any:
        for index, one in enumerate(made):
            yield opening(HEAD, index, asked.usage)
            for letter in one.text:
                yield text_chunk(HEAD, index, letter, usage=asked.usage)
            yield closing(HEAD, index, one.finish, asked.usage)
        if asked.messages[-1].content == "fail":
            yield error_event(ApiError("the model went away", status=503))
        if asked.usage:
            yield usage_chunk(HEAD, 5, sum(one.tokens for one in made))
        yield DONE

    return StreamingResponse(events(), media_type="text/event-stream")


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    opened = socket.create_server(("127.0.0.1", 0))
    application = Starlette(routes=[Route("/v1/chat/completions", reply, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    with OpenAI(base_url=f"http://127.0.0.1:{opened.getsockname()[1]}/v1", api_key="x", max_retries=0) as made:
        yield made
    server.should_exit = True
    thread.join(10)
    opened.close()


def test_the_client_reads_a_reply(client: OpenAI) -> None:
    made = client.chat.completions.create(model="m", messages=ASKED["messages"], n=2, max_tokens=3, logprobs=True)
    assert [choice.message.content for choice in made.choices] == ["HEL", "HEL"]
    assert made.choices[0].finish_reason == "length"
    assert made.choices[0].logprobs is not None
    assert made.usage is not None
    assert made.usage.total_tokens == 11


def test_the_client_reads_a_stream(client: OpenAI) -> None:
    options: Any = {"include_usage": True}
    with client.chat.completions.create(
        model="m", messages=ASKED["messages"], n=2, stream=True, stream_options=options
    ) as stream:
        chunks = list(stream)
    texts = [
        "".join(c.choices[0].delta.content or "" for c in chunks if c.choices and c.choices[0].index == i)
        for i in (0, 1)
    ]
    assert texts == ["HELLO", "HELLO"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 10


def test_the_client_raises_its_own_errors(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as raised:
        client.chat.completions.create(model="m", messages=ASKED["messages"], presence_penalty=1.0)
    assert raised.value.param == "presence_penalty"
    assert raised.value.code == "unsupported_parameter"
    assert "not supported" in raised.value.message


def test_the_client_sees_an_error_in_a_stream(client: OpenAI) -> None:
    from openai import APIError

    messages: Any = [{"role": "user", "content": "fail"}]
    stream = client.chat.completions.create(model="m", messages=messages, stream=True)
    with stream, pytest.raises(APIError, match="the model went away"):
        list(stream)


def test_the_client_of_judges_reads_a_reply(client: OpenAI) -> None:
    with EndpointClient(Endpoint(str(client.base_url), "m", max_tokens=4)) as asked:
        found = asked("Hello")
        assert (found.text, found.finish, found.problem) == ("HELL", "length", "")
        assert asked.spent == (1, 5, 4)
