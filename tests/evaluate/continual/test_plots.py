"""Plots: the numbers of the matrix, and labels that neither overlap nor leave the picture."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from numpy.typing import NDArray

from everlearn.evaluate import continual
from tests.support.task_streams import Counting, sorted_stream


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
