"""Ray clusters of several nodes on this machine, whose nodes tests kill, and clients that go from place to place."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np

from everlearn.client import Client, RequestRefused, Unreachable
from everlearn.client.place_records import PlaceEntry, PlaceList
from everlearn.errors import EverlearnError
from everlearn.scale import objects
from everlearn.scale.place_messages import PLACES

_STARTS = 180.0  # seconds that a node has to start on a busy machine
BUCKET = "everlearn-places"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def descendants(parent: int) -> list[int]:
    """Return the ids of all processes below a process, in any session."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            above = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(above, []).append(int(folder.name))
    found, open_ = list[int](), [parent]
    while open_:
        below = children.get(open_.pop(), [])
        found += below
        open_ += below
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class RayNode:
    """One `ray start --block`, and what it started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    @property
    def processes(self) -> list[int]:
        """All processes of the node: those of Ray, of its actors, and of the servers that they started."""
        return [self.process.pid, *descendants(self.process.pid)]

    @property
    def raylet(self) -> int:
        found = [pid for pid in descendants(self.process.pid) if "raylet/raylet " in command_of(pid)]
        assert found, self.log.read_text()
        return found[0]

    def lose(self) -> None:
        """Kill everything at once, as a loss of the machine would."""
        kill(self.processes)
        self.process.wait()


class RayCluster:
    """A head and some nodes, in processes of their own; nothing of it is left at the end."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets are below it
        self.environment = {
            **os.environ,
            **environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "TMPDIR": str(self.folder),
        }
        self.port, self.client_port = free_port(), free_port()
        self.environment["RAY_ADDRESS"] = f"127.0.0.1:{self.port}"
        self.nodes: list[RayNode] = []
        self._seen: set[int] = set()

    def start_head(self, cpus: int = 4, gpus: int = 0, redis: str = "") -> RayNode:
        """Start the head; with `redis`, it keeps its state there."""
        more = {"RAY_REDIS_ADDRESS": redis, "RAY_external_storage_namespace": "everlearn-test"} if redis else {}
        options = ["--head", f"--port={self.port}", f"--ray-client-server-port={self.client_port}"]
        # Raylets of other nodes on this machine have the address of a head that died: Ray takes it for one that runs.
        (self.folder / "r" / "ray_current_cluster").unlink(missing_ok=True)
        options += ["--include-dashboard=false", f"--temp-dir={self.folder / 'r'}"]
        return self._start("head", options, cpus, gpus, more)

    def start_node(self, cpus: int = 4, gpus: int = 0) -> RayNode:
        """Start a further node, and wait until it has joined."""
        return self._start(f"node-{len(self.nodes)}", [f"--address=127.0.0.1:{self.port}"], cpus, gpus, {})

    def _start(self, name: str, options: list[str], cpus: int, gpus: int, more: Mapping[str, str]) -> RayNode:
        log = self.folder / f"{name}-{len(self.nodes)}.txt"
        limits = [f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--object-store-memory=80000000"]
        program = [str(Path(sys.executable).with_name("ray")), "start", *options, *limits]
        command = [*program, "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--block"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=self.environment | more, stdout=output, stderr=output, start_new_session=True
            )
        node = RayNode(process, log)
        self.nodes.append(node)
        end = time.monotonic() + _STARTS
        while "Ray runtime started" not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        return node

    def logs(self) -> str:
        """Return what all actors, and the servers they started, have logged."""
        files = sorted(self.folder.glob("r/session_2*/logs/worker-*.err"))
        return "\n".join(file.read_text(errors="replace") for file in files)

    def note(self) -> None:
        """Remember all processes of the cluster, so that none is left at the end."""
        self._seen.update(pid for node in self.nodes for pid in node.processes)

    def stop(self) -> None:
        """Kill whatever is left of the cluster."""
        self.note()
        mine = f"TMPDIR={self.folder}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mine in (folder / "environ").read_bytes().split(b"\0"):
                    self._seen.add(int(folder.name))
        kill(sorted(self._seen))
        for node in self.nodes:
            node.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def python(self, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run Python code in the environment of the cluster."""
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=400)

    def everlearn(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command of Everlearn in the environment of the cluster."""
        command = [sys.executable, "-m", "everlearn", *arguments]
        return subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=400)


@contextmanager
def object_server() -> Iterator[dict[str, str]]:
    """Run an S3 server in a process of its own; yields the environment in which clients find it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + _STARTS
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT"))
                break
            except OSError:
                assert time.monotonic() < end, "the S3 server does not start"
                time.sleep(0.1)
        secret = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test")
        yield {"AWS_ENDPOINT": endpoint, "AWS_REGION": "us-east-1", **secret}
    finally:
        process.kill()
        process.wait()


def listed(place: str) -> PlaceList:
    """Return the list of places below a URL of an object store."""
    found = objects.shared(place).get(PLACES)
    return msgspec.json.decode(found[0], type=PlaceList) if found else PlaceList()


class RoamingClient:
    """A client that asks the places in turn, as a load balancer does, and remembers what was acknowledged."""

    def __init__(self, place: str, seed: int) -> None:
        self.acknowledged: set[str] = set()
        self.labelled: dict[str, int] = {}
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.moments: list[tuple[float, str, bool]] = []  # of each request: when it ended, the place, if it succeeded
        self._place, self._draw, self._seed, self._number = place, np.random.default_rng(seed), seed, 0
        self._stop = threading.Event()
        self._clients: dict[str, Client] = {}
        self._entries: list[PlaceEntry] = []
        self._look = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RoamingClient:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for client in self._clients.values():
            client.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._number += 1
            a, b = self._draw.normal(size=2).tolist()
            self._row(f"c{self._seed}-{self._number}", {"a": a, "b": b}, int(a > 0))
            time.sleep(0.15)  # few enough for a learner that shares two cores with four nodes

    def _row(self, id: str, features: dict[str, float], label: int) -> None:
        if self._ask(lambda client: client.predict(features, id=id)):
            self.acknowledged.add(id)
            if self._ask(lambda client: client.feedback(id, label=label)):
                self.labelled[id] = label

    def _ask(self, call: object) -> bool:
        """Ask places one after the other until one answers, or none is left."""
        assert callable(call)
        for entry in self._present():
            client = self._clients.setdefault(entry.url, Client(entry.url, retries=0, timeout=5.0))
            try:
                call(client)
            except (Unreachable, RequestRefused, EverlearnError) as error:
                self.errors[f"{type(error).__name__}: {error}"[:200]] += 1
                self.failed[f"{entry.name} {entry.number}"] += 1
                self.moments.append((time.monotonic(), entry.url, False))
                continue
            self.answered[f"{entry.name} {entry.number}"] += 1
            self.moments.append((time.monotonic(), entry.url, True))
            return True
        return False

    def _present(self) -> list[PlaceEntry]:
        """Return the places that answer, in random order; the list is read each half second."""
        if time.monotonic() > self._look:
            self._look = time.monotonic() + 0.5
            self._entries = [entry for entry in listed(self._place).places if entry.state == "answers"]
        return [self._entries[int(one)] for one in self._draw.permutation(len(self._entries))]

    def __repr__(self) -> str:
        return f"{len(self.acknowledged)} predicted, {len(self.labelled)} labelled, failed {self.failed} {self.errors}"

    def longest_silence(self, since: float) -> float:
        """Return the longest time without any answer, from a moment on."""
        good = [since, *(moment for moment, _, succeeded in self.moments if succeeded and moment > since)]
        return float(np.max(np.diff(good))) if len(good) > 1 else float("inf")
