"""Workers for the tests of this folder; they are closed at the end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.workers import BINARY, Running, Site


@pytest.fixture
def start(tmp_path: Path):
    """Make sites; they are closed at the end."""
    made: list[Site] = []

    def start(spec: Mapping[str, Any] = BINARY, **more: Any) -> Site:
        home = tmp_path / f"home-{len(made)}"
        home.mkdir()
        made.append(Site(home, spec, **more))
        return made[-1]

    yield start
    for site in made:
        site.close()


@pytest.fixture
def running(start):
    """The worker as a process of its own."""
    site = start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        setup = msgspec.structs.replace(site.setup, descriptor=listener.fileno(), index=1)
        process = subprocess.Popen(
            [sys.executable, "-m", "everlearn.app.worker"],
            env={**os.environ, **setup.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield site, Running(process, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            process.kill()
            process.wait(60)
            process.stdout.close()
            if not process.stdin.closed:
                process.stdin.close()
