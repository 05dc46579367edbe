"""Ask a model behind an OpenAI-compatible endpoint: POST {base_url}/chat/completions over HTTP.

A failure that may pass (no connection, a time-out, status 408, 409, 425, 429 or 5xx, a reply that is no completion) is
retried a bounded number of times, with growing pauses or after the seconds that the server asks for. A refusal of one
prompt is a completion with a problem. Every other refusal is a wrong setting, and is raised at once.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
import msgspec
from msgspec import Struct

from everlearn.errors import ConfigError, EverlearnError
from everlearn.families.preference.answer_cache import Completion

LARGEST = 4 << 20  # bytes of a reply
LONGEST_PAUSE = 60.0  # seconds between two attempts, whatever the server asks for

_PASSING = frozenset([408, 409, 425, 429])
_OF_THE_PROMPT = (
    "context_length",
    "content_filter",
    "content_policy",
    "maximum context",
    "too long",
    "too many tokens",
)
_UNSUPPORTED = re.compile(r"unsupported|not supported|unrecognized|unknown", re.I)
_REPLACED = {"max_tokens": "max_completion_tokens", "temperature": ""}  # newer models refuse these


class JudgeUnavailable(EverlearnError):
    """The endpoint did not answer after all attempts. Nothing was judged and nothing was kept: ask again later."""


class Endpoint(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a judge model answers, and how patiently it is asked.

    `base_url` ends before "/chat/completions", as in "https://api.openai.com/v1". `key` is the name of the environment
    variable with the API key; empty for an endpoint without one. `timeout` is in seconds, for one whole attempt;
    `retries` follow the first attempt, after `pause` seconds, then twice as long each time.
    """

    base_url: str
    model: str
    key: str = ""
    timeout: float = 60.0
    retries: int = 4
    pause: float = 0.5
    temperature: float = 0.0
    max_tokens: int = 1024


class Spent(NamedTuple):
    """What a client has used: requests that were sent, and the tokens that replies reported."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


class _Passing(Exception):
    """A failure that may pass, and the seconds that the server asked to wait; 0 without a wish."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Text(Struct):
    """A part of a message; `text` is empty for images and the like."""

    text: str = ""


class _Message(Struct):
    content: str | list[_Text] | None = None
    refusal: str | None = None


