"""The pairs that are kept ready for people and for the judge: made ahead, routed by price, replaced when old."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from everlearn.app.generator.accounts import JUDGES, PEOPLE, LabelAccounts, kind_of
from everlearn.app.generator.context import GeneratorContext
from everlearn.app.generator.device import ServedPolicy
from everlearn.app.generator.noting import ASKING, SELECTOR, AskingDecisions
from everlearn.errors import BlobError, EverlearnError, InputError
from everlearn.families.preference import choose
from everlearn.loop.questions import ask, plain
from everlearn.records import Ints, Prediction, Preference
from everlearn.serve.snapshot import Answering
from everlearn.stream.prompts import Prompt, read_prompts

log = logging.getLogger("everlearn.generator")

AHEAD = 4  # pairs that are kept ready for people
STALE = 2  # rounds of steps after which a pair that no annotator saw is replaced
PAUSE = 2.0  # seconds between two looks, and after a pair could not be made
PROBE = 600.0  # seconds between two pairs while asking has stopped: without any, no drift could be seen
OPINIONS = 2  # people who see a shared pair
RECOVERED = 512  # newest events of the log in which pairs without a judgement are looked for after a restart
CHECKED = 256  # prompts whose length is checked at a time

Problem = Callable[[ServedPolicy], str]


@dataclass(slots=True, eq=False)
class ReadyPair:
    """A pair that waits: the rounds of its policy, and the annotators who have it, have judged it or have skipped it.

    A `shared` pair goes to two people and to the judge. `judged` is true once the judge has it.
    """

    prediction: Prediction
    rounds: int
    skipped: set[str] = field(default_factory=set)
    shared: bool = False
    holders: set[str] = field(default_factory=set)
    opinions: set[str] = field(default_factory=set)
    judged: bool = False

    @property
    def taken(self) -> int:
        """Number of people who have it or have judged it."""
        return len(self.holders | self.opinions)

    def met(self, name: str) -> bool:
        """Return True if an annotator need not see it, or see it again."""
        return name in self.skipped or name in self.holders or name in self.opinions

    @property
    def waiting(self) -> bool:
        """True where nothing has happened to it, so that it is for any annotator."""
        return not self.started and not self.skipped

    @property
    def started(self) -> bool:
        """True where an annotator or the judge has taken it, and others still may."""
        return self.judged or self.taken > 0

    @property
    def value(self) -> float:
        """What the judgement is expected to say about the reward, in nats."""
        return float(self.prediction.payload.get("value", 0.0))

    @property
    def duel(self) -> bool:
        """True for a comparison of two policies, which people alone decide."""
        return bool(self.prediction.payload.get("arm") == "duel")


class PairPool:
    """The ready pairs. `at_once` is the number of pairs that a judge takes at the same time, 0 without one.

    `reserved` returns how many labels of each kind of source are on their way. `trouble` says why no pair is made.
    """

    def __init__(
        self, context: GeneratorContext, accounts: LabelAccounts, at_once: int, reserved: Callable[[], Ints]
    ) -> None:
        self._context, self._accounts, self._at_once, self._reserved = context, accounts, at_once, reserved
        self._prompts: Sequence[Prompt] = ()
        self._decisions: AskingDecisions | None = None
        self._fewer = asyncio.Event()
        self._made = 0
        self._probed = -PROBE
        self._lent: dict[str, ReadyPair] = {}  # pairs that people have, by id
        self.more = asyncio.Condition()
        self.ready: deque[ReadyPair] = deque()
        self.trouble = ""
        self.stopped = False
        self.prompts = (0, 0)  # of the file, and those of them that are passed over

    async def run(self, decisions: AskingDecisions) -> None:
        """Keep pairs ready until cancelled."""
        self._decisions = decisions
        if not await self._read_prompts():
            return
        self.ready.extend(await self._recovered())
        while True:
            await self.tell()
            try:
                await self._look()
                if not self._wants():
                    await self._rest()
                    continue
                self.ready.append(await self._make())
                self.trouble, self._probed = "", time.monotonic()
            except EverlearnError as error:
                self.trouble = f"no pair can be made: {error}"
                log.error(self.trouble)
                await asyncio.sleep(PAUSE)

    async def _rest(self) -> None:
        """Wait until a pair is taken, or it is time for another look."""
        self._fewer.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._fewer.wait(), PAUSE)

    async def tell(self) -> None:
        """Wake those who wait for a pair."""
        async with self.more:
            self.more.notify_all()

    # ---- giving pairs out --------------------------------------------------------------------------------------

    def offered(self, name: str) -> ReadyPair | None:
        """Return the pair that an annotator should see next: one that waits for a second opinion, a duel, else another.

        Beside a judge, people see the pairs of most value.
        """
        self.drop_stale()
        if not self._left()[PEOPLE]:
            return None
        found = [one for one in self.ready if not one.met(name) and one.taken < OPINIONS]
        weight = -1.0 if self._at_once else 0.0
        return min(found, key=lambda one: (not one.taken, not one.duel, weight * one.value), default=None)

    def take(self, pair: ReadyPair, name: str) -> None:
        """Hand a pair to an annotator; a shared one stays for others."""
        pair.holders.add(name)
        self._lent[pair.prediction.id] = pair
        self._settle(pair)

    def put_back(self, id: str, name: str, *, skipped: bool) -> None:
        """Let others judge a pair that its annotator has skipped, or left; after a skip this annotator does not."""
        pair = self._found(id)
        if pair is None:
            return
        held = name in pair.holders
        pair.holders.discard(name)
        if skipped:
            pair.skipped.add(name)
        if held and pair not in self.ready:
            pair.rounds = self._context.device.rounds
            self.ready.append(pair)
        self._settle(pair)

    def opinion(self, id: str, name: str) -> None:
        """Note that an annotator has judged a pair, also one that had left this annotator's hands."""
        if (pair := self._found(id)) is not None:
            pair.holders.discard(name)
            pair.opinions.add(name)
            self._settle(pair)

    def _found(self, id: str) -> ReadyPair | None:
        if (held := self._lent.get(id)) is not None:
            return held
        return next((one for one in self.ready if one.prediction.id == id), None)

    def _settle(self, pair: ReadyPair) -> None:
        """Take a pair away once no more people, and no judge, shall see it."""
        full = pair.taken >= OPINIONS and (pair.judged or not self._at_once) if pair.shared else pair.taken > 0
        if full and pair in self.ready:
            self.ready.remove(pair)
        if not pair.holders:
            self._lent.pop(pair.prediction.id, None)
        self._fewer.set()

    def for_judge(self) -> ReadyPair | None:
        """Take the pair that the judge should judge next; None where there is none, or the budget is spent.

        Shared pairs come first. Of the others the dearer source gets those of most value, which are the doubtful ones.
        Duels are for people.
        """
        self.drop_stale()
        left = self._left()
        if not left[JUDGES]:
            return None
        found = next((one for one in self.ready if one.shared and not one.judged), None)
        if found is None:
            open_ = [one for one in self.ready if not one.shared and not one.duel]
            duels = self._duels()
            people = 0 if self.stopped else min(max(AHEAD - duels, 0), int(left[PEOPLE]))
            routed = choose.route(
                np.array([one.value for one in open_]), self._accounts.prices, np.array([people, left[JUDGES]])
            )
            found = next((one for one, kind in zip(open_, routed, strict=True) if kind == JUDGES), None)
        if found is not None:
            found.judged = True
            if not found.shared or found.taken >= OPINIONS:
                self.ready.remove(found)
            self._fewer.set()
        return found

    def refuse(self, pair: ReadyPair) -> None:
        """Put a pair back that the judge could not judge."""
        pair.judged = False
        if pair not in self.ready:
            self.ready.appendleft(pair)

    def drop_stale(self) -> None:
        """Leave pairs of an old policy unanswered, except those that were taken; of these keep the newest.

        Of those that some annotators have skipped the newest stay for others.
        """
        rounds = self._context.device.rounds
        kept = [one for one in self.ready if one.started][-AHEAD:]
        fresh = [one for one in self.ready if not one.started and abs(rounds - one.rounds) < STALE]
        kept += [one for one in fresh if one.waiting] + [one for one in fresh if not one.waiting][-AHEAD:]
        fresh = [one for one in self.ready if one in kept]
        if len(fresh) < len(self.ready):
            self.ready = deque(fresh)
            self._fewer.set()

    def why_none(self) -> str:
        """Return why there is no pair for people."""
        if self.trouble:
            return self.trouble
        if not self._left()[PEOPLE]:
            return "the budget of this hour for judgements of people is spent (ask.budget)"
        if self.stopped:
            return f"asking has stopped: questions promise less than {self._context.spec.ask.least:g} nats (ask.least)"
        return ""

    async def follow(self) -> None:
        """Count the judgements that are new in the log."""
        await asyncio.to_thread(self._accounts.follow)

    # ---- making pairs ------------------------------------------------------------------------------------------

    def _left(self) -> Ints:
        return self._accounts.left(time.time(), self._reserved())

    def _duels(self) -> int:
        """Return the number of duels that wait for people who have not skipped them."""
        return sum(one.duel and not one.skipped for one in self.ready)

    def _wants(self) -> bool:
        """Return True if another pair should be made now."""
        waiting = sum(one.waiting for one in self.ready)  # what was skipped or begun may wait for ever
        if self.stopped:
            return not waiting and time.monotonic() - self._probed >= PROBE
        left = self._left()
        wanted = (AHEAD if left[PEOPLE] else 0) + (self._at_once if left[JUDGES] else 0)
        return waiting < wanted

    async def _look(self) -> None:
        """Follow the log and the model: drop old pairs, stop asking or go on, and log what changes."""
        await self.follow()
        self.drop_stale()
        policy, decisions = self._context.device.policy, self._decisions
        if policy is None or decisions is None:
            return
        part, least = policy.model.part("asking"), self._context.spec.ask.least
        stopped = least > 0.0 and not choose.teaches(part, least)
        if stopped and not self.stopped:
            self.ready = deque(one for one in self.ready if one.started)
        self.stopped = stopped
        selector, pays = policy.model.settings.choose.selector, choose.pays(part)
        reasons = {
            "stopped": f"asking stops: questions promise less than {least:g} nats on average",
            "on": "asking goes on: questions promise enough",
        }
        asking = "stopped" if stopped else "on"
        await asyncio.to_thread(decisions.note, ASKING, asking, reasons[asking], "loop", "on")
        if selector != "random":
            now = selector if pays else "random"
            reason = "chosen pairs are worth less than random ones" if not pays else "chosen pairs pay again"
            why = f"pairs are chosen by {now}: {reason}"
            await asyncio.to_thread(decisions.note, SELECTOR, now, why, "loop", selector)

    async def _make(self) -> ReadyPair:
        """Make one pair, and log it. Raises BlobError without a version."""
        context = self._context
        key = (context.spec.seed, context.log.end(), self._made)
        one = self._prompts[int(np.random.default_rng([*key, 2]).integers(len(self._prompts)))]
        self._made += 1
        for_people = not self._at_once or (self._left()[PEOPLE] and self._duels() < AHEAD)

        def work(policy: ServedPolicy) -> ReadyPair:
            answering = Answering(policy.version, policy.model, uid=policy.uid)
            rival = policy.rival if for_people else None
            pair, proba = ask(answering, context.admission.encoder, one, key, rival=rival)
            made = context.prediction(pair, policy, one.text, proba=proba)
            return ReadyPair(made, policy.rounds, shared=shared(made, context.spec.ask.both))

        pair: ReadyPair = await context.compute(work)
        await context.append([pair.prediction])
        return pair

    async def _read_prompts(self) -> bool:
        """Read the prompts that are short enough; return False where there are none."""
        path = self._context.spec.prompts
        if not path:
            self.trouble = "there are no prompts; set `prompts` in everlearn.toml to a file with one in each line"
            return False
        try:
            given = await asyncio.to_thread(read_prompts, path)
        except EverlearnError as error:
            self.trouble = str(error)
            log.error("no pairs are made: %s", error)
            return False
        problems = await self.problems([partial(_too_long, one) for one in given])
        self._prompts = [one for one, problem in zip(given, problems, strict=True) if not problem]
        skipped = len(given) - len(self._prompts)
        self.prompts = len(given), skipped
        if skipped:
            first = next(problem for problem in problems if problem)
            fields = {"prompts": len(given), "skipped": skipped}
            log.warning("some prompts are passed over; the first of them: %s", first, extra={"fields": fields})
        if not self._prompts:
            self.trouble = f"prompts: got none in {path} that can be asked: {problems[0]}"
        return bool(self._prompts)

    async def problems(self, checks: Sequence[Problem]) -> list[str]:
        """Return what each check finds with the present policy, some at a time, so that chats go before."""
        found: list[str] = []
        while len(found) < len(checks):
            some = checks[len(found) : len(found) + CHECKED]
            try:
                found += await self._context.compute(lambda policy, some=some: [check(policy) for check in some])
            except BlobError as error:  # no version is published yet
                self.trouble = str(error)
                await asyncio.sleep(PAUSE)
        return found

    async def _recovered(self) -> list[ReadyPair]:
        """Return the newest pairs of the log that were still to be judged when the process before this one ended."""
        rounds = await self._context.compute(lambda policy: policy.rounds)
        found = await asyncio.to_thread(unjudged, self._context, bool(self._at_once))
        for one in found:
            one.rounds = rounds
        return found[-(AHEAD + 2 * self._at_once) :]


