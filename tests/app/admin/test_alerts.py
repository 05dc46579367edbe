"""Alerts: each is told once it matters, none is lost, and the server is never sent where it should not go."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everlearn.app.admin import alerts, webhook
from everlearn.app.admin.alerts import Alerts
from everlearn.app.admin.queries import Archive
from everlearn.app.admin.webhook import Undelivered, Webhook, is_public
from everlearn.app.process import Setup
from everlearn.errors import ConfigError
from everlearn.events import connect
from everlearn.records import Decision
from everlearn.spec import Schema, ServeSpec, Spec


@dataclass
class Receiver:
    """A real HTTP server: takes alerts, or replies with the statuses of its script first."""

    port: int = 0
    script: list[int | str] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/hook/secret-path"

    @property
    def told(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(body) for _, body in self.got]


@contextlib.contextmanager
def receiving(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    made = Receiver()

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            turn = made.script.pop(0) if made.script else 204
            if turn == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(int(turn))
            self.send_header("location", "http://127.0.0.1:9/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that breaks off the handshake is part of the test."""

    server = Quiet(("127.0.0.1", 0), Take)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(alerts, "LOOK", 0.01)


class Home:
    """A loop's home as the desk sees it, and who decides things in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = connect(str(folder / "log.sqlite"))
        self.archive = Archive(folder)

    def decide(self, *actions: str, at: float | None = None) -> None:
        for action in actions:
            number = self.log.end()
            self.log.append([Decision(action, number, f"because of {action}", "gate", version=f"v{number}")], time=at)

    def alerts(self, url: str, staleness: Callable[[], float | None] = lambda: 0.0, **more: Any) -> Alerts:
        schema = Schema(label="price", task="regression", fields={"x": "numeric"})
        spec = Spec(schema=schema, serve=ServeSpec(webhook=url, private=True, staleness=5.0))
        setup = Setup(spec=spec, home=str(self.folder), serving=str(self.folder))
        return Alerts(setup, self.archive, staleness, pause=0.01, **more)


@pytest.fixture
def home(tmp_path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.archive.close()
    made.log.close()


def watch(watching: Alerts, until: Callable[[], bool], after: float = 0.0) -> None:
    """Let it watch until something is so, and `after` seconds longer."""

    async def run() -> None:
        task = asyncio.create_task(watching.watch())
        deadline = time.monotonic() + 10
        while not until() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        await asyncio.sleep(after)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert until()


# ---- what is told -----------------------------------------------------------------------------------------------


def test_what_matters_is_told_in_order_with_the_head_of_the_chain(home, receiver):
    watching = home.alerts(receiver.url())
    home.decide("start", "drift", "challenger", "reject", "promote", "config", "rollback")
    watch(watching, lambda: len(receiver.got) == 4, after=0.05)
    assert [one["alert"] for one in receiver.told] == ["drift", "rejection", "promotion", "rollback"]
    drift = receiver.told[0]
    assert drift["text"] == "Everlearn, price: drift (version v1): because of drift"
    assert drift["decision"]["reason"] == "because of drift"
    assert drift["decision"]["seal"]
    assert {one["head"] for one in receiver.told} == {home.log.verify().head}
    assert abs(drift["sent"] - time.time()) < 60


def test_what_was_before_is_not_told(home, receiver):
    home.decide("drift", "promote")
    watching = home.alerts(receiver.url())
    home.decide("rollback")
    watch(watching, lambda: len(receiver.got) == 1, after=0.05)
    assert [one["alert"] for one in receiver.told] == ["rollback"]


def test_staleness_is_told_once_broken_and_once_healed(home, receiver):
    watching = home.alerts(receiver.url())
    for now, seconds in enumerate([1, None, 5, 6, 9, 4, 6, 7, 1, 1, 1, 1, 1, 1, 1, 1]):
        watching.notice(seconds, float(now))
    watch(watching, lambda: len(receiver.got) == 2, after=0.05)
    assert [one["staleness"]["state"] for one in receiver.told] == ["broken", "healed"]
    assert receiver.told[0]["staleness"] | {"time": 0} == {"state": "broken", "seconds": 6.0, "bound": 5.0, "time": 0}
    assert "the bound is 5 s" in receiver.told[0]["text"]


def test_the_staleness_is_looked_at_while_a_receiver_is_away(home, receiver):
    stale = [9.0]
    receiver.script = [503] * 3
    watch(home.alerts(receiver.url(), lambda: stale[0]), lambda: len(receiver.got) == 4)
    again = home.alerts(receiver.url(), lambda: stale[0])
    watch(again, lambda: True, after=0.1)  # a new process knows that this was told
    assert len({one["id"] for one in receiver.told}) == 1


# ---- none is lost -----------------------------------------------------------------------------------------------


def test_a_receiver_that_fails_first_gets_the_same_alert_again(home, receiver, caplog):
    receiver.script = [500, "drop", 429, 503]
    watching = home.alerts(receiver.url())
    home.decide("drift", "promote")
    with caplog.at_level(logging.INFO, logger="everlearn.alerts"):
        watch(watching, lambda: len(receiver.got) == 6, after=0.05)
    assert [one["alert"] for one in receiver.told] == ["drift"] * 5 + ["promotion"]
    assert len({one["id"] for one in receiver.told}) == 2
    assert "secret-path" not in caplog.text  # the path of a webhook is often its password
    assert [record.getMessage() for record in caplog.records] == ["alert not delivered"] * 4 + ["alert sent"] * 2


def test_alerts_survive_a_restart(home, receiver):
    watching = home.alerts(receiver.url())
    home.decide("drift", "promote")
    receiver.script = [204, *[500] * 1000]
    watch(watching, lambda: len(receiver.got) >= 3)  # one was taken; the process ends while the other is refused
    receiver.script, before = [], len(receiver.got)
    watch(home.alerts(receiver.url()), lambda: len(receiver.got) == before + 1, after=0.05)
    assert [one["alert"] for one in receiver.told[-2:]] == ["promotion", "promotion"]
    home.decide("rollback")
    watch(home.alerts(receiver.url()), lambda: len(receiver.got) == before + 2, after=0.05)
    assert receiver.told[-1]["alert"] == "rollback"


def test_a_crash_between_sending_and_noting_sends_again(home, receiver):
    watching = home.alerts(receiver.url())
    before = (home.folder / "alerts.json").read_bytes()
    home.decide("drift")
    watch(watching, lambda: len(receiver.got) == 1, after=0.05)
    (home.folder / "alerts.json").write_bytes(before)
    watch(home.alerts(receiver.url()), lambda: len(receiver.got) == 2)
    assert len({one["id"] for one in receiver.told}) == 1


def test_what_the_receiver_says_is_wrong_does_not_hold_up_the_rest(home, receiver, caplog):
    receiver.script = [400] * 5
    watching = home.alerts(receiver.url())
    home.decide("drift", "promote")
    watch(watching, lambda: len(receiver.got) == 6, after=0.05)
    assert [one["alert"] for one in receiver.told] == ["drift"] * 5 + ["promotion"]
    assert "it is not sent again" in caplog.text


def test_what_is_a_day_old_is_only_counted(home, receiver):
    watching = home.alerts(receiver.url())
    home.decide("drift", "drift", "start", at=time.time() - 90_000)
    home.decide("promote", "rollback")
    watch(watching, lambda: len(receiver.got) == 2, after=0.05)
    assert [one.get("missed", 0) for one in receiver.told] == [2, 0]


def test_the_queue_is_bounded(home, receiver, monkeypatch):
    monkeypatch.setattr(alerts, "_WAITING", 4)
    watching = home.alerts(receiver.url())
    for now in range(0, 200, 10):
        watching.notice(9.0 if now % 20 == 0 else 1.0, float(now))
        watching.notice(9.0 if now % 20 == 0 else 1.0, now + 5.0)
    watch(watching, lambda: len(receiver.got) == 4, after=0.05)
    assert receiver.told[0]["missed"] == 16
    assert [one["staleness"]["state"] for one in receiver.told] == ["broken", "healed"] * 2


def test_a_damaged_cursor_begins_anew(home, receiver, caplog):
    (home.folder / "alerts.json").write_text("{")
    home.decide("drift")
    watching = home.alerts(receiver.url())
    home.decide("promote")
    watch(watching, lambda: len(receiver.got) == 1, after=0.05)
    assert receiver.told[0]["alert"] == "promotion"
    assert "begin anew" in caplog.text


def test_what_is_sent_is_signed(home, receiver):
    watching = home.alerts(receiver.url(), secret="between us")
    home.decide("drift")
    watch(watching, lambda: len(receiver.got) == 1)
    headers, body = receiver.got[0]
    done = subprocess.run(["openssl", "dgst", "-sha256", "-hmac", "between us"], input=body, capture_output=True)
    assert headers["x-everlearn-signature"] == "sha256=" + done.stdout.decode().split()[-1]
    assert headers["content-type"] == "application/json"


# ---- where it may go --------------------------------------------------------------------------------------------

INSIDE = [
    *("127.0.0.1", "127.8.9.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
    *("100.100.100.200", "168.63.129.16", "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "240.0.0.1"),
    *("::", "::1", "fe80::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::a9fe:a9fe", "2002:7f00:1::", "::7f00:1", "2001:0:0:0:0:0:80ff:fffe"),
]
OUTSIDE = ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside(address):
    assert not is_public(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ConfigError, match="set private = true"):
        Webhook(f"https://{host}/hook")


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_outside(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url", ["", "example.com/x", "ftp://example.com", "file:///etc/passwd", "http://", "http://a\nb"]
)
def test_what_is_no_address(url):
    with pytest.raises(ConfigError, match="serve.webhook"):
        Webhook(url)


def post(hook: Webhook) -> None:
    asyncio.run(hook.post(b"{}"))


def resolving(monkeypatch, *answers: list[str]) -> list[str]:
    """Names resolve to each of these lists in turn; returns the names that were asked for, as they come."""
    asked: list[str] = []
    turns = iter(answers)

    def resolve(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        if host in ("127.0.0.1", "127.0.0.2"):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in next(turns)]

    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, *_, **__: resolve(host, port))
    return asked


@pytest.mark.parametrize("name", ["localhost", "2130706433", "0x7f.1", "127.1"])
def test_a_name_that_leads_inside_is_refused(receiver, name):
    with pytest.raises(Undelivered, match="not a public address"):
        post(Webhook(receiver.url(name)))
    assert receiver.got == []


def test_one_address_inside_is_enough_to_refuse(receiver, monkeypatch):
    resolving(monkeypatch, ["93.184.216.34", "127.0.0.1"])
    with pytest.raises(Undelivered, match="hook.example is at 127.0.0.1"):
        post(Webhook(receiver.url("hook.example")))
    assert receiver.got == []


def test_a_name_that_changes_its_address_leads_nowhere_else(receiver, monkeypatch):
    """It is resolved once, and the connection goes to what was checked."""
    monkeypatch.setattr(webhook, "is_public", lambda address: str(address) == "127.0.0.1")
    asked = resolving(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    hook = Webhook(receiver.url("hook.example"))
    post(hook)
    assert asked == ["hook.example"]
    assert receiver.got[0][0]["host"] == f"hook.example:{receiver.port}"
    with pytest.raises(Undelivered, match="127.0.0.2"):
        post(hook)


def test_the_next_address_is_tried_when_one_is_silent(receiver, monkeypatch):
    resolving(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    post(Webhook(receiver.url("hook.example"), private=True))
    assert len(receiver.got) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(receiver, status):
    receiver.script = [status]
    with pytest.raises(Undelivered, match=f"answered {status}"):
        post(Webhook(receiver.url(), private=True))


def test_proxies_of_the_environment_are_not_used(receiver, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    post(Webhook(receiver.url(), private=True))
    assert len(receiver.got) == 1


def test_a_receiver_that_never_answers_is_left(monkeypatch):
    monkeypatch.setattr(webhook, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Undelivered, match=r"did not answer"):
        post(Webhook(f"http://127.0.0.1:{silent.getsockname()[1]}/", private=True))


@pytest.mark.parametrize("name", ["hook.example", "other.example"])
def test_the_certificate_is_that_of_the_name(tmp_path, monkeypatch, name):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    make += ["-subj", "/CN=hook.example", "-addext", "subjectAltName=DNS:hook.example"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trusted = ssl.create_default_context(cafile=str(certificate))
    resolving(monkeypatch, ["127.0.0.1"])
    with receiving(context) as receiver:
        hook = Webhook(f"https://{name}:{receiver.port}/hook", private=True, trusted=trusted)
        if name == "hook.example":
            post(hook)
        else:
            with pytest.raises(Undelivered, match="certificate"):
                post(hook)
        assert len(receiver.got) == (name == "hook.example")
