"""Which columns of a row stand out: the parts of its rank.

A field adds by how much the score falls once the field is left out; fields whose absence raises the score add nothing.
The parts share the distance of the rank from 1/2 in that proportion, so they add up to the answer.
"""

from __future__ import annotations

import numpy as np

from everlearn.families.anomaly.model import Anomaly
from everlearn.families.anomaly.rows import ENTRY
from everlearn.families.parts import INTERCEPT, AnswerParts, Names
from everlearn.records import Batch, Floats


def parts(model: Anomaly, row: Batch, names: Names) -> AnswerParts:
    """Return base, terms and answer of one row, float64 (2,): the shares of the two classes.

    Raises `InputError` if the row does not fit the model.
    """
    answer = model.predict(row)[0].astype(np.float64)
    whole = float(model.raw(row)[0])
    effects: dict[str, float] = {}
    places = [*enumerate(names.dense), *((ENTRY + int(row.indptr[0]) + e, name) for e, name in enumerate(names.hashed))]
    for place, name in places:
        effects[name] = effects.get(name, 0.0) + max(whole - float(model.raw(row, place)[0]), 0.0)
    base: Floats = np.full(2, 0.5)
    total = sum(effects.values())
    if total <= 0.0:
        return AnswerParts(base, {INTERCEPT: answer - base}, answer)
    return AnswerParts(base, {name: (answer - base) * (effect / total) for name, effect in effects.items()}, answer)
