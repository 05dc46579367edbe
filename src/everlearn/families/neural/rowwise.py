"""Gradients of single rows: what each row alone says of the weights, which a minibatch adds up and so loses.

Where all weights stand in linear layers, convolutions and bags of embeddings, one backward pass is enough for all
rows: the gradient of row n is the product of what went into the layer and of what comes back to it. Other networks
have their gradients taken row by row, many at once (`torch.func.vmap`), in `BYTES` of memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from everlearn._torch import Tensor, Tensors, functional, nn, torch
from everlearn.families.neural.contract import Inputs, Net

BYTES = 1 << 26  # of gradients, or of activations, at any moment
PROBES = (2, 3)  # rows of forward passes that tell whether rows stay apart: a sequence may be as long as one of them


class Pulls(NamedTuple):
    """Directions in which rows are asked for their gradient.

    `along` (labels, n, columns) are gradients of something in the outputs; `share` (labels, n) is what each counts.
    """

    along: Tensor
    share: Tensor

    def part(self, rows: slice) -> Pulls:
        """Those of some rows."""
        return Pulls(self.along[:, rows], self.share[:, rows])


class Caught(NamedTuple):
    """A layer in a forward pass: what went in (n, places, inputs), and what came out, with its graph.

    A place is where a layer is applied in one row: 1 in a plain network, the pixels of a convolution, the steps of a
    sequence. Of a bag of embeddings, `given` (n, places, 2) are indices and what each counts.
    """

    name: str
    layer: nn.Module
    given: Tensor
    came: Tensor

    def returned(self, gradient: Tensor) -> Tensor:
        """The gradient of what came out, as (n, places, outputs)."""
        if isinstance(self.layer, nn.Conv2d):
            return gradient.flatten(2).transpose(1, 2).float()
        return gradient.reshape(gradient.shape[0], -1, gradient.shape[-1]).float()


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """The module as it answers, without dropout, BatchNorm by its running statistics; as it was before, afterwards."""
    moving = [part for part in module.modules() if part.training]
    for part in moving:
        part.training = False
    try:
        yield
    finally:
        for part in moving:
            part.training = True


def answers(net: Net, x: Inputs, weights: Tensors | None = None) -> Tensor:
    """What the module says of n rows, (n, columns), with other weights and buffers than its own where they are given.

    In float32 whatever the precision of training, and without a compiled forward pass: layers can be listened to.
    """
    found: Any = net.module(*x) if weights is None else torch.func.functional_call(net.module, weights, x)
    if isinstance(found, Mapping):
        found = found["logits"]
    elif isinstance(found, tuple):
        found = found[0]
    return cast(Tensor, found.reshape(x[0].shape[0], -1).float())


def layers(net: Net, kinds: tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    """The layers by name whose weight is trained, and whose gradients of rows can be had in one backward pass.

    Those of exactly these kinds, whose weights belong to no other module.
    """
    owners: dict[int, int] = {}
    for module in net.module.modules():
        for weight in module.parameters(recurse=False):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    found = {}
    for name, layer in net.module.named_modules():
        own = list(layer.parameters(recurse=False))
        trained = joined(name, "weight") in net.weights
        if type(layer) in kinds and trained and _plain(layer) and all(owners[id(weight)] == 1 for weight in own):
            found[name] = layer
    return found


def joined(layer: str, weight: str) -> str:
    """The name of a weight of a layer, as the network has it.

    >>> joined("body.0", "bias"), joined("", "bias")
    ('body.0.bias', 'bias')
    """
    return f"{layer}.{weight}" if layer else weight


def caught(net: Net, among: dict[str, nn.Module], x: Inputs) -> tuple[Tensor, list[Caught]]:
    """A forward pass: the outputs, and the layers in the order of their calls, one as often as it was called."""
    found: list[Caught] = []

    def listen(name: str, layer: nn.Module) -> Callable[..., Tensor]:
        def heard(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any], came: Tensor) -> Tensor:
            found.append(Caught(name, layer, _given(layer, given, named), came))
            return came.clone()  # an activation in place changes the copy

        return heard

    handles = [layer.register_forward_hook(listen(name, layer), with_kwargs=True) for name, layer in among.items()]
    try:
        outputs = answers(net, x)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, found


def probe(x: Inputs, many: int) -> Inputs:
    """So many rows, some of them more than once where there are fewer; none where there are none.

    >>> probe((torch.tensor([5.0, 6.0]),), 3)
    (tensor([5., 6., 5.]),)
    """
    n = x[0].shape[0]
    at = torch.arange(many if n else 0, device=x[0].device) % max(1, n)
    return tuple(one[at] for one in x)


def turned(one: Caught, outputs: Tensor) -> bool:
    """Whether the first axis of what goes through a layer is not the row: that of a sequence, or rows and steps."""
    return one.given.shape[0] != outputs.shape[0] or one.came.shape[0] != outputs.shape[0]


def complete(net: Net, outputs: Tensor, found: list[Caught]) -> list[str]:
    """The weights of these layers whose gradient they do not account for: they are used elsewhere, too, or not here.

    Shown by the gradient of the sum of the outputs, put together from the layers.
    """
    names = [name for one in found for name in _names(net, one)]
    if not names:
        return []
    wanted = torch.autograd.grad(
        outputs.sum(), [net.weights[name] for name in names], retain_graph=True, materialize_grads=True
    )
    back = backward(outputs, found, torch.ones_like(outputs))
    made: Tensors = {}
    for one, gradient in zip(found, back, strict=True):
        share = torch.ones(1, outputs.shape[0], device=outputs.device)
        for name, value in _summed(net, one, gradient[None], share, 0).items():
            made[name] = made.get(name, torch.zeros_like(value)) + value
    pairs = [(name, made[name], gradient) for name, gradient in zip(names, wanted, strict=True)]
    return [name for name, here, there in pairs if (here - there).abs().max() > 1e-3 * there.abs().max() + 1e-6]


def backward(outputs: Tensor, found: list[Caught], along: Tensor) -> list[Tensor]:
    """The gradients that come back to layers, each (n, places, outputs), for a gradient `along` of the outputs."""
    gradients = torch.autograd.grad(
        outputs, [one.came for one in found], along, retain_graph=True, materialize_grads=True
    )
    return [one.returned(gradient) for one, gradient in zip(found, gradients, strict=True)]


def summed(net: Net, x: Inputs, pulls: Pulls, power: int) -> Tensors:
    """The sums over rows and labels of share * |gradient|^power, by weight; power is 1 or 2. One pass where it can be.

    The gradient is that of the row alone.
    """
    with still(net.module), torch.enable_grad():
        plain = layers(net, (nn.Linear, nn.Conv2d, nn.EmbeddingBag))
        size = _rows_at_once(net, plain, x)
        if size == 0:
            return _summed_apart(net, list(net.weights), x, pulls, power)
        total = {name: torch.zeros_like(weight) for name, weight in net.weights.items()}
        for rows in slices(x[0].shape[0], size):
            outputs, found = caught(net, plain, tuple(one[rows] for one in x))
            along, share = pulls.part(rows)
            back = [backward(outputs, found, one) for one in along]
            for i, one in enumerate(found):
                for name, value in _summed(net, one, torch.stack([of[i] for of in back]), share, power).items():
                    total[name] += value
    return total


def apart(net: Net, names: list[str], x: Inputs, pulls: Pulls) -> Iterator[tuple[Tensors, Tensor]]:
    """The gradients of rows, (m, *shape) by weight, and the share (m,) of each: a part at a time, within `BYTES`."""
    count, n = pulls.share.shape
    along, share = pulls.along.reshape(count * n, -1), pulls.share.reshape(-1)
    each = sum(net.weights[name].numel() for name in names) * 4
    for rows in slices(count * n, max(1, BYTES // max(1, each))):
        at = torch.arange(rows.start, rows.stop, device=share.device) % n
        yield _gradients(net, names, tuple(one[at] for one in x), along[rows]), share[rows]


def slices(n: int, size: int) -> Iterator[slice]:
    """The parts of n rows, in order."""
    for begin in range(0, n, size):
        yield slice(begin, min(n, begin + size))


def _plain(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if not isinstance(layer, nn.EmbeddingBag):
        return True
    return layer.mode == "sum" and layer.max_norm is None and layer.padding_idx is None and not layer.scale_grad_by_freq


def _given(layer: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> Tensor:
    """What went into a layer, as (n, places, inputs), without its graph."""
    x = (given[0] if given else next(iter(named.values()))).detach()
    if isinstance(layer, nn.Conv2d):
        shape: Any = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return functional.unfold(x, *shape).transpose(1, 2).float()
    if isinstance(layer, nn.EmbeddingBag):
        counts = given[2] if len(given) > 2 else named.get("per_sample_weights")
        counts = torch.ones_like(x, dtype=torch.float64) if counts is None else counts.detach()
        return torch.stack([x.to(torch.float64), counts.to(torch.float64)], -1)
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _names(net: Net, one: Caught) -> list[str]:
    names = [joined(one.name, weight) for weight in ("weight", "bias")]
    return [name for name in names if name in net.weights]


def _rows_at_once(net: Net, plain: dict[str, nn.Module], x: Inputs) -> int:
    """How many rows one backward pass takes, within `BYTES`; 0 where such passes do not tell the gradients of rows."""
    weights = {joined(name, own) for name, layer in plain.items() for own, _ in layer.named_parameters(recurse=False)}
    if not net.weights.keys() <= weights:
        return 0
    for many in PROBES:
        outputs, found = caught(net, plain, probe(x, many))
        once = len({one.name for one in found}) == len(found) == len(plain)
        if not once or any(turned(one, outputs) for one in found) or complete(net, outputs, found):
            return 0
    shared = [one for one in found if one.given.shape[1] > 1 and not isinstance(one.layer, nn.EmbeddingBag)]
    each = sum(one.given[0].numel() + 3 * one.came[0].numel() for one in found)
    return max(
        1, BYTES // (4 * (each + max([net.weights[joined(one.name, "weight")].numel() for one in shared] + [0])))
    )


def _summed(net: Net, one: Caught, back: Tensor, share: Tensor, power: int) -> Tensors:
    """The sums of share * |gradient|^power of one layer, from what comes back (labels, n, places, outputs).

    Power 0 is the plain sum of gradients. In a layer with one place, a power of a product is a product of powers.
    """
    weight, bias = _names(net, one) if len(_names(net, one)) == 2 else (_names(net, one)[0], "")
    made: Tensors = {}
    if isinstance(one.layer, nn.EmbeddingBag):
        returned = torch.einsum("cn,cno->no", share, _raised(back[:, :, 0], power))
        made[weight] = _of_bag(net.weights[weight], one.given, returned, power)
    elif one.given.shape[1] == 1:
        returned = torch.einsum("cn,cno->no", share, _raised(back[:, :, 0], power))
        made[weight] = returned.T @ _raised(one.given[:, 0].float(), power)
        if bias:
            made[bias] = returned.sum(0)
    else:
        made[weight] = torch.zeros_like(net.weights[weight]).flatten(1)
        for gradient, counts in zip(back, share, strict=True):
            for rows in slices(len(counts), max(1, BYTES // (4 * made[weight].numel()))):
                of_rows = torch.einsum("npo,npi->noi", gradient[rows], one.given[rows].float())
                made[weight] += torch.einsum("n,noi->oi", counts[rows], _raised(of_rows, power))
        if bias:
            made[bias] = torch.einsum("cn,cno->o", share, _raised(back.sum(2), power))
    return {name: value.reshape(net.weights[name].shape) for name, value in made.items()}


def _of_bag(table: Tensor, given: Tensor, returned: Tensor, power: int) -> Tensor:
    """The sums for a bag of embeddings; an index that stands in a row more than once counts as the sum of them."""
    indices, counts = given[..., 0].to(torch.int64), given[..., 1].to(torch.float32)
    same = (indices[:, :, None] == indices[:, None, :]).float()
    whole = torch.einsum("nij,nj->ni", same, counts)
    spread = _raised(whole, power) / same.sum(2)
    into = torch.zeros_like(table)
    return into.index_add_(0, indices.flatten(), (spread[:, :, None] * returned[:, None, :]).flatten(0, 1))


def _raised(values: Tensor, power: int) -> Tensor:
    return values.square() if power == 2 else values.abs() if power == 1 else values


def _summed_apart(net: Net, names: list[str], x: Inputs, pulls: Pulls, power: int) -> Tensors:
    total = {name: torch.zeros_like(net.weights[name]) for name in names}
    for gradients, share in apart(net, names, x, pulls):
        for name, gradient in gradients.items():
            total[name] += torch.einsum("n,n...->...", share, _raised(gradient, power))
    return total


def _gradients(net: Net, names: list[str], x: Inputs, along: Tensor) -> Tensors:
    """The gradients of m rows, all at once; one after the other where the module does not allow that."""
    fixed = {name: net.weights[name].detach() for name in names}

    def pulled(weights: Tensors, along: Tensor, *row: Tensor) -> Tensor:
        return (answers(net, tuple(one[None] for one in row), weights) * along).sum()

    one_row = torch.func.grad(pulled)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            found: Tensors = torch.func.vmap(one_row, in_dims=(None, 0, *[0] * len(x)))(fixed, along, *x)
    except RuntimeError:  # its path depends on the values, or it draws random numbers
        alone = [one_row(fixed, along[i], *(one[i] for one in x)) for i in range(along.shape[0])]
        found = {name: torch.stack([of[name] for of in alone]) for name in names}
    return found
