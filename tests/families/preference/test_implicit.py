"""What thumbs, edits, retries and acceptances say, and what they do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import InputError
from everlearn.families.preference.implicit import PairSignal, ShownAnswer, accepted, edited, retried, signals, thumbs
from everlearn.records import Reward

SHOWN = [ShownAnswer("a1", "No."), ShownAnswer("a2", "Never."), ShownAnswer("a3", "Sorry, no.")]


def test_thumbs_and_acceptance_are_rewards_of_one_answer() -> None:
    assert thumbs("a1", up=False) == Reward("a1", 0.0, source="implicit/thumbs")
    assert accepted("a1") == Reward("a1", 1.0, source="implicit/accept")


def test_an_edit_prefers_the_edited_answer() -> None:
    found = edited("May I?", SHOWN[0], "No, sorry.")
    assert found is not None
    assert (found.pair.prompt, found.pair.first, found.pair.second) == ("May I?", "No.", "No, sorry.")
    assert found.chosen == 1


@pytest.mark.parametrize("text", ["", "  \n", "No.", " No.\n"])
def test_an_edit_that_changes_nothing_says_nothing(text: str) -> None:
    assert edited("May I?", SHOWN[0], text) is None


def test_answers_retried_are_worse_than_the_accepted_one() -> None:
    found = retried("May I?", SHOWN, accepted=1)
    assert [(one.pair.first, one.pair.second, one.chosen) for one in found] == [
        ("No.", "Never.", 1),
        ("Sorry, no.", "Never.", 1),
    ]
    assert retried("May I?", [SHOWN[0], ShownAnswer("a4", "No. ")], accepted=0) == []
    for wrong in (-1, 3):
        with pytest.raises(InputError, match=f"accepted: got {wrong}; expected the index of one of 3"):
            retried("May I?", SHOWN, accepted=wrong)


def test_a_retry_without_an_acceptance_says_nothing() -> None:
    assert signals("May I?", SHOWN) == []
    assert signals("May I?", SHOWN, up=[None, True]) == [thumbs("a2", True)]


def test_an_edited_answer_is_not_accepted_as_it_is() -> None:
    found = signals("May I?", SHOWN, accepted_at=2, edit="I am sorry, no.")
    assert [one.source for one in found] == ["implicit/retry"] * 2 + ["implicit/edit"]
    assert not any(isinstance(one, Reward) for one in found)
    unchanged = signals("May I?", SHOWN[2:], accepted_at=0, edit="Sorry,  no.")
    assert unchanged == [accepted("a3")]
    assert signals("May I?", SHOWN[2:], accepted_at=0, edit=" ") == []


def test_what_belongs_to_no_answer_is_refused() -> None:
    with pytest.raises(InputError, match="edit: got a text without accepted_at"):
        signals("May I?", SHOWN, edit="Yes.")
    with pytest.raises(InputError, match="up: got 4 thumbs for 3 answers"):
        signals("May I?", SHOWN, up=[True] * 4)
    with pytest.raises(InputError, match="accepted: got 7"):
        signals("May I?", SHOWN, accepted_at=7)


@given(st.lists(st.text(max_size=4), min_size=1, max_size=5), st.data())
def test_pairs_differ_and_their_ids_are_unique(texts: list[str], data: st.DataObject) -> None:
    shown = [ShownAnswer(str(n), text) for n, text in enumerate(texts)]
    at = data.draw(st.integers(0, len(texts) - 1))
    found = [one for one in signals("?", shown, accepted_at=at, edit="edited") if isinstance(one, PairSignal)]
    assert all(one.pair.first.split() != one.pair.second.split() for one in found)
    assert len({one.pair.id for one in found}) == len(found)
