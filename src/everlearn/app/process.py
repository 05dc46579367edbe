"""The settings that each process of a server starts with, and its signals to the supervisor."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from everlearn.errors import LogError
from everlearn.events import Log, url_of
from everlearn.events.file import place
from everlearn.records import Payload
from everlearn.spec import Spec

VARIABLE = "EVERLEARN_PROCESS"
READY = b"ready"
PRIORITY = 10  # the `nice` value of what learns: requests come first


class Pool(Struct, frozen=True):
    """The bounds of a server of many loops: `processes` learn, and as many answer.

    All resident loops together have `memory` bytes. One loop may have `rate` requests a second from each process (0:
    any number). With `create`, a request to an unknown loop creates it.
    """

    processes: int
    memory: int
    rate: float = 0.0
    create: bool = False


class Setup(Struct, frozen=True, kw_only=True):
    """The settings of one process of a server.

    `home` is the loop's folder, `serving` the folder in memory that the processes share. `index` counts the workers
    from 0, `descriptor` is the listening socket that a worker inherits. `secure` is True if it speaks TLS, with the
    files `certificate` and `key`. `logs` is "text" or "json". `follows` is True for a server without a learner,
    `evicts` for one whose learner takes over from another one that may live on. `place` is that of the log with which
    the server began (see `events.file.place`); None for its first process. `pool` is set for a server of many loops:
    `home` is then the folder of them all, and `spec` has the settings of the server.
    """

    spec: Spec
    home: str
    serving: str
    index: int = 0
    descriptor: int = -1
    secure: bool = False
    certificate: str = ""
    key: str = ""
    key_password: str = ""
    logs: str = "text"
    follows: bool = False
    evicts: bool = False
    place: tuple[int, int] | None = None
    pool: Pool | None = None

    @property
    def admin(self) -> Path:
        """The Unix socket at which the admin process answers."""
        return Path(self.serving) / "admin.sock"

    @property
    def generator(self) -> Path:
        """The Unix socket at which the generator answers, where the loop learns preferences."""
        return Path(self.serving) / "generator.sock"

    @property
    def status(self) -> Path:
        """The file to which the learner writes its status as JSON, a few times a second; replaced whole."""
        return Path(self.serving) / "status.json"

    @property
    def asking(self) -> Path:
        """The file to which the generator writes what it asks, as JSON; replaced whole each second."""
        return Path(self.serving) / "asking.json"

    @property
    def tokens(self) -> Path:
        """The file of API tokens."""
        return Path(self.home) / "tokens.json"

    @property
    def log(self) -> str:
        """The path or URL of the log."""
        return url_of(self.home, self.spec.log.url, self.spec.log.book)

    def check_place(self) -> None:
        """Raise LogError if the log with which the server began is no longer in its place."""
        if self.place is not None and place(Path(self.log)) != self.place:
            raise LogError(
                f"{self.home} was deleted or replaced while its server runs; put it back, or restart the server"
            )

    def counters(self, index: int) -> Path:
        """Return the file in which worker `index` counts."""
        return Path(self.serving) / f"worker-{index}.counters"

    def environment(self) -> dict[str, str]:
        """Return the environment variable that hands these settings to a child process."""
        return {VARIABLE: msgspec.json.encode(self).decode()}


def append(log: Log, payloads: Sequence[Payload]) -> list[int]:
    """Append events to a log that is in its place, and return their positions.

    Raises as `Log.append` does, and LogError for a log that was deleted or replaced: what goes into a deleted file must
    not be acknowledged.
    """
    log.check_place()
    return log.append(payloads)


def received() -> Setup:
    """Read this process's settings from the environment."""
    return msgspec.json.decode(os.environ[VARIABLE], type=Setup)


def tell_ready() -> None:
    """Report to the supervisor that this process is ready."""
    sys.stdout.write(READY.decode() + "\n")
    sys.stdout.flush()


def ready_after_requests() -> None:
    """Report that this process is ready, and yield to requests from now on.

    Before, the whole server waits for this process, also on a busy machine.
    """
    tell_ready()
    lower_priority(PRIORITY)


def lower_priority(by: int) -> None:
    """Add `by` to the `nice` value of each thread: `os.nice` alone would leave those that run already on Linux."""
    try:
        threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    except OSError:  # not Linux: the value is that of the process
        with suppress(OSError):
            os.nice(by)
        return
    for thread in threads:
        with suppress(OSError):  # it has ended
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + by))


def when_abandoned(stop: Callable[[], None]) -> None:
    """Call `stop` once, when the supervisor is gone: it holds the other end of standard input, which then closes."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        stop()

    threading.Thread(target=wait, name="everlearn-abandoned", daemon=True).start()
