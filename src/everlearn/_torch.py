"""Import PyTorch in one place, and convert arrays to tensors and back, without copies on the CPU.

Only the neural family and modules built on it import this module, and those are imported when first needed.
"""

from __future__ import annotations

import warnings
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
    """Return a tensor on the CPU that shares the array's memory. Do not write to one made from a read-only array.

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


def array(tensor: Tensor) -> NDArray[Any]:
    """Return an array that shares the tensor's memory, or a copy where the tensor is on another device."""
    found = tensor.detach()
    return np.asarray(found.numpy() if found.device.type == "cpu" else found.cpu().numpy())
