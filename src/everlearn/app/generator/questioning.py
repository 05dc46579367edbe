"""The parts that ask questions, wired: pool of pairs, desk of annotators, judge, accounts and report."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from everlearn.app.generator import judging
from everlearn.app.generator.accounts import LabelAccounts
from everlearn.app.generator.asking_status import AskingReport
from everlearn.app.generator.context import GeneratorContext
from everlearn.app.generator.judging import JudgeDesk
from everlearn.app.generator.label import LabelDesk
from everlearn.app.generator.noting import AskingDecisions
from everlearn.app.generator.pool import PairPool
from everlearn.records import Ints

log = logging.getLogger("everlearn.generator")


class Questioning:
    """All that asks, in one process. Raises ConfigError for settings that name no judge that can be asked."""

    def __init__(self, context: GeneratorContext) -> None:
        self._context, self._undo = context, ExitStack()
        found = judging.opened(context.spec, Path(context.setup.home), self._undo)
        self.accounts = LabelAccounts(context.spec, context.log)
        self.judge = JudgeDesk(context, self.accounts, found) if found is not None else None
        at_once = context.spec.judge.at_once if found is not None else 0
        self.pool = PairPool(context, self.accounts, at_once, self._reserved)
        self.desk = LabelDesk(context, self.pool)
        self.report = AskingReport(context, self.pool, self.accounts, self.judge)

    def _reserved(self) -> Ints:
        """Return how many labels of people and of the judge are on their way."""
        return np.array([self.desk.held(), self.judge.busy if self.judge is not None else 0], np.int64)

    async def run(self) -> None:
        """Ask until cancelled."""
        try:
            await self._run()
        except Exception:
            log.exception("no more questions are asked; restart the server")
            raise

    async def _run(self) -> None:
        decisions = await asyncio.to_thread(AskingDecisions, self._context.log)
        await asyncio.to_thread(self.accounts.follow)
        await self.desk.recall()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.report.run())
            group.create_task(self.desk.plant())
            group.create_task(self.pool.run(decisions))
            if self.judge is not None:
                group.create_task(self.judge.run(self.pool, decisions))

    def close(self) -> None:
        """Close the connections to the judge and the file of its answers."""
        self._undo.close()
