"""A webhook posts to its own address only: never into the private network, and never after a redirect."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import socket
import ssl
import subprocess
from typing import Any

import pytest

from everlearn.app.admin import webhook
from everlearn.app.admin.webhook import Undelivered, Webhook, is_public
from everlearn.errors import ConfigError
from tests.support.receivers import receiver, receiving

__all__ = ["receiver"]


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
def test_an_invalid_url(url):
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
        pytest.skip("needs openssl")
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
