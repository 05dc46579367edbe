"""Traces: the spans there are, whose trace they belong to, what they hold; nothing where they are not asked for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from everlearn.app import tracing
from everlearn.app.process import Setup
from everlearn.app.supervisor import Server
from everlearn.errors import ConfigError, MissingExtra
from everlearn.spec import Schema, ServeSpec, Spec

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"  # the example of W3C Trace Context


def setup(traces: str) -> Setup:
    schema = Schema(label="y", task="binary", fields={"x": "numeric"}, classes=(0, 1))
    return Setup(spec=Spec(schema=schema, serve=ServeSpec(traces=traces)), home="/nowhere", serving="/nowhere")


@pytest.fixture
def exporter():
    return pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    made = tracing.start(setup("http://localhost:4318"), "worker-0", exporter)
    assert made is not None
    return made


def ask(app: tracing.Application, path: str, headers: list[tuple[bytes, bytes]] | None = None) -> list[dict]:
    """Send one request; return the messages that came back."""
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": headers or [], "query_string": b"token=x"}
    asyncio.run(app(scope, receive, send))
    return sent


def replying(status: int) -> tracing.Application:
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    return app


def test_a_request_is_a_span_in_the_callers_trace(tracer, exporter):
    headers = [(b"traceparent", PARENT.encode()), (b"authorization", b"Bearer el_a_00")]
    sent = ask(tracer.wrap(replying(200)), "/predict", headers)
    tracer.stop()
    (span,) = exporter.get_finished_spans()
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert span.name == "POST /predict"
    assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert dict(span.attributes) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
    }
    assert span.resource.attributes["service.name"] == "everlearn"
    assert span.resource.attributes["service.instance.id"] == "worker-0"


@pytest.mark.parametrize("parent", [b"nonsense", b"00-00000000000000000000000000000000-b7ad6b7169203331-01", b"\xff"])
def test_a_trace_of_nonsense_is_a_new_trace(tracer, exporter, parent):
    ask(tracer.wrap(replying(200)), "/learn", [(b"traceparent", parent)])
    tracer.stop()
    (span,) = exporter.get_finished_spans()
    assert span.parent is None


def test_only_the_hot_paths_are_traced(tracer, exporter):
    for path in ("/", "/status", "/metrics", "/predict/x"):
        ask(tracer.wrap(replying(200)), path)
    tracer.stop()
    assert exporter.get_finished_spans() == ()


def test_faults_are_marked_and_refusals_are_not(tracer, exporter):
    for status in (422, 503):
        ask(tracer.wrap(replying(status)), "/feedback")

    async def broken(scope, receive, send):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        ask(tracer.wrap(broken), "/feedback")
    tracer.stop()
    assert [span.status.is_ok for span in exporter.get_finished_spans()] == [True, False, False]


def test_blocks_and_what_has_just_ended(tracer, exporter):
    with tracer.span("fold", {"everlearn.events": 3}):
        tracer.record("commit", 0.25, {"everlearn.rows": 12})
    tracer.stop()
    commit, fold = exporter.get_finished_spans()
    assert (commit.end_time - commit.start_time) == 250_000_000
    assert dict(commit.attributes) == {"everlearn.rows": 12}
    assert commit.parent.span_id == fold.context.span_id


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """The address of something that takes spans, and what it has taken."""
    pytest.importorskip("opentelemetry.sdk")
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_spans_reach_a_collector(collector):
    url, got = collector
    tracer = tracing.start(setup(url), "learner")
    assert tracer is not None
    tracer.record("publish", 0.01)
    tracer.stop()
    ((path, body),) = got
    assert path == "/v1/traces"
    assert b"publish" in body


def test_a_whole_server_is_traced(collector, tmp_path):
    url, got = collector
    spec = Spec(
        schema=Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric"}),
        serve=ServeSpec(port=0, traces=url),
    )
    with Server(spec, tmp_path / "home") as server, server.client() as client:
        client.feedback(client.predict({"a": 1.0}).id, label=1)
    sent = b"".join(body for _, body in got)
    assert all(name in sent for name in (b"POST /predict", b"POST /feedback", b"commit", b"fold"))
    assert all(role in sent for role in (b"worker-0", b"learner"))


@pytest.mark.parametrize("url", ["localhost:4318", "ftp://x", "http://"])
def test_what_is_no_address_is_refused(url):
    pytest.importorskip("opentelemetry.sdk")
    with pytest.raises(ConfigError, match="serve.traces"):
        tracing.start(setup(url), "admin")


def test_where_it_is_not_set_nothing_is_imported():
    code = (
        "import sys; from everlearn.app import tracing; from everlearn.app.process import received;"
        "print(tracing.start(received(), 'admin'), *[name for name in sys.modules if 'opentelemetry' in name])"
    )
    environment = setup("").environment()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["None"]


def test_where_it_is_set_and_not_installed_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtra, match=r"pip install 'everlearn\[otel\]'"):
        tracing.start(setup("http://localhost:4318"), "admin")
