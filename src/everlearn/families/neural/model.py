"""The neural model: its arrays, and the way from a batch to the network and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._torch import Tensor, Tensors, array, functional, nn, tensor, torch
from everlearn.errors import ConfigError, EverlearnError, InputError, ModelError
from everlearn.families.neural import head, memory, minibatch_kernels, network, requirements, row_buffer, settings
from everlearn.families.neural.contract import Inputs
from everlearn.families.neural.inputs import FURTHEST, Raw, Reading
from everlearn.families.neural.named_tensors import FROZEN, RAW, SERVED, Mould, digest, names, twin, within
from everlearn.families.neural.settings import Settings
from everlearn.families.neural.step import PASSES, Trainer
from everlearn.model import LEARN
from everlearn.records import Arrays, Batch, Floats, Singles

CHUNK = 256  # rows of a pass, where rows need not be answered one at a time
_GROUPS = ("weights", "inputs", "head", "raw", "optimizer", "memory", "recent", "pending", "terms", "drift", "scaler")


class Neural:
    """A network that learns in steps of a minibatch, and answers with an average of its weights.

    Made of a module in hand and the dials of `settings.Settings`; `build` makes it of a spec. Arrays:
    `weights/...` are the parameters and buffers that answer; `classes` int64 (classes,): rows met of each; `inputs/
    moments` float64 (3, columns): count, mean and sum of squared deviations, where columns are standardised; `head/...`
    the class means of the head "ncm"; and `learn/...`, which only learning needs. On the CPU they are views of what the
    network works on; on a GPU they are copies of that moment.
    """

    def __init__(self, module: nn.Module, /, **dials: Any) -> None:
        chosen = settings.read({"module": f"<{type(module).__name__}>", **dials})
        self.spec: Mapping[str, Any] = settings.written(chosen)
        self._chosen = chosen
        self._device = _device(chosen)
        module = _ready(module, chosen, self._device)
        self._reading = Reading(chosen, self._device)
        self._modes = [one.training for one in module.modules()]
        self._names = names(module)
        if not self._names.trained:
            raise ConfigError("neural model: the module has no parameter with requires_grad: there is nothing to learn")
        self._served = Mould(twin(module).eval())
        self._compiled: Any = torch.compile(self._served.module) if chosen.compile else self._served.module
        self._learner: Trainer | None = Trainer(chosen, self._reading, module, self._names)
        self._tensors = self._start(module, self._learner)
        self._layout = {name: (tuple(one.shape), one.dtype, one.device) for name, one in self._tensors.items()}
        self._arrays = {name: array(one) for name, one in self._tensors.items()} if self._on_cpu else {}
        self._bound = self._shares = False  # whether the learner works on these arrays; whether another model has them
        self._highest: Singles = np.full(chosen.dense, -1.0, np.float32)  # tokens that could be looked up
        self._settle()

    def _start(self, module: nn.Module, learner: Trainer) -> Tensors:
        """All tensors, as they begin."""
        chosen, known = self._chosen, self._names
        held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        learned = [*known.trained, *known.buffers]
        tensors = {SERVED + name: held[name].detach().clone() for name in learned}
        if chosen.ema:
            tensors |= {RAW + name: held[name].detach() for name in learned}
        if chosen.frozen == "kept":
            tensors |= {SERVED + name: held[name].detach() for name in known.fixed}
        else:
            tensors[FROZEN] = digest(module, known.fixed)
        tensors["classes"] = torch.zeros(chosen.classes, dtype=torch.int64)
        recent = chosen.classes if chosen.balances and chosen.prior else 0
        tensors["prior"] = torch.full((recent,), 1.0 / max(1, recent), dtype=torch.float64)
        tensors["inputs/moments"] = torch.zeros((3, self._reading.columns), dtype=torch.float64)
        if chosen.head == "ncm":
            if not chosen.classes:
                raise ConfigError("neural model: head is 'ncm' and the task is a regression, expected classes")
            tensors |= {f"head/{name}": one for name, one in head.start(module, chosen.classes).items()}
        return tensors | learner.start()

    @property
    def _on_cpu(self) -> bool:
        return self._device.type == "cpu"

    @property
    def arrays(self) -> Arrays:
        """Everything that must survive a restart, by name.

        Who is given read-only arrays that answer, as those who serve are, lets go of what only learning needs.
        """
        if self._on_cpu:
            return self._arrays
        return {name: array(one).copy() for name, one in self._tensors.items()}

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        tensors, held = dict(self._tensors), dict(self._arrays)
        serves = not any(name.startswith(LEARN) for name in arrays)
        for name, (shape, dtype, device) in self._layout.items():
            given = arrays.get(name)
            if given is None:
                if serves and name.startswith(LEARN):
                    continue
                raise ModelError(f"these arrays do not fit this model: {name!r} is missing")
            if given.shape != shape:
                raise ModelError(f"{name!r} has shape {given.shape}, expected {shape}")
            if self._on_cpu and given is held.get(name):
                continue
            one = tensor(given)
            if one.dtype != dtype:
                raise ModelError(f"{name!r} has dtype {given.dtype}, expected {str(dtype).removeprefix('torch.')}")
            if name == FROZEN and not torch.equal(one, tensors[name]):
                theirs, ours = (array(each)[:4].tobytes().hex() for each in (one, tensors[name]))
                raise ModelError(
                    f"these arrays belong to other weights that are not trained: their SHA-256 begins with {theirs}, "
                    f"this module's with {ours}; make the module of the same weights, or learn with frozen 'kept'"
                )
            held[name] = given
            tensors[name] = one if self._on_cpu else one.to(device, copy=True)
        writeable = all(one.flags.writeable for one in arrays.values())
        if serves and writeable and self._shares:
            apart = {name: one.clone() for name, one in tensors.items() if name.startswith(LEARN)}
            tensors, held = tensors | apart, held | {name: array(one) for name, one in apart.items() if self._on_cpu}
        if serves and not writeable:
            tensors = {name: one for name, one in tensors.items() if not name.startswith(LEARN)}
            held = {name: one for name, one in held.items() if not name.startswith(LEARN)}
        self._tensors, self._arrays = tensors, held if self._on_cpu else {}
        self._bound = self._shares = False
        self._settle()

    def __copy__(self) -> Neural:
        """A model with the same arrays, which stands apart once it is given others; the empty module is shared."""
        other = object.__new__(Neural)
        other.__dict__.update(self.__dict__)
        other._tensors, other._arrays = dict(self._tensors), dict(self._arrays)
        other._reading = copy.copy(self._reading)
        other._learner, other._bound, other._shares = None, False, True
        other._settle()
        return other

    def _settle(self) -> None:
        """Look at the tensors that are there now."""
        self._weights = {name[len(SERVED) :]: one for name, one in self._tensors.items() if name.startswith(SERVED)}
        self._means = {name[len("head/") :]: one for name, one in self._tensors.items() if name.startswith("head/")}
        self._classes: NDArray[np.int64] = array(self._tensors["classes"])
        self._prior: Floats = array(self._tensors["prior"])
        self._shift = self._expected()
        self._token = object()
        self._reading.look(array(self._tensors["inputs/moments"]))

    def predict(self, batch: Batch) -> Singles:
        """Score n rows: class probabilities float32 (n, classes), or float32 (n, 1) for a regression.

        Raises `InputError` if the batch does not fit the model.
        """
        raw = self._reading.raw(batch)
        _all_taken(self._odd(raw))
        n = len(raw.dense)
        out = np.empty((n, self._chosen.outputs), np.float32)
        size = 1 if self._chosen.one_at_a_time else CHUNK
        for at in range(0, n, size):
            part = slice(at, at + size)
            dense, indices, values = (tensor(one[part]) for one in raw)
            out[part] = self._scores(self._says(self._reading.inputs(dense, indices, values)))
        return out

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Predict and then learn n rows, in order; return the predictions, each made before its row was learned.

        A row whose label is not finite, or whose weight is not a finite number above 0, is only predicted.
        Raises `InputError`, with nothing learned, if the batch does not fit or a label is not a class.
        """
        raw = self._reading.raw(batch)
        _all_taken(self._unknown(raw) | self._reading.odd(raw))  # what the memory does not hold is seen as it is stored
        n = len(raw.dense)
        labels, weights, usable = self._labels(y, weight, n)
        learner = self._learning()
        rows = learner.stored(raw, labels, weights)
        out = np.empty((n, self._chosen.outputs), np.float32)
        alone = [] if usable.all() else np.flatnonzero(~usable).tolist()
        alone.append(n)
        at = which = 0
        while at < n:
            if at == alone[which]:
                out[at : at + 1] = self._aside(learner, raw, at)
                at, which = at + 1, which + 1
                continue
            stop = min(at + learner.room, alone[which])
            out[at:stop] = self._some(learner, rows, labels, at, stop)
            at = stop
        return out

    def refused(self, batch: Batch) -> dict[int, str]:
        """The rows that this network cannot take, and why: with numbers that are no tokens, or tokens without an
        embedding, or numbers that the memory does not hold exactly. Raises `InputError` if the batch does not fit."""
        raw = self._reading.raw(batch)
        return self._unknown(raw) | self._odd(raw)

    def _odd(self, raw: Raw) -> dict[int, str]:
        """Rows whose numbers are not what they should be."""
        lost = (
            row_buffer.refused(self._reading, self._chosen.memory, raw) if requirements.remembers(self._chosen) else {}
        )
        return lost | self._reading.odd(raw)

    def _unknown(self, raw: Raw) -> dict[int, str]:
        """Rows with tokens that the module cannot look up; asked only where a column has a higher one than ever."""
        if self._chosen.dtype != "int64" or not len(raw.dense):
            return {}
        highest = np.maximum(self._highest, np.nan_to_num(raw.dense).max(0))
        if (highest == self._highest).all():
            return {}
        found = {}
        for at in range(len(raw.dense)):
            dense, indices, values = (tensor(one[at : at + 1]) for one in raw)
            try:
                self._says(self._reading.inputs(dense, indices, values))
            except InputError as error:
                found[at] = str(error)
        if not found:
            self._highest = highest
        return found

    def _some(self, learner: Trainer, rows: Any, labels: Floats, at: int, stop: int) -> Singles:
        """Answer rows, and let them wait; learn the minibatch if they fill it. There is room for them."""
        slot, many = learner.put(rows, at, stop), stop - at
        if self._chosen.one_at_a_time:  # always in the same shape and place: sums differ with these
            inputs = learner.inputs()
            scores = self._scores(self._says(inputs)[slot : slot + many])
        else:
            inputs = learner.inputs(slice(slot, slot + many))
            scores = self._scores(self._says(inputs))
        losses = self._lost(scores, labels[at:stop]) if learner.watches else None
        if learner.answered(many, losses):
            learner.step(inputs if len(inputs[0]) == self._chosen.batch else learner.inputs())
            self._shift = self._expected()
            if self._means:
                self._refresh(learner)
        return scores

    def consolidate(self) -> None:
        """Let terms take new anchors from the newest rows: for whoever knows that a task ends here.

        Nothing happens where no term has an anchor. `consolidate.every` and `drift` do the same without being told.
        """
        self._learning().consolidate()

    def _labels(self, y: Floats, weight: Singles, n: int) -> tuple[Floats, Singles, NDArray[np.bool_]]:
        """Labels, weights, and which rows can be learned."""
        labels, weights = np.ascontiguousarray(y, np.float64), np.ascontiguousarray(weight, np.float32)
        if labels.shape != (n,) or weights.shape != (n,):
            raise InputError(
                f"a batch of {n} rows came with y {labels.shape} and weight {weights.shape}; expected ({n},)"
            )
        usable = np.isfinite(labels) & np.isfinite(weights) & (weights > 0)
        if self._chosen.classes:
            foreign = np.isfinite(labels) & ((labels < 0) | (labels >= self._chosen.classes) | (labels % 1 != 0))
            if foreign.any():
                row = int(np.argmax(foreign))
                raise InputError(
                    f"label {labels[row]!r} in row {row} of the batch is not a class; "
                    f"expected a whole number from 0 to {self._chosen.classes - 1}"
                )
        else:
            usable &= np.abs(labels) < FURTHEST
        return labels, weights, usable

    def _learning(self) -> Trainer:
        """The side that learns, at work on the arrays of this model."""
        if self._learner is None:
            module = twin(self._served.module, self._names.trained)
            for one, mode in zip(module.modules(), self._modes, strict=True):
                one.training = mode
            self._learner = Trainer(self._chosen, self._reading, module, self._names)
        if not self._bound:
            frozen = [name for name, one in self._arrays.items() if not one.flags.writeable]
            if frozen:
                raise ModelError(f"a model around read-only arrays cannot learn: {frozen[0]!r}; give it copies of them")
            if len(self._tensors) < len(self._layout):
                raise ModelError("this model served from read-only arrays: to learn it needs all that learning needs")
            self._learner.bind(self._tensors)
            self._bound = True
        return self._learner

    def _aside(self, learner: Trainer, raw: Any, at: int) -> Singles:
        """The answer for a row that is not learned, at the slot that it would have had."""
        rows = [np.zeros((self._chosen.batch, one.shape[1]), one.dtype) for one in raw]
        slot = self._chosen.batch - learner.room if self._chosen.one_at_a_time else 0
        if not self._chosen.one_at_a_time:
            rows = [one[:1] for one in rows]
        for whole, one in zip(rows, raw, strict=True):
            whole[slot] = one[at]
        dense, indices, values = (torch.from_numpy(one) for one in rows)
        return self._scores(self._says(self._reading.inputs(dense, indices, values))[slot : slot + 1])

    def _says(self, inputs: Inputs) -> Tensor:
        """One forward pass of what serves: outputs (n, columns), or those of the head."""
        served = self._served
        with served.lock, torch.inference_mode():
            if served.held is not self._token:
                served.pour(self._weights, self._token)
            if self._means:
                return head.answer(self._means, head.features(served.module, self._call, inputs))
            return self._call(inputs)

    def _call(self, inputs: Inputs) -> Tensor:
        return network.says(self._compiled, inputs, self._chosen.outputs, self._chosen.precision)

    def _scores(self, outputs: Tensor) -> Singles:
        """Outputs (n, columns) as answers."""
        if self._chosen.task == "regression":
            return self._reading.numbers(array(outputs))
        with torch.inference_mode():
            if self._shift is None:
                return np.full(outputs.shape, 1.0 / self._chosen.classes, np.float32)
            return array(functional.softmax(torch.nan_to_num(outputs) + self._shift, 1))

    def _expected(self) -> Tensor | None:
        """What is added to outputs before they are probabilities (classes,): the log of how frequent each class is
        expected to be, and -inf for one that cannot be yet; None before any class can."""
        chosen, shift = self._chosen, np.empty(self._chosen.classes, np.float32)
        balances = chosen.balances and not self._means
        prior = self._prior if chosen.prior else self._prior[:0]
        if not minibatch_kernels.expect(self._classes, prior, chosen.known, chosen.task == "binary", balances, shift):
            return None
        return tensor(shift).to(self._device)

    def _lost(self, scores: Singles, labels: Floats) -> Floats:
        """What is watched for drift (n,): whether classes were wrong, or the absolute error of numbers.

        A loss that goes on falling while the network gets surer hides a change; errors do not.
        """
        if not self._chosen.classes:
            return np.abs(scores[:, 0] - labels)
        return np.asarray(scores.argmax(1) != labels, np.float64)

    def _refresh(self, learner: Trainer) -> None:
        """Make the class means of the head anew, where they are due."""
        learned, held = int(learner.counts[PASSES]) // self._chosen.passes, self.composition()
        if head.due(learned, held["rows"], held["capacity"], self._chosen.batch):
            with self._served.lock:
                if self._served.held is not self._token:
                    self._served.pour(self._weights, self._token)
                head.refresh(self._means, self._served.module, self._call, learner.remembered())

    def composition(self) -> dict[str, Any]:
        """What the replay memory holds; see `everlearn.families.neural.memory.composition`."""
        return memory.composition(within(self._tensors, "learn/memory/"), self._chosen.memory)

    def memory_report(self) -> dict[str, int]:
        """Bytes of the arrays by what they are for, their `total`, and `peak`: the most that was allocated on the GPU
        at any moment (0 on a CPU)."""
        report = dict.fromkeys((*_GROUPS, "other"), 0)
        for name, one in self._tensors.items():
            group = name.removeprefix(LEARN).partition("/")[0]
            report[group if group in report else "other"] += one.nbytes
        report["total"] = sum(report.values())
        report["peak"] = 0 if self._on_cpu else torch.cuda.max_memory_allocated(self._device)
        return report


