"""One application on several engines: its champions have equal bytes where the order of events is equal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn import config
from everlearn.app.supervisor import Server
from everlearn.records import Arrays
from tests.support import ROOT
from tests.support.postgres import Server as Database

pytestmark = pytest.mark.slow

ENGINES = ROOT / "examples" / "engines"
SETTINGS = ENGINES / "market.toml"
ROWS = 400


def settings(monkeypatch: pytest.MonkeyPatch, home: Path, **places: str) -> Any:
    """Return the settings of the application with its places filled in."""
    for name in ("LOG", "BOOK", "BLOBS"):
        monkeypatch.setenv(f"MARKET_{name}", places.get(name.lower(), ""))
    monkeypatch.setenv("MARKET_HOME", str(home))
    return config.load(SETTINGS)


def played(*urls: str, rows: int = ROWS) -> str:
    """Run the application, and return what it prints."""
    command = [sys.executable, str(ENGINES / "market.py"), "--rows", str(rows), "--url", *urls]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def champion(spec: Any, home: Path, rows: int = ROWS) -> Arrays:
    """Return the arrays of the champion, once everything is learned."""
    with el.open(spec, home=home) as loop:
        assert loop.status()["metrics"]["champion"]["examples"] == rows
        return {name: array.copy() for name, array in loop.fold.roster.champion.model.arrays.items()}


def agree(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """The champion that the application makes on SQLite and files, with one server."""
    home = tmp_path / "files" / "market"
    spec = settings(monkeypatch, home)
    with Server(spec, home) as server:
        assert f"{ROWS} answers" in played(server.url)
    return champion(spec, home)


def test_on_postgresql_and_s3_with_a_server_that_follows(
    expected: Arrays, server: Database, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "database" / "market"
    spec = settings(monkeypatch, home, log=server.url, blobs=place)
    with Server(spec, home) as learning, Server(spec, tmp_path / "other" / "market", follow=True) as following:
        played(learning.url, following.url)
    assert agree(champion(spec, home), expected)


def test_on_nats_and_postgresql_and_s3_with_three_servers(
    expected: Arrays, server: Database, stream: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "broker" / "market"
    spec = settings(monkeypatch, home, log=stream, book=f"{server.url}?loop=market-book", blobs=place)
    with (
        Server(spec, home) as learning,
        Server(spec, tmp_path / "second" / "market", follow=True) as second,
        Server(spec, tmp_path / "third" / "market", follow=True) as third,
    ):
        played(learning.url, second.url, third.url)
    assert agree(champion(spec, home), expected)


def test_on_postgresql_and_s3_with_places_on_ray(
    expected: Arrays, server: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs everlearn[ray]")
    from tests.support.ray_clusters import BUCKET, RayCluster, listed, object_server

    with object_server() as store:
        for name, value in store.items():
            monkeypatch.setenv(name, value)
        home = tmp_path / "ray" / "market"
        spec = settings(monkeypatch, home, log=f"{server.url}?loop=market-ray", blobs=f"s3://{BUCKET}/market-ray")
        cluster = RayCluster({**store, **{name: os.environ[name] for name in os.environ if name.startswith("MARKET_")}})
        try:
            cluster.start_head()
            cluster.start_node()
            shutil.copy(SETTINGS, tmp_path / "everlearn.toml")
            done = cluster.everlearn("serve", "--on", "ray", "--min", "1", "--detach", cwd=tmp_path)
            assert done.returncode == 0, done.stderr + cluster.logs()
            cluster.note()
            places = listed(f"s3://{BUCKET}/market-ray/market/serving").places
            assert len(places) == 2
            played(*(entry.url for entry in places))
            done = cluster.everlearn("places", "--stop", "--json", cwd=tmp_path)
            assert done.returncode == 0, done.stderr + cluster.logs()
        finally:
            cluster.stop()
        assert agree(champion(spec, home), expected)
