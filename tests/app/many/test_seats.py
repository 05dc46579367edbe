"""The seats of a worker: a loop that its learner lets go still answers what is under way."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everlearn.app.many import seats as seats_module
from everlearn.app.many.seats import Seats
from everlearn.app.problems import Refused
from everlearn.app.process import Pool
from everlearn.errors import BlobError
from tests.support.loop_folders import HostThread, folder_of, template
from tests.support.servers import events_of, record


def test_a_request_that_a_slow_log_still_writes_is_answered_after_an_eviction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats_module, "RETIRE", 0.0)
    monkeypatch.setattr(seats_module, "LOOK", 0.01)
    root = folder_of(tmp_path / "loops", template())
    go_on, closed = threading.Event(), threading.Event()

    async def act(host: HostThread) -> dict[str, Any]:
        pool = Pool(processes=1, memory=1 << 28, create=True)
        seats = Seats(msgspec.structs.replace(host.setup, pool=pool), host.folder)
        seats.start(asyncio.get_running_loop())
        seat = await seats.open("a")
        put, close = seat.log.try_put, seat.log.close
        monkeypatch.setattr(seat.log, "quick", False)
        monkeypatch.setattr(seat.log, "try_put", lambda rows: go_on.wait(60) and put(rows))
        monkeypatch.setattr(seat.log, "close", lambda: (close(), closed.set()))
        features, label = record(0)
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        seat.hot.put("learn", json.dumps({"features": features, "label": label}).encode(), b"", "test", reply)
        await asyncio.sleep(0.05)  # it is being written now
        seats._gone("a")
        await asyncio.sleep(0.1)
        go_on.set()
        body = await asyncio.wait_for(reply, 60)
        assert await asyncio.to_thread(closed.wait, 60)
        await seats.close()
        return dict(json.loads(body))

    with HostThread(root) as host:
        assert asyncio.run(act(host))["accepted"] == 1
    assert [type(event.payload).__name__ for event in events_of(root / "a.home")].count("Example") == 1


@pytest.mark.parametrize("gone", [FileNotFoundError("loops/a"), BlobError("nothing to serve")])
@pytest.mark.parametrize("times", [2, seats_module.TRIES])
def test_a_loop_that_is_let_go_while_it_is_opened_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: Exception, times: int
) -> None:
    """The published files leave between the learner's answer and the worker's look, as they do in an eviction."""
    root, made, left = folder_of(tmp_path / "loops", template()), Seats._made, [gone] * times

    def raced(seats: Seats, name: str) -> Any:
        if left:
            raise left.pop()
        return made(seats, name)

    async def act(host: HostThread) -> int:
        pool = Pool(processes=1, memory=1 << 28, create=True)
        seats = Seats(msgspec.structs.replace(host.setup, pool=pool), host.folder)
        seats.start(asyncio.get_running_loop())
        try:
            await seats.open("a")
            return 200
        except Refused as error:
            return error.status
        finally:
            await seats.close()

    monkeypatch.setattr(Seats, "_made", raced)
    with HostThread(root) as host:
        assert asyncio.run(act(host)) == (200 if times == 2 else 503)
    assert left == []
