"""The values that the parts of one training step exchange.

new rows        ─┐
                 ├─ one forward pass ─ loss of the new rows + terms ─ gradients ─ optimiser ─ average of weights
remembered rows ─┘
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from everlearn._torch import Tensor, Tensors, nn, torch

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class TensorRows:
    """n labelled rows, on the device of the network; the first axis is the row.

    `x` are the arguments of the module: (inputs,), or (inputs, indices, values) where rows have hashed features:
    int64 and float32 (n, width), padded with index 0 and value 0. `y` is int64 (n,), the class, or float32 (n,), the
    number to predict. `weight` is float32 (n,). `outputs` is float32 (n, outputs), the outputs stored with a
    remembered row; None for new rows, and where no term uses stored outputs.
    """

    x: Inputs
    y: Tensor
    weight: Tensor
    outputs: Tensor | None = None

    def __len__(self) -> int:
        return int(self.y.shape[0])


@dataclass(slots=True)
class Net:
    """The network in one pass, as terms see it. A term may write its gradients and weights, where its role says so.

    `weights` maps names to the trained parameters. `call(inputs)` is a forward pass: raw outputs float32 (n, columns),
    logits for classes. `losses(outputs, rows)` are unweighted losses float32 (n,), with masked classes left out
    (classes not seen yet, classes of other heads). `draw(n, stream)` draws n remembered rows, or all rows where fewer
    are held; a term chooses `stream`, a number from 0, so that its draws are independent of other draws. `rate` is
    the learning rate of this pass, `step` the number of passes before it.
    """

    module: nn.Module
    weights: Tensors
    columns: int
    classes: int
    seed: int
    call: Callable[[Inputs], Tensor]
    losses: Callable[[Tensor, TensorRows], Tensor]
    draw: Callable[[int, int], TensorRows]
    rate: float = 0.0
    step: int = 0

    def random(self, stream: int) -> torch.Generator:
        """Return the random numbers of (seed, step, stream)."""
        return generator(self.seed, self.step, stream, next(iter(self.weights.values())).device)


@dataclass(frozen=True, slots=True)
class Seen:
    """One forward pass as one term sees it: the new rows and the rows this term drew, each with the raw outputs.

    `outputs` and `drawn_outputs` carry gradients. `drawn` are the rows that this term requested by `Term.draws`; all
    terms share one pass. `drawn` has no rows for a term that draws none.
    """

    new: TensorRows
    outputs: Tensor
    drawn: TensorRows
    drawn_outputs: Tensor


class Term(NamedTuple):
    """One kind of loss term: plain functions of its settings, the network, its own tensors, and the rows.

    start        return a map of names to all its tensors, allocated once; they become arrays of the model
    draws        return how many remembered rows it needs in the forward pass of each step
    remembers    True to store the network's outputs with each remembered row (`TensorRows.outputs`)
    fresh        return the loss of the new rows, in place of the plain weighted mean; at most one term has it
    loss         return a loss to add, with gradients; None adds nothing
    gradient     change the gradients (`.grad` of the weights) after the backward pass, before the optimiser
    stepped      change weights, or its own tensors, after the optimiser; runs without gradients
    consolidate  take a new anchor from recently learned rows; runs without gradients, unless it enables them

    The first argument is always the settings of the term, the second `Net`, the third its own tensors.
    Functions that are None are not called.
    """

    start: Callable[[Any, Net], Tensors] | None = None
    draws: Callable[[Any], int] | None = None
    remembers: bool = False
    fresh: Callable[[Any, Net, Tensors, Seen], Tensor] | None = None
    loss: Callable[[Any, Net, Tensors, Seen], Tensor | None] | None = None
    gradient: Callable[[Any, Net, Tensors, Seen], None] | None = None
    stepped: Callable[[Any, Net, Tensors, Seen], None] | None = None
    consolidate: Callable[[Any, Net, Tensors, TensorRows], None] | None = None


def mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of losses (n,): the sum of the weighted losses over the number of rows."""
    return (losses * weight).sum() / max(1, losses.shape[0])


def generator(seed: int, step: int, stream: int, device: torch.device) -> torch.Generator:
    """Return the random numbers of (seed, step, stream), for tensors on this device."""
    mixed = (seed * 0x9E3779B1 + step * 0x85EBCA77 + stream * 0xC2B2AE3D) & 0x7FFF_FFFF_FFFF_FFFF
    return torch.Generator(device).manual_seed(mixed)
