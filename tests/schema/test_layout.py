"""The columns of a schema, and schemas that contradict themselves."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from everlearn.errors import ConfigError
from everlearn.schema import Encoder, shape
from everlearn.spec import Schema
from tests.support.schemas import EVERY_KIND


def test_shape_counts_columns() -> None:
    assert shape(EVERY_KIND) == {"task": "binary", "dense": 9, "hashed": 2**18, "classes": 2}
    only_dense = Schema(label="y", task="regression", fields={"v": "vector[12]"})
    assert shape(only_dense) == {"task": "regression", "dense": 12, "hashed": 0, "classes": 0}
    batch = Encoder(only_dense).record({})
    assert (batch.dense.shape, batch.indices.dtype, batch.indptr.dtype) == ((1, 12), np.int32, np.int64)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fields": {}}, "no fields"),
        ({"fields": {"y": "numeric"}}, "is also a field"),
        ({"fields": {"x": "number"}}, "field 'x': got the kind 'number'; expected one of numeric"),
        ({"fields": {"x": "vector[0]"}}, "vector"),
        ({"classes": (0, 1, 2)}, "got 3 classes, [0, 1, 2]; expected 2 for a binary task"),
        ({"classes": (1, "1")}, "schema.classes: got [1, '1']; expected classes of different spellings"),
        ({"classes": ("7", "7.0")}, "schema.classes: got ['7', '7.0']; expected classes of different spellings"),
        ({"classes": ("True", True)}, "expected classes of different spellings"),
        ({"task": "regression"}, "expected none for a regression"),
        ({"task": "multiclass", "classes": (1,)}, "expected at least 2 for a multiclass task"),
        ({"bits": 40}, "schema.bits: got 40; expected 1 to 30"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(changes: dict[str, Any], reason: str) -> None:
    whole = {"label": "y", "task": "binary", "classes": (0, 1), "fields": {"x": "numeric"}, **changes}
    with pytest.raises(ConfigError, match=re.escape(reason)):
        Encoder(Schema(**whole))


def test_rules_of_release_0_1_0_keep_classes_apart_as_they_are_written() -> None:
    schema = Schema(label="y", task="binary", classes=("7", "7.0"), fields={"x": "numeric"}, rules=1)
    assert [Encoder(schema).label(value) for value in ("7", "7.0")] == [0.0, 1.0]
