"""Packing: the layout is safetensors' own, views reach nowhere they should not, and nothing is copied."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from everlearn.errors import BlobError, ModelError
from everlearn.version.codec import FORMAT, PACKED, canonical, dump, laid_out, load, map_readonly, octets

PATH = Path("a.safetensors")
DTYPES = ["bool", "float16", "float32", "float64", *(f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64))]

arrays = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0))),
    max_size=6,
)
headers = st.dictionaries(st.text(max_size=5), st.integers(-(2**40), 2**40) | st.text(max_size=5), max_size=3)


def plainly(given: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (array.dtype.name, array.shape, array.tobytes()) for name, array in given.items()}


@given(arrays, headers)
def test_the_bytes_are_those_that_safetensors_writes(held, header):
    note = canonical({"format": FORMAT, "header": header})
    in_order = {name: np.asarray(array, order="C") for name, array in held.items()}
    assert dump(held, header) == safetensors.numpy.save(in_order, {"everlearn": note})


@given(arrays, headers)
def test_both_ways_of_reading_give_back_what_was_packed(held, header):
    data = dump(held, header)
    for read in (load, map_readonly):
        got, text = read(data, PATH)
        assert plainly(got) == plainly(held)
        assert text == header


def test_views_are_of_the_buffer_itself_aligned_and_read_only():
    data = dump({"b": np.ones(3, np.int8), "w": np.arange(5.0), "h": np.ones((2, 3), np.float32)}, {})
    got, _ = map_readonly(data, PATH)
    whole = np.frombuffer(data, np.uint8)
    for array in got.values():
        assert np.shares_memory(whole, array)
        assert array.flags.aligned
        assert array.flags.c_contiguous
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_views_of_memory_that_may_be_written_are_read_only_too():
    data = bytearray(dump({"w": np.arange(5.0)}, {}))
    got, _ = map_readonly(data, PATH)
    assert not got["w"].flags.writeable


def test_arrays_in_one_piece_are_not_copied():
    held = np.arange(1000.0)
    assert np.shares_memory(np.asarray(octets(laid_out({"w": held})["w"])), held)


def test_arrays_that_lie_otherwise_are_stored_by_their_content():
    held = np.arange(12.0).reshape(3, 4)
    swapped = held.astype(">f8")
    for array in (held.T, held[:, ::2], swapped):
        got, _ = load(dump({"w": array}, {}), PATH)
        assert got["w"].tolist() == array.tolist()


def test_what_cannot_be_stored_is_named():
    with pytest.raises(ModelError, match=r"'w' has dtype complex128; a snapshot holds only bool, float16"):
        dump({"w": np.zeros(2, complex)}, {})
    with pytest.raises(ModelError, match="may not be named '__metadata__'"):
        dump({"__metadata__": np.zeros(2)}, {})
    with pytest.raises(ModelError, match="cannot be stored"):
        dump({"\ud800": np.zeros(2)}, {})
    with pytest.raises(ModelError, match="the header cannot be stored"):
        dump({}, {"x": float("nan")})


def file(front: Any, body: bytes = b"\0" * 24) -> bytes:
    text = front if isinstance(front, bytes) else json.dumps(front).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(dtype: Any = "F64", shape: Any = (3,), offsets: Any = (0, 24)) -> dict[str, Any]:
    note = json.dumps({"format": FORMAT, "header": {}})
    return {"__metadata__": {"everlearn": note}, "w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_the_files_below_are_bad_by_what_they_say_alone():
    assert map_readonly(file(tensor()), PATH)[0]["w"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 1 << 63),
        struct.pack("<Q", 1 << 40) + b"{}",
        file(b"{"),
        file(b"[]"),
        file(b'"text"'),
        file(b"\xff\xfe"),
        file({"w": {}}),
        file(tensor(dtype="BF16")),
        file(tensor(dtype=7)),
        file(tensor(shape=(4,))),
        file(tensor(shape=(-3,))),
        file(tensor(shape=(-1, -3))),
        file(tensor(shape=(1 << 62, 1 << 62))),
        file(tensor(shape="3")),
        file(tensor(offsets=(-24, 0))),
        file(tensor(offsets=(8, 32))),
        file(tensor(offsets=(0, 1 << 62))),
        file(tensor(offsets=(24, 0))),
        file(tensor(), body=b"\0" * 23),
        file(tensor(offsets=(0, 24, 48))),
        file({"__metadata__": {"everlearn": "[" * 100_000}}),
        file({"__metadata__": {"everlearn": 1}}),
    ],
    ids=range(24),
)
def test_a_bad_file_is_refused_before_anything_is_read_beyond_it(data):
    with pytest.raises(BlobError, match="is not a safetensors file that can be read"):
        map_readonly(data, PATH)


@pytest.mark.parametrize("read", [map_readonly, load])
def test_files_of_others_and_of_the_future_are_told_apart(read):
    with pytest.raises(BlobError, match="was not written by Everlearn"):
        read(safetensors.numpy.save({"w": np.zeros(3)}), PATH)
    text = canonical({"format": PACKED + 1, "header": {}})
    with pytest.raises(BlobError, match=f"format: got {PACKED + 1}; expected {FORMAT} or {PACKED}. Upgrade"):
        read(safetensors.numpy.save({"w": np.zeros(3)}, {"everlearn": text}), PATH)
