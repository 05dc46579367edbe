"""Terms against loss of plasticity: their formulas, which units are theirs, and a network that goes on learning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from everlearn._torch import Tensor, functional, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Net, TensorRows, Term
from everlearn.families.neural.terms.plasticity import (
    CONTINUAL_BACKPROP,
    L2_INIT,
    SHRINK_PERTURB,
    ContinualBackprop,
    L2Init,
    ShrinkPerturb,
    units,
)
from tests.support.neural_terms import Called, net_of, rows_like, rows_of, seen_of, step


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(11)
    yield
    torch.set_num_threads(before)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def values(net: Net) -> dict[str, np.ndarray]:
    return {name: one.detach().double().numpy().copy() for name, one in net.weights.items()}


@pytest.mark.parametrize("strength", [0.01, 3.0, 1e30])
def test_l2_towards_the_start_is_its_formula(strength: float) -> None:
    net = net_of(small(), 3)
    spec = L2Init(strength=strength)
    start, own = values(net), L2_INIT.start(spec, net)
    optimizer = torch.optim.SGD(net.module.parameters(), 0.1)
    c = 2 * 0.1 * strength
    for i in range(5):
        rows = rows_of(8, 4, 3, i)
        gradient = torch.autograd.grad(net.losses(net.call(rows.x), rows).mean(), list(net.weights.values()))
        wanted = values(net)
        for name, slope in zip(wanted, gradient, strict=True):
            wanted[name] = (wanted[name] - 0.1 * slope.numpy() + c * start[name]) / (1 + c)
        step(net, rows, L2_INIT, spec, own, optimizer)
        for name, one in wanted.items():
            np.testing.assert_allclose(net.weights[name].detach().numpy(), one, rtol=1e-5, atol=1e-6)


def test_weights_left_to_shrink_and_noise_get_the_deviation_that_is_told() -> None:
    module = nn.Sequential(nn.Linear(100, 100), nn.LayerNorm(100))
    net = net_of(module, 100)
    spec = ShrinkPerturb(shrink=0.01, noise=0.01)
    seen = seen_of(net, rows_of(2, 100, 3))
    bias = module[0].bias.detach().clone()
    for _ in range(600):
        SHRINK_PERTURB.stepped(spec, net, {}, seen)
        net.step += 1
    assert float(module[0].weight.std().detach()) == pytest.approx(0.01 / 0.02**0.5, rel=0.03)
    assert torch.equal(module[0].bias.detach(), bias)
    assert torch.equal(module[1].weight.detach(), torch.ones(100))


def test_noise_belongs_to_the_seed_and_the_step() -> None:
    first, second = net_of(small(), 3), net_of(small(), 3)
    second.module.load_state_dict(first.module.state_dict())
    state = torch.random.get_rng_state()
    for net in (first, second):
        for _ in range(3):
            SHRINK_PERTURB.stepped(ShrinkPerturb(), net, {}, seen_of(net, rows_of(2, 4, 3)))
            net.step += 1
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert torch.equal(state, torch.random.get_rng_state())
    before = values(first)
    SHRINK_PERTURB.stepped(ShrinkPerturb(), first, {}, seen_of(first, rows_of(2, 4, 3)))
    second.seed = 1
    SHRINK_PERTURB.stepped(ShrinkPerturb(), second, {}, seen_of(second, rows_of(2, 4, 3)))
    assert not torch.equal(first.weights["0.weight"], second.weights["0.weight"])
    assert np.abs(values(first)["0.weight"] - before["0.weight"]).max() < 0.01


# Continual backprop: which units


class Functional(nn.Module):
    """A convolution and linear layers, joined in the forward pass, with one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 4, 8), nn.Linear(8, 8)
        self.third, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.ndim == 4 else x[:, None]
        x = functional.max_pool2d(functional.relu(self.see(x)), 2)
        x = torch.relu(self.first(x.view(x.size(0), -1)))
        x = x + self.second(x).tanh()  # what goes around a layer: its units, and those before it, are heard twice
        said: Tensor = self.last(functional.gelu(self.third(x)))
        return said


def test_units_are_found_in_the_forward_pass() -> None:
    found = units(net_of(Functional(), 3))
    assert [(one.before, one.after) for one in found] == [("see", "first"), ("third", "last")]


def test_units_of_frozen_layers_are_left_alone() -> None:
    net = net_of(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)), 3)
    del net.weights["0.weight"]
    assert [(one.before, one.after) for one in units(net)] == [("2", "4")]


