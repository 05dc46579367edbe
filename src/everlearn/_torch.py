"""PyTorch, for the modules that need it: arrays to tensors and back, without copies where there is no device between.

Only the neural family and what builds on it import this module, and they are imported when first needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import MissingExtra

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ModuleNotFoundError as error:
    if error.name and error.name.split(".")[0] != "torch":
        raise
    raise MissingExtra("a neural model", "torch") from error

__all__ = ["Tensor", "Tensors", "array", "functional", "nn", "tensor", "torch"]

Tensors = dict[str, Tensor]


def tensor(array: NDArray[Any]) -> Tensor:
    """The same memory as a tensor on the CPU; of a read-only array too, which must then not be written.

    >>> held = np.zeros(3, np.float32)
    >>> tensor(held)[1] = 2.0
    >>> held.tolist()
    [0.0, 2.0, 0.0]
    """
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def array(one: Tensor) -> NDArray[Any]:
    """The same memory as an array, or a copy where the tensor is on a device."""
    found = one.detach()
    return np.asarray(found.numpy() if found.device.type == "cpu" else found.cpu().numpy())


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors as arrays, by name."""
    return {name: array(one) for name, one in tensors.items()}
