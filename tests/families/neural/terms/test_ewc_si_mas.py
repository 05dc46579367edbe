"""EWC, SI, MAS and LwF against formulas written out by hand, at any strength, over several consolidations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import everlearn as el
from everlearn._torch import Tensors, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural import fisher
from everlearn.families.neural.contract import Net, TensorRows, Term
from everlearn.families.neural.terms.ewc_si_mas import EWC, MAS, SI, Ewc, Mas, Si, pull
from everlearn.families.neural.terms.functions import LWF, Lwf
from tests.support.neural_nets import HERE, examples
from tests.support.neural_terms import learn, net_of, rows_of, seen_of, step, two_tasks

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


def copied(net: Net) -> dict[str, np.ndarray]:
    return {name: one.detach().double().numpy().copy() for name, one in net.weights.items()}


def close(net: Net, wanted: dict[str, np.ndarray], tolerance: float = 1e-6) -> None:
    for name, one in wanted.items():
        np.testing.assert_allclose(
            net.weights[name].detach().numpy(), one, rtol=tolerance, atol=tolerance, err_msg=name
        )


class ByHand:
    """The same perceptron in numpy, float64: its gradients written out, and plain steps of gradient descent."""

    def __init__(self, net: Net) -> None:
        self.weights = copied(net)

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w = self.weights
        hidden = np.tanh(x @ w["0.weight"].T + w["0.bias"])
        return hidden, hidden @ w["2.weight"].T + w["2.bias"]

    def back(self, x: np.ndarray, hidden: np.ndarray, out: np.ndarray) -> dict[str, np.ndarray]:
        """Gradients of each row, (n, *shape), for gradients `out` (n, outputs) of the outputs."""
        inner = (out @ self.weights["2.weight"]) * (1 - hidden**2)
        return {
            "0.weight": inner[:, :, None] * x[:, None, :],
            "0.bias": inner,
            "2.weight": out[:, :, None] * hidden[:, None, :],
            "2.bias": out,
        }

    def chances(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hidden, out = self.forward(x)
        raised = np.exp(out - out.max(1, keepdims=True))
        return hidden, raised / raised.sum(1, keepdims=True)

    def gradient(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        hidden, p = self.chances(x)
        return {name: one.mean(0) for name, one in self.back(x, hidden, p - np.eye(3)[y]).items()}

    def fisher(self, x: np.ndarray, y: np.ndarray, labels: str) -> dict[str, np.ndarray]:
        hidden, p = self.chances(x)
        total = {name: np.zeros_like(one) for name, one in self.weights.items()}
        for label in range(3):
            share = p[:, label] if labels == "model" else (y == label).astype(float)
            for name, one in self.back(x, hidden, p - np.eye(3)[label]).items():
                total[name] += np.einsum("n,n...->...", share, one**2) / len(x)
        return total

    def sensitivity(self, x: np.ndarray) -> dict[str, np.ndarray]:
        hidden, out = self.forward(x)
        return {name: np.abs(one).mean(0) for name, one in self.back(x, hidden, 2 * out).items()}

    def step(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        found = self.gradient(x, y)
        for name, one in found.items():
            self.weights[name] = self.weights[name] - RATE * one
        return found

    def hold(self, importance: dict[str, np.ndarray], anchor: dict[str, np.ndarray], strength: float) -> None:
        for name, one in importance.items():
            c = 2 * RATE * strength * one
            self.weights[name] = (self.weights[name] + c * anchor[name]) / (1 + c)


def drawn(key: int) -> tuple[TensorRows, np.ndarray, np.ndarray]:
    rows = rows_of(12, 4, 3, key)
    return rows, rows.x[0].double().numpy(), rows.y.numpy()


@pytest.mark.parametrize("labels", ["model", "data"])
@pytest.mark.parametrize("decay", [1.0, 0.6])
def test_ewc_is_its_formula_over_three_consolidations(decay: float, labels: Any) -> None:
    net = net_of(small(), 3, rate=RATE)
    spec = Ewc(strength=30.0, decay=decay, labels=labels)
    own, hand = EWC.start(spec, net), ByHand(net)
    optimizer = torch.optim.SGD(net.module.parameters(), RATE)
    importance: dict[str, np.ndarray] = {}
    anchor: dict[str, np.ndarray] = {}
    for i in range(40):
        rows, x, y = drawn(i)
        step(net, rows, EWC, spec, own, optimizer)
        hand.step(x, y)
        hand.hold(importance, anchor, spec.strength)
        if i % 10 == 5 and i < 30:
            rows, x, y = drawn(100 + i)
            EWC.consolidate(spec, net, own, rows)
            new = hand.fisher(x, y, labels)
            importance = {name: decay * importance.get(name, 0.0) + one for name, one in new.items()}
            anchor = dict(hand.weights)
        close(net, hand.weights)
    assert int(own["taken"]) == 3
    assert max(float(np.abs(net.weights[name].detach().numpy() - one).max()) for name, one in anchor.items()) > 1e-3


def test_si_is_its_formula_over_three_consolidations() -> None:
    net = net_of(small(), 3, rate=RATE)
    spec = Si(strength=5.0, damping=0.01)
    own, hand = SI.start(spec, net), ByHand(net)
    optimizer = torch.optim.SGD(net.module.parameters(), RATE)
    anchor = dict(hand.weights)
    importance = {name: np.zeros_like(one) for name, one in anchor.items()}
    path = {name: np.zeros_like(one) for name, one in anchor.items()}
    for i in range(40):
        rows, x, y = drawn(i)
        step(net, rows, SI, spec, own, optimizer)
        before = dict(hand.weights)
        gradient = hand.step(x, y)
        hand.hold(importance, anchor, spec.strength)
        for name in path:
            path[name] = path[name] - gradient[name] * (hand.weights[name] - before[name])
        if i % 10 == 5 and i < 30:
            SI.consolidate(spec, net, own, rows)
            for name in path:
                moved = (hand.weights[name] - anchor[name]) ** 2
                importance[name] = importance[name] + np.maximum(path[name], 0) / (moved + spec.damping)
                path[name] = np.zeros_like(path[name])
            anchor = dict(hand.weights)
        close(net, hand.weights)
    assert min(float(one.min()) for name, one in own.items() if name.startswith("importance")) >= 0.0


def test_mas_is_its_formula_over_three_consolidations() -> None:
    net = net_of(small(), 3, rate=RATE)
    spec = Mas(strength=3.0, decay=0.5)
    own, hand = MAS.start(spec, net), ByHand(net)
    optimizer = torch.optim.SGD(net.module.parameters(), RATE)
    importance: dict[str, np.ndarray] = {}
    anchor: dict[str, np.ndarray] = {}
    for i in range(40):
        rows, x, y = drawn(i)
        step(net, rows, MAS, spec, own, optimizer)
        hand.step(x, y)
        hand.hold(importance, anchor, spec.strength)
        if i % 10 == 5 and i < 30:
            MAS.consolidate(spec, net, own, rows)
            new = hand.sensitivity(x)
            importance = {name: 0.5 * importance.get(name, 0.0) + one for name, one in new.items()}
            anchor = dict(hand.weights)
        close(net, hand.weights)


@pytest.mark.parametrize("kind", ["diagonal", "block", "kronecker"])
def test_ewc_is_stable_where_gradient_steps_blow_up(kind: Any) -> None:
    """Rate 0.1 and strength 1,000, and far beyond."""

    def moved(strength: float, plain: bool) -> float:
        torch.manual_seed(1)
        net = net_of(small(), 3, rate=RATE)
        spec = Ewc(strength=strength, fisher=kind)
        own = EWC.start(spec, net)
        optimizer = torch.optim.SGD(net.module.parameters(), RATE)
        learned = Term() if plain else EWC
        for i in range(20):
            step(net, drawn(i)[0], EWC, spec, own, optimizer)
        EWC.consolidate(spec, net, own, drawn(50)[0])
        anchor = {name: one.detach().clone() for name, one in net.weights.items()}
        importance = fisher.diagonal(net, drawn(50)[0])
        for i in range(200):
            step(net, drawn(i)[0], learned, spec, own, optimizer)
            if plain:  # the gradient of the penalty, by hand, in the same step
                with torch.no_grad():
                    for name, weight in net.weights.items():
                        weight -= RATE * 2 * strength * importance[name] * (weight - anchor[name])
        return sum(float((net.weights[name] - held).detach().square().sum()) for name, held in anchor.items())

    if kind == "diagonal":
        assert not math.isfinite(moved(1000.0, plain=True))
    assert moved(1000.0, plain=False) < 5.0
    assert math.isfinite(moved(1e12, plain=False))
    assert math.isfinite(moved(1e300, plain=False))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.just(0.0) | st.floats(2.0**-40, 2.0**99, width=32), min_size=1, max_size=5),
    st.floats(-100, 100, width=32),
    st.floats(-100, 100, width=32),
    st.floats(1e-12, 1e15) | st.just(0.0) | st.just(math.inf),
)
def test_a_pull_ends_between_the_weight_and_its_anchor(
    importance: list[float], weight: float, anchor: float, force: float
) -> None:
    weights = torch.full((len(importance),), weight)
    pull([weights], [torch.full_like(weights, anchor)], [torch.tensor(importance)], force)
    for one, found in zip(importance, weights.tolist(), strict=True):
        c = force * one if one > 0 else 0.0
        wanted = anchor if math.isinf(c) else (weight + c * anchor) / (1 + c)
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-4)


def test_a_weight_of_no_importance_keeps_its_bits() -> None:
    weights = torch.randn(1000) * 100
    before = weights.clone()
    pull([weights], [torch.randn(1000)], [torch.zeros(1000)], 1e9)
    assert torch.equal(weights, before)


@pytest.mark.parametrize("kind", ["block", "kronecker"])
def test_a_matrix_pulls_as_its_linear_equations_say(kind: Any) -> None:
    """(1 + c F) (p - anchor) := p - anchor, solved at once by a dense solver."""
    net = net_of(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)), 3, rate=RATE)
    spec = Ewc(strength=20.0, fisher=kind, decay=0.8)
    own = EWC.start(spec, net)
    matrices: Tensors = {}
    factors: dict[str, Any] = {}
    for key in (1, 2):
        rows = drawn(key)[0]
        if kind == "block":
            matrices = {name: 0.8 * matrices.get(name, 0.0) + one for name, one in fisher.blocks(net, rows).items()}
        else:
            made, rest = fisher.kronecker(net, rows)
            assert rest == {}
            factors = {name: fisher.nearest(factors[name], one, 0.8) if factors else one for name, one in made.items()}
            for name, (inputs, outputs) in factors.items():
                o, i = len(outputs), len(inputs)
                places = torch.arange(o * i).view(o, i)
                order = torch.cat([places[:, :-1].flatten(), places[:, -1]]) if name == "0" else places.flatten()
                matrices[name] = torch.kron(outputs, inputs)[order][:, order]
        EWC.consolidate(spec, net, own, rows)
        anchor = copied(net)
        with torch.no_grad():
            for one in net.weights.values():
                one += 0.3 * torch.randn_like(one)
    wanted = copied(net)
    for group, names in fisher.members(net).items():
        away = np.concatenate([(wanted[name] - anchor[name]).ravel() for name in names])
        solved = np.linalg.solve(np.eye(len(away)) + 2 * RATE * 20.0 * matrices[group].double().numpy(), away)
        for name in names:
            wanted[name] = anchor[name] + solved[: wanted[name].size].reshape(wanted[name].shape)
            solved = solved[wanted[name].size :]
    EWC.stepped(spec, net, own, seen_of(net, rows))
    close(net, wanted, 1e-5)


def test_kronecker_holds_other_weights_by_their_diagonal() -> None:
    net = net_of(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)), 3, rate=RATE)
    spec = Ewc(strength=1e6, fisher="kronecker")
    own = EWC.start(spec, net)
    assert sorted(name for name in own if name.startswith("fisher/")) == ["fisher/1.bias", "fisher/1.weight"]
    EWC.consolidate(spec, net, own, drawn(1)[0])
    anchor = copied(net)
    with torch.no_grad():
        net.weights["1.weight"] += 1.0
    EWC.stepped(spec, net, own, seen_of(net, drawn(1)[0]))
    np.testing.assert_allclose(net.weights["1.weight"].detach().numpy(), anchor["1.weight"], atol=1e-3)


def test_a_block_that_would_be_too_large_is_refused() -> None:
    with pytest.raises(ConfigError, match="the module '0' of 2050 weights; expected at most 2048"):
        EWC.start(Ewc(fisher="block"), net_of(nn.Sequential(nn.Linear(204, 10), nn.ReLU(), nn.Linear(10, 3)), 3))


TERMS = [
    (EWC, Ewc()),
    (EWC, Ewc(fisher="block")),
    (EWC, Ewc(fisher="kronecker")),
    (SI, Si()),
    (MAS, Mas()),
    (LWF, Lwf()),
]


@pytest.mark.parametrize(("term", "spec"), TERMS)
def test_before_the_first_consolidation_nothing_holds(term: Term, spec: Any) -> None:
    weights = []
    for one in (Term(), term):
        torch.manual_seed(3)
        net = net_of(small(), 3, rate=RATE)
        own = one.start(spec, net) if one.start else {}
        optimizer = torch.optim.Adam(net.module.parameters(), RATE)
        for i in range(5):
            step(net, drawn(i)[0], one, spec, own, optimizer)
        weights.append([weight.detach() for weight in net.weights.values()])
    assert all(torch.equal(here, there) for here, there in zip(*weights, strict=True))


@pytest.mark.parametrize(("term", "spec"), TERMS)
def test_the_tensors_of_a_term_are_all_there_from_the_start_and_stay_where_they_are(term: Term, spec: Any) -> None:
    net = net_of(small(), 3, rate=RATE)
    own = term.start(spec, net)
    before = {name: (one.shape, one.dtype, one.data_ptr()) for name, one in own.items()}
    optimizer = torch.optim.Adam(net.module.parameters(), RATE)
    for i in range(6):
        step(net, drawn(i)[0], term, spec, own, optimizer)
        if i % 2:
            term.consolidate(spec, net, own, drawn(i)[0])
    assert before == {name: (one.shape, one.dtype, one.data_ptr()) for name, one in own.items()}
    shared = {one.data_ptr() for one in net.weights.values()} & {one.data_ptr() for one in own.values()}
    assert shared == set()
    assert not any(one.requires_grad for one in own.values())


@pytest.mark.parametrize(("term", "spec"), TERMS)
def test_a_term_goes_on_from_its_tensors_alone(term: Term, spec: Any) -> None:
    """Copied after some steps into a network of its own, it does the same, bit for bit."""

    def begun() -> tuple[Net, torch.optim.Optimizer]:
        torch.manual_seed(3)
        module = small()
        return net_of(module, 3, rate=RATE), torch.optim.SGD(module.parameters(), RATE)

    def go(net: Net, own: Tensors, optimizer: torch.optim.Optimizer, keys: range) -> None:
        for i in keys:
            step(net, drawn(i)[0], term, spec, own, optimizer)
            if i % 3 == 2:
                term.consolidate(spec, net, own, drawn(i)[0])

    net, optimizer = begun()
    own = term.start(spec, net)
    go(net, own, optimizer, range(7))
    other, its_optimizer = begun()
    other.module.load_state_dict(net.module.state_dict())
    other.step = net.step
    copies = {name: one.clone() for name, one in own.items()}
    go(net, own, optimizer, range(7, 14))
    go(other, copies, its_optimizer, range(7, 14))
    assert all(torch.equal(net.weights[name], other.weights[name]) for name in net.weights)
    assert all(torch.equal(own[name], copies[name]) for name in own)


@pytest.mark.parametrize(("term", "spec"), TERMS)
def test_no_rows_are_no_consolidation(term: Term, spec: Any) -> None:
    if term is SI:
        return  # it looks at no rows
    net = net_of(small(), 3, rate=RATE)
    own = term.start(spec, net)
    none = drawn(0)[0]
    term.consolidate(spec, net, own, TensorRows((none.x[0][:0],), none.y[:0], none.weight[:0]))
    assert int(own["taken"]) == 0


def test_weights_without_a_gradient_have_no_path() -> None:
    module = nn.ModuleDict({"used": nn.Linear(4, 3), "not_used": nn.Linear(4, 3)})
    net = net_of(module, 3, rate=RATE)
    net.call = lambda x: module["used"](x[0])
    spec = Si()
    own = SI.start(spec, net)
    optimizer = torch.optim.SGD(module.parameters(), RATE)
    for i in range(3):
        step(net, drawn(i)[0], SI, spec, own, optimizer)
    SI.consolidate(spec, net, own, drawn(0)[0])
    assert float(own["importance/used.weight"].sum()) > 0
    assert float(own["importance/not_used.weight"].abs().sum()) == 0


# What it is for


def both(term: Term, spec: Any) -> tuple[float, float]:
    """The accuracy in both tasks after both were learned in turn."""
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))
    net = net_of(module, 2, rate=0.1)
    own = term.start(spec, net) if term.start else {}
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    old, new = two_tasks()
    for task in (old, new):
        learn(net, task, term, spec, own, optimizer)
        if term.consolidate:
            term.consolidate(spec, net, own, task)
    return accuracy(net, old), accuracy(net, new)


def accuracy(net: Net, task: TensorRows) -> float:
    return float((net.call(task.x).argmax(1) == task.y).float().mean())


@pytest.mark.parametrize(
    ("term", "spec"),
    [
        (EWC, Ewc(strength=100.0)),
        (EWC, Ewc(strength=100.0, fisher="block")),
        (EWC, Ewc(strength=100.0, fisher="kronecker")),
        (SI, Si(strength=10.0)),
        (MAS, Mas(strength=1.0)),
    ],
)
def test_an_old_task_is_remembered_and_a_new_one_is_learned(term: Term, spec: Any) -> None:
    without, held = both(Term(), None), both(term, spec)
    assert held[0] > without[0] + 0.15
    assert held[1] > 0.85


FORGETFUL = {"family": HERE + "Forgetful", "task": "multiclass", "classes": 3, "dense": 5}


def test_ewc_with_factors_learns_where_all_linear_layers_are_tied() -> None:
    terms = [{"kind": "ewc", "fisher": "kronecker"}]
    model = el.build({**FORGETFUL, "terms": terms, "consolidate": {"every": 20}})
    some = examples(40, 5, 3)
    model.learn(some.batch, some.y, some.weight)
    assert model.arrays["learn/terms/0-ewc/fisher/up.weight"].any()