def shared(pair: Prediction, share: float) -> bool:
    """Return True for a pair that goes to two people and to the judge: a share of all pairs but duels, by their ids."""
    drawn = int.from_bytes(hashlib.blake2b(pair.id.encode(), digest_size=4).digest(), "little") / 2.0**32
    return drawn < share and pair.payload.get("arm") != "duel"


def unjudged(context: GeneratorContext, judging: bool) -> list[ReadyPair]:
    """Return the newest pairs without a judgement, and shared ones that the judge has not judged, oldest first."""
    found: list[ReadyPair] = []
    events = context.log
    for event in events.read(max(0, events.end() - RECOVERED), RECOVERED, ("prediction",)):
        pair = event.payload
        if not isinstance(pair, Prediction) or pair.payload.get("arm") not in ("random", "active", "duel"):
            continue
        given = [one.payload for one in events.about(pair.id) if isinstance(one.payload, Preference)]
        people = [(_name(one), one.verdict) for one in given if kind_of(one.source) == PEOPLE]
        opinions = {name for name, verdict in people if verdict != "skip"}
        both = shared(pair, context.spec.ask.both)
        judged = any(kind_of(one.source) != PEOPLE for one in given)
        if not judged and (not opinions or (both and judging)):
            skipped = {name for name, _ in people} - opinions
            found.append(ReadyPair(pair, 0, skipped, both, opinions=opinions))
    return found


def _name(given: Preference) -> str:
    return given.source.partition("/")[2]


def _too_long(one: Prompt, policy: ServedPolicy) -> str:
    """Return why a prompt cannot be asked; "" where it can."""
    try:
        policy.model.prompt_ids(plain(one))
    except InputError as error:
        return f"{one.text[:60]!r}: {error}"
    return ""
