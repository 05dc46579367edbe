"""The wire between workers and learners: calls are answered, names arrive, and a learner may come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from everlearn.app.many import wire
from everlearn.app.many.wire import LoopCalls, LoopLink, LoopReply
from everlearn.app.problems import Refused


class Learner:
    """A learner that replies to each call with a status, and remembers what was touched."""

    def __init__(self, path: Path, status: int = 200, text: str = "") -> None:
        self.calls = LoopCalls(path)
        self.touched: list[str] = []
        self.opened: list[str] = []
        self._status, self._text = status, text
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            caller, call = self.calls.queue.get()
            if call.what == "touch":
                self.touched += call.names
            else:
                self.opened += call.names
                caller.reply(LoopReply(call.id, self._status, self._text))


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


def test_calls_are_answered_and_refusals_raised(tmp_path: Path) -> None:
    async def main() -> None:
        link = LoopLink(tmp_path / "a.sock")
        replies = await asyncio.gather(*(link.ask("open", f"n{number}") for number in range(20)))
        assert {reply.status for reply in replies} == {200}
        await link.close()
        full = LoopLink(tmp_path / "full.sock")
        with pytest.raises(Refused, match="no room") as caught:
            await full.ask("create", "a")
        assert (caught.value.status, caught.value.headers) == (503, [(b"retry-after", b"1")])
        await full.close()

    learner, full = Learner(tmp_path / "a.sock"), Learner(tmp_path / "full.sock", 503, "no room")
    with closing(learner.calls), closing(full.calls):
        asyncio.run(main())
    assert sorted(learner.opened) == sorted(f"n{number}" for number in range(20))


def test_touches_and_calls_wait_for_a_learner_that_is_away(tmp_path: Path) -> None:
    async def main() -> None:
        link = LoopLink(tmp_path / "a.sock")
        link.touch(["a", "b"])
        link.touch(["b", "c"])
        asking = asyncio.create_task(link.ask("open", "d"))
        await asyncio.sleep(0.1)
        assert not asking.done()
        learners.append(Learner(tmp_path / "a.sock"))
        assert (await asking).status == 200
        await eventually(lambda: learners[0].touched == ["a", "b", "c"])
        await link.close()

    learners: list[Learner] = []
    asyncio.run(main())
    learners[0].calls.close()


def test_an_eviction_is_reported_to_all(tmp_path: Path) -> None:
    async def main() -> None:
        links = [LoopLink(tmp_path / "a.sock", gone.append) for _ in range(2)]
        for link in links:
            await link.ask("open", "a")
        await asyncio.to_thread(learner.calls.gone, "a")
        await eventually(lambda: gone == ["a", "a"])
        for link in links:
            await link.close()

    gone: list[str] = []
    learner = Learner(tmp_path / "a.sock")
    with closing(learner.calls):
        asyncio.run(main())


def test_a_learner_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PATIENCE", 0.1)

    async def main() -> None:
        link = LoopLink(tmp_path / "a.sock")
        with pytest.raises(Refused, match="did not become available") as caught:
            await link.ask("open", "a")
        assert caught.value.status == 503
        await link.close()

    asyncio.run(main())
