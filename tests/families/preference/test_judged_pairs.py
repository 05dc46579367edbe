"""Verdicts as the fields of a logged preference."""

from __future__ import annotations

from everlearn.families.preference.judge import function_judge, judged
from everlearn.families.preference.judged_pairs import AnswerPair, preference_fields
from everlearn.records import Preference


def test_the_fields_are_those_of_a_preference() -> None:
    found = judged(function_judge("f", lambda prompt, a, b: "A" if a < b else "B"), AnswerPair("q", "?", "b", "a"))
    fields = preference_fields(found, weight=0.5)
    later = {"verdict": "choice", "why": "", "seconds": found.seconds}
    assert {name: fields.pop(name) for name in later} == later
    assert Preference(**fields) == Preference("q", 1, 0.5, "function/f")
