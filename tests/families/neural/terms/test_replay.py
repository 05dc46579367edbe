"""Terms that replay, each against its published formula worked out by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn.model import copied, cut
from tests.support.neural_nets import HERE, examples
from tests.support.replay_rows import CLASSES, COLUMNS, blobs, part, rows

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from everlearn.errors import ConfigError  # noqa: E402
from everlearn.families.neural import replay_sampler  # noqa: E402
from everlearn.families.neural.contract import Net, Seen, TensorRows, Term  # noqa: E402
from everlearn.families.neural.terms import replay  # noqa: E402
from everlearn.families.neural.terms.replay import AGEM, DISTILL, GDUMB, REPLAY, Agem, Distill, Gdumb, Replay  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(module: nn.Module, held: TensorRows, rate: float = 0.1) -> Net:
    """A `Net` whose memory is `held`, drawn from its front, or in an order of its own for a whole pass."""

    def draw(n: int, stream: int) -> TensorRows:
        if n < len(held):
            return part(held, slice(0, n))
        order = torch.randperm(len(held), generator=torch.Generator().manual_seed(stream))
        return part(held, order)

    return Net(
        module=module,
        weights=dict(module.named_parameters()),
        columns=CLASSES,
        classes=CLASSES,
        seed=0,
        call=lambda inputs: module(*inputs),
        losses=lambda outputs, some: functional.cross_entropy(outputs, some.y, reduction="none"),
        draw=draw,
        rate=rate,
    )


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(COLUMNS, CLASSES).double().float()


def total(term: Term, settings: object, net: Net, new: TensorRows, drawn: TensorRows) -> torch.Tensor:
    """The loss of a step as the model makes it: one pass, `fresh` or the plain mean, and `loss`."""
    own = {} if term.start is None else term.start(settings, net)
    outputs = net.call((torch.cat([new.x[0], drawn.x[0]]),))
    seen = Seen(new, outputs[: len(new)], drawn, outputs[len(new) :])
    if term.fresh is None:
        fresh = (net.losses(seen.outputs, new) * new.weight).mean()
    else:
        fresh = term.fresh(settings, net, own, seen)
    more = None if term.loss is None else term.loss(settings, net, own, seen)
    return fresh if more is None else fresh + more


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


class Hand:
    """A linear layer with softmax in float64 numpy: what the tests below are worked out with."""

    def __init__(self, module: nn.Linear) -> None:
        self.weight = module.weight.detach().double().numpy()
        self.bias = module.bias.detach().double().numpy()

    def logits(self, some: TensorRows) -> np.ndarray:
        return some.x[0].double().numpy() @ self.weight.T + self.bias

    def losses(self, some: TensorRows) -> np.ndarray:
        return -np.log(softmax(self.logits(some))[np.arange(len(some)), some.y.numpy()])

    def gradient(self, some: TensorRows, scales: np.ndarray) -> np.ndarray:
        """Of the sum of the losses, each multiplied by its scale; the bias as a last column."""
        wrong = softmax(self.logits(some)) - np.eye(CLASSES)[some.y.numpy()]
        return self.of_outputs(some, wrong * scales[:, None])

    def of_outputs(self, some: TensorRows, slopes: np.ndarray) -> np.ndarray:
        inputs = np.concatenate([some.x[0].double().numpy(), np.ones((len(some), 1))], axis=1)
        return slopes.T @ inputs


def gradients(module: nn.Linear) -> np.ndarray:
    return torch.cat([module.weight.grad, module.bias.grad[:, None]], 1).double().numpy()


# ── ER and ER-ACE ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("many", [0, 4, 6])
def test_joint_replay_is_the_mean_over_all_rows(many: int) -> None:
    module, new, drawn = linear(), rows(6, 1, weighted=True), rows(many, 2, weighted=True)
    hand, n = Hand(module), 6 + many
    loss = total(REPLAY, Replay(), network(module, drawn), new, drawn)
    weighted = [hand.losses(one) * one.weight.double().numpy() for one in (new, drawn)]
    assert loss.item() == pytest.approx(np.concatenate(weighted).mean(), abs=1e-6)
    loss.backward()
    expected = sum(hand.gradient(one, one.weight.double().numpy() / n) for one in (new, drawn))
    assert gradients(module) == pytest.approx(expected, abs=1e-6)


def test_asymmetric_replay_matches_a_hand_computation() -> None:
    """New rows of classes 0 and 2 only: class 1 takes no part in their softmax, and gets no gradient from them."""
    module, drawn = linear(3), rows(5, 4, weighted=True)
    new = rows(6, 5, weighted=True)
    new.y[:] = torch.tensor([0, 2, 0, 0, 2, 2])
    hand = Hand(module)
    logits = hand.logits(new)
    among = softmax(logits[:, [0, 2]])
    right = among[np.arange(6), (new.y.numpy() == 2).astype(int)]
    fresh = (-np.log(right) * new.weight.numpy()).mean()
    remembered = (hand.losses(drawn) * drawn.weight.numpy()).mean()
    loss = total(REPLAY, Replay(loss="asymmetric"), network(module, drawn), new, drawn)
    assert loss.item() == pytest.approx(fresh + remembered, abs=1e-6)
    loss.backward()
    slopes = np.zeros((6, 3))
    slopes[:, [0, 2]] = among
    slopes -= np.eye(3)[new.y.numpy()]
    expected = hand.of_outputs(new, slopes * new.weight.numpy()[:, None] / 6)
    assert not expected[1].any()
    assert gradients(module) == pytest.approx(expected + hand.gradient(drawn, drawn.weight.numpy() / 5), abs=1e-6)


def test_asymmetric_replay_teaches_nothing_from_rows_of_one_class_alone() -> None:
    module, new = linear(), rows(5, 1)
    new.y[:] = 1
    loss = total(REPLAY, Replay(loss="asymmetric"), network(module, rows(0, 2)), new, rows(0, 2))
    loss.backward()
    assert loss.item() == 0.0
    assert not gradients(module).any()


def test_asymmetric_replay_needs_classes() -> None:
    net = network(linear(), rows(3, 0))
    net.classes = 0
    with pytest.raises(ConfigError, match="asymmetric"):
        REPLAY.start(Replay(loss="asymmetric"), net)


def test_how_many_rows_are_wanted() -> None:
    assert [REPLAY.draws(Replay(rows=n)) for n in (0, 7)] == [-1, 7]
    assert [DISTILL.draws(Distill(rows=n)) for n in (0, 7)] == [-2, 14]
    assert [DISTILL.draws(Distill(rows=n, beta=0.0)) for n in (0, 7)] == [-1, 7]
    assert REPLAY.draws(Replay(rows=7, retrieve="interfered")) == 0
    assert [term.remembers for term in (REPLAY, DISTILL, AGEM, GDUMB)] == [False, True, False, False]


# ── MIR ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["joint", "asymmetric"])
def test_interfered_rows_are_those_that_a_step_on_the_new_ones_harms_most(kind: str) -> None:
    """Against a copy of the network that takes the step for real."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(COLUMNS, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))
    held, new = rows(40, 3), rows(6, 4)
    net, settings = network(module, held, rate=0.5), Replay(rows=5, loss=kind, retrieve="interfered")
    before = {name: one.clone() for name, one in module.state_dict().items()}
    outputs = net.call(new.x)
    warm = {name: one.clone() for name, one in module.named_buffers()}

    other = copy.deepcopy(module)
    other.load_state_dict(before)
    said = other(new.x[0])
    shown = replay.asymmetric(said, new.y) if kind == "asymmetric" else said
    functional.cross_entropy(shown, new.y).backward()
    # the draw of all that is held comes in an order of its own
    candidates = net.draw(50, replay.INTERFERED)
    losses = [functional.cross_entropy(other(candidates.x[0]), candidates.y, reduction="none").detach()]
    with torch.no_grad():
        for one in other.parameters():
            one -= 0.5 * one.grad
    losses.append(functional.cross_entropy(other(candidates.x[0]), candidates.y, reduction="none").detach())
    chosen = part(candidates, (losses[1] - losses[0]).argsort(descending=True)[:5])

    loss = REPLAY.fresh(settings, net, {}, Seen(new, outputs, rows(0, 0), outputs[:0]))
    assert REPLAY.loss(settings, net, {}, Seen(new, outputs, rows(0, 0), outputs[:0])) is None
    loss.backward()
    found = {name: one.grad.clone() for name, one in module.named_parameters()}
    assert all(torch.equal(before[name], one) for name, one in module.named_parameters())

    third = copy.deepcopy(module)
    third.load_state_dict(before)
    said = third(new.x[0])
    shown = replay.asymmetric(said, new.y) if kind == "asymmetric" else said
    fresh, replayed = functional.cross_entropy(shown, new.y), functional.cross_entropy(third(chosen.x[0]), chosen.y)
    expected = (fresh * 6 + replayed * 5) / 11 if kind == "joint" else fresh + replayed
    third.zero_grad()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    for name, one in third.named_parameters():
        assert torch.allclose(found[name], one.grad, atol=1e-6)
    for name, one in module.named_buffers():
        if name.endswith("running_mean"):  # moved by what is learned, not by what was only looked at
            assert torch.allclose(one, third.get_buffer(name), atol=1e-6)
            assert not torch.equal(one, warm[name])


