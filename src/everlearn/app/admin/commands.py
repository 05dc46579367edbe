"""What a person tells the loop to do over HTTP: checked, appended to the log, carried out by the learner.

An order is answered once the learner has folded it (200, or 409 where it could not be carried out), or after five
seconds without that (202): it stands in the log, and is carried out as soon as the learner gets there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everlearn.app.admin.context import Parts
from everlearn.app.admin.http import body, sent, wrong
from everlearn.app.admin.responses import Challenge, DecisionEntry, Merge, Outcome, Promote, Rollback
from everlearn.app.problems import Refused
from everlearn.errors import BlobError, InputError, ModelError
from everlearn.loop import commands
from everlearn.merge import How
from everlearn.records import Decision
from everlearn.spec import MOST_BYTES

PATIENCE = 5.0  # seconds that an answer waits for the learner
LOOK = 0.01  # seconds between two looks
FOLLOWED = 50  # decisions behind the order that are looked at
REASON = 1000  # letters


async def promote(parts: Parts, request: Request) -> Response:
    """POST /versions/{id}/promote"""
    told = await body(request, Promote, MOST_BYTES)
    name = _known(parts, request.path_params["id"])
    return await _ordered(parts, request, lambda: commands.promote(parts.archive.versions, name, told.reason))


async def rollback(parts: Parts, request: Request) -> Response:
    """POST /rollback"""
    told = await body(request, Rollback, MOST_BYTES)
    left_out = told.without
    without = commands.Without(left_out.source, left_out.first, left_out.last) if left_out is not None else None

    def order() -> Decision:
        return commands.rollback(parts.archive.versions, told.reason, without, told.to)

    return await _ordered(parts, request, order)


async def challenge(parts: Parts, request: Request) -> Response:
    """POST /challengers"""
    told = await body(request, Challenge, MOST_BYTES)
    trusted = frozenset(parts.spec.serve.families)

    def order() -> Decision:
        try:
            return commands.challenge(parts.spec, told.model, told.reason, trusted, told.warm)
        except ModelError as error:  # what was asked for cannot be built: not our fault
            raise Refused(422, "This model cannot be built", str(error), {"where": "model"}) from error

    return await _ordered(parts, request, order)


async def merge(parts: Parts, request: Request) -> Response:
    """POST /merge"""
    told = await body(request, Merge, MOST_BYTES)
    how = How(method=told.method, weights=tuple(told.weights), density=told.density, scale=told.scale, seed=told.seed)

    def order() -> Decision:
        return commands.merge(parts.spec, parts.archive.versions, told.versions, how, told.reason, told.ancestor)

    return await _ordered(parts, request, order)


async def withdraw(parts: Parts, request: Request) -> Response:
    """DELETE /challengers/{version}"""
    reason = request.query_params.get("reason", "asked for by the user")
    if not 1 <= len(reason) <= REASON:
        raise wrong("reason", reason, f"1 to {REASON} letters")
    name = _known(parts, request.path_params["version"])
    return await _ordered(parts, request, lambda: commands.withdraw(parts.archive.versions, name, reason))


def _known(parts: Parts, name: str) -> str:
    """The id of the version of this name; refuses (404) one that there is not."""
    try:
        return parts.archive.versions.find(name).id
    except InputError as error:
        raise Refused(404, "There is no such version", str(error), {"where": "id", "got": name[:200]}) from None


async def _ordered(parts: Parts, request: Request, make: Callable[[], Decision]) -> Response:
    """Append the order that `make` gives, wait for the learner, and say what became of it."""
    position = await asyncio.to_thread(_appended, parts, make, request.state.source)
    deadline = time.monotonic() + PATIENCE
    while not (folded := parts.traffic.folded() >= position) and time.monotonic() < deadline:
        await asyncio.sleep(LOOK)
    outcome = await asyncio.to_thread(_outcome, parts, position, folded)
    for one in outcome.followed:
        if one.action == "reject":
            detail = f"the order is in the log, but could not be carried out: {one.reason}"
            raise Refused(409, "The order was rejected", detail, {"position": position})
    return sent(outcome, 200 if folded else 202)


def _appended(parts: Parts, make: Callable[[], Decision], source: str) -> int:
    """The position of the order; whose token asked for it is kept with it."""
    try:
        order = make()
    except BlobError as error:
        raise Refused(409, "The arrays of the version are gone", str(error), type="blob") from error
    if source:
        order = msgspec.structs.replace(order, detail=order.detail | {"token": source})
    return parts.log.append([order])[0]


def _outcome(parts: Parts, position: int, folded: bool) -> Outcome:
    order, *after = parts.archive.decisions(position - 1, 1 + FOLLOWED).decisions
    return Outcome(position, folded, order, parts.archive.aliases(), [one for one in after if _follows(one, order)])


def _follows(one: DecisionEntry, order: DecisionEntry) -> bool:
    return bool(one.detail.get("order") == order.detail["order"])
