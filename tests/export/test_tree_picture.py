"""Pictures of trees: all boxes inside the figure, none over another, and files of each form."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from everlearn.export import picture
from tests.support.learned_models import taught


@pytest.mark.parametrize("depth", [0, 3, 4])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_no_box_lies_over_another(task: str, depth: int) -> None:
    model, encoder = taught("forest", task, hashed=True)
    figure = picture(model, encoder.schema, tree=0, depth=depth)
    figure.draw_without_rendering()
    boxes = [text for text in figure.axes[0].texts if text.get_zorder() == 3]
    assert len(boxes) >= (1 if depth == 0 else 5)
    areas = [text.get_bbox_patch().get_window_extent() for text in boxes]
    whole = figure.bbox
    assert all(area.x0 >= whole.x0 and area.x1 <= whole.x1 for area in areas)
    assert all(area.y0 >= whole.y0 and area.y1 <= whole.y1 for area in areas)
    assert not any(one.overlaps(other) for one, other in combinations(areas, 2))


@pytest.mark.parametrize(("ending", "first"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_ending_chooses_the_form(ending: str, first: bytes, tmp_path: Path) -> None:
    model, encoder = taught("tree", "binary")
    path = tmp_path / f"tree.{ending}"
    picture(model, encoder.schema, path)
    assert path.read_bytes().startswith(first)
