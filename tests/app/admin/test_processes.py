"""Processes of a server are found through /proc."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from everlearn.app.admin.processes import memory, running
from everlearn.app.process import Setup
from everlearn.config import convert
from tests.support.admin import SPEC, until


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_processes_are_found_by_their_environment(tmp_path):
    setup = Setup(spec=convert(SPEC), home=str(tmp_path), serving=str(tmp_path / "serving"), index=3)
    waits = "import sys; sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", waits, "everlearn.app.worker"],
        env={**os.environ, **setup.environment()},
        stdin=subprocess.PIPE,
    )
    try:
        until(lambda: running(os.getpid(), setup.serving))
        found = running(os.getpid(), setup.serving)
        assert found["worker-3"].pid == child.pid
        assert found["worker-3"].memory == pytest.approx(memory(child.pid), rel=0.5)
        assert running(os.getpid(), "/elsewhere") == {}
        assert running(child.pid, setup.serving) == {}
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(60)
    assert running(os.getpid(), setup.serving) == {}
