"""One place of a loop on a cluster: an ordinary server that shows its load, and ends once it was replaced.

The actor that starts this process writes one line to its standard input, a `PlaceOrder`, and keeps the input open: the
place ends when the actor does. Each second the place writes a `PlaceBeat` as a line. It takes the API tokens from the
shared files of the loop, and reads there which places the loop has. A place that is no longer in that list was
replaced, whatever it knows itself: it ends. Until then the store of the loop refuses what its learner saves.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from everlearn import _private
from everlearn.app import logs
from everlearn.app.admin.processes import running
from everlearn.app.admin.rates import CounterSample, rates
from everlearn.app.counters import read
from everlearn.app.process import when_abandoned
from everlearn.app.supervisor import Server
from everlearn.client.place_records import PlaceList
from everlearn.errors import BlobError, ConfigError, EverlearnError
from everlearn.scale.place_messages import PLACES, TOKENS, PlaceBeat, PlaceOrder
from everlearn.serve import snapshot
from everlearn.spec import Spec
from everlearn.version.blobs import SharedFiles, shared_files

log = logging.getLogger("everlearn.place")

BEAT = 1.0  # seconds between two lines
PORTS = 100  # from `serve.port` on, of which the first free one is taken
WINDOW = 10  # beats over which the load is measured
_OLD = 60.0  # seconds after which the folder of a place that is gone may be removed
_TICKS = os.sysconf("SC_CLK_TCK")


class Membership:
    """The view that a place has of the loop's list of places, and of its tokens. `look` raises `BlobError`."""

    def __init__(self, store: SharedFiles, number: int, tokens: Path) -> None:
        self._store, self._number, self._path = store, number, tokens
        self._tag, self._tokens_tag = "", ""

    def take_tokens(self) -> None:
        """Replace the token file by the shared one, if that changed."""
        found = self._store.get(TOKENS, self._tokens_tag)
        if found is None:
            return
        beside = self._path.with_name(f".{self._path.name}.unfinished")
        _private.write(beside, found[0])
        beside.replace(self._path)
        self._tokens_tag = found[1]

    def replaced(self) -> bool:
        """Return True once the list of places names this place no more; False while nothing changed."""
        found = self._store.get(PLACES, self._tag)
        if found is None:
            return False
        self._tag = found[1]
        listed = msgspec.json.decode(found[0], type=PlaceList)
        return all(place.number != self._number for place in listed.places)


class LoadMeter:
    """The load of a server, from the counters and the processor time of its workers over the last beats."""

    def __init__(self, spec: Spec, home: Path) -> None:
        self._folder, self._workers = snapshot.folder(home), spec.serve.workers
        self._samples: list[CounterSample] = []
        self._spent: list[Mapping[int, float]] = []  # processor seconds of each worker, at the same moments

    def beat(self, url: str) -> PlaceBeat:
        """Take a sample, and return the load since the oldest one kept."""
        now = time.monotonic()
        counted = [read(self._folder / f"worker-{index}.counters") for index in range(self._workers)]
        workers = {name: one for name, one in running(os.getpid(), str(self._folder)).items() if "worker" in name}
        self._samples = [*self._samples, CounterSample(now, counted)][-WINDOW:]
        self._spent = [*self._spent, {one.pid: processor_seconds(one.pid) for one in workers.values()}][-WINDOW:]
        load = rates(self._samples, WINDOW)
        passed = now - self._samples[0].moment
        first, last = self._spent[0], self._spent[-1]
        used = sum(seconds - first.get(pid, 0.0) for pid, seconds in last.items())
        _, position, fresh = snapshot.words(self._folder)
        return PlaceBeat(
            url=url,
            requests=load.requests_per_second,
            seconds=load.p99,
            busy=round(min(1.0, used / (passed * self._workers)), 3) if passed > 0 else 0.0,
            position=position,
            staleness=round(max(0.0, now - fresh), 3) if fresh else None,
        )


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used; 0 once it is gone."""
    with suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


@contextmanager
def place_home(order: PlaceOrder) -> Iterator[Path]:
    """Make the folder of a place, named like the loop's; remove it at the end, and those that dead places left."""
    above = Path(tempfile.gettempdir()) / f"everlearn-places-{os.getuid()}"
    above.mkdir(mode=_private.FOLDER_MODE, exist_ok=True)
    state = above.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise ConfigError(f"{above}: others may write there, or own it; remove it, or set TMPDIR to another folder")
    _sweep(above)
    folder = Path(tempfile.mkdtemp(prefix=f"{order.name}-{order.number}-", dir=above))
    home = folder / order.loop
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        home.mkdir(mode=_private.FOLDER_MODE)
        try:
            yield home
        finally:
            _remove(folder)


