"""The Fisher information of the weights of a network, from gradients of single rows.

The Fisher information of a weight is the mean over rows of the squared gradient of a row. It differs from the square of
the gradient of a minibatch, in which gradients of rows cancel, and which falls as one over the size of the minibatch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from everlearn._torch import Tensor, Tensors, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Net, TensorRows
from everlearn.families.neural.rowwise import (
    BYTES,
    PROBES,
    Pulls,
    answers,
    apart,
    backward,
    caught,
    complete,
    joined,
    layers,
    probe,
    slices,
    still,
    summed,
    turned,
)

Labels = Literal["model", "data"]

ALL_LABELS = 16  # with up to so many classes, every class counts as a label of each row
DRAWN_LABELS = 8  # with more classes, so many labels are drawn for each row
STREAM = 0xF15  # of the random numbers of drawn labels
LARGEST = 2048  # rows of a matrix: 16 MiB, seconds to decompose


class Factors(NamedTuple):
    """The Fisher information of a layer as a product of `outputs` (o, o) and `inputs` (i, i).

    The bias is the last of the inputs. For a change D (o, i) of the weights, the product is outputs @ D @ inputs.
    """

    inputs: Tensor
    outputs: Tensor


def diagonal(net: Net, rows: TensorRows, labels: Labels = "model") -> Tensors:
    """Return the Fisher information of each named weight, in its shape: the mean of squared gradients of rows.

    With labels "model", gradients are those for the labels that the network predicts: every class with its predicted
    probability for up to 16 classes, 8 drawn labels of each row for more. For a number to predict, it is the squared
    gradient of the output times the curvature of the loss in it. With "data", labels are those of the rows: the
    empirical Fisher, which vanishes on rows that are fitted exactly (Kunstner et al. 2019). Classes that the losses
    mask do not count. A row counts by its weight. Dropout is off, and BatchNorm uses its running statistics.
    Kirkpatrick et al. 2017; Martens 2020.

    >>> module = nn.Linear(2, 2, bias=False)
    >>> module.weight.data.zero_()
    tensor([[0., 0.],
            [0., 0.]])
    >>> entropy = lambda out, rows: nn.functional.cross_entropy(out, rows.y, reduction="none")
    >>> net = Net(module, dict(module.named_parameters()), 2, 2, 0, lambda x: module(*x), entropy, lambda n, s: rows)
    >>> rows = TensorRows((torch.tensor([[1.0, 2.0], [3.0, 0.0]]),), torch.tensor([0, 1]), torch.ones(2))
    >>> diagonal(net, rows)["weight"]  # p(1 - p) times the mean of the squares
    tensor([[1.2500, 0.5000],
            [1.2500, 0.5000]])
    """
    return summed(net, rows.x, pulls(net, rows, labels), 2)


def sensitivity(net: Net, rows: TensorRows) -> Tensors:
    """Return how much the outputs depend on each weight: the mean of |gradient of the squared norm of the outputs|.

    Each has the name and shape of its weight; labels are not used. Memory aware synapses: Aljundi et al. 2018.
    """
    with still(net.module), torch.no_grad():
        outputs = torch.cat([answers(net, tuple(given[part] for given in rows.x)) for part in slices(len(rows), 256)])
    return summed(net, rows.x, Pulls(2 * outputs[None], rows.weight[None] / len(rows)), 1)


def blocks(net: Net, rows: TensorRows, labels: Labels = "model") -> Tensors:
    """Return the Fisher information of the weights of each module, a square matrix by the name of the module.

    Weights are in the order of `members`, flattened. Labels and weights of rows are used as in `diagonal`.
    """
    groups = members(net)
    found = {}
    for group, names in groups.items():
        size = sum(net.weights[name].numel() for name in names)
        found[group] = torch.zeros(size, size, device=rows.weight.device)
    with still(net.module), torch.enable_grad():
        for gradients, share in apart(net, list(net.weights), rows.x, pulls(net, rows, labels)):
            for group, names in groups.items():
                flat = torch.cat([gradients[name].flatten(1) for name in names], 1)
                found[group] += flat.T @ (share[:, None] * flat)
    return found


def members(net: Net) -> dict[str, list[str]]:
    """Return the names of trained weights, by the name of the module that holds them ("" is the whole network)."""
    found: dict[str, list[str]] = {}
    for name in net.weights:
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def factored(net: Net) -> dict[str, nn.Module]:
    """Return the layers that `kronecker` gives factors for: linear layers and 2D convolutions up to `LARGEST` rows."""
    found = layers(net, (nn.Linear, nn.Conv2d))
    sizes = {name: net.weights[joined(name, "weight")].shape for name in found}
    return {name: layer for name, layer in found.items() if max(sizes[name][0], sizes[name][1:].numel()) < LARGEST}


def kronecker(net: Net, rows: TensorRows, labels: Labels = "model") -> tuple[dict[str, Factors], Tensors]:
    """Return the Fisher information of each layer as a product of two matrices, and the diagonal of other weights.

    `inputs` is the mean of a aᵀ over rows (and places of a convolution), where a is the input of the layer and, if its
    bias is trained, a 1. `outputs` is the mean over rows of d dᵀ (summed over places), where d is the gradient of the
    layer's output. It is exact if a and d are independent. Martens and Grosse 2015; for convolutions Grosse and Martens
    2016. Raises `ConfigError` if a layer is not called exactly once in a forward pass.
    """
    among, n = factored(net), len(rows)
    wanted = pulls(net, rows, labels)
    with still(net.module), torch.enable_grad():
        size = _rows_of_a_pass(net, among, rows) if among else 0
        made: dict[str, Factors] = {}
        for part in slices(n, size) if among else ():
            outputs, found = caught(net, among, tuple(given[part] for given in rows.x))
            along, share = wanted.part(part)
            back = [backward(outputs, found, gradient) for gradient in along]
            for i, layer in enumerate(found):
                given = layer.given.float()
                if joined(layer.name, "bias") in net.weights:
                    given = torch.cat([given, torch.ones_like(given[..., :1])], -1)
                counts = rows.weight[part] / (rows.weight.sum() * given.shape[1])
                inputs = torch.einsum("n,npi,npj->ij", counts, given, given)
                returned = torch.stack([of[i] for of in back])
                gradients = torch.einsum("cn,cnpi,cnpj->ij", share, returned, returned)
                before = made.get(layer.name)
                made[layer.name] = Factors(
                    inputs if before is None else before.inputs + inputs,
                    gradients if before is None else before.outputs + gradients,
                )
        rest = [name for name in net.weights if name.rpartition(".")[0] not in among]
        other = {name: torch.zeros_like(net.weights[name]) for name in rest}
        for single, share in apart(net, rest, rows.x, wanted) if rest else ():
            for name, gradient in single.items():
                other[name] += torch.einsum("n,n...->...", share, gradient.square())
    return made, other


def nearest(first: Factors, second: Factors, decay: float = 1.0) -> Factors:
    """Return the product of two matrices nearest to `decay` times the first product plus the second.

    Such a sum is not a product, unless one factor is the same in both, and the sum of the factors is far from it. The
    factors of the nearest product are mixtures of those given; their weights solve a problem of two numbers (Van Loan
    and Pitsianis 1993).

    >>> one, two = torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> sum_of = nearest(Factors(one, one), Factors(one, two))
    >>> torch.kron(sum_of.outputs, sum_of.inputs).diagonal()
    tensor([3., 3., 2., 2.])
    """
    inputs = torch.stack([decay * first.inputs, second.inputs]).double()
    outputs = torch.stack([first.outputs, second.outputs]).double()
    alike_in, alike_out = torch.einsum("aij,bij->ab", inputs, inputs), torch.einsum("aij,bij->ab", outputs, outputs)
    mixture = torch.ones(2, dtype=torch.float64, device=inputs.device)
    for _ in range(100):  # the greatest singular vector; all numbers are positive
        mixture = alike_out @ (alike_in @ mixture)
        mixture = mixture / mixture.norm().clamp_min(1e-300)
    of_outputs = alike_in @ mixture / (mixture @ alike_in @ mixture).clamp_min(1e-300)
    made_in = torch.einsum("a,aij->ij", mixture, inputs)
    made_out = torch.einsum("a,aij->ij", of_outputs, outputs)
    return Factors(made_in.to(first.inputs.dtype), made_out.to(first.outputs.dtype))


def pulls(net: Net, rows: TensorRows, labels: Labels) -> Pulls:
    """Return the gradients of the losses in the outputs for each possible label of a row, and its probability.

    A loss is read as minus the logarithm of a probability, as in cross entropy.
    """
    with still(net.module), torch.no_grad():
        outputs = torch.cat([answers(net, tuple(given[part] for given in rows.x)) for part in slices(len(rows), 256)])
    counts = rows.weight / len(rows)
    own = _slope(net, outputs, rows)[1]
    if labels == "data":
        return Pulls(own[None], counts[None])
    if net.classes == 0:
        return Pulls(_curved(net, outputs, rows, own)[None], counts[None])
    loss = torch.stack([_slope(net, outputs, _labelled(rows, label))[0] for label in range(net.classes)])
    chance = torch.where(reached(outputs, own, rows).T[: net.classes], torch.exp(-loss), 0.0)
    chance = chance / chance.sum(0).clamp_min(1e-30)
    if net.classes <= ALL_LABELS:
        along = torch.stack([_slope(net, outputs, _labelled(rows, label))[1] for label in range(net.classes)])
        return Pulls(torch.where(chance[..., None] > 0, along, 0.0), chance * counts)
    drawn = torch.multinomial(chance.T, DRAWN_LABELS, replacement=True, generator=net.random(STREAM)).T
    along = torch.stack([_slope(net, outputs, replace(rows, y=label, outputs=None))[1] for label in drawn])
    return Pulls(along, counts.expand(DRAWN_LABELS, -1) / DRAWN_LABELS)


def reached(outputs: Tensor, slope: Tensor, rows: TensorRows) -> Tensor:
    """Return the classes that each row could have, bool (n, columns): those that the losses do not mask.

    `slope` (n, columns) is the gradient of the losses in the outputs, which is 0 in a masked column.
    """
    columns = torch.arange(outputs.shape[1], device=outputs.device)
    return (slope != 0) | (columns == rows.y[:, None])


def met(net: Net, rows: TensorRows) -> Tensor:
    """Return the columns of the outputs that the losses of these rows use: bool (columns,)."""
    with still(net.module), torch.no_grad():
        outputs = torch.cat([answers(net, tuple(given[part] for given in rows.x)) for part in slices(len(rows), 256)])
    if net.classes == 0:
        return torch.ones(outputs.shape[1], dtype=torch.bool, device=outputs.device)
    return reached(outputs, _slope(net, outputs, rows)[1], rows).any(0)


def _slope(net: Net, outputs: Tensor, rows: TensorRows) -> tuple[Tensor, Tensor]:
    """Return the losses (n,) of rows, and their gradients in the outputs (n, columns)."""
    with torch.enable_grad():
        at = outputs.detach().requires_grad_()
        losses = net.losses(at, rows)
        (slope,) = torch.autograd.grad(losses.sum(), at)
    return losses.detach(), slope


def _curved(net: Net, outputs: Tensor, rows: TensorRows, slope: Tensor) -> Tensor:
    """Return the root of the curvature of the loss in the output (n, 1), or its slope if it has no curvature."""
    with torch.enable_grad():
        at = outputs.detach().requires_grad_()
        (first,) = torch.autograd.grad(net.losses(at, rows).sum(), at, create_graph=True)
        second = torch.zeros_like(at)
        if first.requires_grad:
            (second,) = torch.autograd.grad(first.sum(), at, materialize_grads=True)
    return second.clamp_min(0).sqrt() if bool((second > 0).any()) else slope


def _labelled(rows: TensorRows, label: int) -> TensorRows:
    """Return rows with this label each."""
    return replace(rows, y=torch.full_like(rows.y, label), outputs=None)


def _rows_of_a_pass(net: Net, among: dict[str, nn.Module], rows: TensorRows) -> int:
    """Return the rows of a pass, within `BYTES`; raise `ConfigError` where layers do not keep rows apart."""
    for count in PROBES:
        outputs, found = caught(net, among, probe(rows.x, count))
        calls = [layer.name for layer in found]
        strange = sorted(name for name in among if calls.count(name) != 1)
        strange += sorted({layer.name for layer in found if turned(layer, outputs)})
        wrong = complete(net, outputs, [layer for layer in found if layer.name not in strange])
        strange += [name.rpartition(".")[0] for name in wrong]
        if strange:
            raise ConfigError(
                f"fisher: got 'kronecker' with the layer {strange[0]!r}; expected each trained linear layer and "
                "convolution to be used once in a forward pass, row by row, and nowhere else. Use fisher 'diagonal'"
            )
    each = sum(layer.given[0].numel() + 3 * layer.came[0].numel() for layer in found)
    return max(1, BYTES // (4 * max(1, each)))
