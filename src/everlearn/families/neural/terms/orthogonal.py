"""A term for adapters: what they learn next leaves alone what they answer to the inputs of before.

An adapter adds B A x. After a consolidation, A's answers to the strongest directions of its inputs so far are held,
and so are B's answers to the strongest directions of what A gives it: after each step of the optimiser, whatever the
step did along these directions is taken back, exactly. So there is nothing to tune: it is stable at any learning rate,
where a penalty on the overlap (O-LoRA: Wang et al. 2023, arXiv 2310.14152, eq. 7) must be neither too weak to matter
nor so strong that steps overshoot; and it costs two small products, and no gradient. That directions of inputs are
what to hold, and not the rows of A (most of which A began with), is InfLoRA's point (Liang & Li 2024, arXiv
2404.00228); that a bounded set of them will do is that of gradient projection memory (Saha et al. 2021, arXiv
2103.09762). One adapter serves for all tasks, so no task borders are needed, and arrays keep their size.

What else learns (the head in `also`, for instance) is not held by this term.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, cast

from msgspec import Meta, Struct

from everlearn._torch import Tensor, Tensors, functional, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Net, Rows, Seen, Term
from everlearn.families.neural.rowwise import answers

NEGLIGIBLE = 1e-4  # directions with less energy than this share of the strongest are not held

_A = re.compile(r"(.*)\.lora_A\.([^.]+)\.weight")


class Orthogonal(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="orthogonal"):
    """Hold what adapters answer along at most `directions` directions of each layer's inputs, and half of its rank.

    Never more than half of all directions there are, so that adapters can go on learning. Where there are more, those
    with the least energy (mean square of the inputs along them, added up over consolidations) are let go.
    """

    directions: Annotated[int, Meta(ge=1)] = 32


class Factor(NamedTuple):
    """One of the two matrices of an adapter: its layer, its weight, and how many directions of its inputs are held."""

    name: str
    layer: nn.Module
    weight: Tensor
    most: int


def factors(settings: Orthogonal, net: Net) -> Iterator[Factor]:
    """All of them, A and B of each adapter, in the order of the weights."""
    for name in net.weights:
        match = _A.fullmatch(name)
        if match:
            for letter, most in (("A", settings.directions), ("B", net.weights[name].shape[0])):
                path = f"{match[1]}.lora_{letter}.{match[2]}"
                weight = net.weights[f"{path}.weight"]
                columns = weight[0].numel()
                yield Factor(path, net.module.get_submodule(path), weight, min(most, columns // 2))


def start(settings: Orthogonal, net: Net) -> Tensors:
    """For each factor: `directions` (k, inputs), orthonormal rows, 0 where none is held yet; their `energy` (k,); and
    `held` (outputs, k), what the factor answers to them. Raises `ConfigError` for adapters that cannot be held."""
    own: Tensors = {}
    for one in factors(settings, net):
        if not isinstance(one.layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            raise ConfigError(
                f"orthogonal: {one.name} is a {type(one.layer).__name__}; expected adapters of linear layers and of "
                "convolutions over one or two axes: name such layers in lora.targets"
            )
        if f"{one.name[: one.name.rindex('.lora_')]}.lora_magnitude_vector.default.weight" in net.weights:
            raise ConfigError("orthogonal: with lora.dora a change of length changes every answer; set dora to false")
        own[f"{one.name}/directions"] = one.weight.new_zeros(one.most, one.weight[0].numel())
        own[f"{one.name}/energy"] = one.weight.new_zeros(one.most)
        own[f"{one.name}/held"] = one.weight.new_zeros(one.weight.shape[0], one.most)
    if not own:
        raise ConfigError("orthogonal: the network has no adapters; expected lora in the spec, with at least its rank")
    return own


def stepped(settings: Orthogonal, net: Net, own: Tensors, seen: Seen) -> None:
    """Take back what the step changed along the directions that are held."""
    for one in factors(settings, net):
        directions, held = own[f"{one.name}/directions"], own[f"{one.name}/held"]
        flat = one.weight.data.flatten(1)
        flat -= (flat @ directions.T - held) @ directions


def consolidate(settings: Orthogonal, net: Net, own: Tensors, rows: Rows) -> None:
    """Add the inputs of these rows to what is held, and hold what the factors answer now."""
    ones = list(factors(settings, net))
    given = _inputs(net, rows, [one.layer for one in ones])
    for one, came in zip(ones, given, strict=True):
        directions, energy, held = (own[f"{one.name}/{name}"] for name in ("directions", "energy", "held"))
        before = energy.sqrt()[:, None] * directions
        found, strength = leading(torch.cat([before, came / max(1, len(came)) ** 0.5]), one.most)
        directions.copy_(found)
        energy.copy_(strength)
        held.copy_(one.weight.data.flatten(1) @ directions.T)


def leading(rows: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The strongest directions of rows (n, columns): orthonormal (most, columns), and their energies (most,).

    0 for directions that rows do not have, or hardly have (`NEGLIGIBLE`).

    >>> directions, energy = leading(torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 2.0], [0.0, 4.0, 0.0]]), 3)
    >>> directions.abs().tolist(), energy.round().tolist()
    ([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], [25.0, 4.0, 0.0])
    """
    if rows.shape[0] > rows.shape[1]:
        rows = torch.linalg.qr(rows, mode="r").R
    _, singular, found = torch.linalg.svd(rows, full_matrices=False)
    energy = singular.square()
    many = min(most, int((energy > NEGLIGIBLE * energy.max()).sum()) if len(energy) else 0)
    directions, strength = rows.new_zeros(most, rows.shape[1]), rows.new_zeros(most)
    directions[:many], strength[:many] = found[:many], energy[:many]
    return directions, strength


def _inputs(net: Net, rows: Rows, layers: list[nn.Module]) -> list[Tensor]:
    """What goes into each layer when the network answers rows, (places, inputs)."""
    found: dict[nn.Module, list[Tensor]] = {one: [] for one in layers}

    def listen(layer: nn.Module, given: tuple[Any, ...]) -> None:
        found[layer].append(_patches(layer, given[0].detach()).float())

    listening = [one.register_forward_pre_hook(listen) for one in layers]
    try:
        with torch.no_grad():
            answers(net, rows.x)
    finally:
        for one in listening:
            one.remove()
    return [torch.cat(found[one]) if found[one] else next(one.parameters()).new_zeros(0) for one in layers]


def _patches(layer: nn.Module, x: Tensor) -> Tensor:
    """What each output of a layer is computed from, (places, inputs)."""
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
