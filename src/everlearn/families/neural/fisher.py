"""What a network's answers depend on: the Fisher information of its weights, from gradients of single rows.

The Fisher information of a weight is the mean over rows of the squared gradient of a row. The square of the gradient
of a minibatch is another thing: gradients of rows cancel in it, and it falls as one over the size of the minibatch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from everlearn._torch import Tensor, Tensors, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Net, Rows
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

ALL_LABELS = 16  # up to so many classes, every one of them is looked at
DRAWN_LABELS = 8  # for more, so many are drawn for each row
STREAM = 0xF15  # of random numbers, for these
LARGEST = 2048  # rows of a matrix: 16 MiB, and seconds to decompose


class Factors(NamedTuple):
    """The Fisher information of a layer as a product: `outputs` (o, o) times `inputs` (i, i), the bias being the last
    of the inputs. For a change D (o, i) of the weights, it says outputs @ D @ inputs."""

    inputs: Tensor
    outputs: Tensor


def diagonal(net: Net, rows: Rows, labels: Labels = "model") -> Tensors:
    """The Fisher information of each weight, by name and in its shape: the mean over rows of squared gradients.

    With labels "model", the gradients are those for the labels that the network itself expects: all classes, each as
    probable as the network says, where there are at most 16, and else 8 drawn for each row. Of a number to predict,
    it is the squared gradient of the output times the curvature of the loss in it. With "data", the labels are those
    that came: the empirical Fisher, which vanishes where the rows are learned by heart (Kunstner et al. 2019).
    Classes that the losses mask do not count. A row counts as often as its weight says. While this goes on dropout is
    off, and BatchNorm goes by its running statistics. Kirkpatrick et al. 2017; Martens 2020.

    >>> module = nn.Linear(2, 2, bias=False)
    >>> module.weight.data.zero_()
    tensor([[0., 0.],
            [0., 0.]])
    >>> entropy = lambda out, rows: nn.functional.cross_entropy(out, rows.y, reduction="none")
    >>> net = Net(module, dict(module.named_parameters()), 2, 2, 0, lambda x: module(*x), entropy, lambda n, s: rows)
    >>> rows = Rows((torch.tensor([[1.0, 2.0], [3.0, 0.0]]),), torch.tensor([0, 1]), torch.ones(2))
    >>> diagonal(net, rows)["weight"]  # p(1 - p) times the mean of the squares
    tensor([[1.2500, 0.5000],
            [1.2500, 0.5000]])
    """
    return summed(net, rows.x, pulls(net, rows, labels), 2)


def sensitivity(net: Net, rows: Rows) -> Tensors:
    """How much the outputs depend on each weight: the mean over rows of |gradient of the squared norm of the outputs|.

    By name, in the shape of the weight. It looks at no labels. Memory aware synapses: Aljundi et al. 2018.
    """
    with still(net.module), torch.no_grad():
        outputs = torch.cat([answers(net, tuple(one[part] for one in rows.x)) for part in slices(len(rows), 256)])
    return summed(net, rows.x, Pulls(2 * outputs[None], rows.weight[None] / len(rows)), 1)


def blocks(net: Net, rows: Rows, labels: Labels = "model") -> Tensors:
    """The Fisher information of the weights of each module, a square matrix by the name of the module.

    Its weights are in the order of `members`, flattened. The rest is as in `diagonal`.
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
    """The names of the weights that are trained, by the name of the module that has them ("" is the whole)."""
    found: dict[str, list[str]] = {}
    for name in net.weights:
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def factored(net: Net) -> dict[str, nn.Module]:
    """The layers whose Fisher information `kronecker` gives as factors, each of at most `LARGEST` rows.

    Linear layers, and convolutions in the plane.
    """
    found = layers(net, (nn.Linear, nn.Conv2d))
    sizes = {name: net.weights[joined(name, "weight")].shape for name in found}
    return {name: layer for name, layer in found.items() if max(sizes[name][0], sizes[name][1:].numel()) < LARGEST}


