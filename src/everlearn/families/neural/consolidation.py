"""Consolidation: terms take new anchors from the newest rows."""

from __future__ import annotations

from functools import partial

import numpy as np

from everlearn._torch import Tensor, torch
from everlearn.families.neural import replay_sampler
from everlearn.families.neural.contract import TensorRows
from everlearn.families.neural.plan import Plan, network_in
from everlearn.families.neural.training_state import PASSES, ROWS, WAITING, TrainingState


def keep(plan: Plan, state: TrainingState) -> None:
    """Copy the learned minibatch over the oldest of the newest rows."""
    if state.recent is None:
        return
    size, batch = len(state.recent.y), plan.settings.batch
    rows = min(size, batch)
    to = (int(state.counts[ROWS]) - rows + np.arange(rows)) % size
    state.recent.put(state.pending.columns, to, slice(batch - rows, None))


def due(plan: Plan, state: TrainingState, drifted: bool) -> bool:
    """Return True if anchors are to be taken after this minibatch."""
    settings, rows = plan.settings, state.counts[ROWS]
    every = settings.consolidate.every
    crossed = every > 0 and rows // every > (rows - settings.batch) // every
    return bool(crossed or (drifted and settings.drift.consolidate))


def consolidate(plan: Plan, state: TrainingState) -> None:
    """Let terms take anchors from the newest rows, if any term has them and anything was learned.

    The module is in eval mode meanwhile. If weights change, the serving weights become equal to them at once.
    """
    if state.recent is None or not state.counts[PASSES]:
        return
    newest, module, step = _newest(state), plan.module.module, int(state.counts[PASSES])
    before = [weight.detach().clone() for weight in plan.weights.values()]
    modes = [layer.training for layer in module.modules()]
    draw = partial(replay_sampler.draw, plan.sampler, state.memory, state.reader, step)
    net = network_in(plan, draw, step=step, unseen=_unseen(plan, state))
    module.eval()
    try:
        with plan.seeded.by(step), torch.no_grad():
            for place, own, term in plan.terms.consolidating:
                term.consolidate(own, net, state.terms[place], newest)  # type: ignore[misc]
    finally:
        for layer, mode in zip(module.modules(), modes, strict=True):
            layer.training = mode
        plan.module.gather(state.buffers)
    if not all(torch.equal(was, weight) for was, weight in zip(before, plan.weights.values(), strict=True)):
        average = state.average
        for served, trained in [*zip(average.served, average.trained, strict=True), *average.copied]:
            served.copy_(trained)


def _newest(state: TrainingState) -> TensorRows:
    """Return the newest rows that were learned, oldest first."""
    recent = state.recent
    assert recent is not None
    size, learned = len(recent.y), int(state.counts[ROWS] - state.counts[WAITING])
    rows = min(size, learned)
    at = torch.from_numpy((learned - rows + np.arange(rows)) % size)
    device = state.reader.layout.device
    return TensorRows(
        state.reader.inputs(*recent.part(at)), state.reader.labels(recent.y[at]), recent.weight[at].to(device)
    )


def _unseen(plan: Plan, state: TrainingState) -> Tensor | None:
    """Return the mask of unseen classes, bool (classes,), or None when no mask applies.

    A user's own loss gets no mask, because it may not take a logit of -1e30.
    """
    settings = plan.settings
    if settings.task != "multiclass" or settings.known or settings.loss != "auto":
        return None
    return torch.from_numpy(state.classes == 0).to(plan.device)
