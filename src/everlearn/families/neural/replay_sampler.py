"""What a network remembers, and the minibatch that is made of new rows and remembered ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._torch import Tensor, Tensors, array, torch
from everlearn.families.neural import augment, buffer_policy, memory, minibatch_kernels
from everlearn.families.neural.contract import Inputs, Net, Rows
from everlearn.families.neural.inputs import Reading
from everlearn.families.neural.minibatch_kernels import Fields
from everlearn.families.neural.row_buffer import Kept
from everlearn.families.neural.settings import Settings
from everlearn.records import Ints, Singles

STREAMS = 1 << 20  # random streams of draws, of one pass
AUGMENT = 1 << 19  # and of changes of what was drawn
_NO_LOSSES, _NO_SLOTS = np.zeros(0, np.float32), np.zeros(0, np.int64)


class Minibatch(NamedTuple):
    """New rows, then drawn ones: `x`, `y` and `weight` of all, how many each term drew, and their slots."""

    x: Inputs
    y: Tensor
    weight: Tensor
    found: list[int]
    slots: Tensor
    said: Tensor | None


class Past:
    """The memory of one network. `wanted` are the rows that each term draws for every step; `said`: whether answers
    are remembered, too."""

    def __init__(self, chosen: Settings, reading: Reading, device: torch.device, wanted: list[int], said: bool) -> None:
        self.spec, self._chosen, self._reading, self._device = chosen.memory, chosen, reading, device
        self._wanted: Ints = np.array(wanted, np.int64)
        self._said = chosen.outputs if said else 0
        self._augment = augment.find(chosen.memory.augment)
        self._near = device.type == "cpu" and chosen.memory.dtype != "float16"  # kernels have no such numbers
        self._held: Tensors = {}

    def start(self) -> Tensors:
        """Its tensors, as they begin."""
        chosen = self._chosen
        return memory.start(
            self.spec,
            dense=chosen.dense,
            width=chosen.width if chosen.hashed else 0,
            classes=chosen.classes,
            outputs=self._said,
            seed=chosen.seed,
            device=self._device,
        )

    def bind(self, held: Tensors, pending: Kept) -> None:
        """Work on these tensors, and on these rows that wait, from now on."""
        self._held, self._pending = held, pending
        if not self._near or not held:
            return
        self._book = memory.book_of(held)
        self._fields = Fields(*(array(held[name]) for name in Fields._fields))
        dense, indices, values = (array(one) for one in (pending.dense, pending.indices, pending.values))
        batch, most = len(pending.y), len(pending.y) + int(self._wanted.sum())
        none: Singles = np.zeros((batch, 0), np.float32)
        self._new = Fields(dense, indices, values, array(pending.y), array(pending.weight), none)
        self._both = Fields(
            np.zeros((most, dense.shape[1]), dense.dtype),
            np.zeros((most, indices.shape[1]), np.int32),
            np.zeros((most, values.shape[1]), np.float32),
            np.zeros(most),
            np.zeros(most, np.float32),
            np.zeros((most, self._said), np.float32),
        )
        self._tensors = [torch.from_numpy(one) for one in self._both]
        self._labels: Ints = np.zeros(most, np.int64)
        self._label_tensor = torch.from_numpy(self._labels)
        self._slots: Ints = np.zeros(most - batch, np.int64)
        self._found: Ints = np.zeros(len(self._wanted), np.int64)
        self._sketches: NDArray[np.int8] = np.zeros((batch, 0), np.int8)

    def minibatch(self, net: Net, inputs: Inputs) -> Minibatch:
        """The rows that wait, whose `inputs` are these, and those that terms want, of random streams of this step."""
        if not self._near:
            y, weight = self._reading.labels(self._pending.y), self._pending.weight.to(self._device)
            return self._far(net, Rows(inputs, y, weight))
        batch, key = self._chosen.batch, net.step * STREAMS
        given = self._new, self._book, self._fields, self._wanted, key
        n = minibatch_kernels.join(*given, self._both, self._labels, self._slots, self._found)
        dense, indices, values, y, weight, said = (
            self._tensors if n == len(self._labels) else [one[:n] for one in self._tensors]
        )
        found = self._found.tolist()
        x = self._reading.inputs(dense, indices, values)
        if self._augment is not None:
            at = batch
            for stream, many in enumerate(found):
                if many:
                    changed = x[0][at : at + many]
                    x[0][at : at + many] = self._augment(changed, net.random(AUGMENT + stream))
                at += many
        labels = self._label_tensor[:n] if self._chosen.classes else self._reading.labels(y)
        slots = torch.from_numpy(self._slots[: n - batch])
        return Minibatch(x, labels, weight, found, slots, self._reading.standardised(said) if self._said else None)

    def _far(self, net: Net, new: Rows) -> Minibatch:
        """The same where the memory is not at hand for kernels."""
        drawn = [self._picked(net, many, i) for i, many in enumerate(self._wanted.tolist()) if many]
        every = [new, *(rows for rows, _ in drawn)]
        x = tuple(map(torch.cat, zip(*(rows.x for rows in every), strict=True)))
        y, weight = torch.cat([rows.y for rows in every]), torch.cat([rows.weight for rows in every])
        slots = torch.cat([slots for _, slots in drawn])
        sizes = iter(len(slots) for _, slots in drawn)
        found = [next(sizes) if many else 0 for many in self._wanted]
        said = None
        if self._said:
            none = torch.zeros((len(new), self._said), device=self._device)
            said = torch.cat([none, *(rows.said for rows, _ in drawn if rows.said is not None)])
        return Minibatch(x, y, weight, found, slots, said)

    def draw(self, net: Net, many: int, stream: int) -> Rows:
        """Remembered rows, as the network takes them; fewer where fewer are held."""
        return self._picked(net, many, stream)[0]

    def _picked(self, net: Net, many: int, stream: int) -> tuple[Rows, Tensor]:
        slots = memory.pick(self._held, many, net.step * STREAMS + stream)
        rows = self.rows(memory.take(self._held, slots))
        if self._augment is None or not len(slots):
            return rows, slots
        changed = self._augment(rows.x[0], net.random(AUGMENT + stream))
        return Rows((changed, *rows.x[1:]), rows.y, rows.weight, rows.said), slots

    def rows(self, stored: memory.Stored) -> Rows:
        """Rows as they are remembered, as the network takes them."""
        x = self._reading.inputs(stored.dense, stored.indices, stored.values)
        said = self._reading.standardised(stored.said) if self._said else None
        return Rows(x, self._reading.labels(stored.y), stored.weight, said)

    def add(
        self, said: Tensor, losses: Tensor | None, gradients: Tensor | None, compared: Tensor | None, at: int
    ) -> None:
        """Offer the rows that wait, row i at position `at` + i, with what was said of them before they were learned."""
        said = self._reading.in_units(said)
        if not self._near:
            pending = self._pending
            dense = pending.dense
            if dense.is_floating_point():
                dense = memory.rounded(self._reading.filled(dense), self.spec)
            answers = said if self._said else said[:, :0]
            rows = memory.Stored(dense, pending.indices, pending.values, pending.y, pending.weight, answers)
            memory.add(self._held, self.spec, rows, losses=losses, gradients=gradients, compared=compared, at=at)
            return
        lost: Singles = _NO_LOSSES if losses is None else array(losses)
        sketches = self._sketches
        if gradients is not None:
            sketches = buffer_policy.sketched(array(gradients), self._chosen.seed)
        slots = _NO_SLOTS if compared is None else array(compared)
        answers_now = array(said) if self._said else self._new.said
        given = self._book, self._fields, self._new, answers_now, self._reading.fill
        minibatch_kernels.remember(*given, lost, sketches, slots, at)

    def revise(self, slots: Tensor, losses: Tensor | None, gradients: Tensor | None) -> None:
        """Note what the rows in these slots lose now."""
        memory.revise(self._held, slots, losses=losses, gradients=gradients)

    def parts(self, size: int) -> Iterator[Rows]:
        """All that is remembered, oldest first, at most so many rows at once."""
        return (self.rows(stored) for stored in memory.parts(self._held, size))