def _all_taken(refused: Mapping[int, str]) -> None:
    """Raise `InputError` for the first row that was refused, if any was."""
    for row in sorted(refused):
        raise InputError(f"row {row} of the batch: {refused[row]}")


def build(spec: Mapping[str, Any]) -> Neural:
    """Make an untrained neural model; see `everlearn.families.neural.settings.Settings` for the dials.

    Raises `ConfigError` for an unknown dial or a wrong value, or a module that does not fit.

    >>> model = build({"task": "binary", "dense": 2, "ema": 0.9})
    >>> sign = np.where(np.arange(600) % 3 == 0, 1.0, -1.0)
    >>> dense = np.stack([sign, np.ones(600)], axis=1).astype(np.float32)
    >>> rows = Batch(dense, np.zeros(601, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> scores = model.learn(rows, (sign > 0).astype(float), np.ones(600, np.float32))
    >>> float((scores[300:].argmax(1) == (sign[300:] > 0)).mean())
    1.0
    """
    chosen = settings.read(spec)
    return Neural(network.make(chosen), **settings.written(chosen))


def _device(chosen: Settings) -> torch.device:
    wanted = chosen.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    kind = wanted.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"neural model: device is {chosen.device!r}, expected 'cpu', 'cuda', 'cuda:1' or 'auto'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"neural model: device is {chosen.device!r}, and PyTorch sees no GPU here; try 'auto'")
    if chosen.precision == "float16" and kind == "cpu":
        raise ConfigError("neural model: precision 'float16' is for GPUs; expected 'bfloat16' or 'float32' on a CPU")
    return torch.device(wanted)


