"""Places of a loop on a Ray cluster: an actor for each server, which Ray starts, and which no request passes.

A `PlaceActor` starts the ordinary server of a place as a process of its node, and passes on what that process reports.
`ray_placer` has the actor that starts and replaces these.

Ray takes a node for dead only after a quarter of a minute, and the processes of a node whose raylet died live on. So
an actor watches its raylet and ends its server without it, and the epoch of the log refuses the rest.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from everlearn.client.place_records import PlaceEntry
from everlearn.errors import ConfigError
from everlearn.scale.place_messages import PlaceOrder, PlacesPlan
from everlearn.scale.placement import LEARNER, PlaceNode, gpus_of

try:
    ray: Any = importlib.import_module("ray")
except ImportError as missing:
    raise ConfigError("serving on Ray needs Ray; pip install 'everlearn[ray]'") from missing

log = logging.getLogger("everlearn.places")

WATCH = 0.5  # seconds between two looks of an actor at its raylet
GRACE = 45.0  # seconds that the server of a place has to end
HEAD = "node:__internal_head__"  # the resource that Ray gives the head of a cluster
_LINES = 20  # of a server's log, kept to explain its end
_THREADS = 4  # of an actor: it reports while it stops


class ActorReport(NamedTuple):
    """What an actor knows: the newest `PlaceBeat` as JSON and its age in seconds, and why its server is lost."""

    beat: bytes
    age: float
    lost: str


class PlaceActor:
    """The actor of one place: it starts the server's process, and ends it when its raylet is gone."""

    def __init__(self, order: bytes, release: str) -> None:
        from everlearn import __version__

        if release != __version__:
            raise ConfigError(f"this node has Everlearn {__version__}, the others have {release}; install the same")
        take_full_priority()
        self._raylet = os.getppid()
        self._beat, self._updated, self._lost = b"", time.monotonic(), ""
        self._newest: deque[str] = deque(maxlen=_LINES)  # lines of the server's log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "everlearn.app.place"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(order + b"\n")
        self._process.stdin.flush()
        for work in (self._listen, self._pass_on, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def report(self) -> ActorReport:
        """Return the newest beat; without one yet, the report itself is a sign of life."""
        return ActorReport(self._beat, time.monotonic() - self._updated if self._beat else 0.0, self._lost)

    def stop(self) -> None:
        """End the server in order, then this actor: it answers what it has accepted, and its learner saves."""
        self._lost = self._lost or "it was stopped"
        self._abandon()
        ray.actor.exit_actor()

    def processes(self) -> tuple[int, int]:
        """Return the ids of this process, and of the server's."""
        return os.getpid(), self._process.pid

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._beat, self._updated = line, time.monotonic()
        status = self._process.wait()
        self._lost = self._lost or f"its server ended with status {status}: {' '.join(self._newest)[-1000:]}"

    def _pass_on(self) -> None:
        """Pass the server's log on to that of the actor, which Ray keeps."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode("utf-8", "replace")
            self._newest.append(text.rstrip())
            sys.stderr.write(text)
            sys.stderr.flush()

    def _watch(self) -> None:
        """End the server, then this process, once the raylet that started it is gone."""
        while os.getppid() == self._raylet:
            time.sleep(WATCH)
        self._lost = "the raylet of its node is gone"
        self._abandon()
        os._exit(1)

    def _abandon(self) -> None:
        """Close the standard input of the server, at which it ends; kill it if it does not."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            for process in session_of(self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def take_full_priority() -> None:
    """Run this process, and those that it starts, at the priority of other programs.

    Ray gives its workers the lowest but a few (`nice` 15), at which a busy machine starves a server. Without the right
    to change that, say how the cluster should be started.
    """
    try:
        for task in Path("/proc/self/task").iterdir():
            if os.getpriority(os.PRIO_PROCESS, int(task.name)) > 0:
                os.setpriority(os.PRIO_PROCESS, int(task.name), 0)
    except PermissionError:
        log.warning("the servers run at a low priority; start the nodes of the cluster with RAY_worker_niceness=0")
    except OSError:
        pass  # a thread that has ended, or another system than Linux


def session_of(leader: int) -> list[int]:
    """Return the ids of the processes in the session that a process began."""
    found = list[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                found.append(int(folder.name))
    return found


def connect(address: str, namespace: str, logs: bool = True) -> None:
    """Connect this process to a cluster: `ray://HOST:PORT`, or "ray" and "ray://" for the one that runs here.

    "ray" without a cluster starts one on this machine, which ends with this process. With `logs`, what places log is
    shown here. Raises `ConfigError` for another address, and for a cluster that cannot be reached.
    """
    scheme, _, rest = address.partition("://")
    if scheme != "ray" or (rest and not rest.rpartition(":")[2].isdigit()):
        raise ConfigError(
            f"--on: got {address!r}; expected ray, or ray://HOST:PORT with the port of Ray's client, 10001"
        )
    try:
        ray.init(address=address if rest else None, namespace=namespace, log_to_driver=logs, logging_level="warning")
    except (ConnectionError, ImportError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--on: cannot reach a Ray cluster at {address!r}: {error}; start it, see `ray start`"
        ) from error


def namespace_of(plan: PlacesPlan) -> str:
    """Return the namespace of a loop's actors: two loops of one name have snapshots in two places."""
    place = hashlib.sha256(plan.spec.log.blobs.encode()).hexdigest()[:8]
    return f"everlearn-{plan.loop}-{place}"


def living_nodes() -> list[PlaceNode]:
    """Return the nodes that the cluster takes for alive."""
    return [
        PlaceNode(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            cpus=float(node["Resources"].get("CPU", 0.0)),
            gpus=float(node["Resources"].get("GPU", 0.0)),
            head=HEAD in node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def start_place(plan: PlacesPlan, entry: PlaceEntry) -> Any:
    """Create the actor of a place on its node, and return its handle.

    Where the model is on CUDA the actor has one GPU, which Ray sets aside and shows to its processes: the learner, the
    workers, and the generator of a loop that learns preferences. The actor outlives the one that created it, and Ray
    does not start it again: a place that comes back would not know that it was replaced.
    """
    from everlearn import __version__

    strategies = importlib.import_module("ray.util.scheduling_strategies")
    order = PlaceOrder(
        spec=plan.spec,
        loop=plan.loop,
        name=entry.name,
        number=entry.number,
        node=entry.node,
        follows=entry.name != LEARNER,
        evicts=entry.name == LEARNER and entry.number > 1,
        certificate=plan.certificate,
        key=plan.key,
        logs=plan.logs,
    )
    options = {
        "name": actor_name(entry),
        "lifetime": "detached",
        "max_restarts": 0,
        "max_concurrency": _THREADS,
        "num_cpus": 1,
        "num_gpus": gpus_of(plan.spec.model),
        "scheduling_strategy": strategies.NodeAffinitySchedulingStrategy(entry.node_id, soft=False),
    }
    return ray.remote(PlaceActor).options(**options).remote(msgspec.json.encode(order), __version__)


def find_place(entry: PlaceEntry) -> Any:
    """Return the handle of the actor of a place; None if the cluster does not know it."""
    with suppress(ValueError):
        return ray.get_actor(actor_name(entry))
    return None


def actor_name(entry: PlaceEntry) -> str:
    """Return the name of a place's actor in the namespace of its loop."""
    return f"place-{entry.number}-{entry.name}"
