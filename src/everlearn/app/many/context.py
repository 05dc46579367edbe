"""What the endpoints of a server of many loops share, and the admin contexts of the loops that are being looked at."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request

from everlearn.app.admin.application import application
from everlearn.app.admin.context import AdminContext
from everlearn.app.auth import CLIENT, Access
from everlearn.app.auth.sessions import Sessions
from everlearn.app.many.folder import LoopFolder, check_known, link_of, serving_of, setup_of
from everlearn.app.many.wire import LoopLink
from everlearn.app.process import Setup
from everlearn.client.loop_records import LoopEntry
from everlearn.serve import snapshot

OPEN = 16  # loops whose admin context is kept
IDLE = 30.0  # seconds for which it is kept without a request
ASK = 2.0  # seconds between two requests to the learner to go on writing a loop's status
STATUS = 5.0  # seconds that the first status may take


@dataclass(slots=True)
class OpenedLoop:
    """The admin application of one loop, the task that follows the loop, and when both were last needed."""

    context: AdminContext
    app: Starlette
    watching: asyncio.Task[None]
    used: float
    renewed: float


class ManyContext:
    """The state of the admin process of many loops."""

    def __init__(self, setup: Setup, folder: LoopFolder) -> None:
        assert setup.pool is not None
        self.setup, self.folder = setup, folder
        self.access = Access(setup, Sessions(setup.secure))
        self._links: list[LoopLink] = []
        self._opened: OrderedDict[str, OpenedLoop] = OrderedDict()
        self._opening: dict[str, asyncio.Lock] = {}

    def start(self) -> None:
        """Work on the running event loop."""
        self._links = [LoopLink(link_of(self.setup, i), self._gone) for i in range(self.folder.processes)]

    async def close(self) -> None:
        """Close all contexts and links."""
        for name in [*self._opened]:
            await self._close(name)
        for link in self._links:
            await link.close()

    def client(self, request: Request) -> str:
        """Return the address of the client, as the worker that passed the request on recorded it."""
        return request.headers.get(CLIENT.decode(), "")

    def entry(self, name: str) -> LoopEntry:
        """Return a loop of a list. The position of a resident loop is that of this moment."""
        known, serving = self.folder.summary(name), serving_of(self.setup, name)
        resident = serving.is_dir()
        position = max(known.position, snapshot.words(serving)[1]) if resident else known.position
        return LoopEntry(name, resident, position, known.time or None, known.metric, known.value, known.version)

    def found(self, name: str) -> str:
        """Return the name of a loop. Raises Refused (404) for an unknown one."""
        check_known(self.folder, name)
        return name

    async def create(self, name: str) -> int:
        """Create a loop, and return 201; return 200 if there was one."""
        self.folder.check_name(name)
        return (await self._link(name).ask("create", name)).status

    async def opened(self, name: str) -> Starlette:
        """Return the admin application of a loop, which stays resident while it is looked at. Raises Refused."""
        self.found(name)
        async with self._opening.setdefault(name, asyncio.Lock()):
            now = time.monotonic()
            held = self._opened.get(name)
            if held is None or now - held.renewed > ASK:
                await self._link(name).ask("watch", name)
            if held is None:
                held = await self._open(name)
            held.used, held.renewed = now, now if now - held.renewed > ASK else held.renewed
            self._opened.move_to_end(name)
        await self._let_go(now)
        return held.app

    async def _open(self, name: str) -> OpenedLoop:
        setup = setup_of(self.setup, name, self.folder.spec(name), self.folder.home(name))
        context = await asyncio.to_thread(AdminContext, setup, self.access)
        now = time.monotonic()
        held = OpenedLoop(context, application(context), asyncio.create_task(context.live.watch()), now, now)
        self._opened[name] = held
        while context.live.status is None and time.monotonic() < now + STATUS:
            context.live.look()
            await asyncio.sleep(0.01)
        return held

    async def _let_go(self, now: float) -> None:
        """Close the contexts that no page has used for a while, and those beyond the bound."""
        idle = [name for name, held in self._opened.items() if now - held.used > IDLE]
        beyond = [*self._opened][: max(0, len(self._opened) - OPEN)]
        for name in {*idle, *beyond}:
            await self._close(name)

    async def _close(self, name: str) -> None:
        held = self._opened.pop(name, None)
        self._opening.pop(name, None)
        if held is not None:
            held.watching.cancel()
            with suppress(asyncio.CancelledError):
                await held.watching
            await asyncio.to_thread(held.context.close)

    def _link(self, name: str) -> LoopLink:
        return self._links[self.folder.owner(name)]

    def _gone(self, name: str) -> None:
        """Forget the context of a loop that was evicted: its files in memory are gone."""
        if name in self._opened:
            self._opened[name].used = -IDLE


def writable(root: Path) -> str:
    """Return why no loop can be created or learn in a folder; "" if one can."""
    probe = root / ".writable"
    try:
        probe.write_bytes(b"1")
        probe.unlink()
    except OSError as error:
        return f"the folder of loops cannot be written: {error.strerror}"
    return ""
