"""The running statistics of batch normalisation, made anew from rows: after merging, no parent's are right.

The mean of two networks has other activations than either. Averaged statistics (what merging gives) are a start; this
makes those of the merged network itself (Izmailov et al. 2018, "Averaging weights leads to wider optima", section 3.2).
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
    """Make the running means and variances of a model's batch normalisation anew; return of how many rows they are.

    They are the plain means over `batches` of what each batch has, for the weights that serve and for those that are
    trained; nothing else changes. Take some dozens of batches of 32 rows or more, of what the model should answer.
    Raises `ConfigError` for a network without such statistics, `InputError` for no rows or a batch of a single one.

    >>> import numpy as np
    >>> made = Neural(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), task="binary", dense=2, normalize=False)
    >>> dense = np.array([[0.0, 1.0], [4.0, 1.0]], np.float32)
    >>> rows = Batch(dense, np.zeros(3, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> reestimate(made, [rows]), made.arrays["weights/0.running_mean"].tolist()
    (2, [2.0, 1.0])
    """
    inputs = [_inputs(model, batch) for batch in batches]
    if not inputs:
        raise InputError("batch normalisation cannot be estimated from no rows at all; give some batches")
    arrays = dict(model.arrays)
    trained = {name: one for name, one in arrays.items() if name.startswith(RAW)}
    for place in (SERVED, RAW) if trained else (SERVED,):
        weights = {name.removeprefix(SERVED): one for name, one in arrays.items() if name.startswith(SERVED)}
        weights |= {name.removeprefix(place): one for name, one in arrays.items() if name.startswith(place)}
        device = inputs[0][0].device
        poured = {name: tensor(one.copy()).to(device) for name, one in weights.items()}
        found = _estimated(model, poured, inputs)
        arrays |= {place + name: array(one).copy() for name, one in found.items()}
    model.arrays = arrays
    return sum(len(one[0]) for one in inputs)


def _inputs(model: Neural, batch: Batch) -> Inputs:
    raw = model._reading.raw(batch)
    return model._reading.inputs(*(tensor(one) for one in raw))


def _estimated(model: Neural, weights: Tensors, inputs: Iterable[Inputs]) -> Tensors:
    """The statistics that a network of these weights has on these rows, by name."""
    mould = model._served
    with mould.lock, torch.no_grad():
        mould.pour(weights)
        norms = {name: one for name, one in mould.module.named_modules() if isinstance(one, _NORMS)}
        norms = {name: one for name, one in norms.items() if one.track_running_stats}
        if not norms:
            raise ConfigError("this network has no running statistics of batch normalisation; there is nothing to do")
        momentums = {name: one.momentum for name, one in norms.items()}
        try:
            for one in norms.values():
                one.reset_running_stats()
                one.momentum = None  # the plain mean over batches
                one.training = True
            for rows in inputs:
                network.says(mould.module, rows, int(model.spec["classes"]) or 1)
        except ValueError as error:
            raise InputError(f"batch normalisation cannot be estimated from such a batch: {error}") from error
        finally:
            for name, one in norms.items():
                one.momentum, one.training = momentums[name], False
        mould.gather(weights)
    return {f"{name}.{part}": weights[f"{name}.{part}"] for name in norms for part in _STATISTICS}
