"""The term "orthogonal": what is held is held exactly, in bounded room, and old tasks are forgotten less."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from everlearn.errors import ConfigError  # noqa: E402
from everlearn.families.neural.contract import Net, Seen, TensorRows  # noqa: E402
from everlearn.families.neural.lora import adapt  # noqa: E402
from everlearn.families.neural.settings import Lora  # noqa: E402
from everlearn.families.neural.terms.orthogonal import ORTHOGONAL, Orthogonal, consolidate, leading, start, stepped  # noqa: E402
from tests.support.neural_nets import one_thread  # noqa: E402, F401


def net_of(module: nn.Module, whole: bool = True) -> Net:
    """The trained weights; without `whole` those of adapters only."""
    weights = {name: one for name, one in module.named_parameters() if one.requires_grad and (whole or "lora" in name)}

    def losses(outputs: Tensor, rows: TensorRows) -> Tensor:
        return functional.mse_loss(outputs, rows.y, reduction="none").mean(1)

    def draw(n: int, stream: int) -> TensorRows:
        raise AssertionError("this term draws nothing")

    return Net(module, weights, 3, 0, 0, lambda x: module(*x), losses, draw)


def rows(x: Tensor, y: Tensor | None = None) -> TensorRows:
    return TensorRows((x,), torch.zeros(len(x), 3) if y is None else y, torch.ones(len(x)))


def nothing() -> Seen:
    none = rows(torch.zeros(0, 1))
    return Seen(none, torch.zeros(0, 3), none, torch.zeros(0, 3))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lying_in(many: int, columns: int, places: slice, seed: int = 0) -> Tensor:
    """Rows that are 0 but in some columns."""
    x = torch.zeros(many, columns)
    x[:, places] = random(many, places.stop - places.start, seed=seed)
    return x


def linear(rank: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return adapt(nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 3)), Lora(rank=rank, alpha=float(rank)))


def stir(net: Net, seed: int, by: float = 1.0) -> None:
    with torch.no_grad():
        for place, one in enumerate(net.weights.values()):
            one.add_(by * random(*one.shape, seed=100 * seed + place))


# ---- directions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 8), (40, 8)])
def test_leading_directions_are_those_of_the_second_moment(shape: tuple[int, int]) -> None:
    x = random(*shape).double()
    directions, energy = leading(x, 2)
    values, vectors = np.linalg.eigh((x.T @ x).numpy())
    assert np.allclose(energy.numpy(), values[::-1][:2])
    assert np.allclose(np.abs((directions.numpy() * vectors[:, ::-1].T[:2]).sum(1)), 1.0)


def test_directions_that_rows_hardly_have_are_not_held() -> None:
    x = lying_in(30, 8, slice(0, 2))
    directions, energy = leading(x + 1e-4 * random(30, 8, seed=1), 5)
    assert (energy > 0).tolist() == [True, True, False, False, False]
    assert not directions[2:].any()
    assert not leading(torch.zeros(4, 8), 3)[1].any()


def test_room_is_bounded_and_the_weakest_directions_go() -> None:
    module = linear()
    net, settings = net_of(module), Orthogonal(directions=3)
    own = start(settings, net)
    shapes = {name: one.shape for name, one in own.items()}
    loud, quiet, some = (lying_in(50, 12, slice(at, at + 1), seed=at) for at in (0, 4, 8))
    for x in (10 * loud, 0.5 * quiet, 2 * some, lying_in(50, 12, slice(9, 11), seed=3)):
        consolidate(settings, net, own, rows(x))
        held = own["0.lora_A.default/directions"]
        known = held[own["0.lora_A.default/energy"] > 0]
        assert torch.allclose(known @ known.T, torch.eye(len(known)), atol=1e-5)
    assert {name: one.shape for name, one in own.items()} == shapes
    by_column = held.square().sum(0)
    assert by_column[[0, 8]].min() > 0.99
    assert by_column[4] < 0.01


# ---- what is held -----------------------------------------------------------------------------------------------


def test_what_adapters_answer_to_earlier_inputs_stays_and_the_rest_is_free() -> None:
    """Inputs of 3 dimensions, half of a rank of 6: everything the adapter says of them is held, whatever steps do."""
    net = net_of(linear())
    stir(net, 1)
    own, x = start(Orthogonal(), net), lying_in(40, 12, slice(0, 3))
    consolidate(Orthogonal(), net, own, rows(x))
    layer = net.module.get_submodule("0")
    with torch.no_grad():
        before, other = layer(x), layer(random(40, 12, seed=9))
        for step in range(5):
            stir(net, 2 + step, by=10.0)
            stepped(Orthogonal(), net, own, nothing())
            moved = (layer(random(40, 12, seed=9)) - other).abs()
            assert (layer(x) - before).abs().max() < 1e-4 * moved.max()  # float32 on weights in the hundreds
        assert moved.min() > 1e-3


@pytest.mark.parametrize("conv", [nn.Conv2d(1, 10, 3, stride=2, padding=1), nn.Conv2d(1, 10, (1, 3), padding="same")])
def test_convolutions_are_held_in_their_patches(conv: nn.Module) -> None:
    torch.manual_seed(0)
    module = adapt(nn.Sequential(conv, nn.Flatten(), nn.LazyLinear(3)), Lora(rank=8, targets=("0",)))
    module(torch.zeros(1, 1, 6, 6))
    net = net_of(module, whole=False)
    stir(net, 1)
    image = torch.outer(torch.ones(6), torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0]))[None, None]  # few kinds of patches
    x = random(20, 1, 1, 1) * image
    own = start(Orthogonal(), net)
    consolidate(Orthogonal(), net, own, rows(x))
    held = own["0.lora_A.default/directions"]
    a = net.weights["0.lora_A.default.weight"]
    with torch.no_grad():
        before = net.module.get_submodule("0.lora_A.default")(x)
        stir(net, 2)
        stepped(Orthogonal(), net, own, nothing())
        known = int((own["0.lora_A.default/energy"] > 0).sum())
        if known < len(held):  # else there are more kinds of patches than directions
            assert torch.allclose(net.module.get_submodule("0.lora_A.default")(x), before, atol=1e-4)
        assert torch.allclose(a.flatten(1) @ held.T, own["0.lora_A.default/held"], atol=1e-4)


def test_sequences_are_held_in_each_of_their_steps() -> None:
    torch.manual_seed(0)
    module = adapt(nn.Sequential(nn.Conv1d(2, 8, 3), nn.Linear(6, 6), nn.Flatten(), nn.Linear(48, 3)), Lora(rank=4))
    net = net_of(module, whole=False)
    stir(net, 1)
    own, x = start(Orthogonal(), net), random(20, 2, 1) * torch.ones(20, 2, 8)
    consolidate(Orthogonal(), net, own, rows(x))
    assert int((own["0.lora_A.default/energy"] > 0).sum()) == 2  # constant sequences of two channels
    with torch.no_grad():
        before = net.module.get_submodule("0.lora_A.default")(x)
        stir(net, 2)
        stepped(Orthogonal(), net, own, nothing())
        assert torch.allclose(net.module.get_submodule("0.lora_A.default")(x), before, atol=1e-4)


def test_nothing_is_held_before_the_first_consolidation() -> None:
    net = net_of(linear())
    own = start(Orthogonal(), net)
    stir(net, 1)
    before = {name: one.detach().clone() for name, one in net.weights.items()}
    stepped(Orthogonal(), net, own, nothing())
    assert all(torch.equal(one, before[name]) for name, one in net.weights.items())


# ---- two tasks --------------------------------------------------------------------------------------------------


def trained(net: Net, x: Tensor, y: Tensor, rate: float, after: Callable[[], None]) -> float:
    """The loss after 300 steps of Adam."""
    optimizer = torch.optim.Adam(net.weights.values(), rate)
    for step in range(300):
        part = slice(16 * step % len(x), 16 * step % len(x) + 16)
        optimizer.zero_grad()
        functional.mse_loss(net.module(x[part]), y[part]).backward()
        optimizer.step()
        after()
    with torch.no_grad():
        return float(functional.mse_loss(net.module(x), y))


@pytest.mark.parametrize("rate", [0.003, 0.03, 0.3])
def test_a_second_task_interferes_less_with_the_first(rate: float) -> None:
    """Two linear maps, on inputs that overlap in two columns of twelve; the loss of the first before and after."""
    first, second = lying_in(320, 12, slice(0, 6), seed=1), lying_in(320, 12, slice(4, 12), seed=2)
    tasks = [(x, x @ random(12, 3, seed=seed)) for x, seed in ((first, 3), (second, 4))]
    losses = {}
    for holds in (False, True):
        net = net_of(linear(8), whole=False)
        own = start(Orthogonal(), net)
        before = trained(net, *tasks[0], 0.01, lambda: None)
        if holds:
            consolidate(Orthogonal(), net, own, rows(first))
        hold = (lambda net=net, own=own: stepped(Orthogonal(), net, own, nothing())) if holds else (lambda: None)
        learned = trained(net, *tasks[1], rate, hold)
        with torch.no_grad():
            losses[holds] = before, float(functional.mse_loss(net.module(first), tasks[0][1])), learned
    assert losses[True][1] - losses[True][0] < 0.2 * (losses[False][1] - losses[False][0])
    untrained = float(functional.mse_loss(linear(8)(second), tasks[1][1]).detach())
    assert losses[True][2] < 0.8 * untrained  # and the second is learned, as far as it is not the first's


# ---- what is refused --------------------------------------------------------------------------------------------


def test_networks_without_adapters_and_adapters_that_cannot_be_held_are_refused() -> None:
    with pytest.raises(ConfigError, match="without adapters"):
        start(Orthogonal(), net_of(nn.Linear(4, 3)))
    dora = adapt(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), Lora(rank=2, dora=True))
    with pytest.raises(ConfigError, match="dora"):
        start(Orthogonal(), net_of(dora))
    deep = adapt(nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten(), nn.Linear(2, 3)), Lora(rank=2))
    with pytest.raises(ConfigError, match="Conv3d"):
        start(Orthogonal(), net_of(deep))


def test_the_term_has_no_loss_and_draws_nothing() -> None:
    assert ORTHOGONAL.loss is None
    assert ORTHOGONAL.draws is None