def test_interfered_replay_takes_all_there_is_while_little_is_held() -> None:
    module, new = linear(), rows(6, 1)
    settings = Replay(retrieve="interfered")
    for many in (0, 3):
        held = rows(many, 2)
        found = total(REPLAY, settings, network(module, held), new, rows(0, 3))
        assert found.item() == pytest.approx(
            np.concatenate([Hand(module).losses(one) for one in (new, held)]).mean(), abs=1e-6
        )


# ── DER and DER++ ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_distillation_matches_a_worked_example(beta: float) -> None:
    """Two rows new, four drawn: the first two against what was said (all four for DER), the others by their label."""
    module = nn.Linear(1, 3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0], [0.0], [-1.0]]))
        module.bias.copy_(torch.tensor([0.0, 0.5, 0.0]))
    said = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.5, -2.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    drawn = TensorRows((torch.tensor([[1.0], [2.0], [-1.0], [0.5]]),), torch.tensor([0, 0, 2, 1]), torch.ones(4), said)
    new = TensorRows((torch.tensor([[0.0], [3.0]]),), torch.tensor([1, 0]), torch.ones(2))
    # by hand: outputs are (x, 1/2, -x)
    squares = np.array([0 + 0.25 + 0, 0 + 0 + 0, 1 + 0.25 + 1, 0.25 + 0.25 + 2.25]) / 3

    def cross_entropy(x: float, y: int) -> float:
        outputs = [x, 0.5, -x]
        return math.log(sum(math.exp(one) for one in outputs)) - outputs[y]

    fresh = (cross_entropy(0.0, 1) + cross_entropy(3.0, 0)) / 2
    if beta:
        expected = fresh + 0.3 * squares[:2].mean() + beta * (cross_entropy(-1.0, 2) + cross_entropy(0.5, 1)) / 2
    else:
        expected = fresh + 0.3 * squares.mean()
    net = network(module, drawn)
    loss = total(DISTILL, Distill(alpha=0.3, beta=beta), net, new, drawn)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_step_of_dark_experience_matches_one_in_numpy() -> None:
    module, new, drawn = linear(5), rows(6, 6, weighted=True), rows(12, 7, weighted=True)
    hand, alpha, beta = Hand(module), 0.2, 0.9
    first, second = part(drawn, slice(0, 6)), part(drawn, slice(6, 12))
    loss = total(DISTILL, Distill(alpha=alpha, beta=beta), network(module, drawn), new, drawn)
    loss.backward()
    away = 2.0 * (hand.logits(first) - first.outputs.double().numpy()) / CLASSES * first.weight.numpy()[:, None] / 6
    expected = hand.gradient(new, new.weight.double().numpy() / 6)
    expected = expected + alpha * hand.of_outputs(first, away)
    expected = expected + beta * hand.gradient(second, second.weight.double().numpy() / 6)
    assert gradients(module) == pytest.approx(expected, abs=1e-6)
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    moved = np.concatenate([hand.weight, hand.bias[:, None]], 1) - 0.1 * expected
    assert Hand(module).weight == pytest.approx(moved[:, :-1], abs=1e-6)
    assert Hand(module).bias == pytest.approx(moved[:, -1], abs=1e-6)


