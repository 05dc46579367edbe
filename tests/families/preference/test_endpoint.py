"""The client of an OpenAI-compatible endpoint against a real server that is slow, busy, broken or refuses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest

from everlearn.errors import ConfigError
from everlearn.families.preference.endpoint import LONGEST_PAUSE, Endpoint, EndpointClient, JudgeUnavailable, Spent
from tests.support.judge_endpoints import JudgeEndpoint, completion, dripping

Made = Callable[..., EndpointClient]


@pytest.fixture
def client(endpoint: JudgeEndpoint) -> Iterator[Made]:
    """Make clients; their pauses are noted in a list instead of slept, where one is given."""
    with contextlib.ExitStack() as opened:

        def make(pauses: list[float] | None = None, **changes: Any) -> EndpointClient:
            settings = Endpoint(**({"base_url": endpoint.url, "model": "m", "pause": 0.001} | changes))
            return opened.enter_context(EndpointClient(settings, time.sleep if pauses is None else pauses.append))

        yield make


def test_the_request_is_a_chat_completion(
    endpoint: JudgeEndpoint, client: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-1")
    endpoint.script = ["Answer: B"]
    asked = client(key="JUDGE_KEY", max_tokens=77)
    assert asked("Which?").text == "Answer: B"
    headers, body = endpoint.got[0]
    assert headers["authorization"] == "Bearer secret-1"
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Which?"}],
        "max_tokens": 77,
        "temperature": 0.0,
    }


def test_without_a_key_no_authorization_is_sent(endpoint: JudgeEndpoint, client: Made) -> None:
    endpoint.script = ["Answer: B"]
    client()("Which?")
    assert "authorization" not in endpoint.got[0][0]


@pytest.mark.parametrize(
    "failure", [429, 500, 502, 503, 504, 408, b"<html>busy</html>", b"{}", b'{"choices": []}', b""]
)
def test_a_passing_failure_is_retried(endpoint: JudgeEndpoint, client: Made, failure: Any) -> None:
    endpoint.script = [failure, failure, "Answer: A"]
    assert client()("Which?").text == "Answer: A"
    assert len(endpoint.got) == 3


def test_attempts_are_bounded_and_the_error_says_what_happened(endpoint: JudgeEndpoint, client: Made) -> None:
    endpoint.script = [500] * 10
    with pytest.raises(JudgeUnavailable, match=r"v1/chat/completions did not answer in 3 attempts.*status 500.*Check"):
        client(retries=2)("Which?")
    assert len(endpoint.got) == 3


def test_pauses_grow_and_follow_the_wish_of_the_server(endpoint: JudgeEndpoint, client: Made) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    wishes = ["7", later, "100000", "nonsense", "-5"]
    endpoint.script = [*[(429, {"retry-after": wish}) for wish in wishes], 500, 500, "Answer: A"]
    pauses: list[float] = []
    assert client(pauses, retries=7, pause=0.5)("Which?").text == "Answer: A"
    assert pauses[0] == 7.0
    assert 25.0 < pauses[1] <= 30.0
    assert pauses[2] == LONGEST_PAUSE
    for attempt in (3, 4, 5):
        assert 0.25 * 2**attempt <= pauses[attempt] <= 0.75 * 2**attempt


def test_a_slow_endpoint_is_given_up(endpoint: JudgeEndpoint, client: Made) -> None:
    endpoint.slow = 0.5
    before = time.monotonic()
    with pytest.raises(JudgeUnavailable, match=r"no reply within 0\.05 s"):
        client(timeout=0.05, retries=1)("Which?")
    assert time.monotonic() - before < 5.0


def test_a_reply_that_never_ends_is_given_up(endpoint: JudgeEndpoint, client: Made) -> None:
    endpoint.script = [dripping, "Answer: A"]
    assert client(timeout=0.2)("Which?").text == "Answer: A"


def test_a_reply_that_is_too_large_is_given_up(endpoint: JudgeEndpoint, client: Made) -> None:
    endpoint.script = [b" " * (5 << 20), "Answer: A"]
    assert client()("Which?").text == "Answer: A"


def test_nothing_listens(endpoint: JudgeEndpoint) -> None:
    settings = Endpoint("http://127.0.0.1:9/v1", "m", retries=1, pause=0.0)
    with EndpointClient(settings) as asked, pytest.raises(JudgeUnavailable, match="ConnectError"):
        asked("Which?")


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "environment variable"), (403, "rights"), (404, "judge.model"), (400, "settings"), (302, "")],
)
def test_a_refusal_is_raised_at_once(endpoint: JudgeEndpoint, client: Made, status: int, remedy: str) -> None:
    endpoint.script = [status]
    with pytest.raises(ConfigError, match=f"status {status}.*{remedy}"):
        client()("Which?")
    assert len(endpoint.got) == 1


def refusal(code: str, message: str = "no", status: int = 400) -> Any:
    from starlette.responses import Response

    content = msgspec.json.encode({"error": {"message": message, "code": code, "type": "invalid_request_error"}})
    return lambda body: Response(content, status)


@pytest.mark.parametrize(
    "reply",
    [
        refusal("context_length_exceeded", "This model's maximum context length is 8192 tokens; reduce max_tokens."),
        refusal("content_filter"),
        refusal("too_large", status=413),
        lambda body: completion("", "content_filter"),
        lambda body: completion(None, refusal="I will not."),
    ],
)
def test_a_prompt_that_is_refused_is_a_problem_of_that_prompt(
    endpoint: JudgeEndpoint, client: Made, reply: Any
) -> None:
    endpoint.script = [reply]
    found = client()("Which?")
    assert found.text == ""
    assert found.problem
    assert len(endpoint.got) == 1


def test_settings_that_a_model_refuses_are_renamed_or_left_out(endpoint: JudgeEndpoint, client: Made) -> None:
    renamed = refusal("unsupported_parameter", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.")
    fixed = refusal("unsupported_value", "'temperature' does not support 0 with this model.")
    endpoint.script = [renamed, fixed, "Answer: A", "Answer: B"]
    asked = client(max_tokens=9)
    assert asked("Which?").text == "Answer: A"
    assert asked("And this?").text == "Answer: B"
    bodies = [{name for name in body if name not in ("model", "messages")} for _, body in endpoint.got]
    assert bodies == [{"max_tokens", "temperature"}, {"max_completion_tokens", "temperature"}] + 2 * [
        {"max_completion_tokens"}
    ]
    assert endpoint.got[-1][1]["max_completion_tokens"] == 9


def test_parts_of_a_message_are_joined(endpoint: JudgeEndpoint, client: Made) -> None:
    parts = [{"type": "text", "text": "Answer: "}, {"type": "image"}, {"type": "text", "text": "A"}]
    endpoint.script = [lambda body: completion(parts, "length")]  # type: ignore[arg-type]
    found = client()("Which?")
    assert (found.text, found.finish) == ("Answer: A", "length")


def test_what_is_used_is_counted(endpoint: JudgeEndpoint, client: Made) -> None:
    endpoint.script = [500, "Answer: A", b'{"choices": [{"message": {"content": "Answer: A"}}]}', 404]
    asked = client()
    assert asked.spent == Spent(0, 0, 0)
    asked("Which?")
    assert asked.spent == Spent(2, 40, 2)
    asked("Which?")
    with pytest.raises(ConfigError):
        asked("Which?")
    assert asked.spent == Spent(4, 40, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "ftp://x/v1"}, "judge.base_url: got scheme 'ftp'"),
        ({"base_url": "https://me:pw@x/v1"}, "without a password"),
        ({"base_url": "not a url"}, "judge.base_url"),
        ({"base_url": "http://x:port/v1"}, "judge.base_url: got 'http://x:port/v1'"),
        ({"model": ""}, "judge.model"),
        ({"timeout": 0.0}, "judge.timeout: got 0.0; expected 0.01 to 3600"),
        ({"retries": -1}, "judge.retries"),
        ({"pause": 61.0}, "judge.pause"),
        ({"temperature": float("nan")}, "judge.temperature"),
        ({"max_tokens": 0}, "judge.max_tokens"),
        ({"key": "NO_SUCH_KEY"}, "environment variable 'NO_SUCH_KEY' is empty"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        EndpointClient(Endpoint(**({"base_url": "http://127.0.0.1:9/v1", "model": "m"} | changes)))
