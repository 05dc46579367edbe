"""What the parts of one step of learning hand to each other.

rows that came  ─┐
                 ├─ one forward pass ─ loss of the new rows + terms ─ gradients ─ optimiser ─ average of weights
rows remembered ─┘
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from everlearn._torch import Tensor, Tensors, nn, torch

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """n labelled rows, on the device of the network; the first axis is the row.

    `x` are the arguments of the module: (inputs,), or (inputs, indices, values) where rows have hashed features:
    int64 and float32 (n, width), padded with index 0 and value 0. `y` is int64 (n,), the class, or float32 (n,), the
    number to predict. `weight` is float32 (n,). `said` is float32 (n, outputs): what the network answered when a row
    was remembered; None for rows that have just come, and where no term asks for it.
    """

    x: Inputs
    y: Tensor
    weight: Tensor
    said: Tensor | None = None

    def __len__(self) -> int:
        return int(self.y.shape[0])


@dataclass(slots=True)
class Net:
    """The network that learns, as terms see it. They write its gradients and weights, where they exist for that.

    `weights` are the parameters that are trained, by name. `call(inputs)` is a forward pass, float32 (n, columns) raw
    outputs (logits, for classes). `losses(outputs, rows)` are losses (n,), not weighted, with what is masked
    masked (classes not met yet; other heads). `draw(n, stream)` are n remembered rows, of the random stream `stream`
    (a number from 0 that a term chooses), or fewer than n where fewer are held. `rate` is the learning rate of this
    step, `step` the number of steps before it.
    """

    module: nn.Module
    weights: Tensors
    columns: int
    classes: int
    seed: int
    call: Callable[[Inputs], Tensor]
    losses: Callable[[Tensor, Rows], Tensor]
    draw: Callable[[int, int], Rows]
    rate: float = 0.0
    step: int = 0

    def random(self, stream: int) -> torch.Generator:
        """Random numbers that belong to (seed, step, stream)."""
        mixed = (self.seed * 0x9E3779B1 + self.step * 0x85EBCA77 + stream * 0xC2B2AE3D) & 0x7FFF_FFFF_FFFF_FFFF
        return torch.Generator(next(iter(self.weights.values())).device).manual_seed(mixed)


@dataclass(frozen=True, slots=True)
class Seen:
    """One forward pass: the rows that came and what the network says of them, and those a term drew, with the same.

    `outputs` and `drawn_outputs` carry gradients. `drawn` are the rows that this term asked for by `Term.draws`; the
    passes of all terms are one. Without any, `drawn` has no rows.
    """

    new: Rows
    outputs: Tensor
    drawn: Rows
    drawn_outputs: Tensor


class Term(NamedTuple):
    """One kind of term of the loss: plain functions of its settings, the network, its own tensors, and the rows.

    start        its tensors by name, all of them, allocated for good; they are arrays of the model from then on
    draws        how many remembered rows it wants in the forward pass of each step
    remembers    whether rows are remembered with what the network answered (`Rows.said`)
    fresh        the loss of the rows that came, instead of the plain weighted mean; of one term at most
    loss         what to add to the loss; None is nothing. Carries gradients
    gradient     changes the gradients (`.grad` of the weights) after the backward pass, before the optimiser
    stepped      changes weights, or its own tensors, after the optimiser; without gradients
    consolidate  looks at rows of what was learned lately, and takes a new anchor; without gradients, unless it asks

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
    consolidate: Callable[[Any, Net, Tensors, Rows], None] | None = None


def mean(losses: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean of losses (n,): the sum of the weighted losses over the number of rows."""
    return (losses * weight).sum() / max(1, losses.shape[0])
