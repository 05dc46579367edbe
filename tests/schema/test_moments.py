"""The time of a row, read back from its encoded columns."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from everlearn.schema import Encoder, moments
from everlearn.schema.meaning import FIRST_SECOND, LAST_SECOND
from everlearn.spec import Schema

SCHEMA = Schema(
    label="y", task="regression", fields={"v": "vector[3]", "c": "categorical", "at": "datetime", "to": "datetime"}
)
ENCODER = Encoder(SCHEMA)


@given(st.lists(st.integers(int(FIRST_SECOND), int(LAST_SECOND)), min_size=1, max_size=30))
def test_the_minute_of_any_moment_is_read_back(seconds: list[int]) -> None:
    batch, problems = ENCODER.records([{"at": second, "v": [1, 2, 3]} for second in seconds])
    assert not problems
    column = moments.clock(SCHEMA)
    assert column == 3
    assert moments.minutes(batch.dense, column).tolist() == [second // 60 for second in seconds]


def test_a_missing_time_is_unknown_and_a_schema_may_have_no_clock() -> None:
    assert moments.minutes(ENCODER.record({"at": None}).dense, 3).tolist() == [moments.UNKNOWN]
    assert moments.clock(Schema(label="y", task="regression", fields={"a": "numeric"})) is None
    assert moments.minutes(np.zeros((0, 8), np.float32), 3).tolist() == []
