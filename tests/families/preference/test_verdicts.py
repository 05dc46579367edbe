"""Answers as judge models write them, and what is read in each."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.families.preference.verdicts import KEPT, agreed, of_pair, read_verdict

CHOICES = [
    ("A", "A"),
    ("b", "B"),
    ("**B**", "B"),
    ("(A)", "A"),
    ("[B]", "B"),
    ("A.", "A"),
    ("`A`", "A"),
    ("Answer: A", "A"),
    ("answer: b.", "B"),
    ("**Answer:** B", "B"),
    ("**Answer: A**", "A"),
    ("Answer: **A**", "A"),
    ("Final Answer: B", "B"),
    ("My final verdict is: A.", "A"),
    ("The better answer is B because it is shorter.", "B"),
    ("The better response is Response A.", "A"),
    ("Verdict: Tie", "tie"),
    ("Answer: a tie", "tie"),
    ("A tie", "tie"),
    ("Answer: neither", "tie"),
    ("Answer: A, because B is rude.", "A"),
    ("Winner: Assistant B", "B"),
    ("[[A]]", "A"),
    ("Both are right.\n[[C]]", "tie"),
    ("My final verdict is: [[B]]", "B"),
    (r"The final answer is \boxed{B}", "B"),
    (r"$\boxed{\text{A}}$", "A"),
    ("Answer A is better.", "A"),
    ("Response B is clearly better than Response A.", "B"),
    ("I prefer answer B.", "B"),
    ("A\n\nThe first answer names the remedy.", "A"),
    ("The first one is rude.\n\nAnswer: B", "B"),
    ("Answer: A is tempting at first.\nBut on reflection it is wrong.\nAnswer: B", "B"),
    ("<think>Answer: A? No, B.</think>\n\nAnswer: B", "B"),
    ('{"answer": "A"}', "A"),
    ('```json\n{"reasoning": "B is rude", "verdict": "A"}\n```', "A"),
    ('Here is my verdict: {"winner": "Response B", "why": "kinder"}', "B"),
    ('{"final_answer": "tie"}', "tie"),
    ('{"scores": {"A": 3, "B": 9}, "preferred_answer": "B", "why": "kinder"}', "B"),
    ('{"A": {"score": 1}} and then {"better_response": "Response A"}', "A"),
    ("Ａｎｓｗｅｒ： Ａ", "A"),
    ("Answer: B\r\n", "B"),
    ("Preferred: B", "B"),
    ("Verdict: A is clearly better.", "A"),
    ("Therefore, the answer is A.", "A"),
]

NONE = [
    "",
    "   \n\t ",
    "I'm sorry, but I can't help with that.",
    "As an AI language model, I cannot compare people.",
    "A good answer would name the remedy.",
    "The answer is a bit long.",
    "Answer: A or B",
    "Answer: A/B",
    "Answer: Apple",
    "Answer: C",
    "A and B",
    "Both answers have merits: Answer A is better written but Answer B is more correct.",
    "Answer A is not better.",
    "Answer: A is not better.",
    "The answer is not A.",
    "Answer: A\n\n[[B]]",
    "A\n\nOn reflection I was wrong.\n\nAnswer: B",
    '{"answer": "A", "winner": "B"}',
    '{"answer": 7}',
    '{"answer": {"letter": "A"}}',
    '{"score_a": 3, "score_b": 4}',
    "<think>So the answer: A",
    "lorem ipsum " * 50,
    "\x00\ufffd{{{{[[[[",
    "Аnswer: А",  # Cyrillic
    "null",
]


@pytest.mark.parametrize(("text", "choice"), CHOICES)
def test_what_models_answer_is_read(text: str, choice: str) -> None:
    assert read_verdict(text).choice == choice


def test_a_heading_before_the_verdict_is_read() -> None:
    assert read_verdict("### Final answer: B").choice == "B"
    assert read_verdict("> Answer: B").choice == "B"
    assert read_verdict("- Answer: A").choice == "A"


@pytest.mark.parametrize("text", NONE)
def test_a_text_without_one_clear_verdict_is_a_skip(text: str) -> None:
    reading = read_verdict(text)
    assert reading.choice == "skip"
    assert reading.why


def test_the_reason_of_a_skip_says_what_happened() -> None:
    assert read_verdict("I cannot judge this.").why == "the judge refused: I cannot judge this."
    assert read_verdict("Hm.").why == "no verdict: Hm."
    assert "two verdicts" in read_verdict("Answer: A\n[[B]]").why
    assert "cut" in read_verdict("<think>Hm").why


def test_the_reason_of_a_choice_is_kept_without_the_verdict() -> None:
    assert read_verdict("B is rude.\nAnswer: A").why == "B is rude."
    assert read_verdict("A").why == ""
    assert len(read_verdict("x" * 5000 + "\nAnswer: A").why) == KEPT


@given(st.text(max_size=400))
def test_any_text_is_read(text: str) -> None:
    assert read_verdict(text).choice in ("A", "B", "tie", "skip")


@given(st.text(alphabet="AB*[](){} \n:answeri.tk<>\\\"'", max_size=300))
def test_any_text_of_the_parts_of_verdicts_is_read(text: str) -> None:
    assert read_verdict(text).choice in ("A", "B", "tie", "skip")


@pytest.mark.parametrize(
    "unit",
    ["*", "answer ", "the ", "(", "{", "[[", "A ", "<think>", " \n", "so ", '{"a":', "answer: ", "a\n", "\\boxed{"],
)
def test_long_answers_are_read_in_bounded_time(unit: str) -> None:
    before = time.process_time()
    read_verdict(unit * (200_000 // len(unit)))
    assert time.process_time() - before < 2.0


def test_a_verdict_about_what_was_shown_becomes_one_about_the_pair() -> None:
    assert [of_pair(shown, True) for shown in ("A", "B", "tie", "skip")] == ["second", "first", "tie", "skip"]
    assert [of_pair(shown, False) for shown in ("A", "B", "tie", "skip")] == ["first", "second", "tie", "skip"]


def test_both_orders_must_agree() -> None:
    choices = ("first", "second", "tie", "skip")
    for one in choices:
        for other in choices:
            expected = "skip" if "skip" in (one, other) else one if one == other else "tie"
            assert agreed((one, other)) == expected
