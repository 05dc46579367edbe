"""A loop on a real Ray cluster, whose nodes are killed under load. See `tests/support/ray_clusters.py`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn.app.process import VARIABLE, Setup
from everlearn.client.place_records import PlaceEntry
from everlearn.events import connect, scan
from everlearn.loop.loop import Loop
from everlearn.records import Label, Prediction
from everlearn.spec import Schema, Spec
from tests.support.postgres import Server as Database
from tests.support.ray_clusters import (
    BUCKET,
    RayCluster,
    RayNode,
    RoamingClient,
    command_of,
    descendants,
    free_port,
    kill,
    listed,
    object_server,
)
from tests.support.servers import alive
from tests.support.servers import until as until_within

pytest.importorskip("ray", reason="needs everlearn[ray]")
pytestmark = pytest.mark.slow

SETTINGS = """
home = "{loop}"
checkpoint = 200

[schema]
label = "y"
task = "binary"
classes = [0, 1]

[schema.fields]
a = "numeric"
b = "numeric"

[model]
family = "linear"

[log]
url = "{url}?loop={loop}"
blobs = "s3://{bucket}/{loop}"

[serve]
port = {port}
"""

GPU_ACTOR = r"""
import pathlib
import ray
from everlearn.client.place_records import PlaceEntry
from everlearn.scale.place_messages import PlacesPlan
from everlearn.scale.placement import Need, decide
from everlearn.scale.ray_places import connect, living_nodes, start_place
from everlearn.spec import LogSpec, Schema, Spec

spec = Spec(
    schema=Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric"}),
    model={"family": "neural", "network": "absent:build", "device": "cuda"},
    log=LogSpec(url="postgresql://127.0.0.1:1/d", blobs="s3://everlearn-places/gpu"),
)
plan = PlacesPlan(spec=spec, loop="gpu", least=0, most=0)
connect("ray", "gpu", logs=False)
nodes = living_nodes()
(start,) = decide([], nodes, Need(0, gpus=1.0))
actor = start_place(plan, PlaceEntry(name="learner", number=1, role="learner", node="", node_id=start.node.id))
_, server = ray.get(actor.processes.remote())
environment = pathlib.Path(f"/proc/{server}/environ").read_text().split("\0")
shown = next(one.partition("=")[2] for one in environment if one.startswith("CUDA_VISIBLE_DEVICES="))
print(start.node.id, next(node.id for node in nodes if node.gpus), shown)
"""


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    pytest.importorskip("moto.server", reason="needs moto")
    with object_server() as environment:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        yield environment
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile what the loop needs beforehand, as an image of a node does: it would take a minute after a kill."""
    schema = Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric", "b": "numeric"})
    draw, home = np.random.default_rng(0), tmp_path_factory.mktemp("kernels") / "loop"
    for _ in range(2):
        with Loop(Spec(schema=schema, model={"family": "linear"}, checkpoint=50), home) as loop:
            for a, b in draw.normal(size=(1000, 2)).tolist():
                loop.feedback(loop.predict({"a": a, "b": b}).id, int(a > 0))
            loop.status()


@pytest.fixture
def cluster(store: dict[str, str], kernels: None) -> Iterator[RayCluster]:
    made = RayCluster(store)
    yield made
    made.stop()


class PlacedLoop:
    """A loop on a cluster, and what its log holds."""

    def __init__(self, cluster: RayCluster, database: Database, folder: Path, name: str, task: str = "") -> None:
        self.cluster, self.folder = cluster, folder
        self.url = f"{database.url}?loop={name}"
        self.place = f"s3://{BUCKET}/{name}/{name}/serving"
        text = SETTINGS.format(loop=name, url=database.url, bucket=BUCKET, port=free_port())
        (folder / "everlearn.toml").write_text(text)

    def serve(self, *options: str, on: str = "ray") -> None:
        done = self.cluster.everlearn("serve", "--on", on, "--detach", *options, cwd=self.folder)
        assert done.returncode == 0, done.stderr + self.cluster.logs()
        self.cluster.note()

    def entries(self) -> dict[str, PlaceEntry]:
        return {entry.name: entry for entry in listed(self.place).places}

    def stop(self) -> None:
        done = self.cluster.everlearn("places", "--stop", "--json", cwd=self.folder)
        assert done.returncode == 0, done.stderr + self.cluster.logs()
        assert json.loads(done.stdout)["places"] == []

    def check(self, *clients: RoamingClient) -> int:
        """Check that each acknowledged event is in the log once; return the number of its events."""
        with connect(self.url, tidy=False) as log:
            payloads = [event.payload for event in scan(log)]
        predictions = [one.id for one in payloads if isinstance(one, Prediction)]
        labels = {one.id: one.value for one in payloads if isinstance(one, Label)}
        assert len(predictions) == len(set(predictions))
        for client in clients:
            assert client.acknowledged <= set(predictions)
            assert {id: labels.get(id) for id in client.labelled} == client.labelled
        return len(payloads)


