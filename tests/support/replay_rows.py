"""Rows for tests of terms that replay, and of the head of class means."""

from __future__ import annotations

from everlearn._torch import torch
from everlearn.families.neural.contract import Rows

COLUMNS, CLASSES = 4, 3


def rows(n: int, seed: int, classes: int = CLASSES, weighted: bool = False) -> Rows:
    some = torch.Generator().manual_seed(seed)
    weight = torch.rand(n, generator=some) + 0.5 if weighted else torch.ones(n)
    y = torch.randint(classes, (n,), generator=some)
    said = torch.randn(n, CLASSES, generator=some)
    return Rows((torch.randn(n, COLUMNS, generator=some),), y, weight, said)


def part(held: Rows, at: object) -> Rows:
    return Rows((held.x[0][at],), held.y[at], held.weight[at], None if held.said is None else held.said[at])


def blobs(n: int, seed: int) -> Rows:
    some = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    middles = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])
    return Rows((middles[y] + 0.5 * torch.randn(n, COLUMNS, generator=some),), y, torch.ones(n))
