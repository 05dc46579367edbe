"""Popularity against counts that fade in numpy, and mean ratings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.errors import ConfigError
from everlearn.model import build
from everlearn.records import Batch


def pairs_of(items: Any) -> Batch:
    n = len(items)
    pairs = np.stack([np.full(n, 9), items], axis=1).astype(np.int32)
    return Batch(np.zeros((n, 0), "f4"), np.arange(0, 2 * n + 1, 2), pairs.ravel(), np.ones(2 * n, np.float32))


def learned(task: str, items: Any, y: Any, **spec: Any) -> Any:
    model = build({"family": "popular", "task": task, "dense": 0, "hashed": 16, **spec})
    model.learn(pairs_of(items), np.asarray(y, float), np.ones(len(y), np.float32))
    return model


def test_choices_fade() -> None:
    items = np.random.default_rng(0).integers(0, 4, 30_000)  # the weight of a row grows by 1e9 every 10,000 rows
    memory = 500.0
    model = learned("binary", items, np.ones(30_000), memory=memory)
    share = (1.0 - 1.0 / memory) ** np.arange(30_000)[::-1]
    expected = [share[items == k].sum() / share.sum() for k in range(4)]
    assert model.predict(pairs_of(np.arange(4)))[:, 1] == pytest.approx(expected, rel=1e-5)
    assert model.arrays["counts"].max() < 1e13


def test_rows_of_class_0_are_no_choices() -> None:
    model = learned("binary", [1, 2, 2], [1.0, 0.0, 0.0], memory=0)
    assert model.predict(pairs_of([1, 2, 3]))[:, 1].tolist() == [1.0, 0.0, 0.0]


def test_ratings_are_drawn_towards_the_mean() -> None:
    model = learned("regression", [1] * 10 + [2] * 10, [5.0] * 10 + [1.0] * 10, memory=0)
    assert model.predict(pairs_of([1, 2, 3]))[:, 0].tolist() == pytest.approx([4.0, 2.0, 3.0])


def test_the_item_may_stand_elsewhere() -> None:
    model = learned("binary", [1, 2, 2], [1.0] * 3, memory=0, place=0)
    assert model.predict(pairs_of([5])).tolist() == [[0.0, 1.0]]  # all rows have the user 9


def test_a_wrong_setting_is_refused_by_its_name() -> None:
    for changed, words in (({"memory": 1.5}, "memory: got 1.5"), ({"place": -1}, "place: got -1"),
                           ({"task": "multiclass", "classes": 3}, "task: got 'multiclass'")):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            build({"family": "popular", "task": "binary", "dense": 0, "hashed": 8, **changed})
        assert words in str(refused.value)
