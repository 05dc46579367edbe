"""Pictures of curves: every model and mark, and labels that neither overlap nor leave the picture."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from everlearn import metrics, report
from everlearn.errors import InputError
from everlearn.report import Mark
from everlearn.report.pictures import MARKS


def curve(accuracy: float, begin: int = 0, end: int = 2_000) -> dict[str, Any]:
    random = np.random.default_rng(int(accuracy * 1000))
    y = random.integers(0, 2, end - begin).astype(np.float64)
    predicted = np.where(random.random(end - begin) < accuracy, y, 1 - y)
    scores = np.stack([0.9 - 0.8 * predicted, 0.1 + 0.8 * predicted], axis=1).astype(np.float32)
    arrays = metrics.start("binary", 2, points=32)
    metrics.update(arrays, "binary", scores, y, np.ones(end - begin, np.float32), begin)
    return metrics.curve(arrays)


def texts(figure: Figure) -> list[str]:
    ticks = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    return (
        ticks + [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]
    )


def test_the_picture_draws_every_model_and_what_happened(tmp_path: Path) -> None:
    marks = [Mark(400, "drift"), Mark(900, "drift"), Mark(700, "promotion", "v2"), Mark(1_500, "rollback", "v1")]
    path = tmp_path / "run.png"
    curves = {"champion": curve(0.9), "challenger": curve(0.85, begin=1_000), "frozen": curve(0.6)}
    figure = report.picture(curves, marks, path, "Elec2", "accuracy")
    seen = texts(figure)
    assert {"2 drifts", "1 promotion", "1 rollback", "v2", "v1", "Elec2"} <= set(seen)
    for name in curves:
        mean = np.average(curves[name]["accuracy"], weights=curves[name]["count"])
        ending = "since 1,000" if name == "challenger" else "on average"
        assert f"{name}\n{mean:.3f} {ending}" in seen
    lines, strip = figure.axes
    assert lines.get_xlim() == (0, 2_000)
    assert [collection.get_offsets()[:, 0].tolist() for collection in strip.collections] == [[400, 900], [700], [1500]]
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (1_200, 600)


def test_many_promotions_are_symbols_only() -> None:
    marks = [Mark(50 * place, "promotion", f"v{place}") for place in range(40)]
    seen = texts(report.picture({"champion": curve(0.9)}, marks))
    assert "40 promotions" in seen
    assert "v2" not in seen


def test_names_of_marks_do_not_run_into_each_other() -> None:
    long = "better by 0.02 on 700 examples"
    marks = [Mark(index, "promotion", text) for index, text in ((200, long), (700, "v2"), (705, "v3"), (1_500, "v4"))]
    seen = texts(report.picture({"champion": curve(0.9)}, marks))
    assert {"v2", "v4"} <= set(seen)
    assert not {"v3", long} & set(seen)


def test_nothing_drawn_lies_outside_the_picture_or_over_another_label() -> None:
    curves = {name: curve(0.9 + step / 1000) for step, name in enumerate(("champion", "challenger", "frozen"))}
    marks = [Mark(100 * place, kind, "v1") for place, kind in enumerate(MARKS)]
    figure = report.picture(curves, marks, title="A title")
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in [*figure.texts, *(t for axes in figure.axes for t in axes.texts)]]
    boxes += [label.get_window_extent() for label in figure.axes[1].get_yticklabels()]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1_200 and box.y1 <= 600 for box in boxes)
    # Text's own extent: that of an annotation includes its line.
    labels = [Text.get_window_extent(t) for t in figure.axes[0].texts if "\n" in t.get_text()]
    assert len(labels) == 3
    assert not any(a.overlaps(b) for a in labels for b in labels if a is not b)


def test_the_trend_looks_back_only() -> None:
    values, weight = np.array([0.0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), np.ones(11)
    np.testing.assert_allclose(report.trend(values, weight), [0, 0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.12))
def test_labels_are_spread_apart(heights: list[float], gap: float) -> None:
    got = report.spread(sorted(heights), gap)
    assert all(after - before >= gap - 1e-9 for before, after in itertools.pairwise(got))
    assert got[0] >= -1e-9
    assert got[-1] <= 1 + 1e-9


def test_labels_that_do_not_touch_stay_where_they_are() -> None:
    assert report.spread([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]


def test_a_metric_that_no_curve_has_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="no curve has a point of 'mae'; the curves given hold accuracy, log_loss"):
        report.picture({"champion": curve(0.9)}, metric="mae")


def test_a_curve_of_one_point_and_unknown_names_can_be_drawn() -> None:
    curves = {name: curve(0.8, end=1) for name in "abcdefgh"}
    figure = report.picture(curves, [Mark(1, "drift")], metric="log_loss")
    assert len({line.get_color() for line in figure.axes[0].lines}) == len(report.OTHERS)
