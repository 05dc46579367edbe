"""Folders of many loops, and servers of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from everlearn import config
from everlearn.app.process import Pool
from everlearn.app.supervisor import Server
from everlearn.spec import ServeSpec, Spec
from tests.support.servers import ServerProcess, spec

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
    return spec(**({"serve": ServeSpec(port=0, workers=2)} | changes))


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
