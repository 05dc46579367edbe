"""Measure a server of many loops: memory of a resident and an evicted loop, first and warm answers.

    python bench/many.py [--loops 2000] [--requests 2000] [--only memory,serve]

`memory` counts allocated bytes in one process, with each allocation made by malloc: what a learner and a worker hold of
one linear loop beyond its arrays. `serve` starts two servers side by side, one of a single loop and one of all loops,
and sends them the same requests in turn, so that both meet the same noise. It prints what must be reached beside each
figure.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import httpx

from everlearn import config, schema
from everlearn.app.many.folder import LoopFolder, serving_of, setup_of
from everlearn.app.many.host import HostedLoop
from everlearn.app.many.seats import Seat
from everlearn.app.process import Pool, Setup
from everlearn.app.supervisor import Server
from everlearn.records import Example
from everlearn.spec import ReplaySpec, Schema, ServeSpec, Spec

FIELDS = {f"x{i}": "numeric" for i in range(8)}
SPEC = Spec(
    schema=Schema(label="y", task="binary", classes=(0, 1), fields=FIELDS),
    model={"family": "linear"},
    replay=ReplaySpec(kind="window", bytes=20_000),
    serve=ServeSpec(port=0),
)
COUNTED = 60  # loops whose memory is measured


_MALLINFO = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _MALLINFO]


def allocated() -> int:
    """Return the bytes that malloc has given out in this process."""
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    found = libc.mallinfo2()
    return int(found.uordblks + found.hblkhd)


def examples(number: int) -> list[Example]:
    draw = random.Random(number)
    made = []
    for row in range(100):
        features = {name: draw.random() for name in FIELDS}
        made.append(Example(f"e{row}", features, int(features["x0"] + 0.3 * draw.random() > 0.6)))
    return made


def memory() -> None:
    """Print the bytes of a resident loop in a learner and in a worker, in use and at rest, and of an evicted one."""
    with TemporaryDirectory() as place:
        root = Path(place)
        config.save(SPEC, root / "everlearn.toml")
        (root / "serving" / "loops").mkdir(parents=True)
        folder = LoopFolder(root)
        pool = Setup(spec=SPEC, home=place, serving=str(root / "serving"), pool=Pool(processes=1, memory=1 << 30))
        names = [f"loop-{number}" for number in range(COUNTED + 2)]
        assert folder.template is not None

        def hosted(name: str) -> HostedLoop:
            folder.create(name)
            one = HostedLoop(setup_of(pool, name, folder.spec(name), folder.home(name)), folder.spec(name))
            one.loop.log.append(examples(7))
            while one.step():
                pass
            return one

        loops: list[HostedLoop] = [hosted(names[0])]
        reading = schema.reading(SPEC.schema)

        def seat(name: str) -> Seat:
            one = Seat(setup_of(pool, name, SPEC, folder.home(name)), 0, reading, lambda: None)
            one.log.end()
            return one

        spare = hosted(names.pop())  # all that is loaded once is loaded
        seats = [seat(names[0])]
        for part in (spare, *loops):
            part.summarize()
            part.rest()
        spare.close()
        began = allocated()
        loops += [hosted(name) for name in names[1:]]
        arrays = sum(array.nbytes for array in loops[1].loop.fold.state()[0].values())
        in_use = (allocated() - began) / COUNTED - arrays
        for one in loops:
            one.rest()
        at_rest = (allocated() - began) / COUNTED - arrays
        middle = allocated()
        seats += [seat(name) for name in names[1:]]
        worker_in_use = (allocated() - middle) / COUNTED
        for held in seats:
            held.rest()
        worker_at_rest = (allocated() - middle) / COUNTED
        files = [*serving_of(pool, names[1]).iterdir()]
        shared = sum(-(-path.stat().st_size // 4096) * 4096 for path in files)
        for held in seats:
            held.close()
        for one in loops[1:]:
            one.close()
        del seats, loops[1:], held, one, part, spare
        evicted = (allocated() - began) / COUNTED
        loops[0].close()
    print(f"a resident linear loop, arrays of {arrays / 1e3:.0f} kB; bytes beyond them:")
    print(f"  learner      {in_use / 1e3:7.1f} kB while it works, {at_rest / 1e3:7.1f} kB at rest")
    print(f"  each worker  {worker_in_use / 1e3:7.1f} kB while it works, {worker_at_rest / 1e3:7.1f} kB at rest")
    print(f"  shared files {shared / 1e3:7.1f} kB, of which the served arrays are a part")
    for workers in (1, 2):
        total = (at_rest + workers * worker_at_rest + shared) / 1e3
        print(f"  in all, at rest, {workers} worker(s): {total:.0f} kB (at most 200)")
    print(f"an evicted loop: {evicted / 1e3:.1f} kB (at most 20)")


class Caller:
    """One connection that sends the same request again and again."""

    def __init__(self, url: str) -> None:
        found = httpx.URL(url)
        self._socket = socket.create_connection((found.host, found.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: Any) -> tuple[float, Any]:
        """Send a request; return the seconds until the whole reply was there, and its JSON."""
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        began = time.perf_counter()
        self._socket.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._socket.recv(65536)
        first, _, rest = data.partition(b"\r\n\r\n")
        length = int(first.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(rest) < length:
            rest += self._socket.recv(65536)
        seconds = time.perf_counter() - began
        assert first.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")), data
        return seconds, json.loads(rest)


def percentiles(taken: Sequence[float]) -> str:
    ordered = sorted(taken)
    return f"p50 {1e3 * statistics.median(ordered):.2f} ms, p99 {1e3 * ordered[int(0.99 * len(ordered))]:.2f} ms"


def resident(server: Server) -> dict[str, int]:
    return {
        name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for name, pid in server.processes.items()
    }


def serve(loops: int, requests: int) -> None:
    """Print the latencies of a server of one loop and of one of many, and the memory of the latter."""
    with TemporaryDirectory() as place:
        root = Path(place) / "loops"
        root.mkdir()
        config.save(SPEC, root / "everlearn.toml")
        draw = random.Random(5)
        body = lambda: {"features": {name: draw.random() for name in FIELDS}}  # noqa: E731
        pool = Pool(processes=2, memory=4 << 30, create=True)
        spec = config.load(root / "everlearn.toml")
        with Server(spec, Path(place) / "single") as single, Server(spec, root, pool=pool) as many:
            hosts = Caller(many.url)
            before = resident(many)
            began = time.perf_counter()
            created = [hosts.post(f"/loops/loop-{n}/predict", body())[0] for n in range(loops)]
            print(f"{loops} loops created and answered in {time.perf_counter() - began:.0f} s; {percentiles(created)}")
            after = resident(many)
            for name, size in after.items():
                grown = size - before.get(name, 0)
                print(f"  {name}: {size / 1e6:.0f} MB, {grown / loops / 1e3:.0f} kB a loop")
            list_time = timed(lambda: urlopen(f"{many.url}/loops?limit=100").read())
            print(f"  a page of the list: {1e3 * list_time:.0f} ms")
            for hot in sorted({1, min(50, loops), loops}):
                compare(single.url, many.url, body, requests, hot)
        evicted_answers(root, spec, body, loops)


def compare(single: str, many: str, body: Callable[[], Any], requests: int, hot: int) -> None:
    """Send predictions to both servers in turn, half of them with their labels, over so many warm loops."""
    draw = random.Random(7)
    names, hosts = [f"loop-{n}" for n in range(hot)], Caller(many)
    for name in names:
        hosts.post(f"/loops/{name}/predict", body())
    alone = Caller(single)
    taken: dict[str, list[float]] = {"one": [], "many": []}
    for number in range(requests):
        for kind, caller, prefix in (("one", alone, ""), ("many", hosts, f"/loops/{draw.choice(names)}")):
            seconds, answer = caller.post(f"{prefix}/predict", body())
            taken[kind].append(seconds)
            if number % 2:
                caller.post(f"{prefix}/feedback", {"id": answer["id"], "label": number % 4 // 2})
        time.sleep(0.001)
    ratio = sorted(taken["many"])[int(0.99 * requests)] / sorted(taken["one"])[int(0.99 * requests)]
    print(f"warm, {hot} loops in use: one {percentiles(taken['one'])}; many {percentiles(taken['many'])}")
    print(f"  p99 of many over one: {ratio:.2f} (at most 1.2)")


def evicted_answers(root: Path, spec: Spec, body: Callable[[], Any], loops: int) -> None:
    """Print how long the first answer of an evicted loop takes: memory for three loops a process, asked in rounds."""
    with Server(spec, root, pool=Pool(processes=2, memory=6_000_000)) as server:
        caller, taken = Caller(server.url), []
        for number in range(120):
            name = f"loop-{number * 7 % loops}"
            seconds = caller.post(f"/loops/{name}/predict", body())[0]
            if number >= 20:  # before, loops left by the other server may still be resident
                taken.append(seconds)
            time.sleep(0.1)
        print(f"first answer of an evicted loop: {percentiles(taken)}, worst {1e3 * max(taken):.0f} ms (at most 250)")


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--only", default="memory,serve")
    given = parser.parse_args()
    if "memory" in given.only:
        if os.environ.get("PYTHONMALLOC") != "malloc":
            again = [sys.executable, __file__, "--only", "memory"]
            subprocess.run(again, env={**os.environ, "PYTHONMALLOC": "malloc"}, check=True)
        else:
            memory()
    if "serve" in given.only:
        serve(given.loops, given.requests)


if __name__ == "__main__":
    main()
