"""Networks by the name of their maker, and the built-in one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn._torch import nn
from everlearn.errors import InputError, ModelError
from everlearn.families.neural import Neural
from tests.support import neural_nets
from tests.support.neural_nets import CLASSES, DENSE, HERE, SPEC, examples, learn, one_thread, plain  # noqa: F401  (one_thread)


def test_a_family_may_be_a_function_or_a_class_of_modules() -> None:
    rows = examples(12, DENSE, CLASSES)
    by_name = el.build(SPEC)
    assert by_name.spec["family"] == "neural"
    assert by_name.spec["module"] == SPEC["family"]
    linear = {**SPEC, "family": "torch.nn:Linear", "arguments": {"in_features": DENSE, "out_features": CLASSES}}
    for spec in ({**SPEC, "family": "tests.families.neural.test_network:nothing_needed"}, linear):
        model = el.build(spec)
        learn(model, rows)
        assert isinstance(model, Neural)
    later = el.build({"family": SPEC["family"]})
    el.model.bind(later, {"task": "binary", "dense": 4, "hashed": 0, "classes": 2})
    assert later.arrays["weights/0.weight"].shape == (8, 4)
    with pytest.raises(ModelError, match="from the whole spec; expected parameters among"):
        el.build({**SPEC, "family": "tests.families.neural.test_network:of_a_spec"})


def nothing_needed() -> nn.Module:
    return nn.LazyLinear(CLASSES)


def of_a_spec(spec: Any) -> nn.Module:
    return neural_nets.perceptron(spec["dense"], 3)


def test_the_built_in_network_learns_columns_and_hashed_features() -> None:
    rows = examples(2000, 3, 3, hashed=50)
    spec = {"family": "neural", "task": "multiclass", "classes": 3, "dense": 3, "hashed": 50, "width": 4, "ema": 0.99}
    model = el.build({**spec, "optimizer": {"name": "adam", "lr": 0.01}})
    said = learn(model, rows)
    assert (said[1000:].argmax(1) == rows.y[1000:]).mean() > 0.85
    assert model.arrays["weights/table.weight"].shape == (50, 64)


def test_sequences_by_a_transformer() -> None:
    draw = np.random.default_rng(1)
    tokens = draw.integers(0, 12, (900, 6))
    y = (tokens == 7).any(1)
    spec = {
        "family": HERE + "Reader",
        "task": "binary",
        "dense": 6,
        "shape": (6,),
        "dtype": "int64",
        "ema": 0.9,
        "optimizer": {"name": "adam", "lr": 0.01},
    }
    model = el.build(spec)
    assert not any("places" in name for name in model.arrays)  # made anew with the module
    said = model.learn(plain(tokens), y.astype(float), np.ones(900, np.float32))
    assert (said[500:].argmax(1) == y[500:]).mean() > 0.9
    with pytest.raises(InputError, match="expected tokens below the size of its embedding"):
        model.predict(plain([[12] * 6]))
    for odd in (-3, 2.5):
        with pytest.raises(InputError, match=f"column 1 is {odd}.*, expected a token: a whole number from 0"):
            model.predict(plain([[0, odd, 1, 2, 3, 4]]))
    assert (model.predict(plain([[np.nan, 1, 2, 3, 4, 5]])) == model.predict(plain([[0, 1, 2, 3, 4, 5]]))).all()
