"""Gradients of single rows, which a minibatch adds up.

If all weights belong to linear layers, 2D convolutions and bags of embeddings, one backward pass is enough for all
rows: the gradient of a row is the product of the input of the layer and the gradient of its output. Gradients of other
networks are computed row by row, many at once (`torch.func.vmap`), in `BYTES` of memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from everlearn._torch import Tensor, Tensors, functional, nn, torch
from everlearn.families.neural.contract import Inputs, Net

BYTES = 1 << 26  # of gradients, or of activations, at any time
PROBES = (2, 3)  # rows of trial passes that detect layers mixing rows; a sequence may be as long as one of these


class Pulls(NamedTuple):
    """Gradients of a quantity in the outputs, `along` (labels, n, columns), and their weights, `share` (labels, n)."""

    along: Tensor
    share: Tensor

    def part(self, rows: slice) -> Pulls:
        """Return the pulls of some rows."""
        return Pulls(self.along[:, rows], self.share[:, rows])


class Caught(NamedTuple):
    """A layer in a forward pass: its input `given` (n, places, inputs), and its output `came`, with the graph.

    Places are the positions where a layer is applied in one row: 1 in a plain network, the pixels of a convolution, the
    steps of a sequence. For a bag of embeddings, `given` (n, places, 2) are indices and their weights.
    """

    name: str
    layer: nn.Module
    given: Tensor
    came: Tensor

    def returned(self, gradient: Tensor) -> Tensor:
        """Return the gradient of the output as (n, places, outputs)."""
        if isinstance(self.layer, nn.Conv2d):
            return gradient.flatten(2).transpose(1, 2).float()
        return gradient.reshape(gradient.shape[0], -1, gradient.shape[-1]).float()


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode for a while: no dropout, running statistics in BatchNorm."""
    moving = [part for part in module.modules() if part.training]
    for part in moving:
        part.training = False
    try:
        yield
    finally:
        for part in moving:
            part.training = True


def answers(net: Net, x: Inputs, weights: Tensors | None = None) -> Tensor:
    """Return the outputs of the module for n rows, (n, columns), with other weights and buffers if given.

    The pass is in float32 at any precision of training, and never compiled, so that hooks on layers run.
    """
    found: Any = net.module(*x) if weights is None else torch.func.functional_call(net.module, weights, x)
    if isinstance(found, Mapping):
        found = found["logits"]
    elif isinstance(found, tuple):
        found = found[0]
    return cast(Tensor, found.reshape(x[0].shape[0], -1).float())


