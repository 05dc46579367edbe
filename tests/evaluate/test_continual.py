"""Continual learning, evaluated: streams against numpy and SciPy, measures against Avalanche and worked examples, and
models that show what they had learned when they were asked."""

from __future__ import annotations

import itertools
import json
import lzma
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from numpy.typing import NDArray
from rich.console import Console

from everlearn.errors import ConfigError, InputError
from everlearn.evaluate import continual, prequential
from everlearn.evaluate.continual import TaskStream, measures
from everlearn.model import Model, build
from everlearn.records import Arrays, Batch, Examples, Floats, Singles
from tests.support import ROOT

Data = tuple[NDArray[Any], NDArray[Any]]


def blobs(rows: int, classes: int = 4, columns: int = 4, seed: int = 0, space: float = 3.0) -> Data:
    """Classes about corners of a cube, in random order."""
    random = np.random.default_rng(seed)
    y = random.integers(classes, size=rows)
    return (space * np.eye(columns)[y] + random.normal(size=(rows, columns))).astype(np.float32), y


def numbered(rows: int, classes: int) -> Data:
    """Rows that hold their own number, so that each can be followed."""
    return np.arange(rows, dtype=np.float32)[:, None], np.arange(rows) % classes


def whole(stream: TaskStream, begin: int = 0, end: int | None = None) -> Examples:
    pieces = list(stream.chunks(begin, end))
    dense = np.concatenate([piece.batch.dense for piece in pieces])
    batch = Batch(dense, np.zeros(len(dense) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    y, weight, position = (
        np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("y", "weight", "position")
    )
    return Examples(batch, y, weight, position)


def held_out(stream: TaskStream, task: int) -> tuple[Singles, Floats]:
    pieces = list(stream.tests(task))
    return np.concatenate([piece.batch.dense for piece in pieces]), np.concatenate([piece.y for piece in pieces])


def linear(stream: TaskStream, seed: int = 0) -> Model:
    return build({"family": "linear"}, stream.shape)


class Counting:
    """Answers with the class whose number is how many rows it has learned, and notes when it was told of a border."""

    def __init__(self, classes: int = 1000) -> None:
        self.spec: Mapping[str, Any] = {"family": "counting"}
        self.arrays: Arrays = {"learned": np.zeros(1, np.int64)}
        self.classes = classes
        self.rows: list[float] = []
        self.told: list[int] = []

    def predict(self, batch: Batch) -> Singles:
        return self._say(np.full(len(batch), self.arrays["learned"][0]))

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        known = self.arrays["learned"][0] + np.arange(len(batch))
        self.arrays["learned"] += len(batch)
        self.rows += batch.dense[:, 0].tolist()
        return self._say(known)

    def consolidate(self) -> None:
        self.told.append(len(self.rows))

    def _say(self, known: NDArray[Any]) -> Singles:
        return np.eye(self.classes, dtype=np.float32)[np.minimum(known, self.classes - 1)]


def sorted_stream(labels: list[int], tasks: int = 1) -> TaskStream:
    """One row after the other as given, with these labels, cut into `tasks` equal tasks; tested on the same rows."""
    n = len(labels)
    x, y = np.arange(n, dtype=np.float32)[:, None], np.array(labels)
    order = np.stack([np.arange(n) * tasks // n, np.arange(n)], axis=1).astype(np.int32)
    rows = np.array_split(np.arange(n), tasks)
    parts = tuple(continual.StreamTask(str(number), tuple(range(1000)), part) for number, part in enumerate(rows))
    borders = tuple(int(part[-1]) + 1 for part in rows)
    return TaskStream("sorted", (x, y), (x, y), parts, order, borders, np.arange(1000))


# --- streams ---


def test_a_split_gives_each_row_once_class_group_after_class_group() -> None:
    train, test = numbered(1000, 10), numbered(300, 10)
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    stream = continual.split(train, test, per_task=2, order=order)
    rows = whole(stream)
    assert sorted(rows.batch.dense[:, 0]) == list(range(1000))
    np.testing.assert_array_equal(rows.y, rows.batch.dense[:, 0] % 10)
    np.testing.assert_array_equal(rows.position, np.arange(1, 1001))
    assert stream.borders == (200, 400, 600, 800, 1000)
    for task, (begin, end) in enumerate(itertools.pairwise((0, *stream.borders))):
        assert set(rows.y[begin:end]) == set(order[2 * task : 2 * task + 2]) == set(stream.heads[task])
        x, y = held_out(stream, task)
        assert x[:, 0].tolist() == [n for n in range(300) if n % 10 in stream.heads[task]]
        np.testing.assert_array_equal(y, x[:, 0] % 10)


def test_tasks_may_differ_in_size_and_leave_classes_out() -> None:
    stream = continual.split(numbered(100, 10), numbered(100, 10), per_task=(4, 1, 2), order=[9, 8, 7, 6, 0, 1, 2])
    assert [len(head) for head in stream.heads] == [4, 1, 2]
    assert stream.borders == (40, 50, 70)
    assert stream.classes == 10
    assert [task.name for task in stream.tasks] == ["9, 8, 7, 6", "0", "1, 2"]


def test_the_domain_kind_has_the_same_labels_in_every_task() -> None:
    stream = continual.split(numbered(100, 6), numbered(60, 6), per_task=2, kind="domain", order=[5, 2, 0, 1, 4, 3])
    assert stream.shape == {"task": "binary", "dense": 1, "hashed": 0, "classes": 2}
    rows = whole(stream)
    place = {5: 0, 2: 1, 0: 0, 1: 1, 4: 0, 3: 1}
    assert rows.y.tolist() == [place[int(n) % 6] for n in rows.batch.dense[:, 0]]
    assert stream.heads == ((0, 1), (0, 1), (0, 1))


@given(st.integers(0, 2500), st.integers(0, 2500), st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_rows_do_not_depend_on_where_the_stream_is_cut(begin: int, more: int, seed: int) -> None:
    train = blobs(1300, seed=1)
    stream = continual.permuted(train, train, tasks=2, seed=seed)
    end = min(begin + more, len(stream))
    if begin >= end:
        assert list(stream.chunks(begin, end)) == []
        return
    part, everything = whole(stream, begin, end), whole(stream)
    np.testing.assert_array_equal(part.batch.dense, everything.batch.dense[begin:end])
    np.testing.assert_array_equal(part.y, everything.y[begin:end])
    np.testing.assert_array_equal(part.position, everything.position[begin:end])


def test_a_stream_belongs_to_its_seed() -> None:
    train, test = blobs(500), blobs(100, seed=1)
    for make in (
        lambda seed: continual.split(train, test, seed=seed),
        lambda seed: continual.permuted(train, test, tasks=3, seed=seed),
        lambda seed: continual.joint(continual.split(train, test), seed=seed),
        lambda seed: continual.blurred(continual.split(train, test), 100, seed=seed),
    ):
        once, again, other = whole(make(5)), whole(make(5)), whole(make(6))
        assert once.batch.dense.tobytes() == again.batch.dense.tobytes()
        assert once.batch.dense.tobytes() != other.batch.dense.tobytes()


def test_a_permutation_is_the_same_for_all_rows_of_a_task_and_another_in_each() -> None:
    random = np.random.default_rng(0)
    train = random.normal(size=(50, 6, 5)).astype(np.float32), np.arange(50) % 2
    test = random.normal(size=(20, 6, 5)).astype(np.float32), np.arange(20) % 2
    stream = continual.permuted(train, test, tasks=4, seed=3)
    found = []
    for task in range(4):
        x, _ = held_out(stream, task)
        first = test[0].reshape(20, -1)
        order = np.array([np.flatnonzero(first[0] == value)[0] for value in x[0]])
        np.testing.assert_array_equal(x, first[:, order])
        begin = 50 * task
        rows, source = whole(stream, begin, begin + 50), stream.order[begin : begin + 50, 1]
        np.testing.assert_array_equal(rows.batch.dense, train[0].reshape(50, -1)[source][:, order])
        found.append(tuple(order))
    assert found[0] == tuple(range(30))
    assert len(set(found)) == 4


@pytest.mark.parametrize("angle", [0, 18, 90, 137.5, 180, -30])
@pytest.mark.parametrize("shape", [(9, 9), (3, 8, 11)])
def test_a_rotation_is_that_of_scipy(angle: float, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random((6, *shape)).astype(np.float32)
    stream = continual.rotated((x, np.arange(6) % 2), (x, np.arange(6) % 2), angles=(angle,))
    got, _ = held_out(stream, 0)
    expected = scipy.ndimage.rotate(x, angle, axes=(-1, -2), reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(got, expected.reshape(6, -1), atol=2e-6)


def test_whole_pixels_stay_whole_and_flat_images_are_told_their_size() -> None:
    x = np.random.default_rng(0).integers(0, 256, (7, 144), dtype=np.uint8)
    stream = continual.rotated((x, np.arange(7) % 2), (x, np.arange(7) % 2), angles=(0, 30), image=(12, 12))
    got, _ = held_out(stream, 1)
    expected = scipy.ndimage.rotate(
        x.reshape(7, 12, 12).astype(float), 30, axes=(-1, -2), reshape=False, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(got, np.rint(expected).reshape(7, -1), atol=1)
    assert (got == np.rint(expected).reshape(7, -1)).mean() > 0.99  # a half may be rounded either way
    assert set(np.unique(got)) <= set(range(256))
    with pytest.raises(ConfigError, match="flat rows with image="):
        continual.rotated((x, np.arange(7) % 2), (x, np.arange(7) % 2))


def test_a_blurred_border_mixes_as_its_formula_says_and_moves_no_other_row() -> None:
    train = numbered(3000, 3)
    sharp = continual.split(train, train, per_task=1)
    width, seeds = 400, 100
    share = np.zeros(width)
    for seed in range(seeds):
        stream = continual.blurred(sharp, width, seed=seed)
        np.testing.assert_array_equal(np.sort(stream.order[:, 1]), np.arange(3000))
        inside = np.zeros(3000, bool)
        inside[800:1200] = inside[1800:2200] = True
        np.testing.assert_array_equal(stream.order[~inside], sharp.order[~inside])
        assert stream.borders == sharp.borders
        share += stream.order[800:1200, 0] == 1
    expected = (np.arange(width) + 0.5) / width
    # 20 neighbours and 100 seeds: a standard error of 0.011 at the middle if rows were drawn alone
    got = (share / seeds).reshape(-1, 20).mean(axis=1)
    np.testing.assert_allclose(got, expected.reshape(-1, 20).mean(axis=1), atol=0.03)


def test_mixtures_may_meet_but_not_overlap() -> None:
    sharp = continual.split(numbered(300, 3), numbered(30, 3), per_task=1)
    assert len(continual.blurred(sharp, 100)) == 300
    with pytest.raises(ConfigError, match="tasks have 100, 100, 100 rows"):
        continual.blurred(sharp, 102)
    with pytest.raises(ConfigError, match="not sharp"):
        continual.blurred(continual.blurred(sharp, 100), 100)


def test_joint_is_the_same_rows_in_random_order() -> None:
    sharp = continual.split(numbered(3000, 10), numbered(100, 10))
    stream = continual.joint(sharp)
    assert sorted(map(tuple, stream.order)) == sorted(map(tuple, sharp.order))
    counts = np.array([np.bincount(part, minlength=5) for part in np.array_split(stream.order[:, 0], 5)])
    assert (np.abs(counts - 120) < 45).all()  # 120 of each task in each fifth, 4.6 standard deviations
    assert stream.borders == (3000,)


def test_a_stream_copies_no_more_than_a_chunk() -> None:
    x = np.random.default_rng(0).integers(0, 256, (20_000, 400), dtype=np.uint8)  # 8 MB
    y = np.arange(20_000) % 10
    tracemalloc.start()
    stream = continual.permuted((x, y), (x[:100], y[:100]), tasks=5)
    built, _ = tracemalloc.get_traced_memory()
    rows = sum(len(chunk.y) for chunk in stream)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.shares_memory(stream.train[0], x)
    assert rows == 100_000
    assert built < 1.2e6  # 8 bytes a row, and the permutations
    assert peak - built < 8e6  # 1,024 rows as float32 are 1.6 MB


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda x, y: (x[:3], y), InputError, "x has shape"),
        (lambda x, y: (x, y - 1), InputError, "whole numbers from 0"),
        (lambda x, y: (x, y + 0.5), InputError, "whole numbers from 0"),
        (lambda x, y: (x, y * 0), InputError, "at least two classes"),
        (lambda x, y: (x.astype(str), y), InputError, "expected numbers"),
        (lambda x, y: (x, y.astype(str)), InputError, r"y has dtype <U\d+; expected whole numbers"),
        (lambda x, y: None, InputError, "train is of type NoneType; expected a pair"),
        (lambda x, y: (x[:, :1], y), InputError, "expected the same"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: Any, kind: type[Exception], words: str) -> None:
    x, y = blobs(20)
    test = (x, y) if words != "at least two classes" else (x, y * 0)
    with pytest.raises(kind, match=words):
        continual.split(change(x, y), test)


def test_settings_that_mean_nothing_are_refused() -> None:
    train = numbered(100, 10)
    with pytest.raises(ConfigError, match="tasks that use them up"):
        continual.split(train, train, per_task=3)
    with pytest.raises(ConfigError, match="at most once"):
        continual.split(train, train, order=[0, 0, 1, 2])
    with pytest.raises(ConfigError, match="'class', 'task' or 'domain'"):
        continual.split(train, train, kind="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at most once"):
        continual.split(train, train, order=["a"])  # type: ignore[list-item]
    for rows in (-1, 0, 1.5):
        with pytest.raises(ConfigError, match=f"rows is {rows}; expected how many of each task"):
            continual.split(train, train, rows=rows)  # type: ignore[arg-type]
    for changes in ({}, ["as it is"]):
        with pytest.raises(ConfigError, match="changes is .*; expected a change for each task, by its name"):
            continual.domain(train, train, changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the change of task 'turned' is 90; expected a function"):
        continual.domain(train, train, {"turned": 90})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="tasks is -2"):
        continual.permuted(train, train, tasks=-2)
    with pytest.raises(ConfigError, match=r"model is of type dict; expected a model, such as everlearn\.build"):
        continual.evaluate({"family": "linear"}, continual.split(train, train))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"stream is of type list; expected one of continual\.split"):
        continual.evaluate(build({"family": "linear"}), [])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 to test"):
        continual.split(train, (train[0][:5], train[1][:5]))
    halved = continual.domain(train, train, {"halved": lambda x: x[: len(x) // 2]})
    with pytest.raises(InputError, match="the change of task 'halved'"):
        list(halved)


# --- measures ---

MATRIX = np.array(
    [[0.97, 0.12, 0.08, 0.11], [0.81, 0.93, 0.21, 0.05], [0.86, 0.64, 0.9, 0.3], [0.52, 0.71, 0.77, 0.95]]
)
UNTRAINED = np.array([0.11, 0.09, 0.12, 0.1])


def test_transfer_is_that_of_avalanche() -> None:
    """What BWT and ForwardTransfer of avalanche-lib 0.6.0 give for these numbers, averaged over tasks."""
    assert measures.backward_transfer(MATRIX) == pytest.approx(-0.26666666666666666)
    assert measures.forward_transfer(MATRIX, UNTRAINED) == pytest.approx(0.10666666666666665)


def test_measures_of_a_matrix_worked_by_hand() -> None:
    assert measures.average_accuracy(MATRIX) == pytest.approx((0.52 + 0.71 + 0.77 + 0.95) / 4)
    assert measures.learning_accuracy(MATRIX) == pytest.approx((0.97 + 0.93 + 0.9 + 0.95) / 4)
    # the best before the last row: .97, .93, .90
    assert measures.forgetting(MATRIX) == pytest.approx((0.45 + 0.22 + 0.13) / 3)
    # task 2 gets better after its own turn; what was best counts, not what came first
    later = np.array([[0.5, 0.0, 0.0], [0.6, 0.7, 0.0], [0.4, 0.8, 0.9]])
    assert measures.forgetting(later) == pytest.approx((0.2 - 0.1) / 2)
    assert measures.backward_transfer(later) == pytest.approx((-0.1 + 0.1) / 2)


@given(st.integers(2, 6), st.integers(0, 1000))
def test_forgetting_is_the_negative_of_backward_transfer_where_each_task_is_best_at_its_turn(n: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).random((n, n))
    np.fill_diagonal(matrix, 1.0)
    assert measures.forgetting(matrix) == pytest.approx(-measures.backward_transfer(matrix))


def test_the_stability_gap_worked_by_hand() -> None:
    points = np.array([10, 12, 15, 20, 22, 30])
    scores = np.array(
        [[0.9, 0.1, 0.1], [0.2, 0.4, 0.1], [0.6, 0.7, 0.1], [0.8, 0.9, 0.1], [0.5, 0.3, 0.6], [0.7, 0.8, 0.95]]
    )
    # task 1 ends at 10: .2 at the worst, right after; task 2 at 20: .3
    assert measures.minimum_accuracy(points, scores, [10, 20, 30]) == pytest.approx(0.25)
    assert measures.worst_case_accuracy(points, scores, [10, 20, 30]) == pytest.approx(0.95 / 3 + 0.25 * 2 / 3)
    seen = np.array([1, 2, 2, 2, 3, 3])
    expected = [0.9, 0.3, 0.65, 0.85, 1.4 / 3, 2.45 / 3]
    np.testing.assert_allclose(measures.seen_accuracy(scores, seen), expected)
    assert measures.anytime_accuracy(scores, seen) == pytest.approx(np.mean(expected))


def test_speed_and_loss_of_plasticity_worked_by_hand() -> None:
    right = np.repeat([True, False, True, False], [400, 600, 100, 900])
    assert measures.learning_speed(right, [0, 1000]) == pytest.approx((200 / 200 + 100 / 200) / 2)
    line = 0.9 - 0.02 * np.arange(8)
    assert measures.plasticity_slope(line) == pytest.approx(-0.02)


def test_measures_refuse_what_they_are_not_defined_for() -> None:
    for measure in (measures.forgetting, measures.backward_transfer):
        with pytest.raises(InputError, match=r"expected \(T, T\) with T from 2"):
            measure(np.ones((1, 1)))
        with pytest.raises(InputError, match=r"shape \(1, 3\)"):
            measure(np.ones((1, 3)))
    with pytest.raises(InputError, match="at least two tasks"):
        measures.plasticity_slope(np.ones(1))
    with pytest.raises(InputError, match="at least two tasks"):
        measures.minimum_accuracy(np.array([1]), np.ones((1, 1)), [1])


# --- evaluation ---


@pytest.mark.parametrize(
    ("every", "points"), [(None, [0, 30]), ("task", [0, 10, 20, 30]), (8, [0, 8, 10, 16, 20, 24, 30])]
)
def test_a_model_is_tested_when_it_should_be_with_what_it_has_learned(every: Any, points: list[int]) -> None:
    """A model that answers with the number of rows it has learned is right on the test row with that label alone."""
    outcome = continual.evaluate(Counting(), sorted_stream(list(range(30)), tasks=3), every)
    assert outcome.points.tolist() == points
    for point, scores in zip(points, outcome.scores, strict=True):
        expected = np.zeros(3)
        if point < 30:
            expected[point // 10] = 0.1
        np.testing.assert_allclose(scores, expected)
    assert outcome.right.all()  # row n is answered when n rows have been learned
    assert outcome.learned == 30
    assert outcome.matrix.shape == (1 if every is None else 3, 3)


def test_online_answers_are_those_of_prequential() -> None:
    train, test = blobs(3000, space=1.5), blobs(500, seed=1)
    stream = continual.split(train, test)
    outcome = continual.evaluate(linear(stream), stream, every=100)
    alone = prequential.prequential(linear(stream), stream)
    assert outcome.online.metrics == alone.metrics
    assert outcome.metrics["online_accuracy"] == pytest.approx(alone.metrics["accuracy"])
    twin = linear(stream)
    for chunk in stream:
        twin.learn(chunk.batch, chunk.y, chunk.weight)
    for task in range(2):
        x, y = held_out(stream, task)
        batch = Batch(x, np.zeros(len(x) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        assert outcome.scores[-1, task] == pytest.approx((twin.predict(batch).argmax(axis=1) == y).mean())


def test_the_same_evaluation_twice_is_the_same() -> None:
    stream = continual.blurred(continual.split(blobs(2000), blobs(300, seed=1)), 300)
    once, again = (continual.evaluate(linear(stream), stream, 250, cost=1.7) for _ in range(2))
    assert once.metrics == again.metrics
    assert once.scores.tobytes() == again.scores.tobytes()


def test_where_the_task_is_told_answers_stay_within_its_classes() -> None:
    train, test = blobs(3000, space=1.0), blobs(600, seed=1, space=1.0)
    told = continual.split(train, test, kind="task", order=[2, 0, 3, 1])
    apart = continual.split(train, test, kind="class", order=[2, 0, 3, 1])
    outcome, hard = (continual.evaluate(linear(stream), stream) for stream in (told, apart))
    twin = linear(told)
    rows = whole(told)
    said = twin.learn(rows.batch, rows.y, rows.weight)
    allowed = np.zeros_like(said)
    for place, task in enumerate(told.order[:, 0]):
        allowed[place, list(told.heads[task])] = said[place, list(told.heads[task])]
    np.testing.assert_array_equal(outcome.right, allowed.argmax(axis=1) == rows.y)
    assert outcome.metrics["average_accuracy"] > hard.metrics["average_accuracy"] + 0.1
    shares = told.restrict(np.array([[0.1, 0.2, 0.3, 0.4], [0, 0.5, 0, 0.5]], np.float32), np.array([0, 0]))
    np.testing.assert_allclose(shares, [[0.25, 0, 0.75, 0], [0.5, 0, 0.5, 0]])


@pytest.mark.parametrize(
    ("cost", "learned"),
    [
        (0.5, list(range(12))),
        (1.0, list(range(12))),
        (4 / 3, [0, 1, 2, 4, 5, 6, 8, 9, 10]),
        (1.5, [0, 1, 3, 4, 6, 7, 9, 10]),
        (2.0, [0, 2, 4, 6, 8, 10]),
        (3.0, [0, 3, 6, 9]),
        (100.0, [0]),
    ],
)
def test_rows_that_come_while_the_model_is_busy_are_not_learned(cost: float, learned: list[int]) -> None:
    counting = Counting()
    outcome = continual.evaluate(counting, sorted_stream([0] * 12), cost=cost)
    assert counting.rows == learned
    assert outcome.learned == len(learned)


def test_an_update_helps_only_when_it_is_done() -> None:
    """At cost 2 row 0 is learned by the time of row 2, row 2 by that of row 4; at 3 by 3 and 6."""
    for cost, known in ((2.0, [0, 0, 1, 1, 2, 2, 3, 3]), (3.0, [0, 0, 0, 1, 1, 1, 2, 2])):
        outcome = continual.evaluate(Counting(), sorted_stream(known), cost=cost)
        assert outcome.right.all()


@given(st.floats(1.01, 9), st.integers(1, 40))
@settings(deadline=None, max_examples=25)
def test_of_c_rows_one_is_learned_wherever_the_model_is_tested(cost: float, every: int) -> None:
    once, cut = Counting(), Counting()
    stream = sorted_stream([0] * 200)
    outcome = continual.evaluate(once, stream, every=None, cost=cost)
    assert abs(outcome.learned - 200 / cost) <= 2
    assert continual.evaluate(cut, stream, every=every, cost=cost).right.tolist() == outcome.right.tolist()
    assert once.rows == cut.rows


def test_a_model_is_told_of_borders_only_where_that_is_asked_for_and_offered() -> None:
    stream = sorted_stream([0] * 30, tasks=3)
    told, untold, seldom = Counting(), Counting(), Counting()
    continual.evaluate(told, stream, consolidate=True)
    continual.evaluate(untold, stream)
    continual.evaluate(seldom, stream, every=None, consolidate=True)
    assert (told.told, untold.told, seldom.told) == ([10, 20], [], [10, 20])
    assert isinstance(told, continual.Consolidates)
    split = continual.split(blobs(200), blobs(100, seed=1))
    assert not isinstance(linear(split), continual.Consolidates)
    assert continual.evaluate(linear(split), split, consolidate=True).learned == 200


def test_a_model_without_a_shape_takes_that_of_the_stream() -> None:
    stream = continual.split(blobs(400), blobs(100, seed=1))
    deferred = build({"family": "linear"})
    assert continual.evaluate(deferred, stream).metrics == continual.evaluate(linear(stream), stream).metrics
    assert deferred.spec["classes"] == 4


def test_models_and_settings_that_do_not_fit_are_refused() -> None:
    stream = continual.split(blobs(200), blobs(100, seed=1))
    with pytest.raises(ConfigError, match="classes 3"):
        continual.evaluate(build({"family": "linear", "task": "multiclass", "dense": 4, "classes": 3}), stream)
    with pytest.raises(ConfigError, match="task 'regression'"):
        continual.evaluate(build({"family": "linear", "task": "regression", "dense": 4}), stream)
    with pytest.raises(ConfigError, match="every is 0"):
        continual.evaluate(linear(stream), stream, every=0)
    with pytest.raises(ConfigError, match="cost is -1"):
        continual.evaluate(linear(stream), stream, cost=-1)
    with pytest.raises(ConfigError, match="cost is nan"):
        continual.evaluate(linear(stream), stream, cost=float("nan"))
    with pytest.raises(ConfigError, match="0 rows to measure"):
        continual.seconds_per_row(linear(stream), stream, rows=0)
    with pytest.raises(ConfigError, match="0 methods, 3 seeds"):
        continual.compare({}, lambda seed: stream)


def test_an_outcome_shows_the_measures_that_are_defined_for_it() -> None:
    sharp = continual.split(blobs(1000), blobs(200, seed=1))
    after, within, end = (continual.evaluate(linear(sharp), sharp, every) for every in ("task", 50, None))
    mixed = continual.joint(sharp)
    joined = continual.evaluate(linear(mixed), mixed)
    gap = {"minimum_accuracy", "worst_case_accuracy"}
    assert gap <= within.metrics.keys()
    assert within.metrics.keys() - gap == after.metrics.keys()
    assert not {"forgetting", "forward_transfer", "anytime_accuracy"} & end.metrics.keys()
    assert joined.metrics.keys() == {"average_accuracy", "test_accuracy", "online_accuracy"}
    assert joined.metrics["average_accuracy"] > end.metrics["average_accuracy"]
    assert after.metrics["forward_transfer"] == measures.forward_transfer(after.matrix, after.scores[0])
    pooled = sum(score * n for score, n in zip(after.matrix[-1], after.tests, strict=True)) / 200
    assert after.metrics["test_accuracy"] == pytest.approx(pooled)
    first = after.borders[0]
    np.testing.assert_allclose(after.online_by_task, [after.right[:first].mean(), after.right[first:].mean()])


# --- tables and pictures ---


@pytest.fixture(scope="module")
def outcome() -> continual.ContinualReport:
    stream = continual.split(blobs(1200, space=2.0), blobs(300, seed=1, space=2.0), per_task=1)
    return continual.evaluate(linear(stream), stream, 100, cost=1.5, name="a <model>")


def test_a_table_says_what_was_measured(outcome: continual.ContinualReport) -> None:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(outcome)
    text = capture.get()
    for name, value in outcome.metrics.items():
        assert f"{value:.4f}" in next(line for line in text.splitlines() if line.startswith(name.replace("_", " ")))
    last = next(line for line in text.splitlines() if line.startswith("after 3"))
    assert last.split()[2:] == [f"{value:.3f}" for value in outcome.matrix[-1]]
    assert f"{outcome.learned:,} of them learned" in text
    assert "a &lt;model&gt; on split" in outcome._repr_html_()
    assert f"forgetting {outcome.metrics['forgetting']:.4f}" in repr(outcome)


def test_an_outcome_is_plain_data(outcome: continual.ContinualReport) -> None:
    plain = json.loads(json.dumps(outcome.to_dict()))
    assert plain["metrics"] == outcome.metrics
    assert plain["scores"] == outcome.scores.tolist()
    assert plain["rows"] == 1200
    assert plain["learned"] == 800


def test_the_picture_shows_the_matrix_with_its_numbers(outcome: continual.ContinualReport, tmp_path: Path) -> None:
    figure = outcome.plot(tmp_path / "outcome.png")
    assert (tmp_path / "outcome.png").stat().st_size > 10_000
    heat, curves = figure.axes
    np.testing.assert_array_equal(heat.images[0].get_array(), outcome.matrix)
    assert [text.get_text() for text in heat.texts] == [f"{100 * value:.1f}" for value in outcome.matrix.ravel()]
    assert [label.get_text() for label in heat.get_xticklabels()] == list(outcome.tasks)
    drawn = next(line for line in curves.lines if len(line.get_xdata()) == len(outcome.points) - 1)
    np.testing.assert_array_equal(drawn.get_ydata(), outcome.seen_accuracy)
    for text, value in zip(heat.texts, outcome.matrix.ravel(), strict=True):
        back = np.array(heat.images[0].cmap(heat.images[0].norm(value)))[:3]
        assert contrast(back, np.array(text_colour(text))) > 3  # that of large text in WCAG 2.1


def text_colour(text: Text) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(text.get_color())


def contrast(one: NDArray[Any], other: NDArray[Any]) -> float:
    light = [
        float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])
        for c in (one, other)
    ]
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.parametrize("tasks", [1, 2, 5, 10, 20, 30])
def test_nothing_in_the_picture_lies_outside_it_or_over_another_name(tasks: int) -> None:
    stream = sorted_stream([number % 7 for number in range(60 * tasks)], tasks)
    figure = continual.evaluate(Counting(), stream, name="a model").plot()
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    labels = [label for axes in figure.axes for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    boxes = [Text.get_window_extent(text) for text in [*texts, *labels] if text.get_text()]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    names = [Text.get_window_extent(text) for text in figure.axes[1].texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(names, 2))
    cells = [Text.get_window_extent(text) for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(cells[: 2 * tasks], 2))


def test_a_comparison_is_the_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    train, test = blobs(900, space=2.0), blobs(200, seed=1, space=2.0)
    methods = {
        "auto": linear,
        "adam": lambda stream, seed: build({"family": "linear", "optimizer": "adam"}, stream.shape),
    }
    result = continual.compare(methods, lambda seed: continual.split(train, test, seed=seed), seeds=[3, 5, 9])
    values = [outcome.metrics["average_accuracy"] for outcome in result.outcomes["adam"]]
    mean, sd = result.metrics["adam"]["average_accuracy"]
    assert (mean, sd) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    alone = continual.split(train, test, seed=5)
    assert continual.evaluate(linear(alone), alone).metrics == result.outcomes["auto"][1].metrics
    console = Console(width=140)
    with console.capture() as capture:
        console.print(result)
    line = next(line for line in capture.get().splitlines() if line.startswith("average accuracy"))
    assert f"{mean:.3f} ± {sd:.3f}" in line
    best = max(result.metrics, key=lambda name: result.metrics[name]["average_accuracy"][0])
    assert f"<b>{result.metrics[best]['average_accuracy'][0]:.3f}" in result._repr_html_()
    assert json.loads(json.dumps(result.to_dict()))["metrics"]["adam"]["average_accuracy"] == {"mean": mean, "sd": sd}
    figure = result.plot(tmp_path / "comparison.png")
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes[1:]] == ["auto", "adam"]
    np.testing.assert_allclose(
        figure.axes[2].images[0].get_array(), np.mean([outcome.matrix for outcome in result.outcomes["adam"]], axis=0)
    )


def test_at_a_fixed_budget_a_method_learns_the_rows_it_has_time_for() -> None:
    train = blobs(600)
    stream = continual.split(train, train)
    rich = continual.compare({"linear": linear}, lambda seed: stream, seeds=[0], budget=1e6)
    poor = continual.compare({"linear": linear}, lambda seed: stream, seeds=[0], budget=1e-6)
    assert rich.metrics["linear"]["learned"] == (1.0, 0.0)
    assert 0 < poor.outcomes["linear"][0].learned < 30
    assert rich.metrics["linear"]["average_accuracy"] > poor.metrics["linear"]["average_accuracy"]


# --- networks ---


def test_replay_keeps_what_a_naive_network_forgets() -> None:
    torch = pytest.importorskip("torch", reason="networks need PyTorch: pip install everlearn[torch]")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train, test = blobs(1000, columns=8), blobs(300, columns=8, seed=1)
    dials: dict[str, Any] = {
        "family": "neural",
        "ema": 0.0,
        "optimizer": {"name": "sgd", "lr": 0.2},
        "one_at_a_time": False,
    }

    def naive(stream: TaskStream, seed: int) -> Model:
        return build({**dials, "memory": {"kind": "none"}, "seed": seed}, stream.shape)

    def replay(stream: TaskStream, seed: int) -> Model:
        return build({**dials, "memory": {"rows": 50}, "terms": [{"kind": "replay"}], "seed": seed}, stream.shape)

    methods = {"naive": naive, "replay": replay}
    result = continual.compare(methods, lambda seed: continual.split(train, test, seed=seed), seeds=[0])
    torch.set_num_threads(threads)
    assert result.metrics["naive"]["forgetting"][0] > 0.8
    assert result.metrics["replay"]["forgetting"][0] < 0.3
    assert result.metrics["replay"]["average_accuracy"][0] > 0.8


def test_the_example_shows_that_replay_keeps_what_ewc_forgets(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks need PyTorch: pip install everlearn[torch]")
    example = ROOT / "examples" / "continual.py"
    command = [sys.executable, str(example), "--rows", "700", "--seeds", "1", "--picture", str(tmp_path / "digits.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("average accuracy"))
    naive, replay, averaged, ewc = (float(cell.split("±")[0]) for cell in re.split(r"\s{2,}", line.strip())[1:])
    assert min(replay, averaged) > max(naive, ewc) + 0.2
    assert (tmp_path / "digits.png").exists()


# --- real images ---


def images(shared: Path, name: str, rows: int) -> Data:
    """The first rows of a data set of images, uint8, and their labels."""
    content = "dx" if name.startswith("cifar") else "x"
    arrays = []
    for kind in (content, "y"):
        path = shared / f"{name}_{kind}.npy.xz"
        if not path.exists():
            pytest.skip(f"{path} is not here; set EVERLEARN_DATA to the folder that holds it")
        with lzma.open(path) as file:
            arrays.append(np.load(file)[:rows])
    x, y = arrays
    return np.cumsum(x, axis=-1, dtype=np.uint8) if content == "dx" else x.reshape(-1, 28, 28), y


def test_digits_are_forgotten_by_a_plain_model_unless_tasks_are_told_or_mixed(shared: Path) -> None:
    train, test = images(shared, "mnist_train", 5000), images(shared, "mnist_test", 1000)
    streams = {kind: continual.split(train, test, kind=kind) for kind in ("class", "task", "domain")}
    streams["joint"] = continual.joint(streams["class"])
    assert streams["class"].row == (28, 28)
    got = {name: continual.evaluate(linear(stream), stream).metrics for name, stream in streams.items()}
    average = {name: values["average_accuracy"] for name, values in got.items()}
    assert average["class"] < 0.5 < 0.8 < average["joint"]
    assert average["task"] > 0.9
    assert got["class"]["forgetting"] > 0.5 > got["domain"]["forgetting"]
    assert got["class"]["online_accuracy"] > 0.9  # only two classes come at a time: no measure of what is kept


def test_digits_turned_a_little_are_learned_sooner_than_digits_in_another_order(shared: Path) -> None:
    train, test = images(shared, "mnist_train", 1000), images(shared, "mnist_test", 500)
    turned = continual.rotated(train, test, angles=(0, 15, 30))
    shuffled = continual.permuted(train, test, tasks=3)
    forward = [continual.evaluate(linear(stream), stream).metrics["forward_transfer"] for stream in (turned, shuffled)]
    assert forward[0] > 0.3 > 0.1 > forward[1]


def test_colour_images_run_end_to_end(shared: Path, tmp_path: Path) -> None:
    train, test = images(shared, "cifar10_train10k", 1000), images(shared, "cifar10_test1k", 300)
    stream = continual.blurred(continual.split(train, test), width=100)
    assert stream.row == (3, 32, 32)
    outcome = continual.evaluate(linear(stream), stream)
    outcome.plot(tmp_path / "cifar.png")
    assert 0.1 < outcome.metrics["average_accuracy"] < 0.6
    assert (tmp_path / "cifar.png").exists()
