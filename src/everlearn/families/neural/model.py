"""The neural model: its arrays, and the way of a batch through prediction and training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn._torch import Tensor, Tensors, array, nn, tensor, torch
from everlearn.errors import ConfigError, InputError, ModelError
from everlearn.families import specs
from everlearn.families.neural import (
    consolidation,
    head,
    inputs,
    memory,
    minibatch_queue,
    network,
    predictor,
    prepare,
    replay_sampler,
    requirements,
    row_buffer,
    settings,
    training_state,
)
from everlearn.families.neural.inputs import FURTHEST, RawRows
from everlearn.families.neural.named_tensors import (
    FROZEN,
    RAW,
    SERVED,
    BoundModule,
    ModuleNames,
    digest,
    names,
    sharing_copy,
    within,
)
from everlearn.families.neural.plan import Plan, plan
from everlearn.families.neural.predictor import Predictor, PredictorState
from everlearn.families.neural.row_buffer import RowColumns
from everlearn.families.neural.step import step
from everlearn.families.neural.training_state import PASSES, TrainingState
from everlearn.model import LEARN, described
from everlearn.records import Arrays, Batch, Floats, Loss, Singles

CHUNK = 256  # rows of a forward pass, where rows are not predicted one at a time
_GROUPS = ("weights", "inputs", "head", "raw", "optimizer", "memory", "recent", "pending", "terms", "drift", "scaler")


class Layout(NamedTuple):
    """The parts of a network that all its models share.

    `modes` are the training modes of its layers. `tensors` maps each name to the shape, dtype and device of the tensor.
    """

    names: ModuleNames
    modes: list[bool]
    tensors: dict[str, tuple[tuple[int, ...], torch.dtype, torch.device]]


class Neural:
    """A network that learns in minibatch steps, and predicts with an average of its weights.

    Made from a module in hand and settings (`settings.Settings`); `build` makes it from a spec. Arrays: `weights/...`
    are the parameters and buffers that predict; `classes` int64 (classes,) counts rows by class; `inputs/moments`
    float64 (3, columns) holds count, mean and sum of squared deviations, where columns are standardised; `head/...`
    the class means of the head "ncm"; `learn/...` what only training needs. On the CPU they are views of the tensors
    that the network computes with; on a GPU they are copies.
    """

    def __init__(self, module: nn.Module, /, **dials: Any) -> None:
        chosen = settings.read({"module": f"<{type(module).__name__}>", **dials})
        stored = specs.layout(dials, "neural") < specs.LAYOUT
        kept = (
            {"layout": dials["layout"]} if stored and chosen.lora and chosen.lora.dora else {}
        )  # `prepare` asks for it
        self.spec: Mapping[str, Any] = settings.written(chosen) | kept
        self.loss = Loss("squared") if (chosen.task, chosen.loss) == ("regression", "auto") else None
        self._settings = chosen
        device = prepare.device(chosen)
        module = prepare.prepare(module, chosen, device, stored)
        known, modes = names(module), [layer.training for layer in module.modules()]
        if not known.trained:
            raise ConfigError("neural model: the module has no parameter with requires_grad: there is nothing to learn")
        reader = inputs.reader(chosen, device)
        served = BoundModule(sharing_copy(module).eval())
        forward: Any = torch.compile(served.module) if chosen.compile else served.module
        call = partial(network.forward, forward, columns=chosen.outputs, precision=chosen.precision)
        self._predictor = Predictor(chosen, device, served, call)
        self._plan: Plan | None = plan(chosen, reader, module, known)
        self._training: TrainingState | None = None  # bound when this model learns
        self._tensors = _start(module, self._plan, reader.layout.columns)
        layout = {name: (tuple(held.shape), held.dtype, held.device) for name, held in self._tensors.items()}
        self._layout = Layout(known, modes, layout)
        self._arrays = {name: array(held) for name, held in self._tensors.items()} if self._on_cpu else {}
        self._shares = False  # True while another model has the same arrays
        self._highest: Singles = np.full(chosen.dense, -1.0, np.float32)  # highest tokens that have an embedding
        self._state: PredictorState = predictor.bind(self._predictor, self._tensors, reader)

    @property
    def _on_cpu(self) -> bool:
        return self._predictor.device.type == "cpu"

    @property
    def arrays(self) -> Arrays:
        """A map of names to the arrays that must survive a restart.

        A model that is given read-only arrays without `learn/...` serves only, and frees what only training needs.
        """
        if self._on_cpu:
            return self._arrays
        return {name: array(held).copy() for name, held in self._tensors.items()}

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        serves = not any(name.startswith(LEARN) for name in arrays)
        tensors, held = self._fitting(arrays, serves)
        writeable = all(value.flags.writeable for value in arrays.values())
        if serves and writeable and self._shares:
            own = {name: value.clone() for name, value in tensors.items() if name.startswith(LEARN)}
            tensors, held = tensors | own, held | {name: array(value) for name, value in own.items() if self._on_cpu}
        if serves and not writeable:
            tensors = {name: value for name, value in tensors.items() if not name.startswith(LEARN)}
            held = {name: value for name, value in held.items() if not name.startswith(LEARN)}
        self._tensors, self._arrays = tensors, held if self._on_cpu else {}
        self._training, self._shares = None, False
        self._state = predictor.bind(self._predictor, tensors, self._state.reader)

    def _fitting(self, arrays: Arrays, serves: bool) -> tuple[Tensors, Arrays]:
        """Return all tensors and arrays with the given ones in place. Raises `ModelError` where one does not fit."""
        tensors, held = dict(self._tensors), dict(self._arrays)
        for name, (shape, dtype, device) in self._layout.tensors.items():
            given = arrays.get(name)
            if given is None:
                if serves and name.startswith(LEARN):
                    continue
                raise ModelError(f"these arrays do not fit this model: {name!r} is missing")
            if given.shape != shape:
                raise ModelError(f"{name!r} has shape {given.shape}, expected {shape}")
            if self._on_cpu and given is held.get(name):
                continue
            converted = tensor(given)
            if converted.dtype != dtype:
                raise ModelError(f"{name!r} has dtype {given.dtype}, expected {str(dtype).removeprefix('torch.')}")
            if name == FROZEN and not torch.equal(converted, tensors[name]):
                theirs, ours = (array(each)[:4].tobytes().hex() for each in (converted, tensors[name]))
                raise ModelError(
                    f"these arrays belong to other weights that are not trained: their SHA-256 begins with {theirs}, "
                    f"this module's with {ours}; make the module of the same weights, or learn with frozen 'kept'"
                )
            held[name] = given
            tensors[name] = converted if self._on_cpu else converted.to(device, copy=True)
        return tensors, held

    def __copy__(self) -> Neural:
        """Return a model with the same arrays and the same network; given other arrays, it is independent."""
        other = object.__new__(Neural)
        other.__dict__.update(self.__dict__)
        other._tensors, other._arrays = dict(self._tensors), dict(self._arrays)
        other._plan, other._training, other._shares = None, None, True
        other._state = predictor.bind(self._predictor, other._tensors, self._state.reader)
        return other

    def __repr__(self) -> str:
        return described(self)

    def predict(self, batch: Batch) -> Singles:
        """Score n rows: class probabilities float32 (n, classes), or float32 (n, 1) for a regression.

        Raises `InputError` if the batch does not fit the model.
        """
        raw = self._state.reader.raw(batch)
        _refuse(self._bad_numbers(raw))
        n = len(raw.dense)
        out = np.empty((n, self._settings.outputs), np.float32)
        size = 1 if self._settings.one_at_a_time else CHUNK
        for at in range(0, n, size):
            part = slice(at, at + size)
            out[part] = self._scores(self._outputs(*(tensor(column[part]) for column in raw)))
        return out

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Predict and then learn n rows, in order; return the predictions, each made before its row was learned.

        A row whose label is not finite, or whose weight is not a finite number above 0, is only predicted.
        Raises `InputError`, with nothing learned, if the batch does not fit or a label is not a class.
        """
        reader = self._state.reader
        raw = reader.raw(batch)
        _refuse(self._unknown_tokens(raw) | reader.bad_tokens(raw))  # `columns` refuses what the memory does not hold
        n = len(raw.dense)
        labels, weights, usable = self._labels(y, weight, n)
        training_plan, state = self._trained()
        columns = minibatch_queue.columns(training_plan, reader, raw, labels, weights)
        out = np.empty((n, self._settings.outputs), np.float32)
        unusable = [] if usable.all() else np.flatnonzero(~usable).tolist()
        unusable.append(n)
        at = which = 0
        while at < n:
            if at == unusable[which]:
                out[at : at + 1] = self._predicted_only(minibatch_queue.room(training_plan, state), raw, at)
                at, which = at + 1, which + 1
                continue
            stop = min(at + minibatch_queue.room(training_plan, state), unusable[which])
            out[at:stop] = self._learned(training_plan, state, columns, labels, at, stop)
            at = stop
        return out

    def refused(self, batch: Batch) -> dict[int, str]:
        """Return the rows that this network cannot take, each with the reason.

        Those are rows with numbers that are no tokens, tokens without an embedding, or numbers that the memory does not
        hold exactly. Raises `InputError` if the batch does not fit.
        """
        raw = self._state.reader.raw(batch)
        return self._unknown_tokens(raw) | self._bad_numbers(raw)

    def consolidate(self) -> None:
        """Let terms take new anchors from the newest rows, at the end of a task.

        Nothing happens where no term has an anchor. `consolidate.every` and `drift` do the same automatically.
        """
        consolidation.consolidate(*self._trained())

    def composition(self) -> dict[str, Any]:
        """Describe the content of the replay memory; see `everlearn.families.neural.memory.composition`."""
        return memory.composition(within(self._tensors, "learn/memory/"), self._settings.memory)

    def memory_report(self) -> dict[str, int]:
        """Return the bytes of the arrays by purpose, their `total`, and `peak`.

        `peak` is the most that was allocated on the GPU at any moment, 0 on a CPU.
        """
        report = dict.fromkeys((*_GROUPS, "other"), 0)
        for name, held in self._tensors.items():
            group = name.removeprefix(LEARN).partition("/")[0]
            report[group if group in report else "other"] += held.nbytes
        report["total"] = sum(report.values())
        report["peak"] = 0 if self._on_cpu else torch.cuda.max_memory_allocated(self._predictor.device)
        return report

    # Rows that do not fit

    def _bad_numbers(self, raw: RawRows) -> dict[int, str]:
        """Return rows with numbers that the memory does not hold, or that are no tokens."""
        reader, lost = self._state.reader, {}
        if requirements.remembers(self._settings):
            lost = row_buffer.refused(reader, self._settings.memory, raw)
        return lost | reader.bad_tokens(raw)

    def _unknown_tokens(self, raw: RawRows) -> dict[int, str]:
        """Return rows with tokens that have no embedding; looked up only where a column has a new highest token."""
        if self._settings.dtype != "int64" or not len(raw.dense):
            return {}
        highest = np.maximum(self._highest, np.nan_to_num(raw.dense).max(0))
        if (highest == self._highest).all():
            return {}
        found = {}
        for at in range(len(raw.dense)):
            try:
                self._outputs(*(tensor(column[at : at + 1]) for column in raw))
            except InputError as error:
                found[at] = str(error)
        if not found:
            self._highest = highest
        return found

    def _labels(self, y: Floats, weight: Singles, n: int) -> tuple[Floats, Singles, NDArray[np.bool_]]:
        """Return labels, weights, and the mask of rows that can be learned."""
        labels, weights = np.ascontiguousarray(y, np.float64), np.ascontiguousarray(weight, np.float32)
        if labels.shape != (n,) or weights.shape != (n,):
            raise InputError(
                f"a batch of {n} rows came with y {labels.shape} and weight {weights.shape}; expected ({n},)"
            )
        usable = np.isfinite(labels) & np.isfinite(weights) & (weights > 0)
        if self._settings.classes:
            foreign = np.isfinite(labels) & ((labels < 0) | (labels >= self._settings.classes) | (labels % 1 != 0))
            if foreign.any():
                row = int(np.argmax(foreign))
                raise InputError(
                    f"label {labels[row]!r} in row {row} of the batch is not a class; "
                    f"expected a whole number from 0 to {self._settings.classes - 1}"
                )
        else:
            usable &= np.abs(labels) < FURTHEST
        return labels, weights, usable

    # Prediction

    def _outputs(self, dense: Tensor, indices: Tensor, values: Tensor) -> Tensor:
        given = self._state.reader.inputs(dense, indices, values)
        return predictor.outputs(self._predictor, self._state, given)

    def _scores(self, outputs: Tensor) -> Singles:
        return predictor.scores(self._predictor, self._state, outputs)

    def _predicted_only(self, room: int, raw: RawRows, at: int) -> Singles:
        """Predict a row that is not learned, in the slot of the minibatch that it would have had."""
        alone = not self._settings.one_at_a_time
        rows, slot = (1, 0) if alone else (self._settings.batch, self._settings.batch - room)
        padded = [np.zeros((rows, column.shape[1]), column.dtype) for column in raw]
        for to, column in zip(padded, raw, strict=True):
            to[slot] = column[at]
        return self._scores(self._outputs(*(torch.from_numpy(column) for column in padded))[slot : slot + 1])

    # Training

    def _trained(self) -> tuple[Plan, TrainingState]:
        """Return the plan and the state of training, bound to the arrays of this model."""
        if self._plan is None:
            module = sharing_copy(self._predictor.module.module, self._layout.names.trained)
            for layer, mode in zip(module.modules(), self._layout.modes, strict=True):
                layer.training = mode
            self._plan = plan(self._settings, self._state.reader, module, self._layout.names)
        if self._training is None:
            frozen = [name for name, held in self._arrays.items() if not held.flags.writeable]
            if frozen:
                raise ModelError(f"a model around read-only arrays cannot learn: {frozen[0]!r}; give it copies of them")
            if len(self._tensors) < len(self._layout.tensors):
                raise ModelError("this model served from read-only arrays: to learn it needs all that learning needs")
            self._training = training_state.bind(self._plan, self._tensors, self._state.reader)
        return self._plan, self._training

    def _learned(
        self, training_plan: Plan, state: TrainingState, columns: RowColumns, labels: Floats, at: int, stop: int
    ) -> Singles:
        """Predict rows `at` to `stop` - 1 and queue them; learn the minibatch if it is full. There must be room."""
        slot, rows = minibatch_queue.put(state, columns, at, stop), stop - at
        if self._settings.one_at_a_time:  # always in the same shape and slot: floating-point sums depend on both
            given = minibatch_queue.inputs(state)
            scores = self._scores(predictor.outputs(self._predictor, self._state, given)[slot : slot + rows])
        else:
            given = minibatch_queue.inputs(state, slice(slot, slot + rows))
            scores = self._scores(predictor.outputs(self._predictor, self._state, given))
        losses = None
        if training_plan.drift is not None:
            losses = predictor.watched_losses(self._predictor, scores, labels[at:stop])
        if minibatch_queue.count(training_plan, state, rows, losses):
            whole = len(given[0]) == self._settings.batch
            step(training_plan, state, given if whole else minibatch_queue.inputs(state))
            self._after_step(training_plan, state)
        return scores

    def _after_step(self, training_plan: Plan, state: TrainingState) -> None:
        """Predict with what the step changed beside the weights: scaling, class frequencies, class means."""
        self._state.reader = state.reader
        self._state.log_priors = predictor.log_priors(self._predictor, self._state)
        if not self._state.means:
            return
        learned, held = int(state.counts[PASSES]) // self._settings.passes, self.composition()
        if head.due(learned, held["rows"], held["capacity"], self._settings.batch):
            remembered = replay_sampler.parts(training_plan.sampler, state.memory.held, state.reader)
            predictor.refresh_means(self._predictor, self._state, remembered)


