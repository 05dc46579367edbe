"""Naive baselines against their definitions, for any order of labels and predictions, and any cut of the stream."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn import metrics
from everlearn.metrics import baselines
from everlearn.records import Task

TASKS: tuple[tuple[Task, int], ...] = (("binary", 2), ("multiclass", 4), ("regression", 0))

label = st.one_of(st.integers(0, 3).map(float), st.sampled_from([math.nan, -1.0, 0.5, 9.0]))
weight = st.sampled_from([1.0, 0.0, 2.5, math.nan, math.inf, -1.0])
steps = st.lists(st.one_of(st.none(), st.tuples(label, weight)), max_size=40)  # None: a prediction


def expected(task: Task, classes: int, labels: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return the answers of both baselines after these labels, by definition."""
    usable = [(y, w) for y, w in labels if math.isfinite(y) and 0 < w < math.inf]
    if task == "regression":
        total = sum(w for _, w in usable)
        return [usable[-1][0] if usable else math.nan], [sum(y * w for y, w in usable) / total if usable else 0.0]
    usable = [(y, w) for y, w in usable if y in range(classes)]
    held = [sum(w for y, w in usable if y == k) for k in range(classes)]
    shares = [(each + 1) / (sum(held) + classes) for each in held]
    return [float(usable[-1][0] == k) if usable else math.nan for k in range(classes)], shares


@given(stream=steps, which=st.sampled_from(TASKS), cut=st.integers(0, 40))
@settings(deadline=None)
def test_answers_follow_from_the_labels_known_before(
    stream: list[tuple[float, float] | None], which: tuple[Task, int], cut: int
) -> None:
    task, classes = which
    state, last, common = baselines.start(task, classes), [], []
    wanted: list[tuple[list[float], list[float]]] = []
    for part in (stream[:cut], stream[cut:]):
        labels = [step for step in part if step is not None]
        known = [sum(step is not None for step in part[:at]) for at, step in enumerate(part) if step is None]
        y, w = np.array([y for y, _ in labels]), np.array([w for _, w in labels], np.float32)
        answers = baselines.answers(state, task, y, w, np.array(known, np.int64))
        last, common = last + answers[0].tolist(), common + answers[1].tolist()
    for at, step in enumerate(stream):
        if step is None:
            wanted.append(expected(task, classes, [each for each in stream[:at] if each is not None]))
    for got, shares, want in zip(last, common, wanted, strict=True):
        assert got == pytest.approx(want[0], nan_ok=True)
        assert shares == pytest.approx(want[1], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("task", "classes"), TASKS)
def test_one_label_at_a_time_gives_the_bytes_of_all_at_once(task: Task, classes: int) -> None:
    random = np.random.default_rng(0)
    y, w = random.integers(0, max(classes, 3), 50).astype(float), random.random(50).astype(np.float32)
    whole, single = baselines.start(task, classes), baselines.start(task, classes)
    together = baselines.answers(whole, task, y, w, np.arange(50))
    parts = [baselines.answers(single, task, y[i : i + 1], w[i : i + 1], np.zeros(1, np.int64)) for i in range(50)]
    assert together[0].tobytes() == np.concatenate([last for last, _ in parts]).tobytes()
    assert together[1].tobytes() == np.concatenate([common for _, common in parts]).tobytes()
    assert {name: array.tobytes() for name, array in whole.items()} == {
        name: array.tobytes() for name, array in single.items()
    }


def test_labels_are_those_that_the_baselines_answer_with() -> None:
    nan = np.nan
    last = np.array([[nan, nan, nan], [0, 0, 1]], np.float32)
    shares = np.array([[0.4, 0.4, 0.2], [0.1, 0.6, 0.3]], np.float32)
    np.testing.assert_array_equal(baselines.labels(last, shares), [[nan, 0], [2, 1]])
    numbers = baselines.labels(np.array([[nan], [3.0]], np.float32), np.array([[0.0], [1.5]], np.float32))
    np.testing.assert_array_equal(numbers, [[nan, 0.0], [3.0, 1.5]])


def test_the_last_label_has_no_log_loss_and_no_order_of_scores() -> None:
    arrays = baselines.measures("binary", 2)
    scores, y, w = np.array([[1.0, 0.0]], np.float32), np.array([1.0]), np.ones(1, np.float32)
    metrics.update(arrays, "binary", scores, y, w, 0)
    assert not {"log_loss", "roc_auc"} & baselines.report("last_label", arrays, "binary").keys()
    assert "log_loss" not in baselines.curve("last_label", arrays)
    assert "log_loss" in baselines.report("majority", arrays, "binary")


@given(
    stream=st.lists(st.tuples(label, st.one_of(weight, st.sampled_from([1e8, 1e8 + 8, 3e38]))), max_size=30),
    which=st.sampled_from(TASKS),
    only=st.sets(st.sampled_from(["last_label", "majority", "mean"])),
)
@settings(deadline=None)
def test_labels_and_some_answers_are_those_of_all_answers(
    stream: list[tuple[float, float]], which: tuple[Task, int], only: set[str]
) -> None:
    task, classes = which
    y, w = np.array([y for y, _ in stream]), np.array([w for _, w in stream], np.float32)
    known = np.arange(len(stream) + 1)
    whole, part = baselines.start(task, classes), baselines.start(task, classes)
    both = dict(zip(baselines.names(task), baselines.answers(whole, task, y, w, known), strict=True))
    answers, labels = baselines.labelled_answers(part, task, y, w, known, only)
    assert labels.tobytes() == baselines.labels(*both.values()).tobytes()
    assert all(answers[name].tobytes() == both[name].tobytes() for name in only & both.keys())
    assert all(whole[name].tobytes() == part[name].tobytes() for name in whole)
