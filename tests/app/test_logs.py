"""The lines that a process writes: their form, what they hold, and what they never hold."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.app import logs
from everlearn.app.auth.tokens import create


@pytest.fixture
def written(monkeypatch):
    """Start logging into a buffer, and put everything back after the test."""
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.excepthook
    buffer = io.StringIO()

    def start(form: str, *secrets: str) -> io.StringIO:
        logs.start(form, "worker-0", secrets, buffer)
        return buffer

    yield start
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook = hook
    logging.captureWarnings(False)


def test_json_has_time_level_role_event_and_fields(written):
    buffer = written("json")
    before = datetime.now(UTC)
    logging.getLogger("everlearn.learner").info("published %d", 3, extra={"fields": {"seconds": 0.25, "event": "x"}})
    line = json.loads(buffer.getvalue())
    assert {name: line[name] for name in ("level", "role", "logger", "event", "seconds")} == {
        "level": "info",
        "role": "worker-0",
        "logger": "everlearn.learner",
        "event": "published 3",  # a field cannot take the place of what every line has
        "seconds": 0.25,
    }
    assert abs((datetime.fromisoformat(line["time"]) - before).total_seconds()) < 10


def test_text_can_be_read(written):
    buffer = written("text")
    logging.getLogger("everlearn").warning("late", extra={"fields": {"seconds": 1.5, "why": "no disk", "id": "a"}})
    assert buffer.getvalue().endswith('Z WARNING worker-0: late seconds=1.5 why="no disk" id=a\n')


def test_the_servers_own_lines_have_the_same_form(written):
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).addHandler(logging.StreamHandler(io.StringIO()))
    buffer = written("json")
    logging.getLogger("uvicorn.error").error("Invalid HTTP request number %d", 5)
    logging.getLogger("uvicorn.access").info('"GET /?token=abc"')
    assert [json.loads(line)["event"] for line in buffer.getvalue().splitlines()] == ["Invalid HTTP request number 5"]


def test_an_error_has_its_trace_and_stays_one_line_of_json(written):
    buffer = written("json")
    try:
        raise ValueError("no such thing")
    except ValueError:
        logging.getLogger("everlearn").exception("fault")
    (line,) = buffer.getvalue().splitlines()
    assert "ValueError: no such thing" in json.loads(line)["trace"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_never_reach_a_line(written, tmp_path, form):
    token = create(tmp_path / "tokens.json", "shop.1-a", ["admin"], 1)
    secret = token.rpartition("_")[2]
    buffer = written(form, "hook-key-1234")
    log = logging.getLogger("everlearn")
    log.info("got %s", token)
    log.info("header", extra={"fields": {"headers": {"Authorization": f"Bearer {token}"}, "raw": token.encode()}})
    log.info(f"cookie __Host-everlearn={secret}; Authorization: bearer {secret}")
    log.info(
        "fields", extra={"fields": {"token": secret, "key_password": secret, "x-csrf-token": secret, "cookie": secret}}
    )
    log.info("nested", extra={"fields": {"all": [{"secret": secret}, (token,)]}})
    log.info(f"https://user:{secret}@example.com/hook?a=1&token={secret}")
    log.info("signed with hook-key-1234", extra={"fields": {"why": "hook-key-1234"}})
    try:
        raise RuntimeError(f"refused {token} signed hook-key-1234")
    except RuntimeError:
        log.exception("fault")
    text = buffer.getvalue()
    assert text.count("hidden") >= 10
    assert secret not in text
    assert "hook-key-1234" not in text
    assert "shop.1-a" in text  # whose token it was may be known


def test_names_that_are_no_secrets_are_told(written):
    buffer = written("json")
    fields = {"token_name": "shop", "tokens": 3, "monkey": "x", "position": 7}
    logging.getLogger("everlearn").info("login", extra={"fields": fields})
    assert fields.items() <= json.loads(buffer.getvalue()).items()


@given(st.text(), st.text())
def test_nothing_that_is_logged_can_forge_a_line(event, value):
    for form in ("text", "json"):
        record = logging.makeLogRecord({"msg": event, "levelname": "INFO", "fields": {"value": value}})
        line = logs.Lines(form, "admin").format(record)
        assert len((line + "\n").split("\n")) == 2
        assert "\r" not in line
        assert "\x1b" not in line


def test_an_error_that_nobody_caught_is_logged_too():
    code = "from everlearn.app import logs; logs.start('json', 'admin'); raise RuntimeError('el_a_0123456789abcdef')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    line = json.loads(done.stderr)
    assert (done.returncode, line["level"], line["role"]) == (1, "critical", "admin")
    assert "0123456789abcdef" not in done.stderr
