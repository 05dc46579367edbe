"""Why a model said what it said: what each field added to its answer.

A family that can say so is named in `FAMILIES`, by the function that does: it takes the model, one encoded row, and the
names of the row's dense columns and hashed entries, and returns a dict of name to contribution for each score.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from everlearn.errors import InputError
from everlearn.model import Model
from everlearn.records import Batch
from everlearn.schema import Encoder, origins

FAMILIES: dict[str, str] = {
    "linear": "everlearn.families.linear.explain:contributions",
}

Contributions = dict[str, float] | dict[str, dict[str, float]]


def contributions(model: Model, encoder: Encoder, record: Mapping[str, Any], row: Batch | None = None) -> Contributions:
    """What each field of a record adds to the model's score, and the "intercept"; the sum is the score.

    The score is a logit (of the second class of two), or the predicted number of a regression; with more classes each
    has its own: {class: {field: contribution}}. A missing field adds 0; products of two fields are named "a x b". `row`
    is the record as it was encoded, where that was not `encoder.record` alone (but clipped, say). Raises `InputError`
    for a record that the schema cannot take, and for a family that does not say.

    >>> from everlearn.model import build
    >>> from everlearn.spec import Schema
    >>> encoder = Encoder(Schema(label="y", task="binary", classes=(0, 1), fields={"age": "numeric", "ok": "boolean"}))
    >>> model = build({"family": "linear", "optimizer": "sgd", "standardize": False}, encoder.shape)
    >>> model.arrays["weights"][0, 0] = 0.5, 2.0, -1.0
    >>> contributions(model, encoder, {"age": 3, "ok": True})
    {'age': 1.5, 'ok': 2.0, 'intercept': -1.0}
    """
    family = str(model.spec.get("family", ""))
    if family not in FAMILIES:
        raise InputError(
            f"a model of the family {family!r} does not say what each field adds to its answer; "
            f"expected one of {', '.join(sorted(FAMILIES))}: ask without explain"
        )
    module, _, name = FAMILIES[family].partition(":")
    said = getattr(importlib.import_module(module), name)
    encoded = encoder.record(record) if row is None else row
    scores = said(model, encoded, origins.dense(encoder.schema), origins.hashed(encoder.schema, record))
    names = list(encoder.schema.fields)
    scores = [{**{name: score.get(name, 0.0) for name in names}, **score} for score in scores]
    if encoder.schema.task != "multiclass":
        return scores[0]  # type: ignore[no-any-return]
    return {str(label): score for label, score in zip(encoder.schema.classes, scores, strict=True)}
