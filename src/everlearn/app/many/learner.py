"""A process that learns a share of the loops of a folder."""

from __future__ import annotations

import logging
import resource
import signal
import threading
from contextlib import closing
from pathlib import Path

from everlearn.app import logs
from everlearn.app.many.folder import LoopFolder, link_of
from everlearn.app.many.host import LoopHost
from everlearn.app.many.wire import LoopCalls
from everlearn.app.process import ready_after_requests, received, when_abandoned
from everlearn.app.worker import connections
from everlearn.errors import EverlearnError

FILES = 4  # descriptors of a resident loop: its lock, the words, and spare ones
KEPT = 3000  # descriptors for logs that are open with their keys, and other things
IN_DATABASE = 8  # resident loops of a process whose logs are in a database, where each takes connections


def most_loops() -> int:
    """Raise the limit of open files as far as this user may; return the number of loops that fit below it."""
    connections.allowed()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return max(16, (hard - KEPT) // FILES)
    return 1 << 30


def main() -> None:
    """Learn until SIGTERM, or until the supervisor is gone."""
    setup = received()
    logs.start("json" if setup.logs == "json" else "text", f"learner-{setup.index}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    when_abandoned(stop.set)
    try:
        assert setup.pool is not None
        folder = LoopFolder(Path(setup.home), setup.pool.processes)
        most = min(most_loops(), IN_DATABASE) if folder.service.log.url else most_loops()
        with closing(LoopCalls(link_of(setup, setup.index))) as calls:
            LoopHost(setup, folder, calls, most).run(stop.is_set, ready_after_requests)
    except EverlearnError as error:
        logging.getLogger("everlearn.many").critical("the learner cannot work: %s", error)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