def _sweep(above: Path) -> None:
    """Remove the folders of places whose process is gone."""
    for folder in above.iterdir():
        with suppress(OSError), (folder / "lock").open("rb") as lock:
            if time.time() - folder.stat().st_mtime > _OLD:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)


def _remove(folder: Path) -> None:
    for home in [path for path in folder.iterdir() if path.is_dir()]:
        shutil.rmtree(snapshot.folder(home), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def started(order: PlaceOrder, home: Path) -> Server:
    """Start the server of a place at the first free port from `serve.port` on; 0 takes any. Raises as `Server` does."""
    serve = order.spec.serve
    hosts = tuple(dict.fromkeys((*serve.hosts, order.node))) if order.node and serve.host in ("0.0.0.0", "::") else ()
    ports = range(serve.port, min(serve.port + PORTS, 1 << 16)) if serve.port else (0,)
    for port in ports:
        if port and not is_free(serve.host, port):
            continue
        chosen = msgspec.structs.replace(serve, port=port, hosts=hosts or serve.hosts)
        try:
            return Server(
                msgspec.structs.replace(order.spec, serve=chosen),
                home,
                certificate=order.certificate,
                key=order.key,
                logs=order.logs,
                follow=order.follows,
                evict=order.evicts,
            )
        except ConfigError:
            if not port or is_free(serve.host, port):
                raise  # for another reason than a place that took the port in the meantime
    raise ConfigError(f"serve.port: got {serve.port}; it and the {PORTS - 1} ports after it are taken. Choose another")


def is_free(host: str, port: int) -> bool:
    """Return True if nothing listens at a port of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with suppress(OSError), socket.create_server((host, port), family=family):
        return True
    return False


def shown(url: str, order: PlaceOrder) -> str:
    """Return the URL at which other machines reach a server that listens at `url`.

    >>> from everlearn.spec import Schema, ServeSpec, Spec
    >>> schema = Schema(label="y", task="regression", fields={"x": "numeric"})
    >>> spec = Spec(schema=schema, serve=ServeSpec(host="0.0.0.0"))
    >>> shown("http://127.0.0.1:8003", PlaceOrder(spec=spec, loop="loop", name="learner", number=1, node="10.0.0.7"))
    'http://10.0.0.7:8003'
    """
    if order.spec.serve.host not in ("0.0.0.0", "::") or not order.node:
        return url
    node = f"[{order.node}]" if ":" in order.node else order.node
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{node}:{rest.rpartition(':')[2]}"


def serve(order: PlaceOrder, stop: threading.Event) -> None:
    """Run the place until `stop` is set, or until it was replaced."""
    with place_home(order) as home:
        membership = Membership(shared_files(home, order.spec.log), order.number, home / "tokens.json")
        membership.take_tokens()
        if membership.replaced():
            log.warning("the place was replaced before it began")
            return
        with started(order, home) as server:
            meter = LoadMeter(order.spec, home)
            while True:
                with suppress(BrokenPipeError):  # the actor is gone: standard input ends, too
                    sys.stdout.write(msgspec.json.encode(meter.beat(shown(server.url, order))).decode() + "\n")
                    sys.stdout.flush()
                if stop.wait(BEAT):
                    return
                try:
                    if membership.replaced():
                        log.error("another place has taken over; this one ends")
                        return
                    membership.take_tokens()
                except (BlobError, OSError, msgspec.DecodeError) as error:
                    log.warning("the list of places cannot be read: %s", error)


def main() -> None:
    """Read the order, and serve until SIGTERM, or until the actor is gone."""
    order = msgspec.json.decode(_line(), type=PlaceOrder)
    logs.start("json" if order.logs == "json" else "text", order.name)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    when_abandoned(stop.set)
    try:
        serve(order, stop)
    except EverlearnError as error:
        log.critical("%s", error)
        raise SystemExit(1) from error


def _line() -> bytes:
    """Read the first line of standard input, byte by byte, and leave the rest to `when_abandoned`."""
    found = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        found += byte
    return bytes(found)


if __name__ == "__main__":
    main()
