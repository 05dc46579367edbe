"""Predictions of the weights that serve: forward passes, class means, and outputs as probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from everlearn._torch import Tensor, Tensors, array, functional, tensor, torch
from everlearn.families.neural import head, minibatch_kernels
from everlearn.families.neural.contract import Inputs, TensorRows
from everlearn.families.neural.inputs import InputReader
from everlearn.families.neural.named_tensors import SERVED, BoundModule, within
from everlearn.families.neural.settings import Settings
from everlearn.records import Floats, Ints, Singles


@dataclass(frozen=True, slots=True)
class Predictor:
    """A network in eval mode. Shallow copies of a model share it; each binds its own weights before a pass."""

    settings: Settings
    device: torch.device
    module: BoundModule
    call: Callable[[Inputs], Tensor]


@dataclass(slots=True, eq=False)
class PredictorState:
    """The tensors of one model that predictions depend on.

    `weights` maps names to parameters and buffers, `means` the tensors of the head "ncm" (empty without it). `classes`
    int64 (classes,) and `prior` float64 (classes,) or (0,) count labels. `log_priors` float32 (classes,) is added to
    outputs; None before any class can be predicted.
    """

    weights: Tensors
    means: Tensors
    classes: Ints
    prior: Floats
    reader: InputReader
    log_priors: Tensor | None


def bind(predictor: Predictor, tensors: Tensors, reader: InputReader) -> PredictorState:
    """Return the state of predictions around these tensors."""
    state = PredictorState(
        weights=within(tensors, SERVED),
        means=within(tensors, "head/"),
        classes=array(tensors["classes"]),
        prior=array(tensors["prior"]),
        reader=reader.scaled_by(array(tensors["inputs/moments"])),
        log_priors=None,
    )
    state.log_priors = log_priors(predictor, state)
    return state


def log_priors(predictor: Predictor, state: PredictorState) -> Tensor | None:
    """Return the numbers to add to outputs before the softmax, float32 (classes,); None if no class is known.

    It is the log of the expected frequency of each class if training balances classes, else 0; -inf for a class that
    cannot be predicted yet.
    """
    settings = predictor.settings
    logs = np.empty(settings.classes, np.float32)
    weighted = settings.balances and not state.means
    prior = state.prior if settings.prior else state.prior[:0]
    binary = settings.task == "binary"
    if not minibatch_kernels.log_priors(state.classes, prior, settings.known, binary, weighted, logs):
        return None
    return tensor(logs).to(predictor.device)


def outputs(predictor: Predictor, state: PredictorState, inputs: Inputs) -> Tensor:
    """Run one forward pass; return raw outputs (n, columns), or those of the class means."""
    with predictor.module.lock, torch.inference_mode():
        _hold(predictor, state)
        if state.means:
            return head.answer(state.means, head.features(predictor.module.module, predictor.call, inputs))
        return predictor.call(inputs)


def scores(predictor: Predictor, state: PredictorState, outputs: Tensor) -> Singles:
    """Return outputs (n, columns) as class probabilities float32 (n, classes), or numbers float32 (n, 1)."""
    if predictor.settings.task == "regression":
        return state.reader.predictions(array(outputs))
    with torch.inference_mode():
        if state.log_priors is None:
            return np.full(outputs.shape, 1.0 / predictor.settings.classes, np.float32)
        return array(functional.softmax(torch.nan_to_num(outputs) + state.log_priors, 1))


def watched_losses(predictor: Predictor, scores: Singles, labels: Floats) -> Floats:
    """Return the losses for the drift detector (n,): 1 for a wrong class, or the absolute error of a number.

    The training loss goes on falling while the network gets surer, which hides a change; errors do not.
    """
    if not predictor.settings.classes:
        return np.abs(scores[:, 0] - labels)
    return np.asarray(scores.argmax(1) != labels, np.float64)


def refresh_means(predictor: Predictor, state: PredictorState, remembered: Iterable[TensorRows]) -> None:
    """Compute the class means of the head "ncm" again, from remembered rows."""
    with predictor.module.lock:
        _hold(predictor, state)
        head.refresh(state.means, predictor.module.module, predictor.call, remembered)


def _hold(predictor: Predictor, state: PredictorState) -> None:
    """Bind this model's weights, unless they are bound already; the caller holds the lock."""
    if predictor.module.holder is not state:
        predictor.module.bind(state.weights, state)
