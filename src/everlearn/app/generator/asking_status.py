"""GET /v1/preferences: the questions, who gets them, their cost, and how far the sources of judgements agree.

The same document is written to a file of the server's folder in memory, for the dashboard and for Prometheus.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everlearn import _private
from everlearn.app.admin.http import uncached
from everlearn.app.generator.accounts import LabelAccounts
from everlearn.app.generator.context import GeneratorContext
from everlearn.app.generator.judging import JudgeDesk
from everlearn.app.generator.pool import PairPool
from everlearn.client.label_records import (
    AnnotatorReport,
    AskingStatus,
    JudgeAgreement,
    JudgeStatus,
    SourceSpending,
)
from everlearn.families.preference import choose
from everlearn.families.preference.asking import selecting

log = logging.getLogger("everlearn.generator")

EVERY = 1.0  # seconds between two writes of the file


class AskingReport:
    """What the pool, the judge and the accounts say, as one record."""

    def __init__(
        self, context: GeneratorContext, pool: PairPool, accounts: LabelAccounts, judge: JudgeDesk | None
    ) -> None:
        self._context, self._pool, self._accounts, self._judge = context, pool, accounts, judge

    async def status(self) -> AskingStatus:
        """Return the present state. Reads the learner's status for the win in duels.

        The pool, the desk and the judge belong to the event loop, which reads them; a thread does the rest.
        """
        pool, judge = self._pool, self._judge
        found: dict[str, Any] = {
            "state": "stopped" if pool.stopped else "asking",
            "reason": pool.why_none(),
            "prompts": pool.prompts[0],
            "skipped_prompts": pool.prompts[1],
            "ready": len(pool.ready),
            "judge": None if judge is None else JudgeStatus(judge.source, judge.busy, judge.trouble),
        }
        return await asyncio.to_thread(self._status, found)

    def _status(self, found: dict[str, Any]) -> AskingStatus:
        """Return the state with what the model and the accounts know."""
        policy, accounts = self._context.device.policy, self._accounts
        part = policy.model.part("asking") if policy is not None else choose.start()
        selector = policy.model.settings.choose.selector if policy is not None else ""
        known = choose.known(part)
        gain = self._gain()
        worth = accounts.win_per_unit(gain) if gain is not None else [None, None]
        names = accounts.names()
        people = policy.model.summary()["annotators"] if policy is not None else []
        return AskingStatus(
            **found,
            selector=selecting(policy.model) if policy is not None else "random",
            configured=selector,
            information=float(known.mean()) if len(known) else None,
            least=self._context.spec.ask.least,
            sources=[
                SourceSpending(**one._asdict(), win_per_unit=win)
                for one, win in zip(accounts.spending(time.time()), worth, strict=True)
            ],
            agreement=[JudgeAgreement(source, **found) for source, found in accounts.agreements().items()],
            annotators=[AnnotatorReport(**one, source=names.get(one["digest"], "")) for one in people],
        )

    def _gain(self) -> float | None:
        """Return how far the win of the newest compared policy is above one half; None before the first duel."""
        try:
            found: dict[str, Any] = msgspec.json.decode(self._context.setup.status.read_bytes())
            return float(found["preference"]["duels"][0]["win"]["value"]) - 0.5
        except (OSError, msgspec.DecodeError, KeyError, IndexError, TypeError):
            return None

    async def run(self) -> None:
        """Write the file until cancelled."""
        path = self._context.setup.asking
        unfinished = path.with_name(f".{path.name}.unfinished")
        while True:
            try:
                _private.write(unfinished, msgspec.json.encode(await self.status()))
                unfinished.replace(path)
            except OSError as error:  # asking goes on without a status
                log.warning("the status of asking cannot be written: %s", error)
            await asyncio.sleep(EVERY)


async def status(report: AskingReport, request: Request) -> Response:
    """GET /v1/preferences"""
    return uncached(await report.status())
