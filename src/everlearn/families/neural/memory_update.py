"""Offer learned rows to the memory, and note the present losses of rows that were drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn._torch import Tensor, torch
from everlearn.families.neural import losses, memory, replay_sampler, row_buffer
from everlearn.families.neural.contract import TensorRows
from everlearn.families.neural.named_tensors import within
from everlearn.families.neural.passes import Pass
from everlearn.families.neural.plan import Plan
from everlearn.families.neural.replay_sampler import Minibatch
from everlearn.families.neural.training_state import ROWS, TrainingState


def remember(
    plan: Plan, state: TrainingState, outputs: Tensor, minibatch: Minibatch, unfit: NDArray[np.bool_] | None
) -> None:
    """Offer the waiting rows to the memory, except `unfit` ones, bool (rows,).

    `outputs` (rows, columns) are those before the rows were learned; `minibatch` is that of the last pass.
    """
    new_losses = gradients = compared = None
    if plan.revises:
        new_losses, gradients = _judged(plan, outputs, minibatch.part(slice(0, plan.settings.batch)))
        compared = minibatch.slots if plan.settings.memory.kind == "gradient" and len(minibatch.slots) else None
    first, sampler, reader = int(state.counts[ROWS]) - plan.settings.batch, plan.sampler, state.reader
    if unfit is None or not unfit.any():
        replay_sampler.add(
            sampler,
            state.memory,
            reader,
            outputs,
            losses=new_losses,
            gradients=gradients,
            compared=compared,
            at=first,
        )
        return
    for at in np.flatnonzero(~unfit).tolist():  # one row at a time leaves the same bytes as all at once
        row = slice(at, at + 1)
        alone = {name: column[row] for name, column in within(state.tensors, "learn/pending/").items()}
        replay_sampler.add(
            sampler,
            replay_sampler.bind(sampler, state.memory.held, row_buffer.bound(alone, "", plan.whole)),
            reader,
            outputs[row],
            losses=None if new_losses is None else new_losses[row],
            gradients=None if gradients is None else gradients[row],
            compared=compared,
            at=first + at,
        )


def revise(plan: Plan, state: TrainingState, result: Pass) -> None:
    """Note the present losses or gradients of the rows drawn in a pass, where these decide which rows stay."""
    if not plan.revises or not len(result.minibatch.slots):
        return
    drawn = slice(plan.settings.batch, None)
    drawn_losses, gradients = _judged(plan, result.outputs[drawn], result.minibatch.part(drawn))
    memory.revise(state.memory.held, result.minibatch.slots, losses=drawn_losses, gradients=gradients)


def _judged(plan: Plan, outputs: Tensor, rows: TensorRows) -> tuple[Tensor | None, Tensor | None]:
    """Return the losses (n,) of rows, or their gradients (n, columns) in the outputs, by the kind of memory."""
    if plan.settings.memory.kind == "loss":
        return _losses(plan, outputs, rows).detach(), None
    leaf = outputs.detach().clone().requires_grad_()
    return None, torch.autograd.grad(_losses(plan, leaf, rows).sum(), leaf)[0]


def _losses(plan: Plan, outputs: Tensor, rows: TensorRows) -> Tensor:
    return plan.loss(losses.masked(outputs, rows.y, plan.heads, None, None), rows.y)
