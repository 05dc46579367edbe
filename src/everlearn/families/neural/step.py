"""One training step: learn a full minibatch, remember its rows, and take anchors where they are due.

full minibatch ─> count rows, detect drift ─> passes ─> memory ─> newest rows ─> consolidation
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everlearn import drift
from everlearn._torch import Tensor, array, torch
from everlearn.families.neural import consolidation, memory_update, minibatch_kernels, minibatch_queue, passes
from everlearn.families.neural.contract import Inputs
from everlearn.families.neural.passes import Pass
from everlearn.families.neural.plan import Plan
from everlearn.families.neural.training_state import (
    DRIFTS,
    PASSES,
    ROWS,
    SINCE,
    SKIPPED,
    TAKEN,
    UNTIL,
    WAITING,
    TrainingState,
)


def step(plan: Plan, state: TrainingState, inputs: Inputs) -> None:
    """Learn the full minibatch, whose module arguments are `inputs`, and empty the queue.

    If a pass raises, the rows stay in the queue and uncounted, and the step can be tried again.
    """
    before = [tensor.clone() for tensor in state.counted]
    try:
        inputs = _count(plan, state, inputs)
        drifted = _drifted(plan, state)
        results = _passes(plan, state, inputs)
    except BaseException:
        _put_back(plan, state, before)
        raise
    if plan.remembers:
        outputs = results[0].outputs[: plan.settings.batch]
        memory_update.remember(plan, state, outputs, results[-1].minibatch, _unfit(results))
    state.counts[WAITING] = 0
    if plan.consolidates:
        consolidation.keep(plan, state)
        if consolidation.due(plan, state, drifted):
            consolidation.consolidate(plan, state)


def _count(plan: Plan, state: TrainingState, inputs: Inputs) -> Inputs:
    """Count the rows in moments and classes; return the module arguments, scaled by the new moments.

    If a class came for the first time, the average of weights may begin again.
    """
    settings, labels = plan.settings, state.pending.labels
    if state.reader.layout.normalizes:
        state.reader = state.reader.counted(array(state.pending.dense), labels, state.moments)
        inputs = minibatch_queue.inputs(state)
    if settings.classes:
        share = min(1.0, settings.batch / max(1, settings.prior))
        new_class = minibatch_kernels.count_classes(labels, state.classes, state.prior, share)
        if new_class and settings.restart:
            state.counts[SINCE] = 0
    return inputs


def _drifted(plan: Plan, state: TrainingState) -> bool:
    """Show the losses of the rows to the drift detector; return True if it detects drift.

    Then the post-drift learning rate begins, and the average of weights may begin again.
    """
    if plan.drift is None:
        return False
    levels = drift.update(state.detector, plan.drift, array(state.tensors["learn/pending/loss"]))
    drifts = int((levels == 2).sum())
    if drifts:
        if plan.settings.restart:
            state.counts[SINCE] = 0
        state.counts[DRIFTS] += drifts
        state.counts[UNTIL] = state.counts[ROWS] + plan.settings.drift.grace_period
    return drifts > 0


def _passes(plan: Plan, state: TrainingState, inputs: Inputs) -> list[Pass]:
    """Run all passes over the minibatch; with each, revise the remembered rows that it drew."""
    results = []
    for _ in range(plan.settings.passes):
        results.append(passes.run(plan, state, inputs))
        memory_update.revise(plan, state, results[-1])
        state.counts[PASSES] += 1
    return results


def _unfit(results: list[Pass]) -> NDArray[np.bool_] | None:
    """Return the rows that prevented a step in any pass, bool (rows,); None if every pass took its step."""
    marks = [result.unfit for result in results if result.unfit is not None]
    return np.logical_or.reduce(marks) if marks else None


@torch.no_grad()
def _put_back(plan: Plan, state: TrainingState, before: list[Tensor]) -> None:
    """Undo the counting of rows after a failed pass. Completed passes stay counted."""
    plan.module.gather(state.buffers)
    passed = state.counts[[PASSES, TAKEN, SKIPPED]]
    torch._foreach_copy_(state.counted, before)
    state.counts[[PASSES, TAKEN, SKIPPED]] = passed
    state.reader = state.reader.scaled_by(state.moments)