class _Choice(Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Reply(Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class EndpointClient:
    """A client of one endpoint; any number of threads may call it at once.

    Raises `ConfigError` for an invalid setting, and where the environment variable of the key is empty.
    """

    def __init__(self, settings: Endpoint, sleep: Callable[[float], Any] = time.sleep) -> None:
        self.settings = settings
        self._url = _checked(settings)
        self._sleep = sleep
        self._spent = Spent()
        self._lock = threading.Lock()
        self._body: dict[str, Any] = {
            "model": settings.model,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
        }
        headers = {"user-agent": "everlearn", "accept": "application/json"}
        if settings.key:
            headers["authorization"] = f"Bearer {_secret(settings.key)}"
        self._client = httpx.Client(
            headers=headers, timeout=settings.timeout, limits=httpx.Limits(max_connections=None)
        )

    def __call__(self, prompt: str) -> Completion:
        """Return the answer to a prompt.

        Raises `JudgeUnavailable` if all attempts failed, and `ConfigError` where the endpoint refuses the key, the
        model or the request.
        """
        for attempt in range(self.settings.retries + 1):
            try:
                return self._attempt(prompt)
            except _Passing as error:
                failure = error
            if attempt < self.settings.retries:
                self._sleep(self._pause(prompt, attempt, failure.wait))
        raise JudgeUnavailable(
            f"judge: {self._url} did not answer in {self.settings.retries + 1} attempts; the last failure: {failure}. "
            "Check that the endpoint runs, or raise retries or timeout"
        )

    @property
    def spent(self) -> Spent:
        """What this client has used since it was made."""
        return self._spent

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _attempt(self, prompt: str) -> Completion:
        """Send a prompt; send it again, at once, without the settings that this model refuses."""
        while True:
            body = dict(self._body)
            status, headers, content = self._post(body | {"messages": [{"role": "user", "content": prompt}]})
            if status == 400 and self._adapted(body, content):
                continue
            found, usage = _completion(self._url, status, headers, content)
            self._count(0, usage)
            return found

    def _post(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Return status, headers and body of the reply; the whole takes at most `timeout` seconds."""
        self._count(1, _Usage())
        end = time.monotonic() + self.settings.timeout
        content = bytearray()
        headers = {"content-type": "application/json"}
        try:
            with self._client.stream("POST", self._url, content=msgspec.json.encode(body), headers=headers) as reply:
                for chunk in reply.iter_bytes():
                    content += chunk
                    if len(content) > LARGEST:
                        raise _Passing(f"a reply of more than {LARGEST} bytes")
                    if time.monotonic() > end:
                        raise _Passing(f"no whole reply within {self.settings.timeout:g} s")
                return reply.status_code, reply.headers, bytes(content)
        except httpx.TimeoutException as error:
            raise _Passing(f"no reply within {self.settings.timeout:g} s") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _Passing(f"{type(error).__name__}: {error}") from error

    def _count(self, requests: int, usage: _Usage) -> None:
        with self._lock:
            sent, prompts, answers = self._spent
            self._spent = Spent(sent + requests, prompts + usage.prompt_tokens, answers + usage.completion_tokens)

    def _adapted(self, sent: dict[str, Any], content: bytes) -> bool:
        """Rename or leave out a setting that the model refuses, for good; False where the refusal names none."""
        text = content.decode("utf-8", "replace")
        refused = [name for name in _REPLACED if name in sent and name in text]
        if not refused or not _UNSUPPORTED.search(text):
            return False
        with self._lock:
            changed = {_REPLACED.get(name, name) if name in refused else name: self._body[name] for name in self._body}
            self._body = {name: value for name, value in changed.items() if name}
        return True

    def _pause(self, prompt: str, attempt: int, wished: float) -> float:
        """Return the seconds before the next attempt, spread by the prompt so that clients do not return together."""
        digest = hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=2, salt=bytes([attempt])).digest()
        spread = 0.5 + int.from_bytes(digest, "little") / 65536
        return min(max(wished, self.settings.pause * 2.0**attempt * spread), LONGEST_PAUSE)


def _checked(settings: Endpoint) -> str:
    """Return the URL of the endpoint. Raises `ConfigError` for an invalid setting."""
    try:
        url = httpx.URL(settings.base_url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"judge.base_url: got {settings.base_url!r} ({error}); expected https://HOST/v1") from error
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise ConfigError(
            f"judge.base_url: got scheme {url.scheme!r} and host {url.host!r}; expected https://HOST/v1, without a "
            "password. Name the environment variable of the key in judge.key"
        )
    if not settings.model:
        raise ConfigError("judge.model: got an empty name; expected the model that the endpoint serves")
    limits: dict[str, tuple[float, float, float]] = {
        "timeout": (settings.timeout, 0.01, 3600.0),
        "retries": (settings.retries, 0, 100),
        "pause": (settings.pause, 0.0, LONGEST_PAUSE),
        "temperature": (settings.temperature, 0.0, 2.0),
        "max_tokens": (settings.max_tokens, 1, 1 << 20),
    }
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise ConfigError(f"judge.{name}: got {value!r}; expected {low:g} to {high:g}")
    return f"{settings.base_url.rstrip('/')}/chat/completions"


def _secret(name: str) -> str:
    """Return the key in an environment variable. Raises `ConfigError` where it is empty or cannot be sent."""
    value = os.environ.get(name, "").strip()
    if not value or not value.isascii() or not value.isprintable():
        raise ConfigError(
            f"judge.key: the environment variable {name!r} is {'not printable ASCII' if value else 'empty'}; set it to "
            "the API key, or leave judge.key empty"
        )
    return value


def _completion(url: str, status: int, headers: httpx.Headers, content: bytes) -> tuple[Completion, _Usage]:
    """Return the completion in a reply, and the tokens that it took; raise `_Passing` or `ConfigError` without one."""
    start = content[:300].decode("utf-8", "replace")
    if status in _PASSING or status >= 500:
        raise _Passing(f"status {status}: {start}", _wished(headers.get("retry-after", "")))
    if status != 200:
        whole = content.decode("utf-8", "replace").lower()
        if status in (400, 413, 422) and (status == 413 or any(sign in whole for sign in _OF_THE_PROMPT)):
            return Completion("", "refused", f"the endpoint refused the prompt with status {status}: {start}"), _Usage()
        remedy = {
            401: "Check the environment variable named in judge.key",
            403: "Check the rights of the key",
            404: "Check judge.base_url and judge.model",
        }.get(status, "Check the settings of the judge")
        raise ConfigError(f"judge: {url} refused the request with status {status}: {start}. {remedy}")
    try:
        reply = msgspec.json.decode(content, type=_Reply)
        choice = reply.choices[0]
    except (msgspec.MsgspecError, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise _Passing(f"a reply that is no chat completion ({error}): {start}") from error
    message = choice.message
    text = message.content if isinstance(message.content, str) else "".join(p.text for p in message.content or ())
    finish = choice.finish_reason or "stop"
    problem = f"the model refused: {message.refusal}" if message.refusal else ""
    if finish == "content_filter":
        problem = "a content filter removed the answer"
    return Completion(text, finish, problem), reply.usage or _Usage()


def _wished(text: str) -> float:
    """Return the seconds of a Retry-After header, a number or a date; 0 where there is none."""
    if text.strip().isascii() and text.strip().replace(".", "", 1).isdigit():
        return float(text)
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return 0.0
