"""Explain a prediction: the contribution of each field of a record to the score.

`FAMILIES` names the function of each family that supports this. It takes the model, one encoded row, and the names of
the row's dense columns and hashed entries, and returns a dict of name to contribution for each score.
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
    """Return what each field of a record, and the "intercept", adds to the score of a model; the sum is the score.

    The score is the logit of the second of two classes, or the predicted number of a regression. With more classes each
    has its own: {class: {field: contribution}}. A missing field adds 0; products of two fields are named "a x b". `row`
    is the encoded record, where it differs from `encoder.record(record)` (clipped, for instance). Raises `InputError`
    for a record that does not fit the schema, and for a family without explanations.

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
            f"explain: got a model of the family {family!r}; expected one of {', '.join(sorted(FAMILIES))}. "
            "Predict without explain"
        )
    module, _, name = FAMILIES[family].partition(":")
    explain = getattr(importlib.import_module(module), name)
    encoded = encoder.record(record) if row is None else row
    scores = explain(model, encoded, origins.dense(encoder.schema), origins.hashed(encoder.schema, record))
    names = list(encoder.schema.fields)
    scores = [{**{name: score.get(name, 0.0) for name in names}, **score} for score in scores]
    if encoder.schema.task != "multiclass":
        return scores[0]  # type: ignore[no-any-return]
    return {str(label): score for label, score in zip(encoder.schema.classes, scores, strict=True)}
