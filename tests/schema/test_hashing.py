"""Hashes, words and numbers, against plain Python."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from everlearn.schema import Encoder, forms, hashing
from everlearn.spec import Schema


def encoder_of(kind: str, **changes: Any) -> Encoder:
    return Encoder(Schema(label="y", task="regression", fields={"x": kind}, **changes))


def fnv(data: bytes, start: int) -> int:
    h = start
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 % 2**64
    h = (h ^ h >> 33) * 0xFF51AFD7ED558CCD % 2**64
    h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
    return h ^ h >> 33


def hashed(field: str, data: bytes) -> int:
    return fnv(data, fnv(field.encode(), 0xCBF29CE484222325))


def indices(kind: str, value: Any) -> list[int]:
    batch = encoder_of(kind, bits=20).record({"x": value})
    assert (batch.values == 1).all()
    return batch.indices.tolist()


def test_the_hash_never_changes() -> None:
    """Learned weights depend on the hash: a change would invalidate all weights of categories and words."""
    assert indices("categorical", "Delft") == [769823]
    assert indices("text", "Hello, Delft!") == [366221, 610672, 814251, 445826]


@settings(deadline=None)  # the first example compiles a kernel
@given(st.text(max_size=20))
def test_a_category_is_the_hash_of_its_field_and_bytes(value: str) -> None:
    data = forms.spelled(value.encode("utf-8", "replace"))
    assert indices("categorical", value) == ([hashed("x", data) % 2**20] if data else [])


@settings(deadline=None)  # the first example compiles a kernel
@given(st.integers() | st.sampled_from([0, -(2**63), 2**63 - 1, 2**63, 2**64]))
def test_whole_numbers_are_the_category_of_their_digits(value: int) -> None:
    expected = [hashed("x", b"%d" % value) % 2**20]
    assert indices("categorical", value) == indices("categorical", str(value)) == expected
    assert encoder_of("categorical", bits=20).columns({"x": [value]}, 1)[0].indices.tolist() == expected


def test_a_category_has_one_spelling_for_equal_numbers_and_truth_values() -> None:
    assert indices("categorical", 7.0) == indices("categorical", 7) == indices("categorical", "7")
    assert indices("categorical", 2.5) == indices("categorical", "2.5") == indices("categorical", Decimal("2.5"))
    assert indices("categorical", True) == indices("categorical", "true")
    assert indices("categorical", b"Delft") == indices("categorical", "Delft")
    assert indices("categorical", 2**53 + 1) != indices("categorical", 2**53)


@settings(deadline=None)  # the first example compiles a kernel
@given(st.text(st.characters(codec="utf-8") | st.sampled_from(" ,.!'_-AZaz09\0\t"), max_size=40))
def test_text_is_its_words_and_punctuation_marks(value: str) -> None:
    tokens = re.findall(rb"[a-z0-9_\x80-\xff]+|[!-/:-@\[-`{-~]", value.encode().lower())
    expected = [hashed("x", token) % 2**20 for token in tokens]
    assert indices("text", value) == expected
    batch, _ = encoder_of("text", bits=20).columns({"x": pa.array(["before", value, "after"])}, 3)
    assert batch.indices[batch.indptr[1] : batch.indptr[2]].tolist() == expected


def test_of_a_very_long_text_the_first_ten_thousand_tokens_are_read() -> None:
    text = " ".join(str(i) for i in range(30_000))
    assert indices("text", text) == indices("text", " ".join(str(i) for i in range(10_000)))
    assert len(indices("text", "!" * 30_000)) == hashing.WORDS == 10_000
    assert len(indices("text", "x" * 5_000_000)) == 1


def test_interactions_are_ordered_pairs_of_the_categories_that_are_there() -> None:
    schema = Schema(
        label="y", task="regression", fields=dict.fromkeys("abc", "categorical"), bits=20, interactions=True
    )
    plain = msgspec.structs.replace(schema, interactions=False)
    record = {"a": "x", "b": "y", "c": "z"}
    crossed = Encoder(schema).record(record).indices.tolist()
    assert crossed[:3] == Encoder(plain).record(record).indices.tolist()
    assert len(set(crossed)) == 6
    some = Encoder(schema).record({"a": "x", "c": "z"}).indices.tolist()
    assert some == [crossed[0], crossed[2], crossed[4]]
    swapped = Encoder(schema).record({"a": "y", "b": "x", "c": "z"}).indices.tolist()
    assert swapped[3] != crossed[3]


def test_hashes_fall_evenly_on_low_bits() -> None:
    values = np.arange(200_000)
    batch, _ = encoder_of("categorical", bits=10).columns({"x": values}, len(values))
    counts = np.bincount(batch.indices, minlength=1024)
    assert stats.chisquare(counts).pvalue > 0.001
    full = hashing.hash_integers(values, hashing.seed_of("x"))
    assert len(np.unique(full)) == len(values)


@settings(max_examples=500, deadline=None)  # the first example compiles a kernel
@given(
    st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.decimals(allow_nan=False, allow_infinity=False).map(str)
    | st.from_regex(r"\A[+-]?[0-9]{0,20}\.?[0-9]{0,20}\Z")
)
def test_the_number_kernel_reads_what_python_reads(text: str) -> None:
    data = np.frombuffer(b"9" + text.encode() + b"9", np.uint8)
    found, odd = hashing.parse_numbers(data, np.array([1, 1 + len(text)]))
    if not odd[0] and text:
        assert found.tobytes() == np.float64(text).tobytes()


@pytest.mark.parametrize("text", ["1e5", "inf", "nan", "0x1", "1_0", "--1", "+", ".", "1.2.3", "1" * 16, " 1", "12a"])
def test_the_number_kernel_leaves_the_unusual_to_python(text: str) -> None:
    data = np.frombuffer(text.encode(), np.uint8)
    assert hashing.parse_numbers(data, np.array([0, len(text)]))[1].all()
