"""Pairs for annotators: handed to one annotator each, or to two, judged, judged again, and given to others in time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from everlearn.app.admin.http import body, uncached, wrong
from everlearn.app.generator.context import GeneratorContext
from everlearn.app.generator.page_tree import tree
from everlearn.app.generator.planting import PLANTED, JudgedWork, Planting
from everlearn.app.generator.pool import PairPool
from everlearn.app.generator.rendering import rendered
from everlearn.app.problems import Refused
from everlearn.client.label_records import (
    JudgeReply,
    JudgeRequest,
    LabelPair,
    LabelProgress,
    PairTrees,
    Side,
    UndoReply,
    UndoRequest,
)
from everlearn.events import Log, scan
from everlearn.feedback import admission
from everlearn.loop import commands, details
from everlearn.loop.details import RollBackOrder, Without
from everlearn.records import Decision, Outcome, Prediction, Preference
from everlearn.schema import question
from everlearn.spec import MOST_BYTES
from everlearn.stream.preferences import ChatTurn
from everlearn.version.blobs import blobs_of
from everlearn.version.registry import Versions

PATIENCE = 25.0  # seconds that a request waits for a pair
LEASE = 300.0  # seconds without a request after which the pairs of an annotator go to others
UNSURE = 75  # percent for the likelier answer, below which the model is called unsure
KEPT = 512  # newest pairs of an annotator that may be asked again
PEOPLE = "people/"


@dataclass(slots=True)
class Annotator:
    """The work of one annotator: the pair on the screen, and the last verdict on each pair, in order.

    A verdict is (its name, True if the reward model preferred the same answer, or None, seconds since 1970).
    `upcoming` holds the pairs that follow the one on the screen, and True for those that were judged before. `golds`
    counts gold questions, `repeated` holds the pairs that were asked again, and `plain` those that may be. `seen` is
    the time of the last request, by `time.monotonic`.
    """

    held: Prediction | None = None
    again: bool = False  # the pair on the screen was judged before
    judged: dict[str, tuple[Outcome, bool | None, float]] = field(default_factory=dict)
    upcoming: deque[tuple[Prediction, bool]] = field(default_factory=deque)
    chosen: dict[str, int] = field(default_factory=dict)  # places of the preferred answers, by pair
    golds: int = 0
    repeated: set[str] = field(default_factory=set)
    plain: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))
    seen: float = 0.0

    def met(self, pair: Prediction) -> None:
        """Note a pair that this annotator judges: a gold question, a repeated pair, or one that may be repeated."""
        arm = pair.payload.get("arm")
        self.golds += arm == "gold"
        if arm == "again":
            self.repeated.add(str(pair.payload.get("repeats", "")))
        elif arm != "gold" and pair.id not in self.plain:
            self.plain.append(pair.id)

    def work(self) -> JudgedWork:
        """Return what planted questions depend on."""
        return JudgedWork(len(self.judged), self.golds, self.repeated, self.chosen, list(self.plain))

    def note(self, id: str, verdict: Outcome, agreed: bool | None, at: float, chosen: int | None = None) -> None:
        """Note a verdict, the newest one."""
        self.forget(id)
        self.judged[id] = verdict, agreed, at
        if chosen is not None:
            self.chosen[id] = chosen

    def forget(self, id: str) -> None:
        """Forget the verdict on a pair."""
        self.judged.pop(id, None)
        self.chosen.pop(id, None)

    def go_on(self) -> None:
        """Put the next pair on the screen, where one was fetched."""
        self.held, self.again = self.upcoming.popleft() if self.upcoming else (None, False)

    def show_again(self, pair: Prediction) -> None:
        """Put a judged pair on the screen; the one that was there follows."""
        if self.held is not None:
            self.upcoming.appendleft((self.held, self.again))
        self.held, self.again = pair, True

    def progress(self, name: str, others: Iterable[Annotator] = ()) -> LabelProgress:
        """Return the counts that the page shows; `others` are compared on the pairs that they chose in, too."""
        now, verdicts = time.time(), list(self.judged.values())
        compared = [agreed for _, agreed, _ in verdicts if agreed is not None]
        skipped = sum(verdict == "skip" for verdict, _, _ in verdicts)
        minute = sum(now - at < 60.0 for _, _, at in verdicts)
        agreement = sum(compared) / len(compared) if compared else None
        same = [chosen == one.chosen[id] for one in others for id, chosen in self.chosen.items() if id in one.chosen]
        counts = len(verdicts) - skipped, skipped, minute, len(compared), agreement
        return LabelProgress(name, *counts, len(same), sum(same) / len(same) if same else None)


class LabelDesk:
    """The pairs that are ready, and the annotators who judge them."""

    def __init__(self, context: GeneratorContext, pool: PairPool) -> None:
        self._context, self.pool = context, pool
        self._planted = Planting(context, pool)
        self.annotators: dict[str, Annotator] = {}

    def annotator(self, name: str) -> Annotator:
        """Return the work of an annotator, who may be new."""
        return self.annotators.setdefault(name, Annotator())

    def total(self) -> int:
        """Return the number of choices and ties of all annotators."""
        return sum(verdict != "skip" for one in self.annotators.values() for verdict, _, _ in one.judged.values())

    def held(self) -> int:
        """Return the number of new pairs in the hands of people."""
        return sum((one.held is not None and not one.again) + len(one.upcoming) for one in self.annotators.values())

    async def recall(self) -> None:
        """Read the work of annotators from the log."""
        self.annotators = await asyncio.to_thread(remembered, self._context.log)

    async def plant(self) -> None:
        """Read the gold questions."""
        await self._planted.read()

    def release(self, now: float) -> None:
        """Give pairs of annotators who have gone away to others."""
        for name, one in self.annotators.items():
            if (one.held is None and not one.upcoming) or now - one.seen < LEASE:
                continue
            for pair, _ in [(one.held, one.again), *one.upcoming]:
                if pair is not None:
                    self.pool.put_back(pair.id, name, skipped=False)
            one.held, one.again = None, False
            one.upcoming.clear()

    def progress(self, name: str) -> LabelProgress:
        """Return the counts of an annotator."""
        return self.annotator(name).progress(name, (one for key, one in self.annotators.items() if key != name))

    async def next(self, name: str, after: str = "") -> LabelPair:
        """Return the pair on the screen of an annotator, or hand out another one. Raises Refused (503) without any.

        Where the pair on the screen is `after`, return the one that follows it.
        """
        one = self.annotator(name)
        one.seen = time.monotonic()
        self.release(one.seen)
        if one.held is None or (one.held.id == after and not one.upcoming):
            pair, one = await self._handed_out(name), self.annotator(name)
            one.upcoming.append((pair, False))
            if one.held is None:
                one.go_on()
        assert one.held is not None
        if one.held.id == after and one.upcoming:
            return self.shown(name, *one.upcoming[0])
        return self.shown(name, one.held, one.again)

    async def _handed_out(self, name: str) -> Prediction:
        """Take a ready pair for an annotator, waiting for one. Raises Refused (503) without any."""
        pool, one = self.pool, self.annotator(name)
        if not pool.why_none() and (planted := await self._planted.drawn(name, one.work())) is not None:
            return planted
        try:
            async with asyncio.timeout(PATIENCE), pool.more:
                await pool.more.wait_for(lambda: pool.offered(name) is not None or pool.why_none())
        except TimeoutError:
            pass
        if (pair := pool.offered(name)) is None:
            detail = pool.why_none() or "no pair is ready yet; try again"
            raise Refused(503, "There is no pair to judge", detail, headers=[(b"retry-after", b"2")])
        pool.take(pair, name)
        return pair.prediction

    async def judge(self, given: JudgeRequest) -> JudgeReply:
        """Log a verdict, and note it. Raises UnknownId for a pair that is not in the log, InputError for one answer."""
        context, source = self._context, f"{PEOPLE}{given.annotator}"
        found = await asyncio.to_thread(admission.prediction, context.log, given.id)
        if found is None:
            raise admission.unknown(given.id)
        pair = question.decode(found.payload)
        chosen, verdict = place(given.verdict, pair.swapped)
        judged = source, verdict, given.seconds, given.why
        made = admission.feedback(context.admission, given.id, None, None, chosen, 1.0, *judged)
        await context.append([made])
        await self.pool.follow()  # before the pair is no longer counted as reserved
        one, agreed = self.annotator(given.annotator), agreement(found, chosen)
        one.seen = time.monotonic()
        one.note(given.id, verdict, agreed, time.time(), chosen)
        one.met(found)
        if verdict == "skip":
            self.pool.put_back(given.id, given.annotator, skipped=True)
        else:
            self.pool.opinion(given.id, given.annotator)
        if one.held is not None and one.held.id == given.id:
            one.go_on()
        one.upcoming = deque(each for each in one.upcoming if each[0].id != given.id)
        return JudgeReply(given.id, agreed, self.progress(given.annotator), self.total())

    async def undo_last(self, name: str) -> UndoReply:
        """Show the pair that an annotator judged last again. Raises Refused (409) where there is none."""
        one = self.annotator(name)
        while one.judged:
            id = next(reversed(one.judged))
            found = await asyncio.to_thread(admission.prediction, self._context.log, id)
            one.forget(id)
            if found is not None:  # else it was erased
                one.show_again(found)
                return UndoReply(self.shown(name, found, True), None, self.progress(name))
        raise Refused(409, "There is nothing to undo", f"{name} has not judged a pair yet")

    async def undo_everything(self, name: str, token: str) -> UndoReply:
        """Order that all is learned again without the judgements of an annotator."""
        without = Without(source=f"{PEOPLE}{name}")
        versions = Versions(blobs_of(self._context.setup.home, self._context.setup.spec.log))
        order = commands.rollback(versions, f"all judgements of {name} are undone", without)
        (position,) = await self._context.append([details.with_token(order, token) if token else order])
        before = self.annotator(name)
        self.annotators[name] = Annotator(before.held, before.again, upcoming=before.upcoming, seen=before.seen)
        return UndoReply(None, position, self.progress(name))

    def shown(self, name: str, waiting: Prediction, again: bool) -> LabelPair:
        """Return a pair as the page of an annotator shows it."""
        pair = question.decode(waiting.payload)
        texts = [rendered(answer.text) for answer in question.judged(pair)]
        left, right = texts[::-1] if pair.swapped else texts
        prompt = rendered(readable(str(waiting.features.get("prompt", ""))))
        trees, words = PairTrees(*map(tree, (prompt, left, right))), reason(pair, waiting.proba)
        arm = "random" if pair.arm in PLANTED else pair.arm  # an annotator must not recognise a planted question
        parts = prompt, left, right, pair.swapped, words, arm, pair.value, waiting.version
        return LabelPair(waiting.id, *parts, self.progress(name), self.total(), trees, again)


# ---- pure parts ------------------------------------------------------------------------------------------------------


def place(side: Side, swapped: bool) -> tuple[int | None, Outcome]:
    """Return the place of the preferred answer in the pair, and the verdict, for the side that was preferred.

    >>> place("left", swapped=True), place("tie", swapped=False)
    ((1, 'choice'), (None, 'tie'))
    """
    if side == "tie" or side == "skip":
        return None, side
    return int((side == "right") != swapped), "choice"


def agreement(pair: Prediction, chosen: int | None) -> bool | None:
    """Return True if the reward model preferred the chosen answer when the pair was made; None if that is unknown."""
    if chosen not in (0, 1) or len(pair.proba) != 2 or pair.proba[0] == pair.proba[1]:
        return None
    return pair.proba[1 - chosen] > pair.proba[chosen]


def reason(pair: question.Asked, proba: Sequence[float] = ()) -> str:
    """Return why a pair is shown, as one sentence; `proba` are the reward model's probabilities of both answers."""
    if pair.arm == "active":
        high = round(100 * max(proba, default=1.0))
        if len(proba) == 2 and high < UNSURE:
            return f"Asked because the model is unsure ({high} : {100 - high})."
        return f'Chosen by "{pair.selector}": the judgement is expected to give {pair.value:.3f} nats about the reward.'
    if pair.arm == "random" or pair.arm in PLANTED:
        return "Chosen at random, so that models are compared on pairs that nothing selected."
    return f'Chosen on the arm "{pair.arm}".'