def test_distillation_of_one_row_and_of_none() -> None:
    module, new = linear(), rows(4, 1)
    hand = Hand(module)
    plain = hand.losses(new).mean()
    none, one = rows(0, 2), rows(1, 3)
    net = network(module, none)
    assert total(DISTILL, Distill(), net, new, none).item() == pytest.approx(plain, abs=1e-6)
    apart = np.square(hand.logits(one) - one.outputs.numpy()).mean()
    assert total(DISTILL, Distill(), net, new, one).item() == pytest.approx(plain + 0.5 * apart, abs=1e-6)


# ── A-GEM ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("conflict", [True, False])
def test_projection_matches_a_worked_example(conflict: bool) -> None:
    """Equation 11 of Chaudhry et al. 2019 in numpy, and the weights after a step of it."""
    module, held = linear(8), rows(9, 9, weighted=True)
    new = part(held, slice(0, 5))
    if conflict:
        held.y[:], new = (
            0,
            TensorRows(new.x, torch.ones(5, dtype=torch.int64), new.weight),
        )  # the same inputs, other labels
    net, hand = network(module, held), Hand(module)
    total(AGEM, Agem(rows=7), net, new, rows(0, 1)).backward()
    g = hand.gradient(new, new.weight.double().numpy() / 5)
    drawn = part(held, slice(0, 7))
    reference = hand.gradient(drawn, drawn.weight.double().numpy() / 7)
    assert gradients(module) == pytest.approx(g, abs=1e-6)
    product = (g * reference).sum()
    assert (product < 0) == conflict
    expected = g - product / (reference**2).sum() * reference if conflict else g
    with torch.no_grad():
        AGEM.gradient(Agem(rows=7), net, {}, Seen(new, torch.zeros(5, 3), rows(0, 1), torch.zeros(0, 3)))
    assert gradients(module) == pytest.approx(expected, abs=1e-6)
    if conflict:
        assert (gradients(module) * reference).sum() == pytest.approx(0.0, abs=1e-6)
    torch.optim.SGD(module.parameters(), lr=0.3).step()
    assert Hand(module).weight == pytest.approx(hand.weight - 0.3 * expected[:, :-1], abs=1e-6)


