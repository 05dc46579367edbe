"""Prequential evaluation: who knows what when, against River and against models that show what they have learned."""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import river.base
import river.evaluate
import river.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import everlearn
from everlearn import metrics, model
from everlearn.errors import ConfigError
from everlearn.evaluate.prequential import Report, prequential
from everlearn.metrics import baselines
from everlearn.records import Arrays, Batch, Examples, Floats, Singles

LINEAR = {"family": "linear", "task": "binary", "dense": 3}


class Counting:
    """A model that predicts the number of rows it has learned, which shows what it knew at each prediction."""

    def __init__(self) -> None:
        self.spec: Mapping[str, Any] = {"task": "regression", "family": "counting"}
        self.arrays: Arrays = {"learned": np.zeros(1, np.int64), "sum": np.zeros(1)}

    def predict(self, batch: Batch) -> Singles:
        return np.full((len(batch), 1), self.arrays["learned"][0], np.float32)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        known = self.arrays["learned"][0] + np.arange(len(batch), dtype=np.float32)
        self.arrays["learned"] += len(batch)
        self.arrays["sum"] += y.sum()
        return known[:, None].astype(np.float32)


def examples(count: int, seed: int = 0) -> Examples:
    """Return rows of a linear problem whose weights change sign half-way."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 3)).astype(np.float32)
    side = np.where(np.arange(count) < count // 2, 1, -1)
    y = (x @ [2.0, -1.0, 0.5] * side + random.logistic(0, 0.3, count) > 0).astype(np.float64)
    batch = Batch(x, np.zeros(count + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return Examples(batch, y, np.ones(count, np.float32), np.arange(1, count + 1))


def zeros(count: int) -> Examples:
    batch = Batch(
        np.zeros((count, 0), np.float32), np.zeros(count + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    )
    return Examples(batch, np.zeros(count), np.ones(count, np.float32), np.arange(1, count + 1))


@given(rows=st.integers(1, 60), delay=st.integers(0, 70), chunk=st.integers(1, 70))
@settings(deadline=None)
def test_a_prediction_knows_the_labels_that_have_come_and_no_others(rows: int, delay: int, chunk: int) -> None:
    counting = Counting()
    report = prequential(counting, zeros(rows), delay, chunk)
    known = np.maximum(np.arange(rows) - delay, 0)  # with labels of 0 the errors are what was known
    assert report.metrics["mae"] == pytest.approx(known.mean())
    assert report.metrics["rmse"] == pytest.approx(np.sqrt((known**2).mean()))
    assert counting.arrays["learned"][0] == rows  # labels that come after the end are learned all the same


@pytest.mark.parametrize("delay", [0, 1, 17, 5_000])
def test_the_result_does_not_depend_on_the_chunks(delay: int) -> None:
    rows, reports, ends = examples(700), [], []
    for chunk in (1, 7, 300, 8192):
        linear = model.build(LINEAR)
        reports.append(prequential(linear, rows, delay, chunk))
        ends.append({name: array.tobytes() for name, array in linear.arrays.items()})
    assert all(report.metrics == reports[0].metrics for report in reports)
    assert all(end == ends[0] for end in ends)
    assert all(report.curve["log_loss"].tobytes() == reports[0].curve["log_loss"].tobytes() for report in reports)


class Ours(river.base.Classifier):
    """Adapter that presents an Everlearn model to River."""

    def __init__(self) -> None:
        self.model = model.build(LINEAR)

    def predict_proba_one(self, x: dict[int, float]) -> dict[bool, float]:
        return dict(zip((False, True), self.model.predict(self._batch(x))[0].tolist(), strict=True))

    def learn_one(self, x: dict[int, float], y: bool) -> None:
        self.model.learn(self._batch(x), np.array([float(y)]), np.ones(1, np.float32))

    def _batch(self, x: dict[int, float]) -> Batch:
        dense = np.array([list(x.values())], np.float32)
        return Batch(dense, np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


@pytest.mark.parametrize("delay", [0, 9, 100])
def test_river_reports_the_same_accuracy_at_the_same_delay(delay: int) -> None:
    rows = examples(600)
    pairs = [(dict(enumerate(map(float, x))), bool(label)) for x, label in zip(rows.batch.dense, rows.y, strict=True)]
    # River reveals a label right before the prediction that is `delay` rows later, we right after it.
    theirs = river.evaluate.progressive_val_score(
        pairs, Ours(), river.metrics.Accuracy() + river.metrics.LogLoss(), delay=delay + 1
    )
    accuracy, log_loss = theirs.get()
    got = prequential(model.build(LINEAR), rows, delay).metrics
    assert got["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert got["log_loss"] == pytest.approx(log_loss, abs=1e-6)


def test_what_is_reported_is_what_the_model_said() -> None:
    rows = examples(500)
    linear = model.build(LINEAR)
    report = prequential(linear, rows)
    sums = metrics.start("binary", 2)
    twin = model.build(LINEAR)
    naive = baselines.answers(baselines.start("binary", 2), "binary", rows.y, rows.weight, np.arange(500))
    scores = twin.learn(rows.batch, rows.y, rows.weight)
    metrics.update(sums, "binary", scores, rows.y, rows.weight, 0, baselines.labels(*naive))
    assert report.metrics == metrics.report(sums, "binary")
    assert report.curve["x"].tolist() == metrics.curve(sums)["x"].tolist()
    assert (report.events, report.rejected, report.task, report.name) == (500, 0, "binary", "linear")
    assert report.events_per_second > 0


def test_late_labels_cost_accuracy_when_the_world_turns() -> None:
    rows = examples(2_000)
    now, late = (prequential(model.build(LINEAR), rows, delay).metrics["accuracy"] for delay in (0, 500))
    assert now > late + 0.1


@pytest.mark.parametrize("chunk", [1, 64, 8192])
@pytest.mark.parametrize("delay", [0, 1, 48])
def test_kappas_compare_with_labels_that_were_known(delay: int, chunk: int) -> None:
    rows = examples(1_200)
    runs = (np.arange(1_200) // 40) % 2  # with a delay, the newest known label is often of the run before
    rows = Examples(rows.batch, np.where(rows.y == 1, runs, 1.0 - runs), rows.weight, rows.position)
    report = prequential(model.build(LINEAR), rows, delay, chunk)
    y, accuracy = rows.y, report.metrics["accuracy"]
    known = [y[: max(row - delay, 0)] for row in range(1_200)]
    last = np.mean([len(seen) > 0 and seen[-1] == label for seen, label in zip(known, y, strict=True)])
    most = np.mean([(np.mean(seen) > 0.5 if len(seen) else 0) == label for seen, label in zip(known, y, strict=True)])
    assert report.metrics["kappa_t"] == pytest.approx((accuracy - last) / (1 - last), abs=1e-12)
    assert report.metrics["kappa_m"] == pytest.approx((accuracy - most) / (1 - most), abs=1e-12)
    assert report.baselines["last_label"]["accuracy"] == pytest.approx(last)
    assert report.baselines["majority"]["accuracy"] == pytest.approx(most)
    assert report.baselines["last_label"]["kappa_t"] == report.baselines["majority"]["kappa_m"] == 0
    assert "log_loss" not in report.baselines["last_label"]


def test_a_regression_is_reported_beside_the_last_label_and_the_mean() -> None:
    random = np.random.default_rng(0)
    level = np.cumsum(random.normal(size=3_000))
    x = (level + random.normal(0, 5, 3_000)).astype(np.float32)[:, None]
    batch = Batch(x, np.zeros(3_001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    rows = Examples(batch, level, np.ones(3_000, np.float32), np.arange(1, 3_001))
    report = prequential(model.build({"family": "linear", "task": "regression", "dense": 1}), rows, delay=3)
    last = np.abs(level[4:] - level[:-4]).mean()
    assert report.baselines["last_label"]["mae"] == pytest.approx(last, rel=1e-6)
    assert report.baselines["last_label"]["unscored"] == 4  # no label is known yet
    assert report.metrics["skill_last"] < 0 < report.metrics["skill_mean"]
    assert {"last_label", "mean"} == report.baselines.keys()
    shown = Console(record=True, width=100, file=io.StringIO())
    shown.print(report)
    assert shown.export_text().splitlines()[0].split() == ["metric", "linear", "last", "label", "mean"]
    assert {text.get_text().split("\n")[0] for text in report.plot().axes[0].texts} == {"model", "last label", "mean"}


def test_an_iterable_of_examples_is_one_stream() -> None:
    rows = examples(300)
    once = prequential(model.build(LINEAR), rows, delay=20)
    parts = (
        Examples(
            Batch(rows.batch.dense[a:b], rows.batch.indptr[a : b + 1], rows.batch.indices, rows.batch.values),
            rows.y[a:b],
            rows.weight[a:b],
            rows.position[a:b],
        )
        for a, b in ((0, 1), (1, 1), (1, 120), (120, 300))
    )
    assert prequential(model.build(LINEAR), parts, delay=20).metrics == once.metrics


@pytest.mark.parametrize("delay", [0, 3, 150])
def test_no_more_rows_are_held_than_are_waiting(delay: int) -> None:
    alive: list[weakref.ref[Any]] = []
    held = []

    def pieces() -> Iterator[Examples]:
        for _ in range(20):
            piece = zeros(50)
            alive.append(weakref.ref(piece.y))
            yield piece
            del piece
            held.append(sum(one() is not None for one in alive))

    prequential(Counting(), pieces(), delay)
    assert max(held) <= delay // 50 + 2


def test_a_stream_gives_its_shape_to_a_model_without_one_and_its_bad_rows_to_the_report() -> None:
    random = np.random.default_rng(0)
    x = [*random.normal(size=400).round(3).tolist(), "oops"]
    table = {"x": x, "y": [*("yes" if value > 0 else "no" for value in x[:-1]), "no"]}
    linear = everlearn.build({"family": "linear"})
    report = everlearn.prequential(linear, everlearn.read(table, label="y"), delay=5)
    assert linear.spec["task"] == "binary"
    assert report.metrics["accuracy"] > 0.9
    assert (report.events, report.rejected) == (400, 1)
    assert [row.line for row in report.rejects] == [401]
    assert "oops" in report.rejects[0].raw


def test_a_report_can_be_seen(tmp_path: Path) -> None:
    report = prequential(model.build(LINEAR), examples(500), delay=3)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(report)
    shown = console.export_text()
    assert f"{report.metrics['accuracy']:.4f}" in shown
    assert "500 events, " in shown
    assert f"<td>{report.metrics['log_loss']:.4f}</td>" in report._repr_html_()
    assert f"log loss {report.metrics['log_loss']:.4f}" in repr(report)
    figure = report.plot(tmp_path / "report.svg", metric="log_loss")
    assert "labels 3 rows late" in figure.texts[0].get_text()
    assert (tmp_path / "report.svg").read_text().startswith("<?xml")


def test_a_regression_is_drawn_by_its_error() -> None:
    figure = prequential(Counting(), zeros(50)).plot()
    assert figure.axes[0].get_ylabel() == "mean absolute error"


def test_nothing_to_evaluate_is_an_empty_report() -> None:
    for delay in (0, 4):
        report = prequential(model.build(LINEAR), [], delay)
        assert isinstance(report, Report)
        assert (report.events, report.metrics) == (0, {"examples": 0})


def test_wrong_settings_are_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="delay is -1"):
        prequential(Counting(), zeros(1), delay=-1)
    with pytest.raises(ConfigError, match="a chunk from 1"):
        prequential(Counting(), zeros(1), chunk=0)
    with pytest.raises(ConfigError, match="evaluate it on a stream that has a schema"):
        prequential(model.build({"family": "linear"}), zeros(1))


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_a_model_gets_back_what_it_said_when_the_label_comes(chunk: int) -> None:
    """Delayed gradient descent, in closed form; and a stacker whose losses are those of the given answers."""
    rows, delay = examples(60), 9
    stale = model.build({"family": "tests.support.traced_models:Stale", "dense": 3})
    prequential(stale, rows, delay=delay, chunk=chunk)
    inputs = np.column_stack([rows.batch.dense.astype(float).clip(-2, 2), np.ones(60)])
    line, said = np.zeros(4), []
    for row in range(60 + delay):
        if row < 60:
            said.append(float(np.float32(min(max(0.5 + float(sum(line * inputs[row])), 0.0), 1.0))))
        if row >= delay:
            line = line + 0.125 * (rows.y[row - delay] - said[row - delay]) * inputs[row - delay]
    assert stale.arrays["line"].tolist() == line.tolist()


def test_without_its_trace_a_stacker_trusts_the_wrong_member() -> None:
    """Labels in blocks of 8, 8 rows late: the last label is always wrong, and looks right when labels come."""
    rows = zeros(400)
    labels = (np.arange(400) // 8 % 2).astype(float)
    rows = Examples(
        Batch(np.zeros((400, 3), np.float32), rows.batch.indptr, rows.batch.indices, rows.batch.values),
        labels,
        rows.weight,
        rows.position,
    )
    loss = {}
    for family in ("Stacker", "Forgetful"):
        one = model.build({"family": f"tests.support.traced_models:{family}"})
        loss[family] = prequential(one, rows, delay=7).metrics["log_loss"]
    assert loss["Stacker"] < 1.0  # near one half
    assert loss["Forgetful"] > 1.5 * loss["Stacker"]


@pytest.mark.parametrize("delay", [0, 30])
def test_rows_with_a_time_are_compared_with_one_season_ago(delay: int) -> None:
    hour = np.arange(400)
    y = np.round(hour % 24 + 40.0 * (hour // 24 % 7 == 3) + np.random.default_rng(0).normal(size=400), 3)
    columns = {"at": np.datetime64("2026-01-01T00", "h") + hour, "a": y * 0.0 + 1.0, "y": y}
    reports = [
        prequential(model.build({"family": "linear"}), everlearn.read(columns, label="y"), delay=delay, chunk=chunk)
        for chunk in (8192, 37)
    ]
    for report in reports:
        assert report.baselines.keys() == {"last_label", "mean", "seasonal"}
        if delay:  # a day ago is never known
            first = delay + 1
            answers = [y[row - 168] if row >= 168 else y[row - first] for row in range(first, 400)]
            assert report.baselines["seasonal"]["mae"] == pytest.approx(np.abs(answers - y[first:]).mean(), rel=1e-6)
    assert reports[0].baselines == reports[1].baselines


def test_specs_names_of_families_and_rivers_names_of_metrics_are_taken() -> None:
    stream = everlearn.generate("sea", rows=600)
    reports = [
        prequential(one, stream, metric="LogLoss")
        for one in (everlearn.build({"family": "linear"}), {"family": "linear"}, "linear")
    ]
    assert reports[0].metric == "log_loss"
    assert reports[0].metrics == reports[1].metrics == reports[2].metrics
    with pytest.raises(ConfigError, match="did you mean 'forest'"):
        prequential("forrest", stream)
