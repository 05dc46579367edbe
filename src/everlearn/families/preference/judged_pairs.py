"""Two answers to one prompt, and the verdict of a judge on them."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from everlearn.families.preference.verdicts import Choice


class AnswerPair(Struct, frozen=True):
    """A prompt and two answers to it; `id` is that of the prediction that asked for the judgement."""

    id: str
    prompt: str
    first: str
    second: str


class JudgeVerdict(Struct, frozen=True):
    """The verdict of a judge on one pair.

    `chosen` is 0 or 1, and -1 for a tie or a skip. `orders` holds what the judge found when the first answer was shown
    first, and when it was shown second, both about the answers of the pair. `seconds` is the time that the judge took.
    `revised` is a better answer that the judge wrote itself; empty where it was not asked to, or changed nothing.
    """

    id: str
    chosen: int
    verdict: Literal["choice", "tie", "skip"]
    why: str
    seconds: float
    source: str
    orders: tuple[Choice, Choice]
    revised: str = ""


def preference_fields(found: JudgeVerdict, weight: float = 1.0) -> dict[str, Any]:
    """Return the fields of the `Preference` that logs a verdict; its source says that a judge gave it.

    >>> found = JudgeVerdict("q1", 0, "choice", "kinder", 1.5, "judge/kind@09ab", ("first", "first"))
    >>> preference_fields(found)["source"]
    'judge/kind@09ab'
    """
    return {
        "id": found.id,
        "chosen": found.chosen,
        "weight": weight,
        "source": found.source,
        "verdict": found.verdict,
        "seconds": found.seconds,
        "why": found.why,
    }