def test_projection_leaves_gradients_where_nothing_is_held_or_the_reference_is_flat() -> None:
    module, new = linear(), rows(5, 1)
    net = network(module, rows(0, 2))
    total(AGEM, Agem(), net, new, rows(0, 3)).backward()
    before = gradients(module)
    AGEM.gradient(Agem(), net, {}, Seen(new, torch.zeros(5, 3), rows(0, 1), torch.zeros(0, 3)))
    assert np.array_equal(gradients(module), before)
    one = [torch.tensor([1.0, -2.0])]
    replay.project(one, [torch.zeros(2)])
    assert one[0].tolist() == [1.0, -2.0]


def test_projection_counts_all_weights_as_one_vector_and_a_missing_gradient_as_zero() -> None:
    module = nn.ModuleList([nn.Linear(COLUMNS, CLASSES), nn.Linear(COLUMNS, CLASSES)])
    held = rows(4, 2)
    net = network(module, held)
    net.call = lambda inputs: module[0](inputs[0]) + module[1](inputs[0])
    module[0](held.x[0]).sum().mul(-1.0).backward()
    AGEM.gradient(Agem(rows=4), net, {}, Seen(held, torch.zeros(4, 3), rows(0, 1), torch.zeros(0, 3)))
    reference = torch.autograd.grad(net.losses(net.call(held.x), held).mean(), list(net.weights.values()))
    along = sum(float((one.grad * other).sum()) for one, other in zip(net.weights.values(), reference, strict=True))
    assert along > -1e-6


