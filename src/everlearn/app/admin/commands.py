"""Endpoints that change the loop: check a command, append it to the log, and wait for the learner to carry it out.

The reply is sent when the learner has folded the command: 200, or 409 if the loop rejected it. If that takes longer
than five seconds, the reply is 202; the command stays in the log, and the learner carries it out when it gets there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from everlearn.app.admin.context import AdminContext
from everlearn.app.admin.http import body, uncached, wrong
from everlearn.app.problems import Refused
from everlearn.app.process import append
from everlearn.client.records import (
    ChallengeCommand,
    CommandOutcome,
    DecisionEntry,
    MergeCommand,
    NameCommand,
    PauseCommand,
    PromoteCommand,
    RollbackCommand,
)
from everlearn.errors import BlobError, InputError, ModelError
from everlearn.loop import commands, details
from everlearn.loop.details import Without
from everlearn.merge import How
from everlearn.records import Decision, Version
from everlearn.spec import MOST_BYTES

PATIENCE = 5.0  # seconds that a reply waits for the learner
LOOK = 0.01  # seconds between two looks at its progress
FOLLOWED = 50  # decisions after the command that are searched for its outcome
REASON = 1000  # letters


async def promote(context: AdminContext, request: Request) -> Response:
    """POST /versions/{id}/promote"""
    message = await body(request, PromoteCommand, MOST_BYTES)
    id = find(context, request.path_params["id"]).id
    return await _carry_out(context, request, lambda: commands.promote(context.queries.versions, id, message.reason))


async def rollback(context: AdminContext, request: Request) -> Response:
    """POST /rollback"""
    message = await body(request, RollbackCommand, MOST_BYTES)
    labels = message.without
    without = Without(labels.source, labels.first, labels.last) if labels is not None else None

    def make() -> Decision:
        return commands.rollback(context.queries.versions, message.reason, without, message.to)

    return await _carry_out(context, request, make)


async def name(context: AdminContext, request: Request) -> Response:
    """POST /versions/{id}/name"""
    message = await body(request, NameCommand, MOST_BYTES)
    id = find(context, request.path_params["id"]).id

    def make() -> Decision:
        return commands.name(context.queries.versions, id, message.name, message.note, message.reason)

    return await _carry_out(context, request, make)


async def pause(context: AdminContext, request: Request) -> Response:
    """POST /pause"""
    message = await body(request, PauseCommand, MOST_BYTES)
    return await _carry_out(context, request, lambda: commands.pause(message.reason))


async def resume(context: AdminContext, request: Request) -> Response:
    """POST /resume"""
    message = await body(request, PauseCommand, MOST_BYTES)
    return await _carry_out(context, request, lambda: commands.resume(message.reason))


async def challenge(context: AdminContext, request: Request) -> Response:
    """POST /challengers"""
    message = await body(request, ChallengeCommand, MOST_BYTES)
    trusted = frozenset(context.spec.serve.families)

    def make() -> Decision:
        try:
            return commands.challenge(context.spec, message.model, message.reason, trusted, message.warm)
        except ModelError as error:  # the request is wrong, not the server
            raise Refused(422, "This model cannot be built", str(error), {"where": "model"}) from error

    return await _carry_out(context, request, make)


async def merge(context: AdminContext, request: Request) -> Response:
    """POST /merge"""
    message = await body(request, MergeCommand, MOST_BYTES)
    weights = tuple(message.weights)
    how = How(method=message.method, weights=weights, density=message.density, scale=message.scale, seed=message.seed)
    versions, reason, ancestor = message.versions, message.reason, message.ancestor

    def make() -> Decision:
        return commands.merge(context.spec, context.queries.versions, versions, how, reason, ancestor)

    return await _carry_out(context, request, make)


async def withdraw(context: AdminContext, request: Request) -> Response:
    """DELETE /challengers/{version}"""
    reason = request.query_params.get("reason", "asked for by the user")
    if not 1 <= len(reason) <= REASON:
        raise wrong("reason", reason, f"1 to {REASON} letters")
    id = find(context, request.path_params["version"]).id
    return await _carry_out(context, request, lambda: commands.withdraw(context.queries.versions, id, reason))


def find(context: AdminContext, name: str) -> Version:
    """Return the version with an id, a unique prefix of one, or an alias; raises Refused (404) if there is none."""
    try:
        return context.queries.versions.find(name)
    except InputError as error:
        raise Refused(404, "There is no such version", str(error), {"where": "id", "got": name[:200]}) from None


async def _carry_out(context: AdminContext, request: Request, make: Callable[[], Decision]) -> Response:
    """Append the command that `make` returns, wait for the learner, and reply with the outcome."""
    position = await asyncio.to_thread(_append, context, make, request.state.source)
    deadline = time.monotonic() + PATIENCE
    while not (folded := context.live.folded() >= position) and time.monotonic() < deadline:
        await asyncio.sleep(LOOK)
    outcome = await asyncio.to_thread(_outcome, context, position, folded)
    for decision in outcome.followed:
        if decision.action == "reject":
            detail = f"the command is in the log, but could not be carried out: {decision.reason}"
            raise Refused(409, "The command was rejected", detail, {"position": position})
    return uncached(outcome, 200 if folded else 202)


def _append(context: AdminContext, make: Callable[[], Decision], source: str) -> int:
    """Append the command with the name of the token that sent it, and return its position."""
    try:
        command = make()
    except BlobError as error:
        raise Refused(409, "The arrays of the version are gone", str(error), type="blob") from error
    if source:
        command = details.with_token(command, source)
    return append(context.log, [command])[0]


def _outcome(context: AdminContext, position: int, folded: bool) -> CommandOutcome:
    command, *later = context.queries.decisions(position - 1, 1 + FOLLOWED).decisions
    followed = [decision for decision in later if _follows(decision, command)]
    return CommandOutcome(position, folded, command, context.queries.aliases(), followed)


def _follows(decision: DecisionEntry, command: DecisionEntry) -> bool:
    return bool(decision.detail.get("order") == command.detail["order"])
