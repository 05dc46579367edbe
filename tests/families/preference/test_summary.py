"""The summary of a preference model: rounds in order, annotators by their work, plain values."""

from __future__ import annotations

import msgspec
import numpy as np

from everlearn.families.preference import annotators, first_come
from everlearn.families.preference.improve import Round
from everlearn.families.preference.summary import summary
from everlearn.records import Arrays


def progress(rounds: int, ring: int = 4) -> Arrays:
    """Return the part "progress" after some rounds of 32 labels; the KL of a round is its number."""
    held = np.zeros((ring, 1 + len(Round._fields)))
    for number in range(rounds):
        held[number % ring] = [32 * (number + 1), number, *np.full(len(Round._fields) - 1, 0.123456789)]
    return {"counts": np.array([32.0 * rounds, 8.0, rounds, 5.0]), "rounds": held}


def test_rounds_come_oldest_first_from_the_ring() -> None:
    people = annotators.start(4)
    for rounds, kl in ((2, [0, 1]), (4, [0, 1, 2, 3]), (6, [2, 3, 4, 5])):
        found = summary(progress(rounds), people)
        assert found["curves"]["kl"] == kl
        assert found["curves"]["labels"] == [32 * (number + 1) for number in kl]
        assert found["policy"]["kl"] == rounds - 1
        assert (found["labels"], found["trusted"], found["rounds"], found["repeated"]) == (32 * rounds, 8, rounds, 5)
    assert found["policy"]["entropy"] == 0.12346


def test_annotators_are_named_and_sorted_by_their_work() -> None:
    people = annotators.start(4)
    one, other = first_come.admit(people, np.array([700, 900]))
    annotators.update(people, np.full(5, one), np.ones(5), np.full(5, 0.9), np.full(5, 3.0))
    annotators.update(people, np.full(40, other), np.zeros(40), np.full(40, 0.95))
    first, second = summary(progress(0), people)["annotators"]
    assert (first["digest"], first["judged"], first["named"], first["seconds"]) == (900, 40, "inverted", None)
    assert (second["digest"], second["judged"], second["named"], second["seconds"]) == (700, 5, "", 3.0)
    assert first["reliability"] < 0.2 < second["reliability"]


def test_json_can_hold_it() -> None:
    held = progress(1)
    held["rounds"][0, 2] = np.inf
    found = summary(held, annotators.start(4))
    assert found["policy"]["budget"] is None
    assert msgspec.json.decode(msgspec.json.encode(found)) == found
