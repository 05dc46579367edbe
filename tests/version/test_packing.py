"""Arrays that are mostly zero: what is unpacked has the bits that were packed, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn import model
from everlearn.errors import BlobError
from everlearn.model import answering
from everlearn.serve.snapshot import CURRENT, Answering, Publisher, Reader
from everlearn.version import packing
from everlearn.version.packing import BLOCK, LEAST, pack, unpack
from tests.support.models import examples

DTYPES = ["?", "i1", "<i4", "<i8", "<u2", "<f4", "<f8"]


@given(
    dtype=st.sampled_from(DTYPES),
    items=st.integers(0, 3 * BLOCK),
    filled=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=12),
)
def test_what_is_unpacked_has_the_bits_that_were_packed(
    dtype: str, items: int, filled: list[tuple[float, int]]
) -> None:
    kind = np.dtype(dtype)
    array = np.zeros(LEAST // kind.itemsize + items, kind)
    octets = array.view(np.uint8)
    for place, value in filled:
        octets[int(place * (len(octets) - 1))] = 1 if dtype == "?" else value  # any bits, NaN and -0.0 too
    stored, packed = pack({"a": array, "b": np.ones(2)})
    assert sum(one.nbytes for one in stored.values()) <= array.nbytes / 2 + 4 * len(filled) + BLOCK + 16
    found = unpack(stored, packed)
    assert list(found) == ["a", "b"]
    assert (found["a"].dtype, found["a"].shape) == (array.dtype, array.shape)
    assert found["a"].tobytes() == array.tobytes()


def test_arrays_that_are_small_or_full_stay_as_they_are() -> None:
    given = {"small": np.zeros(LEAST // 8 - 1), "full": np.ones((LEAST // 8, 2)), "places/x": np.zeros(3)}
    stored, packed = pack(given)
    assert packed == {}
    assert all(stored[name] is array for name, array in given.items())
    assert unpack(stored, packed) == stored


@pytest.mark.parametrize(
    "change",
    [
        {"places/a": np.array([10_000], np.int32)},
        {"places/a": np.array([0, 1], np.int32)},
        {"a": np.zeros(7, np.uint8)},
    ],
)
def test_what_does_not_fit_its_description_is_refused(change: dict[str, Any]) -> None:
    array = np.zeros(LEAST // 8)
    array[77] = 1.0
    stored, packed = pack({"a": array})
    with pytest.raises(BlobError, match="array 'a' of a snapshot cannot be unpacked"):
        unpack(stored | change, packed)
    del stored["places/a"]
    with pytest.raises(BlobError, match="places/a"):
        unpack(stored, packed)


def test_a_young_forest_is_published_without_its_empty_pools(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    made = model.build({"family": "forest", "task": "binary", "dense": 3})
    rows = examples(2_000, dense=3)
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    for half in range(2):
        made.learn(rows.batch, rows.y, rows.weight)
        publisher.publish(Answering("v", made), None, half + 1, {})
        held = reader.current().champion.model
        for name, array in answering(made.arrays).items():
            assert held.arrays[name].tobytes() == array.tobytes()
        assert held.predict(rows.batch).tobytes() == made.predict(rows.batch).tobytes()
        reader.check()
    whole = sum(array.nbytes for array in answering(made.arrays).values())
    assert whole > 4 << 20
    assert (folder / CURRENT).stat().st_size < whole / 8
    assert packing.PLACES not in "".join(held.arrays)
