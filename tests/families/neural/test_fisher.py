"""Fisher information: closed forms, gradients of rows one by one, and other libraries where they are installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from everlearn._torch import Tensor, Tensors, functional, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural import fisher, rowwise
from everlearn.families.neural.contract import Net, TensorRows
from everlearn.families.neural.fisher import Factors
from tests.support.neural_nets import Forgetful
from tests.support.neural_terms import Called, net_of, rows_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(5)
    yield
    torch.set_num_threads(before)


class Bag(nn.Module):
    """Dense columns and hashed features."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.EmbeddingBag(6, 5, mode="sum"), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, indices: Tensor, values: Tensor) -> Tensor:
        said: Tensor = self.last(torch.tanh(self.first(x) + self.table(indices, per_sample_weights=values)))
        return said


class Steps(nn.Module):
    """A linear layer used at each of three places of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.last(torch.tanh(self.each(x.view(len(x), -1, 4))).mean(1))
        return said


class Tied(nn.Module):
    """The weight of a linear layer is used once more, where no hook of a module hears it."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.last = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.last(functional.linear(torch.tanh(self.code(x)), self.code.weight.T))
        return said


class Forked(nn.Module):
    """Its path depends on values, which cannot be known of many rows at once."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.last = nn.Parameter(torch.rand(4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not bool(torch.isfinite(x).all()):
            raise ValueError("a row is not finite")
        said: Tensor = self.last(x * self.gain)
        return said


def image() -> nn.Module:
    """Convolutions, BatchNorm with statistics of its own, activations in place, dropout."""
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 2, stride=2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(3, 3),
    )
    module[1].running_mean.normal_()
    module[1].running_var.uniform_(0.5, 2.0)
    return module


def plain_image() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2, bias=False), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 3)
    )


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)
    )


def recurrent() -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            said: Tensor = self.last(self.body(x)[0][:, -1])
            return said

    return Last()


def inputs(shape: tuple[int, ...], n: int = 9) -> tuple[Tensor, ...]:
    return (torch.randn(n, *shape),)


def bagged() -> tuple[Tensor, ...]:
    indices = torch.randint(0, 6, (9, 4))
    indices[0] = torch.tensor([2, 2, 2, 0])  # an index that stands in a row three times
    return (*inputs((4,)), indices, torch.rand(9, 4) - 0.3)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "mlp": (mlp, lambda: inputs((4,))),
    "image": (image, lambda: inputs((2, 4, 4))),
    "plain image": (plain_image, lambda: inputs((2, 4, 4))),
    "bag": (Bag, bagged),
    "steps": (Steps, lambda: inputs((12,))),
    "tied": (Tied, lambda: inputs((4,))),
    "forked": (Forked, lambda: inputs((4,))),
    "recurrent": (recurrent, lambda: inputs((5, 4))),
}


def rows_for(x: tuple[Tensor, ...], classes: int = 3) -> TensorRows:
    n = len(x[0])
    return TensorRows(x, torch.randint(classes, (n,)), torch.rand(n) + 0.5)


def alone(net: Net, rows: TensorRows, row: int, label: Tensor) -> Tensors:
    """The gradient of the loss of one row with one label, in the module as it answers."""
    x = tuple(one[row : row + 1] for one in rows.x)
    loss = net.losses(net.call(x), TensorRows(x, label.reshape(1), torch.ones(1))).sum()
    found = torch.autograd.grad(loss, list(net.weights.values()), materialize_grads=True)
    return dict(zip(net.weights, found, strict=True))


def row_by_row(net: Net, rows: TensorRows, labels: str, allowed: Tensor | None = None) -> Tensors:
    """The definition: the mean over rows of squared gradients, for each label as probable as it is."""
    net.module.eval()
    total = {name: torch.zeros_like(one) for name, one in net.weights.items()}
    for row in range(len(rows)):
        said = net.call(tuple(one[row : row + 1] for one in rows.x))[0].detach()
        if allowed is not None:
            said = said.masked_fill(~allowed[rows.y[row]], -torch.inf)
        chances = said.softmax(0) if labels == "model" else functional.one_hot(rows.y[row], len(said)).float()
        for label in torch.nonzero(chances)[:, 0]:
            for name, gradient in alone(net, rows, row, label).items():
                total[name] += chances[label] * rows.weight[row] * gradient.square() / len(rows)
    net.module.train()
    return total


def close(found: Tensors, wanted: Tensors, tolerance: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        torch.testing.assert_close(found[name], one, rtol=tolerance, atol=tolerance * float(one.abs().max()), msg=name)


@pytest.mark.parametrize("labels", ["model", "data"])
@pytest.mark.parametrize("kind", NETS)
def test_the_diagonal_is_the_mean_of_squared_gradients_of_rows(kind: str, labels: Any) -> None:
    make, given = NETS[kind]
    net, rows = net_of(make(), 3), rows_for(given())
    close(fisher.diagonal(net, rows, labels), row_by_row(net, rows, labels))


@pytest.mark.parametrize("kind", NETS)
def test_sensitivity_is_the_mean_of_gradients_of_the_squared_norm(kind: str) -> None:
    make, given = NETS[kind]
    net, rows = net_of(make(), 3), rows_for(given())
    found = fisher.sensitivity(net, rows)
    net.module.eval()
    wanted = {name: torch.zeros_like(one) for name, one in net.weights.items()}
    for row in range(len(rows)):
        norm = net.call(tuple(one[row : row + 1] for one in rows.x)).square().sum()
        slopes = torch.autograd.grad(norm, list(net.weights.values()), materialize_grads=True)
        for name, slope in zip(wanted, slopes, strict=True):
            wanted[name] += rows.weight[row] * slope.abs() / len(rows)
    close(found, wanted)


@pytest.mark.parametrize("kind", ["mlp", "plain image", "bag", "steps", "tied", "image"])
def test_memory_bounds_the_rows_at_once_and_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, given = NETS[kind]
    net, rows = net_of(make(), 3), rows_for(given())
    whole = fisher.diagonal(net, rows)
    monkeypatch.setattr(rowwise, "BYTES", 2000)
    close(fisher.diagonal(net, rows), whole)


@pytest.mark.parametrize("kind", ["mlp", "bag", "tied"])
def test_classes_that_the_losses_mask_do_not_count(kind: str) -> None:
    make, given = NETS[kind]
    heads = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=torch.bool)
    net, rows = net_of(make(), 3, heads), rows_for(given())
    close(fisher.diagonal(net, rows), row_by_row(net, rows, "model", heads))
    assert fisher.met(net, rows).tolist() == [True, True, True]
    some = torch.nonzero(rows.y == 1)[:, 0]
    ones = TensorRows(tuple(one[some] for one in rows.x), rows.y[some], rows.weight[some])
    assert fisher.met(net, ones).tolist() == [False, True, False]


def test_softmax_regression_has_a_closed_form() -> None:
    module = nn.Linear(5, 4)
    net, rows = net_of(module, 4), rows_of(300, 5, 4)
    p = module(rows.x[0]).softmax(1).detach()
    found = fisher.diagonal(net, rows)
    torch.testing.assert_close(found["weight"], (p * (1 - p)).T @ rows.x[0].square() / 300, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found["bias"], (p * (1 - p)).mean(0), rtol=1e-5, atol=1e-7)
    off = (p - functional.one_hot(rows.y, 4)).square()
    torch.testing.assert_close(
        fisher.diagonal(net, rows, "data")["weight"], off.T @ rows.x[0].square() / 300, rtol=1e-5, atol=1e-7
    )


def test_a_number_to_predict_has_the_curvature_of_its_loss() -> None:
    module = nn.Linear(5, 1)
    net, rows = net_of(module, 0), rows_of(200, 5, 0)
    squares = rows.x[0].square()
    torch.testing.assert_close(fisher.diagonal(net, rows)["weight"], 2 * squares.mean(0)[None])
    off = 2 * (module(rows.x[0])[:, 0].detach() - rows.y)
    torch.testing.assert_close(
        fisher.diagonal(net, rows, "data")["weight"], (off.square()[:, None] * squares).mean(0)[None]
    )
    net.losses = lambda outputs, rows: (outputs[:, 0] - rows.y).abs()  # without curvature: what came stands in
    torch.testing.assert_close(fisher.diagonal(net, rows)["weight"], squares.mean(0)[None])


def test_of_many_classes_labels_are_drawn_without_bias_and_again_the_same() -> None:
    module = nn.Linear(4, 40)
    net, rows = net_of(module, 40), rows_of(4000, 4, 40)
    p = module(rows.x[0]).softmax(1).detach()
    wanted = (p * (1 - p)).T @ rows.x[0].square() / 4000
    found = fisher.diagonal(net, rows)["weight"]
    assert float((found.sum() / wanted.sum() - 1).abs()) < 0.02  # 32,000 draws
    assert float(((found - wanted) / wanted).abs().mean()) < 0.1
    assert torch.equal(found, fisher.diagonal(net, rows)["weight"])


def test_nothing_is_left_behind() -> None:
    module = image()
    net, rows = net_of(module, 3), rows_for(inputs((2, 4, 4)))
    module[1].eval()  # a layer that someone has put to rest stays so
    before = {name: one.clone() for name, one in module.state_dict().items()}
    state, modes = torch.random.get_rng_state(), [one.training for one in module.modules()]
    fisher.diagonal(net, rows)
    fisher.sensitivity(net, rows)
    fisher.kronecker(net, rows)
    assert all(torch.equal(one, before[name]) for name, one in module.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert modes == [one.training for one in module.modules()]
    assert all(one.grad is None for one in module.parameters())
    assert not any(one._forward_hooks for one in module.modules())


def test_the_square_of_a_minibatch_gradient_is_a_fraction_of_the_fisher() -> None:
    """The popular snippet; its labels are the data's, on a network that has learned them somewhat."""
    module = nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 10))
    net, rows = net_of(module, 10), rows_of(1280, 20, 10)
    rows = replace(rows, y=(rows.x[0][:, :10] + 0.5 * torch.randn(1280, 10)).argmax(1))
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        net.losses(net.call(rows.x), rows).mean().backward()
        optimizer.step()
    whole = sum(float(one.sum()) for one in fisher.diagonal(net, rows, "data").values())
    shares = {}
    for batch in (10, 32, 128):
        total = 0.0
        for at in range(0, 1280, batch):
            part = TensorRows((rows.x[0][at : at + batch],), rows.y[at : at + batch], rows.weight[:batch])
            loss = net.losses(net.call(part.x), part).mean()
            total += sum(float(one.square().sum()) for one in torch.autograd.grad(loss, list(net.weights.values())))
        shares[batch] = total / (1280 / batch) / whole
    for batch, share in shares.items():
        assert 0.8 / batch < share < 2.0 / batch  # about one over the size of the minibatch: a factor inside strength


