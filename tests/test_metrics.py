"""The metrics against scikit-learn, River and closed forms, and their indifference to how a stream is cut."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import river.metrics
import scipy.special
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn import metrics
from everlearn.errors import ConfigError, ModelError
from everlearn.records import Arrays, Floats, Singles, Task

TASKS: tuple[tuple[Task, int], ...] = (("binary", 2), ("multiclass", 5), ("regression", 0))


def predictions(task: Task, classes: int, rows: int, seed: int = 0) -> tuple[Singles, Floats, Singles]:
    """Return scores with some skill, the labels, and uneven weights."""
    random = np.random.default_rng(seed)
    weight = random.integers(0, 4, rows).astype(np.float32)
    if task == "regression":
        y = random.normal(3.0, 2.0, rows)
        return (y + random.normal(0, 1, rows)).astype(np.float32)[:, None], y, weight
    logits = random.normal(0, 2, (rows, classes))
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = (random.random((rows, 1)) > np.cumsum(proba, axis=1)).sum(axis=1).clip(0, classes - 1)
    return proba.astype(np.float32), y.astype(np.float64), weight


def measured(
    task: Task, classes: int, scores: Singles, y: Floats, weight: Singles, index: int = 0, points: int = 256
) -> Arrays:
    arrays = metrics.start(task, classes, points)
    metrics.update(arrays, task, scores, y, weight, index)
    return arrays


@pytest.mark.parametrize("weighted", [False, True])
def test_binary_agrees_with_scikit_learn(weighted: bool) -> None:
    scores, y, weight = predictions("binary", 2, 3_000)
    weight = weight if weighted else np.ones_like(weight)
    got = metrics.report(measured("binary", 2, scores, y, weight), "binary")
    p = scores[:, 1].astype(np.float64)
    predicted, options = (p > 0.5).astype(float), {"sample_weight": weight}
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(y, predicted, **options),
        "log_loss": sklearn.metrics.log_loss(y, p, **options),
        "brier": sklearn.metrics.brier_score_loss(y, p, **options),
        "kappa": sklearn.metrics.cohen_kappa_score(y, predicted, **options),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(y, predicted, **options),
        "precision": sklearn.metrics.precision_score(y, predicted, **options),
        "recall": sklearn.metrics.recall_score(y, predicted, **options),
        "f1": sklearn.metrics.f1_score(y, predicted, **options),
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert got["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(y, p, **options), abs=1e-4)
    assert got["examples"] == 3_000


@pytest.mark.parametrize("weighted", [False, True])
def test_multiclass_agrees_with_scikit_learn(weighted: bool) -> None:
    scores, y, weight = predictions("multiclass", 5, 3_000)
    scores[:, 4] = 0.0  # a class that is never predicted and one that never comes: a macro mean must cope
    scores /= scores.sum(axis=1, keepdims=True)
    scores, y, weight = scores[y != 3], y[y != 3], weight[y != 3]
    weight = weight if weighted else np.ones_like(weight)
    got = metrics.report(measured("multiclass", 5, scores, y, weight), "multiclass")
    predicted, options = scores.argmax(axis=1).astype(float), {"sample_weight": weight}
    macro = sklearn.metrics.precision_recall_fscore_support(y, predicted, average="macro", zero_division=0, **options)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = sklearn.metrics.balanced_accuracy_score(y, predicted, **options)
    floored = np.clip(scores[np.arange(len(y)), y.astype(int)].astype(np.float64), 1e-15, 1)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(y, predicted, **options),
        "log_loss": np.average(-np.log(floored), weights=weight),
        "brier": np.average(((scores - np.eye(5)[y.astype(int)]) ** 2).sum(axis=1) / 2, weights=weight),
        "kappa": sklearn.metrics.cohen_kappa_score(y, predicted, **options),
        "balanced_accuracy": balanced,
        "precision": macro[0],
        "recall": macro[1],
        "f1": macro[2],
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_regression_agrees_with_scikit_learn(weighted: bool) -> None:
    scores, y, weight = predictions("regression", 0, 3_000)
    weight = weight if weighted else np.ones_like(weight)
    y = y + 1e4  # far from zero, where a careless variance loses its digits
    scores = scores + np.float32(1e4)
    got = metrics.report(measured("regression", 0, scores, y, weight), "regression")
    predicted, options = scores[:, 0].astype(np.float64), {"sample_weight": weight}
    expected = {
        "mae": sklearn.metrics.mean_absolute_error(y, predicted, **options),
        "rmse": sklearn.metrics.root_mean_squared_error(y, predicted, **options),
        "r2": sklearn.metrics.r2_score(y, predicted, **options),
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert got["examples"] == 3_000


def test_running_values_agree_with_river_after_every_example() -> None:
    scores, y, _ = predictions("binary", 2, 300)
    theirs = {
        "accuracy": river.metrics.Accuracy(),
        "log_loss": river.metrics.LogLoss(),
        "kappa": river.metrics.CohenKappa(),
        "f1": river.metrics.F1(),
    }
    arrays = metrics.start("binary", 2)
    for row in range(len(y)):
        metrics.update(arrays, "binary", scores[row : row + 1], y[row : row + 1], np.ones(1, np.float32), row)
        for name, metric in theirs.items():
            predicted = float(scores[row, 1]) if name == "log_loss" else bool(scores[row, 1] > scores[row, 0])
            metric.update(bool(y[row]), predicted)
        got = metrics.report(arrays, "binary")
        for name in theirs.keys() & got.keys():
            assert got[name] == pytest.approx(theirs[name].get(), abs=1e-6), (name, row)


def test_kappa_t_is_zero_for_a_model_that_repeats_the_last_label() -> None:
    y = np.random.default_rng(1).integers(0, 3, 500).astype(np.float64)
    repeated = np.eye(3, dtype=np.float32)[np.roll(y, 1).astype(int)]
    repeated[0] = 1 - np.eye(3, dtype=np.float32)[int(y[0])]  # nothing to repeat yet: a miss on both sides
    ones = np.ones(500, np.float32)
    assert metrics.report(measured("multiclass", 3, repeated, y, ones), "multiclass")["kappa_t"] == 0.0
    perfect = np.eye(3, dtype=np.float32)[y.astype(int)]
    assert metrics.report(measured("multiclass", 3, perfect, y, ones), "multiclass")["kappa_t"] == 1.0


@pytest.mark.parametrize("scale", [0.0, 5.0, 9.0])
def test_roc_auc_holds_where_the_event_is_rare(scale: float) -> None:
    random = np.random.default_rng(2)
    p = 1 / (1 + np.exp(-random.normal(-scale, 2.0, 200_000)))
    y = (random.random(len(p)) < p).astype(np.float64)
    scores = np.stack([1 - p, p], axis=1).astype(np.float32)
    got = metrics.report(measured("binary", 2, scores, y, np.ones(len(y), np.float32)), "binary")["roc_auc"]
    assert got == pytest.approx(sklearn.metrics.roc_auc_score(y, scores[:, 1]), abs=1e-4)


def test_metrics_of_release_0_1_0_go_on_with_their_histogram() -> None:
    scores, y, weight = predictions("binary", 2, 3_000)
    names = ["by_class", "counts", "curve", "histogram", "sums"]
    arrays = metrics.start("binary", 2, names=names)
    metrics.update(arrays, "binary", scores, y, weight, 0)
    got = metrics.report(arrays, "binary")
    assert sorted(arrays) == names
    assert got["roc_auc"] == pytest.approx(
        sklearn.metrics.roc_auc_score(y, scores[:, 1], sample_weight=weight), abs=1e-4
    )
    assert not got.keys() & {"roc_auc_low", "roc_auc_high", "pr_auc"}
    new = metrics.report(measured("binary", 2, scores, y, weight), "binary")
    assert {name: new[name] for name in got if name != "roc_auc"} == {
        name: value for name, value in got.items() if name != "roc_auc"
    }


@given(data=st.data(), which=st.sampled_from(TASKS))
@settings(max_examples=60, deadline=None)
def test_any_cut_of_the_stream_gives_the_same_bytes(data: st.DataObject, which: tuple[Task, int]) -> None:
    task, classes = which
    scores, y, weight = predictions(task, classes, 120, seed=data.draw(st.integers(0, 5)))
    for row in data.draw(st.lists(st.integers(0, 119), max_size=5)):
        y[row] = data.draw(st.sampled_from([np.nan, np.inf, -1.0, 1e9]))
        scores[(row * 7) % 120] = data.draw(st.sampled_from([np.nan, np.inf]))
    first = data.draw(st.integers(0, 50))
    whole = measured(task, classes, scores, y, weight, index=first, points=7)
    parts = metrics.start(task, classes, points=7)
    borders = sorted({0, 120, *data.draw(st.lists(st.integers(0, 120), max_size=8))})
    for begin, end in itertools.pairwise(borders):
        metrics.update(parts, task, scores[begin:end], y[begin:end], weight[begin:end], first + begin)
    assert {name: array.tobytes() for name, array in whole.items()} == {
        name: array.tobytes() for name, array in parts.items()
    }


@pytest.mark.parametrize(("task", "classes"), TASKS)
def test_no_metric_is_nan_at_any_moment(task: Task, classes: int) -> None:
    scores, y, weight = predictions(task, classes, 30)
    arrays = metrics.start(task, classes)
    assert metrics.report(arrays, task) == {"examples": 0}
    for row in range(30):
        metrics.update(arrays, task, scores[row : row + 1], y[row : row + 1], weight[row : row + 1], row)
        assert all(math.isfinite(value) for value in metrics.report(arrays, task).values())
        assert all(np.isfinite(points).all() for points in metrics.curve(arrays).values())


@pytest.mark.parametrize(("task", "classes"), TASKS)
def test_unusable_labels_and_weights_leave_no_trace(task: Task, classes: int) -> None:
    scores, y, weight = predictions(task, classes, 50)
    clean = measured(task, classes, scores, y, weight)
    bad = [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (1.0, np.inf), (1.0, -1.0)]
    if task != "regression":
        bad += [(-1.0, 1.0), (float(classes), 1.0), (0.5, 1.0), (1e300, 1.0)]
    before = {name: array.copy() for name, array in clean.items()}
    labels, weights = (np.array(column) for column in zip(*bad, strict=True))
    metrics.update(clean, task, scores[: len(bad)], labels, weights.astype(np.float32), 50)
    before["counts"][4] += len(bad)  # the stream did move on
    assert {name: array.tobytes() for name, array in clean.items()} == {
        name: array.tobytes() for name, array in before.items()
    }


def test_scores_that_are_not_finite_cost_a_classifier_the_most_and_are_counted_for_a_regression() -> None:
    scores = np.array([[np.nan, np.nan], [np.inf, 0.0]], np.float32)
    y, weight = np.array([0.0, 1.0]), np.ones(2, np.float32)
    got = metrics.report(measured("binary", 2, scores, y, weight), "binary")
    assert (got["accuracy"], got["brier"]) == (0.0, 1.0)
    assert got["log_loss"] == pytest.approx(-math.log(1e-15))
    number = np.array([[np.nan], [2.0]], np.float32)
    got = metrics.report(measured("regression", 0, number, y, weight), "regression")
    assert (got["examples"], got["unscored"], got["mae"]) == (1, 1, 1.0)


def test_curves_of_models_that_began_at_different_moments_share_an_axis() -> None:
    scores, y, weight = predictions("binary", 2, 5_000)
    weight = np.ones_like(weight)
    early = metrics.curve(measured("binary", 2, scores, y, weight, points=16))
    late = metrics.curve(measured("binary", 2, scores[3_000:], y[3_000:], weight[3_000:], index=3_000, points=16))
    shared = np.isin(early["x"], late["x"][1:])
    assert shared.sum() == len(late["x"]) - 1 >= 3
    for name in ("x", "count", "accuracy"):
        assert early[name][shared].tolist() == late[name][1:].tolist()
    assert late["count"].sum() == 2_000
    assert late["x"][-1] == early["x"][-1] == 5_000


def test_the_curve_is_the_mean_of_each_stretch() -> None:
    scores, y, weight = predictions("multiclass", 5, 1_000)
    arrays = measured("multiclass", 5, scores, y, weight, points=8)
    points = metrics.curve(arrays)
    assert points["x"].tolist() == [128, 256, 384, 512, 640, 768, 896, 1000]
    good = scores.argmax(axis=1) == y
    begin = 0
    for x, count, mass, accuracy in zip(
        points["x"], points["count"], points["weight"], points["accuracy"], strict=True
    ):
        assert (count, mass) == (x - begin, weight[begin:x].sum())
        assert accuracy == pytest.approx(np.average(good[begin:x], weights=weight[begin:x]))
        begin = x


def test_an_odd_number_of_points_merges_without_losing_any() -> None:
    scores, y, weight = predictions("regression", 0, 1_000)
    points = metrics.curve(measured("regression", 0, scores, y, np.ones_like(weight), points=5))
    assert points["count"].sum() == 1_000
    assert len(points["x"]) <= 5
    assert np.average(points["mae"], weights=points["weight"]) == pytest.approx(np.abs(scores[:, 0] - y).mean())
    assert np.average(points["mse"], weights=points["weight"]) == pytest.approx(((scores[:, 0] - y) ** 2).mean())


def test_memory_does_not_grow_with_the_stream() -> None:
    scores, y, weight = predictions("binary", 2, 100)
    arrays = metrics.start("binary", 2)
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    for index in (0, 10_000, 10**8, 10**15):
        metrics.update(arrays, "binary", scores, y, weight, index)
    assert shapes == {name: (array.shape, array.dtype) for name, array in arrays.items()}
    assert metrics.report(arrays, "binary")["examples"] == 400


@pytest.mark.parametrize("classes", [2, 5])
def test_class_losses_agree_with_their_definitions(classes: int) -> None:
    scores, y, _ = predictions("multiclass", classes, 500)
    wide, truth = scores.astype(np.float64), np.eye(classes)[y.astype(int)]
    expected = {
        "brier": ((wide - truth) ** 2).sum(axis=1) / 2,
        "error": (scores.argmax(axis=1) != y).astype(float),
        "log_loss": -np.log((wide * truth).sum(axis=1)),
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(metrics.losses(kind, scores, y), values, rtol=1e-6, atol=1e-7)
    arrays = measured("multiclass", classes, scores, y, np.ones(500, np.float32))
    got = metrics.report(arrays, "multiclass")
    assert metrics.losses("brier", scores, y).mean() == pytest.approx(got["brier"])
    assert metrics.losses("log_loss", scores, y).mean() == pytest.approx(got["log_loss"])
    assert metrics.losses("error", scores, y).mean() == pytest.approx(1 - got["accuracy"])


@given(st.lists(st.floats(2.0**-49, 1, width=32), min_size=1))
def test_log_loss_is_exact_to_the_last_digits(probabilities: list[float]) -> None:
    p = np.array(probabilities, np.float32)
    got = metrics.losses("log_loss", np.stack([1 - p, p], axis=1), np.ones(len(p)))
    np.testing.assert_allclose(got, -np.log(p.astype(np.float64)), rtol=0, atol=2e-14)
    assert (got >= 0).all()


def test_number_losses_agree_with_their_definitions() -> None:
    scores, y, _ = predictions("regression", 0, 500)
    np.testing.assert_array_equal(metrics.losses("absolute", scores, y), np.abs(scores[:, 0] - y))
    np.testing.assert_array_equal(metrics.losses("squared", scores, y), (scores[:, 0] - y) ** 2)


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.95])
def test_pinball_is_that_of_scikit_learn(quantile: float) -> None:
    scores, y, _ = predictions("regression", 1, 500)
    expected = sklearn.metrics.mean_pinball_loss(y, scores[:, 0].astype(np.float64), alpha=quantile)
    assert metrics.losses("pinball", scores, y, quantile).mean() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("delta", [0.1, 1.0, 30.0])
def test_huber_is_that_of_scipy(delta: float) -> None:
    scores, y, _ = predictions("regression", 2, 500)
    expected = scipy.special.huber(delta, scores[:, 0].astype(np.float64) - y)
    np.testing.assert_allclose(metrics.losses("huber", scores, y, delta), expected, rtol=1e-12)


def test_a_log_loss_may_have_a_floor() -> None:
    scores = np.array([[1.0, 0.0], [0.75, 0.25], [np.nan, 0.5]], np.float32)
    got = metrics.losses("log_loss", scores, np.array([1.0, 1.0, 0.0]), 0.01)
    assert got == pytest.approx([math.log(100.0), math.log(4.0), math.log(100.0)])


def test_losses_at_the_edges() -> None:
    nan, inf = np.nan, np.inf
    for kind, parameter in (("pinball", 0.9), ("huber", 1.0), ("absolute", 0.0)):
        ends = metrics.losses(kind, np.array([[nan], [1.0], [-inf]], np.float32), np.array([0.0, nan, 0.0]), parameter)
        assert (ends[0], np.isnan(ends[1]), ends[2]) == (inf, True, inf)
    scores = np.array([[1.0, 0.0], [nan, nan], [0.5, 0.5], [0.5, 0.5]], np.float32)
    y = np.array([1.0, 1.0, nan, 2.0])
    assert metrics.losses("log_loss", scores, y)[:2] == pytest.approx([-math.log(1e-15)] * 2)
    assert metrics.losses("brier", scores, y)[:2].tolist() == [1.0, 1.0]
    assert metrics.losses("error", scores, y)[:2].tolist() == [1.0, 1.0]
    assert np.isnan(metrics.losses("brier", scores, y)[2:]).all()
    number = metrics.losses("squared", np.array([[nan], [1.0], [inf]], np.float32), np.array([0.0, nan, 0.0]))
    assert number[[0, 2]].tolist() == [inf, inf]
    assert np.isnan(number[1])


def test_ties_go_to_the_first_class() -> None:
    scores = np.array([[0.5, 0.5], [0.5, 0.5]], np.float32)
    assert metrics.losses("error", scores, np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("task", "scores", "weights"), [("binary", (3, 1), 3), ("regression", (3, 2), 3), ("binary", (3, 2), 2)]
)
def test_wrong_shapes_are_refused_in_words(task: Task, scores: tuple[int, int], weights: int) -> None:
    arrays = metrics.start(task, 2)
    with pytest.raises(ModelError, match=r"expected \(3, [12]\) and \(3,\)"):
        metrics.update(arrays, task, np.zeros(scores, np.float32), np.zeros(3), np.ones(weights, np.float32), 0)


def test_wrong_settings_are_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="expected at least 2"):
        metrics.start("binary", 2, points=1)
    with pytest.raises(ConfigError, match="binary task with 3 classes"):
        metrics.start("binary", 3)
    with pytest.raises(ConfigError, match="loss: got 'hinge'"):
        metrics.losses("hinge", np.zeros((1, 2), np.float32), np.zeros(1))
