"""Running statistics of batch normalisation, estimated again for a merged network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn import model
from everlearn.errors import ConfigError, InputError
from everlearn.families.neural import build
from everlearn.families.neural.batchnorm import reestimate
from everlearn.merge import How, merged
from everlearn.records import Batch
from tests.support.merged_networks import NORMED, learned, rows
from tests.support.neural_nets import one_thread  # noqa: F401

PARTS = ("running_mean", "running_var", "num_batches_tracked")


def _examples(batch: Batch) -> Any:
    n = len(batch)
    return model.Examples(batch, np.zeros(n), np.ones(n, np.float32), np.arange(n))


def test_statistics_are_those_of_the_merged_network():
    one, other = learned(NORMED, 1), learned(NORMED, 2, shift=1.0)
    both = build(one.spec)
    model.restore(both, merged(How(method="linear"), [one, other]))
    before = {name: array.copy() for name, array in both.arrays.items()}
    batch, _ = rows(512, 9, shift=0.5)
    batches = [model.cut(_examples(batch), at, at + 64).batch for at in range(0, 512, 64)]
    assert reestimate(both, batches) == 512
    changed = {name for name, array in both.arrays.items() if (array != before[name]).any()}
    assert changed == {f"{place}1.{part}" for place in ("weights/", "learn/raw/") for part in PARTS}
    for place in ("weights/", "learn/raw/"):
        weight, bias = (both.arrays[f"{place}0.{name}"] for name in ("weight", "bias"))
        hidden = (batch.dense @ weight.T + bias).reshape(8, 64, 16)
        np.testing.assert_allclose(both.arrays[f"{place}1.running_mean"], hidden.mean((0, 1)), atol=1e-5)
        variances = hidden.var(axis=1, ddof=1).mean(axis=0)
        np.testing.assert_allclose(both.arrays[f"{place}1.running_var"], variances, rtol=1e-4)
        assert both.arrays[f"{place}1.num_batches_tracked"] == 8
    said = both.predict(batch)
    again = build(one.spec)
    model.restore(again, both.arrays)
    np.testing.assert_array_equal(again.predict(batch), said)
    assert not any(part.training for part in both._predictor.module.module.modules())


def test_statistics_that_cannot_be_estimated():
    plain = build({"task": "binary", "dense": 4})
    batch, _ = rows(8, 1)
    with pytest.raises(ConfigError, match="without running statistics"):
        reestimate(plain, [batch])
    one = learned(NORMED, 1, 100)
    with pytest.raises(InputError, match="batches: got none"):
        reestimate(one, [])
    before = one.predict(batch)
    with pytest.raises(InputError, match="Expected more than 1 value per channel"):
        reestimate(one, [rows(1, 1)[0]])
    np.testing.assert_array_equal(one.predict(batch), before)
