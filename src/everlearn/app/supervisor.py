"""Start the processes of a server in order, keep them running, and stop them in order.

A process that dies is started again; while the learner is gone, workers answer with the last snapshot. Each child is a
new interpreter that reads its settings from one environment variable. It ends when this process ends, for whatever
reason, because its standard input closes then.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec

from everlearn.app.admin.processes import is_stopped
from everlearn.app.admin.webhook import Webhook
from everlearn.app.auth import check_bind
from everlearn.app.process import READY, Pool, Setup
from everlearn.client import Client
from everlearn.errors import ConfigError, EverlearnError, LogError
from everlearn.events import has_broker
from everlearn.events.file import place
from everlearn.loop.home import held
from everlearn.loop.journal import check_one_learner
from everlearn.serve import snapshot
from everlearn.spec import Spec
from everlearn.version.blobs import shared_files

log = logging.getLogger("everlearn.supervise")

BACKLOG = 2048  # connections that may wait to be accepted
FIRST_START = 300.0  # seconds: kernels may have to be compiled
GRACE = 30.0  # seconds that a process has to end
LONGEST_PAUSE = 10.0  # seconds between two starts of a process that keeps dying
STOPPED = 5.0  # seconds for which a process may be stopped by a signal
LOOK = 0.5  # seconds between two looks for stopped processes
CALM = 30.0  # seconds after which a process counts as stable

# One thread for each process: the processes run in parallel already.
_THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB", "NUMEXPR")}


@dataclass(slots=True)
class Child:
    """One process of the server: its module, its settings, and its failures so far."""

    name: str
    module: str
    setup: Setup
    process: subprocess.Popen[bytes]
    started: float
    failures: int = 0
    retry: float = 0.0  # when to start it again, once it is gone
    stopped: float = 0.0  # since when it was seen stopped by a signal; 0 while it runs
    ready: threading.Event = field(default_factory=threading.Event)

    @property
    def alive(self) -> bool:
        """True while the process runs."""
        return self.process.poll() is None


class Server:
    """A running server; a context manager that stops it at the end. `ended` is called when all processes have ended.

    With a `pool`, `home` is a folder of many loops, and `spec` has the settings of the server alone.
    With `evict`, its learner first ends the session of another learner that holds the lease of the log.
    `serve.port` 0 takes a free port; see `url`. Raises ConfigError if the server may not or cannot listen at its
    address, and EverlearnError if a process does not start.
    """

    def __init__(
        self,
        spec: Spec,
        home: Path,
        *,
        certificate: str = "",
        key: str = "",
        key_password: str = "",
        logs: str = "text",
        follow: bool = False,
        pool: Pool | None = None,
        evict: bool = False,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        check_one_learner(spec, home)
        if spec.serve.webhook:
            Webhook(spec.serve.webhook, private=spec.serve.private)  # refuses a wrong address now
        self.spec = spec
        self._ended = ended
        self.home = home.absolute()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, file in (("--ssl-certfile", certificate), ("--ssl-keyfile", key)):
            if file and not os.access(file, os.R_OK):
                raise ConfigError(f"{name}: {file} cannot be read; give the path of a PEM file that this user may read")
        self._setup = Setup(
            spec=spec,
            home=str(self.home),
            serving=str(snapshot.folder(self.home)),
            secure=bool(certificate),
            certificate=certificate,
            key=key,
            logs=logs,
            follows=follow,
            pool=pool,
            evicts=evict,
        )
        if follow:
            check_followed(spec, self.home)
        self._key_password = key_password  # for the workers alone
        check_bind(spec, self._setup.tokens)
        self._lock = held(self.home) if pool is not None else None  # of a folder, which no single learner holds
        self._socket = _listening(spec.serve.host, spec.serve.port)
        self._children: dict[str, Child] = {}
        self._stopping = threading.Event()
        self._changing = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="everlearn-supervise", daemon=True)
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise
        self._watcher.start()  # from now on `stop` removes the folder in memory

    @property
    def url(self) -> str:
        """The URL at which a client on this machine reaches the server."""
        host, port = self._socket.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http{'s' if self._setup.secure else ''}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def processes(self) -> dict[str, int]:
        """The ids of the processes that run now: "learner", "admin", "generator", "worker-0", ..."""
        return {child.name: child.process.pid for child in list(self._children.values()) if child.alive}

    def client(self, token: str = "") -> Client:
        """Return a client of this server."""
        return Client(self.url, token=token)

    def wait(self) -> None:
        """Return once the server is stopped, by `stop`, SIGINT or SIGTERM; SIGHUP replaces workers one by one."""
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=self.renew, daemon=True).start())
        while not (stop.is_set() or self._stopping.is_set()):
            stop.wait(0.5)
        self.stop()

    def renew(self) -> None:
        """Replace each worker without refusing a request: the new one listens before the old one ends.

        If a new worker does not start, the old one stays, and so do the others.
        """
        with self._changing:
            for name in [name for name in self._children if name.startswith("worker-")]:
                old = self._children[name]
                if self._stopping.is_set():
                    return
                new = self._start(name, old.module, old.setup)
                if not _comes_up(new):
                    log.error("a new worker does not start; the old ones stay", extra={"fields": {"process": name}})
                    self._children[name] = old
                    _end([new])
                    return
                _end([old])

    def stop(self) -> None:
        """Stop the workers, the generator, the admin process, then the learner, which learns the rest and saves."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        with self._changing:
            children = list(self._children.values())
            for part in ("worker", "generator", "admin", "follower", "learner", "uploader"):
                _end([child for child in children if child.name.startswith(part)])
            self._socket.close()
        if self._watcher.ident is not None:
            self._watcher.join()
        with suppress(LogError, OSError):
            self._setup.check_place()
            with self._lock or held(self.home):  # another server may use this home
                shutil.rmtree(self._setup.serving)  # all of it can be made again from the log
        self._ended()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_all(self) -> None:
        if self._setup.pool is not None:
            self._start_pool(self._setup.pool)
            return
        self._first = "follower" if self._setup.follows else "learner"
        self._start(self._first, "mirror" if self._setup.follows else "learner", self._setup)
        self._await_first()
        # From now on a process serves this log, or none.
        self._setup = msgspec.structs.replace(self._setup, place=place(Path(self._setup.log)))
        self._children[self._first].setup = self._setup
        if self.spec.log.blobs and not self._setup.follows:
            self._start("uploader", "mirror", self._setup)
        self._start("admin", "admin", self._setup)
        if self.spec.schema.task == "preference":
            self._start("generator", "generator", self._setup)
        for index in range(self.spec.serve.workers):
            setup = msgspec.structs.replace(
                self._setup, index=index, descriptor=self._socket.fileno(), key_password=self._key_password
            )
            self._start(f"worker-{index}", "worker", setup)
        self._await([child for child in self._children.values() if child.name != self._first])

    def _start_pool(self, pool: Pool) -> None:
        """Start the processes of a server of many loops."""
        (Path(self._setup.serving) / "loops").mkdir(mode=0o700, exist_ok=True)
        for index in range(pool.processes):
            self._start(f"learner-{index}", "many.learner", msgspec.structs.replace(self._setup, index=index))
        self._await([*self._children.values()])  # kernels may have to be compiled, and no request waits for that
        self._start("admin", "many.admin", self._setup)
        for index in range(pool.processes):
            setup = msgspec.structs.replace(
                self._setup, index=index, descriptor=self._socket.fileno(), key_password=self._key_password
            )
            self._start(f"worker-{index}", "many.worker", setup)
        self._await([*self._children.values()])

    def _await(self, children: list[Child]) -> None:
        for child in children:
            while not child.ready.wait(0.1):
                if not child.alive:
                    raise EverlearnError(f"the {child.name} of the server did not start; see its message above")

    def _await_first(self) -> None:
        """Wait for the learner. It publishes before it has caught up, so this is short unless kernels are compiled."""
        first = self._children[self._first]
        deadline = time.monotonic() + FIRST_START
        while not first.ready.wait(0.1):
            if not first.alive:
                raise EverlearnError(f"the {self._first} of the server did not start; see its message above")
            if time.monotonic() > deadline:
                raise EverlearnError(f"the {self._first} of the server published nothing for {FIRST_START:.0f} seconds")

    def _start(self, name: str, module: str, setup: Setup, failures: int = 0) -> Child:
        environment = {**os.environ, **_THREADS, **setup.environment()}
        process = subprocess.Popen(
            [sys.executable, "-m", f"everlearn.app.{module}"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[setup.descriptor] if setup.descriptor >= 0 else [],
            # A separate process group: Ctrl-C reaches only the supervisor, which stops the others in order. But not a
            # separate session: Linux gives equal shares to sessions (autogroup), whatever their priority.
            process_group=0,
        )
        child = Child(name, module, setup, process, time.monotonic(), failures)
        threading.Thread(target=_listen, args=(child,), daemon=True).start()
        self._children[name] = child
        log.info("started", extra={"fields": {"process": name, "pid": process.pid}})
        return child

    def _watch(self) -> None:
        """Start dead processes again, and replace stopped ones."""
        look = 0.0
        while not self._stopping.wait(0.1):
            if (now := time.monotonic()) >= look:
                look = now + LOOK
                for child in list(self._children.values()):
                    _notice_stopped(child, now)
            with self._changing:
                for child in [] if self._stopping.is_set() else list(self._children.values()):
                    if not child.alive:
                        self._restart(child)

    def _restart(self, child: Child) -> None:
        now = time.monotonic()
        if not child.retry:
            child.failures = 0 if now - child.started > CALM else child.failures
            child.retry = now + min(LONGEST_PAUSE, 0.1 * 2.0**child.failures if child.failures else 0.0)
            fields = {"process": child.name, "pid": child.process.pid, "status": child.process.returncode}
            log.error("died; it is started again", extra={"fields": fields})
        if now >= child.retry:
            _close(child)
            self._start(child.name, child.module, child.setup, child.failures + 1)


def check_followed(spec: Spec, home: Path, followers: int = 1) -> None:
    """Raise ConfigError for a loop that so many servers without a learner cannot follow.

    With 0, check that its learner may move from one machine to another.
    """
    shared_files(home, spec.log)
    if not spec.log.url:
        raise ConfigError("log.url: got none; expected the log of the loop, such as postgresql://HOST/DATABASE")
    if has_broker(spec.log.url) and not spec.log.book:
        raise ConfigError("log.book: got none; expected the book of the loop, such as postgresql://HOST/DATABASE")
    if followers and (spec.schema.task == "preference" or spec.feedback.early):
        what = "schema.task: got 'preference'" if spec.schema.task == "preference" else "feedback.early: got it"
        raise ConfigError(f"{what}; a server that follows does not support that yet. Serve it where it learns")


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"serve.host, serve.port: cannot listen at {host}:{port}: {error.strerror or error}; "
            "stop what listens there, or name another with --port"
        ) from error