@pytest.fixture
def loop(cluster: RayCluster, server: Database, tmp_path: Path, request: pytest.FixtureRequest) -> PlacedLoop:
    return PlacedLoop(cluster, server, tmp_path, f"loop-{request.node.name[5:40].replace('_', '-').strip('-')}")


def until(true: Callable[[], Any], why: str) -> None:
    """Wait until a condition is true; a busy machine takes its time to start the processes of a node."""
    until_within(true, why, patience=300.0)


def node_of(cluster: RayCluster, entry: PlaceEntry) -> RayNode:
    """Return the node on which a place is: the one below which its server listens."""
    named = f"everlearn-places-{os.getuid()}/{entry.name}-{entry.number}-"
    for node in cluster.nodes:
        for pid in node.processes:
            if "everlearn.app." in command_of(pid) and named in Path(f"/proc/{pid}/environ").read_text():
                return node
    raise AssertionError(f"{entry.name} is on no node")


def tree_of(node: RayNode, module: str) -> list[int]:
    return [pid for pid in descendants(node.raylet) if f"everlearn.app.{module}" in command_of(pid)]


def status_of(learner: int) -> Path:
    """Return the file to which a learner writes its status."""
    variables = Path(f"/proc/{learner}/environ").read_text().split("\0")
    text = next(one.partition("=")[2] for one in variables if one.startswith(f"{VARIABLE}="))
    return msgspec.json.decode(text, type=Setup).status


def is_refused(status: Path, troubles: list[str]) -> bool:
    """Return True once the learner reports that the log refused what it saved, since a later epoch has begun."""
    found = json.loads(status.read_bytes())["learner"]["trouble"]
    troubles += [found] if found and found not in troubles else []
    return any("another began epoch" in one for one in troubles)


def replaced(loop: PlacedLoop, entry: PlaceEntry) -> bool:
    now = loop.entries().get(entry.name)
    return now is not None and now.number > entry.number and now.state == "answers"


def caught_up(loop: PlacedLoop) -> bool:
    """Return True once all places answer with a model that includes what is older than a second or two."""
    entries = loop.entries().values()
    return all(one.state == "answers" and one.staleness is not None and one.staleness < 3.0 for one in entries)


def show(name: str, lost: PlaceEntry, client: RoamingClient, killed: float, back: float, fresh: float) -> None:
    print(
        f"\n{name}: {lost.name} answers again after {back - killed:.1f} s, all fresh after {fresh - killed:.1f} s; "
        f"longest time without any answer {client.longest_silence(killed):.2f} s (machine busy)"
    )
    print(f"  answered {dict(client.answered)}, asked another place instead {dict(client.failed)}")


def curve(loop: PlacedLoop, killed: float, true: Callable[[], Any], noted: list[tuple[int, float]]) -> None:
    """Note the lag of the place that is furthest behind, each two seconds, until a condition is true."""

    def look() -> bool:
        behind = [one.staleness for one in loop.entries().values() if one.staleness is not None]
        if behind and time.monotonic() - killed > 2 * len(noted):
            noted.append((round(time.monotonic() - killed), round(max(behind), 1)))
        time.sleep(0.1)
        return bool(true())

    until(look, "the places do not come back")


def test_any_node_is_lost_under_load(cluster: RayCluster, loop: PlacedLoop) -> None:
    """Four nodes; those of the learner and of a follower are lost one after the other, by raylet and as machines."""
    cluster.start_head()
    for _ in range(3):
        cluster.start_node()
    loop.serve("--min", "2")
    with RoamingClient(loop.place, 1) as one, RoamingClient(loop.place, 2) as two:
        until(lambda: len(one.labelled) > 50 and caught_up(loop), "nothing is learned")
        for role, how in (("learner", "raylet"), ("follower-1", "machine"), ("learner", "machine")):
            lost = loop.entries()[role]
            node = node_of(cluster, lost)
            killed = time.monotonic()
            node.lose() if how == "machine" else kill([node.raylet])
            lags: list[tuple[int, float]] = []
            curve(loop, killed, lambda lost=lost: replaced(loop, lost), lags)
            back = time.monotonic()
            curve(loop, killed, lambda: caught_up(loop), lags)
            show(f"{role}, {how} killed", lost, one, killed, back, time.monotonic())
            print(f"  lag of learning (seconds after, seconds behind): {lags}")
            cluster.start_node()
            answered = len(two.acknowledged)
            until(lambda answered=answered: len(two.acknowledged) > answered + 20, "nothing is answered")
    loop.stop()
    print(f"  {loop.check(one, two)} events in the log, {len(one.acknowledged) + len(two.acknowledged)} acknowledged")
    cluster.note()
    assert not [pid for node in cluster.nodes for pid in node.processes if "everlearn.app" in command_of(pid)]


