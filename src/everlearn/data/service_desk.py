"""A service desk: a small language of complaints and answers, with a known taste and a simulated annotator.

A complaint is one of eight. An answer has up to four parts in this order: an opening, which is kind or rude; a remedy,
which is the right one for the complaint or one for another complaint; padding, which is some of four sentences in a
fixed order; a farewell. Each part may be missing, but not all. `draw` writes answers as the desk is used to: rude in
40 % and kind in 23 % of them.

The taste is known, so that answers can be rated exactly: `gold` adds 1.5 for a kind opening, -1.5 for a rude one, 1.5
for the right remedy and -0.7 for each sentence of padding. An annotator prefers the answer of higher gold more often
than not, with the odds exp(kappa * difference) (Bradley and Terry 1952, "Rank analysis of incomplete block designs").
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

REMEDIES = {
    "My parcel is late.": "We send it again today.",
    "The screen is cracked.": "You get a new screen.",
    "I was charged twice.": "We cancel the second charge.",
    "I forgot my password.": "Please reset it with this link.",
    "The shoes are too small.": "Pick another size for free.",
    "The line is dead.": "A technician comes tomorrow.",
    "My order is incomplete.": "The missing part leaves now.",
    "The food was cold.": "Your next meal costs nothing.",
}
"""The right remedy of each complaint."""

KIND = "I am so sorry.", "Thank you for telling us.", "That must be annoying.", "You are right to write."
RUDE = "Not my problem.", "Read the terms first.", "Stop complaining.", "It is your own fault."
PADDING = (
    "We value our customers.",
    "Our shop has many offers.",
    "Many people work here.",
    "This company is old.",
)
FAREWELLS = "Goodbye.", "Have a nice day.", "Best wishes.", "Until next time."

KIND_SHARE, RUDE_SHARE, RIGHT_SHARE, WRONG_SHARE, FAREWELL_SHARE = 0.23, 0.40, 0.25, 0.50, 0.60
PADDING_SHARE = 0.30  # of each sentence of padding
POLITENESS, RIGHT, PADDED = 1.5, 1.5, -0.7  # what each is worth
KAPPA = 2.0

COMPLAINTS = tuple(REMEDIES)


class Parts(NamedTuple):
    """The parts of an answer: `tone` is 1 for a kind opening, -1 for a rude one, else 0; `padding` counts sentences."""

    tone: int
    remedy: str
    padding: int
    farewell: bool


def draw(complaint: str, random: np.random.Generator) -> str:
    """Return an answer to a complaint, as the desk writes it before it has learned anything.

    >>> draw("The line is dead.", np.random.default_rng(3))
    'I am so sorry. A technician comes tomorrow. Our shop has many offers. Until next time.'
    """
    sentences: list[str] = []
    while not sentences:
        opening, remedy = random.random(2)
        if opening < KIND_SHARE + RUDE_SHARE:
            sentences.append(str(random.choice(KIND if opening < KIND_SHARE else RUDE)))
        if remedy < RIGHT_SHARE + WRONG_SHARE:
            others = [REMEDIES[one] for one in COMPLAINTS if one != complaint]
            sentences.append(REMEDIES[complaint] if remedy < RIGHT_SHARE else str(random.choice(others)))
        sentences += [one for one in PADDING if random.random() < PADDING_SHARE]
        if random.random() < FAREWELL_SHARE:
            sentences.append(str(random.choice(FAREWELLS)))
    return " ".join(sentences)


def parse(text: str) -> Parts | None:
    """Return the parts of an answer; None for a text that is no answer of the language.

    >>> parse("Not my problem. Goodbye.")
    Parts(tone=-1, remedy='', padding=0, farewell=True)
    >>> parse("Goodbye. Not my problem.") is None
    True
    """
    opening, rest = _take(text, (*KIND, *RUDE))
    remedy, rest = _take(rest, tuple(REMEDIES.values()))
    padding = 0
    for sentence in PADDING:
        one, rest = _take(rest, (sentence,))
        padding += bool(one)
    farewell, rest = _take(rest, FAREWELLS)
    if rest or text != text.strip() or not text:
        return None
    return Parts((opening in KIND) - (opening in RUDE), remedy, padding, bool(farewell))


def gold(complaint: str, text: str) -> float:
    """Return what an answer is worth. Of a text outside the language, the sentences that belong to it count.

    >>> gold("The line is dead.", "Thank you for telling us. A technician comes tomorrow.")
    3.0
    >>> gold("The food was cold.", "Stop complaining. A technician comes tomorrow. Our shop has many offers.")
    -2.2
    """
    kind, rude, padding = (sum(text.count(one) for one in some) for some in (KIND, RUDE, PADDING))
    tone = POLITENESS * ((kind > 0) - (rude > 0))
    return round(tone + RIGHT * is_right(complaint, text) + PADDED * padding, 6)


def is_right(complaint: str, text: str) -> bool:
    """Return True for an answer with the right remedy."""
    return REMEDIES[complaint] in text


def prefers_first(complaint: str, first: str, second: str, random: np.random.Generator) -> bool:
    """Return True where the simulated annotator prefers the first of two answers.

    >>> random = np.random.default_rng(0)
    >>> sum(prefers_first(COMPLAINTS[0], KIND[0], RUDE[0], random) for _ in range(1000)) > 980
    True
    """
    gap = KAPPA * (gold(complaint, first) - gold(complaint, second))
    return bool(random.random() < 1.0 / (1.0 + math.exp(-gap)))


def _take(text: str, sentences: tuple[str, ...]) -> tuple[str, str]:
    """Return the sentence that a text begins with, and the rest; "" and the text where it begins with none."""
    for one in sentences:
        if text == one:
            return one, ""
        if text.startswith(f"{one} "):
            return one, text[len(one) + 1 :]
    return "", text