def _listen(child: Child) -> None:
    """Wait for the line with which a process reports that it is ready."""
    output: IO[Any] | None = child.process.stdout
    for line in output or ():
        if line.strip() == READY:
            child.ready.set()


def _comes_up(child: Child) -> bool:
    """Wait until a process is ready; return False if it ends before, or takes too long."""
    deadline = time.monotonic() + FIRST_START
    while not child.ready.wait(0.1):
        if not child.alive or time.monotonic() > deadline:
            return False
    return True


def _end(children: list[Child]) -> None:
    """Ask processes to end, wait, and kill those that do not."""
    for child in children:
        if child.alive:
            child.process.terminate()
    deadline = time.monotonic() + GRACE
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("did not end in time", extra={"fields": {"process": child.name, "pid": child.process.pid}})
            child.process.kill()
            child.process.wait()
        _close(child)


def _notice_stopped(child: Child, now: float) -> None:
    """Kill a process that was stopped by a signal for too long: it would hold the requests that it has accepted."""
    if not (child.alive and is_stopped(child.process.pid)):
        child.stopped = 0.0
        return
    fields = {"process": child.name, "pid": child.process.pid}
    if not child.stopped:
        child.stopped = now
        log.error("stopped by a signal", extra={"fields": fields})
    elif now - child.stopped > STOPPED:
        log.error("stopped for too long; it is killed", extra={"fields": fields})
        child.process.kill()


def _close(child: Child) -> None:
    for pipe in (child.process.stdin, child.process.stdout):
        if pipe is not None:
            pipe.close()
