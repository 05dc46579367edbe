"""Predictions: classes without rows, class means, rows one at a time or together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn._torch import nn, torch
from everlearn.families.neural import head
from everlearn.families.neural.settings import Lora
from everlearn.families.neural.training_state import ROWS
from everlearn.model import cut
from tests.support.neural_nets import (
    BALANCED,
    CLASSES,
    DENSE,
    PLAIN,
    SPEC,
    bytes_of,
    examples,
    learn,
    module_of,
    resumed,
)


def test_classes_that_nobody_met_have_no_share() -> None:
    model, rows = el.build(SPEC), examples(40, DENSE, CLASSES)
    assert model.predict(rows.batch) == pytest.approx(np.full((40, 3), 1 / 3))
    rows.y[:20] = np.arange(20) % 2
    rows.y[20:] = 2.0
    learn(model, cut(rows, 0, 20))
    said = model.predict(rows.batch)
    assert (said[:, 2] == 0).all()
    assert (said[:, :2] > 0).all()
    assert model.arrays["classes"].tolist() == [10, 10, 0]
    learn(model, cut(rows, 20, 40))
    assert (model.predict(rows.batch)[:, 2] > 0).all()


def test_classes_known_to_the_module_are_answered_from_the_start() -> None:
    model, rows = el.build({**SPEC, "known": True}), examples(20, DENSE, CLASSES)
    expected = module_of(SPEC)(torch.from_numpy(rows.batch.dense)).softmax(1).detach().numpy()
    np.testing.assert_allclose(model.predict(rows.batch), expected, atol=1e-6)


def test_two_classes_are_not_new_to_each_other() -> None:
    model, rows = el.build({**SPEC, "task": "binary", "classes": 2}), examples(20, DENSE, 2)
    rows.y[:] = 1.0
    learn(model, rows)
    assert (model.predict(rows.batch)[:, 0] > 0).all()


def test_rows_together_cost_one_pass_where_they_need_not_be_answered_one_at_a_time() -> None:
    rows = examples(55, DENSE, CLASSES)
    model, exact = el.build({**SPEC, "one_at_a_time": False}), el.build(SPEC)
    np.testing.assert_allclose(learn(model, rows), learn(exact, rows), atol=1e-5)
    np.testing.assert_allclose(model.predict(rows.batch), exact.predict(rows.batch), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own parts
def test_a_compiled_network_says_what_it_says_otherwise() -> None:
    rows = examples(25, DENSE, CLASSES)
    exact = learn(el.build(PLAIN), rows)
    try:
        said = learn(el.build({**PLAIN, "compile": True}), rows)
    except torch._dynamo.exc.BackendCompilerFailed as error:  # no compiler on this machine
        pytest.skip(str(error).splitlines()[0])
    np.testing.assert_allclose(said, exact, atol=1e-4)


@pytest.mark.parametrize("passes", [1, 2])
def test_means_are_made_anew_while_the_memory_fills(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {**BALANCED, "terms": [{"kind": "replay"}], "head": "ncm", "passes": passes}
    model, rows, made = el.build(spec), examples(330, 5, 3), []
    refresh = head.refresh

    def counted(*given: Any) -> None:
        made.append(int(model.arrays["learn/counts"][ROWS]) // 10)
        refresh(*given)

    monkeypatch.setattr(head, "refresh", counted)
    said = learn(model, rows)
    assert made == [1, 2, 4, 8, 16, 32]
    assert float((said[40:].argmax(1) == rows.y[40:]).mean()) > 0.5
    monkeypatch.undo()
    assert bytes_of(resumed(spec, rows, 7, 80, 155, 160).arrays) == bytes_of(model.arrays)


@pytest.mark.parametrize("passes", [1, 3])
def test_means_of_a_full_memory_cost_no_more_with_many_passes(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {**BALANCED, "terms": [{"kind": "replay"}], "head": "ncm", "passes": passes, "memory": {"rows": 50}}
    model, made = el.build(spec), []
    monkeypatch.setattr(head, "refresh", lambda *given: made.append(int(model.arrays["learn/counts"][ROWS]) // 10))
    learn(model, examples(400, 5, 3))
    assert made == [1, 2, 4, 10, 20, 30, 40]


def test_features_are_those_of_the_layer_that_an_adapter_stands_beside() -> None:
    pytest.importorskip("peft")
    from everlearn.families.neural.lora import adapt

    net = adapt(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), Lora(rank=2, targets=("2",)))
    assert head.last(net) is net.get_submodule("2.base_layer")
    assert head.start(net, 3)["means"].shape == (3, 8)
    spec = {**BALANCED, "lora": {"rank": 2, "targets": ["2"]}, "head": "ncm", "memory": {"rows": 30}}
    assert learn(el.build(spec), examples(60, 5, 3)).shape == (60, 3)