# Blocks and factors


def dense_blocks(net: Net, rows: TensorRows) -> Tensors:
    """The definition, whole, for each module."""
    net.module.eval()
    groups, total = fisher.members(net), {}
    for row in range(len(rows)):
        chances = net.call(tuple(one[row : row + 1] for one in rows.x))[0].detach().softmax(0)
        for label in range(len(chances)):
            slopes = alone(net, rows, row, torch.tensor(label))
            for group, names in groups.items():
                flat = torch.cat([slopes[name].flatten() for name in names])
                more = chances[label] * rows.weight[row] * torch.outer(flat, flat) / len(rows)
                total[group] = total.get(group, 0) + more
    net.module.train()
    return total


@pytest.mark.parametrize("kind", ["mlp", "plain image", "tied", "bag"])
def test_blocks_are_means_of_outer_products(kind: str) -> None:
    make, given = NETS[kind]
    net, rows = net_of(make(), 3), rows_for(given())
    found = fisher.blocks(net, rows)
    close(found, dense_blocks(net, rows))
    diagonal = fisher.diagonal(net, rows)
    for group, names in fisher.members(net).items():
        torch.testing.assert_close(
            found[group].diagonal(), torch.cat([diagonal[name].flatten() for name in names]), rtol=1e-4, atol=1e-6
        )


