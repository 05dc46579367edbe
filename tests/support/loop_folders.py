"""Folders of many loops, and servers of them."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import msgspec

from everlearn import config, model
from everlearn.app.many.folder import LoopFolder, link_of, serving_of
from everlearn.app.many.host import LoopHost
from everlearn.app.many.wire import LoopCall, LoopCalls, LoopReply
from everlearn.app.process import Pool, Setup
from everlearn.app.supervisor import Server
from everlearn.serve.snapshot import Reader
from everlearn.spec import ReplaySpec, ServeSpec, Spec
from tests.support.servers import PATIENCE, ServerProcess, spec

POOL = Pool(processes=2, memory=256 << 20, create=True)
SUPERVISOR = """
import sys
from pathlib import Path
import msgspec
from everlearn.app import supervisor
from everlearn.app.process import Pool
from everlearn.app.supervisor import Server
from everlearn.spec import Spec
supervisor.LONGEST_PAUSE = 0.5
pool = msgspec.json.decode(sys.argv[3], type=Pool)
server = Server(msgspec.json.decode(sys.argv[1], type=Spec), Path(sys.argv[2]), pool=pool)
print(server.url, flush=True)
server.wait()
"""


def template(**changes: Any) -> Spec:
    """Return the settings of the small loops of these tests."""
    own = {"serve": ServeSpec(port=0, workers=2), "replay": ReplaySpec(kind="reservoir", bytes=20_000)}
    return spec(**(own | changes))


def folder_of(root: Path, settings: Spec | None = None) -> Path:
    """Make a folder of loops with a template."""
    root.mkdir(exist_ok=True)
    config.save(settings or template(), root / "everlearn.toml")
    return root


def served(root: Path, pool: Pool = POOL, settings: Spec | None = None) -> Server:
    """Start a server of a folder of loops."""
    settings = settings or template()
    serve = msgspec.structs.replace(settings.serve, workers=pool.processes)
    return Server(msgspec.structs.replace(settings, serve=serve), root, pool=pool)


class PoolProcess(ServerProcess):
    """A server of many loops whose supervisor is a separate process."""

    def __init__(self, root: Path, pool: Pool = POOL, settings: Spec | None = None) -> None:
        super().__init__(settings or template(), root)
        self.pool = pool

    def try_start(self) -> bool:
        """Start the server; return True once it answers, False if it ends with an error."""
        arguments = [msgspec.json.encode(self.spec).decode(), str(self.home), msgspec.json.encode(self.pool).decode()]
        with self.output.open("a") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, *arguments], stdout=subprocess.PIPE, stderr=output, text=True
            )
        assert self._process.stdout is not None
        url = self._process.stdout.readline().strip()
        self.url = url or self.url
        if not url:
            self._reap()
        return bool(url)


class OneOf:
    """One loop of a server of many, as clients of a single loop see it: its URL, home and settings."""

    def __init__(self, server: PoolProcess, name: str) -> None:
        self._server, self._name = server, name
        self.home, self.spec = server.home / f"{name}.home", server.spec

    @property
    def url(self) -> str:
        """The URL that stands for a server of this loop alone."""
        return f"{self._server.url}/loops/{self._name}"


class HostThread:
    """A host of loops in a thread of this process, and one connection to it."""

    def __init__(self, root: Path, memory: int = 256 << 20, most: int = 1000) -> None:
        self.setup, self.folder = self.setup_of(root, memory)
        self._calls = LoopCalls(link_of(self.setup, 0))
        self.host = LoopHost(self.setup, self.folder, self._calls, most)
        self._stop, ready = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self.host.run, args=(self._stop.is_set, ready.set))
        self._thread.start()
        assert ready.wait(PATIENCE)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(link_of(self.setup, 0)))
        self._lines = self._socket.makefile("rb")
        self.gone: list[str] = []
        self._number = 0

    @staticmethod
    def setup_of(root: Path, memory: int = 256 << 20) -> tuple[Setup, LoopFolder]:
        """Return the setup of a host of one process, and its loops."""
        folder = LoopFolder(root)
        (root / "serving" / "loops").mkdir(parents=True, exist_ok=True)
        (root / "serving").chmod(0o700)
        pool = Pool(processes=1, memory=memory)
        return Setup(spec=folder.service, home=str(root), serving=str(root / "serving"), pool=pool), folder

    def ask(self, what: Literal["open", "create", "watch"], name: str) -> LoopReply:
        """Send a call, and return its reply."""
        self._number += 1
        self._send(LoopCall(self._number, what, [name]))
        while True:
            reply = msgspec.json.decode(self._lines.readline(), type=LoopReply)
            if reply.id == self._number:
                return reply
            self.gone.append(reply.text)

    def touch(self, *names: str) -> None:
        """Report new events."""
        self._send(LoopCall(0, "touch", [*names]))

    def reader(self, name: str) -> Reader:
        """Return a reader of what is published of a loop."""
        return Reader(serving_of(self.setup, name), model.build)

    def resident(self) -> set[str]:
        """Return the loops in memory."""
        return {path.name for path in serving_of(self.setup, "x").parent.iterdir()}

    def _send(self, call: LoopCall) -> None:
        self._socket.sendall(msgspec.json.encode(call) + b"\n")

    def __enter__(self) -> HostThread:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._lines.close()
        self._socket.close()
        self._calls.close()
