"""Windows and fading factors: scikit-learn on the rows of each window, and the recursions of Gama et al."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import everlearn as el
from everlearn.errors import ConfigError
from everlearn.evaluate.windows import POINTS, Recent, window_of


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = random.random(count).astype(np.float32)
    y = (random.random(count) < p).astype(np.float64)
    return np.column_stack([1 - p, p]), y, np.ones(count, np.float32)


def curve(window, scores, y, weight, cut: int = 10_000):
    recent = Recent(window, "binary", 2, None, 0.01)
    known = np.column_stack([np.roll(y, 1), np.zeros(len(y))])
    for begin in range(0, len(y), cut):
        part = slice(begin, begin + cut)
        recent.add(scores[part], y[part], weight[part], begin, known[part])
    return recent.curve()


@pytest.mark.parametrize("cut", [1, 333, 10_000])
def test_each_window_has_the_metrics_of_its_rows(cut: int) -> None:
    scores, y, weight = rows(3100)
    found = curve(window_of(500, 0.0), scores, y, weight, cut)
    assert found["x"].tolist() == [500, 1000, 1500, 2000, 2500, 3000]
    for point, end in enumerate(found["x"]):
        p, truth = scores[end - 500 : end], y[end - 500 : end]
        loss = sklearn_metrics.log_loss(truth, p[:, 1].astype(float))
        said = p.argmax(axis=1)
        assert found["accuracy"][point] == pytest.approx((said == truth).mean())
        assert found["log_loss"][point] == pytest.approx(loss, rel=1e-4)
        assert found["kappa"][point] == pytest.approx(sklearn_metrics.cohen_kappa_score(truth, said))
        assert found["roc_auc"][point] == pytest.approx(sklearn_metrics.roc_auc_score(truth, p[:, 1]), abs=2e-3)
        assert found["f1"][point] == pytest.approx(sklearn_metrics.f1_score(truth, said))


def test_fading_is_the_recursion_of_gama() -> None:
    scores, y, weight = rows(4000, 1)
    found = curve(window_of(0, 0.99), scores, y, weight, 700)
    wrong, total, expected = 0.0, 0.0, []
    for row, right in enumerate(scores.argmax(axis=1) == y, 1):
        wrong, total = right + 0.99 * wrong, 1 + 0.99 * total
        if row % 100 == 0:
            expected.append(wrong / total)
    assert found["x"].tolist() == list(range(100, 4001, 100))
    assert found["accuracy"] == pytest.approx(np.array(expected), abs=1e-5)


def test_a_long_stream_has_a_bounded_number_of_points() -> None:
    scores, y, weight = rows(2 * 3 * POINTS)
    found = curve(window_of(2, 0.0), scores, y, weight)
    assert POINTS / 2 <= len(found["x"]) <= POINTS
    assert set(np.diff(found["x"])) == {8}
    p, truth = scores[-8 - 2 : -8], y[-8 - 2 : -8]
    place = found["x"].tolist().index(len(y) - 8)
    assert found["accuracy"][place] == (p.argmax(axis=1) == truth).mean()


def test_a_report_draws_them(tmp_path) -> None:
    stream = el.generate("sea", rows=6000, drift="sudden", noise=0.1)
    report = el.prequential(el.build({"family": "linear"}), stream, window=500, metric="kappa_t")
    assert {"kappa_t", "roc_auc", "f1", "balanced_accuracy"} <= report.windows.keys()
    report.plot(tmp_path / "kappa.png")
    assert (tmp_path / "kappa.png").stat().st_size > 10_000
    low, high = report.interval("accuracy")[1:]
    assert low < report.metrics["accuracy"] < high
    with pytest.raises(el.errors.InputError, match="accuracy, log_loss"):
        report.interval("f1")


@pytest.mark.parametrize(("size", "fading"), [(100, 0.9), (-1, 0.0), (1, 0.0), (0, 1.0), (0, 0.2), (0, 0.99999999)])
def test_windows_that_do_not_fit_are_refused(size: int, fading: float) -> None:
    with pytest.raises(ConfigError):
        window_of(size, fading)
