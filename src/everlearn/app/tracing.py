"""OpenTelemetry traces of the hot path: the extra `everlearn[otel]`, and `traces` under [serve].

    tracer = tracing.start(setup, "worker-0")          # None if `traces` is not set; then nothing is imported
    app = tracer.wrap(app) if tracer else app          # a span for each /predict, /feedback and /learn
    if tracer: tracer.record("commit", seconds, {"everlearn.rows": 12})

Spans hold counts and outcomes, and no features, labels, ids or tokens.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from everlearn import __version__
from everlearn.app.process import Setup
from everlearn.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Attributes = Mapping[str, bool | int | float | str]

TRACED = frozenset({"/predict", "/feedback", "/learn"})
_ENDPOINT = "/v1/traces"  # of OTLP over HTTP
_CONTEXT = (b"traceparent", b"tracestate")  # W3C Trace Context


def start(setup: Setup, role: str, exporter: SpanExporter | None = None) -> Tracer | None:
    """Return a tracer for a process, or None if `serve.traces` is not set.

    `exporter` replaces the collector. Raises MissingExtra if OpenTelemetry is not installed, and ConfigError if the
    setting is not an address.
    """
    url = setup.spec.serve.traces
    if not url:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtra("serve.traces", "otel") from error
    names = {"service.name": "everlearn", "service.version": __version__, "service.instance.id": role}
    provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=_endpoint(url))))
    return Tracer(provider)


class Tracer:
    """Makes spans. A separate thread sends them in batches, and drops spans when too many wait."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("everlearn", __version__)
        self._context = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, attributes: Attributes | None = None) -> Iterator[None]:
        """Make a span around a block, inside the current span; an error that leaves the block is recorded."""
        with self._tracer.start_as_current_span(name, attributes=attributes):
            yield

    def record(self, name: str, seconds: float, attributes: Attributes | None = None) -> None:
        """Record a span of work that has just ended and took `seconds`."""
        end = time.time_ns()
        self._tracer.start_span(name, attributes=attributes, start_time=end - round(1e9 * seconds)).end(end)

    def wrap(self, app: Application) -> Application:
        """Return an ASGI application that makes a span for each request on a traced path, inside the caller's trace."""
        from opentelemetry.trace import SpanKind, StatusCode

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] not in TRACED:
                return await app(scope, receive, send)
            carried = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _CONTEXT}
            name = f"{scope['method']} {scope['path']}"
            kind, above = SpanKind.SERVER, self._context.extract(carried)
            with self._tracer.start_as_current_span(name, context=above, kind=kind) as span:
                span.set_attribute("http.request.method", scope["method"])
                span.set_attribute("http.route", scope["path"])

                async def observed(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        span.set_attribute("http.response.status_code", message["status"])
                        if message["status"] >= 500:
                            span.set_status(StatusCode.ERROR)
                    await send(message)

                await app(scope, receive, observed)
            return None

        return traced

    def stop(self) -> None:
        """Send the spans that wait, and stop."""
        self._provider.shutdown()


def _endpoint(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"serve.traces: got {url!r}; expected the address of a collector, as http://localhost:4318")
    return url if parts.path.strip("/") else url.rstrip("/") + _ENDPOINT
