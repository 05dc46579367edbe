"""Logs of the processes of a server: one line for each event, for people ("text") or programs ("json").

    log = logging.getLogger("everlearn.learner")
    log.info("published", extra={"fields": {"version": "3f2a", "seconds": 0.004}})

Secrets never reach a line. Text that looks like a token, a password or a cookie is hidden, because of the name of its
field or because of its form, in messages and in tracebacks too.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec

Form = Literal["text", "json"]

HIDDEN = "[hidden]"

_NAMES = re.compile(
    r"(?:.*[_-])?(?:token|secret|password|passphrase|authorization|cookie|csrf|digest|api[_-]?key|csrf[_-]token)",
    re.IGNORECASE,
)
_FORMS = re.compile(
    r"(?P<token>\bel_[A-Za-z0-9.-]{1,40}_)[0-9a-fA-F]{8,}"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}"
    r"|(?P<cookie>\beverlearn=)[\w-]{8,}"
    r"|(?P<user>://)[^/\s@]+(?=@)"
    r"|(?P<query>[?&](?:token|access_token|key|secret|password|signature)=)[^&\s\"']+",
    re.IGNORECASE,
)
_CONTROL = {number: f"\\x{number:02x}" for number in [*range(32), *range(127, 160)]} | {10: "\\n", 13: "\\r", 9: "\\t"}
_LOUD = ("httpx", "httpcore", "asyncio", "opentelemetry", "numba")  # they log each request, which is too much here
_SERVERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


def start(form: Form, role: str, secrets: Iterable[str] = (), to: TextIO | None = None, level: str = "INFO") -> None:
    """Log all records of this process to standard error (or `to`), in one form, with the `role` of the process.

    `secrets` are texts to hide wherever they occur. A uvicorn server must not set up logging: use
    `uvicorn.Config(log_config=None)`.
    """
    output = logging.StreamHandler(to if to is not None else sys.stderr)
    output.setFormatter(Lines(form, role, secrets))
    root = logging.getLogger()
    root.handlers[:] = [output]
    root.setLevel(level)
    for name in _SERVERS:
        server = logging.getLogger(name)
        server.handlers.clear()
        server.propagate = name != "uvicorn.access"  # requests are counted, not listed
        server.setLevel(max(logging.WARNING, logging.getLevelName(level)))  # starts and stops are logged by us
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught


class Lines(logging.Formatter):
    """Formats a record as one line, without secrets."""

    def __init__(self, form: Form, role: str, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._form = form
        self._role = role
        self._secrets = sorted((secret for secret in secrets if secret), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; in "text", a traceback follows on lines below."""
        when = datetime.fromtimestamp(record.created, UTC)
        fields = {str(name): self._shown(str(name), value) for name, value in _fields(record).items()}
        event, trace = self._hide(record.getMessage()), self._trace(record)
        if self._form == "json":
            line = fields | {
                "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "level": record.levelname.lower(),
                "role": self._role,
                "pid": record.process,
                "logger": record.name,
                "event": event,
            }
            return msgspec.json.encode(line | {"trace": trace} if trace else line, enc_hook=str).decode()
        rest = "".join(f" {name}={_plain(value)}" for name, value in fields.items())
        head = f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03d}Z {record.levelname:<7} {self._role}"
        line_of_text = f"{head}: {event.translate(_CONTROL)}{rest.translate(_CONTROL)}"
        return f"{line_of_text}\n{trace}" if trace else line_of_text

    def _trace(self, record: logging.LogRecord) -> str:
        if not record.exc_info or record.exc_info[0] is None:
            return ""
        lines = self._hide("".join(traceback.format_exception(*record.exc_info)).rstrip()).split("\n")
        return "\n".join(line.translate(_CONTROL) for line in lines)

    def _shown(self, name: str, value: Any) -> Any:
        if _NAMES.fullmatch(name):
            return HIDDEN
        if isinstance(value, Mapping):
            return {str(key): self._shown(str(key), inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._shown("", inner) for inner in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._hide(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return _FORMS.sub(lambda found: f"{found[found.lastgroup or 0]}{HIDDEN}", text)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = record.__dict__.get("fields")
    return fields if isinstance(fields, Mapping) else {}


def _plain(value: Any) -> str:
    """Return a value as a line for people shows it: quoted only where needed."""
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
    return msgspec.json.encode(text).decode() if not text or re.search(r"[\s\"=]", text) else text


def _uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("everlearn").critical("the process ends: %s", error, exc_info=(kind, error, trace))
