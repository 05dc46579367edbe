"""Rows that a network cannot take: the reasons, and that they do not depend on how a stream is cut."""

from __future__ import annotations

import numpy as np
import pytest

import everlearn as el
from everlearn.errors import InputError
from everlearn.model import copied, refused
from tests.support.refused_rows import WORDS, batch, rows


def test_the_reasons_are_told_for_each_row_and_hang_on_nothing_learned() -> None:
    model = el.build({**WORDS, "task": "binary", "dense": 3})
    values = [[1, 2, 3], [1, -1, 2], [0.5, 1, 1], [1, 1, 60], [float("nan"), 1, 1]]
    told = refused(model, batch(values))
    assert sorted(told) == [1, 2, 3]
    assert "column 1 is -1.0, expected a token" in told[1]
    assert "column 0 is 0.5" in told[2]
    assert "embedding" in told[3]
    before = copied(model.arrays)
    with pytest.raises(InputError, match="row 1 of the batch"):
        model.learn(batch(values), np.zeros(5), np.ones(5, np.float32))
    assert all(before[key].tobytes() == one.tobytes() for key, one in model.arrays.items())
    model.learn(batch([values[0]] * 64), np.zeros(64), np.ones(64, np.float32))
    assert refused(model, batch(values)) == told
    assert refused(el.build({"family": "linear", "task": "binary", "dense": 3}), batch(values)) == {}


@pytest.mark.parametrize("dtype", ["float16", "int16"])
def test_gaps_in_rows_that_are_standardised_do_not_hang_on_how_a_stream_is_cut(dtype: str) -> None:
    spec = {"family": "neural", "task": "binary", "dense": 3, "memory": {"rows": 20, "dtype": dtype}, "normalize": True}
    values = [[float(number) for number in row] for row in rows(40)]
    values[15][1] = float("nan")
    y, weight = np.arange(40) % 2.0, np.ones(40, np.float32)
    if dtype == "int16":
        told = refused(el.build(spec), batch(values))
        assert list(told) == [15]
        assert "column 1 is missing" in told[15]
        return
    whole, parts = el.build(spec), el.build(spec)
    whole.learn(batch(values), y, weight)
    for start, stop in ((0, 3), (3, 12), (12, 16), (16, 40)):
        parts.learn(batch(values[start:stop]), y[start:stop], weight[start:stop])
    assert all(one.tobytes() == parts.arrays[key].tobytes() for key, one in whole.arrays.items())
