"""The state of training: named tensors as they begin, and bound for the steps that change them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from everlearn import drift
from everlearn._torch import Tensor, Tensors, array, tensor, torch
from everlearn.families.neural import replay_sampler, requirements, row_buffer
from everlearn.families.neural.contract import TensorRows
from everlearn.families.neural.inputs import InputReader
from everlearn.families.neural.named_tensors import RAW, SERVED, under, within
from everlearn.families.neural.plan import Plan, network_in
from everlearn.families.neural.replay_sampler import BoundMemory
from everlearn.families.neural.row_buffer import RowBuffer
from everlearn.records import Floats, Ints

# Places in `learn/counts`: rows learned or waiting; rows waiting; passes begun; optimiser steps taken; the row at which
# the post-drift learning rate ends; drifts detected; passes without a step; steps since the average began.
ROWS, WAITING, PASSES, TAKEN, UNTIL, DRIFTS, SKIPPED, SINCE, COUNTERS = range(9)


class Average(NamedTuple):
    """Tensors that serve and the trained tensors they follow: averaged if floating point, else copied."""

    served: list[Tensor]
    trained: list[Tensor]
    copied: list[tuple[Tensor, Tensor]]


@dataclass(slots=True)
class TrainingState:
    """Everything that a step changes. All but `reader` is memory of `tensors`, seen in the form that steps use.

    `counts`, `classes`, `prior` and `moments` are the arrays `learn/counts`, `classes`, `prior` and `inputs/moments`.
    `pending` are the rows of the unfinished minibatch, `recent` the newest rows, for consolidations. `buffers` are
    those of the module, `terms` the tensors of each term. `counted` are the tensors to put back after a failed pass.
    """

    tensors: Tensors
    reader: InputReader
    counts: Ints
    classes: Ints
    prior: Floats
    moments: Floats
    pending: RowBuffer
    recent: RowBuffer | None
    memory: BoundMemory
    detector: dict[str, NDArray[Any]]
    terms: list[Tensors]
    buffers: Tensors
    average: Average
    counted: list[Tensor]


def start(plan: Plan) -> Tensors:
    """Return all tensors under learn/ as they begin, except the trained weights."""
    settings = plan.settings
    pending = row_buffer.start(settings, settings.batch, plan.whole)
    started = {"learn/counts": torch.zeros(COUNTERS, dtype=torch.int64), **under("learn/pending/", pending)}
    started |= plan.optimizer.start
    if settings.balances:
        started["learn/frequent"] = torch.full((settings.classes,), 1.0 / settings.classes, device=plan.device)
    if plan.consolidates:
        started |= under("learn/recent/", row_buffer.start(settings, settings.consolidate.rows, plan.whole))
    if plan.drift is not None:
        started["learn/pending/loss"] = torch.zeros(settings.batch, dtype=torch.float64)
        detector = drift.start(plan.drift, settings.seed)
        started |= {f"learn/drift/{name}": tensor(held) for name, held in detector.items()}
    if settings.precision == "float16":
        started["learn/scaler/scale"] = torch.full((), 2.0**16, device=plan.device)
        started["learn/scaler/steady"] = torch.zeros((), dtype=torch.int64, device=plan.device)
    if plan.remembers:
        started |= under("learn/memory/", replay_sampler.start(plan.sampler, settings))
    untrained = network_in(plan, _no_memory)
    for planned in plan.terms.every:
        _, own, term = planned
        if term.start is not None:
            started |= under(requirements.prefix(planned), term.start(own, untrained))
    return started


def _no_memory(n: int, stream: int) -> TensorRows:
    raise RuntimeError("a term cannot draw remembered rows before the first step")


def bind(plan: Plan, tensors: Tensors, reader: InputReader) -> TrainingState:
    """Bind the plan's module and optimiser to these tensors; return the state. `reader` is scaled by their moments."""
    settings, names = plan.settings, plan.names
    trained = RAW if settings.ema else SERVED
    learned = [*names.trained, *names.buffers]
    weights = {name: tensors[trained + name] for name in learned}
    weights |= {name: tensors[SERVED + name] for name in names.fixed if SERVED + name in tensors}
    plan.module.bind(weights)
    buffers = {name: tensors[trained + name] for name in names.buffers}
    pairs = [(tensors[SERVED + name], tensors[trained + name]) for name in learned] if settings.ema else []
    averaged = [pair for pair in pairs if pair[0].is_floating_point()]
    pending = row_buffer.bound(tensors, "learn/pending/", plan.whole)
    changing = ("learn/counts", "classes", "prior", "inputs/moments", "learn/frequent")
    counted = [tensors[name] for name in changing if name in tensors]
    counts: Ints = array(tensors["learn/counts"])
    plan.optimizer.bind(tensors, int(counts[TAKEN]))
    return TrainingState(
        tensors=tensors,
        reader=reader,
        counts=counts,
        classes=array(tensors["classes"]),
        prior=array(tensors["prior"]),
        moments=array(tensors["inputs/moments"]),
        pending=pending,
        recent=row_buffer.bound(tensors, "learn/recent/", plan.whole) if plan.consolidates else None,
        memory=replay_sampler.bind(plan.sampler, within(tensors, "learn/memory/"), pending),
        detector={name: array(held) for name, held in within(tensors, "learn/drift/").items()},
        terms=[within(tensors, requirements.prefix(planned)) for planned in plan.terms.every],
        buffers=buffers,
        average=Average(
            [served for served, _ in averaged],
            [source for _, source in averaged],
            [pair for pair in pairs if not pair[0].is_floating_point()],
        ),
        counted=[*counted, *within(tensors, "learn/drift/").values(), *buffers.values()],
    )