def layers(net: Net, kinds: tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    """Return the named layers whose gradients of rows one backward pass gives.

    They are of exactly these kinds, their weight is trained, and their weights belong to no other module.
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
    """Return the name of a weight of a layer in the network.

    >>> joined("body.0", "bias"), joined("", "bias")
    ('body.0.bias', 'bias')
    """
    return f"{layer}.{weight}" if layer else weight


def caught(net: Net, among: dict[str, nn.Module], x: Inputs) -> tuple[Tensor, list[Caught]]:
    """Run a forward pass; return the outputs, and the layers in the order of their calls, once for each call."""
    found: list[Caught] = []

    def listen(name: str, layer: nn.Module) -> Callable[..., Tensor]:
        def record(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any], came: Tensor) -> Tensor:
            found.append(Caught(name, layer, _given(layer, given, named), came))
            return came.clone()  # an in-place activation changes the copy

        return record

    handles = [layer.register_forward_hook(listen(name, layer), with_kwargs=True) for name, layer in among.items()]
    try:
        outputs = answers(net, x)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, found


def probe(x: Inputs, count: int) -> Inputs:
    """Return `count` rows, repeated if there are fewer; none if there are none.

    >>> probe((torch.tensor([5.0, 6.0]),), 3)
    (tensor([5., 6., 5.]),)
    """
    n = x[0].shape[0]
    at = torch.arange(count if n else 0, device=x[0].device) % max(1, n)
    return tuple(given[at] for given in x)


def turned(layer: Caught, outputs: Tensor) -> bool:
    """Return True if the first axis of a layer is not the row, but that of a sequence, or rows and steps."""
    return layer.given.shape[0] != outputs.shape[0] or layer.came.shape[0] != outputs.shape[0]


def complete(net: Net, outputs: Tensor, found: list[Caught]) -> list[str]:
    """Return the weights of layers whose whole gradient does not come from these calls: they are used elsewhere, too.

    Compares the gradient of the sum of the outputs with the one computed from the layers.
    """
    names = [name for layer in found for name in _names(net, layer)]
    if not names:
        return []
    wanted = torch.autograd.grad(
        outputs.sum(), [net.weights[name] for name in names], retain_graph=True, materialize_grads=True
    )
    back = backward(outputs, found, torch.ones_like(outputs))
    made: Tensors = {}
    for layer, gradient in zip(found, back, strict=True):
        share = torch.ones(1, outputs.shape[0], device=outputs.device)
        for name, value in _summed(net, layer, gradient[None], share, 0).items():
            made[name] = made.get(name, torch.zeros_like(value)) + value
    pairs = [(name, made[name], gradient) for name, gradient in zip(names, wanted, strict=True)]
    return [name for name, here, there in pairs if (here - there).abs().max() > 1e-3 * there.abs().max() + 1e-6]


def backward(outputs: Tensor, found: list[Caught], along: Tensor) -> list[Tensor]:
    """Return the gradients of layers' outputs, (n, places, outputs) each, for a gradient `along` of the outputs."""
    gradients = torch.autograd.grad(
        outputs, [layer.came for layer in found], along, retain_graph=True, materialize_grads=True
    )
    return [layer.returned(gradient) for layer, gradient in zip(found, gradients, strict=True)]


def summed(net: Net, x: Inputs, pulls: Pulls, power: int) -> Tensors:
    """Return the sums over rows and labels of share * |gradient of the row|^power, by weight; power is 1 or 2.

    One backward pass does it where layers allow that.
    """
    with still(net.module), torch.enable_grad():
        plain = layers(net, (nn.Linear, nn.Conv2d, nn.EmbeddingBag))
        size = _rows_at_once(net, plain, x)
        if size == 0:
            return _summed_apart(net, list(net.weights), x, pulls, power)
        total = {name: torch.zeros_like(weight) for name, weight in net.weights.items()}
        for rows in slices(x[0].shape[0], size):
            outputs, found = caught(net, plain, tuple(given[rows] for given in x))
            along, share = pulls.part(rows)
            back = [backward(outputs, found, gradient) for gradient in along]
            for i, layer in enumerate(found):
                for name, value in _summed(net, layer, torch.stack([of[i] for of in back]), share, power).items():
                    total[name] += value
    return total


def apart(net: Net, names: list[str], x: Inputs, pulls: Pulls) -> Iterator[tuple[Tensors, Tensor]]:
    """Yield the gradients of rows, (m, *shape) by weight, and the share (m,) of each: in parts within `BYTES`."""
    count, n = pulls.share.shape
    along, share = pulls.along.reshape(count * n, -1), pulls.share.reshape(-1)
    each = sum(net.weights[name].numel() for name in names) * 4
    for rows in slices(count * n, max(1, BYTES // max(1, each))):
        at = torch.arange(rows.start, rows.stop, device=share.device) % n
        yield _gradients(net, names, tuple(given[at] for given in x), along[rows]), share[rows]


def slices(n: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` of n rows, in order."""
    for begin in range(0, n, size):
        yield slice(begin, min(n, begin + size))


def _plain(layer: nn.Module) -> bool:
    """Return True if the gradient of a layer's weight is a plain product of input and output gradient."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if not isinstance(layer, nn.EmbeddingBag):
        return True
    return layer.mode == "sum" and layer.max_norm is None and layer.padding_idx is None and not layer.scale_grad_by_freq


def _given(layer: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any]) -> Tensor:
    """Return the input of a layer as (n, places, inputs), without its graph."""
    x = (given[0] if given else next(iter(named.values()))).detach()
    if isinstance(layer, nn.Conv2d):
        shape: Any = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return functional.unfold(x, *shape).transpose(1, 2).float()
    if isinstance(layer, nn.EmbeddingBag):
        counts = given[2] if len(given) > 2 else named.get("per_sample_weights")
        counts = torch.ones_like(x, dtype=torch.float64) if counts is None else counts.detach()
        return torch.stack([x.to(torch.float64), counts.to(torch.float64)], -1)
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _names(net: Net, layer: Caught) -> list[str]:
    """Return the names of the trained weights of a layer."""
    names = [joined(layer.name, weight) for weight in ("weight", "bias")]
    return [name for name in names if name in net.weights]


def _rows_at_once(net: Net, plain: dict[str, nn.Module], x: Inputs) -> int:
    """Return the rows of one backward pass, within `BYTES`; 0 where such a pass does not give gradients of rows."""
    weights = {joined(name, own) for name, layer in plain.items() for own, _ in layer.named_parameters(recurse=False)}
    if not net.weights.keys() <= weights:
        return 0
    for count in PROBES:
        outputs, found = caught(net, plain, probe(x, count))
        once = len({layer.name for layer in found}) == len(found) == len(plain)
        if not once or any(turned(layer, outputs) for layer in found) or complete(net, outputs, found):
            return 0
    shared = [called for called in found if called.given.shape[1] > 1 and not isinstance(called.layer, nn.EmbeddingBag)]
    each = sum(called.given[0].numel() + 3 * called.came[0].numel() for called in found)
    return max(
        1, BYTES // (4 * (each + max([net.weights[joined(called.name, "weight")].numel() for called in shared] + [0])))
    )


def _summed(net: Net, layer: Caught, back: Tensor, share: Tensor, power: int) -> Tensors:
    """Return the sums of share * |gradient|^power of a layer, from output gradients (labels, n, places, outputs).

    Power 0 is the plain sum of gradients. In a layer with one place, a power of a product is a product of powers.
    """
    weight, bias = _names(net, layer) if len(_names(net, layer)) == 2 else (_names(net, layer)[0], "")
    made: Tensors = {}
    if isinstance(layer.layer, nn.EmbeddingBag):
        returned = torch.einsum("cn,cno->no", share, _raised(back[:, :, 0], power))
        made[weight] = _of_bag(net.weights[weight], layer.given, returned, power)
    elif layer.given.shape[1] == 1:
        returned = torch.einsum("cn,cno->no", share, _raised(back[:, :, 0], power))
        made[weight] = returned.T @ _raised(layer.given[:, 0].float(), power)
        if bias:
            made[bias] = returned.sum(0)
    else:
        made[weight] = torch.zeros_like(net.weights[weight]).flatten(1)
        for gradient, counts in zip(back, share, strict=True):
            for rows in slices(len(counts), max(1, BYTES // (4 * made[weight].numel()))):
                of_rows = torch.einsum("npo,npi->noi", gradient[rows], layer.given[rows].float())
                made[weight] += torch.einsum("n,noi->oi", counts[rows], _raised(of_rows, power))
        if bias:
            made[bias] = torch.einsum("cn,cno->o", share, _raised(back.sum(2), power))
    return {name: value.reshape(net.weights[name].shape) for name, value in made.items()}


def _of_bag(table: Tensor, given: Tensor, returned: Tensor, power: int) -> Tensor:
    """Return the sums for a bag of embeddings; repetitions of an index in a row are added up first."""
    indices, counts = given[..., 0].to(torch.int64), given[..., 1].to(torch.float32)
    same = (indices[:, :, None] == indices[:, None, :]).float()
    whole = torch.einsum("nij,nj->ni", same, counts)
    spread = _raised(whole, power) / same.sum(2)
    into = torch.zeros_like(table)
    return into.index_add_(0, indices.flatten(), (spread[:, :, None] * returned[:, None, :]).flatten(0, 1))


def _raised(values: Tensor, power: int) -> Tensor:
    """Return |values|^power for powers 1 and 2, and the values for power 0."""
    return values.square() if power == 2 else values.abs() if power == 1 else values


def _summed_apart(net: Net, names: list[str], x: Inputs, pulls: Pulls, power: int) -> Tensors:
    """Return what `summed` does, from gradients computed row by row."""
    total = {name: torch.zeros_like(net.weights[name]) for name in names}
    for gradients, share in apart(net, names, x, pulls):
        for name, gradient in gradients.items():
            total[name] += torch.einsum("n,n...->...", share, _raised(gradient, power))
    return total


def _gradients(net: Net, names: list[str], x: Inputs, along: Tensor) -> Tensors:
    """Return the gradients of m rows, all at once; one after another where the module does not allow that."""
    fixed = {name: net.weights[name].detach() for name in names}

    def pulled(weights: Tensors, along: Tensor, *row: Tensor) -> Tensor:
        return (answers(net, tuple(given[None] for given in row), weights) * along).sum()

    one_row = torch.func.grad(pulled)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            found: Tensors = torch.func.vmap(one_row, in_dims=(None, 0, *[0] * len(x)))(fixed, along, *x)
    except RuntimeError:  # the pass branches on values, or draws random numbers
        alone = [one_row(fixed, along[i], *(given[i] for given in x)) for i in range(along.shape[0])]
        found = {name: torch.stack([of[name] for of in alone]) for name in names}
    return found
