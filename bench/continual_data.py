"""The streams and networks that `bench/continual.py` and its peers share."""

from __future__ import annotations

import lzma
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 10
Pair = tuple[Tensor, Tensor]

DATA = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def read(name: str) -> np.ndarray:
    """Read one array of the data sets; keep it unpacked in a temporary folder, since many processes need it."""
    kept = Path(tempfile.gettempdir()) / "everlearn-bench" / f"{name}.npy"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        with lzma.open(DATA / f"{name}.npy.xz") as packed:
            unfinished.write_bytes(packed.read())
        unfinished.replace(kept)
    return np.load(kept)


def mnist() -> tuple[Pair, Pair]:
    """Return training and test images, float32 (n, 784) in [0, 1], with their classes."""

    def pair(part: str) -> Pair:
        images = torch.from_numpy(read(f"mnist_{part}_x").reshape(-1, 784)).float() / 255
        return images, torch.from_numpy(read(f"mnist_{part}_y").astype(np.int64))

    return pair("train"), pair("test")


def split(x: Tensor, y: Tensor, seed: int, joint: bool = False) -> Pair:
    """Order rows as five tasks of two digits, each shuffled; `joint`: all rows shuffled together."""
    random = np.random.default_rng(seed)
    if joint:
        order = random.permutation(len(y))
    else:
        tasks = [np.flatnonzero((y.numpy() // 2) == task) for task in range(5)]
        order = np.concatenate([random.permutation(task) for task in tasks])
    return x[order], y[order]


def network(seed: int) -> nn.Module:
    """Return a perceptron, 784-400-400-10 with ReLU."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10))


def flat(seed: int) -> nn.Module:
    """Return the perceptron for images of shape (1, 28, 28)."""
    return nn.Sequential(nn.Flatten(), *network(seed))


def convolutional(seed: int) -> nn.Module:
    """Return a convolutional network for ten classes.

    It has three 3 x 3 convolutions with 32, 64 and 128 channels, with batch normalisation and pooling.
    """
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inner, outer in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
