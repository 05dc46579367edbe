"""Models grow with the names and labels of a stream, and lose nothing that the memory holds."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.bridges.dicts import KEPT, MOST_COLUMNS, DictModel
from everlearn.errors import InputError


def rows(count: int, names: int, seed: int = 1) -> list[dict[str, float]]:
    random = np.random.default_rng(seed)
    return [{f"x{j}": float(value) for j, value in enumerate(random.normal(size=names))} for _ in range(count)]


def test_a_model_that_grew_equals_one_that_had_room_from_the_start():
    records, labels = rows(300, 20), ["a", "b", "c"] * 100
    grown, wide = DictModel({"family": "linear"}, True), DictModel({"family": "linear"}, True)
    wide.learn([], [])
    for j in range(20):
        wide._columns[f"x{j}"] = j
    for label in ("a", "b", "c"):
        wide._place(label)
    wide._grow()
    narrow = [{name: record[name] for name in list(record)[:3]} for record in records[:30]]
    order = sorted(f"x{j}" for j in range(20))
    assert order[:3] != ["x0", "x1", "x2"]
    for record, label in zip([*narrow, *records], ["a", "b"] * 15 + labels, strict=True):
        grown.learn([record], [label])
        wide.learn([record], [label])
    assert grown.model.spec == wide.model.spec
    assert len(grown.labels) == 3
    assert np.allclose(grown.shares(records), wide.shares(records), atol=1e-5)


def test_names_after_the_last_column_are_hashed():
    records = rows(150, MOST_COLUMNS + 40)
    model = DictModel({"family": "linear"}, True)
    model.learn(records, [record[f"x{MOST_COLUMNS + 39}"] > 0 for record in records])
    assert model.model.spec["dense"] == MOST_COLUMNS
    assert model.model.spec["hashed"] > 0
    assert np.diff(model._batch(records).indptr).tolist() == [40] * 150


def test_rows_are_kept_up_to_a_bound():
    model = DictModel({"family": "linear"}, False)
    for _ in range(3):
        model.learn(rows(KEPT, 2), range(KEPT))
    assert len(model._kept) == KEPT


def test_the_order_of_a_record_has_no_effect():
    one, other = DictModel({"family": "forest", "trees": 3}, True), DictModel({"family": "forest", "trees": 3}, True)
    records, labels = rows(200, 12), [0, 1] * 100
    one.learn(records, labels)
    other.learn([dict(reversed(record.items())) for record in records], labels)
    assert np.array_equal(one.shares(records), other.shares(records))


def test_a_regression_refuses_words():
    with pytest.raises(InputError, match="label: got 'up'; expected a number"):
        DictModel({"family": "linear"}, False).learn([{"a": 1.0}], ["up"])


def test_a_weight_of_zero_teaches_nothing():
    model = DictModel({"family": "linear"}, False)
    model.learn([{"a": 1.0}] * 5, [100.0] * 5, [0.0] * 5)
    assert model.scores([{"a": 1.0}]).tolist() == [[0.0]]


def test_an_absent_number_is_0_and_none_or_nan_is_missing():
    bags = [{"good": 1, "nice": 2}, {"bad": 1, "ugly": 1}] * 200
    model = DictModel({"family": "linear"}, True)
    model.learn(bags, [True, False] * 200)
    model.learn([{"good": None, "nice": float("nan"), "bad": "?"}], [True])
    dense = model._batch([{"good": 1}, {"good": None, "nice": float("nan")}, {"bad": "?"}]).dense
    column = model._columns
    assert dense[0, [column["good"], column["nice"], column["bad"], column["ugly"]]].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert np.isnan(dense[1, [column["good"], column["nice"]]]).all()
    assert np.isnan(dense[2, column["bad"]])
    assert np.isnan(dense[:, 4:]).all()  # room for later names
    good, bad = model.shares([{"good": 1, "nice": 2}, {"bad": 1, "ugly": 1}])[:, model.labels.index(True)]
    assert good > 0.9
    assert bad < 0.1
