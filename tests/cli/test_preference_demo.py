"""The demo of preferences, by a model that has hardly been taught; what it reaches is measured by slow tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from everlearn.cli import preference_demo as demo
from everlearn.data import service_desk, tiny_model
from everlearn.loop.loop import Loop
from everlearn.records import Prediction, Preference
from everlearn.schema import question

SHORT: dict[str, Any] = {"round": 4, "improve": {"steps": 1, "prompts": 2, "candidates": 3, "limit": 4}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model after two steps."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model.make(folder, steps=2)
    return folder


def judged(loop: Loop) -> list[tuple[str, str, str, int]]:
    """The complaint, both answers and the place of the preferred one of each question of a log."""
    events = [event.payload for event in loop.log.read(0, 1000)]
    questions = {one.id: one for one in events if isinstance(one, Prediction)}
    found = []
    for one in events:
        if isinstance(one, Preference):
            assert one.source == demo.ANNOTATOR
            given = questions[one.id]
            first, second = question.judged(question.decode(given.payload))
            found.append((str(given.features["prompt"]), first.text, second.text, one.chosen))
    return found


def test_the_loop_asks_each_complaint_and_learns_from_the_judgements(model: Path, tmp_path: Path) -> None:
    with Loop(demo.settings(model, 1, **SHORT), tmp_path / "home") as loop:
        before = demo.champion(loop).policy.steps
        assert list(demo.learn(loop, 18, 1)) == [16, 18]
        found = judged(loop)
        assert [complaint for complaint, *_ in found[:8]] != list(service_desk.COMPLAINTS)
        for block in (found[:8], found[8:16]):
            assert {complaint for complaint, *_ in block} == set(service_desk.COMPLAINTS)
        assert demo.champion(loop).policy.steps == before + 4  # a step in each of four rounds
        with demo.champion(loop).policy.reference():
            first = demo.answers(demo.champion(loop), 1, (1,))
        assert len(first) == 8


def test_shuffled_judgements_are_the_same_ones_in_another_order(model: Path, tmp_path: Path) -> None:
    chosen = []
    for shuffled in (False, True):
        with Loop(demo.settings(model, 2, **SHORT | {"round": 64}), tmp_path / f"{shuffled}.home") as loop:
            list(demo.learn(loop, 16, 2, shuffled=shuffled))
            chosen.append([one[-1] for one in judged(loop)])
            texts = [one[:3] for one in judged(loop)]
    assert sorted(chosen[0]) == sorted(chosen[1])
    assert chosen[0] != chosen[1]
    assert len(texts) == 16


def test_measurements_compare_with_the_first_version(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [service_desk.RUDE[0], "Bye.", service_desk.PADDING[0]]
    best = [f"{service_desk.KIND[0]} {remedy}" for remedy in service_desk.REMEDIES.values()]
    texts = [[one] * 9 + others for one in best]
    monkeypatch.setattr(demo, "answers", lambda *_: texts)
    monkeypatch.setattr(demo, "EACH", 12)
    with Loop(demo.settings(model, **SHORT), tmp_path / "home") as loop:
        found = demo.measure(demo.champion(loop), 0, [[service_desk.KIND[1]]] * 8)
    assert (found.kind, found.rude, found.right) == pytest.approx((9 / 12, 1 / 12, 9 / 12))
    assert found.gold == pytest.approx((9 * 3.0 - 1.5 - 0.7) / 12)
    assert found.win == pytest.approx(9 / 12)
    assert found.different == 32
    assert found.sentences == pytest.approx(11 / 12)
    assert np.isfinite(found.words)


@pytest.mark.slow
def test_a_hundred_and_twenty_eight_labels_make_it_kind(tmp_path: Path) -> None:
    """Means of three seeds, each of 384 answers."""
    last = [learned(tmp_path, seed)[-1] for seed in range(3)]
    assert np.mean([one.rude for one in last]) <= 0.05
    assert np.mean([one.kind for one in last]) >= 0.60
    assert np.mean([one.win for one in last]) >= 0.83
    assert min(one.different for one in last) >= 176
    assert np.mean([one.sentences for one in last]) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_judgements_that_say_nothing_teach_nothing(tmp_path: Path, seed: int) -> None:
    marks = learned(tmp_path, seed, shuffled=True)
    assert max(one.win for one in marks) < 0.6
    assert marks[-1].rude > 0.2


def learned(folder: Path, seed: int, *, shuffled: bool = False) -> list[demo.DemoMeasures]:
    """Measures of a run of the demo, at 0, 32, 64, 96 and 128 labels."""
    tiny_model.make(folder / f"model-{seed}", seed)
    with Loop(demo.settings(folder / f"model-{seed}", seed), folder / f"home-{seed}") as loop:
        return demo.run(loop, 128, seed, lambda _: None, shuffled=shuffled)
