"""One application on several engines: its champions have equal bytes where the order of events is equal."""

from __future__ import annotations

import os
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


def alone(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Arrays:
    """Play the application on SQLite and files, with one server."""
    home = folder / "market"
    spec = settings(monkeypatch, home)
    with Server(spec, home) as server:
        assert f"{ROWS} answers" in played(server.url)
    return champion(spec, home)


def test_the_application_on_postgresql_and_s3_learns_what_it_learns_on_files(
    server: Database, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(monkeypatch, tmp_path / "files")
    home = tmp_path / "database" / "market"
    spec = settings(monkeypatch, home, log=server.url, blobs=place)
    with Server(spec, home) as learning, Server(spec, tmp_path / "other" / "market", follow=True) as following:
        played(learning.url, following.url)
    assert agree(champion(spec, home), expected)
