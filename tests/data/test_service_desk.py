"""The language of the service desk, its taste and its annotator."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everlearn.data import service_desk as desk

DRAWN = 4000


@pytest.fixture(scope="module")
def drawn() -> list[tuple[str, str]]:
    """Complaints with answers."""
    random = np.random.default_rng(0)
    return [(desk.COMPLAINTS[at % 8], desk.draw(desk.COMPLAINTS[at % 8], random)) for at in range(DRAWN)]


def test_every_drawn_answer_is_one_and_is_worth_its_parts(drawn: list[tuple[str, str]]) -> None:
    for complaint, text in drawn:
        parts = desk.parse(text)
        assert parts is not None, text
        right = parts.remedy == desk.REMEDIES[complaint]
        assert desk.is_right(complaint, text) == right
        assert desk.gold(complaint, text) == pytest.approx(1.5 * parts.tone + 1.5 * right - 0.7 * parts.padding)


def test_the_desk_is_rude_in_40_percent_and_kind_in_23(drawn: list[tuple[str, str]]) -> None:
    parts = [desk.parse(text) for _, text in drawn]
    tones = [one.tone for one in parts if one is not None]
    assert tones.count(-1) / DRAWN == pytest.approx(0.40, abs=0.025)
    assert tones.count(1) / DRAWN == pytest.approx(0.23, abs=0.025)
    assert sum(desk.is_right(*one) for one in drawn) / DRAWN == pytest.approx(0.25, abs=0.025)
    assert len(set(drawn)) > DRAWN / 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello.",
        "Goodbye. I am so sorry.",
        "I am so sorry. Thank you for telling us.",
        "I am so sorry. Not my problem.",
        "You get a new screen. You get a new screen.",
        "This company is old. We value our customers.",
        "This company is old. This company is old.",
        "I am so sorry.Goodbye.",
        "I am so sorry. Good",
        "Goodbye. ",
    ],
)
def test_other_texts_are_no_answers(text: str) -> None:
    assert desk.parse(text) is None


def test_the_annotator_errs_as_bradley_and_terry_say() -> None:
    complaint, random = desk.COMPLAINTS[0], np.random.default_rng(1)
    worse, better = "Many people work here. This company is old.", "This company is old."  # 0.7 apart
    found = [desk.prefers_first(complaint, better, worse, random) for _ in range(DRAWN)]
    assert np.mean(found) == pytest.approx(1 / (1 + math.exp(-2 * 0.7)), abs=0.025)