# ── GDumb ────────────────────────────────────────────────────────────────────────────────────────────────────


def deep() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(COLUMNS, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, CLASSES))


def test_gdumb_learns_the_memory_from_scratch_whatever_came_before() -> None:
    found = []
    for spoilt in (0.0, 5.0):
        module, held = deep(), blobs(96, 1)
        net = network(module, held)
        own = GDUMB.start(Gdumb(epochs=6), net)
        assert {one.data_ptr() for one in own.values()}.isdisjoint(one.data_ptr() for one in module.parameters())
        places = [one.data_ptr() for one in module.parameters()]
        with torch.no_grad():
            for one in [*module.parameters(), *module.buffers()]:
                one.add_(int(spoilt))
        state = torch.random.get_rng_state()
        torch.manual_seed(int(spoilt))
        moved = torch.random.get_rng_state()
        with torch.no_grad():
            module.eval()
            GDUMB.consolidate(Gdumb(epochs=6), net, own, held)
        assert torch.equal(torch.random.get_rng_state(), moved)
        torch.random.set_rng_state(state)
        assert places == [one.data_ptr() for one in module.parameters()]
        assert all(one.grad is None for one in module.parameters())
        found.append({name: one.clone() for name, one in module.state_dict().items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    module.eval()
    fresh = blobs(300, 9)
    assert float((module(fresh.x[0]).argmax(1) == fresh.y).float().mean()) > 0.9


def test_gdumb_takes_the_published_steps() -> None:
    """Against SGD in numpy: momentum, decay, clipping, batches of 16, and the rate of each pass."""
    module, held = linear(4), blobs(40, 2)
    net = network(module, held)
    own = GDUMB.start(Gdumb(epochs=3), net)
    hand = Hand(module)
    velocity = np.zeros((CLASSES, COLUMNS + 1))
    for epoch, rate in enumerate([0.005, 0.05, 0.0005]):
        order = net.draw(1 << 40, 2_000 + epoch)
        for begin in range(0, 40, 16):
            batch = part(order, slice(begin, begin + 16))
            gradient = hand.gradient(batch, np.full(len(batch), 1 / len(batch)))
            gradient = gradient * min(1.0, 10.0 / np.linalg.norm(gradient))
            velocity = 0.9 * velocity + gradient + 1e-6 * np.concatenate([hand.weight, hand.bias[:, None]], 1)
            hand.weight = hand.weight - rate * velocity[:, :-1]
            hand.bias = hand.bias - rate * velocity[:, -1]
    GDUMB.consolidate(Gdumb(epochs=3), net, own, held)
    assert Hand(module).weight == pytest.approx(hand.weight, abs=1e-6)
    assert Hand(module).bias == pytest.approx(hand.bias, abs=1e-6)


def test_gdumb_learns_nothing_from_the_stream_and_nothing_from_nothing() -> None:
    module, new = linear(), rows(5, 1)
    net = network(module, rows(0, 2))
    loss = total(GDUMB, Gdumb(), net, new, rows(0, 3))
    loss.backward()
    assert loss.item() == 0.0
    assert not gradients(module).any()
    module.zero_grad()
    own = GDUMB.start(Gdumb(), net)
    GDUMB.consolidate(Gdumb(), net, own, new)
    assert torch.equal(module.weight, own["weight"])


FORGETFUL = {"family": HERE + "Forgetful", "task": "multiclass", "classes": 3, "dense": 5}


def test_a_look_at_what_a_step_harms_leaves_buffers_that_are_replaced() -> None:
    terms = [{"kind": "replay", "retrieve": "interfered"}]
    model = el.build({**FORGETFUL, "normalize": False, "ema": 0.0, "memory": {"rows": 200}, "terms": terms})
    some = examples(200, 5, 3)
    model.learn(some.batch, some.y, some.weight)
    # twenty steps: one pass of the new rows each, and one of the remembered ones where any are held
    assert int(model.arrays["weights/passes"]) == 20 + 19


def gdumb(family: str, **dials: Any) -> dict[str, Any]:
    return {
        "family": HERE + family,
        "task": "multiclass",
        "classes": 3,
        "dense": 5,
        "ema": 0.0,
        "layout": 1,  # with fewer passes, a retired setting
        "terms": [{"kind": "gdumb", "epochs": 2}],
        "memory": {"rows": 33},
        "consolidate": {"every": 50},
        **dials,
    }


def test_gdumb_learns_a_memory_whose_last_minibatch_would_be_one_row() -> None:
    model, some = el.build(gdumb("normalized")), examples(60, 5, 3)
    before = model.arrays["weights/0.weight"].copy()
    model.learn(some.batch, some.y, some.weight)
    assert (model.arrays["weights/0.weight"] != before).any()


@pytest.mark.parametrize("family", ["perceptron", "normalized"])
def test_nothing_moves_between_consolidations_of_gdumb(family: str) -> None:
    optimizer = {"name": "adamw", "lr": 0.01, "weight_decay": 0.5}
    model, some = el.build(gdumb(family, optimizer=optimizer, memory={"rows": 40})), examples(190, 5, 3)
    one = cut(some, 0, 100)
    model.learn(one.batch, one.y, one.weight)
    names = [name for name in model.arrays if name.startswith("weights/")]
    before = {name: model.arrays[name].copy() for name in names}
    resumed = el.build(model.spec)
    resumed.arrays = copied(model.arrays)
    for stretch, learner in ((cut(some, 100, 140), model), (cut(some, 100, 140), resumed)):
        learner.learn(stretch.batch, stretch.y, stretch.weight)
        assert all((learner.arrays[name] == before[name]).all() for name in names)
    for stretch, learner in ((cut(some, 140, 190), model), (cut(some, 140, 190), resumed)):
        learner.learn(stretch.batch, stretch.y, stretch.weight)
    assert all((model.arrays[name] == resumed.arrays[name]).all() for name in model.arrays)
    assert any((model.arrays[name] != before[name]).any() for name in names)


def test_answers_of_a_regression_are_remembered_in_the_unit_of_its_labels() -> None:
    spec = {"family": HERE + "line", "task": "regression", "dense": 5, "normalize": True, "ema": 0.0}
    more = {"optimizer": {"name": "adam", "lr": 0.05}, "terms": [{"kind": "distill"}], "memory": {"rows": 100}}
    model, some = el.build({**spec, **more}), examples(1000, 5, 0)
    some.y[:] = 1000.0 + 50.0 * some.batch.dense[:, 0]
    model.learn(some.batch, some.y, some.weight)
    late = model.arrays["learn/memory/position"] >= 500
    said, labels = model.arrays["learn/memory/said"][late, 0], model.arrays["learn/memory/y"][late]
    assert late.sum() > 20
    assert abs(said - labels).mean() < 10.0
    some.y[:] += 5000.0  # the same answers are other deviations from another level
    model.learn(some.batch, some.y, some.weight)
    plan, state = model._trained()  # type: ignore[attr-defined]
    parts = replay_sampler.parts(plan.sampler, state.memory.held, state.reader)
    held = torch.cat([rows.outputs for rows in parts if rows.outputs is not None])
    kept, moments = model.arrays["learn/memory/said"][:, 0], model.arrays["inputs/moments"][:, -1]
    spread = (moments[2] / moments[0]) ** 0.5
    assert sorted(held[:, 0].tolist()) == pytest.approx(sorted((kept - moments[1]) / spread), abs=1e-4)
