"""Split the scores of a linear model into the contributions of columns and hashed entries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from everlearn.errors import InputError
from everlearn.families import parts as adding
from everlearn.families.linear import kernels, settings
from everlearn.families.linear.crossing import PAIRED_ENTRIES, crossed
from everlearn.families.linear.model import UNBLENDED
from everlearn.families.parts import INTERCEPT, AnswerParts, Names
from everlearn.model import Model
from everlearn.records import Batch, Floats


def contributions(model: Model, row: Batch, dense: Sequence[str], hashed: Sequence[str]) -> list[dict[str, float]]:
    """Return the contribution of each name to each score; the contributions of a score add up to it.

    `row` holds one row. `dense` and `hashed` name its columns and its entries, and a name may come more than once. A
    product of two is named "a x b". Scores are the logit of a binary model, one logit for each class of a multiclass
    model, or the predicted number of a regression, in its units. Raises `InputError` for an index outside the hash
    space.

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
    names = [*dense, *_pairs(dense)] if chosen.pairs_dense else list(dense)
    names = [*names, INTERCEPT, *hashed]
    if chosen.pairs_hashed:
        names += _pairs(hashed[:PAIRED_ENTRIES])
        row = crossed(row, chosen.hashed)
    entries = slice(int(row.indptr[0]), int(row.indptr[-1]))
    indices = np.ascontiguousarray(row.indices[entries], np.int32)
    values = np.nan_to_num(np.ascontiguousarray(row.values[entries], np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    terms = np.zeros((chosen.margins, len(names)))
    numbers = settings.kernel_settings(chosen)
    blend = arrays.get("blend", UNBLENDED)
    state = (numbers, arrays["weights"], arrays["hashed"], arrays["moments"], blend)
    rows = (np.ascontiguousarray(row.dense, np.float32), indices, values)
    if kernels.explainer(chosen.optimizer)(*state, *rows, terms):
        raise InputError(
            f"the row has a hashed index outside the hash space; expected 0 to {chosen.hashed - 1}. "
            "Encode with the number of bits that the model was built with"
        )
    centre, spread = scale(arrays["moments"]) if numbers[settings.SCALE_TARGET] else (0.0, 1.0)
    return [_sum_by_name(names, terms[k] * spread, centre) for k in range(chosen.margins)]


def parts(model: Model, row: Batch, names: Names) -> AnswerParts:
    """Return base, terms and answer of one row: class probabilities, or the number of a regression."""
    scores = contributions(model, row, names.dense, names.hashed)
    found = {name: np.array([score[name] for score in scores]) for name in scores[0]}
    if model.spec["task"] == "binary":
        found = {name: np.array([0.0, value[0]]) for name, value in found.items()}
    base = found.pop(INTERCEPT)
    part = AnswerParts(base, found, base + sum(found.values(), np.zeros(len(base))))
    return part if model.spec["task"] == "regression" else adding.softmax(part)


def scale(moments: Floats) -> tuple[float, float]:
    """Return mean and deviation of the targets so far; scores of "blend" and "quick" are relative to these."""
    n, mean, m2 = moments[:3, -1].tolist()
    return mean, (math.sqrt(m2 / n) if m2 > 0.0 else 1.0)


def _pairs(names: Sequence[str]) -> list[str]:
    return [f"{name} x {other}" for i, name in enumerate(names) for other in names[i + 1 :]]


def _sum_by_name(names: Sequence[str], terms: Floats, centre: float) -> dict[str, float]:
    """Add up terms of equal names, the intercept last; `centre` is the prediction at score 0."""
    total = dict.fromkeys([name for name in names if name != INTERCEPT], 0.0) | {INTERCEPT: centre}
    for name, term in zip(names, terms.tolist(), strict=True):
        total[name] += term
    return total
