"""One step of learning, and what it needs: rows that wait for their minibatch, memory, terms, optimiser, averages.

rows wait in `learn/pending` ─ full ─> drawn rows join ─> forward, losses, backward ─> optimiser ─> average
                                        └ memory <─ the new rows, afterwards ─> the newest rows ─> consolidation
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from everlearn import drift
from everlearn._torch import Tensor, Tensors, array, nn, tensor, torch
from everlearn.families.neural import minibatch_kernels, network, optimizer, requirements, row_buffer
from everlearn.families.neural.contract import Inputs, Net, Rows, Seen, mean
from everlearn.families.neural.inputs import Raw, Reading
from everlearn.families.neural.named_tensors import RAW, SERVED, Mould, Names, under, within
from everlearn.families.neural.replay_sampler import Minibatch, Past
from everlearn.families.neural.seeding import Seeded
from everlearn.families.neural.settings import Settings
from everlearn.families.neural.terms import FUNCTIONS, replay
from everlearn.families.neural.terms.replay import Replay
from everlearn.records import Floats, Ints, Singles
from everlearn.spec import DriftSpec

# where each counter stands: rows learned or waiting, rows waiting, passes begun, steps taken, until which row the rate
# is changed, drifts seen, passes without a step, steps since the average began
ROWS, WAITING, PASSES, TAKEN, UNTIL, DRIFTS, SKIPPED, SINCE, COUNTERS = range(9)
YOUNG = 3.0  # an average is of the last third of its steps, or so, until `ema` bounds it
NEWS, RARE = 0.02, 1e-8  # what a step adds to how frequent classes are in what is learned, and the least that counts

_NO_SLOTS = torch.zeros(0, dtype=torch.int64)


class Trainer:
    """The side of a model that learns. `start` are its tensors as they begin; it works on those of the last `bind`."""

    def __init__(self, chosen: Settings, reading: Reading, module: nn.Module, names: Names) -> None:
        self.chosen, self.reading, self.names = chosen, reading, names
        self.mould = Mould(module)
        weights = {name: self.mould.parameters[name] for name in names.trained}
        self._weights = list(weights.values())
        self._device = self._weights[0].device
        self._seeded = Seeded(chosen.seed, self._device)
        self._forward: Any = torch.compile(module) if chosen.compile else module
        self._near = self._device.type == "cpu"
        self._logs: Singles = np.zeros(chosen.classes, np.float32)
        self._log_tensor = torch.from_numpy(self._logs)
        self._half, self._one = chosen.precision == "float16", torch.ones((), device=self._device)
        self._loss = network.loss(chosen)
        heads = network.groups(chosen)
        self._heads = None if heads is None else heads.to(self._device)
        self._shift: Tensor | None = None
        self._unmet: Tensor | None = None
        self._unfit: NDArray[np.bool_] | None = None
        if chosen.batch == 1:
            with self._seeded.by(0):
                requirements.try_alone(module, chosen, reading)
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
        self._look(chosen)

    def _look(self, chosen: Settings) -> None:
        """What is asked for: terms by what they do, memory, detector, consolidations."""
        terms: list[requirements.PlacedTerm] = [(i, one, FUNCTIONS[type(one)]) for i, one in enumerate(chosen.terms)]
        self._terms = terms
        self._fresh = [one for one in terms if one[2].fresh is not None]
        self._adding = [one for one in terms if one[2].loss is not None]
        self._bending = [one for one in terms if one[2].gradient is not None]
        self._stepping = [one for one in terms if one[2].stepped is not None]
        self._draws = [requirements.wanted(term, one, chosen.batch) for _, one, term in terms]
        first = [i for i, many in enumerate(self._draws) if many][:1]
        joint = [i for i, one, _ in self._fresh if isinstance(one, Replay) and replay.joins(one)]
        self._joint = joint[0] if joint and joint == first and len(self._fresh) == 1 else -1
        if self._joint >= 0:
            self._adding = [one for one in self._adding if one[0] != self._joint]
        self._sees = bool(self._adding or self._bending or self._stepping or (self._fresh and self._joint < 0))
        self._said = any(term.remembers for _, _, term in terms)
        self._consolidates = requirements.consolidates(chosen, terms)
        self._balances = chosen.balances
        self.remembers = requirements.remembers(chosen)
        self._drawing = self.remembers and any(self._draws)
        self.whole = self.remembers and chosen.memory.dtype in row_buffer.WHOLE
        self._revises = self.remembers and chosen.memory.kind in ("loss", "gradient")
        self._past = Past(chosen, self.reading, self._device, self._draws, self._said)
        dials = chosen.drift
        self.watches = dials.detector != "none"
        self._watch = DriftSpec(
            detector=dials.detector, watch="loss", sensitivity=dials.sensitivity, grace_period=dials.grace_period
        )

    def start(self) -> Tensors:
        """All tensors under learn/, but for the weights, as they begin; the module is as it was made."""
        chosen = self.chosen
        pending = row_buffer.start(chosen, chosen.batch, self.whole)
        started = {"learn/counts": torch.zeros(COUNTERS, dtype=torch.int64), **under("learn/pending/", pending)}
        started |= self._optimizer.start
        if self._balances:
            started["learn/frequent"] = torch.full((chosen.classes,), 1.0 / chosen.classes, device=self._device)
        if self._consolidates:
            started |= under("learn/recent/", row_buffer.start(chosen, chosen.consolidate.rows, self.whole))
        if self.watches:
            started["learn/pending/loss"] = torch.zeros(chosen.batch, dtype=torch.float64)
            detector = drift.start(self._watch, chosen.seed)
            started |= {f"learn/drift/{name}": tensor(one) for name, one in detector.items()}
        if self._half:
            started["learn/scaler/scale"] = torch.full((), 2.0**16, device=self._device)
            started["learn/scaler/steady"] = torch.zeros((), dtype=torch.int64, device=self._device)
        if self.remembers:
            started |= under("learn/memory/", self._past.start())
        for one in self._terms:
            if one[2].start is not None:
                started |= under(requirements.prefix(one), one[2].start(one[1], self.net))
        return started

    def bind(self, tensors: Tensors) -> None:
        """Work on these tensors from now on."""
        names = self.names
        self.tensors = tensors
        trained = RAW if self.chosen.ema else SERVED
        learned = [*names.trained, *names.buffers]
        poured = {name: tensors[trained + name] for name in learned}
        poured |= {name: tensors[SERVED + name] for name in names.fixed if SERVED + name in tensors}
        self.mould.pour(poured)
        self._buffers = {name: tensors[trained + name] for name in names.buffers}
        pairs = [(tensors[SERVED + name], tensors[trained + name]) for name in learned] if self.chosen.ema else []
        self._averages = [served for served, _ in pairs if served.is_floating_point()]
        self._sources = [one for served, one in pairs if served.is_floating_point()]
        self._copied = [one for one in pairs if not one[0].is_floating_point()]
        self.counts: Ints = array(tensors["learn/counts"])
        self._classes: Ints = array(tensors["classes"])
        self._prior: Floats = array(tensors["prior"])
        self._moments: Floats = array(tensors["inputs/moments"])
        self.pending = row_buffer.kept(tensors, "learn/pending/", self.whole)
        self._labels: Floats = array(self.pending.y)
        self._recent = row_buffer.kept(tensors, "learn/recent/", self.whole) if self._consolidates else None
        self._past.bind(within(tensors, "learn/memory/"), self.pending)
        self._detector = {name: array(one) for name, one in within(tensors, "learn/drift/").items()}
        self._own = [within(tensors, requirements.prefix(one)) for one in self._terms]
        counted = ("learn/counts", "classes", "prior", "inputs/moments", "learn/frequent")
        self._counted = [tensors[name] for name in counted if name in tensors]
        self._counted += [*within(tensors, "learn/drift/").values(), *self._buffers.values()]
        self._optimizer.bind(tensors, int(self.counts[TAKEN]))

    # Rows that wait

    @property
    def room(self) -> int:
        """How many rows are missing to a minibatch."""
        return self.chosen.batch - int(self.counts[WAITING])

    def put(self, rows: tuple[NDArray[np.generic], ...], start: int, stop: int) -> int:
        """Let rows start to stop - 1 wait, and return the slot of the first; there must be room."""
        at = int(self.counts[WAITING])
        self.pending.put(rows, slice(at, at + stop - start), slice(start, stop))
        return at

    def stored(self, raw: Raw, y: Floats, weight: Singles) -> tuple[Any, ...]:
        """All rows of a call, as they wait. Raises `InputError` for one that the memory does not hold exactly."""
        dense: NDArray[Any] = raw.dense
        if self.remembers:
            dense = row_buffer.stored(self.reading, self.chosen.memory, raw)
        return dense if self.whole else dense.view(np.int32), raw.indices, raw.values, y, weight

    def inputs(self, rows: slice | None = None) -> Inputs:
        """The arguments of the module for the rows that wait, in their slots."""
        held = self.pending
        if rows is None:
            return self.reading.inputs(held.dense, held.indices, held.values)
        return self.reading.inputs(*held.part(rows))

    def answered(self, many: int, losses: Floats | None) -> bool:
        """The last rows that were put have their answer; whether the minibatch is full now."""
        counts = self.counts
        at = int(counts[WAITING])
        if losses is not None:
            array(self.tensors["learn/pending/loss"])[at : at + many] = losses
        counts[ROWS] += many
        counts[WAITING] = at + many
        return at + many == self.chosen.batch

    # A step

    def step(self, inputs: Inputs) -> None:
        """Learn the minibatch that is full; `inputs` are its arguments of the module."""
        chosen, counts = self.chosen, self.counts
        before = [one.clone() for one in self._counted]
        try:
            said, batch, drifted = self._passes(inputs)
        except BaseException:
            self._uncount(before)
            raise
        if self.remembers:
            self._remember(batch, said)
        counts[WAITING] = 0
        if self._recent is not None:
            self._keep(self._recent)
            every = chosen.consolidate.every
            crossed = every and counts[ROWS] // every > (counts[ROWS] - chosen.batch) // every
            if crossed or (drifted and chosen.drift.consolidate):
                self._consolidate(self._recent)

    def _passes(self, inputs: Inputs) -> tuple[Tensor, Minibatch, bool]:
        """Count the minibatch and learn it; what was said of it at first, all rows of the last pass, whether it drifted
        away."""
        self._unfit = None
        if self.reading.normalizes:
            self.reading.count(array(self.pending.dense), self._labels, self._moments)
            inputs = self.inputs()
        if self.chosen.classes:
            self._meet()
        drifted = self.watches and self._drifted()
        said, batch = self._pass(inputs)
        for _ in range(1, self.chosen.passes):
            _, batch = self._pass(inputs)
        return said, batch, drifted

    @torch.no_grad()
    def _uncount(self, before: list[Tensor]) -> None:
        """A pass failed: its rows, which wait still, are counted when it is tried again. Passes that were are."""
        self.mould.gather(self._buffers)
        done = self.counts[[PASSES, TAKEN, SKIPPED]]
        torch._foreach_copy_(self._counted, before)
        self.counts[[PASSES, TAKEN, SKIPPED]] = done
        self.reading.look(self._moments)
        self._shift = None

    def _pass(self, inputs: Inputs) -> tuple[Tensor, Minibatch]:
        """One forward and backward pass and a step of the optimiser; what was said of the new rows, and all rows."""
        net, counts = self.net, self.counts
        net.step = step = int(counts[PASSES])
        net.rate = self._rate * optimizer.rate(self.chosen.schedule, step)
        if counts[ROWS] < counts[UNTIL]:
            net.rate *= self.chosen.drift.rate
        with self._seeded.by(step):
            batch = self._past.minibatch(net, inputs) if self._drawing else self._alone(inputs)
            outputs = self._call(batch.x)
            self._weigh(batch.y)
            seen = self._seen(batch, outputs) if self._sees else []
            finite = self._descend(self._total(batch, outputs, seen), seen)
            with torch.no_grad():
                for i, one, term in self._stepping if finite else ():
                    term.stepped(one, net, self._own[i], seen[i])  # type: ignore[misc]
                if self._buffers:
                    self.mould.gather(self._buffers)
            if finite:
                self._average(int(counts[SINCE]))
                counts[TAKEN] += 1
                counts[SINCE] += 1
            else:
                counts[SKIPPED] += 1
                if not self._half:  # there it is how the scale of the loss is found
                    optimizer.warn(int(counts[SKIPPED]), step + 1)
                if self.remembers:
                    self._refuse(batch, outputs)
        self._shift = None
        if self._revises and len(batch.slots):
            self._revise(batch, outputs.detach())
        counts[PASSES] = step + 1
        return outputs.detach()[: self.chosen.batch], batch

    def _alone(self, inputs: Inputs) -> Minibatch:
        y, weight = self.reading.labels(self.pending.y), self.pending.weight.to(self._device)
        return Minibatch(inputs, y, weight, [0] * len(self._terms), _NO_SLOTS, None)

    def _seen(self, batch: Minibatch, outputs: Tensor) -> list[Seen]:
        """What each term sees."""
        at = self.chosen.batch
        new, ours, seen = _part(batch._replace(said=None), slice(0, at)), outputs[:at], []
        for many in batch.found:
            drawn = _part(batch, slice(at, at + many))
            seen.append(Seen(new, ours, drawn, outputs[at : at + many]))
            at += many
        return seen

    def _total(self, batch: Minibatch, outputs: Tensor, seen: list[Seen]) -> Tensor:
        """The whole loss."""
        n = self.chosen.batch
        if self._joint >= 0:  # what the term says in two parts is one loss: half of the work
            n += batch.found[self._joint]
        if self._fresh and self._joint < 0:
            i, one, term = self._fresh[-1]
            total = term.fresh(one, self.net, self._own[i], seen[i])  # type: ignore[misc]
        elif n == len(outputs):
            total = mean(self._losses(outputs, Rows((), batch.y, batch.weight)), batch.weight)
        else:
            weight = batch.weight[:n]
            total = mean(self._losses(outputs[:n], Rows((), batch.y[:n], weight)), weight)
        for i, one, term in self._adding:
            more = term.loss(one, self.net, self._own[i], seen[i])  # type: ignore[misc]
            total = total if more is None else total + more
        return total

    def _descend(self, total: Tensor, seen: list[Seen]) -> bool:
        """Gradients, and a step of the optimiser if all is finite; whether it was."""
        for weight in self._weights:
            weight.grad = None
        scale = self.tensors["learn/scaler/scale"] if self._half else None
        (total if scale is None else total * scale).backward(self._one)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            if scale is not None:
                torch._foreach_mul_([one.grad for one in self._weights if one.grad is not None], 1.0 / scale)
            if self.chosen.clip:
                nn.utils.clip_grad_norm_(self._weights, self.chosen.clip)
            for i, one, term in self._bending:
                term.gradient(one, self.net, self._own[i], seen[i])  # type: ignore[misc]
            finite = optimizer.finite(total.detach(), self._weights)
            if scale is not None:
                optimizer.rescale(scale, self.tensors["learn/scaler/steady"], finite)
            if finite:
                self._optimizer.step(self.tensors, self.net.rate)
        return finite

    @torch.no_grad()
    def _average(self, since: int) -> None:
        """Move what serves towards what is trained; young averages move faster, so as not to remember what was."""
        if self._averages:
            decay = min(self.chosen.ema, (1.0 + since) / (YOUNG + since))
            torch._foreach_lerp_(self._averages, self._sources, 1.0 - decay)
            for served, now in self._copied:
                served.copy_(now)

    # What the network is asked for

    def _call(self, inputs: Inputs) -> Tensor:
        return network.says(self._forward, inputs, self.chosen.outputs, self.chosen.precision)

    def _losses(self, outputs: Tensor, rows: Rows) -> Tensor:
        if self._heads is not None:
            outputs = outputs.masked_fill(~self._heads[rows.y], network.LOW)
        if self._unmet is not None:
            outputs = outputs.masked_fill(self._unmet, network.LOW)
        if self._shift is not None:
            outputs = outputs + self._shift
        return self._loss(outputs, rows.y)

    def _weigh(self, y: Tensor) -> None:
        """Until the pass is over, outputs are learned with the log of how frequent each class is in what is learned:
        then they say what each class would be if all were equally frequent."""
        if not self._balances:
            return
        frequent = self.tensors["learn/frequent"]
        if self._near:
            minibatch_kernels.weigh(array(y), array(frequent), NEWS, RARE, self._logs)
            self._shift = self._log_tensor
        else:
            frequent.lerp_(torch.bincount(y, minlength=self.chosen.classes) / len(y), NEWS)
            self._shift = (frequent + RARE).log()

    def _meet(self) -> None:
        """Count the classes that came; where one had never come, the average begins anew."""
        share = min(1.0, self.chosen.batch / max(1, self.chosen.prior))
        if minibatch_kernels.meet(self._labels, self._classes, self._prior, share) and self.chosen.restart:
            self.counts[SINCE] = 0

    # Memory

    def _draw(self, many: int, stream: int) -> Rows:
        return self._past.draw(self.net, many, stream)

    def _refuse(self, batch: Minibatch, outputs: Tensor) -> None:
        """Of the new rows of a pass without a step, note those that make it impossible alone, to forget them: their
        answer, their loss or its slope is no number. Others would be drawn with them, and be learned no more."""
        new = _part(batch, slice(0, self.chosen.batch))
        leaf = outputs.detach()[: len(new)].clone().requires_grad_()
        losses = self._losses(leaf, new) * new.weight
        slopes = torch.autograd.grad(losses.sum(), leaf)[0]
        most = torch.cat([losses.detach()[:, None], leaf.detach(), slopes], 1).abs().amax(1)
        unfit: NDArray[np.bool_] = array(~(most < optimizer.STEEPEST))
        self._unfit = unfit if self._unfit is None else self._unfit | unfit

    def _remember(self, batch: Minibatch, said: Tensor) -> None:
        """Offer the new rows to the memory, with what was said of them before they were learned, where that is kept."""
        losses = gradients = compared = None
        if self._revises:
            losses, gradients = self._noted(said, _part(batch, slice(0, self.chosen.batch)))
            compared = batch.slots if self.chosen.memory.kind == "gradient" and len(batch.slots) else None
        first = int(self.counts[ROWS]) - self.chosen.batch
        if self._unfit is None or not self._unfit.any():
            self._past.add(said, losses, gradients, compared, first)
            return
        held = within(self.tensors, "learn/memory/")
        for at in np.flatnonzero(~self._unfit).tolist():  # one at a time: they are the same as at once
            row = slice(at, at + 1)
            alone = {name: one[row] for name, one in within(self.tensors, "learn/pending/").items()}
            self._past.bind(held, row_buffer.kept(alone, "", self.whole))
            lost, slope = (None if one is None else one[row] for one in (losses, gradients))
            self._past.add(said[row], lost, slope, compared, first + at)
        self._past.bind(held, self.pending)

    def _noted(self, outputs: Tensor, rows: Rows) -> tuple[Tensor | None, Tensor | None]:
        """The losses of rows, and their gradients with respect to the outputs, where they decide who stays."""
        if self.chosen.memory.kind == "loss":
            return self._losses(outputs, rows).detach(), None
        if self.chosen.memory.kind == "gradient":
            leaf = outputs.detach().clone().requires_grad_()
            return None, torch.autograd.grad(self._losses(leaf, rows).sum(), leaf)[0]
        return None, None

    def _revise(self, batch: Minibatch, outputs: Tensor) -> None:
        """Rows that were drawn are remembered with what they lose now, where that decides who stays."""
        drawn = slice(self.chosen.batch, None)
        losses, gradients = self._noted(outputs[drawn], _part(batch, drawn))
        self._past.revise(batch.slots, losses, gradients)

    def remembered(self, size: int = 1024) -> Iterator[Rows]:
        """All that is remembered, oldest first, in parts."""
        return self._past.parts(size)

    # Consolidation

    def _keep(self, recent: row_buffer.Kept) -> None:
        """Put the minibatch among the newest rows, in the place of the oldest."""
        size, batch = len(recent.y), self.chosen.batch
        many = min(size, batch)
        to = (int(self.counts[ROWS]) - many + np.arange(many)) % size
        recent.put(self.pending.rows, to, slice(batch - many, None))

    def _drifted(self) -> bool:
        levels = drift.update(self._detector, self._watch, array(self.tensors["learn/pending/loss"]))
        many = int((levels == 2).sum())
        if many:
            if self.chosen.restart:
                self.counts[SINCE] = 0
            self.counts[DRIFTS] += many
            self.counts[UNTIL] = self.counts[ROWS] + self.chosen.drift.grace_period
        return many > 0

    def consolidate(self) -> None:
        """Take new anchors now, if any term wants them and anything was learned."""
        if self._recent is not None and self.counts[PASSES]:
            self._consolidate(self._recent)

    def _consolidate(self, recent: row_buffer.Kept) -> None:
        """Let terms look at the newest rows. The module is in eval mode; what serves follows, if weights change."""
        size, rows = len(recent.y), int(self.counts[ROWS] - self.counts[WAITING])
        many = min(size, rows)
        at = torch.from_numpy((rows - many + np.arange(many)) % size)
        x, y = self.reading.inputs(*recent.part(at)), self.reading.labels(recent.y[at])
        newest = Rows(x, y, recent.weight[at].to(self._device))
        before = [one.detach().clone() for one in self._weights]
        modes = [one.training for one in self.net.module.modules()]
        self.net.step = int(self.counts[PASSES])
        self.net.module.eval()
        self._unmet = self._never()
        try:
            with self._seeded.by(self.net.step), torch.no_grad():
                for i, one, term in self._terms:
                    if term.consolidate is not None:
                        term.consolidate(one, self.net, self._own[i], newest)
        finally:
            self._unmet = None
            for module, mode in zip(self.net.module.modules(), modes, strict=True):
                module.training = mode
            self.mould.gather(self._buffers)
        if not all(torch.equal(one, other) for one, other in zip(before, self._weights, strict=True)):
            for served, trained in [*zip(self._averages, self._sources, strict=True), *self._copied]:
                served.copy_(trained)

    def _never(self) -> Tensor | None:
        """Which classes nobody met yet, where these are out of the question: bool (classes,). A loss of the user's own
        may take no mask."""
        if self.chosen.task != "multiclass" or self.chosen.known or self.chosen.loss != "auto":
            return None
        return torch.from_numpy(self._classes == 0).to(self._device)


def _part(batch: Minibatch, at: slice) -> Rows:
    said = None if batch.said is None else batch.said[at]
    return Rows(tuple(one[at] for one in batch.x), batch.y[at], batch.weight[at], said)
