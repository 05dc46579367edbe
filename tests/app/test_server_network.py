"""A network behind a real server: it answers while it learns, and what it learned is there after a restart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn import model
from everlearn.app.supervisor import Server
from everlearn.client import Client
from everlearn.records import Example
from everlearn.serve import snapshot
from everlearn.serve.snapshot import CURRENT, Reader
from everlearn.spec import DriftSpec, GateSpec, Schema, ServeSpec, Spec
from tests.support.neural_nets import one_thread  # noqa: F401
from tests.support.servers import alive, catch_up, check_learned, until

FIELDS = {"a": "numeric", "b": "numeric"}
NETWORK: dict[str, Any] = {
    "family": "neural",
    "arguments": {"hidden": [16]},
    "ema": 0.8,
    "optimizer": {"name": "adam", "lr": 0.03},
    "memory": {"rows": 100},
}
RECORD = {"a": 1.5, "b": -1.5}


def spec(**changes: Any) -> Spec:
    settings: dict[str, Any] = {
        "schema": Schema(label="y", task="binary", classes=("same", "apart"), fields=FIELDS),
        "model": NETWORK,
        "tick": 50,
        "checkpoint": 200,
        "gate": GateSpec(minimum=100),
        "drift": DriftSpec(detector="none"),
        "serve": ServeSpec(port=0),
    }
    return Spec(**(settings | changes))


def rows(start: int, stop: int) -> tuple[list[dict[str, float]], list[str]]:
    """Points, and whether the signs of their two numbers differ: what no line can tell."""
    points = [np.random.default_rng((3, row)).normal(size=2).tolist() for row in range(start, stop)]
    return [{"a": a, "b": b} for a, b in points], ["apart" if a * b < 0 else "same" for a, b in points]


def learned(client: Client, start: int, stop: int) -> None:
    """Ask for answers, then tell what was true."""
    for first in range(start, stop, 20):
        records, labels = rows(first, min(first + 20, stop))
        for answer, label in zip(client.predict_many(records), labels, strict=True):
            client.feedback(answer.id, label)


def right(client: Client) -> float:
    """The share of fresh points that are answered rightly."""
    records, labels = rows(100_000, 100_200)
    said = client.predict_many(records)
    return float(np.mean([one.value == label for one, label in zip(said, labels, strict=True)]))


@contextmanager
def asking(server: Server) -> Iterator[list[tuple[float, ...]]]:
    """Somebody who asks the same all the time; what was answered, in order. A request that fails is an error."""
    over, said, broken = threading.Event(), list[tuple[float, ...]](), list[Exception]()

    def ask() -> None:
        try:
            with server.client() as client:
                while not over.wait(0.002):
                    said.append(tuple(client.predict(RECORD).proba))
        except Exception as error:
            broken.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield said
    finally:
        over.set()
        thread.join()
    assert broken == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["live", "gated"])
def test_it_answers_while_it_learns_and_goes_on_after_a_restart(tmp_path: Path, mode: Any) -> None:
    settings, home = spec(mode=mode), tmp_path / "home"
    count = 400 if mode == "live" else 2000  # the learner is judged against what was learned at first
    with Server(settings, home) as server, server.client() as client:
        with asking(server) as said:
            learned(client, 0, count)
            catch_up(server)
        assert len(said) > 50
        assert said[0] == (0.5, 0.5)
        assert len(set(said)) > (20 if mode == "live" else 1)  # answers follow weights, or what was promoted
        assert client.status()["staleness"] is not None
        check_small(home)
        accuracy, before = right(client), client.predict(RECORD)
        learner = server.processes["learner"]
    assert accuracy > 0.8
    until(lambda: not alive(learner))
    with Server(settings, home) as server, server.client() as client:
        after = client.predict(RECORD)
        assert (after.proba, after.version) == (before.proba, before.version)
        learned(client, count, count + 100)
        catch_up(server)
        assert right(client) > 0.8
        assert (client.predict(RECORD).proba != before.proba) or mode == "gated"
    got = check_learned(home, settings, tmp_path / "replayed")
    if mode == "gated":
        assert ("promote", "gate") in {(one["action"], one["by"]) for one in got["decisions"]}


def check_small(home: Path) -> None:
    """What serves holds no array that only learning needs: neither the file nor a worker around it."""
    folder = snapshot.folder(home)
    champion = Reader(folder, model.build).current().champion.model
    names = set(champion.arrays)
    assert "weights/first.weight" in names
    assert not any(name.startswith("learn/") for name in names)
    size, whole = (folder / CURRENT).stat().st_size, model.build(champion.spec).arrays
    assert size < sum(one.nbytes for one in whole.values())


def test_live_it_serves_what_was_learned_while_more_is_learned(tmp_path: Path) -> None:
    """A backlog keeps the learner busy; meanwhile newer and newer snapshots serve, and none is skipped for long."""
    count = 3000
    with Server(spec(mode="live", checkpoint=100_000), tmp_path / "home") as server, server.client() as client:
        records, labels = rows(0, count)
        positions = []
        for first in range(0, count, 500):
            part = zip(records[first : first + 500], labels[first : first + 500], strict=True)
            client.learn_many([Example(f"e{first + i}", one, label) for i, (one, label) in enumerate(part)])
        until(lambda: positions.append(client.predict(RECORD).position) or positions[-1] >= count)  # type: ignore[func-returns-value]
        assert positions == sorted(positions)
        assert len(set(positions)) > 5
        assert right(client) > 0.9
        until(lambda: client.status()["staleness"]["seconds"] < 1.0)
