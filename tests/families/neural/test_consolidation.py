"""Consolidations: when they happen, which rows they see, and which classes are masked."""

from __future__ import annotations

import numpy as np
import pytest

import everlearn as el
from everlearn.families.neural.training_state import WAITING
from everlearn.model import copied, cut
from tests.support.neural_nets import BALANCED, CLASSES, DENSE, SPEC, examples, learn, one_thread  # noqa: F401  (one_thread)


def test_who_knows_a_border_can_say_so() -> None:
    spec = {**SPEC, "terms": [{"kind": "ewc"}], "consolidate": {}}
    model, rows = el.build(spec), examples(60, DENSE, CLASSES)
    learn(model, rows)
    anchors = {name: one.copy() for name, one in model.arrays.items() if "ewc" in name}
    model.consolidate()  # type: ignore[attr-defined]
    assert any((model.arrays[name] != one).any() for name, one in anchors.items())


def test_gdumb_learns_nothing_but_its_memory_when_it_is_time() -> None:
    rows = examples(60, DENSE, CLASSES)
    spec = {**SPEC, "terms": [{"kind": "gdumb", "epochs": 3}], "memory": {"rows": 40}, "consolidate": {"every": 50}}
    model = el.build(spec)
    before = copied(model.arrays)
    learn(model, cut(rows, 0, 49))
    assert (model.arrays["weights/0.weight"] == before["weights/0.weight"]).all()
    learn(model, cut(rows, 49, 50))
    assert (model.arrays["weights/0.weight"] != before["weights/0.weight"]).any()
    assert (model.arrays["weights/0.weight"] == model.arrays["learn/raw/0.weight"]).all()  # it serves at once


@pytest.mark.parametrize("waiting", [1, 8, 31])
def test_a_consolidation_between_minibatches_is_of_what_was_learned(waiting: int) -> None:
    terms = [{"kind": "ewc", "strength": 0.0}]
    spec = {**BALANCED, "terms": terms, "consolidate": {"told": True, "rows": 64}, "batch": 32}
    first, second, rows = el.build(spec), el.build(spec), examples(100, 5, 3)
    learn(first, cut(rows, 0, 32))
    learn(second, cut(rows, 0, 32 + waiting))
    assert second.arrays["learn/counts"][WAITING] == waiting
    for model in (first, second):
        model.consolidate()  # type: ignore[attr-defined]
    names = [name for name in first.arrays if name.startswith("learn/terms/")]
    assert all(first.arrays[name].tobytes() == second.arrays[name].tobytes() for name in names)


@pytest.mark.parametrize("more", [{}, {"known": True}])
def test_classes_that_nobody_met_are_masked_at_consolidations_only(more: dict[str, bool]) -> None:
    terms = [{"kind": "lwf"}, {"kind": "ewc"}, {"kind": "gdumb", "epochs": 2}]
    spec = {**BALANCED, **more, "classes": 6, "terms": terms, "consolidate": {"every": 50}}
    model, rows = el.build(spec), examples(60, 5, 2)
    untrained = copied(model.arrays)
    learn(model, rows)
    met = model.arrays["learn/terms/0-lwf/met"]
    assert met.tolist() == [True, True, *[bool(more)] * 4]
    fisher = model.arrays["learn/terms/1-ewc/fisher/2.bias"]
    assert (fisher[:2] > 0).all()
    assert (fisher[2:] > 0).all() == bool(more)
    moved = np.abs(model.arrays["weights/2.bias"] - untrained["weights/2.bias"]) > 1e-3
    assert moved.tolist() == [True, True, *[bool(more)] * 4]  # all that learned is gdumb, with a little decay
    other = el.build({**BALANCED, "classes": 6})
    learn(other, rows)
    assert (other.arrays["weights/2.bias"][2:] != untrained["weights/2.bias"][2:]).all()
