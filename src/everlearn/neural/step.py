"""One step of learning, and what it needs: rows that wait for their minibatch, memory, terms, optimiser, averages.

rows wait in `learn/pending` ─ full ─> drawn rows join ─> forward, losses, backward ─> optimiser ─> average
                                        └ memory <─ the new rows, afterwards ─> the newest rows ─> consolidation
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from everlearn import drift
from everlearn._torch import Tensor, Tensors, array, nn, tensor, torch
from everlearn.errors import ConfigError
from everlearn.neural import augment, memory, network, optimizer
from everlearn.neural.inputs import Raw, Reading
from everlearn.neural.parts import Inputs, Net, Rows, Seen, Term, mean
from everlearn.neural.settings import Settings
from everlearn.neural.state import RAW, SERVED, Mould, Names
from everlearn.neural.terms import FUNCTIONS
from everlearn.neural.terms.replay import Agem, Distill, Gdumb, Replay
from everlearn.records import Floats, Ints, Singles
from everlearn.spec import DriftSpec

# where each counter stands: rows learned or waiting, rows waiting, passes begun, steps taken, until which row the rate
# is changed, drifts seen, passes without a step
ROWS, WAITING, PASSES, TAKEN, UNTIL, DRIFTS, SKIPPED, COUNTERS = range(8)
STREAMS = 1 << 20  # random streams of draws, of one pass
AUGMENT = 1 << 19  # and of changes of what was drawn
STEEPEST = 1e18  # gradients beyond this are not taken for numbers: their squares are no float32
GROWTH, BACKOFF, STEADY = 2.0, 0.5, 2000  # of the scale of float16 losses


@dataclass(frozen=True, slots=True)
class Ring:
    """Rows by their fields, float32 columns as the bits of int32: a missing value is NaN, and arrays hold numbers."""

    dense: Tensor
    indices: Tensor
    values: Tensor
    y: Tensor
    weight: Tensor

    def numbers(self) -> Tensor:
        """The dense columns as numbers."""
        return self.dense.view(torch.float32) if self.dense.dtype == torch.int32 else self.dense

    def part(self, at: Any) -> Ring:
        return Ring(self.dense[at], self.indices[at], self.values[at], self.y[at], self.weight[at])


def ring(tensors: Tensors, prefix: str) -> Ring:
    return Ring(*(tensors[prefix + name] for name in Ring.__dataclass_fields__))


def _start_ring(chosen: Settings, rows: int, prefix: str) -> Tensors:
    width = chosen.width if chosen.hashed else 0
    return {
        f"{prefix}dense": torch.zeros((rows, chosen.dense), dtype=torch.int32),
        f"{prefix}indices": torch.zeros((rows, width), dtype=torch.int32),
        f"{prefix}values": torch.zeros((rows, width)),
        f"{prefix}y": torch.zeros(rows, dtype=torch.float64),
        f"{prefix}weight": torch.zeros(rows),
    }


class Learner:
    """The side of a model that learns. `start` are its tensors as they begin; it works on those of the last `bind`."""

    def __init__(self, chosen: Settings, reading: Reading, module: nn.Module, names: Names) -> None:
        self.chosen, self.reading, self.names = chosen, reading, names
        self.mould = Mould(module)
        weights = {name: self.mould.parameters[name] for name in names.trained}
        self._device = next(iter(weights.values())).device
        self._forward: Any = torch.compile(module) if chosen.compile else module
        self._loss = network.loss(chosen)
        heads = network.groups(chosen)
        self._heads = None if heads is None else heads.to(self._device)
        self._unmet: Tensor | None = None
        self._augment = augment.find(chosen.memory.augment)
        self.net = Net(
            module=module,
            weights=cast(Tensors, weights),
            columns=chosen.outputs,
            classes=chosen.classes,
            seed=chosen.seed,
            call=self._call,
            losses=self._losses,
            draw=self._draw,
        )
        self._optimizer = optimizer.State(chosen, weights)
        self._rate = float(self._optimizer.optimizer.param_groups[0]["lr"])
        self._terms: list[tuple[str, Any, Term]] = []
        for i, one in enumerate(chosen.terms):
            kind = cast(str, type(one).__struct_config__.tag)
            self._terms.append((f"learn/terms/{i}-{kind}/", one, FUNCTIONS[type(one)]))
        self._draws = [_wanted(term, one, chosen.batch) for _, one, term in self._terms]
        self._watch = DriftSpec(
            detector=chosen.drift.detector,
            watch="loss",
            sensitivity=chosen.drift.sensitivity,
            grace_period=chosen.drift.grace_period,
        )
        self.watches = chosen.drift.detector != "none"
        self._consolidates = _consolidates(chosen, self._terms)
        remembering = any(isinstance(one, Replay | Distill | Agem | Gdumb) for one in chosen.terms)
        self.remembers = chosen.memory.kind != "none" and (remembering or chosen.head == "ncm")
        self._said = any(term.remembers for _, _, term in self._terms)
        self._held: Tensors = {}
        self.tensors: Tensors = {}

    def start(self) -> Tensors:
        """All tensors under learn/, but for the weights, as they begin; the module is as it was made."""
        chosen = self.chosen
        started: Tensors = {"learn/counts": torch.zeros(COUNTERS, dtype=torch.int64)}
        started |= _start_ring(chosen, chosen.batch, "learn/pending/") | self._optimizer.start
        if self._consolidates:
            started |= _start_ring(chosen, chosen.consolidate.rows, "learn/recent/")
        if self.watches:
            started["learn/pending/loss"] = torch.zeros(chosen.batch, dtype=torch.float64)
            detector = drift.start(self._watch, chosen.seed)
            started |= {f"learn/drift/{name}": tensor(one) for name, one in detector.items()}
        if chosen.precision == "float16":
            started["learn/scaler/scale"] = torch.full((), 2.0**16, device=self._device)
            started["learn/scaler/steady"] = torch.zeros((), dtype=torch.int64, device=self._device)
        if self.remembers:
            held = memory.start(
                chosen.memory,
                dense=chosen.dense,
                width=chosen.width if chosen.hashed else 0,
                classes=chosen.classes,
                outputs=chosen.outputs if self._said else 0,
                seed=chosen.seed,
                device=self._device,
            )
            started |= {f"learn/memory/{name}": one for name, one in held.items()}
        for prefix, one, term in self._terms:
            if term.start is not None:
                started |= {prefix + name: own for name, own in term.start(one, self.net).items()}
        return started

    def bind(self, tensors: Tensors) -> None:
        """Work on these tensors from now on."""
        chosen, names = self.chosen, self.names
        self.tensors = tensors
        trained = RAW if chosen.ema else SERVED
        learned = [*names.trained, *names.buffers]
        poured = {name: tensors[trained + name] for name in learned}
        poured |= {name: tensors[SERVED + name] for name in names.fixed if SERVED + name in tensors}
        self.mould.pour(poured)
        self._buffers = {name: tensors[trained + name] for name in names.buffers}
        pairs = [(tensors[SERVED + name], tensors[trained + name]) for name in learned] if chosen.ema else []
        self._averaged = [one for one in pairs if one[0].is_floating_point()]
        self._copied = [one for one in pairs if not one[0].is_floating_point()]
        self._means, self._sources = [one for one, _ in self._averaged], [other for _, other in self._averaged]
        self.counts: Ints = array(tensors["learn/counts"])
        self._classes: Ints = array(tensors["classes"])
        self._moments: Floats = array(tensors["inputs/moments"])
        self.pending = ring(tensors, "learn/pending/")
        self._bits: NDArray[np.int32] = array(self.pending.dense)
        self._slots = tuple(array(one) for one in (self.pending.indices, self.pending.values))
        self._y: Floats = array(self.pending.y)
        self._weight: Singles = array(self.pending.weight)
        self._pending_loss: Floats = array(tensors["learn/pending/loss"]) if self.watches else np.zeros(0)
        self._recent = ring(tensors, "learn/recent/") if self._consolidates else None
        self._held = _within(tensors, "learn/memory/")
        self._detector = {name: array(one) for name, one in _within(tensors, "learn/drift/").items()}
        self._own = [_within(tensors, prefix) for prefix, _, _ in self._terms]
        self._optimizer.bind(tensors, int(self.counts[TAKEN]))
        self._met = -1
        self._meet()

    # Rows that wait

    @property
    def room(self) -> int:
        """How many rows are missing to a minibatch."""
        return self.chosen.batch - int(self.counts[WAITING])

    def put(self, raw: Raw, y: Floats, weight: Singles, start: int, stop: int) -> int:
        """Let rows start to stop - 1 wait, and return the slot of the first; there must be room."""
        at = int(self.counts[WAITING])
        to = slice(at, at + stop - start)
        self._bits[to] = raw.dense[start:stop].view(np.int32)
        if raw.indices.shape[1]:
            self._slots[0][to] = raw.indices[start:stop]
            self._slots[1][to] = raw.values[start:stop]
        self._y[to] = y[start:stop]
        self._weight[to] = weight[start:stop]
        return at

    def waiting(self, rows: slice = slice(None)) -> Inputs:
        """The arguments of the module for the rows that wait, in their slots."""
        held = self.pending if rows == slice(None) else self.pending.part(rows)
        return self.reading.inputs(held.numbers(), held.indices, held.values)

    def answered(self, many: int, losses: Floats | None) -> bool:
        """The last rows that were put have their answer; whether the minibatch is full now."""
        at = int(self.counts[WAITING])
        if losses is not None:
            self._pending_loss[at : at + many] = losses
        self.counts[ROWS] += many
        self.counts[WAITING] += many
        return at + many == self.chosen.batch

    # A step

    def step(self, inputs: Inputs) -> None:
        """Learn the minibatch that is full; `inputs` are its arguments of the module."""
        chosen, counts = self.chosen, self.counts
        if self.reading.normalizes:
            self.reading.count(array(self.pending.numbers()), self._y, self._moments)
            inputs = self.waiting()
        if chosen.classes:
            self._classes += np.bincount(self._y.astype(np.int64), minlength=chosen.classes)
            self._meet()
        drifted = self.watches and self._drifted()
        weight = self.pending.weight.to(self._device)
        new = Rows(inputs, self.reading.labels(self.pending.y), weight)
        said: Tensor | None = None
        for _ in range(chosen.passes):
            outputs = self._pass(new)
            said = outputs if said is None else said
        if said is not None and self._held:
            self._remember(new, said)
        counts[WAITING] = 0
        if self._recent is not None:
            self._keep(self._recent)
            every = chosen.consolidate.every
            crossed = every and counts[ROWS] // every > (counts[ROWS] - chosen.batch) // every
            if crossed or (drifted and chosen.drift.consolidate):
                self._consolidate(self._recent)

    def _pass(self, new: Rows) -> Tensor:
        """One forward and backward pass and a step of the optimiser; returns what was said of the new rows."""
        net, counts = self.net, self.counts
        net.step = int(counts[PASSES])
        net.rate = self._rate * optimizer.rate(self.chosen.schedule, net.step)
        if counts[ROWS] < counts[UNTIL]:
            net.rate *= self.chosen.drift.rate
        with self._seeded(net.step):
            drawn = [self._picked(many, stream) for stream, many in enumerate(self._draws)]
            parts = [rows for rows, _ in drawn if len(rows)]
            x = (
                tuple(torch.cat(one) for one in zip(new.x, *(rows.x for rows in parts), strict=True))
                if parts
                else new.x
            )
            outputs = self._call(x)
            total, seen = self._total(new, outputs, [rows for rows, _ in drawn])
            finite = self._descend(total, seen)
            self._revise(drawn, seen)
            if finite:
                with torch.no_grad():
                    for (_, one, term), own, saw in zip(self._terms, self._own, seen, strict=True):
                        if term.stepped is not None:
                            term.stepped(one, net, own, saw)
                    self.mould.gather(self._buffers)
                    self._average(int(counts[TAKEN]))
                counts[TAKEN] += 1
            else:
                counts[SKIPPED] += 1
        counts[PASSES] += 1
        return outputs.detach()[: len(new)]

    def _total(self, new: Rows, outputs: Tensor, drawn: list[Rows]) -> tuple[Tensor, list[Seen]]:
        """The whole loss, and what each term sees."""
        n = len(new)
        ours, at, seen = outputs[:n], n, []
        for rows in drawn:
            seen.append(Seen(new, ours, rows, outputs[at : at + len(rows)]))
            at += len(rows)
        total: Tensor | None = None
        for (_, one, term), own, saw in zip(self._terms, self._own, seen, strict=True):
            if term.fresh is not None:
                total = term.fresh(one, self.net, own, saw)
        if total is None:
            total = mean(self._losses(ours, new), new.weight)
        for (_, one, term), own, saw in zip(self._terms, self._own, seen, strict=True):
            more = None if term.loss is None else term.loss(one, self.net, own, saw)
            total = total if more is None else total + more
        return total, seen

    def _descend(self, total: Tensor, seen: list[Seen]) -> bool:
        """Gradients, and a step of the optimiser if all is finite; whether it was."""
        net = self.net
        weights = list(net.weights.values())
        for weight in weights:
            weight.grad = None
        scale = self.tensors["learn/scaler/scale"] if self.chosen.precision == "float16" else None
        (total if scale is None else total * scale).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            if scale is not None:
                torch._foreach_mul_([one.grad for one in weights if one.grad is not None], 1.0 / scale)
            if self.chosen.clip:
                nn.utils.clip_grad_norm_(weights, self.chosen.clip)
            for (_, one, term), own, saw in zip(self._terms, self._own, seen, strict=True):
                if term.gradient is not None:
                    term.gradient(one, net, own, saw)
            norms = torch._foreach_norm([one.grad for one in weights if one.grad is not None])
            steepest = torch.stack([*norms, total.detach().abs().to(norms[0].dtype)]).max() if norms else total.abs()
            finite = bool(steepest < STEEPEST)
            if scale is not None:
                self._rescale(scale, finite)
            if finite:
                self._optimizer.step(self.tensors, int(self.counts[TAKEN]), net.rate)
        return finite

    def _rescale(self, scale: Tensor, finite: bool) -> None:
        """The loss of float16 passes is scaled up as long as gradients stay finite (Micikevicius et al. 2018)."""
        steady = self.tensors["learn/scaler/steady"]
        steady.add_(1) if finite else steady.zero_()
        if not finite:
            scale.mul_(BACKOFF)
        elif int(steady) % STEADY == 0:
            scale.mul_(GROWTH)

    def _average(self, taken: int) -> None:
        """Move what serves towards what is trained; young averages move faster, so as not to remember the start."""
        if self._means:
            decay = min(self.chosen.ema, (1.0 + taken) / (10.0 + taken))
            torch._foreach_lerp_(self._means, self._sources, 1.0 - decay)
            for served, now in self._copied:
                served.copy_(now)

    # What the network is asked for

    def _call(self, inputs: Inputs) -> Tensor:
        if self.chosen.precision == "float32":
            return network.says(self._forward, inputs, self.chosen.outputs)
        with torch.autocast(self._device.type, dtype=getattr(torch, self.chosen.precision)):
            return network.says(self._forward, inputs, self.chosen.outputs)

    def _losses(self, outputs: Tensor, rows: Rows) -> Tensor:
        if self._heads is not None:
            outputs = outputs.masked_fill(~self._heads[rows.y], network.LOW)
        if self._unmet is not None:
            outputs = outputs.masked_fill(self._unmet, network.LOW)
        return self._loss(outputs, rows.y)

    def _meet(self) -> None:
        """Mask the classes that no row has had yet; two classes are not new to each other."""
        met = int(np.count_nonzero(self._classes))
        if self.chosen.task == "multiclass" and met != self._met:
            self._met = met
            self._unmet = tensor(self._classes == 0).to(self._device) if met < self.chosen.classes else None

    # Memory

    def _draw(self, many: int, stream: int) -> Rows:
        return self._picked(many, stream)[0]

    def _picked(self, many: int, stream: int) -> tuple[Rows, Tensor]:
        """Remembered rows, as the network takes them, and their slots."""
        slots = memory.pick(self._held, many, self.net.step * STREAMS + stream) if many else torch.zeros(0).long()
        if not len(slots):
            return self._nothing(), slots
        rows = self._rows(memory.take(self._held, slots))
        if self._augment is None:
            return rows, slots
        changed = self._augment(rows.x[0], self.net.random(AUGMENT + stream))
        return Rows((changed, *rows.x[1:]), rows.y, rows.weight, rows.said), slots

    def _rows(self, stored: memory.Stored) -> Rows:
        x = self.reading.inputs(stored.dense, stored.indices, stored.values)
        said = stored.said if stored.said.shape[1] else None
        return Rows(x, self.reading.labels(stored.y), stored.weight, said)

    def _nothing(self) -> Rows:
        none = self.pending.part(slice(0, 0))
        x = self.reading.inputs(none.numbers(), none.indices, none.values)
        said = torch.zeros((0, self.chosen.outputs), device=self._device) if self._said else None
        return Rows(x, self.reading.labels(none.y), none.weight.to(self._device), said)

    def _remember(self, new: Rows, said: Tensor) -> None:
        kind, pending = self.chosen.memory.kind, self.pending
        losses = gradients = None
        if kind == "loss":
            losses = self._losses(said, new).detach()
        if kind == "gradient":
            leaf = said.clone().requires_grad_()
            (gradients,) = torch.autograd.grad(self._losses(leaf, new).sum(), leaf)
        answers = said if self._said else said[:, :0]
        dense = self.reading.filled(pending.numbers())
        rows = memory.Stored(dense, pending.indices, pending.values, pending.y, pending.weight, answers)
        at = int(self.counts[ROWS]) - self.chosen.batch
        memory.add(self._held, self.chosen.memory, rows, losses=losses, gradients=gradients, at=at)

    def _revise(self, drawn: list[tuple[Rows, Tensor]], seen: list[Seen]) -> None:
        """Rows that were drawn are remembered with what they lose now, where that decides who stays."""
        if self.chosen.memory.kind == "loss" and self._held:
            for (rows, slots), saw in zip(drawn, seen, strict=True):
                if len(rows):
                    memory.revise(self._held, slots, self._losses(saw.drawn_outputs.detach(), rows))

    def remembered(self, size: int = 1024) -> Iterator[Rows]:
        """All that is remembered, oldest first, in parts."""
        return (self._rows(stored) for stored in memory.parts(self._held, size))

    def composition(self) -> dict[str, Any]:
        return memory.composition(self._held, self.chosen.memory)

    # Consolidation

    def _keep(self, recent: Ring) -> None:
        """Put the minibatch into the ring of the newest rows."""
        size, batch = recent.y.shape[0], self.chosen.batch
        many = min(size, batch)
        at = torch.from_numpy((int(self.counts[ROWS]) - many + np.arange(many)) % size)
        newest = self.pending.part(slice(batch - many, None))
        for name in Ring.__dataclass_fields__:
            getattr(recent, name)[at] = getattr(newest, name)

    def _drifted(self) -> bool:
        levels = drift.update(self._detector, self._watch, self._pending_loss)
        many = int((levels == 2).sum())
        if many:
            self.counts[DRIFTS] += many
            self.counts[UNTIL] = self.counts[ROWS] + self.chosen.drift.grace_period
        return many > 0

    def _consolidate(self, recent: Ring) -> None:
        """Let terms look at the newest rows. The module is in eval mode; what serves follows, if weights change."""
        size, rows = recent.y.shape[0], int(self.counts[ROWS])
        many = min(size, rows)
        held = recent.part(torch.from_numpy((rows - many + np.arange(many)) % size))
        x = self.reading.inputs(held.numbers(), held.indices, held.values)
        newest = Rows(x, self.reading.labels(held.y), held.weight.to(self._device))
        before = [one.detach().clone() for one in self.net.weights.values()]
        modes = [one.training for one in self.net.module.modules()]
        self.net.step = int(self.counts[PASSES])
        self.net.module.eval()
        with self._seeded(self.net.step), torch.no_grad():
            for (_, one, term), own in zip(self._terms, self._own, strict=True):
                if term.consolidate is not None:
                    term.consolidate(one, self.net, own, newest)
        for module, mode in zip(self.net.module.modules(), modes, strict=True):
            module.training = mode
        self.mould.gather(self._buffers)
        now = [one.detach() for one in self.net.weights.values()]
        if not all(torch.equal(one, other) for one, other in zip(before, now, strict=True)):
            for served, trained in [*self._averaged, *self._copied]:
                served.copy_(trained)

    @contextlib.contextmanager
    def _seeded(self, step: int) -> Iterator[None]:
        """PyTorch's own random numbers belong to (seed, step) inside, and are as they were outside."""
        mixed = (self.chosen.seed * 0x9E3779B1 + step * 0x85EBCA77 + 1) & 0x7FFF_FFFF_FFFF_FFFF
        state = torch.random.default_generator.get_state()
        torch.random.default_generator.manual_seed(mixed)
        on_gpu = self._device.type == "cuda"
        kept = torch.cuda.get_rng_state(self._device) if on_gpu else None
        if on_gpu:
            torch.cuda.manual_seed(mixed)
        try:
            yield
        finally:
            torch.random.default_generator.set_state(state)
            if kept is not None:
                torch.cuda.set_rng_state(kept, self._device)


def _wanted(term: Term, settings: Any, batch: int) -> int:
    """How many remembered rows a term wants with each minibatch; -k is k times as many as came."""
    many = term.draws(settings) if term.draws is not None else 0
    return many if many >= 0 else -many * batch


def _consolidates(chosen: Settings, terms: list[tuple[str, Any, Term]]) -> bool:
    """Whether anchors are ever taken; raise `ConfigError` where a term waits for that and it never comes."""
    waits = [prefix for prefix, _, term in terms if term.consolidate is not None]
    ever = chosen.consolidate.every > 0 or (chosen.drift.detector != "none" and chosen.drift.consolidate)
    if waits and not ever:
        kind = waits[0].rstrip("/").partition("-")[2]
        raise ConfigError(
            f"neural model: the term {kind!r} acts at consolidations, and there are none; set consolidate.every to a "
            "number of rows, or drift.detector"
        )
    return bool(waits)


def _within(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
