"""The model of the last label: runs of labels, late labels, numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn import checks
from everlearn.errors import ConfigError, InputError
from everlearn.model import build
from everlearn.records import Batch


def rows(n: int, columns: int = 0) -> Batch:
    dense = np.zeros((n, columns), np.float32)
    return Batch(dense, np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def last(task: str, classes: int = 0) -> Any:
    return build({"family": "last", "task": task, "dense": 0, "classes": classes})


@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multiclass", 4), ("regression", 0)])
def test_it_passes_every_check(task: str, classes: int) -> None:
    spec = {"family": "last", "task": task, "dense": 2, "hashed": 8, "classes": classes}
    failed = [result for result in checks.run(lambda: build(spec)) if not result.ok]
    assert not failed, failed


def test_it_learns_what_follows_what() -> None:
    model, y = last("multiclass", 3), (np.arange(900) % 3).astype(float)
    scores = model.learn(rows(900), y, np.ones(900, np.float32))
    assert (scores[100:].argmax(axis=1) == y[100:]).all()
    assert model.predict(rows(1)).argmax() == 0
    assert scores[-1].max() > 0.97


def test_before_the_first_label_all_classes_are_alike() -> None:
    assert last("multiclass", 4).predict(rows(1)).tolist() == [[0.25] * 4]


def test_a_late_label_counts_after_the_label_known_at_its_prediction() -> None:
    model = last("binary", 2)
    model.learn(rows(1), np.array([0.0]), np.ones(1, np.float32))
    _, trace = model.predict_traced(rows(1))
    model.learn(rows(1), np.array([1.0]), np.ones(1, np.float32))
    before = model.arrays["followed"].copy()
    model.learn(rows(1), np.array([1.0]), np.ones(1, np.float32), trace)
    gained = model.arrays["followed"] - before
    assert gained[0, 1] > 0.9  # after the 0 that was known
    assert gained[1].tolist() == [0.0, 0.0]  # not after the 1 that came since


def test_numbers_repeat_and_what_is_not_learned_changes_nothing() -> None:
    model = last("regression")
    y = np.array([3.0, np.nan, 5.0, 7.0])
    scores = model.learn(rows(4), y, np.array([1.0, 1.0, 0.0, 1.0], np.float32))
    assert scores[:, 0].tolist() == [0.0, 3.0, 3.0, 3.0]
    assert model.predict(rows(1)).tolist() == [[7.0]]


def test_wrong_settings_and_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2 classes"):
        last("multiclass", 1)
    with pytest.raises(InputError, match="got label 2.0; expected a class"):
        last("binary", 2).learn(rows(1), np.array([2.0]), np.ones(1, np.float32))
    with pytest.raises(InputError, match="got 3 columns; expected 0"):
        last("binary", 2).predict(rows(1, 3))