def _ready(module: nn.Module, chosen: Settings, device: torch.device) -> nn.Module:
    """The module on its device, with its adapters, after a trial pass that finishes lazy layers."""
    given: Any = module
    if not isinstance(given, nn.Module):
        got = f"the class {given.__name__}" if isinstance(given, type) else f"something of type {type(given).__name__}"
        raise ConfigError(
            f"neural model: got {got}, expected a torch.nn.Module in hand: call what makes it, as in Neural(Net(), ...)"
        )
    if sparse := [name for name, one in module.named_modules() if getattr(one, "sparse", False) is True]:
        raise ConfigError(
            f"neural model: the layer {sparse[0]!r} has sparse=True, and steps are taken with dense gradients; make it "
            "with sparse=False"
        )
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(chosen.seed)
    try:
        if chosen.lora is not None:
            from everlearn.families.neural import lora

            module = lora.adapt(module, chosen.lora, chosen.seed)
        module = module.to(device)
        _probe(module, chosen, device)
    finally:
        torch.set_rng_state(state)
    for one in [*module.parameters(), *module.buffers()]:
        if not one.is_contiguous():
            one.data = one.data.contiguous()
    return module


def _probe(module: nn.Module, chosen: Settings, device: torch.device) -> None:
    """See that the module answers rows of this shape; nothing is changed in it."""
    modes = [one.training for one in module.modules()]
    width = chosen.width if chosen.hashed else 0
    none = torch.zeros((2, chosen.dense)), torch.zeros((2, width), dtype=torch.int32), torch.zeros((2, width))
    inputs = Reading(chosen, device).inputs(*none)
    try:
        with torch.no_grad():
            network.says(module.eval(), inputs, chosen.outputs)
    except EverlearnError:
        raise
    except Exception as error:  # of the user's own code: anything
        shapes = ", ".join(f"{one.dtype} {tuple(one.shape)}".removeprefix("torch.") for one in inputs)
        hint = network.hint(module, chosen, str(error))
        raise ConfigError(
            f"neural model: the module cannot take rows ({shapes}): {network.told(error)}; {hint}"
        ) from error
    for one, mode in zip(module.modules(), modes, strict=True):
        one.training = mode
