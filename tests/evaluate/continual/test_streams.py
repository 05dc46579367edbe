"""Streams of tasks: each row once, in an order fixed by the seed, and borders where they should be."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import ConfigError, InputError
from everlearn.evaluate import continual
from everlearn.model import build
from tests.support.task_streams import Data, blobs, held_out, whole


def numbered(rows: int, classes: int) -> Data:
    """Return rows that hold their number, so that each can be traced."""
    return np.arange(rows, dtype=np.float32)[:, None], np.arange(rows) % classes


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
    with pytest.raises(ConfigError, match="expected sizes of tasks that add up to it"):
        continual.split(train, train, per_task=3)
    with pytest.raises(ConfigError, match="at most once"):
        continual.split(train, train, order=[0, 0, 1, 2])
    with pytest.raises(ConfigError, match="'class', 'task' or 'domain'"):
        continual.split(train, train, kind="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at most once"):
        continual.split(train, train, order=["a"])  # type: ignore[list-item]
    for rows in (-1, 0, 1.5):
        with pytest.raises(ConfigError, match=f"rows is {rows}; expected the number of rows of each task"):
            continual.split(train, train, rows=rows)  # type: ignore[arg-type]
    for changes in ({}, ["as it is"]):
        with pytest.raises(ConfigError, match="changes is .*; expected a mapping of task names to changes"):
            continual.domain(train, train, changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the change of task 'turned' is 90; expected a function"):
        continual.domain(train, train, {"turned": 90})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="tasks is -2"):
        continual.permuted(train, train, tasks=-2)
    with pytest.raises(ConfigError, match=r"model is of type dict; expected a model, such as everlearn\.build"):
        continual.evaluate({"family": "linear"}, continual.split(train, train))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"stream is of type list; expected a task stream"):
        continual.evaluate(build({"family": "linear"}), [])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 to test"):
        continual.split(train, (train[0][:5], train[1][:5]))
    halved = continual.domain(train, train, {"halved": lambda x: x[: len(x) // 2]})
    with pytest.raises(InputError, match="the change of task 'halved'"):
        list(halved)
