"""Explain a prediction: the contribution of each field of a record to the score.

`FAMILIES` names the function of each family that supports this. It takes the model, one encoded row, and the names of
the row's dense columns and hashed entries, and returns the parts of the answer (`everlearn.families.parts`). Trees are
split by Shapley values (`everlearn.families.shapley`). `docs/why/trees.md` says why.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from everlearn.errors import InputError
from everlearn.families import parts as adding
from everlearn.families.parts import AnswerParts, Names
from everlearn.model import Model
from everlearn.records import Batch
from everlearn.schema import Encoder, origins
from everlearn.schema.layout import HASHED

FAMILIES: dict[str, str] = {
    "linear": "everlearn.families.linear.explain",
    "tree": "everlearn.families.trees.explain",
    "forest": "everlearn.families.trees.explain",
    "mondrian": "everlearn.families.mondrian.explain",
    "mix": "everlearn.families.mix.explain",
    "last": "everlearn.families.last",
    "anomaly": "everlearn.families.anomaly.explain",
}
ABSENT = "absent values"  # the name of what a record does not have, where several fields are hashed

Contributions = dict[str, float] | dict[str, dict[str, float]]


def contributions(model: Model, encoder: Encoder, record: Mapping[str, Any], row: Batch | None = None) -> Contributions:
    """Return what each field of a record, and the "intercept", adds to the score of a model; the sum is the score.

    The score is the logit of the second of two classes, or the predicted number of a regression. With more classes each
    has its own: {class: {field: contribution}}; a softmax of the scores gives the probabilities. A missing field adds 0
    to a linear model; products of two fields are named "a x b". A tree may ask for a category or word that the record
    lacks: what this adds has the name of the hashed field, or "absent values" where there are several. What the last
    label adds to a mix is named "last label". `row` is the encoded record, where it differs from
    `encoder.record(record)` (clipped, for instance). Raises `InputError` for a record that does not fit the schema, and
    for a family without explanations.

    >>> from everlearn.model import build
    >>> from everlearn.spec import Schema
    >>> encoder = Encoder(Schema(label="y", task="binary", classes=(0, 1), fields={"age": "numeric", "ok": "boolean"}))
    >>> model = build({"family": "linear", "optimizer": "sgd", "standardize": False}, encoder.shape)
    >>> model.arrays["weights"][0, 0] = 0.5, 2.0, -1.0
    >>> contributions(model, encoder, {"age": 3, "ok": True})
    {'age': 1.5, 'ok': 2.0, 'intercept': -1.0}
    """
    encoded = encoder.record(record) if row is None else row
    schema = encoder.schema
    names = Names(origins.dense(schema), origins.hashed(schema, record), absent(encoder))
    if model.spec.get("family") == "linear":
        from everlearn.families.linear import explain

        scores = explain.contributions(model, encoded, names.dense, names.hashed)
    else:
        scores = adding.scores(_based(parts(model, encoded, names)), schema.task)
    fields = list(schema.fields)
    scores = [_ordered({**dict.fromkeys(fields, 0.0), **score}) for score in scores]
    if schema.task != "multiclass":
        return scores[0]
    return {str(label): score for label, score in zip(schema.classes, scores, strict=True)}


def parts(model: Model, row: Batch, names: Names) -> AnswerParts:
    """Return base, terms and answer of one encoded row: class probabilities, or the number of a regression.

    Raises `InputError` for a family without explanations.
    """
    family = str(model.spec.get("family", ""))
    if family not in FAMILIES:
        raise InputError(
            f"explain: got a model of the family {family!r}; expected one of {', '.join(sorted(FAMILIES))}. "
            "Predict without explain"
        )
    return importlib.import_module(FAMILIES[family]).parts(model, row, names)  # type: ignore[no-any-return]


def absent(encoder: Encoder) -> str:
    """Return the name of what a record does not have: the one hashed field of the schema, or "absent values"."""
    hashed = [name for name, kind in encoder.schema.fields.items() if kind in HASHED]
    return hashed[0] if len(hashed) == 1 else ABSENT


def _based(part: AnswerParts) -> AnswerParts:
    """Return parts with the base 0 where a family has none."""
    return part._replace(base=np.nan_to_num(part.base))


def _ordered(score: dict[str, float]) -> dict[str, float]:
    """Return contributions with the intercept last."""
    intercept = score.pop(adding.INTERCEPT)
    return {**score, adding.INTERCEPT: intercept}