def kronecker(net: Net, rows: Rows, labels: Labels = "model") -> tuple[dict[str, Factors], Tensors]:
    """The Fisher information of each layer as a product of two matrices, and the diagonal for all other weights.

    `inputs` is the mean of a aᵀ over rows (and places of a convolution), where a is what goes into the layer and, if
    its bias is trained, a 1; `outputs` is the mean over rows of d dᵀ (summed over places), where d is the gradient
    that comes back. Exact where a and d do not depend on each other. Martens and Grosse 2015; for convolutions Grosse
    and Martens 2016. Raises `ConfigError` if a layer is not called once in a forward pass.
    """
    among, n = factored(net), len(rows)
    wanted = pulls(net, rows, labels)
    with still(net.module), torch.enable_grad():
        size = _checked(net, among, rows) if among else 0
        made: dict[str, Factors] = {}
        for part in slices(n, size) if among else ():
            outputs, found = caught(net, among, tuple(one[part] for one in rows.x))
            along, share = wanted.part(part)
            back = [backward(outputs, found, one) for one in along]
            for i, one in enumerate(found):
                given = one.given.float()
                if joined(one.name, "bias") in net.weights:
                    given = torch.cat([given, torch.ones_like(given[..., :1])], -1)
                counts = rows.weight[part] / (rows.weight.sum() * given.shape[1])
                inputs = torch.einsum("n,npi,npj->ij", counts, given, given)
                returned = torch.stack([of[i] for of in back])
                gradients = torch.einsum("cn,cnpi,cnpj->ij", share, returned, returned)
                before = made.get(one.name)
                made[one.name] = Factors(
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
    """The product of two matrices that is nearest to `decay` times the first product plus the second.

    Such a sum is no product itself, unless one factor is the same in both; the sum of the factors is far from it. The
    nearest product has factors that are mixtures of those given, with weights of a problem of two numbers (Van Loan
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


def pulls(net: Net, rows: Rows, labels: Labels) -> Pulls:
    """The gradients of the losses in the outputs, for each label that a row may have, and how probable that label is.

    A loss is taken for minus the logarithm of a probability, as the cross entropy is.
    """
    with still(net.module), torch.no_grad():
        outputs = torch.cat([answers(net, tuple(one[part] for one in rows.x)) for part in slices(len(rows), 256)])
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
    along = torch.stack([_slope(net, outputs, replace(rows, y=label, said=None))[1] for label in drawn])
    return Pulls(along, counts.expand(DRAWN_LABELS, -1) / DRAWN_LABELS)


def reached(outputs: Tensor, slope: Tensor, rows: Rows) -> Tensor:
    """Which classes a row could have had: bool (n, columns); those that the losses mask it could not.

    `slope` (n, columns) is the gradient of the losses in the outputs: a masked column has none.
    """
    columns = torch.arange(outputs.shape[1], device=outputs.device)
    return (slope != 0) | (columns == rows.y[:, None])


def met(net: Net, rows: Rows) -> Tensor:
    """Which columns of the outputs the losses of these rows look at: bool (columns,)."""
    with still(net.module), torch.no_grad():
        outputs = torch.cat([answers(net, tuple(one[part] for one in rows.x)) for part in slices(len(rows), 256)])
    if net.classes == 0:
        return torch.ones(outputs.shape[1], dtype=torch.bool, device=outputs.device)
    return reached(outputs, _slope(net, outputs, rows)[1], rows).any(0)


def _slope(net: Net, outputs: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """The losses (n,) of rows, and their gradients in the outputs (n, columns)."""
    with torch.enable_grad():
        at = outputs.detach().requires_grad_()
        losses = net.losses(at, rows)
        (slope,) = torch.autograd.grad(losses.sum(), at)
    return losses.detach(), slope


def _curved(net: Net, outputs: Tensor, rows: Rows, slope: Tensor) -> Tensor:
    """The root of the curvature of the loss in the one output (n, 1); the slope where a loss has no curvature."""
    with torch.enable_grad():
        at = outputs.detach().requires_grad_()
        (first,) = torch.autograd.grad(net.losses(at, rows).sum(), at, create_graph=True)
        second = torch.zeros_like(at)
        if first.requires_grad:
            (second,) = torch.autograd.grad(first.sum(), at, materialize_grads=True)
    return second.clamp_min(0).sqrt() if bool((second > 0).any()) else slope


def _labelled(rows: Rows, label: int) -> Rows:
    return replace(rows, y=torch.full_like(rows.y, label), said=None)


def _checked(net: Net, among: dict[str, nn.Module], rows: Rows) -> int:
    """How many rows one pass takes, within `BYTES`; raise `ConfigError` where passes do not tell rows apart."""
    for many in PROBES:
        outputs, found = caught(net, among, probe(rows.x, many))
        calls = [one.name for one in found]
        strange = sorted(name for name in among if calls.count(name) != 1)
        strange += sorted({one.name for one in found if turned(one, outputs)})
        wrong = complete(net, outputs, [one for one in found if one.name not in strange])
        strange += [name.rpartition(".")[0] for name in wrong]
        if strange:
            raise ConfigError(
                f"fisher 'kronecker': layer {strange[0]!r} is not used once, row by row, and nowhere else, in a "
                "forward pass; expected this of every linear layer and convolution that is trained; use fisher "
                "'diagonal'"
            )
    each = sum(one.given[0].numel() + 3 * one.came[0].numel() for one in found)
    return max(1, BYTES // (4 * max(1, each)))
