"""The judge of a server: it takes pairs that are ready, asks a model or a function in both orders, and logs verdicts.

Each pair is judged in a thread that ends with the process, so no request of a client waits for a judge. Answers that
came are kept in `judge.db` in the home: after a kill the pair is taken up again, and only the rest is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from everlearn.app.generator.accounts import LabelAccounts
from everlearn.app.generator.context import GeneratorContext
from everlearn.app.generator.noting import JUDGE, AskingDecisions
from everlearn.app.generator.pool import PairPool, ReadyPair
from everlearn.errors import ConfigError, EverlearnError, ModelError
from everlearn.families.preference.answer_cache import AnswerCache
from everlearn.families.preference.endpoint import Endpoint, EndpointClient, JudgeUnavailable
from everlearn.families.preference.judge import Judge, JudgeSettings, judged, model_judge, trusted_judge
from everlearn.families.preference.judged_pairs import AnswerPair, preference_fields
from everlearn.records import Prediction, Preference
from everlearn.schema import question
from everlearn.spec import Spec

log = logging.getLogger("everlearn.generator")

CACHE = "judge.db"  # in the home
IDLE = 1.0  # seconds between two looks for a pair
LONGEST = 60.0  # seconds between two attempts to reach a judge

Found = TypeVar("Found")


def opened(spec: Spec, home: Path, undo: ExitStack) -> Judge | None:
    """Return the judge that settings name; None for none. `undo` closes what it holds open.

    Raises ConfigError for settings that name no judge that can be asked.
    """
    given = spec.judge
    if given.function:
        return trusted_judge(given.name, given.function)
    if not given.url:
        return None
    for name in ("model", "rubric"):
        if not getattr(given, name):
            raise ConfigError(f"judge.{name}: got none beside judge.url; expected one. Set it")
    client = undo.enter_context(EndpointClient(Endpoint(given.url, given.model, given.key)))
    cache = AnswerCache(home / CACHE)
    undo.callback(cache.close)
    return model_judge(JudgeSettings(given.name, given.rubric, given.model, at_once=given.at_once), client, cache)


def answer_pair(pair: Prediction) -> AnswerPair:
    """Return a pair of the log as judges are asked about it."""
    first, second = question.judged(question.decode(pair.payload))
    return AnswerPair(pair.id, str(pair.features.get("prompt", "")), first.text, second.text)


class JudgeDesk:
    """The judge at work. `trouble` says why it does not judge, "" while it does."""

    def __init__(self, context: GeneratorContext, accounts: LabelAccounts, judge: Judge) -> None:
        self._context, self._accounts, self._judge = context, accounts, judge
        self.source = judge.source
        self.trouble = ""
        self.busy = 0  # pairs that are being judged

    async def run(self, pool: PairPool, decisions: AskingDecisions) -> None:
        """Judge pairs until cancelled, or until the judge refuses its settings."""
        before = decisions.value(JUDGE)
        change = f"; it was {before}" if before else ""
        await asyncio.to_thread(decisions.note, JUDGE, self.source, f"the judge is {self.source}{change}", "user")
        async with asyncio.TaskGroup() as group:
            for _ in range(self._context.spec.judge.at_once):
                group.create_task(self._work(pool))

    async def _work(self, pool: PairPool) -> None:
        failures = 0
        while True:
            if (pair := pool.for_judge()) is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(IDLE), pool.more:
                        await pool.more.wait()
                continue
            self.busy += 1
            wait = 0.0
            try:
                await self._verdict(pair)
                self.trouble, failures = "", 0
            except EverlearnError as error:
                if not isinstance(error, ModelError):  # a function that fails on this pair would fail again
                    pool.refuse(pair)
                if str(error) != self.trouble:
                    self.trouble = str(error)
                    log.error("the judge gives no verdict: %s", error)
                if isinstance(error, ConfigError):
                    return
                failures += isinstance(error, JudgeUnavailable)
                wait = min(LONGEST, 2.0**failures)
            finally:
                self.busy -= 1
            await asyncio.sleep(wait)  # the pair is no longer reserved meanwhile

    async def _verdict(self, pair: ReadyPair) -> None:
        """Judge a pair and log the verdict, unless the log holds one of this judge. Raises what the judge raises."""
        context, id = self._context, pair.prediction.id
        before = await asyncio.to_thread(context.log.about, id)
        if any(isinstance(one.payload, Preference) and one.payload.source == self.source for one in before):
            return
        found = await in_thread(lambda: judged(self._judge, answer_pair(pair.prediction)))
        await context.append([Preference(**preference_fields(found))])
        await asyncio.to_thread(self._accounts.follow)


async def in_thread(work: Callable[[], Found]) -> Found:
    """Return what `work` returns in a thread that the end of the process does not wait for. Raises what it raises."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Found] = loop.create_future()

    def settle(found: Found | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(found)  # type: ignore[arg-type]

    def run() -> None:
        found, error = None, None
        try:
            found = work()
        except Exception as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=run, name="everlearn-judging", daemon=True).start()
    return await done
