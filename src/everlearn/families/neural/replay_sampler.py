"""Draw remembered rows, join them with the new rows of a minibatch, and offer new rows to the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._torch import Tensor, Tensors, array, torch
from everlearn.families.neural import augment, buffer_policy, memory, minibatch_kernels
from everlearn.families.neural.augment import Augment
from everlearn.families.neural.buffer_policy import SlotTable
from everlearn.families.neural.contract import Inputs, TensorRows, generator
from everlearn.families.neural.inputs import InputReader
from everlearn.families.neural.minibatch_kernels import RowArrays
from everlearn.families.neural.row_buffer import RowBuffer
from everlearn.families.neural.settings import Memory, Settings
from everlearn.records import Ints, Singles

STREAMS = 1 << 20  # random streams of the draws of one pass
AUGMENT = 1 << 19  # the first random stream of augmentation
_NO_LOSSES, _NO_SLOTS = np.zeros(0, np.float32), np.zeros(0, np.int64)


class Minibatch(NamedTuple):
    """New rows, then drawn rows: `x`, `y` and `weight` of all of them.

    `drawn` is the number of rows drawn for each term, `slots` int64 (drawn rows,) are their slots in the memory, and
    `outputs` float32 (n, outputs) their stored outputs, or None where outputs are not stored.
    """

    x: Inputs
    y: Tensor
    weight: Tensor
    drawn: list[int]
    slots: Tensor
    outputs: Tensor | None

    def part(self, at: slice) -> TensorRows:
        """Return some rows, with their stored outputs."""
        outputs = None if self.outputs is None else self.outputs[at]
        return TensorRows(tuple(column[at] for column in self.x), self.y[at], self.weight[at], outputs)


@dataclass(frozen=True, slots=True)
class ReplaySampler:
    """The way in which one network draws from its memory and adds to it.

    `draws` int64 (terms,) is the number of rows that each term draws for every pass; `outputs` the number of stored
    outputs of a row, 0 if they are not stored. `in_kernels`: the memory is on the CPU, in a dtype that kernels have.
    """

    spec: Memory
    batch: int
    classes: int
    outputs: int
    seed: int
    device: torch.device
    draws: Ints
    augment: Augment | None
    in_kernels: bool


class KernelArrays(NamedTuple):
    """The arrays of a memory and of a minibatch, as kernels take them; `tensors` and `label_tensor` share memory."""

    table: SlotTable
    held: RowArrays
    new: RowArrays
    joined: RowArrays
    tensors: list[Tensor]
    labels: Ints
    label_tensor: Tensor
    slots: Ints
    drawn: Ints


@dataclass(frozen=True, slots=True)
class BoundMemory:
    """The tensors of a memory, and the rows of the unfinished minibatch; `kernels` where kernels do the work."""

    held: Tensors
    pending: RowBuffer
    kernels: KernelArrays | None


def sampler(settings: Settings, device: torch.device, draws: list[int], keeps_outputs: bool) -> ReplaySampler:
    """Return the sampler of a network. Raises `ConfigError` where memory.augment names no function."""
    return ReplaySampler(
        spec=settings.memory,
        batch=settings.batch,
        classes=settings.classes,
        outputs=settings.outputs if keeps_outputs else 0,
        seed=settings.seed,
        device=device,
        draws=np.array(draws, np.int64),
        augment=augment.find(settings.memory.augment),
        in_kernels=device.type == "cpu" and settings.memory.dtype != "float16",
    )


def start(sampler: ReplaySampler, settings: Settings) -> Tensors:
    """Allocate the tensors of the memory. Raises `ConfigError` if not one row fits."""
    return memory.start(
        sampler.spec,
        dense=settings.dense,
        width=settings.width if settings.hashed else 0,
        classes=settings.classes,
        outputs=sampler.outputs,
        seed=settings.seed,
        device=sampler.device,
    )


def bind(sampler: ReplaySampler, held: Tensors, pending: RowBuffer) -> BoundMemory:
    """Return the memory around these tensors and these waiting rows."""
    if not sampler.in_kernels or not held:
        return BoundMemory(held, pending, None)
    dense, indices, values = (array(column) for column in (pending.dense, pending.indices, pending.values))
    batch, most = len(pending.y), len(pending.y) + int(sampler.draws.sum())
    none: Singles = np.zeros((batch, 0), np.float32)
    joined = RowArrays(
        np.zeros((most, dense.shape[1]), dense.dtype),
        np.zeros((most, indices.shape[1]), np.int32),
        np.zeros((most, values.shape[1]), np.float32),
        np.zeros(most),
        np.zeros(most, np.float32),
        np.zeros((most, sampler.outputs), np.float32),
    )
    labels: Ints = np.zeros(most, np.int64)
    kernels = KernelArrays(
        table=memory.table_of(held),
        held=RowArrays(*(array(held[name]) for name in memory.ROW_ARRAYS)),
        new=RowArrays(dense, indices, values, array(pending.y), array(pending.weight), none),
        joined=joined,
        tensors=[torch.from_numpy(column) for column in joined],
        labels=labels,
        label_tensor=torch.from_numpy(labels),
        slots=np.zeros(most - batch, np.int64),
        drawn=np.zeros(len(sampler.draws), np.int64),
    )
    return BoundMemory(held, pending, kernels)


def minibatch(sampler: ReplaySampler, bound: BoundMemory, reader: InputReader, step: int, inputs: Inputs) -> Minibatch:
    """Return the waiting rows, whose module arguments are `inputs`, joined with the rows that terms draw in a step."""
    kernels = bound.kernels
    if kernels is None:
        return _concatenated(sampler, bound, reader, step, inputs)
    n = minibatch_kernels.join(
        kernels.new,
        kernels.table,
        kernels.held,
        sampler.draws,
        step * STREAMS,
        kernels.joined,
        kernels.labels,
        kernels.slots,
        kernels.drawn,
    )
    dense, indices, values, y, weight, outputs = (
        kernels.tensors if n == len(kernels.labels) else [column[:n] for column in kernels.tensors]
    )
    drawn = kernels.drawn.tolist()
    x = reader.inputs(dense, indices, values)
    if sampler.augment is not None:
        at = sampler.batch
        for stream, rows in enumerate(drawn):
            if rows:
                x[0][at : at + rows] = _augmented(sampler, sampler.augment, x[0][at : at + rows], step, stream)
            at += rows
    labels = kernels.label_tensor[:n] if sampler.classes else reader.labels(y)
    slots = torch.from_numpy(kernels.slots[: n - sampler.batch])
    return Minibatch(x, labels, weight, drawn, slots, reader.standardised(outputs) if sampler.outputs else None)


def _concatenated(
    sampler: ReplaySampler, bound: BoundMemory, reader: InputReader, step: int, inputs: Inputs
) -> Minibatch:
    """Return the same minibatch where kernels do not reach the memory."""
    pending = bound.pending
    new = TensorRows(inputs, reader.labels(pending.y), pending.weight.to(sampler.device))
    draws = [_drawn(sampler, bound, reader, step, n, i) for i, n in enumerate(sampler.draws.tolist()) if n]
    parts = [new, *(rows for rows, _ in draws)]
    x = tuple(map(torch.cat, zip(*(rows.x for rows in parts), strict=True)))
    y, weight = torch.cat([rows.y for rows in parts]), torch.cat([rows.weight for rows in parts])
    slots = torch.cat([slots for _, slots in draws])
    sizes = iter(len(slots) for _, slots in draws)
    drawn = [next(sizes) if n else 0 for n in sampler.draws]
    outputs = None
    if sampler.outputs:
        none = torch.zeros((len(new), sampler.outputs), device=sampler.device)
        outputs = torch.cat([none, *(rows.outputs for rows, _ in draws if rows.outputs is not None)])
    return Minibatch(x, y, weight, drawn, slots, outputs)


def draw(sampler: ReplaySampler, bound: BoundMemory, reader: InputReader, step: int, n: int, stream: int) -> TensorRows:
    """Return n remembered rows as the network takes them, or all rows where fewer are held."""
    return _drawn(sampler, bound, reader, step, n, stream)[0]


def _drawn(
    sampler: ReplaySampler, bound: BoundMemory, reader: InputReader, step: int, n: int, stream: int
) -> tuple[TensorRows, Tensor]:
    slots = memory.pick(bound.held, n, step * STREAMS + stream)
    rows = _read(sampler, reader, memory.take(bound.held, slots))
    if sampler.augment is None or not len(slots):
        return rows, slots
    changed = _augmented(sampler, sampler.augment, rows.x[0], step, stream)
    return TensorRows((changed, *rows.x[1:]), rows.y, rows.weight, rows.outputs), slots


def _augmented(sampler: ReplaySampler, function: Augment, x: Tensor, step: int, stream: int) -> Tensor:
    return function(x, generator(sampler.seed, step, AUGMENT + stream, sampler.device))


def _read(sampler: ReplaySampler, reader: InputReader, stored: memory.StoredRows) -> TensorRows:
    x = reader.inputs(stored.dense, stored.indices, stored.values)
    outputs = reader.standardised(stored.outputs) if sampler.outputs else None
    return TensorRows(x, reader.labels(stored.y), stored.weight, outputs)


def add(
    sampler: ReplaySampler,
    bound: BoundMemory,
    reader: InputReader,
    outputs: Tensor,
    *,
    losses: Tensor | None,
    gradients: Tensor | None,
    compared: Tensor | None,
    at: int,
) -> None:
    """Offer the waiting rows to the memory, row i at position `at` + i.

    `outputs` are the raw outputs for them before they were learned; the rest is as in `memory.add`.
    """
    outputs, kernels = reader.in_label_units(outputs), bound.kernels
    if kernels is None:
        pending = bound.pending
        dense = pending.dense
        if dense.is_floating_point():
            dense = memory.rounded(reader.filled(dense), sampler.spec)
        stored = outputs if sampler.outputs else outputs[:, :0]
        rows = memory.StoredRows(dense, pending.indices, pending.values, pending.y, pending.weight, stored)
        memory.add(bound.held, sampler.spec, rows, losses=losses, gradients=gradients, compared=compared, at=at)
        return
    sketches: NDArray[np.int8] = np.zeros((len(kernels.new.y), 0), np.int8)
    if gradients is not None:
        sketches = buffer_policy.sketched(array(gradients), sampler.seed)
    minibatch_kernels.remember(
        kernels.table,
        kernels.held,
        kernels.new,
        array(outputs) if sampler.outputs else kernels.new.outputs,
        reader.scaling.fill,
        _NO_LOSSES if losses is None else array(losses),
        sketches,
        _NO_SLOTS if compared is None else array(compared),
        at,
    )


def parts(sampler: ReplaySampler, held: Tensors, reader: InputReader, size: int = 1024) -> Iterator[TensorRows]:
    """Yield all remembered rows, oldest first, at most `size` rows at once."""
    return (_read(sampler, reader, stored) for stored in memory.parts(held, size))
