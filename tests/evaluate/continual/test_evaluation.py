"""Evaluation on a stream of tasks, with models that reveal what they had learned at each moment."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from everlearn.errors import ConfigError
from everlearn.evaluate import continual, prequential
from everlearn.evaluate.continual import measures
from everlearn.model import build
from everlearn.records import Batch
from tests.support.task_streams import Counting, Data, blobs, held_out, linear, sorted_stream, whole


@pytest.mark.parametrize(
    ("every", "points"), [(None, [0, 30]), ("task", [0, 10, 20, 30]), (8, [0, 8, 10, 16, 20, 24, 30])]
)
def test_a_model_is_tested_when_it_should_be_with_what_it_has_learned(every: Any, points: list[int]) -> None:
    """A model that predicts the number of rows it has learned is right only on the test row with that label."""
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
    revealing = continual.split(train, test, kind="task", order=[2, 0, 3, 1])
    apart = continual.split(train, test, kind="class", order=[2, 0, 3, 1])
    outcome, hard = (continual.evaluate(linear(stream), stream) for stream in (revealing, apart))
    twin = linear(revealing)
    rows = whole(revealing)
    scores = twin.learn(rows.batch, rows.y, rows.weight)
    allowed = np.zeros_like(scores)
    for place, task in enumerate(revealing.order[:, 0]):
        allowed[place, list(revealing.heads[task])] = scores[place, list(revealing.heads[task])]
    np.testing.assert_array_equal(outcome.right, allowed.argmax(axis=1) == rows.y)
    assert outcome.metrics["average_accuracy"] > hard.metrics["average_accuracy"] + 0.1
    shares = revealing.restrict(np.array([[0.1, 0.2, 0.3, 0.4], [0, 0.5, 0, 0.5]], np.float32), np.array([0, 0]))
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
    consolidated, untouched, seldom = Counting(), Counting(), Counting()
    continual.evaluate(consolidated, stream, consolidate=True)
    continual.evaluate(untouched, stream)
    continual.evaluate(seldom, stream, every=None, consolidate=True)
    assert (consolidated.consolidated, untouched.consolidated, seldom.consolidated) == ([10, 20], [], [10, 20])
    assert isinstance(consolidated, continual.Consolidates)
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


def images(shared: Path, name: str, rows: int) -> Data:
    """Return the first rows of a data set of images, uint8, and their labels."""
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


@pytest.mark.parametrize(("cost", "busy"), [(2.0, 2), (3.0, 3)])
def test_a_paced_model_learns_from_what_it_said(cost: float, busy: int) -> None:
    """Every `busy`th row is learned when its update is done, from the error of its prediction."""
    stream = continual.split(blobs(40, classes=2, columns=3), blobs(10, classes=2, columns=3))
    stale, rows = build({"family": "tests.support.traced_models:Stale", **stream.shape}), whole(stream)
    continual.evaluate(stale, stream, every=None, cost=cost)
    inputs = np.column_stack([rows.batch.dense.astype(float).clip(-2, 2), np.ones(len(rows.y))])
    line, waiting = np.zeros(4), None
    for row in range(len(rows.y)):
        if row % busy == 0:
            if waiting is not None:
                before, said = waiting
                line = line + 0.125 * (rows.y[before] - said) * inputs[before]
            waiting = row, float(np.float32(min(max(0.5 + float(sum(line * inputs[row])), 0.0), 1.0)))
    assert waiting is not None
    line = line + 0.125 * (rows.y[waiting[0]] - waiting[1]) * inputs[waiting[0]]
    assert stale.arrays["line"].tolist() == line.tolist()
