"""Preferences and rewards from what users do: thumbs, an edit, a retry, an acceptance.

Each signal carries its source, "implicit/KIND", so that its bias is learned apart and it can be undone. A signal that
has not come says nothing: an answer that was neither accepted nor retried is no evidence against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from everlearn.errors import InputError
from everlearn.families.preference.judged_pairs import AnswerPair
from everlearn.records import Reward

Kind = Literal["thumbs", "edit", "retry", "accept"]


class ShownAnswer(Struct, frozen=True):
    """An answer that a user saw: the id of its prediction, and its text."""

    id: str
    text: str


class PairSignal(Struct, frozen=True):
    """A preference that follows from what a user did: the pair, the index of the better answer, and the source."""

    pair: AnswerPair
    chosen: int
    source: str


def thumbs(id: str, up: bool) -> Reward:
    """Return the reward of an answer that got a thumb: 1 for up, 0 for down.

    >>> thumbs("a1", up=True)
    Reward(id='a1', value=1.0, weight=1.0, source='implicit/thumbs', handle='')
    """
    return Reward(id, float(up), source=_source("thumbs"))


def accepted(id: str) -> Reward:
    """Return the reward of an answer that was used as it is (copied, sent, applied)."""
    return Reward(id, 1.0, source=_source("accept"))


def edited(prompt: str, answer: ShownAnswer, text: str) -> PairSignal | None:
    """Return the preference of an edited answer to the original; None where only white space was changed, or all cut.

    The id of the pair is that of the answer and "/edit", as the edited answer was never predicted.

    >>> found = edited("Where is it?", ShownAnswer("a1", "Its lost."), "It is lost. Sorry!")
    >>> found.pair.id, found.pair.second, found.chosen, found.source
    ('a1/edit', 'It is lost. Sorry!', 1, 'implicit/edit')
    """
    if not text.strip() or text.split() == answer.text.split():
        return None
    return PairSignal(AnswerPair(f"{answer.id}/edit", prompt, answer.text, text), 1, _source("edit"))


def retried(prompt: str, answers: Sequence[ShownAnswer], accepted: int) -> list[PairSignal]:
    """Return the preferences of the accepted answer to each answer that was retried before it.

    `answers` are those to one prompt, in the order shown, and `accepted` is the index of the one that was taken. Equal
    texts say nothing. Answers after the accepted one were seen and not taken: they are worse, too. Raises `InputError`
    for an index that names no answer.

    >>> shown = [ShownAnswer("a1", "No."), ShownAnswer("a2", "No!"), ShownAnswer("a3", "Sorry, no.")]
    >>> [(found.pair.id, found.pair.first, found.chosen) for found in retried("May I?", shown, accepted=2)]
    [('a1/retry/a3', 'No.', 1), ('a2/retry/a3', 'No!', 1)]
    """
    if not 0 <= accepted < len(answers):
        raise InputError(f"accepted: got {accepted}; expected the index of one of {len(answers)} answers, from 0")
    best = answers[accepted]
    return [
        PairSignal(AnswerPair(f"{worse.id}/retry/{best.id}", prompt, worse.text, best.text), 1, _source("retry"))
        for worse in answers
        if worse.text.split() != best.text.split()
    ]


def signals(
    prompt: str,
    answers: Sequence[ShownAnswer],
    *,
    accepted_at: int | None = None,
    edit: str | None = None,
    up: Sequence[bool | None] = (),
) -> list[Reward | PairSignal]:
    """Return all signals of one turn of a chat: the answers to a prompt in the order shown, and what became of them.

    `accepted_at` is the index of the answer that was taken, and `edit` the text that the user made of it; `up` holds
    the thumb of each answer, None without one. An answer that was edited was not accepted as it is, so it gets no
    reward. Raises `InputError` where an edit belongs to no answer, or an index or a thumb names none.

    >>> shown = [ShownAnswer("a1", "No."), ShownAnswer("a2", "Sorry, no.")]
    >>> [found.source for found in signals("May I?", shown, accepted_at=1, up=[False, None])]
    ['implicit/thumbs', 'implicit/retry', 'implicit/accept']
    """
    if len(up) > len(answers):
        raise InputError(f"up: got {len(up)} thumbs for {len(answers)} answers; expected at most one for each")
    if edit is not None and accepted_at is None:
        raise InputError("edit: got a text without accepted_at; expected the index of the answer that was edited")
    found: list[Reward | PairSignal] = [
        thumbs(answer.id, thumb) for answer, thumb in zip(answers, up, strict=False) if thumb is not None
    ]
    if accepted_at is None:
        return found
    found += retried(prompt, answers, accepted_at)
    taken = answers[accepted_at]
    change = None if edit is None else edited(prompt, taken, edit)
    if change is not None:
        return [*found, change]
    return found if edit is not None and not edit.strip() else [*found, accepted(taken.id)]


def _source(kind: Kind) -> str:
    return f"implicit/{kind}"
