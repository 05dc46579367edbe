"""Chat requests and replies in the form of OpenAI's API, so that its clients work without a change.

    chat_request(body) -> ChatRequest            or ApiError, whose `content` is the error in the same form
    completion(reply, answers) -> bytes          one whole reply
    opening, text_chunk, closing, usage_chunk    one event of a stream each; DONE ends it

A parameter that would change the answer and is not supported gets status 400; one that changes nothing is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from everlearn.errors import did_you_mean
from everlearn.stream.preferences import ChatTurn

MOST_ANSWERS = 16
MOST_MESSAGES = 1_000
DONE = b"data: [DONE]\n\n"

Finish = Literal["stop", "length", "content_filter"]

_ROLES = ("system", "developer", "user", "assistant")
_IGNORED = frozenset(
    {"metadata", "safety_identifier", "service_tier", "prompt_cache_key", "prompt_cache_retention"}
    | {"prompt_cache_options"}
)
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {  # values that ask for nothing
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "store": (False,),
    "audio": (),
    "prediction": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
_READ = (
    *("model", "messages", "n", "stream", "stream_options", "stop", "seed", "temperature", "top_p"),
    *("max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "user"),
)


class ApiError(Exception):
    """A refused request: its status, and the parameter that is wrong."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    @property
    def content(self) -> bytes:
        """The body of the reply, as OpenAI's clients read it."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else kinds.get(self.status, "invalid_request_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


class ChatRequest(Struct, frozen=True):
    """A valid request.

    `max_tokens` is the limit of each of the `n` answers, None without one. `top_logprobs` is the number of alternatives
    with each token; None where no log-probabilities are wanted. `usage` asks for a chunk with the counts of tokens at
    the end of a stream. `user` identifies the person who asks; empty if unknown.
    """

    model: str
    messages: tuple[ChatTurn, ...]
    n: int = 1
    stream: bool = False
    usage: bool = False
    stop: tuple[str, ...] = ()
    seed: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    top_logprobs: int | None = None
    user: str = ""


class TopLogprob(Struct, frozen=True):
    """A token that could have stood in a place, and its log-probability there."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None


