"""The HTTP records: usable without numpy, and the same bytes on the wire as ever."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from everlearn.client import records
from everlearn.client.records import (
    Answer,
    Answers,
    FeedbackReply,
    FeedbackRow,
    LearnReply,
    LearnRow,
    PredictRequest,
    RowAnswer,
    RowError,
)
from everlearn.records import Label


def test_a_client_needs_no_numpy():
    code = "import sys; from everlearn.client import AsyncClient, Client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert {"everlearn", "httpx"} <= loaded
    assert not loaded & {"numpy", "numba", "starlette", "uvicorn"}


def test_the_server_needs_no_http_client_for_the_records():
    code = "import sys; import everlearn.client.records; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "httpx" not in done.stdout.split()


@pytest.mark.parametrize(
    ("record", "content"),
    [
        (
            Answer("a", True, (0.25, 0.75), "v", 7, None),
            b'{"id":"a","value":true,"proba":[0.25,0.75],"version":"v","position":7,"staleness":null}',
        ),
        (
            Answer("a", 1.5, (), "v", 7, 0.5, True, {"x": 1.0}),
            b'{"id":"a","value":1.5,"proba":[],"version":"v","position":7,"staleness":0.5,"canary":true,'
            b'"contributions":{"x":1.0}}',
        ),
        (
            Answers([RowAnswer("a", "no", (1.0,), "v")], 3, 0.5),
            b'{"predictions":[{"id":"a","value":"no","proba":[1.0],"version":"v"}],"position":3,"staleness":0.5}',
        ),
        (FeedbackReply(2, 0), b'{"accepted":2,"known":0}'),
        (FeedbackReply(1, 0, (RowError(1, "no"),)), b'{"accepted":1,"known":0,"errors":[{"index":1,"detail":"no"}]}'),
        (LearnReply(1, ("e",)), b'{"accepted":1,"ids":["e"]}'),
        (PredictRequest(features={"x": 1}, id="a"), b'{"features":{"x":1},"id":"a"}'),
        (PredictRequest(instances=[{"x": 1}], ids=["a"]), b'{"instances":[{"x":1}],"ids":["a"]}'),
        (FeedbackRow("a", label=0, weight=Label("a", 0).weight), b'{"id":"a","label":0,"weight":1.0}'),
        (
            LearnRow({"x": 1}, "no", "e", Label("a", 0).weight),
            b'{"features":{"x":1},"label":"no","id":"e","weight":1.0}',
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_message_on_the_wire(record, content):
    assert msgspec.json.encode(record) == content
    assert msgspec.json.decode(content, type=type(record)) == record


def test_requests_with_unknown_fields_are_refused_and_replies_with_some_are_read():
    with pytest.raises(msgspec.ValidationError, match="unknown field `more`"):
        msgspec.json.decode(b'{"reason": "x", "more": 1}', type=records.PromoteCommand)
    assert msgspec.json.decode(b'{"status": "ok", "staleness": 1.0, "more": 1}', type=records.Healthy).staleness == 1.0
