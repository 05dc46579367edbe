"""A term for adapters: later learning does not change their outputs for earlier inputs.

An adapter adds B A x. A consolidation holds the outputs of A for the strongest directions of its inputs so far, and
those of B for the strongest directions of the outputs of A. After each step of the optimiser, the change along these
directions is undone exactly. So there is no strength to tune, and it is stable at any learning rate. A penalty on the
overlap (O-LoRA: Wang et al. 2023, arXiv 2310.14152, eq. 7) can be too weak to matter, or so strong that steps
overshoot. The cost is two small products, and no gradient. InfLoRA (Liang & Li 2024, arXiv 2404.00228) argues for
holding directions of inputs rather than the rows of A, most of which are initial values. Gradient projection memory
(Saha et al. 2021, arXiv 2103.09762) shows that a bounded set of directions is enough. One adapter serves all tasks, so
no task borders are needed, and arrays keep their size.

Other trained weights (the head in `lora.also`, for instance) are not held by this term.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, cast

from msgspec import Meta, Struct

from everlearn._torch import Tensor, Tensors, functional, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Net, Seen, TensorRows, Term
from everlearn.families.neural.rowwise import answers

NEGLIGIBLE = 1e-4  # directions with less energy than this share of the strongest are not held

_A = re.compile(r"(.*)\.lora_A\.([^.]+)\.weight")


class Orthogonal(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="orthogonal"):
    """Hold the outputs of adapters along at most `directions` directions of each layer's inputs, and half of its rank.

    At most half of all directions are held, so that adapters can go on learning. Where there are more, those with the
    least energy (mean square of the inputs along them, added up over consolidations) are dropped.
    """

    directions: Annotated[int, Meta(ge=1)] = 32


class Factor(NamedTuple):
    """A matrix of an adapter: its name, layer and weight, and how many directions of its inputs are held at most."""

    name: str
    layer: nn.Module
    weight: Tensor
    most: int


def factors(settings: Orthogonal, net: Net) -> Iterator[Factor]:
    """Yield A and B of each adapter, in the order of the weights."""
    for name in net.weights:
        match = _A.fullmatch(name)
        if match:
            for letter, most in (("A", settings.directions), ("B", net.weights[name].shape[0])):
                path = f"{match[1]}.lora_{letter}.{match[2]}"
                weight = net.weights[f"{path}.weight"]
                columns = weight[0].numel()
                yield Factor(path, net.module.get_submodule(path), weight, min(most, columns // 2))


def start(settings: Orthogonal, net: Net) -> Tensors:
    """Return the tensors of each factor.

    They are `directions` (k, inputs), orthonormal rows, 0 where none is held yet; their `energy` (k,); and `held`
    (outputs, k), the outputs of the factor for them. Raises `ConfigError` for adapters that cannot be held.
    """
    own: Tensors = {}
    for factor in factors(settings, net):
        if not isinstance(factor.layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            raise ConfigError(
                f"orthogonal: got {factor.name}, a {type(factor.layer).__name__}; expected adapters of linear layers "
                "and of convolutions over one or two axes. Name such layers in lora.targets"
            )
        if f"{factor.name[: factor.name.rindex('.lora_')]}.lora_magnitude_vector.default.weight" in net.weights:
            raise ConfigError(
                "orthogonal: got lora.dora, with which a change of length changes every output. Leave dora out"
            )
        own[f"{factor.name}/directions"] = factor.weight.new_zeros(factor.most, factor.weight[0].numel())
        own[f"{factor.name}/energy"] = factor.weight.new_zeros(factor.most)
        own[f"{factor.name}/held"] = factor.weight.new_zeros(factor.weight.shape[0], factor.most)
    if not own:
        raise ConfigError("orthogonal: got a network without adapters. Set lora, for instance lora.rank")
    return own


def stepped(settings: Orthogonal, net: Net, own: Tensors, seen: Seen) -> None:
    """Undo the change of the step along held directions."""
    for factor in factors(settings, net):
        directions, held = own[f"{factor.name}/directions"], own[f"{factor.name}/held"]
        flat = factor.weight.data.flatten(1)
        flat -= (flat @ directions.T - held) @ directions


def consolidate(settings: Orthogonal, net: Net, own: Tensors, rows: TensorRows) -> None:
    """Add the inputs of these rows to the held directions, and hold the current outputs of the factors."""
    every = list(factors(settings, net))
    given = _inputs(net, rows, [factor.layer for factor in every])
    for factor, came in zip(every, given, strict=True):
        directions, energy, held = (own[f"{factor.name}/{name}"] for name in ("directions", "energy", "held"))
        before = energy.sqrt()[:, None] * directions
        found, strength = leading(torch.cat([before, came / max(1, len(came)) ** 0.5]), factor.most)
        directions.copy_(found)
        energy.copy_(strength)
        held.copy_(factor.weight.data.flatten(1) @ directions.T)


def leading(rows: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the strongest directions of rows (n, columns), orthonormal (most, columns), and their energies (most,).

    Directions that rows have hardly (`NEGLIGIBLE`) or not at all are 0.

    >>> directions, energy = leading(torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 2.0], [0.0, 4.0, 0.0]]), 3)
    >>> directions.abs().tolist(), energy.round().tolist()
    ([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], [25.0, 4.0, 0.0])
    """
    if rows.shape[0] > rows.shape[1]:
        rows = torch.linalg.qr(rows, mode="r").R
    _, singular, found = torch.linalg.svd(rows, full_matrices=False)
    energy = singular.square()
    count = min(most, int((energy > NEGLIGIBLE * energy.max()).sum()) if len(energy) else 0)
    directions, strength = rows.new_zeros(most, rows.shape[1]), rows.new_zeros(most)
    directions[:count], strength[:count] = found[:count], energy[:count]
    return directions, strength


def _inputs(net: Net, rows: TensorRows, layers: list[nn.Module]) -> list[Tensor]:
    """Return the inputs of each layer for these rows, (places, inputs)."""
    found: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}

    def listen(layer: nn.Module, given: tuple[Any, ...]) -> None:
        found[layer].append(_patches(layer, given[0].detach()).float())

    listening = [layer.register_forward_pre_hook(listen) for layer in layers]
    try:
        with torch.no_grad():
            answers(net, rows.x)
    finally:
        for hook in listening:
            hook.remove()
    return [torch.cat(found[layer]) if found[layer] else next(layer.parameters()).new_zeros(0) for layer in layers]


def _patches(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the inputs that each output of a layer is computed from, (places, inputs)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    conv = cast(nn.Conv2d, layer)
    x = functional.pad(x, conv._reversed_padding_repeated_twice)
    sizes: list[tuple[int, ...]] = [conv.kernel_size, conv.dilation, conv.stride]
    if isinstance(layer, nn.Conv1d):
        x, sizes = x.unsqueeze(2), [(1, *size) for size in sizes]
    patches = functional.unfold(x, sizes[0], dilation=sizes[1], stride=sizes[2])
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


ORTHOGONAL = Term(start=start, stepped=stepped, consolidate=consolidate)
