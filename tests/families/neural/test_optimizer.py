"""Optimisers: their arrays from the start, the same steps as a loop by hand, schedules, clipping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn._torch import Tensor, functional, nn, torch
from everlearn.families.neural import optimizer
from everlearn.families.neural.settings import Schedule
from everlearn.families.neural.training_state import SKIPPED
from everlearn.model import copied, cut
from tests.support.neural_nets import (
    BALANCED,
    CLASSES,
    DENSE,
    HERE,
    PLAIN,
    bytes_of,
    descend,
    examples,
    learn,
    module_of,
    resumed,
)


@pytest.mark.parametrize(
    ("name", "dials"),
    [
        ("SGD", {"lr": 0.1, "fused": True}),
        ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01, "fused": True}),
        ("Adam", {"lr": 0.01, "fused": True}),
        ("Adam", {"lr": 0.01, "amsgrad": True, "foreach": False}),
        ("AdamW", {"lr": 0.01, "fused": True}),
        ("Adagrad", {"lr": 0.05, "fused": True}),
        ("RMSprop", {"lr": 0.01, "momentum": 0.5, "centered": True}),
        ("NAdam", {"lr": 0.01, "foreach": True}),
    ],
)
def test_weights_are_those_of_a_loop_by_hand(name: str, dials: dict[str, Any]) -> None:
    spec = {**PLAIN, "optimizer": {"name": name, **dials}}
    module, rows = module_of(spec), examples(107, DENSE, CLASSES)
    rows.y[:3] = (0, 1, 2)  # no class is masked
    peer = getattr(torch.optim, name)(module.parameters(), **dials)
    model = el.build(spec)
    learn(model, rows)
    for _ in descend(module, peer, rows):
        pass
    for key, value in module.state_dict().items():
        assert model.arrays[f"weights/{key}"].tobytes() == value.numpy().tobytes()
    for key, one in module.named_parameters():
        for part, value in peer.state[one].items():
            if value is not None:
                assert model.arrays[f"learn/optimizer/{key}/{part}"].tobytes() == value.numpy().tobytes()


def test_a_schedule_is_what_pytorch_makes_of_it() -> None:
    down = Schedule(kind="cosine", steps=20, floor=0.25)
    weight = nn.Parameter(torch.zeros(1))
    peer = torch.optim.SGD([weight], lr=0.4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(peer, 20, eta_min=0.1)
    for step in range(20):
        assert 0.4 * optimizer.rate(down, step) == pytest.approx(peer.param_groups[0]["lr"])
        peer.step()
        cosine.step()
    linear = Schedule(kind="linear", warmup=4, steps=10, floor=0.0)
    assert [optimizer.rate(linear, step) for step in (0, 3, 4, 9, 14)] == [0.25, 1.0, 1.0, 0.5, 0.0]


def test_the_schedule_is_used_and_clipping_bounds_the_step() -> None:
    rows = examples(10, DENSE, CLASSES)
    rows.weight[:] = 1000.0
    spec = {**PLAIN, "optimizer": {"name": "sgd", "lr": 0.1}, "clip": 1.0, "schedule": {"warmup": 5}}
    model = el.build(spec)
    before = copied(model.arrays)
    learn(model, rows)
    moved = [model.arrays[name] - before[name] for name in before if name.startswith("weights/")]
    assert np.sqrt(sum((one**2).sum() for one in moved)) == pytest.approx(0.1 * 0.2, rel=1e-3)


OPTIMIZERS = sorted(set(optimizer.known()) - {"lbfgs", "sparseadam", "muon"})  # of closures, sparse slopes, matrices


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_all_its_arrays_from_the_start(name: str) -> None:
    spec = {**PLAIN, "optimizer": {"name": name, "lr": 0.01}}
    model, rows = el.build(spec), examples(60, DENSE, CLASSES)
    layout = {name: (one.shape, one.dtype) for name, one in model.arrays.items()}
    held = dict(model.arrays)
    learn(model, cut(rows, 0, 33))
    assert {name: (one.shape, one.dtype) for name, one in model.arrays.items()} == layout
    assert all(model.arrays[name] is one for name, one in held.items())
    other = el.build(spec)
    other.arrays = copied(model.arrays)
    assert (learn(model, cut(rows, 33, 60)) == learn(other, cut(rows, 33, 60))).all()
    assert bytes_of(model.arrays) == bytes_of(other.arrays)
    assert not np.array_equal(model.arrays["weights/0.weight"], el.build(spec).arrays["weights/0.weight"])


class Counted(torch.optim.SGD):
    """An optimiser that keeps a plain number for each weight."""

    def step(self, closure: Any = None) -> Any:
        for one in self.param_groups[0]["params"]:
            self.state[one]["count"] = self.state[one].get("count", 0) + 1
        super().step()


def test_an_optimizer_of_ones_own_and_plain_numbers_in_its_state() -> None:
    model = el.build({**PLAIN, "optimizer": {"name": "tests.families.neural.test_optimizer:Counted", "lr": 0.1}})
    learn(model, examples(35, DENSE, CLASSES))
    assert model.arrays["learn/optimizer/0.bias/count"] == 3
    twin = el.model.copy(model)
    learn(twin, examples(10, DENSE, CLASSES))
    assert twin.arrays["learn/optimizer/0.bias/count"] == 4


class Fork(nn.Module):
    """Uses its second layer only for rows that are positive on the whole."""

    def __init__(self, dense: int, outputs: int) -> None:
        super().__init__()
        self.always, self.late = nn.Linear(dense, outputs), nn.Linear(dense, outputs)

    def forward(self, x: Tensor) -> Tensor:
        said = self.always(x)
        return said + self.late(x) if float(x.mean()) > 0 else said  # type: ignore[no-any-return]


class Started(torch.optim.Optimizer):
    """Counts no steps, and its first step with a weight is another than all others."""

    def __init__(self, weights: Any, lr: float = 0.1) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is not None:
                    if not self.state[one]:
                        self.state[one]["mean"] = torch.full_like(one, 3.0)
                    mean = self.state[one]["mean"].lerp_(one.grad, 0.5)
                    one.sub_(group["lr"] * mean)


@pytest.mark.parametrize(
    ("name", "dials"),
    [
        ("Adagrad", {"lr": 0.05, "initial_accumulator_value": 0.5}),
        ("Rprop", {"lr": 0.01}),
        ("ASGD", {"lr": 0.05, "t0": 1.0}),
        ("NAdam", {"lr": 0.01}),
        ("Adam", {"lr": 0.01}),
        ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.5}),
        ("tests.families.neural.test_optimizer:Started", {"lr": 0.05}),
    ],
)
def test_a_weight_whose_first_gradient_comes_late_begins_as_in_a_loop_by_hand(name: str, dials: dict[str, Any]) -> None:
    spec = {
        **BALANCED,
        "family": "tests.families.neural.test_optimizer:Fork",
        "balance": False,
        "optimizer": {"name": name, **dials},
    }
    rows = examples(120, 5, 3)
    rows.y[:3] = (0, 1, 2)
    rows.batch.dense[:30] -= 5.0
    rows.batch.dense[30:] += 5.0
    module = Fork(5, 3)
    model = el.build(spec)
    module.load_state_dict({key: torch.tensor(model.arrays[f"weights/{key}"]) for key in module.state_dict()})
    given = {**dials} if ":" in name else {"foreach": True, **dials} if name != "Adagrad" else dials
    peer = (
        Started(module.parameters(), **given)
        if ":" in name
        else getattr(torch.optim, name)(module.parameters(), **given)
    )
    learn(model, rows)
    for begin in range(0, 120, 10):
        x, y, weight = (torch.from_numpy(one[begin : begin + 10]) for one in (rows.batch.dense, rows.y, rows.weight))
        peer.zero_grad()
        (functional.cross_entropy(module(x), y.long(), reduction="none") * weight).mean().backward()
        peer.step()
    for key, value in module.state_dict().items():
        np.testing.assert_allclose(model.arrays[f"weights/{key}"], value.numpy(), atol=1e-6)
    assert bytes_of(resumed(spec, rows, 10, 25, 30, 40, 77).arrays) == bytes_of(model.arrays)


def test_minibatches_that_are_not_learned_are_told_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    model = el.build({**BALANCED, "family": HERE + "Steep", "ema": 0.0})
    rows = examples(100, 5, 3)
    rows.batch.dense[:] = 1e5
    learn(model, rows)
    assert model.arrays["learn/counts"][SKIPPED] == 10
    told = [one.getMessage() for one in caplog.records if "did not learn from a minibatch" in one.getMessage()]
    assert [one.partition("(")[2].partition(" so far")[0] for one in told] == ["1 of 1", "2 of 2", "4 of 4", "8 of 8"]
