"""Models that have learned rows of numbers, truth values, categories and words, for tests that explain and export."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from everlearn import model as models
from everlearn.model import Model
from everlearn.records import Batch
from everlearn.schema import Encoder
from everlearn.spec import Schema

NUMBERS = {"amount": "numeric", "age": "numeric", "night": "boolean"}
HASHED = {"country": "categorical", "note": "text"}
CLASSES: dict[str, tuple[Any, ...]] = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "regression": ()}
WORDS = ("free", "money", "hello", "you", "today")


def records(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return records, a few of whose values are missing."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        record = {
            "amount": 3000.0 + float(random.exponential(50)),
            "age": float(random.integers(18, 80)),
            "night": bool(random.random() < 0.3),
            "country": str(random.choice(["NL", "BE", "DE"])),
            "note": " ".join(random.choice(WORDS, 3)),
        }
        for name in list(record):
            if random.random() < 0.03:
                del record[name]
        found.append(record)
    return found


def score(record: dict[str, Any]) -> float:
    """Return a number with interactions, on which all labels depend."""
    amount, age = record.get("amount", 3000.0), record.get("age", 40.0)
    high = (amount > 3040.0) != (age > 50.0)
    return 2.0 * high + (record.get("country") == "NL") + ("free" in record.get("note", "")) + 0.01 * age


@cache
def taught(family: str, task: str, hashed: bool = False, rows: int = 2500, **dials: Any) -> tuple[Model, Encoder]:
    """Return a model that has learned rows, and the encoder of its rows; do not change it."""
    fields = {**NUMBERS, **(HASHED if hashed else {})}
    schema = Schema(label="y", task=task, fields=fields, classes=CLASSES[task], bits=10, origin={"amount": 3000.0})  # type: ignore[arg-type]
    encoder = Encoder(schema)
    made = models.build({"family": family, **dials}, encoder.shape)
    known = records(rows)
    y = np.array([score(record) for record in known])
    if task != "regression":
        y = (y > 2.0).astype(float) if task == "binary" else np.digitize(y, [1.5, 3.0]).astype(float)
    else:
        y = 1000.0 + 10.0 * y
    batch, problems = encoder.records(known)
    assert problems == []
    made.learn(batch, y, np.ones(rows, np.float32))
    return made, encoder


def fresh(encoder: Encoder, n: int = 200) -> tuple[list[dict[str, Any]], Batch]:
    """Return records that no model has learned, and their encoded rows."""
    known = records(n, seed=9)
    return known, encoder.records(known)[0]
