"""Small modules, losses and rows that tests of networks share; modules as users write them, named by their path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from everlearn._torch import Tensor, functional, nn, torch
from everlearn.records import Arrays, Batch, Examples

HERE = "tests.support.neural_nets:"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For every test of a module that imports it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learn(model: Any, rows: Examples) -> Any:
    return model.learn(rows.batch, rows.y, rows.weight)


def bytes_of(arrays: Arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def perceptron(dense: int, outputs: int, hidden: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(dense, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def line(dense: int, outputs: int) -> nn.Module:
    return nn.Linear(dense, outputs)


def normalized(dense: int, outputs: int) -> nn.Module:
    """Batch normalisation and dropout: what differs between learning and answering."""
    return nn.Sequential(
        nn.Linear(dense, 8), nn.BatchNorm1d(8, momentum=0.3), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, outputs)
    )


def pictures(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, outputs),
    )


class Reader(nn.Module):
    """A transformer of one layer that says something of a sequence of tokens (n, length)."""

    def __init__(self, shape: tuple[int, ...], outputs: int, tokens: int = 12, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.register_buffer("places", torch.arange(shape[0]), persistent=False)
        self.place = nn.Embedding(shape[0], width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        said = self.layer(self.embedding(tokens) + self.place(self.places))
        return {"logits": self.head(said.mean(1))}


class Forgetful(nn.Module):
    """Puts another tensor in the place of its buffer, as some modules do; and ties two weights."""

    def __init__(self, dense: int, outputs: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dense, outputs), nn.Linear(dense, outputs, bias=False)
        self.down.weight = self.up.weight
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes = self.passes + 1
        return self.up(x) + self.down(x)


def pinball(outputs: Tensor, y: Tensor) -> Tensor:
    """The loss whose least is at the 0.9 quantile."""
    apart = y - outputs[:, 0]
    return torch.maximum(0.9 * apart, -0.1 * apart)


def focal(outputs: Tensor, y: Tensor) -> Tensor:
    """Lin et al. 2017, with an exponent of 2."""
    losses = functional.cross_entropy(outputs, y, reduction="none")
    return (1.0 - (-losses).exp()).square() * losses


def poisoned(outputs: Tensor, y: Tensor) -> Tensor:
    """NaN for numbers above 100, and an infinite slope at those of exactly 100."""
    apart = (outputs[:, 0] - y).square()
    at_zero = torch.where(y == 100.0, outputs[:, 0] - outputs[:, 0].detach(), torch.ones_like(y))
    losses = torch.where(y == 100.0, at_zero.sqrt(), apart)
    return torch.where(y > 100.0, torch.full_like(y, torch.nan), losses)


def examples(n: int, dense: int, classes: int, seed: int = 0, hashed: int = 0) -> Examples:
    """Rows whose label follows the sum of their columns, or is it, where there are no classes."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, dense)).astype(np.float32)
    many = 2 if hashed else 0
    indices = draw.integers(0, max(1, hashed), n * many).astype(np.int32)
    batch = Batch(x, np.arange(n + 1) * many, indices, np.ones(n * many, np.float32))
    total = x.sum(1).astype(np.float64) + (indices.reshape(n, many) % 2).sum(1)
    y = total
    if classes:
        y = np.searchsorted(np.quantile(total, np.arange(1, classes) / classes), total).astype(np.float64)
    return Examples(batch, y, draw.uniform(0.5, 2.0, n).astype(np.float32), np.arange(1, n + 1))


def plain(x: Any) -> Batch:
    """Rows (n, dense) without hashed features."""
    dense = np.ascontiguousarray(x, np.float32).reshape(len(x), -1)
    return Batch(dense, np.zeros(len(dense) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
