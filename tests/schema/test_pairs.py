"""A pair of answers as a row: every column, every limit, and what a judgement adds and teaches."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.errors import InputError
from everlearn.model import row_slice
from everlearn.records import Example, Feedback, Label, Prediction, Preference, Reward
from everlearn.schema import pairs
from everlearn.schema.pairs import PairReading
from everlearn.schema.question import encode
from tests.support.pairs import answer, asking, question, schema
from tests.support.schemas import same


@pytest.fixture
def reading() -> PairReading:
    return PairReading(schema())


def test_every_column(reading: PairReading) -> None:
    first, second = answer(5, 6), answer(7, 8, 9, finish="length")
    more: dict[str, Any] = {"pair": (1, 0), "swapped": True, "reference_logp": (-3.5, -2.25), "group": "billing"}
    row = reading.row(question(first, second, arm="duel", **more))
    assert row.indices.dtype == np.int32
    assert row.indices.tolist() == [3, 4, 7, 8, 9, 5, 6, 2]
    assert row.values.tolist() == [0, 0, -0.125, -0.25, -0.375, -0.125, -0.25, -0.375]
    assert row.indptr.tolist() == [0, 8]
    assert row.dense.dtype == np.float32
    group = int.from_bytes(hashlib.blake2b(b"billing", digest_size=8).digest(), "little") % (2**24 - 1) + 1
    assert row.dense[0].tolist() == [2, 3, 3, 1, 0, -3.5, -2.25, 1, 3, 0, 0, 0, group, 0, 0, 0]


def test_a_single_answer_has_no_second_one(reading: PairReading) -> None:
    row = reading.row(question(answer(5), arm="chat", reference_logp=(-1.0,)))
    assert row.indices.tolist() == [3, 4, 5, 2]
    assert row.dense[0, [pairs.FIRST, pairs.SECOND, pairs.ARM, pairs.REF_FIRST]].tolist() == [2, 0, 0, -1]
    assert math.isnan(row.dense[0, pairs.REF_SECOND])


def test_an_unknown_reference_is_missing(reading: PairReading) -> None:
    row = reading.row(question(answer(5), answer(6)))
    assert np.isnan(row.dense[0, [pairs.REF_FIRST, pairs.REF_SECOND]]).all()


@pytest.mark.parametrize("arm", pairs.ARMS)
def test_arms(reading: PairReading, arm: Any) -> None:
    row = reading.row(question(answer(5), arm=arm) if arm == "chat" else question(answer(5), answer(6), arm=arm))
    assert pairs.ARMS[int(row.dense[0, pairs.ARM])] == arm
    assert reading.scores(row) == (arm in ("random", "duel", "file"))
    assert row.dense[0, pairs.TRUSTED] == (arm == "gold")


def test_limits_hold_to_the_token(reading: PairReading) -> None:
    longest = question(answer(*[5] * 5), answer(*[6] * 6, finish="length"), prompt=(3,) * 4)
    assert len(reading.row(longest).indices) == pairs.width(schema()) == 16
    for asked, what in (
        (question(answer(5), answer(6), prompt=(3,) * 5), r"the prompt has 5 tokens; expected at most 4"),
        (question(answer(*[5] * 6), answer(6)), r"the first answer has 7 tokens; expected at most 6"),
        (question(answer(5), answer(32)), r"the second answer has the token 32; expected ids below 32"),
    ):
        with pytest.raises(InputError, match=what):
            reading.row(asked)


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(pairs.ARMS)), max_size=5))
def test_many_rows_are_read_like_each(drawn: list[tuple[int, Any]]) -> None:
    reading = PairReading(schema())
    asked = [asking(str(place), number, arm) for place, (number, arm) in enumerate(drawn)]
    batch = reading.read(asked)
    assert batch.dense.shape == (len(drawn), 16)
    for place, one in enumerate(asked):
        assert row_slice(batch, place, place + 1).dense.tobytes() == reading.read([one]).dense.tobytes()
        held = slice(batch.indptr[place], batch.indptr[place + 1])
        assert batch.indices[held].tolist() == reading.read([one]).indices.tolist()
    sifted, bad = reading.sift(asked)
    assert same(sifted, batch)
    assert bad == set()


def test_what_is_no_pair_is_sifted_out(reading: PairReading) -> None:
    text = Prediction("b", {"prompt": "p"}, "text", (), "v")
    batch, bad = reading.sift([asking("a", 1), text, Example("e", {"prompt": "p"}, 1), asking("d", 2)])
    assert (len(batch), bad) == (4, {1, 2})
    assert len(reading.sift([])[0]) == 0
    with pytest.raises(InputError, match="row 1: the payload asks for no preference"):
        reading.read([asking("a", 1), text])


@pytest.mark.parametrize(
    ("feedback", "lessons"),
    [
        (Preference("a", 0), ((1.0, 1.0),)),
        (Preference("a", 1), ((0.0, 1.0),)),
        (Preference("a", -1), ((1.0, 0.5), (0.0, 0.5))),
        (Preference("a", -1, verdict="tie"), ((1.0, 0.5), (0.0, 0.5))),
        (Preference("a", -1, verdict="skip"), ()),
        (Reward("a", 1.0), ((1.0, 1.0),)),
        (Reward("a", 0.0), ((0.0, 1.0),)),
        (Reward("a", 0.75), ((1.0, 0.75), (0.0, 0.25))),
    ],
)
def test_what_a_judgement_teaches(reading: PairReading, feedback: Feedback, lessons: Any) -> None:
    assert reading.judge(feedback) == lessons


@pytest.mark.parametrize("feedback", [Preference("a", 2), Preference("a", -2), Reward("a", 1.5), Label("a", 1)])
def test_what_judges_no_pair_is_refused(reading: PairReading, feedback: Feedback) -> None:
    with pytest.raises(InputError):
        reading.judge(feedback)


def test_a_judgement_is_marked_on_a_copy(reading: PairReading) -> None:
    row = reading.row(question(answer(5), answer(6)))
    before = row.dense.tobytes()
    marked = reading.mark(row, Preference("a", 0, source="people/anna"))
    assert row.dense.tobytes() == before
    assert marked.indices is row.indices
    changed = np.flatnonzero(marked.dense[0].view(np.int32) != row.dense[0].view(np.int32)).tolist()
    assert changed == [pairs.WHO_LOW, pairs.WHO_HIGH, pairs.KIND, pairs.TRUSTED]


@given(st.text())
def test_names_are_whole_numbers_that_float32_holds(name: str) -> None:
    for number in (pairs.number(name), *pairs.who(name)):
        assert number == np.float32(number) == int(number)
        assert (0 < number < 1 << 24) == bool(name)


def test_people_have_one_kind_and_each_judge_another() -> None:
    assert pairs.kind("people/anna") == pairs.kind("people") == "people"
    assert pairs.kind("peoples/anna") == "peoples/anna"
    assert pairs.kind("judge/strict@12") == "judge/strict@12"
    assert pairs.kind("") == ""
    assert len({pairs.who(f"people/{number}") for number in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("verdict", "source", "uids", "expected"),
    [
        ({"chosen": 0}, "people/anna", (3, 5), (3, 5, 1.0)),
        ({"chosen": 1}, "function/taste", (3, 5), (3, 5, 0.0)),
        ({"chosen": -1, "verdict": "tie"}, "people", (3, 5), (3, 5, 0.5)),
        ({"chosen": 0}, "judge/strict@12", (3, 5), None),
        ({"chosen": 0}, "", (3, 5), None),
        ({"chosen": 0}, "people/anna", (3, 0), None),
        ({"chosen": 0}, "people/anna", (3, 3), None),
    ],
)
def test_people_and_functions_decide_duels_of_two_contestants(
    reading: PairReading, verdict: Any, source: str, uids: tuple[int, int], expected: Any
) -> None:
    for arm in ("duel", "random"):
        asked = question(answer(7, 8, 9, uid=uids[0]), answer(9, uid=uids[1]), arm=arm)
        targets = reading.judge(Preference("a", source=source, **verdict))
        found = pairs.duel(encode(asked), reading.row(asked), targets, source, 2.0)
        if arm == "random" or expected is None:
            assert found is None
        else:
            assert found is not None
            assert found[:3] == expected
            assert (found.longer, found.weight) == (pytest.approx(math.log(5 / 3)), 2.0)
