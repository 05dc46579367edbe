"""Judge old pairs again under a changed rubric, and let the new verdicts stand in place of the old ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from everlearn.app.generator import judging
from everlearn.app.generator.noting import JUDGE, AskingDecisions
from everlearn.app.process import append
from everlearn.errors import ConfigError
from everlearn.events import Log, connect, scan, url_of
from everlearn.families.preference.judge import rejudge
from everlearn.families.preference.judged_pairs import AnswerPair, JudgeVerdict, preference_fields
from everlearn.families.preference.verdicts import Choice
from everlearn.feedback import admission
from everlearn.loop import commands, details
from everlearn.loop.details import RollBackOrder, Without
from everlearn.records import Decision, Preference
from everlearn.spec import Spec
from everlearn.version.blobs import blobs_of
from everlearn.version.registry import Versions


class Rejudged(NamedTuple):
    """What was done: the pairs judged again, those with another verdict, the sources replaced, the cost, the source."""

    pairs: int
    changed: int
    replaced: list[str]
    cost: float
    source: str


def rejudge_log(
    home: Path,
    spec: Spec,
    *,
    keep: bool = False,
    newest: int = 0,
    progress: Callable[[int, int], None] = lambda done, pairs: None,
) -> Rejudged:
    """Ask the judge of the settings about pairs that a judge of its name has judged under another rubric.

    Each new verdict is logged as a correction, with the new source, as soon as it is there; so a call that was broken
    off goes on where it ended. Then the loop is ordered to learn again without the verdicts of the old sources, unless
    `keep` is true; a source that was left out since its last verdict is not left out again. `newest` limits the pairs
    to the newest ones (0: all), and nothing is then learned again. The budget does not hold it back. Raises ConfigError
    without a judge, and what the judge raises.
    """
    with ExitStack() as undo:
        log = undo.enter_context(
            closing(connect(url_of(home, spec.log.url, spec.log.book), spec.log.durability, tidy=False))
        )
        judge = judging.opened(spec, home, undo)
        if judge is None:
            raise ConfigError("judge: got neither url nor function; expected a judge. Set judge.url or judge.function")
        old, done, counted = _verdicts(log, judge.source)
        waiting = [one for one in old.values() if one.id not in done][-newest:]
        changed = count = 0
        for before, found in rejudge(judge, _pairs(log, waiting)):
            append(log, [Preference(**preference_fields(found))])
            count += 1
            changed += (before.verdict, before.chosen) != (found.verdict, found.chosen)
            progress(count, len(waiting))
        replaced = sorted(counted) if not keep and not newest else []
        if count or replaced:
            reason = f"the judge is {judge.source}; {count} pairs were judged again"
            AskingDecisions(log).note(JUDGE, judge.source, reason, "user")
        for source in replaced:
            reason = f"{source} is superseded by {judge.source}"
            append(log, [commands.rollback(Versions(blobs_of(home, spec.log)), reason, Without(source=source))])
        return Rejudged(count, changed, replaced, count * spec.judge.price, judge.source)


def _verdicts(log: Log, source: str) -> tuple[dict[str, Preference], set[str], set[str]]:
    """Return the newest verdict on each pair of an older judge of this name, and the pairs that this one has judged.

    The last part holds the older sources with verdicts that no order has left out yet.
    """
    family = source.partition("@")[0] + "@"
    old: dict[str, Preference] = {}
    done: set[str] = set()
    counted: set[str] = set()
    for event in scan(log, 0, ("preference", "decision")):
        match event.payload:
            case Preference(source=found) as one if found == source:
                done.add(one.id)
            case Preference(source=found) as one if found.startswith(family):
                old[one.id] = one
                counted.add(found)
            case Decision(action="order") as order:
                match details.read_order(order):
                    case RollBackOrder(without=Without(source=left)):
                        counted.discard(left)
            case _:
                pass
    return old, done, counted


def _pairs(log: Log, verdicts: list[Preference]) -> Iterator[tuple[AnswerPair, JudgeVerdict]]:
    """Yield each pair with its old verdict; a pair that was erased is left out."""
    for one in verdicts:
        if (pair := admission.prediction(log, one.id)) is not None:
            orders: tuple[Choice, Choice] = ("skip", "skip")  # the log does not hold what was found in each order
            before = JudgeVerdict(one.id, one.chosen, one.verdict, one.why, one.seconds, one.source, orders)
            yield judging.answer_pair(pair), before
