"""Estimate the running statistics of batch normalisation again, after merging.

The mean of two networks has other activations than either. Merging averages the statistics, which is a start; this
computes those of the merged network (Izmailov et al. 2018, "Averaging weights leads to wider optima", section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable

from everlearn._torch import Tensors, array, nn, tensor, torch
from everlearn.errors import ConfigError, InputError
from everlearn.families.neural import network
from everlearn.families.neural.contract import Inputs
from everlearn.families.neural.model import Neural
from everlearn.families.neural.named_tensors import RAW, SERVED
from everlearn.records import Batch

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def reestimate(model: Neural, batches: Iterable[Batch]) -> int:
    """Estimate the running means and variances of batch normalisation from rows; return the number of rows.

    They are the plain means over `batches` of the statistics of each batch, for the weights that serve and for those
    that are trained; nothing else changes. Use some dozens of batches of 32 rows or more, like those that the model
    will predict. Raises `ConfigError` for a network without such statistics, `InputError` for no rows or one.

    >>> import numpy as np
    >>> made = Neural(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), task="binary", dense=2, normalize=False)
    >>> dense = np.array([[0.0, 1.0], [4.0, 1.0]], np.float32)
    >>> rows = Batch(dense, np.zeros(3, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> reestimate(made, [rows]), made.arrays["weights/0.running_mean"].tolist()
    (2, [2.0, 1.0])
    """
    inputs = [_inputs(model, batch) for batch in batches]
    if not inputs:
        raise InputError("batches: got none; expected some dozens of 32 rows or more")
    arrays = dict(model.arrays)
    trained = any(name.startswith(RAW) for name in arrays)
    for place in (SERVED, RAW) if trained else (SERVED,):
        weights = {name.removeprefix(SERVED): weight for name, weight in arrays.items() if name.startswith(SERVED)}
        weights |= {name.removeprefix(place): weight for name, weight in arrays.items() if name.startswith(place)}
        device = inputs[0][0].device
        poured = {name: tensor(weight.copy()).to(device) for name, weight in weights.items()}
        found = _estimate(model, poured, inputs)
        arrays |= {place + name: array(statistic).copy() for name, statistic in found.items()}
    model.arrays = arrays
    return sum(len(rows[0]) for rows in inputs)


def _inputs(model: Neural, batch: Batch) -> Inputs:
    """Return a batch as the arguments of the module."""
    reader = model._state.reader
    return reader.inputs(*(tensor(part) for part in reader.raw(batch)))


def _estimate(model: Neural, weights: Tensors, inputs: Iterable[Inputs]) -> Tensors:
    """Return the named statistics of a network with these weights on these rows."""
    bound = model._predictor.module
    with bound.lock, torch.no_grad():
        bound.bind(weights)
        norms = {name: layer for name, layer in bound.module.named_modules() if isinstance(layer, _NORMS)}
        norms = {name: layer for name, layer in norms.items() if layer.track_running_stats}
        if not norms:
            raise ConfigError(
                "model: got a network without running statistics of batch normalisation. Leave this step out"
            )
        momentums = {name: layer.momentum for name, layer in norms.items()}
        try:
            for layer in norms.values():
                layer.reset_running_stats()
                layer.momentum = None  # the plain mean over batches
                layer.training = True
            for rows in inputs:
                network.forward(bound.module, rows, int(model.spec["classes"]) or 1)
        except ValueError as error:
            raise InputError(f"batches: one gives no statistics ({error}); expected 32 rows or more in each") from error
        finally:
            for name, layer in norms.items():
                layer.momentum, layer.training = momentums[name], False
        bound.gather(weights)
    return {f"{name}.{part}": weights[f"{name}.{part}"] for name in norms for part in _STATISTICS}
