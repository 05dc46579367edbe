"""A server whose log encrypts: handles in its answers, feedback that names them, and an erasure after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlearn.app.supervisor import Server
from everlearn.client import Client
from everlearn.errors import InputError, UnknownId
from everlearn.events import SqliteLog, log_of
from everlearn.loop.erase import erase
from everlearn.records import Encrypted, Erased, Label, Prediction
from everlearn.spec import LogSpec, ServeSpec
from tests.support.erasures import settings
from tests.support.servers import until

pytest.importorskip("cryptography", reason="needs everlearn[keys]")


def test_handles_of_answers_and_their_feedback(tmp_path: Path) -> None:
    chosen, home = settings(log=LogSpec(encrypt=True), serve=ServeSpec(port=0)), tmp_path / "home"
    row = {"a": 1.0, "b": 2.0, "c": "x"}
    with Server(chosen, home) as server, Client(server.url) as client:
        one = client.predict(row | {"user": "zoe-quux-4711"}, id="1")
        two, three, none = client.predict_many(
            [row | {"user": "zoe-quux-4711"}, row | {"user": "adam"}, row], ["2", "3", "4"]
        )
        assert one.handle == two.handle != three.handle
        assert one.handle
        assert three.handle
        assert none.handle == ""
        assert client.predict(row | {"user": "zoe-quux-4711"}, id="1").handle == one.handle
        assert client.feedback("1", label=1, handle=one.handle).accepted == 1
        assert client.feedback("1", label=1).known == 1  # the same feedback, with and without its handle
        rows = [Label("2", 0, handle=two.handle), Label("3", 1), Label("4", 1)]
        assert client.feedback_many(rows).accepted == 3
        with pytest.raises(UnknownId, match="got 'no-such-handle'; expected the handle of a key"):
            client.feedback("3", label=0, handle="no-such-handle")
        assert client.learn(row | {"user": "zoe-quux-4711"}, 1, id="5").accepted == 1
        with pytest.raises(InputError, match="names another record"):
            client.predict(row | {"user": "zoe-quux-4711", "a": 5.0}, id="1")
        until(lambda: client.status()["examples"] == 5)
    with SqliteLog(home / "log.sqlite") as below:
        events = [event.payload for event in below.read() if isinstance(event.payload, Prediction | Label | Encrypted)]
    plain = [payload for payload in events if not isinstance(payload, Encrypted)]
    assert {payload.id for payload in plain} == {"4"}  # it has no subject
    assert b"zoe-quux-4711" not in (home / "log.sqlite").read_bytes()
    assert len([payload for payload in events if isinstance(payload, Encrypted) and payload.handle == one.handle]) == 5
    assert erase(home, chosen, {"user": "zoe-quux-4711"}, "on request").detail["keys"] == [one.handle]
    log = log_of(home, chosen.log)
    assert sum(isinstance(event.payload, Erased) for event in log.read()) == 5
    log.close()


@pytest.mark.slow
def test_a_server_whose_log_does_not_encrypt_has_no_handles(tmp_path: Path) -> None:
    chosen = settings(serve=ServeSpec(port=0))
    with Server(chosen, tmp_path / "home") as server, Client(server.url) as client:
        assert client.predict({"a": 1.0, "user": "zoe"}, id="1").handle == ""
        with pytest.raises(InputError, match="handle: got one, and this loop's log does not encrypt"):
            client.feedback("1", label=1, handle="x")
