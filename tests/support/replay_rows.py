"""Rows for tests of terms that replay, and of the head of class means."""

from __future__ import annotations

from everlearn._torch import torch
from everlearn.families.neural.contract import TensorRows

COLUMNS, CLASSES = 4, 3


def rows(n: int, seed: int, classes: int = CLASSES, weighted: bool = False) -> TensorRows:
    some = torch.Generator().manual_seed(seed)
    weight = torch.rand(n, generator=some) + 0.5 if weighted else torch.ones(n)
    y = torch.randint(classes, (n,), generator=some)
    said = torch.randn(n, CLASSES, generator=some)
    return TensorRows((torch.randn(n, COLUMNS, generator=some),), y, weight, said)


def part(held: TensorRows, at: object) -> TensorRows:
    return TensorRows((held.x[0][at],), held.y[at], held.weight[at], None if held.outputs is None else held.outputs[at])


def blobs(n: int, seed: int) -> TensorRows:
    some = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    middles = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])
    return TensorRows((middles[y] + 0.5 * torch.randn(n, COLUMNS, generator=some),), y, torch.ones(n))
