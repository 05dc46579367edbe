"""Terms that keep the outputs of the network near earlier ones: learning without forgetting."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from everlearn._torch import Tensor, Tensors, functional, torch
from everlearn.families.neural import fisher
from everlearn.families.neural.contract import Net, Seen, TensorRows, Term, mean
from everlearn.families.neural.rowwise import answers, still

LOW = -1e30  # the logit of a masked class; finite, so that 0 times it is 0


class Lwf(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="lwf"):
    """Distil the network of the last consolidation into the one that learns, on new rows.

    The loss is strength * temperature² * divergence of the prediction from the old one, both softened by the
    temperature, over the classes that the old network had met. For numbers it is strength * squared difference. The
    factor temperature² keeps the size of the gradient (Hinton et al. 2015); Li and Hoiem 2016 is without it. Retired:
    `temperature`.
    """

    strength: Annotated[float, Meta(ge=0)] = 1.0
    temperature: Annotated[float, Meta(gt=0)] = 2.0


def _parts(net: Net) -> Tensors:
    """Return all that changes and affects outputs: trained weights and running statistics."""
    kept = net.module.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in net.module.named_buffers() if name in kept}
    return {name: weight.detach() for name, weight in net.weights.items()} | buffers


def _start(spec: Lwf, net: Net) -> Tensors:
    """Return a copy of the network, and the classes that it met."""
    own = {f"teacher/{name}": part.clone() for name, part in _parts(net).items()}
    device = next(iter(net.weights.values())).device
    own["met"] = torch.zeros(net.columns, dtype=torch.bool, device=device)
    return own | {"taken": torch.zeros(1, dtype=torch.int64)}


def _loss(spec: Lwf, net: Net, own: Tensors, seen: Seen) -> Tensor | None:
    """Return the distance to the outputs of the old network; None before the first consolidation."""
    if own["taken"].item() == 0 or len(seen.new) == 0:
        return None
    teacher = {name.removeprefix("teacher/"): part for name, part in own.items() if name.startswith("teacher/")}
    with still(net.module), torch.no_grad():
        old = answers(net, seen.new.x, teacher)
    if net.classes == 0:
        return spec.strength * mean((seen.outputs - old).square().sum(1), seen.new.weight)
    softened = [torch.where(own["met"], outputs.float() / spec.temperature, LOW) for outputs in (seen.outputs, old)]
    new_log, old_log = (functional.log_softmax(logits, 1) for logits in softened)
    divergence = (old_log.exp() * (old_log - new_log)).sum(1)
    return spec.strength * spec.temperature**2 * mean(divergence, seen.new.weight)


def _consolidate(spec: Lwf, net: Net, own: Tensors, rows: TensorRows) -> None:
    """Copy the network, and add the classes of these rows."""
    if len(rows) == 0:
        return
    own["met"] |= fisher.met(net, rows)
    for name, part in _parts(net).items():
        own[f"teacher/{name}"].copy_(part)
    own["taken"] += 1


LWF = Term(start=_start, loss=_loss, consolidate=_consolidate)
