"""The objects that the endpoints of the generator share, and the way in which they write to the log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
from starlette.requests import Request

from everlearn import schema
from everlearn.app.auth import CLIENT, Access, Scope
from everlearn.app.generator.device import Call, Device, ServedPolicy, builder
from everlearn.app.process import Setup, append
from everlearn.client.records import PageSession
from everlearn.events import log_of
from everlearn.feedback import admission
from everlearn.feedback.admission import Admission
from everlearn.predict import new_id
from everlearn.records import Payload, Prediction
from everlearn.schema.question import Asked
from everlearn.serve.snapshot import Reader

_FORWARDED = ("cookie", "host", "sec-fetch-site")


class GeneratorContext:
    """The state of one generator process; a context manager that stops its thread and closes the log on exit.

    Raises LogError for a log that cannot be read.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.spec = setup.spec
        with ExitStack() as undo:
            self.log = log_of(setup.home, setup.spec.log, tidy=False)
            undo.callback(self.log.close)
            self.admission = Admission(setup.spec, schema.reading(setup.spec.schema), self.log)
            self.access = Access(setup)
            self.device = Device(lambda: Reader(Path(setup.serving), builder(), reuse=True))
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        self.device.start()
        self._undo.callback(self.device.stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    async def allow(self, request: Request, scope: Scope) -> str:
        """Admit a request that needs a scope, by its token or by the session of its page; return the token's name.

        Sessions live in the admin process, which looks them up. Raises Refused as `Access.allow` does.
        """
        headers, client = request.headers.raw, request.headers.get(CLIENT.decode(), "")
        if "authorization" not in request.headers and "cookie" in request.headers:
            session = await self._session(request)
            if session is not None and not session.open:
                return self.access.allow_page(headers, session, scope, request.method)
        return self.access.allow(headers, scope, request.method, client)

    async def _session(self, request: Request) -> PageSession | None:
        sent = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
        transport = httpx.AsyncHTTPTransport(uds=str(self.setup.admin))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=5.0) as client:
            try:
                found = await client.get("/session", headers=sent)
            except httpx.HTTPError:  # the admin process is being started again
                return None
        return msgspec.json.decode(found.content, type=PageSession) if found.status_code == 200 else None

    async def append(self, payloads: Sequence[Payload]) -> list[int]:
        """Write events, and return their positions once they are durable. Raises as `app.process.append` does."""
        return await asyncio.to_thread(append, self.log, payloads)

    async def compute(self, work: Any) -> Any:
        """Return what `work(policy)` returns in the device's thread. Raises what it raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any) -> None:
            if done.cancelled():
                return
            if isinstance(result, Exception):
                done.set_exception(result)
            else:
                done.set_result(result)

        self.device.call(Call(work, lambda result: _soon(loop, settle, result)))
        return await done

    def prediction(
        self,
        pair: Asked,
        policy: ServedPolicy,
        prompt: str,
        *,
        id: str = "",
        proba: Sequence[float] = (),
        user: str = "",
    ) -> Prediction:
        """Return a question as a prediction for the log. Raises InputError for one that is longer than allowed."""
        record: Mapping[str, Any] = {"prompt": prompt}
        if self.spec.subject and user:
            record = {**record, self.spec.subject: user}
        made = admission.pair(self.admission, pair, record, proba, refused=policy.model.refused)
        return msgspec.structs.replace(made, id=id or new_id(), version=policy.version, position=policy.position)


def _soon(loop: asyncio.AbstractEventLoop, call: Any, result: Any) -> None:
    """Call in the event loop, unless that has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, result)
