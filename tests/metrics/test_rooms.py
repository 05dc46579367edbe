"""Calibration, alerts, segments, recent rows and quantiles against brute force, and any cut of the stream."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from everlearn import metrics
from everlearn.errors import ConfigError
from everlearn.metrics import alerts, baselines, calibration, lately, rooms, segments
from everlearn.records import Arrays, Floats, Ints, Loss, Singles, Task

Rows = tuple[Singles, Floats, Singles, Ints]
CASES: tuple[tuple[Task, int], ...] = (("binary", 2), ("multiclass", 4), ("regression", 0))


def rows(task: Task, classes: int, n: int, seed: int = 0, weighted: bool = True) -> Rows:
    """Return scores with some skill, labels, uneven weights (0 among them), and segments (-1 among them)."""
    random = np.random.default_rng(seed)
    weight = (random.integers(0, 4, n) * 0.7 if weighted else np.ones(n)).astype(np.float32)
    segment = random.integers(-1, 4, n)
    if task == "regression":
        y = random.normal(3.0, 2.0, n)
        return (y + random.normal(0, 1, n)).astype(np.float32)[:, None], y, weight, segment
    logits = random.normal(0, 2, (n, classes))
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = (random.random((n, 1)) > np.cumsum(proba, axis=1)).sum(axis=1).clip(0, classes - 1)
    return proba.astype(np.float32), y.astype(np.float64), weight, segment


def started(task: Task, classes: int, **more: Any) -> Arrays:
    return metrics.start(task, classes, own=Loss("pinball", 0.8), segmented=True, **more)


def fed(arrays: Arrays, task: Task, given: Rows, cuts: list[int] | None = None) -> Arrays:
    scores, y, weight, segment = given
    ends = sorted({0, len(y), *(cuts or [])})
    for begin, end in itertools.pairwise(ends):
        piece = slice(begin, end)
        metrics.update(arrays, task, scores[piece], y[piece], weight[piece], begin, None, segment[piece])
    return arrays


# ---- the ring ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("task", "classes"), CASES)
def test_any_cut_of_the_stream_gives_the_same_bytes_and_reports(task: Task, classes: int, weighted: bool) -> None:
    given = rows(task, classes, 3_300, weighted=weighted)
    given[1][::97] = np.nan
    whole = fed(started(task, classes), task, given)
    by_row = fed(started(task, classes), task, given, [*range(1200), 1999, 2000, 2001])
    parts = fed(started(task, classes), task, given, [1, 7, 999, 1000, 1001, 2_500])
    for other in (by_row, parts):
        assert {name: array.tobytes() for name, array in whole.items()} == {
            name: array.tobytes() for name, array in other.items()
        }
        assert metrics.report(whole, task) == metrics.report(other, task)
    assert metrics.report(whole, task)["examples"] == int(np.isfinite(given[1]).sum())


@pytest.mark.parametrize(("task", "classes"), CASES)
def test_a_report_changes_nothing(task: Task, classes: int) -> None:
    arrays = fed(started(task, classes), task, rows(task, classes, 1_234))
    before = {name: array.tobytes() for name, array in arrays.items()}
    metrics.report(arrays, task), metrics.curve(arrays), metrics.reliability(arrays, task)
    metrics.segment_report(arrays, task, metrics.SegmentTable("a"))
    assert before == {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("task", "classes"), CASES)
def test_rows_that_wait_and_rows_added_at_once_have_the_same_metrics(task: Task, classes: int, weighted: bool) -> None:
    given = rows(task, classes, 2_600, weighted=weighted)
    names = {"counts", "curve", "naive", "sums", "by_class", "histogram", "pinball"}
    waiting, at_once = started(task, classes), metrics.start(task, classes, names=names, own=Loss("pinball", 0.8))
    for arrays in (waiting, at_once):
        fed(arrays, task, given, [100, 1_300])
    ours, theirs = metrics.report(waiting, task), metrics.report(at_once, task)
    theirs.pop("roc_auc", None)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-12)
    lines, others = metrics.curve(waiting), metrics.curve(at_once)
    for name, line in others.items():
        np.testing.assert_allclose(lines[name], line, rtol=1e-12)


# ---- lately --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_lately_is_scikit_learn_on_the_last_thousand_rows(weighted: bool) -> None:
    scores, y, weight, segment = rows("binary", 2, 2_345, weighted=weighted)
    scores = np.round(scores, 2)  # with equal scores
    got = metrics.report(fed(started("binary", 2), "binary", (scores, y, weight, segment)), "binary")
    p, true, options = scores[-1000:, 1].astype(float), y[-1000:], {"sample_weight": weight[-1000:]}
    expected = {
        "accuracy_lately": sklearn.metrics.accuracy_score(true, scores[-1000:, 1] > scores[-1000:, 0], **options),
        "roc_auc_lately": sklearn.metrics.roc_auc_score(true, p, **options),
        "pr_auc_lately": sklearn.metrics.average_precision_score(true, p, **options),
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert "log_loss_lately" in got


def test_lately_of_a_quantile_is_that_of_the_last_thousand_rows() -> None:
    scores, y, weight, segment = rows("regression", 0, 1_500)
    got = metrics.report(fed(started("regression", 0), "regression", (scores, y, weight, segment)), "regression")
    p, true, options = scores[-1000:, 0].astype(float), y[-1000:], {"sample_weight": weight[-1000:]}
    expected = {
        "mae_lately": sklearn.metrics.mean_absolute_error(true, p, **options),
        "rmse_lately": sklearn.metrics.root_mean_squared_error(true, p, **options),
        "pinball_lately": sklearn.metrics.mean_pinball_loss(true, p, alpha=0.8, **options),
        "coverage_lately": float(np.average(true <= p, weights=weight[-1000:])),
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_lately_begins_when_it_differs_from_the_whole() -> None:
    given = rows("binary", 2, 1_000)
    arrays = fed(started("binary", 2), "binary", given)
    assert not [name for name in metrics.report(arrays, "binary") if name.endswith(lately.SUFFIX)]


# ---- quantiles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantile", [0.1, 0.95])
def test_pinball_and_coverage_are_those_of_their_definitions(quantile: float) -> None:
    scores, y, weight, _ = rows("regression", 0, 2_500)
    scores[::9, 0] = y[::9]  # truths at the prediction are covered, as far as float32 goes
    y[::9] = scores[::9, 0]
    arrays = metrics.start("regression", 0, own=Loss("pinball", quantile))
    metrics.update(arrays, "regression", scores, y, weight, 0)
    got, p = metrics.report(arrays, "regression"), scores[:, 0].astype(float)
    assert got["pinball"] == pytest.approx(
        sklearn.metrics.mean_pinball_loss(y, p, alpha=quantile, sample_weight=weight), rel=1e-9
    )
    assert got["coverage"] == pytest.approx(np.average(y <= p, weights=weight), rel=1e-9)
    assert got["quantile"] == quantile
    line = metrics.curve(arrays)
    assert np.average(line["pinball"], weights=line["weight"]) == pytest.approx(got["pinball"], rel=1e-9)


def test_other_losses_have_no_coverage() -> None:
    for own in (None, Loss("squared"), Loss("huber", 1.0)):
        assert "pinball" not in metrics.start("regression", 0, own=own)
    assert "pinball" not in metrics.start("binary", 2, own=Loss("log_loss"))


# ---- calibration ---------------------------------------------------------------------------------------------------


def brute_ece(p: Floats, event: Floats, weight: Floats) -> float:
    """Return the calibration error by a loop over the bins, whose ends are written out."""
    edges = [0, 1e-4, 1e-3, 0.01, 0.03, *(k / 15 for k in range(1, 15)), 0.97, 0.99, 0.999, 0.9999, 1.000001]
    error = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (p >= low) & (p < high)
        error += abs((weight * (p - event))[inside].sum())
    return error / weight.sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("power", [1, 6])  # 6: rare events
def test_the_calibration_error_is_that_of_a_loop_over_bins(seed: int, power: int) -> None:
    random = np.random.default_rng(seed)
    p = (random.random(2_500) ** power).astype(np.float32)
    p[:6] = 0, 1, 0.5, 2**-20, 1 - 2**-20, np.float32(1 / 15)
    y, weight = (random.random(2_500) < p**1.3).astype(float), random.random(2_500).astype(np.float32)
    arrays = metrics.start("binary", 2)
    metrics.update(arrays, "binary", np.stack([1 - p, p], 1), y, weight, 0)
    want = brute_ece(p.astype(float), y, weight.astype(float))
    assert metrics.report(arrays, "binary")["ece"] == pytest.approx(want, rel=1e-9)
    line = metrics.reliability(arrays, "binary")
    assert float(line["weight"] @ abs(line["predicted"] - line["observed"])) / weight.sum() == pytest.approx(want, 1e-6)
    assert (line["low"] <= line["predicted"] + 1e-6).all()
    assert (line["predicted"] <= line["high"]).all()


def test_with_several_classes_it_is_about_the_predicted_one() -> None:
    scores, y, weight, _ = rows("multiclass", 4, 1_700)
    arrays = metrics.start("multiclass", 4)
    metrics.update(arrays, "multiclass", scores, y, weight, 0)
    hit = (scores.argmax(1) == y).astype(float)
    want = brute_ece(scores.max(1).astype(float), hit, weight.astype(float))
    assert metrics.report(arrays, "multiclass")["ece"] == pytest.approx(want, rel=1e-9)


def test_a_calibrated_model_has_a_small_error_and_one_that_exaggerates_a_large_one() -> None:
    random = np.random.default_rng(1)
    p = random.random(50_000).astype(np.float32)
    y = (random.random(50_000) < p).astype(float)
    errors = []
    for said in (p, np.where(p > 0.5, 0.5 + p / 2, p / 2).astype(np.float32)):
        arrays = metrics.start("binary", 2)
        metrics.update(arrays, "binary", np.stack([1 - said, said], 1), y, np.ones(50_000, np.float32), 0)
        errors.append(metrics.report(arrays, "binary")["ece"])
    assert errors[0] < 0.01 < 0.1 < errors[1]


def test_the_bins_are_in_order() -> None:
    assert (np.diff(calibration.EDGES) > 0).all()
    places = [calibration.bin_of(p) for p in np.float32(calibration.EDGES[:-1] + 1e-6)]
    assert places == list(range(calibration.BINS))


# ---- alerts --------------------------------------------------------------------------------------------------------


def brute_alerts(p: Floats, q: float) -> np.ndarray:
    """Return which rows are alerts, by the exact quantile of the scores before."""
    found = np.zeros(len(p), bool)
    for row in range(int(np.ceil(1 / q)), len(p)):
        before = p[max(row - 10_000, 0) : row]
        found[row] = p[row] > np.sort(before)[-(int(q * len(before) + 1e-9) + 1)]
    return found


def of_scores(p: Singles, y: Floats, share: float, weight: Singles | None = None) -> dict[str, float]:
    arrays = metrics.start("binary", 2, share=share)
    weight = np.ones(len(p), np.float32) if weight is None else weight
    metrics.update(arrays, "binary", np.stack([1 - p, p], 1).astype(np.float32), y, weight, 0)
    return metrics.report(arrays, "binary")


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_alerts_are_those_of_the_exact_quantile_where_scores_have_buckets_of_their_own(share: float) -> None:
    """Scores are powers of 2 ** (1 / 64), so equal scores alone share a bucket."""
    random = np.random.default_rng(2)
    steps = np.clip(random.normal(-700, 120, 13_000), -2_000, -65).astype(int)
    p, y = (2.0 ** (steps / 64)).astype(np.float32), (random.random(13_000) < 0.1 + 0.2 * (steps > -500)).astype(float)
    weight = random.integers(1, 4, 13_000).astype(np.float32)
    alert, got = brute_alerts(p.astype(float), share), of_scores(p, y, share, weight)
    first = int(np.ceil(1 / share))
    w, hit = weight[first:] * 1.0, y[first:] == 1
    assert got["recall_at_share"] == pytest.approx((w * (alert[first:] & hit)).sum() / (w * hit).sum(), rel=1e-12)
    assert got["precision_at_share"] == pytest.approx((w * (alert[first:] & hit)).sum() / (w * alert[first:]).sum())
    assert got["alert_share"] == pytest.approx((w * alert[first:]).sum() / w.sum())


@pytest.mark.parametrize("scale", [1e-9, 1e-5, 1e-2, 0.4])
def test_tiny_scores_have_as_sharp_a_threshold_as_large_ones(scale: float) -> None:
    random = np.random.default_rng(3)
    p = (scale * np.exp(random.normal(0, 0.5, 30_000)) / 6).astype(np.float32)
    got = of_scores(np.minimum(p, np.float32(1)), np.zeros(30_000), 0.01)
    assert got["alert_share"] == pytest.approx(0.01, abs=0.002)


def test_scores_that_differ_by_less_than_a_bucket_are_no_alerts() -> None:
    """The honest limit: within one part in 256 to 512 of their size scores count as equal."""
    random = np.random.default_rng(4)
    p = (0.3 + 1e-5 * random.random(5_000)).astype(np.float32)
    assert of_scores(p, np.ones(5_000), 0.01)["alert_share"] < 0.005


def test_a_threshold_follows_the_scores() -> None:
    random = np.random.default_rng(5)
    p = np.concatenate([random.random(12_000) * 0.1, 0.5 + 0.4 * random.random(25_000)]).astype(np.float32)
    arrays = metrics.start("binary", 2)
    metrics.update(arrays, "binary", np.stack([1 - p, p], 1), np.zeros(len(p)), np.ones(len(p), np.float32), 0)
    before = arrays["alert_sums"].copy()
    late = (0.5 + 0.4 * random.random(10_000)).astype(np.float32)
    metrics.update(
        arrays, "binary", np.stack([1 - late, late], 1), np.zeros(10_000), np.ones(10_000, np.float32), 37_000
    )
    new = arrays["alert_sums"] - before
    assert new[1] / new[0] == pytest.approx(0.01, abs=0.004)


@pytest.mark.parametrize("share", [0.0, 1.0, 5e-5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.share: got .*; expected a number of at least 0\.0001 and below 1"):
        alerts.start(share)


# ---- segments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "classes"), CASES)
def test_segments_are_the_metrics_of_their_rows_alone(task: Task, classes: int) -> None:
    scores, y, weight, segment = rows(task, classes, 1_700)
    table = metrics.SegmentTable("country")
    table.number([b"a", b"b", b"c", b"d"])
    got = metrics.segment_report(fed(started(task, classes), task, (scores, y, weight, segment)), task, table)
    assert sorted(got) == ["a", "b", "c", "d"]
    for number, name in enumerate("abcd"):
        mine = segment == number
        alone = metrics.start(task, classes)
        metrics.update(alone, task, scores[mine], y[mine], weight[mine], 0)
        whole = metrics.report(alone, task)
        shared = ("mae", "rmse") if task == "regression" else ("accuracy", "log_loss")
        assert {key: got[name][key] for key in shared} == pytest.approx({key: whole[key] for key in shared}, rel=1e-9)
        assert got[name]["examples"] == mine.sum()
        said = {"binary": scores[:, -1], "regression": scores[:, 0]}.get(task, scores.max(1))
        true = (scores.argmax(1) == y) if task == "multiclass" else y
        assert got[name]["predicted"] == pytest.approx(np.average(said[mine].astype(float), weights=weight[mine]))
        assert got[name]["observed"] == pytest.approx(np.average(true[mine], weights=weight[mine]))


def test_fifty_values_have_a_segment_and_the_rest_share_one() -> None:
    table = metrics.SegmentTable("shop")
    names = [f"shop {number}".encode() for number in range(60)]
    assert table.number(names).tolist() == [*range(50), *[segments.OTHER] * 10]
    assert table.number([b"", b"shop 3"]).tolist() == [segments.MISSING, 3]
    assert table.names()[3] == "shop 3"
    assert table.names()[segments.OTHER :] == ["(other)", "(missing)"]


def test_a_table_is_restored_and_long_names_are_cut() -> None:
    table = metrics.SegmentTable("shop")
    long = "é" * 40
    table.number([b"first", long.encode()])
    again = metrics.SegmentTable("shop")
    assert again.load(table.state())
    assert again.number([long.encode() + b" and more", b"first"]).tolist() == [1, 0]
    assert again.names()[1] == "é" * 16
    other = metrics.SegmentTable("town")
    assert not other.load(table.state())
    assert other.number([b"first"]).tolist() == [0]
    assert metrics.SegmentTable("").load({})
    assert sum(array.nbytes for array in table.state().values()) < 2_000


def test_rooms_of_other_settings_start_again() -> None:
    arrays = fed(started("binary", 2), "binary", rows("binary", 2, 1_500))
    rooms.renew(arrays, 0.01, segmented=True, restarted=False)
    assert arrays["alert_state"][0]
    assert arrays["segments"].any()
    rooms.renew(arrays, 0.05, segmented=True, restarted=True)
    assert not arrays["alert_state"][0]
    assert not arrays["segments"].any()
    metrics.update(arrays, "binary", *rows("binary", 2, 600)[:3], 1_500)
    assert not arrays["segments"].any()  # rows that waited under another field count nowhere
    rooms.renew(arrays, 0.05, segmented=False, restarted=False)
    assert "segments" not in arrays
    old = metrics.start("binary", 2, names={"counts", "sums", "by_class", "curve", "histogram"})
    rooms.renew(old, 0.2, segmented=True, restarted=False)
    assert not {"segments", "alert_sums"} & old.keys()


# ---- the headline, and what costs little ---------------------------------------------------------------------------


def test_auto_is_the_log_loss_where_one_class_is_rare() -> None:
    for share, name in ((0.5, "accuracy"), (0.05, "log_loss")):
        arrays = metrics.start("binary", 2)
        y = (np.arange(1_000) < 1_000 * share).astype(float)
        metrics.update(arrays, "binary", np.full((1_000, 2), 0.5, np.float32), y, np.ones(1_000, np.float32), 0)
        metrics.update(arrays, "binary", np.full((1, 2), 0.5, np.float32), y[:1], np.ones(1, np.float32), 1_000)
        assert metrics.chosen("auto", "binary", arrays) == name
        assert metrics.chosen("f1", "binary", arrays) == "f1"


@pytest.mark.parametrize(("task", "classes"), CASES)
def test_every_choice_is_reported(task: Task, classes: int) -> None:
    arrays, given = started(task, classes), rows(task, classes, 1_500)
    known = np.stack([np.roll(given[1], 1), np.full(1_500, given[1].mean() if task == "regression" else 0.0)], 1)
    metrics.update(arrays, task, *given[:3], 0, np.ascontiguousarray(known))
    own = Loss("pinball", 0.8) if task == "regression" else None
    assert set(metrics.choices(task, own)) <= metrics.report(arrays, task).keys()


def test_a_headline_that_does_not_fit_is_refused_with_the_right_ones() -> None:
    with pytest.raises(ConfigError, match=r"metric: got 'pinball' for a regression task; .* loss = \"pinball\""):
        metrics.checked("pinball", "regression", Loss("squared"))
    assert metrics.checked("pinball", "regression", Loss("pinball", 0.1)) == "pinball"
    with pytest.raises(
        ConfigError, match="metric: got 'roc_auc' for a multiclass task; expected one of auto, accuracy"
    ):
        metrics.checked("roc_auc", "multiclass")
    with pytest.raises(ConfigError, match=r"got 'cost' for a binary task; .* State the costs"):
        metrics.checked("cost", "binary")
    assert metrics.checked("cost", "binary", costs=True) == "cost"


def test_baselines_keep_no_ranks_alerts_or_segments() -> None:
    assert not [name for name in baselines.measures("binary", 2) if name.startswith(("rank_", "alert_", "bins"))]
