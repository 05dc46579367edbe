"""Terms that pull weights to an anchor, in proportion to their importance: EWC, SI, MAS.

The penalty is strength * sum of importance * (weight - anchor)². Its gradient is not used. After the step of the
optimiser, at learning rate r, each weight p takes the proximal step (Parikh and Boyd 2014, section 4.2):

    p := (p + c * anchor) / (1 + c),    c = 2 * r * strength * importance

This is stable at any strength and any rate, where gradient steps diverge from c = 2 on, and it needs no backward pass.
Before the first consolidation there is no anchor and no penalty.

Several consolidations share one importance and one anchor: importance := decay * importance + new, and the anchor is
the current weights. With decay 1 this is the penalty that follows from Bayes' rule with one Gaussian (Huszár 2018). A
penalty for each task around its own anchor (Kirkpatrick et al. 2017) counts early tasks twice. With decay below 1 it is
online EWC (Schwarz et al. 2018).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from everlearn._torch import Tensor, Tensors, torch
from everlearn.errors import ConfigError
from everlearn.families.neural import fisher
from everlearn.families.neural.contract import Net, Seen, TensorRows, Term
from everlearn.families.neural.rowwise import joined

NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]

LARGEST = 1e30  # bound of an importance and of a force; finite, so that 0 times it is 0


class Ewc(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="ewc"):
    """Elastic weight consolidation: importance is the Fisher information of single rows.

    `strength` is half the lambda of Kirkpatrick et al. 2017, for a Fisher that is a mean over rows. `fisher` is
    "diagonal"; "block": a full matrix for the weights of each module; or "kronecker": a product of two matrices for
    each linear layer and convolution (of fewer than 2,048 inputs and outputs), diagonal for the rest. Retired:
    `labels`; labels are drawn from the network's predictions ("model") or are those of the rows ("data").
    """

    strength: NotNegative = 1000.0
    decay: Share = 1.0
    fisher: Literal["diagonal", "block", "kronecker"] = "diagonal"
    labels: Literal["model", "data"] = "model"


class Si(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="si"):
    """Synaptic intelligence: importance is how much each weight lowered the loss along its path.

    Retired: `damping`, the xi of Zenke et al. 2017, eq. 5.
    """

    strength: NotNegative = 10.0
    damping: Annotated[float, Meta(gt=0)] = 0.1


class Mas(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="mas"):
    """Memory aware synapses: importance is how much the outputs depend on each weight, without labels.

    Retired: `decay`, the share of importance that stays at each consolidation.
    """

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
        whole = torch._foreach_add(importance, 1.0 / min(max(force, 1e-38), LARGEST))
        torch._foreach_lerp_(weights, anchors, torch._foreach_div(importance, whole))


def of(own: Tensors, part: str, net: Net) -> list[Tensor]:
    """Return the tensors of a term that belong to the weights, in their order."""
    return [own[f"{part}/{name}"] for name in net.weights]


def _start(net: Net, *parts: str) -> Tensors:
    """Return anchors at the weights, and zeros for other parts. `taken`, on the CPU, counts consolidations."""
    own = {"taken": torch.zeros(1, dtype=torch.int64)}
    own |= {f"anchor/{name}": weight.detach().clone() for name, weight in net.weights.items()}
    for part in parts:
        own |= {f"{part}/{name}": torch.zeros_like(weight) for name, weight in net.weights.items()}
    return own


def _anchored(net: Net, own: Tensors) -> None:
    """Set the anchor to the current weights."""
    torch._foreach_copy_(of(own, "anchor", net), [weight.detach() for weight in net.weights.values()])
    own["taken"] += 1


def _add(own: Tensors, part: str, found: Tensors, decay: float) -> None:
    """Set importance := decay * importance + found; values that are not finite (from overflow) are bounded."""
    for name, value in found.items():
        own[f"{part}/{name}"].mul_(decay).add_(torch.nan_to_num(value, nan=0.0, posinf=LARGEST)).clamp_(0.0, LARGEST)


def _start_ewc(spec: Ewc, net: Net) -> Tensors:
    """Return the tensors of EWC: anchors, and importances in the form of `fisher`."""
    own = _start(net)
    matrices: dict[str, int] = {}
    diagonal = list(net.weights)
    if spec.fisher == "block":
        diagonal = []
        for group, names in fisher.members(net).items():
            matrices[f"block/{group}"] = sum(net.weights[name].numel() for name in names)
            if matrices[f"block/{group}"] > fisher.LARGEST:
                raise ConfigError(
                    f"fisher: got 'block' for the module {group!r} of {matrices[f'block/{group}']} weights; expected "
                    f"at most {fisher.LARGEST}, as its matrix has the square. Use fisher 'kronecker' or 'diagonal'"
                )
    elif spec.fisher == "kronecker":
        layers = fisher.factored(net)
        for layer in layers:
            weight = net.weights[joined(layer, "weight")]
            matrices[f"outputs/{layer}"] = weight.shape[0]
            matrices[f"inputs/{layer}"] = weight[0].numel() + (joined(layer, "bias") in net.weights)
        diagonal = [name for name in diagonal if name.rpartition(".")[0] not in layers]
    like = next(iter(net.weights.values())).detach()
    for name, size in matrices.items():
        own[f"values/{name}"], own[f"vectors/{name}"] = like.new_zeros(size), like.new_zeros(size, size)
    return own | {f"fisher/{name}": torch.zeros_like(net.weights[name]) for name in diagonal}


def _consolidate_ewc(spec: Ewc, net: Net, own: Tensors, rows: TensorRows) -> None:
    """Add the Fisher information of rows to the importance, and set the anchor."""
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
    """Return the matrix with the stored eigenvalues and eigenvectors."""
    vectors = own[f"vectors/{name}"]
    return (vectors * own[f"values/{name}"]) @ vectors.T


def _decompose(own: Tensors, name: str, matrix: Tensor) -> None:
    """Store the eigenvalues and eigenvectors of a symmetric matrix without eigenvalues below zero."""
    values, vectors = torch.linalg.eigh(torch.nan_to_num(matrix, posinf=LARGEST, neginf=-LARGEST).double())
    own[f"values/{name}"].copy_(values.clamp(0.0, LARGEST))
    own[f"vectors/{name}"].copy_(vectors)


def _stepped_ewc(spec: Ewc, net: Net, own: Tensors, seen: Seen) -> None:
    """Pull weights to the anchor."""
    force = 2.0 * net.rate * spec.strength
    if force == 0.0 or own["taken"].item() == 0:
        return
    if spec.fisher == "diagonal":
        pull(list(net.weights.values()), of(own, "anchor", net), of(own, "fisher", net), force)
    elif spec.fisher == "block":
        _pull_blocks(net, own, min(force, LARGEST))
    else:
        _pull_layers(net, own, min(force, LARGEST))


@torch.no_grad()
def _pull_blocks(net: Net, own: Tensors, force: float) -> None:
    """Solve (1 + force * F) (p - anchor) := p - anchor with the eigenvectors of F, for each module."""
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
    """Solve D + force * outputs @ D @ inputs := D for D = p - anchor, for layers with two factors."""
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
    """Return the tensors of SI."""
    return _start(net, "importance", "path", "before")


def _before_si(spec: Si, net: Net, own: Tensors, seen: Seen) -> None:
    """Keep the weights before the step of the optimiser."""
    torch._foreach_copy_(of(own, "before", net), [weight.detach() for weight in net.weights.values()])


def _stepped_si(spec: Si, net: Net, own: Tensors, seen: Seen) -> None:
    """Pull, then set path := path - gradient * (movement of this step, the pull included)."""
    weights = list(net.weights.values())
    if own["taken"].item():
        pull(weights, of(own, "anchor", net), of(own, "importance", net), 2.0 * net.rate * spec.strength)
    learned = [name for name, weight in net.weights.items() if weight.grad is not None]
    if learned:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        before, path = [[own[f"{part}/{name}"] for name in learned] for part in ("before", "path")]
        moved = torch._foreach_sub([net.weights[name].detach() for name in learned], before)
        torch._foreach_addcmul_(path, gradients, moved, value=-1.0)


def _consolidate_si(spec: Si, net: Net, own: Tensors, rows: TensorRows) -> None:
    """Set importance := importance + path / (distance² + damping); a weight that raised the loss adds none."""
    found = {}
    for name, weight in net.weights.items():
        distance = weight.detach() - own[f"anchor/{name}"]
        found[name] = own[f"path/{name}"].clamp_min(0.0) / (distance.square() + spec.damping)
    _add(own, "importance", found, 1.0)
    torch._foreach_zero_(of(own, "path", net))
    _anchored(net, own)


def _start_mas(spec: Mas, net: Net) -> Tensors:
    """Return the tensors of MAS."""
    return _start(net, "importance")


def _stepped_mas(spec: Mas, net: Net, own: Tensors, seen: Seen) -> None:
    """Pull weights to the anchor."""
    if own["taken"].item():
        force = 2.0 * net.rate * spec.strength
        pull(list(net.weights.values()), of(own, "anchor", net), of(own, "importance", net), force)


def _consolidate_mas(spec: Mas, net: Net, own: Tensors, rows: TensorRows) -> None:
    """Add the sensitivity of the outputs to the importance, and set the anchor."""
    if len(rows) > 0:
        _add(own, "importance", fisher.sensitivity(net, rows), spec.decay)
        _anchored(net, own)


EWC = Term(start=_start_ewc, stepped=_stepped_ewc, consolidate=_consolidate_ewc)
SI = Term(start=_start_si, gradient=_before_si, stepped=_stepped_si, consolidate=_consolidate_si)
MAS = Term(start=_start_mas, stepped=_stepped_mas, consolidate=_consolidate_mas)
