"""Terms that hold weights near an anchor, the more so the more they mattered: EWC, SI, MAS.

The penalty is strength * sum of importance * (weight - anchor)². Its gradient is not taken. After the step of the
optimiser, at learning rate r, each weight p moves to where p + r * penalty would have its minimum were the step plain:

    p := (p + c * anchor) / (1 + c),    c = 2 * r * strength * importance

the proximal step (Parikh and Boyd 2014, section 4.2). It is stable at any strength and any rate, where gradient steps
blow up from c = 2 on, and it costs no backward pass. Before the first consolidation there is no anchor and no penalty.

Of several consolidations one importance and one anchor remain: importance := decay * importance + new, and the anchor
is where the weights are now. With decay 1 this is the penalty that follows from Bayes' rule with one Gaussian (Huszár
2018), not one penalty for each task around an anchor of its own (Kirkpatrick et al. 2017), which counts early tasks
twice; with decay below 1 it is online EWC (Schwarz et al. 2018).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from everlearn._torch import Tensor, Tensors, torch
from everlearn.errors import ConfigError
from everlearn.families.neural import fisher
from everlearn.families.neural.contract import Net, Rows, Seen, Term
from everlearn.families.neural.rowwise import joined

NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]

MOST = 1e30  # of an importance, and of a force; not infinite, lest 0 * it is NaN


class Ewc(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="ewc"):
    """Elastic weight consolidation: what mattered is told by the Fisher information of single rows.

    `strength` is half the lambda of Kirkpatrick et al. 2017, for a Fisher that is a mean over rows. `fisher` is
    "diagonal"; "block": whole, for the weights of each module; or "kronecker": a product of two matrices for each
    linear layer and convolution (of fewer than 2,048 inputs and outputs), diagonal for the rest. `labels` are those
    that the network itself expects, or the data's.
    """

    strength: NotNegative = 1000.0
    decay: Share = 1.0
    fisher: Literal["diagonal", "block", "kronecker"] = "diagonal"
    labels: Literal["model", "data"] = "model"


class Si(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="si"):
    """Synaptic intelligence: what mattered is told by how much each weight lowered the loss on its way.

    `damping` is the xi of Zenke et al. 2017, eq. 5.
    """

    strength: NotNegative = 10.0
    damping: Annotated[float, Meta(gt=0)] = 0.1


class Mas(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="mas"):
    """Memory aware synapses: what mattered is told by how much the outputs depend on each weight, without labels."""

    strength: NotNegative = 1.0
    decay: Share = 0.5


def pull(weights: list[Tensor], anchors: list[Tensor], importance: list[Tensor], force: float) -> None:
    """Move weights to (p + c * anchor) / (1 + c), c = force * importance (each of the weight's shape, not negative).

    In place, and for any force: p + (anchor - p) * importance / (importance + 1 / force).

    >>> weight = torch.tensor([1.0, 1.0, 1.0])
    >>> pull([weight], [torch.zeros(3)], [torch.tensor([0.0, 0.5, 1e9])], force=2.0)
    >>> weight
    tensor([1.0000, 0.5000, 0.0000])
    """
    if force <= 0.0:
        return
    with torch.no_grad():
        whole = torch._foreach_add(importance, 1.0 / min(max(force, 1e-38), MOST))
        torch._foreach_lerp_(weights, anchors, torch._foreach_div(importance, whole))


def of(own: Tensors, part: str, net: Net) -> list[Tensor]:
    """The tensors of a term that belong to the weights, in their order."""
    return [own[f"{part}/{name}"] for name in net.weights]


def _start(net: Net, *parts: str) -> Tensors:
    """Anchors where the weights are, and zeros for other parts. `taken`, on the CPU, counts consolidations."""
    own = {"taken": torch.zeros(1, dtype=torch.int64)}
    own |= {f"anchor/{name}": weight.detach().clone() for name, weight in net.weights.items()}
    for part in parts:
        own |= {f"{part}/{name}": torch.zeros_like(weight) for name, weight in net.weights.items()}
    return own


def _anchored(net: Net, own: Tensors) -> None:
    """Take the weights as they are for the anchor."""
    torch._foreach_copy_(of(own, "anchor", net), [weight.detach() for weight in net.weights.values()])
    own["taken"] += 1


def _add(own: Tensors, part: str, found: Tensors, decay: float) -> None:
    """importance := decay * importance + what was found; what is not finite (it overflowed) is bounded."""
    for name, value in found.items():
        own[f"{part}/{name}"].mul_(decay).add_(torch.nan_to_num(value, nan=0.0, posinf=MOST)).clamp_(0.0, MOST)


def _start_ewc(spec: Ewc, net: Net) -> Tensors:
    own = _start(net)
    matrices: dict[str, int] = {}
    diagonal = list(net.weights)
    if spec.fisher == "block":
        diagonal = []
        for group, names in fisher.members(net).items():
            matrices[f"block/{group}"] = sum(net.weights[name].numel() for name in names)
            if matrices[f"block/{group}"] > fisher.LARGEST:
                raise ConfigError(
                    f"fisher 'block': module {group!r} has {matrices[f'block/{group}']} weights, expected at most "
                    f"{fisher.LARGEST}, for its matrix is the square of that; use fisher 'kronecker' or 'diagonal'"
                )
    elif spec.fisher == "kronecker":
        layers = fisher.factored(net)
        for layer in layers:
            weight = net.weights[joined(layer, "weight")]
            matrices[f"outputs/{layer}"] = weight.shape[0]
            matrices[f"inputs/{layer}"] = weight[0].numel() + (joined(layer, "bias") in net.weights)
        diagonal = [name for name in diagonal if name.rpartition(".")[0] not in layers]
    one = next(iter(net.weights.values())).detach()
    for name, size in matrices.items():
        own[f"values/{name}"], own[f"vectors/{name}"] = one.new_zeros(size), one.new_zeros(size, size)
    return own | {f"fisher/{name}": torch.zeros_like(net.weights[name]) for name in diagonal}


def _consolidate_ewc(spec: Ewc, net: Net, own: Tensors, rows: Rows) -> None:
    if len(rows) == 0:
        return
    if spec.fisher == "diagonal":
        _add(own, "fisher", fisher.diagonal(net, rows, spec.labels), spec.decay)
    elif spec.fisher == "block":
        for group, found in fisher.blocks(net, rows, spec.labels).items():
            _decompose(own, f"block/{group}", spec.decay * _composed(own, f"block/{group}") + found)
    else:
        made, other = fisher.kronecker(net, rows, spec.labels)
        for layer, factors in made.items():
            before = fisher.Factors(_composed(own, f"inputs/{layer}"), _composed(own, f"outputs/{layer}"))
            whole = fisher.nearest(before, factors, spec.decay) if own["taken"].item() else factors
            _decompose(own, f"inputs/{layer}", whole.inputs)
            _decompose(own, f"outputs/{layer}", whole.outputs)
        _add(own, "fisher", other, spec.decay)
    _anchored(net, own)


def _composed(own: Tensors, name: str) -> Tensor:
    """The matrix of which values and vectors are kept."""
    vectors = own[f"vectors/{name}"]
    return (vectors * own[f"values/{name}"]) @ vectors.T


def _decompose(own: Tensors, name: str, matrix: Tensor) -> None:
    """Keep the values and vectors of a matrix that is symmetric and has no values below zero."""
    values, vectors = torch.linalg.eigh(torch.nan_to_num(matrix, posinf=MOST, neginf=-MOST).double())
    own[f"values/{name}"].copy_(values.clamp(0.0, MOST))
    own[f"vectors/{name}"].copy_(vectors)


def _stepped_ewc(spec: Ewc, net: Net, own: Tensors, seen: Seen) -> None:
    force = 2.0 * net.rate * spec.strength
    if force == 0.0 or own["taken"].item() == 0:
        return
    if spec.fisher == "diagonal":
        pull(list(net.weights.values()), of(own, "anchor", net), of(own, "fisher", net), force)
    elif spec.fisher == "block":
        _pull_blocks(net, own, min(force, MOST))
    else:
        _pull_layers(net, own, min(force, MOST))


@torch.no_grad()
def _pull_blocks(net: Net, own: Tensors, force: float) -> None:
    """(1 + force * F) (p - anchor) := p - anchor, by the values and vectors of F, for each module."""
    for group, names in fisher.members(net).items():
        away = torch.cat([(net.weights[name] - own[f"anchor/{name}"]).flatten() for name in names])
        vectors = own[f"vectors/block/{group}"]
        away = vectors @ ((away @ vectors) / (1.0 + force * own[f"values/block/{group}"]))
        begin = 0
        for name in names:
            anchor, end = own[f"anchor/{name}"], begin + own[f"anchor/{name}"].numel()
            net.weights[name].copy_(anchor + away[begin:end].view_as(anchor))
            begin = end


@torch.no_grad()
def _pull_layers(net: Net, own: Tensors, force: float) -> None:
    """The same for layers with two factors: for D = p - anchor, D + force * outputs @ D @ inputs := D."""
    layers = [name.removeprefix("values/outputs/") for name in own if name.startswith("values/outputs/")]
    for layer in layers:
        weight, bias = net.weights[joined(layer, "weight")], net.weights.get(joined(layer, "bias"))
        anchor = own[f"anchor/{joined(layer, 'weight')}"]
        away = (weight - anchor).flatten(1)
        if bias is not None:
            away = torch.cat([away, (bias - own[f"anchor/{joined(layer, 'bias')}"])[:, None]], 1)
        inputs, outputs = own[f"vectors/inputs/{layer}"], own[f"vectors/outputs/{layer}"]
        values = torch.outer(own[f"values/outputs/{layer}"], own[f"values/inputs/{layer}"])
        away = outputs @ ((outputs.T @ away @ inputs) / (1.0 + force * values)) @ inputs.T
        weight.copy_(anchor + away[:, : weight[0].numel()].view_as(weight))
        if bias is not None:
            bias.copy_(own[f"anchor/{joined(layer, 'bias')}"] + away[:, -1])
    rest = [name for name in net.weights if f"fisher/{name}" in own]
    if rest:
        weights = [net.weights[name] for name in rest]
        pull(weights, [own[f"anchor/{name}"] for name in rest], [own[f"fisher/{name}"] for name in rest], force)


def _start_si(spec: Si, net: Net) -> Tensors:
    return _start(net, "importance", "path", "before")


def _before_si(spec: Si, net: Net, own: Tensors, seen: Seen) -> None:
    torch._foreach_copy_(of(own, "before", net), [weight.detach() for weight in net.weights.values()])


def _stepped_si(spec: Si, net: Net, own: Tensors, seen: Seen) -> None:
    """path := path - gradient * (the way of this step, the pull to the anchor included)."""
    weights = list(net.weights.values())
    if own["taken"].item():
        pull(weights, of(own, "anchor", net), of(own, "importance", net), 2.0 * net.rate * spec.strength)
    learned = [name for name, weight in net.weights.items() if weight.grad is not None]
    if learned:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        before, path = [[own[f"{part}/{name}"] for name in learned] for part in ("before", "path")]
        moved = torch._foreach_sub([net.weights[name].detach() for name in learned], before)
        torch._foreach_addcmul_(path, gradients, moved, value=-1.0)


def _consolidate_si(spec: Si, net: Net, own: Tensors, rows: Rows) -> None:
    """importance := importance + path / (distance² + damping); none for a weight that raised the loss on its way."""
    found = {}
    for name, weight in net.weights.items():
        distance = weight.detach() - own[f"anchor/{name}"]
        found[name] = own[f"path/{name}"].clamp_min(0.0) / (distance.square() + spec.damping)
    _add(own, "importance", found, 1.0)
    torch._foreach_zero_(of(own, "path", net))
    _anchored(net, own)


def _start_mas(spec: Mas, net: Net) -> Tensors:
    return _start(net, "importance")


def _stepped_mas(spec: Mas, net: Net, own: Tensors, seen: Seen) -> None:
    if own["taken"].item():
        force = 2.0 * net.rate * spec.strength
        pull(list(net.weights.values()), of(own, "anchor", net), of(own, "importance", net), force)


def _consolidate_mas(spec: Mas, net: Net, own: Tensors, rows: Rows) -> None:
    if len(rows) > 0:
        _add(own, "importance", fisher.sensitivity(net, rows), spec.decay)
        _anchored(net, own)


EWC = Term(start=_start_ewc, stepped=_stepped_ewc, consolidate=_consolidate_ewc)
SI = Term(start=_start_si, gradient=_before_si, stepped=_stepped_si, consolidate=_consolidate_si)
MAS = Term(start=_start_mas, stepped=_stepped_mas, consolidate=_consolidate_mas)
