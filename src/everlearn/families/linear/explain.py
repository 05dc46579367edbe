"""What each column and each hashed entry of a row adds to the scores of a linear model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from everlearn.errors import InputError
from everlearn.families.linear import kernels, settings
from everlearn.families.linear.crossing import MOST, crossed
from everlearn.model import Model
from everlearn.records import Batch, Floats

INTERCEPT = "intercept"


def contributions(model: Model, row: Batch, dense: Sequence[str], hashed: Sequence[str]) -> list[dict[str, float]]:
    """For each score, what every name adds to it; the sum is the score.

    `row` holds one row; `dense` and `hashed` name its columns and its entries, and a name may come more than once. A
    product of two is named "a x b". The scores: the logit of a binary model, one for each class of a multiclass model,
    and for a regression the number that is predicted, in its own units.

    >>> from everlearn.families.linear import build
    >>> model = build({"task": "regression", "dense": 2, "optimizer": "sgd", "standardize": False})
    >>> model.arrays["weights"][0, 0] = 2.0, -1.0, 10.0
    >>> entries = np.zeros(0, np.int32), np.zeros(0, np.float32)
    >>> row = Batch(np.array([[3.0, 4.0]], np.float32), np.zeros(2, np.int64), *entries)
    >>> contributions(model, row, ["length", "width"], [])
    [{'length': 6.0, 'width': -4.0, 'intercept': 10.0}]
    """
    chosen = settings.read(model.spec)
    arrays = model.arrays
    names = [*dense, *_pairs(dense)] if chosen.interactions in ("dense", "all") else list(dense)
    names = [*names, INTERCEPT, *hashed]
    if chosen.interactions in ("hashed", "all"):
        names += _pairs(hashed[:MOST])
        row = crossed(row, chosen.hashed)
    entries = slice(int(row.indptr[0]), int(row.indptr[-1]))
    indices = np.ascontiguousarray(row.indices[entries], np.int32)
    values = np.nan_to_num(np.ascontiguousarray(row.values[entries], np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    terms = np.zeros((chosen.margins, len(names)))
    dials = settings.dials(chosen)
    state = (dials, arrays["weights"], arrays["hashed"], arrays["moments"])
    rows = (np.ascontiguousarray(row.dense, np.float32), indices, values)
    if kernels.explainer(chosen.optimizer)(*state, *rows, terms):
        raise InputError(
            f"the row has a hashed index outside the hash space; expected 0 to {chosen.hashed - 1}: "
            "encode with the same number of bits as the model was built with"
        )
    centre, spread = _scale(arrays["moments"]) if dials[7] else (0.0, 1.0)
    return [_summed(names, terms[k] * spread, centre) for k in range(chosen.margins)]


def _scale(moments: Floats) -> tuple[float, float]:
    """Mean and deviation of the numbers seen so far, which the scores of the default optimiser are relative to."""
    n, mean, m2 = moments[:, -1].tolist()
    return mean, (math.sqrt(m2 / n) if m2 > 0.0 else 1.0)


def _pairs(names: Sequence[str]) -> list[str]:
    return [f"{one} x {other}" for i, one in enumerate(names) for other in names[i + 1 :]]


def _summed(names: Sequence[str], terms: Floats, centre: float) -> dict[str, float]:
    """Terms added up by name, the intercept last; `centre` is what a score of 0 stands for."""
    total = dict.fromkeys([name for name in names if name != INTERCEPT], 0.0) | {INTERCEPT: centre}
    for name, term in zip(names, terms.tolist(), strict=True):
        total[name] += term
    return total
