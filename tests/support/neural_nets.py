"""Specs, small modules, losses and rows that tests of networks share; modules are named by their path, as users do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn._torch import Tensor, functional, nn, torch
from everlearn.model import copied, cut
from everlearn.records import Arrays, Batch, Examples

HERE = "tests.support.neural_nets:"
DENSE, CLASSES = 5, 3
SPEC: dict[str, Any] = {
    "family": HERE + "perceptron",
    "task": "multiclass",
    "classes": CLASSES,
    "dense": DENSE,
    "normalize": False,
    "terms": [],
    "layout": 1,  # settings that are retired in new specs are tested here, too
    "balance": False,
    "restart": False,
}
PLAIN: dict[str, Any] = {**SPEC, "ema": 0.0}
BALANCED: dict[str, Any] = {**PLAIN, "balance": True, "restart": True}
NUMBER: dict[str, Any] = {**SPEC, "task": "regression", "classes": 0, "ema": 0.0}
REPLAY: dict[str, Any] = {"terms": [{"kind": "replay"}], "memory": {"rows": 30}}


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


class Counts(nn.Module):
    """Puts another tensor in the place of its buffer; fails in training while `fails` says so."""

    fails = False

    def __init__(self, dense: int, outputs: int) -> None:
        super().__init__()
        self.line = nn.Linear(dense, outputs)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes = self.passes + 1
            if Counts.fails:
                raise RuntimeError("out of memory")
        return self.line(x)  # type: ignore[no-any-return]


class Steep(nn.Module):
    """Answers no number for rows that are far away."""

    def __init__(self, dense: int, outputs: int) -> None:
        super().__init__()
        self.line = nn.Linear(dense, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(x) * x.abs().amax(1, keepdim=True).exp()  # type: ignore[no-any-return]


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


def module_of(spec: dict[str, Any]) -> nn.Module:
    """The module that a model of this spec begins with, by its own weights."""
    module = perceptron(spec["dense"], spec.get("classes", 1))
    held = el.build(spec).arrays
    module.load_state_dict({name: torch.tensor(held[f"weights/{name}"]) for name in module.state_dict()})
    return module


def descend(module: nn.Module, peer: torch.optim.Optimizer, rows: Examples, batch: int = 10) -> Iterator[nn.Module]:
    """Train as a loop by hand does; yield the module after each step."""
    for start in range(0, len(rows.y) - batch + 1, batch):
        part = cut(rows, start, start + batch)
        losses = functional.cross_entropy(
            module(torch.tensor(part.batch.dense)), torch.tensor(part.y).long(), reduction="none"
        )
        peer.zero_grad()
        (losses * torch.tensor(part.weight)).mean().backward()
        peer.step()
        yield module


def resumed(spec: dict[str, Any], rows: Examples, *cuts: int) -> Any:
    """Learn each part of the rows with a new model, around the arrays of the one before."""
    model = el.build(spec)
    for begin, end in zip((0, *cuts), (*cuts, len(rows.y)), strict=True):
        other = el.build(spec)
        other.arrays = copied(model.arrays)
        model = other
        learn(model, cut(rows, begin, end))
    return model
