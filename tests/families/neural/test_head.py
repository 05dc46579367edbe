"""The head of nearest class means, against the formula of iCaRL, and the cost of refreshing it."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn._torch import functional, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural import head
from everlearn.families.neural.contract import TensorRows
from tests.support.neural_nets import one_thread  # noqa: F401
from tests.support.replay_rows import CLASSES, COLUMNS, blobs, part, rows


def test_class_means_are_those_of_icarl() -> None:
    module = nn.Sequential(nn.Linear(COLUMNS, 6), nn.Tanh(), nn.Linear(6, CLASSES + 1))
    held, asked = rows(30, 1), rows(8, 2)

    def call(inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return module(*inputs)

    own = head.start(module, CLASSES + 1)
    places = [one.data_ptr() for one in own.values()]
    assert head.answer(own, head.features(module, call, asked.x)).tolist() == [[0.0] * (CLASSES + 1)] * 8
    head.refresh(own, module, call, [part(held, slice(0, 13)), part(held, slice(13, 30))])
    assert places == [one.data_ptr() for one in own.values()]

    def unit(points: np.ndarray) -> np.ndarray:
        return points / np.linalg.norm(points, axis=-1, keepdims=True)

    inside = [unit(module[1](module[0](one.x[0])).detach().double().numpy()) for one in (held, asked)]
    means = np.stack([unit(inside[0][held.y.numpy() == label].mean(0)) for label in range(CLASSES)])
    assert own["means"][:CLASSES].numpy() == pytest.approx(means, abs=1e-6)
    assert own["held"].tolist() == [*np.bincount(held.y.numpy(), minlength=CLASSES), 0]
    apart = ((inside[1][:, None] - means) ** 2).sum(2)
    scores = head.answer(own, head.features(module, call, asked.x))
    assert scores[:, :CLASSES].numpy() == pytest.approx(-float(own["sharpness"]) * apart, abs=1e-4)
    assert torch.equal(scores.argmax(1), torch.as_tensor(apart.argmin(1)))
    assert bool(scores[:, CLASSES].isneginf().all())
    assert not module[2]._forward_pre_hooks


def test_the_sharpness_makes_the_labels_of_the_memory_likeliest() -> None:
    """Classes far apart get sure answers, classes that overlap unsure ones."""
    found = []
    for spread in (0.05, 2.0):
        module = nn.Sequential(nn.Identity(), nn.Linear(COLUMNS, CLASSES))
        held = blobs(300, 1)
        points = TensorRows(
            (held.x[0] + spread * torch.randn(300, COLUMNS, generator=torch.Generator().manual_seed(1)),),
            held.y,
            held.weight,
        )
        own = head.start(module, CLASSES)
        head.refresh(own, module, lambda inputs, module=module: module(*inputs), [points])
        scores = head.answer(own, head.features(module, lambda inputs, module=module: module(*inputs), points.x))
        plain = scores / own["sharpness"]
        best = float(functional.cross_entropy(scores, held.y))
        assert all(best <= float(functional.cross_entropy(plain * one, held.y)) + 1e-6 for one in head.SHARPNESS)
        found.append(float(own["sharpness"]))
    assert found[0] > found[1]


def test_a_head_without_rows_stays_and_a_module_without_a_linear_layer_is_refused() -> None:
    module = nn.Sequential(nn.Linear(COLUMNS, CLASSES))
    own = head.start(module, CLASSES)
    head.refresh(own, module, lambda inputs: module(*inputs), [])
    assert not own["means"].any()
    with pytest.raises(ConfigError, match=r"no such\s+layer"):
        head.start(nn.Conv2d(1, 1, 1), CLASSES)


def test_refreshing_costs_a_stream_the_same_share_whatever_the_memory() -> None:
    """Rows that go through the network for the means, for each row that came: one half."""
    for held, batch in ((500, 10), (2000, 10), (37, 16)):
        times = sum(head.due(step, held, held, batch) for step in range(1, 20_001))
        assert times * held / (20_000 * batch) == pytest.approx(0.5, rel=0.1)
