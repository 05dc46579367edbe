"""Questions that measure annotators: gold questions, whose answer is known, and pairs that they have judged before.

Both are mixed among the ordinary ones, look like them, and are chosen by the number of an annotator's question, so that
the share holds for each annotator.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import NamedTuple

import numpy as np

from everlearn.app.generator.context import GeneratorContext
from everlearn.app.generator.device import ServedPolicy
from everlearn.app.generator.pool import PairPool
from everlearn.errors import EverlearnError, InputError
from everlearn.families.preference import asking
from everlearn.feedback import admission
from everlearn.loop.questions import plain, predicted
from everlearn.records import Prediction
from everlearn.schema import question
from everlearn.schema.question import Asked
from everlearn.serve.snapshot import Answering
from everlearn.stream.preferences import PreferredRow, Text, read_preferences
from everlearn.stream.prompts import Prompt

log = logging.getLogger("everlearn.generator")

PLANTED = ("gold", "again")  # arms
GAP = 10  # judgements between a pair and its repetition, at least


class JudgedWork(NamedTuple):
    """The work of an annotator: questions so far, gold questions, pairs asked again, places chosen, pairs to repeat."""

    judged: int
    golds: int
    repeated: Set[str]
    chosen: Mapping[str, int]
    plain: Sequence[str]


class GoldPair(NamedTuple):
    """A prompt, the answer that is known to be better, and the other one."""

    prompt: Prompt
    better: str
    worse: str


class Planting:
    """The gold questions of the file `ask.gold`, and those that are planted among the questions of annotators."""

    def __init__(self, context: GeneratorContext, pool: PairPool) -> None:
        self._context, self._pool = context, pool
        self._gold: list[GoldPair] = []
        self._given: dict[str, int] = {}  # questions of each annotator that were drawn

    async def read(self) -> None:
        """Read the gold questions; those that are too long are passed over, counted and reported once."""
        if not (path := self._context.spec.ask.gold):
            return
        try:
            given = await asyncio.to_thread(read_gold, path)
        except (EverlearnError, OSError) as error:
            log.error("there are no gold questions: %s", error)
            return
        problems = await self._pool.problems([partial(_problem, one) for one in given])
        self._gold = [one for one, problem in zip(given, problems, strict=True) if not problem]
        if len(self._gold) < len(given):
            first = next(problem for problem in problems if problem)
            fields = {"gold": len(given), "skipped": len(given) - len(self._gold)}
            log.warning("some gold questions are passed over; the first: %s", first, extra={"fields": fields})

    async def drawn(self, name: str, one: JudgedWork) -> Prediction | None:
        """Return a gold question or a repeated pair for an annotator's next question; None for an ordinary one."""
        share, number = self._context.spec.ask.planted, self._given.get(name, one.judged)
        self._given[name] = number + 1
        who = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "little")
        key = (self._context.spec.seed, who, number)
        drawn = float(np.random.default_rng(key).random())
        try:
            if drawn < share and self._gold:
                return await self._gold_question(one.golds, key)
            if share <= drawn < 2.0 * share:
                return await self._repetition(one, key)
        except EverlearnError as error:  # for instance the pair was erased, or no version is published
            log.warning("no question is planted: %s", error)
        return None

    async def _gold_question(self, count: int, key: tuple[int, ...]) -> Prediction:
        order = np.random.default_rng(key[:2]).permutation(len(self._gold))
        gold = self._gold[int(order[count % len(order)])]

        def work(policy: ServedPolicy) -> Prediction:
            held = policy.model
            position = held.policy.reference_digest
            given = asking.known(
                held, held.prompt_ids(plain(gold.prompt)), gold.better, gold.worse, key,
                version=policy.version, position=position,
            )  # fmt: skip
            proba = predicted(Answering(policy.version, held), self._context.admission.encoder, given)
            return self._context.prediction(given, policy, gold.prompt.text, proba=proba)

        return await self._logged(work)

    async def _repetition(self, one: JudgedWork, key: tuple[int, ...]) -> Prediction | None:
        """Return a pair that the annotator chose in at least `GAP` judgements ago, and that was not asked again yet."""
        old = [id for id in one.plain[:-GAP] if id in one.chosen and id not in one.repeated]
        if not old:
            return None
        id = old[int(np.random.default_rng([*key, 1]).integers(len(old)))]
        before = await asyncio.to_thread(admission.prediction, self._context.log, id)
        if before is None:
            return None
        given: Asked = asking.repeated(question.decode(before.payload), id, one.chosen[id], key)
        prompt = str(before.features.get("prompt", ""))
        return await self._logged(lambda policy: self._context.prediction(given, policy, prompt))

    async def _logged(self, work: Callable[[ServedPolicy], Prediction]) -> Prediction:
        made: Prediction = await self._context.compute(work)
        await self._context.append([made])
        return made


def read_gold(path: str) -> list[GoldPair]:
    """Return the pairs of a file with the columns `prompt`, `chosen` and `rejected`. Raises InputError without any."""
    rows = [row for chunk in read_preferences(path, "preference") for row in chunk.rows]
    found = [
        GoldPair(Prompt(row.prompt), _last(row.chosen), _last(row.rejected))
        for row in rows
        if isinstance(row, PreferredRow)
    ]
    if not found:
        raise InputError(f"ask.gold: got no pair in {path}; expected rows with prompt, chosen and rejected")
    return found


def _last(text: Text) -> str:
    return text if isinstance(text, str) else text[-1].content


def _problem(one: GoldPair, policy: ServedPolicy) -> str:
    """Return why a gold question cannot be asked; "" where it can."""
    try:
        ids = policy.model.prompt_ids(plain(one.prompt))
        for text in (one.better, one.worse):
            asking.typed(policy.model, ids, text)
    except InputError as error:
        return f"{one.prompt.text[:60]!r}: {error}"
    return ""