class TokenLogprob(Struct, frozen=True):
    """A token, its log-probability, its UTF-8 bytes, and the likeliest tokens in its place."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top_logprobs: tuple[TopLogprob, ...] = ()


class ChatAnswer(NamedTuple):
    """One answer to a request; `tokens` is its length, with the stop token if it was sampled."""

    text: str
    finish: Finish
    tokens: int
    logprobs: Sequence[TokenLogprob] | None = None


class ReplyHead(NamedTuple):
    """What all parts of a reply share: id, seconds since 1970, name of the model, and the version that answers."""

    id: str
    created: int
    model: str
    version: str


# ---- requests ------------------------------------------------------------------------------------------------------


def chat_request(body: bytes) -> ChatRequest:
    """Return the request in a body of JSON. Raises `ApiError` for anything that cannot be answered as asked.

    >>> chat_request(b'{"model": "m", "messages": [{"role": "user", "content": "Hello"}]}').messages
    (ChatTurn(role='user', content='Hello'),)
    >>> chat_request(b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "n": 0}')
    Traceback (most recent call last):
        ...
    everlearn.app.generator.openai_records.ApiError: n: got 0; expected a whole number from 1 to 16
    """
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(given, dict):
        raise ApiError(f"the body: got {_shown(given)}; expected a JSON object", code="invalid_type")
    record = {name: value for name, value in given.items() if value is not None}
    for name, value in record.items():
        _require_supported(name, value)
    model = _string(record, "model", required=True)
    stream = _boolean(record, "stream")
    logprobs, top = _boolean(record, "logprobs"), _whole(record, "top_logprobs", 0, 20)
    if top is not None and not logprobs:
        raise ApiError("top_logprobs: got a number without logprobs; set logprobs to true", "top_logprobs")
    return ChatRequest(
        model,
        _messages(record.get("messages")),
        _whole(record, "n", 1, MOST_ANSWERS) or 1,
        stream,
        _usage(record.get("stream_options"), stream),
        _stop(record.get("stop")),
        _whole(record, "seed", -(2**63), 2**63 - 1),
        _number(record, "temperature", 0.0, 2.0),
        _number(record, "top_p", 0.0, 1.0),
        _max_tokens(record),
        (top or 0) if logprobs else None,
        _string(record, "user"),
    )


def _require_supported(name: str, value: Any) -> None:
    if name in _READ or name in _IGNORED or any(_same(value, neutral) for neutral in _NEUTRAL.get(name, ())):
        return
    if name in _NEUTRAL:
        raise ApiError(f"{name}: got {_shown(value)}; this parameter is not supported", name, "unsupported_parameter")
    near = did_you_mean(name, _READ)
    raise ApiError(f"{name}: an unknown parameter{near}; leave it out", name, "unknown_parameter")


def _same(one: Any, other: Any) -> bool:
    """Return True for equal values of one type; 0 and 0.0 are the same, 0 and false are not."""
    return one == other and isinstance(one, bool) is isinstance(other, bool)


def _messages(given: Any) -> tuple[ChatTurn, ...]:
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_MESSAGES:
        count = f"{len(given)} messages" if isinstance(given, list) else _shown(given)
        raise ApiError(f"messages: got {count}; expected a list of 1 to {MOST_MESSAGES:,} messages", "messages")
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(given))


def _message(given: Any, where: str) -> ChatTurn:
    if not isinstance(given, dict):
        raise ApiError(f'{where}: got {_shown(given)}; expected {{"role": "user", "content": "text"}}', where)
    role = given.get("role")
    if role not in _ROLES:
        supported = ", ".join(_ROLES)
        raise ApiError(f"{where}.role: got {_shown(role)}; expected one of {supported}", f"{where}.role")
    for name in ("tool_calls", "function_call", "audio"):
        if given.get(name):
            raise ApiError(f"{where}.{name}: not supported; send text", f"{where}.{name}", "unsupported_parameter")
    content = given.get("content")
    if isinstance(content, list) and content:
        content = "".join(_part(part, f"{where}.content[{index}]") for index, part in enumerate(content))
    if not isinstance(content, str):
        raise ApiError(f"{where}.content: got {_shown(content)}; expected text", f"{where}.content")
    return ChatTurn(role, _unicode(content, f"{where}.content"))


def _part(given: Any, where: str) -> str:
    if not isinstance(given, dict) or given.get("type") != "text" or not isinstance(given.get("text"), str):
        raise ApiError(f'{where}: got {_shown(given)}; expected {{"type": "text", "text": "..."}}', where)
    return str(given["text"])


def _stop(given: Any) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(texts, list) or len(texts) > 4 or not all(isinstance(text, str) and text for text in texts):
        raise ApiError(f"stop: got {_shown(given)}; expected a text, or a list of at most 4 texts", "stop")
    return tuple(_unicode(text, "stop") for text in texts)


def _usage(given: Any, stream: bool) -> bool:
    """Return True if the counts of tokens shall end the stream."""
    if given is None:
        return False
    if not stream:
        raise ApiError("stream_options: got it without a stream; set stream to true", "stream_options")
    if not isinstance(given, dict) or not given.keys() <= {"include_usage", "include_obfuscation"}:
        raise ApiError(f'stream_options: got {_shown(given)}; expected {{"include_usage": true}}', "stream_options")
    return _boolean(given, "include_usage", "stream_options.include_usage")


def _max_tokens(record: Mapping[str, Any]) -> int | None:
    old, new = (_whole(record, name, 1, 2**31 - 1) for name in ("max_tokens", "max_completion_tokens"))
    if old is not None and new is not None and old != new:
        raise ApiError(f"max_tokens: got {old}, and {new} as max_completion_tokens; give one of them", "max_tokens")
    return new if old is None else old


def _whole(record: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ApiError(f"{name}: got {_shown(value)}; expected a whole number from {low} to {high}", name)
    return value


def _number(record: Mapping[str, Any], name: str, low: float, high: float) -> float:
    value = record.get(name, 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ApiError(f"{name}: got {_shown(value)}; expected a number from {low:g} to {high:g}", name)
    return float(value)


def _boolean(record: Mapping[str, Any], name: str, where: str = "") -> bool:
    value = record.get(name, False)
    if not isinstance(value, bool):
        raise ApiError(f"{where or name}: got {_shown(value)}; expected true or false", where or name)
    return value


def _string(record: Mapping[str, Any], name: str, required: bool = False) -> str:
    value = record.get(name, "")
    if not isinstance(value, str) or (required and not value):
        raise ApiError(f"{name}: got {_shown(record.get(name))}; expected some text", name)
    return _unicode(value, name)


def _unicode(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError(f"{where}: got half a surrogate pair; expected valid Unicode", where) from error
    return text


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---- replies -------------------------------------------------------------------------------------------------------


def completion(head: ReplyHead, answers: Sequence[ChatAnswer], prompt_tokens: int) -> bytes:
    """Return a whole reply; `system_fingerprint` is the version of the model that answered.

    >>> head = ReplyHead("chatcmpl-1", 1_700_000_000, "m", "v7")
    >>> reply = msgspec.json.decode(completion(head, [ChatAnswer("Sorry!", "stop", 3)], prompt_tokens=5))
    >>> reply["choices"][0]["message"]["content"], reply["usage"]["total_tokens"]
    ('Sorry!', 8)
    """
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": _logprobs(answer.logprobs),
            "finish_reason": answer.finish,
        }
        for index, answer in enumerate(answers)
    ]
    counts = _counts(prompt_tokens, sum(answer.tokens for answer in answers))
    return msgspec.json.encode(_framed(head, "chat.completion", choices) | {"usage": counts})


def opening(head: ReplyHead, index: int, usage: bool = False) -> bytes:
    """Return the first event of an answer in a stream, which names its role."""
    return _event(head, index, {"role": "assistant", "content": "", "refusal": None}, None, None, usage)


def text_chunk(
    head: ReplyHead, index: int, text: str, logprobs: Sequence[TokenLogprob] | None = None, usage: bool = False
) -> bytes:
    """Return the event that adds some text to an answer; `usage` as in the request."""
    return _event(head, index, {"content": text}, logprobs, None, usage)


def closing(head: ReplyHead, index: int, finish: Finish, usage: bool = False) -> bytes:
    """Return the event that ends an answer."""
    return _event(head, index, {}, None, finish, usage)


def usage_chunk(head: ReplyHead, prompt_tokens: int, answer_tokens: int) -> bytes:
    """Return the event with the counts of tokens, which comes after all answers and before DONE."""
    counts = _counts(prompt_tokens, answer_tokens)
    return _sent(_framed(head, "chat.completion.chunk", []) | {"usage": counts})


def error_event(error: ApiError) -> bytes:
    """Return the event that reports an error in a stream whose status was sent already."""
    return b"data: " + error.content + b"\n\n"


def _event(
    head: ReplyHead,
    index: int,
    delta: dict[str, Any],
    logprobs: Sequence[TokenLogprob] | None,
    finish: Finish | None,
    usage: bool,
) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": _logprobs(logprobs), "finish_reason": finish}
    return _sent(_framed(head, "chat.completion.chunk", [choice]) | ({"usage": None} if usage else {}))


def _framed(head: ReplyHead, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": head.id,
        "object": kind,
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.version,
        "choices": choices,
    }


def _sent(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _logprobs(given: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    return None if given is None else {"content": list(given), "refusal": None}


def _counts(prompt_tokens: int, answer_tokens: int) -> dict[str, int]:
    total = prompt_tokens + answer_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": answer_tokens, "total_tokens": total}
