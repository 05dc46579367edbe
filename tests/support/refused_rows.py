"""Two networks with rows that they cannot take: tokens beyond the embedding, and numbers that a memory cannot hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn._torch import Tensor, nn
from everlearn.records import Batch
from everlearn.spec import Schema

TOKENS = 50


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(TOKENS, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.out(self.embed(x).mean(1))
        return answer


SCHEMA = Schema(label="y", task="binary", classes=(False, True), fields={"tokens": "vector[3]"})
WORDS = {"family": "tests.support.refused_rows:Words", "dtype": "int64", "optimizer": {"name": "adam", "lr": 0.01}}
BYTES = {"family": "neural", "memory": {"rows": 50, "dtype": "uint8"}, "scale": 1 / 255}
BAD = {"words": [99, 1, 1], "bytes": [1.5, 1, 1]}
MODELS: dict[str, dict[str, Any]] = {"words": WORDS, "bytes": BYTES}


def rows(count: int, seed: int = 0) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, TOKENS, (count, 3)).tolist()


def batch(values: list[list[float]]) -> Batch:
    n = len(values)
    none = np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    return Batch(np.array(values, np.float32), *none)
