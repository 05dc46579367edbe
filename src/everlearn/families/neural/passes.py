"""One forward and backward pass over a minibatch, with a step of the optimiser.

new rows + drawn rows ─> forward ─> losses and terms ─> gradients ─> optimiser ─> average of weights
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._torch import Tensor, array, nn, torch
from everlearn.families.neural import minibatch_kernels, optimizer, replay_sampler
from everlearn.families.neural.contract import Inputs, Net, Seen, TensorRows, mean
from everlearn.families.neural.plan import Plan, network_in
from everlearn.families.neural.replay_sampler import Minibatch
from everlearn.families.neural.training_state import PASSES, ROWS, SINCE, SKIPPED, TAKEN, UNTIL, TrainingState

YOUNG = 3.0  # until `ema` bounds it, an average covers about the last third of its steps
SHARE, RARE = 0.02, 1e-8  # weight of one pass in the class frequencies of learned rows, and their lower bound

_NO_SLOTS = torch.zeros(0, dtype=torch.int64)


class Pass(NamedTuple):
    """The result of one pass: raw `outputs` float32 (rows of the minibatch, columns) before its step, detached.

    After a pass without a step, `unfit` bool (new rows,) marks the rows whose output, loss or gradient is not finite.
    """

    outputs: Tensor
    minibatch: Minibatch
    unfit: NDArray[np.bool_] | None


def run(plan: Plan, state: TrainingState, inputs: Inputs) -> Pass:
    """Run one pass over the waiting rows, whose module arguments are `inputs`, and take one step if it is finite."""
    counts, step = state.counts, int(state.counts[PASSES])
    with plan.seeded.by(step):
        minibatch = _minibatch(plan, state, step, inputs)
        outputs = plan.call(minibatch.x)
        logs = _log_frequencies(plan, state, minibatch.y)
        net = network_in(plan, _draw(plan, state, step), step=step, rate=_rate(plan, state), log_frequencies=logs)
        seen = _seen(plan, minibatch, outputs) if plan.terms.need_outputs else []
        finite = _descend(plan, state, net, _total(plan, state, net, minibatch, outputs, seen), seen)
        with torch.no_grad():
            for place, own, term in plan.terms.after_steps if finite else ():
                term.stepped(own, net, state.terms[place], seen[place])  # type: ignore[misc]
            if state.buffers:
                plan.module.gather(state.buffers)
        unfit = None
        if finite:
            _average(plan, state)
            counts[TAKEN] += 1
            counts[SINCE] += 1
        else:
            counts[SKIPPED] += 1
            if plan.settings.precision != "float16":  # there, passes without a step set the scale of the loss
                optimizer.warn(int(counts[SKIPPED]), step + 1)
            if plan.remembers:
                unfit = _unfit(net, minibatch.part(slice(0, plan.settings.batch)), outputs)
    return Pass(outputs.detach(), minibatch, unfit)


def _minibatch(plan: Plan, state: TrainingState, step: int, inputs: Inputs) -> Minibatch:
    """Return the new rows, with the rows that terms draw."""
    if plan.remembers and any(plan.terms.draws):
        return replay_sampler.minibatch(plan.sampler, state.memory, state.reader, step, inputs)
    y, weight = state.reader.labels(state.pending.y), state.pending.weight.to(plan.device)
    return Minibatch(inputs, y, weight, [0] * len(plan.terms.every), _NO_SLOTS, None)


def _draw(plan: Plan, state: TrainingState, step: int) -> partial[TensorRows]:
    return partial(replay_sampler.draw, plan.sampler, state.memory, state.reader, step)


def _rate(plan: Plan, state: TrainingState) -> float:
    """Return the learning rate of the next pass."""
    counts, settings = state.counts, plan.settings
    rate = plan.optimizer.rate * optimizer.rate(settings.schedule, int(counts[PASSES]))
    return rate * settings.drift.rate if counts[ROWS] < counts[UNTIL] else rate


def _log_frequencies(plan: Plan, state: TrainingState, y: Tensor) -> Tensor | None:
    """Count the classes of learned rows; return the log of their frequencies, float32 (classes,), if balanced."""
    settings = plan.settings
    if not settings.balances:
        return None
    frequent = state.tensors["learn/frequent"]
    if plan.device.type == "cpu":
        logs = np.empty(settings.classes, np.float32)
        minibatch_kernels.log_frequencies(array(y), array(frequent), SHARE, RARE, logs)
        return torch.from_numpy(logs)
    frequent.lerp_(torch.bincount(y, minlength=settings.classes) / len(y), SHARE)
    return (frequent + RARE).log()


def _seen(plan: Plan, minibatch: Minibatch, outputs: Tensor) -> list[Seen]:
    """Return the pass as each term sees it."""
    at = plan.settings.batch
    new, new_outputs, seen = minibatch._replace(outputs=None).part(slice(0, at)), outputs[:at], []
    for rows in minibatch.drawn:
        seen.append(Seen(new, new_outputs, minibatch.part(slice(at, at + rows)), outputs[at : at + rows]))
        at += rows
    return seen


def _total(
    plan: Plan, state: TrainingState, net: Net, minibatch: Minibatch, outputs: Tensor, seen: list[Seen]
) -> Tensor:
    """Return the loss of the pass, the terms included."""
    terms, n = plan.terms, plan.settings.batch
    if terms.joint is not None:
        n += minibatch.drawn[terms.joint]
    if terms.replacing is not None:
        place, own, term = terms.replacing
        total = term.fresh(own, net, state.terms[place], seen[place])  # type: ignore[misc]
    elif n == len(outputs):
        total = mean(net.losses(outputs, TensorRows((), minibatch.y, minibatch.weight)), minibatch.weight)
    else:
        weight = minibatch.weight[:n]
        total = mean(net.losses(outputs[:n], TensorRows((), minibatch.y[:n], weight)), weight)
    for place, own, term in terms.adding:
        more = term.loss(own, net, state.terms[place], seen[place])  # type: ignore[misc]
        total = total if more is None else total + more
    return total


def _descend(plan: Plan, state: TrainingState, net: Net, total: Tensor, seen: list[Seen]) -> bool:
    """Compute gradients, and take a step of the optimiser if all of them are finite; return True if they are."""
    weights = list(plan.weights.values())
    for weight in weights:
        weight.grad = None
    scale = state.tensors["learn/scaler/scale"] if plan.settings.precision == "float16" else None
    (total if scale is None else total * scale).backward(torch.ones((), device=plan.device))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        if scale is not None:
            torch._foreach_mul_([weight.grad for weight in weights if weight.grad is not None], 1.0 / scale)
        if plan.settings.clip:
            nn.utils.clip_grad_norm_(weights, plan.settings.clip)
        for place, own, term in plan.terms.changing_gradients:
            term.gradient(own, net, state.terms[place], seen[place])  # type: ignore[misc]
        finite = optimizer.finite(total.detach(), weights)
        if scale is not None:
            optimizer.rescale(scale, state.tensors["learn/scaler/steady"], finite)
        if finite:
            plan.optimizer.step(state.tensors, net.rate)
    return finite


@torch.no_grad()
def _average(plan: Plan, state: TrainingState) -> None:
    """Move the serving weights towards the trained ones, faster while the average is young."""
    average = state.average
    if average.served:
        decay = min(plan.settings.ema, (1.0 + int(state.counts[SINCE])) / (YOUNG + int(state.counts[SINCE])))
        torch._foreach_lerp_(average.served, average.trained, 1.0 - decay)
        for served, trained in average.copied:
            served.copy_(trained)


def _unfit(net: Net, new: TensorRows, outputs: Tensor) -> NDArray[np.bool_]:
    """Return which of the new rows prevent a step by themselves, bool (n,).

    Their output, their loss or its gradient is not finite. They are not remembered: drawn again, they would prevent
    later steps, too.
    """
    leaf = outputs.detach()[: len(new)].clone().requires_grad_()
    losses = net.losses(leaf, new) * new.weight
    gradients = torch.autograd.grad(losses.sum(), leaf)[0]
    largest = torch.cat([losses.detach()[:, None], leaf.detach(), gradients], 1).abs().amax(1)
    unfit: NDArray[np.bool_] = array(~(largest < optimizer.STEEPEST))
    return unfit