def test_an_orphan_that_wakes_up_is_refused(cluster: RayCluster, loop: PlacedLoop) -> None:
    """The node of the learner freezes, its raylet is killed, and its processes wake once another learner has begun."""
    cluster.start_head()
    for _ in range(3):
        cluster.start_node()
    settings = (loop.folder / "everlearn.toml").read_text()
    (loop.folder / "everlearn.toml").write_text(settings.replace("checkpoint = 200", "checkpoint = 50"))
    loop.serve("--min", "1")
    with RoamingClient(loop.place, 3) as client:
        until(lambda: len(client.labelled) > 50 and caught_up(loop), "nothing is learned")
        lost = loop.entries()["learner"]
        node = node_of(cluster, lost)
        place, learner = tree_of(node, "place"), tree_of(node, "learner")
        assert len(place) == len(learner) == 1
        rest = [pid for pid in descendants(node.raylet) if pid not in learner]
        kill([*rest, *learner], signal.SIGSTOP)
        killed = time.monotonic()
        kill([node.raylet])
        until(lambda: replaced(loop, lost), "the learner is not replaced")
        back = time.monotonic()
        until(lambda: caught_up(loop), "the places stay behind")
        show("learner, its node frozen", lost, client, killed, back, time.monotonic())
        assert alive(learner[0])
        troubles: list[str] = []
        status = status_of(learner[0])
        kill(learner, signal.SIGCONT)  # the learner alone: nothing ends it yet
        until(lambda: is_refused(status, troubles), f"the orphan is not refused: {troubles}")
        assert alive(learner[0])
        kill(rest, signal.SIGCONT)  # now its actor sees that its raylet is gone
        until(lambda: not any(alive(pid) for pid in [*place, *learner]), "the orphan does not end")
    loop.stop()
    loop.check(client)


def test_places_come_and_go_with_the_traffic_and_with_other_settings(cluster: RayCluster, loop: PlacedLoop) -> None:
    """One node, reached through Ray's client; another plan replaces the places, with other bounds."""
    cluster.start_head(cpus=8)
    loop.serve("--min", "0", on=f"ray://127.0.0.1:{cluster.client_port}")
    assert loop.entries().keys() == {"learner"}
    before = loop.entries()["learner"]
    text = (loop.folder / "everlearn.toml").read_text()
    (loop.folder / "everlearn.toml").write_text(text + "staleness = 60.0\n")
    loop.serve("--min", "1")
    until(lambda: replaced(loop, before), "the older settings stay")
    until(lambda: {one.state for one in loop.entries().values()} == {"answers"}, "a place does not come up")
    assert loop.entries().keys() == {"learner", "follower-1"}
    assert len({one.plan for one in loop.entries().values()}) == 1
    assert listed(loop.place).epoch == 2
    loop.serve("--min", "0")
    until(lambda: loop.entries().keys() == {"learner"}, "the follower does not leave")
    loop.stop()


def test_the_head_dies_and_comes_back(cluster: RayCluster, loop: PlacedLoop, tmp_path: Path) -> None:
    """The head keeps its state in a Redis server: while it is away, all places answer; then it places again."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no Redis server is installed; apt-get install redis-server")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        head = cluster.start_head(redis=f"127.0.0.1:{port}")
        for _ in range(2):
            cluster.start_node()
        loop.serve("--min", "1")
        with RoamingClient(loop.place, 4) as client:
            until(lambda: len(client.labelled) > 20 and caught_up(loop), "nothing is learned")
            before = loop.entries()
            killed = time.monotonic()
            head.lose()
            labelled = len(client.labelled)
            until(lambda: len(client.labelled) > labelled + 50, "nothing is answered without the head")
            epoch = listed(loop.place).epoch
            cluster.start_head(redis=f"127.0.0.1:{port}")
            until(lambda: listed(loop.place).epoch > epoch, "nothing places")
            print(f"\nthe head places again {time.monotonic() - killed:.1f} s after it was killed (machine busy)")
            written = listed(loop.place).time
            until(lambda: listed(loop.place).time > written + 20.0, "the list is not written")
            now = loop.entries()
            assert {name: one.number for name, one in now.items()} == {name: one.number for name, one in before.items()}
            print(f"  longest time without any answer {client.longest_silence(killed):.2f} s; failed {client.failed}")
            lost = now["learner"]
            kill([node_of(cluster, lost).raylet])
            until(lambda: replaced(loop, lost), "a lost learner is not replaced")
        loop.stop()
        loop.check(client)
    finally:
        redis.terminate()
        redis.wait()


def test_a_model_on_cuda_takes_a_gpu_of_the_cluster(cluster: RayCluster, loop: PlacedLoop) -> None:
    """The GPU is one that a node pretends to have, and the model is on the processor: its actor alone is observed."""
    cluster.start_head(cpus=4)
    cluster.start_node(cpus=4, gpus=1)
    done = cluster.python(GPU_ACTOR, loop.folder)
    assert done.returncode == 0, done.stderr
    node, pretended, shown = done.stdout.split()
    assert node == pretended
    assert shown == "0"
