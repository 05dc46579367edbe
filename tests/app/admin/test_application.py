"""The admin application: endpoints of routes, access, and the process itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import msgspec
import pytest

from everlearn.app.admin.application import endpoint
from everlearn.app.auth import tokens
from everlearn.app.process import READY
from everlearn.app.routes import ROUTES
from everlearn.spec import ServeSpec
from tests.support.admin import JSON, Admin, admin, learning, until


def test_every_handler_serves_the_route_that_its_docstring_names():
    served: dict[str, set[str]] = {}
    for route in ROUTES:
        if route.endpoint and not route.generated:
            served.setdefault(route.endpoint, set()).add(f"{route.method} {route.template}")
            assert f"{route.method} {route.template}" in (endpoint(route).__doc__ or "").replace(" and ", " ")
    assert served["views.page"] == {"GET /", "GET /docs", "GET /label"}


@pytest.fixture
def guarded(own) -> Iterator[tuple[Admin, dict[str, str]]]:
    secrets = {scope: tokens.create(own.tokens, f"my-{scope}", [scope]) for scope in ("predict", "read", "admin")}
    with learning(own), admin(own) as opened:
        yield opened, secrets


def test_every_route_asks_for_its_scope(guarded):
    opened, secrets = guarded
    for route in (one for one in ROUTES if one.endpoint and not one.generated):
        path = route.path.replace("{id:path}", "p0").replace("{id}", "zzz").replace("{version}", "zzz")
        path = path.replace("{a}", "zzz").replace("{b}", "zzz").replace("{name}", "docs.js")

        def ask(secret: str = "", method: str = route.method, path: str = path) -> int:
            headers = JSON | ({"authorization": f"Bearer {secret}"} if secret else {})
            return opened.client.request(method, path, content=b"{}", headers=headers).status_code

        if route.scope is None:
            assert ask() in (200, 204, 401, 422) or (path == "/label" and ask() == 404), path
            continue
        assert ask() == ask("el_x_00") == 401, path
        assert ask(secrets["predict"]) == 403, path
        assert ask(secrets["admin"]) in (200, 404, 422), path
        assert (ask(secrets["read"]) == 403) == (route.scope == "admin"), path
    assert opened.client.get("/versions", headers={"host": "evil.example"}).status_code == 421


def test_a_page_logs_in_and_sends_a_command(guarded):
    opened, secrets = guarded
    assert opened.get("/session").status_code == 401
    assert opened.send("POST", "/session", token="el_my_00").status_code == 401
    logged_in = opened.send("POST", "/session", token=secrets["admin"])
    assert logged_in.status_code == 200
    assert "HttpOnly; SameSite=Strict" in logged_in.headers["set-cookie"]
    cookie, csrf = logged_in.headers["set-cookie"].partition(";")[0], logged_in.json()["csrf"]
    opened.client.cookies.clear()
    assert opened.get("/session", cookie=cookie).json()["csrf"] == csrf
    assert opened.get("/versions", cookie=cookie).status_code == 200
    first = opened.get("/versions", cookie=cookie).json()["versions"][0]["id"]
    body = msgspec.json.encode({"reason": "from the page", "to": first})
    headers = JSON | {"cookie": cookie}
    assert opened.client.post("/rollback", content=body, headers=headers).status_code == 403
    done = opened.client.post("/rollback", content=body, headers=headers | {"x-csrf-token": csrf})
    assert done.status_code == 200, done.text
    assert done.json()["decision"]["detail"]["token"] == "my-admin"
    assert opened.client.delete("/session", headers=headers).status_code == 204
    assert opened.get("/session", cookie=cookie).status_code == 401


def test_alerts_are_sent_by_the_admin_process(own):
    received: list[dict[str, object]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(msgspec.json.decode(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.01,))
        thread.start()
        serve = ServeSpec(webhook=f"http://127.0.0.1:{receiver.server_port}/hook", private=True)
        own = msgspec.structs.replace(own, spec=msgspec.structs.replace(own.spec, serve=serve))
        try:
            with learning(own), admin(own) as opened:
                first = opened.get("/versions").json()["versions"][0]["id"]
                assert opened.send("POST", "/rollback", reason="an alert is due", to=first).status_code == 200
                until(lambda: any("an alert is due" in str(one) for one in received))
        finally:
            receiver.shutdown()
            thread.join()


def test_a_webhook_that_must_not_be_called_keeps_the_process_from_starting(own):
    spec = msgspec.structs.replace(own.spec, serve=ServeSpec(webhook="ftp://example.com/"))
    done = subprocess.run(
        [sys.executable, "-m", "everlearn.app.admin"],
        env={**os.environ, **msgspec.structs.replace(own, spec=spec).environment()},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    assert "the admin process cannot start" in done.stderr


@pytest.mark.parametrize("ending", ["signal", "abandoned"])
def test_the_process_answers_and_ends_as_it_should(setup, ending):
    child = subprocess.Popen(
        [sys.executable, "-m", "everlearn.app.admin"],
        env={**os.environ, **setup.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline().strip() == READY
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(setup.admin)), base_url="http://localhost") as client:
            assert client.get("/versions").status_code == 200
            assert setup.admin.stat().st_mode & 0o777 == 0o600
            if ending == "signal":
                child.send_signal(signal.SIGTERM)
            else:
                child.stdin.close()
            assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait(60)
        child.stdin.close()
        child.stdout.close()
