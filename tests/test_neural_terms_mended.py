"""Terms where a network, a memory or a label is not of the plain kind: what they do then, or how they refuse it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from everlearn._torch import Tensor, functional, nn, torch
from everlearn.errors import ConfigError
from everlearn.neural.parts import Rows
from everlearn.neural.terms.plasticity import CONTINUAL_BACKPROP, ContinualBackprop, units
from tests.neural_terms import net_of, seen_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(3)
    yield
    torch.set_num_threads(before)


class Called(nn.Module):
    """Layers called as a function says."""

    def __init__(self, forward: Any, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._said = forward

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self._said(self, x)
        return said


def rows_like(*shape: int) -> Rows:
    return Rows((torch.randn(*shape),), torch.zeros(shape[0], dtype=torch.int64), torch.ones(shape[0]))


# Continual backprop


def test_units_of_a_sequence_that_is_flattened_are_found_at_each_of_its_places() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Flatten(), nn.Linear(30, 3))
    net, spec = net_of(module, 3), ContinualBackprop(rate=1 / 6, maturity=0, decay=0.0)
    own = CONTINUAL_BACKPROP.start(spec, net)
    with torch.no_grad():
        module[0].weight[2], module[0].bias[2] = 0.0, 0.0  # a unit that says nothing
    rows = rows_like(64, 5, 4)
    before = module(rows.x[0]).detach()
    said = module[1](module[0](rows.x[0])).mean(0).detach()
    wanted = (said * module[3].weight.detach().abs().sum(0).view(5, 6)).sum(0)
    CONTINUAL_BACKPROP.stepped(ContinualBackprop(rate=0.0, decay=0.0), net, own, seen_of(net, rows))
    torch.testing.assert_close(own["utility/0->3"], wanted)
    CONTINUAL_BACKPROP.stepped(spec, net, own, seen_of(net, rows))
    assert own["age/0->3"].tolist() == [2, 2, 0, 2, 2, 2]
    assert torch.nonzero((module[3].weight == 0).all(0))[:, 0].tolist() == [2, 8, 14, 20, 26]
    torch.testing.assert_close(module(rows.x[0]).detach(), before)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(4, 6), nn.MaxPool2d(1), nn.Flatten(), nn.Linear(30, 3)),
        Called(
            lambda own, x: own.last(functional.avg_pool2d(own.first(x), 1)), first=nn.Linear(4, 6), last=nn.Linear(6, 3)
        ),
        nn.Sequential(nn.Linear(4, 6), nn.Conv2d(6, 3, 1)),
    ],
    ids=["pooled", "pooled by a function", "channels that are no units"],
)
def test_units_that_are_mixed_behind_a_linear_layer_are_none(module: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no hidden units it can replace"):
        units(net_of(module, 3))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (
            Called(
                lambda own, x: own.last(own.first(x).view(x.shape[0], 2, 3)).flatten(1),
                first=nn.Linear(4, 6),
                last=nn.Linear(3, 3),
            ),
            (8, 4),
        ),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(2), nn.Linear(16, 3), nn.Flatten()), (8, 1, 4, 4)),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Linear(4, 3), nn.Flatten()), (8, 1, 4, 4)),
    ],
    ids=["units that are split", "flattened places", "places heard"],
)
def test_shapes_that_do_not_keep_units_apart_are_refused(module: nn.Module, shape: tuple[int, ...]) -> None:
    net, rows = net_of(module, 3), rows_like(*shape)
    own = CONTINUAL_BACKPROP.start(ContinualBackprop(), net)
    with pytest.raises(ConfigError, match="expected shapes that keep units apart"):
        CONTINUAL_BACKPROP.stepped(ContinualBackprop(), net, own, seen_of(net, rows))
