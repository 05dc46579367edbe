"""The processes of a server: they come up, are started again when they die, are replaced, and end with their parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

import everlearn as el
from everlearn.app.supervisor import Server
from everlearn.serve import snapshot
from everlearn.spec import Schema, ServeSpec, Spec

SPEC = Spec(
    schema=Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric", "b": "numeric"}),
    mode="live",
    serve=ServeSpec(port=0, workers=2),
)


def eventually(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    with Server(SPEC, tmp_path / "home") as running:
        yield running


def test_what_is_asked_and_told_is_learned_and_saved(tmp_path):
    home = tmp_path / "home"
    with Server(SPEC, home) as server, server.client() as client:
        for row in range(200):
            answer = client.predict({"a": row % 2, "b": 1.0})
            client.feedback(answer.id, label=row % 2)
        assert set(server.processes) == {"learner", "admin", "worker-0", "worker-1"}
    assert not snapshot.folder(home).joinpath("words").exists()  # nothing stays in memory
    with el.open(SPEC, home=home) as loop:
        assert loop.report()["examples"] == 200
        assert loop.predict({"a": 1.0, "b": 1.0}).proba[1] > 0.8


@pytest.mark.parametrize("name", ["worker-0", "admin", "learner"])
def test_what_dies_is_started_again_and_nothing_acknowledged_is_lost(server, name):
    with server.client() as client:
        first = client.predict({"a": 1.0, "b": 0.0})
        before = server.processes[name]
        os.kill(before, signal.SIGKILL)
        client.feedback(first.id, label=1)
        eventually(lambda: server.processes.get(name, before) != before)
        client.feedback(client.predict({"a": 0.0, "b": 0.0}).id, label=0)
        eventually(lambda: client.status()["examples"] == 2)


def test_workers_are_replaced_without_a_failed_request(server):
    failed: list[BaseException] = []
    over = threading.Event()

    def ask() -> None:
        with server.client() as client:
            while not over.is_set():
                try:
                    client.predict({"a": 1.0, "b": 0.0})
                except BaseException as error:
                    failed.append(error)
                    return

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for one in asking:
        one.start()
    before = server.processes
    server.renew()
    over.set()
    for one in asking:
        one.join()
    after = server.processes
    assert failed == []
    assert all(before[name] != after[name] for name in ("worker-0", "worker-1"))
    assert before["learner"] == after["learner"]


def test_the_processes_end_with_the_one_that_started_them(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
import msgspec
from everlearn.app.supervisor import Server
from everlearn.spec import Spec
spec = msgspec.json.decode({msgspec.json.encode(SPEC).decode()!r}, type=Spec)
server = Server(spec, Path({str(tmp_path / "home")!r}))
print(*server.processes.values(), flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 4
    parent.kill()
    parent.wait(60)
    parent.stdout.close()
    eventually(lambda: not any(is_running(pid) for pid in children), 60.0)


def test_a_port_that_is_taken_is_said_plainly(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = ServeSpec(port=other.getsockname()[1])
        spec = Spec(schema=SPEC.schema, serve=taken)
        with pytest.raises(el.errors.ConfigError, match=r"serve\.port.*cannot listen"):
            Server(spec, tmp_path / "home")


def test_beyond_localhost_only_with_a_token(tmp_path):
    spec = Spec(schema=SPEC.schema, serve=ServeSpec(host="0.0.0.0", port=0))
    with pytest.raises(el.errors.ConfigError, match="token"):
        Server(spec, tmp_path / "home")


def test_a_learner_that_cannot_start_is_an_error_not_a_wait(tmp_path):
    spec = Spec(schema=SPEC.schema, model={"family": "no_such_module:build"}, serve=ServeSpec(port=0))
    with pytest.raises(el.errors.EverlearnError, match="did not start"):
        Server(spec, tmp_path / "home")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
