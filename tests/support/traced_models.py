"""Families that learn from their predictions as they were made, and one that must never be asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from everlearn.records import Arrays, Batch, Floats, Singles
from tests.support.models import part

STALE = {"family": "tests.support.traced_models:Stale"}
STACKER = {"family": "tests.support.traced_models:Stacker"}
FORGETFUL = {"family": "tests.support.traced_models:Forgetful"}
WIDE = {"family": "tests.support.traced_models:Stale", "trace": 9}
PLAIN = {"family": "tests.support.traced_models:Plain"}
BINARY = {"task": "binary", "classes": 2, "dense": 3, "hashed": 0}

RATE = 0.125
CALLS: list[str] = []  # of models that count their calls
SAID: list[tuple[float, list[float] | None]] = []  # labels, and the traces that came with them, of `Stale`


class Stale:
    """A line on dense columns; a late label corrects the error of the prediction that was given (delayed SGD).

    Of its trace the first value is that prediction. The spec may ask for a wider one.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = BINARY | dict(spec)
        self.trace = int(spec.get("trace", 1))
        self.arrays: Arrays = {"line": np.zeros(int(self.spec["dense"]) + 1)}

    def predict(self, batch: Batch) -> Singles:
        p = np.array([self._chance(batch, row) for row in range(len(batch))], np.float32)
        return np.stack([np.float32(1.0) - p, p], axis=1).reshape(-1, 2)

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        scores = self.predict(batch)
        return scores, np.repeat(scores[:, 1:], self.trace, axis=1)

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        scores = np.empty((len(y), 2), np.float32)
        for row in range(len(y)):
            scores[row] = self.predict(part(batch, row))[0]
            predicted = float(scores[row, 1])
            if trace is not None and np.isfinite(trace[row, 0]):
                predicted = float(trace[row, 0])
            SAID.append((float(y[row]), None if trace is None else trace[row].tolist()))
            if np.isfinite([y[row], weight[row]]).all():
                step = RATE * min(max(float(weight[row]), 0.0), 4.0) * (y[row] - predicted)
                self.arrays["line"] = self.arrays["line"] + step * self._inputs(batch, row)
        return scores

    def _chance(self, batch: Batch, row: int) -> float:
        return min(max(0.5 + float(sum(self.arrays["line"] * self._inputs(batch, row))), 0.0), 1.0)

    def _inputs(self, batch: Batch, row: int) -> Floats:
        dense = batch.dense[row].astype(np.float64)
        return np.append(np.where(np.isfinite(dense), dense.clip(-2.0, 2.0), 0.0), 1.0)


class Stacker:
    """Two members, weighed by their squared losses so far: the last label learned, and one half.

    Its trace is what the members predicted. Without one it asks them again, and the first knows more by then.
    """

    trace = 2

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = BINARY | dict(spec)
        self.arrays: Arrays = {"losses": np.zeros(2), "last": np.array(0.5)}

    def predict(self, batch: Batch) -> Singles:
        return self.predict_traced(batch)[0]

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        one, other = self.arrays["losses"] + 1.0
        members = np.array([self.arrays["last"], 0.5], np.float32)
        p = np.float32((members[0] * other + members[1] * one) / (one + other))
        return np.tile(np.array([1.0 - p, p], np.float32), (len(batch), 1)), np.tile(members, (len(batch), 1))

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        scores = np.empty((len(y), 2), np.float32)
        for row, label in enumerate(y):
            answer, now = self.predict_traced(part(batch, row))
            scores[row] = answer[0]
            predicted = now[0] if trace is None or np.isnan(trace[row]).any() else trace[row]
            if np.isfinite([label, weight[row]]).all():
                self.arrays["losses"] += (
                    min(max(float(weight[row]), 0.0), 10.0) * (label - predicted.astype(float)) ** 2
                )
                self.arrays["last"][...] = label
        return scores


class Forgetful(Stacker):
    """The same without a trace."""

    trace = 0


class Plain:
    """A model without a trace, whose methods take nothing more than they ever did; it counts its calls."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = BINARY | dict(spec)
        self.arrays: Arrays = {"rows": np.zeros(1, np.int64)}

    def predict(self, batch: Batch) -> Singles:
        CALLS.append(f"predict {len(batch)}")
        return np.full((len(batch), 2), 0.5, np.float32)

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        raise AssertionError("a model without a trace is not asked for one")

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        CALLS.append(f"learn {len(batch)}")
        self.arrays["rows"] += len(y)
        return np.full((len(batch), 2), 0.5, np.float32)


class Broken(Stale):
    """`Stale` with a fault in `predict_traced`, named in the spec, from its third call on."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.arrays["calls"] = np.zeros(1, np.int64)

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        self.arrays["calls"] = self.arrays["calls"] + len(y)
        return super().learn(batch, y, weight, trace)

    def predict_traced(self, batch: Batch) -> Any:
        scores, trace = super().predict_traced(batch)
        if self.arrays["calls"][0] < 3:
            return scores, trace
        faults: dict[str, Any] = {
            "single": scores,
            "wide": (scores, np.zeros((len(batch), 2), np.float32)),
            "double": (scores, trace.astype(np.float64)),
            "list": (scores, trace.tolist()),
            "infinite": (scores, trace * np.float32(np.inf)),
            "scores": (scores[:, :1], trace),
        }
        if self.spec["fault"] not in faults:
            raise ValueError("no trace today")
        return faults[self.spec["fault"]]