def _start(module: nn.Module, training_plan: Plan, columns: int) -> Tensors:
    """Return all tensors of a model as they begin; `columns` are standardised."""
    chosen, known = training_plan.settings, training_plan.names
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
    tensors["inputs/moments"] = torch.zeros((3, columns), dtype=torch.float64)
    if chosen.head == "ncm":
        if not chosen.classes:
            raise ConfigError("neural model: head is 'ncm' and the task is a regression, expected classes")
        tensors |= {f"head/{name}": value for name, value in head.start(module, chosen.classes).items()}
    return tensors | training_state.start(training_plan)


def _refuse(refused: Mapping[int, str]) -> None:
    """Raise `InputError` for the first refused row, if there is one."""
    for row in sorted(refused):
        raise InputError(f"row {row} of the batch: {refused[row]}")


def build(spec: Mapping[str, Any]) -> Neural:
    """Make an untrained neural model; see `everlearn.families.neural.settings.Settings` for the settings.

    Raises `ConfigError` for an unknown setting or a wrong value, or a module that does not fit.

    >>> model = build({"task": "binary", "dense": 2, "ema": 0.9})
    >>> sign = np.where(np.arange(600) % 3 == 0, 1.0, -1.0)
    >>> dense = np.stack([sign, np.ones(600)], axis=1).astype(np.float32)
    >>> rows = Batch(dense, np.zeros(601, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> scores = model.learn(rows, (sign > 0).astype(float), np.ones(600, np.float32))
    >>> float((scores[300:].argmax(1) == (sign[300:] > 0)).mean())
    1.0
    """
    chosen = settings.read(spec)
    layout = {"layout": spec["layout"]} if "layout" in spec else {}
    return Neural(network.make(chosen), **(settings.written(chosen) | layout))
