"""Learning without forgetting: the old network as it was, its formula, and what it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from everlearn._torch import nn, torch
from everlearn.families.neural.terms.functions import LWF, Lwf
from tests.support.neural_terms import learn, net_of, rows_of, seen_of, two_tasks

RATE = 0.1


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    yield
    torch.set_num_threads(before)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def test_lwf_is_the_divergence_from_the_old_network() -> None:
    net = net_of(small(), 3, rate=RATE)
    spec = Lwf(strength=0.7, temperature=3.0)
    own = LWF.start(spec, net)
    rows = rows_of(12, 4, 3)
    rows = replace(rows, weight=torch.rand(12))
    assert LWF.loss(spec, net, own, seen_of(net, rows)) is None
    LWF.consolidate(spec, net, own, rows)
    old = net.call(rows.x).detach()
    with torch.no_grad():
        for weight in net.weights.values():
            weight += 0.3 * torch.randn_like(weight)
    seen = seen_of(net, rows)
    found = LWF.loss(spec, net, own, seen)
    assert found is not None
    p, q = (old / 3).softmax(1).double().numpy(), (seen.outputs / 3).softmax(1).detach().double().numpy()
    wanted = 0.7 * 9 * ((p * np.log(p / q)).sum(1) * rows.weight.numpy()).mean()
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)
    (slope,) = torch.autograd.grad(found, seen.outputs)  # 0.7 * 9 * (q - p) / 3, for each row
    np.testing.assert_allclose(slope.numpy(), 0.7 * 3 * (q - p) * rows.weight.numpy()[:, None] / 12, atol=1e-6)


def test_lwf_looks_only_at_classes_that_the_old_network_had_met() -> None:
    allowed = torch.zeros(3, 3, dtype=torch.bool)
    allowed[:, :2] = True
    net = net_of(small(), 3, allowed, rate=RATE)
    spec = Lwf()
    own = LWF.start(spec, net)
    rows = rows_of(12, 4, 3)
    rows = replace(rows, y=rows.y % 2)
    LWF.consolidate(spec, net, own, rows)
    assert own["met"].tolist() == [True, True, False]
    with torch.no_grad():
        net.weights["2.weight"] += torch.randn(3, 6)
    seen = seen_of(net, rows)
    (slope,) = torch.autograd.grad(LWF.loss(spec, net, own, seen), seen.outputs)
    assert float(slope[:, :2].abs().min()) > 0
    assert float(slope[:, 2].abs().max()) == 0


def test_the_teacher_has_its_own_running_statistics_and_does_not_drop_out() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    net = net_of(module, 3, rate=RATE)
    spec = Lwf()
    own = LWF.start(spec, net)
    rows = rows_of(12, 4, 3)
    LWF.consolidate(spec, net, own, rows)
    module.eval()
    seen = seen_of(net, rows)
    module.train()
    assert float(LWF.loss(spec, net, own, seen).detach()) == pytest.approx(0.0, abs=1e-6)
    for _ in range(3):
        net.call(rows_of(12, 4, 3, 9).x)  # the running statistics go on
    held = own["teacher/1.running_mean"].clone()
    assert float(LWF.loss(spec, net, own, seen).detach()) == pytest.approx(0.0, abs=1e-6)
    assert torch.equal(held, own["teacher/1.running_mean"])
    assert not torch.equal(held, module[1].running_mean)
    assert module.training


def test_lwf_of_a_number_is_the_squared_difference() -> None:
    net = net_of(nn.Linear(4, 1), 0, rate=RATE)
    own = LWF.start(Lwf(strength=2.0), net)
    rows = rows_of(12, 4, 0)
    LWF.consolidate(Lwf(), net, own, rows)
    with torch.no_grad():
        net.weights["bias"] += 0.5
    assert float(LWF.loss(Lwf(strength=2.0), net, own, seen_of(net, rows)).detach()) == pytest.approx(0.5, rel=1e-5)


def test_lwf_keeps_the_answers_of_an_old_head_to_rows_of_a_new_one() -> None:
    heads = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    old, new = two_tasks()
    new = replace(new, y=new.y + 2)

    def moved(strength: float) -> float:
        torch.manual_seed(2)
        module = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
        net, spec = net_of(module, 4, heads, rate=0.1), Lwf(strength=strength)
        own = LWF.start(spec, net)
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        learn(net, old, LWF, spec, own, optimizer)
        LWF.consolidate(spec, net, own, old)
        before = net.call(new.x)[:, :2].softmax(1)
        learn(net, new, LWF, spec, own, optimizer)
        assert float((net.call(new.x)[:, 2:].argmax(1) + 2 == new.y).float().mean()) > 0.95
        return float((net.call(new.x)[:, :2].softmax(1) - before).abs().mean().detach())

    assert moved(1.0) < 0.3 * moved(0.0)
