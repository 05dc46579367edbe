"""Arrays, and the files of a folder of blobs, for tests of snapshots and versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from everlearn.records import Arrays
from everlearn.version.blobs import Blobs

SPEC = {"family": "linear", "rate": 0.5, "deep": {"classes": [0, 1]}}


def some_arrays() -> Arrays:
    return {"w": np.arange(6.0).reshape(2, 3), "layer/b": np.array([1, -1], np.int8), "t": np.array(7, np.int64)}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if arrays are equal to the last bit, NaN included."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def file_of(blobs: Blobs, blob: str) -> Path:
    return Path(blobs.place) / f"{blob}.safetensors"
