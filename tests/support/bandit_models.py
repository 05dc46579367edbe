"""A bandit of a few lines that keeps the contract: a line of the reward for each action, and a share that explores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from everlearn.records import Arrays, Batch, Floats, Singles

FAMILY = "tests.support.bandit_models:Lines"


class Lines:
    """Learn one line for each action by normalised least mean squares; explore with probability `epsilon`."""

    trace = 2
    loss = ("squared",)

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = {"family": FAMILY, "epsilon": 0.2, "rate": 0.2} | dict(spec)
        self.k, self.m = int(self.spec["actions"]), int(self.spec["action_features"])
        self.d = int(self.spec["dense"]) - 2 - self.k * (1 + self.m)
        self.arrays: Arrays = {"lines": np.zeros((self.k, self.d + 1)), "learned": np.zeros((), np.int64)}

    def _inputs(self, batch: Batch) -> Floats:
        found = np.nan_to_num(batch.dense[:, : self.d].astype(np.float64)).clip(-3, 3)
        return np.column_stack([found, np.ones(len(batch))])

    def _expected(self, batch: Batch) -> Floats:
        low, high = self.spec["rewards"]
        return (self._inputs(batch) @ self.arrays["lines"].T + (low + high) / 2).clip(low, high)

    def policy(self, batch: Batch) -> Singles:
        return self._shares(batch)

    def _shares(self, batch: Batch) -> Singles:
        per = 1 + self.m
        offered = batch.dense[:, self.d : self.d + per * self.k : per] > 0
        offered |= ~offered.any(1, keepdims=True)
        best = np.where(offered, self._expected(batch), -np.inf).argmax(1)
        found = np.where(offered, self.spec["epsilon"] / offered.sum(1, keepdims=True), 0.0)
        found[np.arange(len(batch)), best] += 1.0 - self.spec["epsilon"]
        return found.astype(np.float32)

    def predict(self, batch: Batch) -> Singles:
        return self.predict_traced(batch)[0]

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        expected, policy, rows = self._expected(batch), self._shares(batch), np.arange(len(batch))
        chosen = batch.dense[:, -2]
        known = np.isfinite(chosen)
        action = np.where(known, chosen, policy.argmax(1)).astype(int)
        given = np.where(known, policy[rows, action], 1.0)
        trace = np.column_stack([given, (policy * expected).sum(1)]).astype(np.float32)
        return expected[rows, action].astype(np.float32)[:, None], trace

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        scores = np.empty((len(y), 1), np.float32)
        for i in range(len(y)):
            row = Batch(batch.dense[i : i + 1], batch.indptr[i : i + 2], batch.indices, batch.values)
            scores[i] = self.predict(row)[0]
            action, known = batch.dense[i, -2], weight[i] > 0 and np.isfinite(y[i])
            if known and np.isfinite(action):
                x = self._inputs(row)[0]
                error = y[i] - self._expected(row)[0, int(action)]
                self.arrays["lines"][int(action)] += self.spec["rate"] * error * x / (1.0 + x @ x)
                self.arrays["learned"] += 1
        return scores


class Faulty(Lines):
    """Lines whose policy fails where the first column is above 1."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec | {"family": "tests.support.bandit_models:Faulty"})

    def policy(self, batch: Batch) -> Singles:
        if (batch.dense[:, 0] > 1.0).any():
            raise ValueError("broken on purpose")
        return super().policy(batch)