@pytest.mark.parametrize(
    "module",
    [nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))],
    ids=["no hidden layer", "units that are mixed"],
)
def test_a_module_without_such_units_is_refused(module: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no hidden units it can replace"):
        CONTINUAL_BACKPROP.start(ContinualBackprop(), net_of(module, 3))


def test_a_module_that_cannot_be_traced_is_refused() -> None:
    class Forked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else -x

    with pytest.raises(ConfigError, match="cannot trace the forward pass"):
        CONTINUAL_BACKPROP.start(ContinualBackprop(), net_of(Forked(4, 3), 3))


# Continual backprop: what it does


def test_utility_is_the_running_mean_of_what_a_unit_gives() -> None:
    net = net_of(small(), 3)
    spec = ContinualBackprop(rate=0.0, decay=0.9)
    own = CONTINUAL_BACKPROP.start(spec, net)
    wanted = np.zeros(6)
    for i in range(4):
        rows = rows_of(10, 4, 3, i)
        CONTINUAL_BACKPROP.stepped(spec, net, own, seen_of(net, rows))
        w = values(net)
        hidden = np.maximum(rows.x[0].numpy() @ w["0.weight"].T + w["0.bias"], 0)
        wanted = 0.9 * wanted + 0.1 * hidden.mean(0) * np.abs(w["2.weight"]).sum(0)
    np.testing.assert_allclose(own["utility/0->2"].numpy(), wanted, rtol=1e-5)
    assert own["age/0->2"].tolist() == [4] * 6


def test_utility_of_channels_sums_over_the_pixels_that_are_heard() -> None:
    module = Functional()
    net = net_of(module, 3)
    spec = ContinualBackprop(rate=0.0, decay=0.0)
    own = CONTINUAL_BACKPROP.start(spec, net)
    rows = TensorRows((torch.randn(5, 1, 4, 4),), torch.zeros(5, dtype=torch.int64), torch.ones(5))
    CONTINUAL_BACKPROP.stepped(spec, net, own, seen_of(net, rows))
    heard = functional.max_pool2d(module.see(rows.x[0]).relu(), 2).flatten(1).mean(0)
    wanted = (heard * module.first.weight.abs().sum(0)).view(4, 4).sum(1).detach()
    torch.testing.assert_close(own["utility/see->first"], wanted)


def test_the_least_useful_units_of_age_are_replaced_at_the_rate() -> None:
    net = net_of(nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 3)), 3)
    spec = ContinualBackprop(rate=0.05, maturity=3, decay=0.5)
    own = CONTINUAL_BACKPROP.start(spec, net)
    with torch.no_grad():
        net.weights["2.weight"][:, 7] = 0.0  # a unit that gives nothing
    rows = rows_of(10, 4, 3)
    for at in range(1, 5):
        before, said = values(net), net.call(rows.x).detach()
        CONTINUAL_BACKPROP.stepped(spec, net, own, seen_of(net, rows))
        net.step += 1
        changed = np.flatnonzero((values(net)["0.weight"] != before["0.weight"]).any(1)).tolist()
        assert changed == ([7] if at == 4 else [])  # 0.05 of 20 units is one, once they are older than 3 steps
    assert torch.equal(net.call(rows.x).detach(), said)  # it gave nothing, and gives nothing
    assert net.weights["0.bias"][7] == 0
    assert float(net.weights["0.weight"][7].abs().max().detach()) <= float(own["spread/0->2"])
    assert own["age/0->2"].tolist() == [4] * 7 + [0] + [4] * 12
    replaced, allowed = 1, 1.0
    for _ in range(100):
        allowed += 0.05 * int((own["age/0->2"] >= 3).sum())
        CONTINUAL_BACKPROP.stepped(spec, net, own, seen_of(net, rows))
        net.step += 1
        replaced += int((own["age/0->2"] == 0).sum())
        assert allowed - 1 < replaced + 1e-6 < allowed + 1e-3


def test_new_weights_are_spread_as_those_of_the_start() -> None:
    net = net_of(nn.Sequential(nn.Linear(50, 400), nn.ReLU(), nn.Linear(400, 3)), 3)
    spec = ContinualBackprop(rate=1.0, maturity=0)
    own = CONTINUAL_BACKPROP.start(spec, net)
    start = values(net)["0.weight"]
    CONTINUAL_BACKPROP.stepped(spec, net, own, seen_of(net, rows_of(4, 50, 3)))
    after = values(net)["0.weight"]
    assert (after != start).all()
    assert after.std() == pytest.approx(start.std(), rel=0.03)
    assert np.abs(after).max() == pytest.approx(np.abs(start).max(), rel=0.02)
    assert np.abs(values(net)["2.weight"]).max() == 0


def test_it_goes_on_from_its_tensors_alone() -> None:
    spec = ContinualBackprop(rate=0.05, maturity=2, decay=0.9)

    def go(net: Net, own: dict[str, Tensor], keys: range) -> None:
        optimizer = torch.optim.SGD(net.module.parameters(), 0.1)
        for i in keys:
            step(net, rows_of(8, 4, 3, i), CONTINUAL_BACKPROP, spec, own, optimizer)

    net, other = net_of(small(), 3), net_of(small(), 3)
    own = CONTINUAL_BACKPROP.start(spec, net)
    go(net, own, range(20))
    other.module.load_state_dict(net.module.state_dict())
    other.step, copies = net.step, {name: one.clone() for name, one in own.items()}
    go(net, own, range(20, 40))
    go(other, copies, range(20, 40))
    assert int((own["age/0->2"] < 40).sum()) > 0
    assert all(torch.equal(net.weights[name], other.weights[name]) for name in net.weights)
    assert all(torch.equal(own[name], copies[name]) for name in own)


# What they are for


def late_accuracy(term: Term, spec: Any) -> tuple[float, float]:
    """Accuracy at the end of the first tasks and of the last ones, of a stream of tasks with labels of noise."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))
    net = net_of(module, 4, rate=0.02)
    own = term.start(spec, net) if term.start else {}
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    x = torch.randn(64, 16, generator=random)
    found = []
    for _ in range(16):
        y = torch.randint(4, (64,), generator=random)
        for i in range(80):
            at = torch.arange(i * 16, i * 16 + 16) % 64
            step(net, TensorRows((x[at],), y[at], torch.ones(16)), term, spec, own, optimizer)
        found.append(float((net.call((x,)).argmax(1) == y).float().mean()))
    return float(np.mean(found[:3])), float(np.mean(found[-5:]))


def test_a_network_stays_able_to_learn() -> None:
    first, last = late_accuracy(Term(), None)
    assert first > 0.95
    assert last < 0.7  # it has lost what it takes to learn four classes by heart
    for term, spec in (
        (L2_INIT, L2Init(strength=0.1)),
        (CONTINUAL_BACKPROP, ContinualBackprop(rate=1e-3, maturity=50)),
    ):
        assert late_accuracy(term, spec)[1] > last + 0.25


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
