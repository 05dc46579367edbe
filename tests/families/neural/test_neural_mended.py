"""Where steps go wrong or hardly happen: young memories, borders in between, rows that harm, passes that fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn._torch import Tensor, functional, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural import Neural, head
from everlearn.families.neural.settings import Lora
from everlearn.families.neural.step import DRIFTS, PASSES, ROWS, SINCE, SKIPPED, TAKEN, WAITING
from everlearn.model import copied, cut
from everlearn.records import Examples
from tests.support.neural_nets import HERE, bytes_of, examples, learn, one_thread  # noqa: F401  (one_thread)

MINE = "tests.families.neural.test_neural_mended:"
SPEC: dict[str, Any] = {
    "family": HERE + "perceptron",
    "task": "multiclass",
    "classes": 3,
    "dense": 5,
    "normalize": False,
    "terms": [],
    "ema": 0.0,
    "layout": 1,  # settings that are retired in new specs are tested here, too
}


def resumed(spec: dict[str, Any], rows: Examples, *cuts: int) -> Any:
    """A model of its own for each part of the rows, around the arrays of the one before."""
    model = el.build(spec)
    for begin, end in zip((0, *cuts), (*cuts, len(rows.y)), strict=True):
        other = el.build(spec)
        other.arrays = copied(model.arrays)
        model = other
        learn(model, cut(rows, begin, end))
    return model


class Counts(nn.Module):
    """Puts another tensor in the place of its buffer; fails in training while `fails` says so."""

    fails = False

    def __init__(self, dense: int, outputs: int) -> None:
        super().__init__()
        self.line = nn.Linear(dense, outputs)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes = self.passes + 1
            if Counts.fails:
                raise RuntimeError("out of memory")
        return self.line(x)  # type: ignore[no-any-return]


class Fork(nn.Module):
    """Uses its second layer only for rows that are positive on the whole."""

    def __init__(self, dense: int, outputs: int) -> None:
        super().__init__()
        self.always, self.late = nn.Linear(dense, outputs), nn.Linear(dense, outputs)

    def forward(self, x: Tensor) -> Tensor:
        said = self.always(x)
        return said + self.late(x) if float(x.mean()) > 0 else said  # type: ignore[no-any-return]


class Steep(nn.Module):
    """Answers no number for rows that are far away."""

    def __init__(self, dense: int, outputs: int) -> None:
        super().__init__()
        self.line = nn.Linear(dense, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) * x.abs().amax(1, keepdim=True).exp()  # type: ignore[no-any-return]


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


def infinite(outputs: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, y, reduction="none") + torch.where(y == 2, torch.inf, 0.0)


# The means of the head


@pytest.mark.parametrize("passes", [1, 2])
def test_means_are_made_anew_while_the_memory_fills(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {**SPEC, "terms": [{"kind": "replay"}], "head": "ncm", "passes": passes}
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
    spec = {**SPEC, "terms": [{"kind": "replay"}], "head": "ncm", "passes": passes, "memory": {"rows": 50}}
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
    spec = {**SPEC, "lora": {"rank": 2, "targets": ["2"]}, "head": "ncm", "memory": {"rows": 30}}
    assert learn(el.build(spec), examples(60, 5, 3)).shape == (60, 3)


# Consolidations


@pytest.mark.parametrize("waiting", [1, 8, 31])
def test_a_consolidation_between_minibatches_is_of_what_was_learned(waiting: int) -> None:
    terms = [{"kind": "ewc", "strength": 0.0}]
    spec = {**SPEC, "terms": terms, "consolidate": {"told": True, "rows": 64}, "batch": 32}
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
    spec = {**SPEC, **more, "classes": 6, "terms": terms, "consolidate": {"every": 50}}
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
    plain = el.build({**SPEC, "classes": 6})
    learn(plain, rows)
    assert (plain.arrays["weights/2.bias"][2:] != untrained["weights/2.bias"][2:]).all()


# Passes without a step, and passes that fail


def test_minibatches_that_are_not_learned_are_told_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    model = el.build({**SPEC, "family": MINE + "Steep", "ema": 0.0})
    rows = examples(100, 5, 3)
    rows.batch.dense[:] = 1e5
    learn(model, rows)
    assert model.arrays["learn/counts"][SKIPPED] == 10
    told = [one.getMessage() for one in caplog.records if "did not learn from a minibatch" in one.getMessage()]
    assert [one.partition("(")[2].partition(" so far")[0] for one in told] == ["1 of 1", "2 of 2", "4 of 4", "8 of 8"]


def test_a_buffer_that_is_replaced_is_there_after_a_pass_without_a_step() -> None:
    spec = {**SPEC, "family": MINE + "Counts", "loss": MINE + "infinite"}
    rows = examples(60, 5, 3)
    rows.y[:] = 0
    rows.y[10:20] = 2
    model = el.build(spec)
    learn(model, rows)
    assert model.arrays["learn/counts"][SKIPPED] == 1
    other = resumed(spec, rows, 20, 40)
    assert model.arrays["weights/passes"] == other.arrays["weights/passes"] == 6
    assert bytes_of(model.arrays) == bytes_of(other.arrays)


@pytest.mark.parametrize("kind", ["window", "reservoir", "balanced", "loss", "gradient"])
@pytest.mark.parametrize("fault", ["weight", "answer"])
def test_a_row_that_makes_a_step_impossible_is_not_remembered(kind: str, fault: str) -> None:
    spec = {**SPEC, "family": MINE + "Steep", "terms": [{"kind": "distill"}], "memory": {"kind": kind, "rows": 200}}
    rows = examples(100, 5, 3)
    if fault == "weight":
        rows.weight[[12, 17]] = 1e25
    else:
        rows.batch.dense[[12, 17], 1] = 1e5
    model = el.build(spec)
    learn(model, rows)
    counts = model.arrays["learn/counts"]
    assert (counts[PASSES], counts[TAKEN], counts[SKIPPED]) == (10, 9, 1)
    positions = model.arrays["learn/memory/position"][:98].tolist()
    assert sorted(positions) == [at for at in range(100) if at not in (12, 17)]
    assert np.isfinite(model.arrays["learn/memory/said"]).all()
    held = dict(zip(positions, model.arrays["learn/memory/y"], strict=False))
    assert all(held[at] == rows.y[at] for at in positions)
    assert bytes_of(resumed(spec, rows, 13, 20, 34).arrays) == bytes_of(model.arrays)


@pytest.mark.parametrize("passes", [1, 2])
def test_rows_of_a_pass_that_fails_are_counted_once(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"normalize": True, "ema": 0.9, "passes": passes, "drift": {"detector": "adwin"}}
    spec = {**SPEC, **more, "family": MINE + "Counts", "optimizer": "adam"}
    rows = examples(60, 5, 3)
    rows.y[:] %= 2
    rows.y[22] = 2  # met for the first time where it fails
    model, whole = el.build(spec), el.build(spec)
    learn(whole, rows)
    learn(model, cut(rows, 0, 29))
    before = copied(model.arrays)
    monkeypatch.setattr(Counts, "fails", True)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="out of memory"):
            learn(model, cut(rows, 29, 30) if model.arrays["learn/counts"][WAITING] == 9 else cut(rows, 30, 31))
        for name in ("classes", "prior", "inputs/moments", "learn/frequent", "weights/passes", "learn/raw/passes"):
            assert model.arrays[name].tobytes() == before[name].tobytes()
        counts = model.arrays["learn/counts"]
        assert [counts[at] for at in (PASSES, DRIFTS, SINCE)] == [
            before["learn/counts"][at] for at in (PASSES, DRIFTS, SINCE)
        ]
    monkeypatch.undo()
    learn(model, cut(rows, 30, 60))
    assert bytes_of(model.arrays) == bytes_of(whole.arrays)


def test_a_network_that_cannot_learn_a_single_row_is_refused_where_it_is_made() -> None:
    def net(*shape: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3))

    dials = {key: value for key, value in SPEC.items() if key != "family"}
    with pytest.raises(ConfigError, match="batch: got 1; expected 2 or more.*more than 1 value"):
        Neural(net(), **dials, batch=1)
    learn(Neural(net(), **dials, batch=2), examples(10, 5, 3))
    learn(Neural(net().eval(), **dials, batch=1), examples(10, 5, 3))
    image = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3))
    learn(Neural(image, **{**dials, "dense": 4, "shape": [1, 2, 2]}, batch=1), examples(10, 4, 3))


# Optimisers


@pytest.mark.parametrize(
    ("name", "dials"),
    [
        ("Adagrad", {"lr": 0.05, "initial_accumulator_value": 0.5}),
        ("Rprop", {"lr": 0.01}),
        ("ASGD", {"lr": 0.05, "t0": 1.0}),
        ("NAdam", {"lr": 0.01}),
        ("Adam", {"lr": 0.01}),
        ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.5}),
        (MINE + "Started", {"lr": 0.05}),
    ],
)
def test_a_weight_whose_first_gradient_comes_late_begins_as_in_a_loop_by_hand(name: str, dials: dict[str, Any]) -> None:
    spec = {**SPEC, "family": MINE + "Fork", "balance": False, "optimizer": {"name": name, **dials}}
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