def whole_of(factors: Factors, bias: bool) -> Tensor:
    """The matrix of a product, its rows and columns in the order of weight.flatten() and then bias."""
    o, i = len(factors.outputs), len(factors.inputs)
    places = torch.arange(o * i).view(o, i)
    order = torch.cat([places[:, :-1].flatten(), places[:, -1]]) if bias else places.flatten()
    return torch.kron(factors.outputs, factors.inputs)[order][:, order]


def test_factors_are_exact_where_gradients_do_not_depend_on_rows() -> None:
    """A network of linear layers under squared error: what comes back is the same for each row."""
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False), nn.Linear(2, 1))
    net, rows = net_of(module, 0), rows_of(50, 4, 0)
    made, rest = fisher.kronecker(net, rows)
    blocks = fisher.blocks(net, rows)
    assert rest == {}
    assert list(made) == ["0", "1", "2"]
    for name, factors in made.items():
        torch.testing.assert_close(whole_of(factors, name != "1"), blocks[name], rtol=1e-4, atol=1e-5)


def test_factors_of_one_row_are_exact_and_other_weights_have_a_diagonal() -> None:
    module = image()
    net, rows = net_of(module, 3), rows_for(inputs((2, 4, 4), n=1))
    made, rest = fisher.kronecker(net, replace(rows, weight=torch.ones(1)), "data")
    assert list(made) == ["0", "4", "8"]
    assert list(rest) == ["1.weight", "1.bias"]
    blocks = fisher.blocks(net, replace(rows, weight=torch.ones(1)), "data")
    for name in ("4", "8"):  # used at one place in these images: 2 by 2 pixels become one
        torch.testing.assert_close(whole_of(made[name], True), blocks[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(rest["1.bias"], blocks["1"].diagonal()[4:], rtol=1e-4, atol=1e-8)


def test_factors_of_shared_weights_are_means_and_sums_over_places() -> None:
    """Grosse and Martens 2016: inputs averaged over places, gradients summed over them."""
    module = plain_image()
    net, rows = net_of(module, 3), rows_for(inputs((2, 4, 4)))
    rows = replace(rows, weight=torch.ones(9))
    made, _ = fisher.kronecker(net, rows, "data")
    patches = functional.unfold(rows.x[0], 3, padding=1, stride=2)
    torch.testing.assert_close(made["0"].inputs, torch.einsum("nip,njp->ij", patches, patches) / (9 * 4))
    came = module[0](rows.x[0])
    loss = net.losses(module[3](came.relu().flatten(1)), rows).sum()
    (back,) = torch.autograd.grad(loss, came)
    torch.testing.assert_close(made["0"].outputs, torch.einsum("nixy,njxy->ij", back, back) / 9)


def test_a_layer_used_twice_has_no_factors() -> None:
    net, rows = net_of(Tied(), 3), rows_for(inputs((4,)))
    with pytest.raises(ConfigError, match="the layer 'code'; expected each .* used once"):
        fisher.kronecker(net, rows)


def test_the_nearest_product_is_that_of_the_singular_vectors() -> None:
    def positive(size: int) -> Tensor:
        half = torch.randn(size, size)
        return half @ half.T

    first, second = Factors(positive(3), positive(2)), Factors(positive(3), positive(2))
    found = fisher.nearest(first, second, 0.7)
    whole = 0.7 * torch.kron(first.outputs, first.inputs) + torch.kron(second.outputs, second.inputs)
    arranged = whole.view(2, 3, 2, 3).permute(0, 2, 1, 3).reshape(4, 9)
    left, values, right = torch.linalg.svd(arranged)
    best = values[0] * torch.outer(left[:, 0], right[0])
    torch.testing.assert_close(torch.outer(found.outputs.flatten(), found.inputs.flatten()), best, rtol=1e-4, atol=1e-4)
    assert float(torch.linalg.eigvalsh(found.inputs).min()) > -1e-5
    same = fisher.nearest(first, Factors(first.inputs, second.outputs))
    torch.testing.assert_close(
        torch.kron(same.outputs, same.inputs),
        torch.kron(first.outputs + second.outputs, first.inputs),
        rtol=1e-4,
        atol=1e-4,
    )


# Other libraries, where they are installed


def test_factors_are_those_of_curvlinops() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curvlinops = pytest.importorskip("curvlinops")
    for make, given in (NETS["mlp"], NETS["plain image"]):
        module = make().eval()
        net, rows = net_of(module, 3), rows_for(given())
        rows = replace(rows, weight=torch.ones(9))
        for labels, kind in (("model", "type-2"), ("data", "empirical")):
            theirs = curvlinops.KFACLinearOperator(
                module,
                nn.CrossEntropyLoss(),
                list(module.parameters()),
                [(rows.x[0], rows.y)],
                fisher_type=kind,
                separate_weight_and_bias=False,
                check_deterministic=False,
            )
            theirs.compute_kronecker_factors()
            found = theirs.state_dict()
            for name, factors in fisher.kronecker(net, rows, labels)[0].items():
                torch.testing.assert_close(factors.inputs, found["input_covariances"][name], rtol=1e-4, atol=1e-6)
                torch.testing.assert_close(factors.outputs, found["gradient_covariances"][name], rtol=1e-4, atol=1e-7)


def test_diagonal_and_blocks_are_those_of_nngeometry() -> None:
    metrics = pytest.importorskip("nngeometry.metrics")
    spaces = pytest.importorskip("nngeometry.object")
    data = torch.utils.data
    for make, given in (NETS["mlp"], NETS["plain image"]):
        module = make().eval()
        for layer in module.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        net, rows = net_of(module, 3), rows_for(given())
        rows = replace(rows, weight=torch.ones(9))
        loader = data.DataLoader(data.TensorDataset(rows.x[0], rows.y), batch_size=9)
        diagonal = fisher.diagonal(net, rows)
        theirs = metrics.FIM(module, loader, spaces.PMatDiag).get_diag()
        torch.testing.assert_close(
            theirs, torch.cat([one.flatten() for one in diagonal.values()]), rtol=1e-3, atol=1e-6
        )
        blocks = metrics.FIM(module, loader, spaces.PMatBlockDiag)
        for name, block in fisher.blocks(net, rows).items():
            torch.testing.assert_close(blocks.data[name], block, rtol=1e-3, atol=1e-6)


def definition(net: Any, rows: TensorRows, power: int) -> dict[str, Tensor]:
    """The mean over rows, each taken alone, of |gradient|^power: of the loss of its label, or of its squared norm."""
    total = {name: torch.zeros_like(one) for name, one in net.weights.items()}
    for row in range(len(rows)):
        x = tuple(one[row : row + 1] for one in rows.x)
        one = TensorRows(x, rows.y[row : row + 1], rows.weight[row : row + 1])
        asked = net.losses(net.call(x), one).sum() if power == 2 else net.call(x).square().sum()
        slopes = torch.autograd.grad(asked, list(net.weights.values()), materialize_grads=True)
        for name, slope in zip(total, slopes, strict=True):
            total[name] += slope.abs() ** power / len(rows)
    return total


@pytest.mark.parametrize("dials", [{"padding_idx": 0}, {"scale_grad_by_freq": True}], ids=["padding", "frequency"])
def test_bags_with_gradients_of_their_own_kind_are_taken_row_by_row(dials: dict[str, Any]) -> None:
    layers = {"table": nn.EmbeddingBag(6, 4, mode="sum", **dials), "last": nn.Linear(4, 3)}
    net = net_of(Called(lambda own, x: own.last(torch.tanh(own.table(x))), **layers), 3)
    nn.init.normal_(net.weights["table.weight"])
    x = torch.tensor([[1, 2], [3, 4], [0, 5], [5, 5], [0, 0]])
    rows = TensorRows((x,), torch.tensor([0, 1, 2, 0, 1]), torch.ones(5))
    for found, power in ((fisher.diagonal(net, rows, "data"), 2), (fisher.sensitivity(net, rows), 1)):
        for name, one in definition(net, rows, power).items():
            torch.testing.assert_close(found[name], one)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_sequence_with_its_steps_first_is_told_from_rows(steps: int, n: int) -> None:
    net = net_of(Called(lambda own, x: torch.tanh(own.one(x.transpose(0, 1))).sum(0), one=nn.Linear(3, 4)), 4)
    rows = TensorRows((torch.randn(n, steps, 3),), torch.arange(n) % 4, torch.ones(n))
    for found, power in ((fisher.diagonal(net, rows, "data"), 2), (fisher.sensitivity(net, rows), 1)):
        for name, one in definition(net, rows, power).items():
            torch.testing.assert_close(found[name], one)
    with pytest.raises(
        ConfigError, match="the layer 'one'; expected each .* to be used once in a forward pass, row by row"
    ):
        fisher.kronecker(net, rows)


def test_factors_of_no_layer_leave_the_diagonal_for_all() -> None:
    net, rows = net_of(Forgetful(4, 3), 3), rows_of(12, 4, 3)
    made, other = fisher.kronecker(net, rows)
    assert made == {}
    for name, one in fisher.diagonal(net, rows).items():
        torch.testing.assert_close(other[name], one)
