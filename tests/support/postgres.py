"""A real PostgreSQL server for tests: its own data folder and port, killed and started again at will."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.kafka import CLUSTER

NOBODY = 65534  # PostgreSQL refuses to run as root


def binaries() -> Path | None:
    """The folder of a server's programs; None where none is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    named = shutil.which("postgres")
    return Path(named).parent if named else None


class Server:
    """A running server. `url` has no loop yet; a test adds `?loop=NAME`."""

    def __init__(self) -> None:
        programs = binaries()
        if programs is None:
            pytest.skip("no PostgreSQL server is installed; apt-get install postgresql")
        folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own folders are closed to other users
        self._programs, self.folder = programs, folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._drop: list[str] = []
        if os.getuid() == 0:
            self._drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            os.chown(folder, NOBODY, NOBODY)
        made = ["initdb", "-D", str(self.folder), "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-instructions"]
        done = subprocess.run([*self._drop, str(programs / made[0]), *made[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 80,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [*self._drop, str(self._programs / "postgres"), "-D", str(self.folder), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait()

    def wait(self, patience: float = 60.0) -> None:
        """Wait until the server takes connections."""
        end = time.monotonic() + patience
        while True:
            asked = [str(self._programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "tester"]
            if subprocess.run(asked, capture_output=True).returncode == 0:
                return
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill all processes of the server at once, as a loss of the machine would."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for process in [self._process.pid, *map(int, children)]:
            os.kill(process, signal.SIGKILL)
        self._process.wait()
        (self.folder / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop the server, and remove its data."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
        shutil.rmtree(self.folder.parent, ignore_errors=True)


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("mock", "tansu", *CLUSTER)]
_QUICK = ("sqlite", "economical", "postgresql", "nats", "encrypted")
every_log = pytest.mark.parametrize("log", [*_QUICK, *_SLOW], indirect=True)
"""Runs a test against each place that can hold a log."""
