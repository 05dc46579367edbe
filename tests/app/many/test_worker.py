"""A worker and an admin application of many loops beside a host, in one process, without sockets of TCP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from everlearn.app.counters import Counters, read
from everlearn.app.many.admin import many_application
from everlearn.app.many.context import ManyContext
from everlearn.app.many.worker import LoopPaths, ManyWorker
from everlearn.app.process import Pool
from tests.support.loop_folders import HostThread, folder_of, template
from tests.support.servers import events_of, record

Ask = Callable[..., Awaitable[httpx.Response]]


@asynccontextmanager
async def living(worker: ManyWorker) -> AsyncIterator[httpx.AsyncClient]:
    """Run a worker, and yield a client of it."""
    begun, over = asyncio.Event(), asyncio.Event()
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        if begun.is_set():
            await over.wait()
        return next(messages)

    async def send(message: Any) -> None:
        begun.set()

    task = asyncio.create_task(worker({"type": "lifespan"}, receive, send))
    await begun.wait()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(worker), base_url="http://localhost") as client:
        yield client
    over.set()
    await task


def served(tmp_path: Path, act: Callable[[HostThread, httpx.AsyncClient], Awaitable[None]], **pool: Any) -> Path:
    """Let a worker and a host serve a folder while `act` uses them; return the folder."""
    root = folder_of(tmp_path / "loops", template())
    with HostThread(root) as host, closing(Counters(tmp_path / "counters")) as counters:
        bounds = Pool(**({"processes": 1, "memory": 1 << 28, "create": True} | pool))
        setup = msgspec.structs.replace(host.setup, pool=bounds)

        async def main() -> None:
            async with living(ManyWorker(setup, host.folder, counters, lambda: None)) as client:
                await act(host, client)

        asyncio.run(main())
    return root


def test_the_paths_of_the_hot_routes_name_their_loop() -> None:
    paths = LoopPaths()
    assert paths.get(b"/loops/a-1/feedback") == "feedback a-1"
    for other in (b"/predict", b"/loops/predict", b"/loops/a/b/predict", b"/x/a/predict", b"/loops/\xff/predict"):
        assert paths.get(other) is None


def test_requests_open_their_loop_and_are_learned(tmp_path: Path) -> None:
    async def act(host: HostThread, client: httpx.AsyncClient) -> None:
        first = [client.post(f"/loops/{name}/predict", json={"features": {}, "id": "p"}) for name in ("a", "b", "a")]
        assert {reply.status_code for reply in await asyncio.gather(*first)} == {200}
        for row in range(10):
            features, label = record(row)
            reply = await client.post("/loops/a/learn", json={"features": features, "label": label})
            assert reply.json()["accepted"] == 1
        assert (await client.post("/loops/a/feedback", json={"id": "p", "label": 1})).json()["accepted"] == 1
        reader = await asyncio.to_thread(host.reader, "a")
        await asyncio.to_thread(reader.current)
        while reader.position() < 14:
            await asyncio.sleep(0.01)
        assert host.resident() == {"a", "b"}

    root = served(tmp_path, act)
    assert sum(type(event.payload).__name__ == "Example" for event in events_of(root / "a.home")) == 10
    counts = read(tmp_path / "counters")["counts"]
    assert (counts["predict_2xx"], counts["learn_2xx"], counts["feedback_2xx"]) == (3, 10, 1)


def test_what_cannot_be_answered_is_refused_as_elsewhere(tmp_path: Path) -> None:
    async def act(host: HostThread, client: httpx.AsyncClient) -> None:
        unknown = await client.post("/loops/new/predict", json={"features": {}})
        assert (unknown.status_code, unknown.json()["instance"]) == (404, "/loops/new/predict")
        assert (await client.post("/loops/a.b/predict", json={"features": {}})).status_code == 422
        assert (await client.get("/loops/a/predict")).headers["allow"] == "POST"
        await asyncio.to_thread(host.ask, "create", "new")
        wrong = await client.post("/loops/new/predict", json={"features": {"a": "x"}})
        assert (wrong.status_code, wrong.json()["where"]) == (422, "field 'a'")
        assert (await client.get("/healthz")).json()["status"] == "ok"

    assert not (served(tmp_path, act, create=False) / "a.home").exists()


def test_a_loop_has_so_many_requests_a_second(tmp_path: Path) -> None:
    async def act(host: HostThread, client: httpx.AsyncClient) -> None:
        replies = [await client.post("/loops/loud/predict", json={"features": {}}) for _ in range(6)]
        assert replies[0].status_code == 200
        limited = [reply for reply in replies if reply.status_code == 429]
        assert limited
        assert int(limited[0].headers["retry-after"]) >= 1
        assert (await client.post("/loops/calm/predict", json={"features": {}})).status_code == 200

    served(tmp_path, act, rate=0.001)
    assert read(tmp_path / "counters")["counts"]["limited"] >= 1


def test_the_admin_application_lists_loops_and_passes_on_to_each(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "loops", template())

    async def act(context: ManyContext) -> None:
        app = many_application(context)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
        ):
            created = await client.post("/loops/a", json={})
            assert (created.status_code, created.json()["resident"]) == (201, True)
            assert (await client.post("/loops/a", json={})).status_code == 200
            assert (await client.post("/loops/a.b", json={})).status_code == 422
            other = await client.post("/loops/b", json={"model": {"family": "linear"}})
            assert other.status_code == 422
            assert "has the settings of the template. Put other settings into b.toml" in other.json()["detail"]
            assert (await client.get("/loops/b")).status_code == 404
            page = (await client.get("/loops")).json()
            assert ([one["name"] for one in page["loops"]], page["total"], page["next"]) == (["a"], 1, None)
            for path in ("versions", "decisions", "status", "metrics", "docs", "session", "static/app.js", ""):
                assert (await client.get(f"/loops/a/{path}")).status_code == 200, path
            missing = await client.get("/loops/a/versions/none")
            assert (missing.status_code, missing.json()["instance"]) == (404, "/loops/a/versions/none")
            assert (await client.get("/loops/none/versions")).status_code == 404
            assert "everlearn_loops 1.0" in (await client.get("/metrics")).text

    with HostThread(root) as host:
        asyncio.run(act(ManyContext(host.setup, host.folder)))


@pytest.mark.parametrize("path", ["/loops/a/versions", "/loops", "/loops/a", "/metrics"])
def test_with_a_token_nothing_is_shown_without_it(tmp_path: Path, path: str) -> None:
    root = folder_of(tmp_path / "loops", template())
    (root / "tokens.json").write_text('{"format": 1, "tokens": []}')
    (root / "tokens.json").chmod(0o600)

    async def act(context: ManyContext) -> None:
        app = many_application(context)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            assert (await client.get(path)).status_code == 401
            assert (await client.get("/")).status_code == 200

    setup = HostThread.setup_of(root)
    asyncio.run(act(ManyContext(*setup)))