def readable(prompt: str) -> str:
    """Return a recorded prompt as Markdown: chat messages as paragraphs that begin with their role.

    >>> readable('[{"role":"user","content":"Hi"}]'), readable("[1]")
    ('**user:** Hi', '[1]')
    """
    try:
        turns = msgspec.json.decode(prompt, type=tuple[ChatTurn, ...])
    except msgspec.DecodeError:
        return prompt
    return "\n\n".join(f"**{turn.role}:** {turn.content}" for turn in turns)


def remembered(events: Log) -> dict[str, Annotator]:
    """Return the annotators of a log, without the judgements that a rollback has left out."""
    found: dict[str, Annotator] = {}
    for event in scan(events, 0, ("preference", "decision")):
        match event.payload:
            case Preference(source=source) as given if source.startswith(PEOPLE):
                one = found.setdefault(source.removeprefix(PEOPLE), Annotator())
                pair = admission.prediction(events, given.id)
                chosen = given.chosen if given.verdict == "choice" else None
                agreed = agreement(pair, chosen) if pair is not None else None
                one.note(given.id, given.verdict, agreed, event.time, chosen)
                if pair is not None:
                    one.met(pair)
            case Decision(action="order") as order:
                match details.read_order(order):
                    case RollBackOrder(without=Without(source=source)) if source.startswith(PEOPLE):
                        found.pop(source.removeprefix(PEOPLE), None)
            case _:
                pass
    return found


# ---- endpoints -------------------------------------------------------------------------------------------------------


async def next_pair(context: GeneratorContext, desk: LabelDesk, request: Request) -> Response:
    """GET /label/next"""
    name = request.query_params.get("annotator", "")
    try:
        msgspec.convert({"id": "-", "annotator": name, "verdict": "skip"}, JudgeRequest)
    except msgspec.ValidationError:
        expected = "a name of at most 64 letters, digits, dots, dashes and underscores"
        raise wrong("annotator", name, expected) from None
    return uncached(await desk.next(name, request.query_params.get("after", "")))


async def judge(context: GeneratorContext, desk: LabelDesk, request: Request) -> Response:
    """POST /label/judge"""
    return uncached(await desk.judge(await body(request, JudgeRequest, MOST_BYTES)))


async def undo(context: GeneratorContext, desk: LabelDesk, request: Request) -> Response:
    """POST /label/undo"""
    given = await body(request, UndoRequest, MOST_BYTES)
    if given.what == "last":
        return uncached(await desk.undo_last(given.annotator))
    token = await context.allow(request, "admin")
    return uncached(await desk.undo_everything(given.annotator, token), 202)
