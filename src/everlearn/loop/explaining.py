"""Explain the answer of a loop to one record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from everlearn.families import explain as families
from everlearn.families.explain import Contributions
from everlearn.loop.loop import Loop
from everlearn.predict import encoded
from everlearn.schema import Encoder


def explain(loop: Loop, features: Mapping[str, Any]) -> Contributions:
    """Return what each field of a record adds to the score of the model that answers now; nothing is logged.

    The score and the form are those of `everlearn.families.explain.contributions`: the contributions and the
    "intercept" add up to the logit of the second of two classes, to the logarithm of the probability of each class up
    to a constant, or to the number. Features are clipped as for a prediction. Raises `InputError` for a record that
    does not fit the schema, and for a model of a family without explanations.
    """
    encoder = Encoder(loop.spec.schema)
    row = encoded(encoder, loop.fold.clip, [features])
    return families.contributions(loop.ready().model, encoder, features, row)
