"""Equal states have equal bytes, whichever objects they share, and come back as they were."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from everlearn.families.foreign import pickles

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(VALUES)
def test_what_is_stored_comes_back_and_is_stored_alike(value):
    data = pickles.dumps(value)
    assert pickles.loads(data) == value
    assert pickles.dumps(pickles.loads(data)) == data


def test_arrays_and_scalars_keep_type_and_value():
    value = {"a": np.arange(3, dtype=np.int16), "b": np.float32(0.1), "c": np.array(["x", "yz"])}
    found = pickles.loads(pickles.dumps(value))
    assert {name: one.dtype for name, one in found.items()} == {name: one.dtype for name, one in value.items()}
    assert found["b"] == value["b"]
    assert pickles.dumps(found) == pickles.dumps(value)


def test_shared_objects_stay_shared():
    part = [1]
    found = pickles.loads(pickles.dumps({"a": part, "b": part}))
    found["a"].append(2)
    assert found["b"] == [1, 2]


class Sampler:
    def __init__(self, seed):
        self.seed, self._rng = seed, random.Random(seed)


def test_generators_without_a_seed_are_stored_alike_and_others_as_they_are():
    assert pickles.dumps(Sampler(None)) == pickles.dumps(Sampler(None))
    one = Sampler(5)
    one._rng.random()
    assert pickles.loads(pickles.dumps(one))._rng.getstate() == one._rng.getstate()
