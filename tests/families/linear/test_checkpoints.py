"""Checkpoints of moments: a bad stretch is forgotten, and everything else is as without them."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.families.linear import build
from everlearn.families.linear.checkpoints import BLOCK, CHECKPOINT, LEAST_BLOCK, LONGEST, START
from everlearn.families.linear.model import Linear
from tests.support.linear_rows import BINARY, OPTIMIZERS, Array, learn


def deviations(model: Linear) -> Array:
    moments = model.arrays["moments"]
    return np.asarray(np.sqrt(moments[2, :-1] / moments[0, :-1]))


def sensors(n: int, seed: int = 0) -> tuple[Array, Array]:
    """Return three columns, of which the first has a trend, and labels that depend on all of them."""
    draw = np.random.default_rng(seed)
    x = draw.normal([5.0, 0.0, -2.0], [1.0, 0.1, 30.0], (n, 3))
    x[:, 0] += np.arange(n) / n
    return x, (x[:, 0] - 5.5 + x[:, 1] * 10 + (x[:, 2] + 2) / 30 > 0).astype(float)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("fault", ["units", "offset", "stuck far away"])
def test_a_bad_stretch_costs_few_rows(optimizer: str, fault: str) -> None:
    x, y = sensors(8000)
    bad = x.copy()
    stretch = slice(3000, 3500)
    if fault == "units":
        bad[stretch] *= 1000.0
    elif fault == "offset":
        bad[stretch] += 1e5
    else:
        bad[stretch] = 99999.0
    models = [build({**BINARY, "dense": 3, "optimizer": optimizer}) for _ in range(2)]
    right = [(learn(model, rows, y).argmax(1) == y)[3500:].mean() for model, rows in zip(models, (x, bad), strict=True)]
    if optimizer not in ("normalized", "adagrad", "ftrl", "adam"):  # these remember gradients or scales of the stretch
        assert right[1] > right[0] - 0.03
    np.testing.assert_allclose(deviations(models[1]), deviations(models[0]), rtol=0.2)


def test_columns_without_a_bad_stretch_have_the_moments_of_all_values() -> None:
    draw = np.random.default_rng(1)
    x = np.stack([draw.normal(0, 1, 5000), np.exp(draw.normal(0, 1, 5000)), draw.random(5000) < 0.02], axis=1)
    x[::7, 1] = np.nan
    y = (draw.random(5000) < 0.5).astype(float)
    forgets, plain = (build({**BINARY, "dense": 3, "forget_bad_stretches": forgets}) for forgets in (True, False))
    assert learn(forgets, x, y).tobytes() == learn(plain, x, y).tobytes()
    assert forgets.arrays["moments"][:3].tobytes() == plain.arrays["moments"].tobytes()
    assert all(
        forgets.arrays[name].tobytes() == plain.arrays[name].tobytes() for name in ("weights", "blend", "counts")
    )
    known = x.astype(np.float32)[:, 1]
    known = known[~np.isnan(known)].astype(np.float64)
    assert forgets.arrays["moments"][1, 1] == pytest.approx(known.mean())
    assert deviations(forgets)[1] == pytest.approx(known.std())


def test_new_units_that_stay_become_the_scale() -> None:
    x, y = sensors(6000)
    x[1000:] *= 1000.0
    model = build({**BINARY, "dense": 3})
    right = learn(model, x, y).argmax(1) == y
    assert deviations(model)[1] > 50.0
    assert right[3000:].mean() > 0.9
    assert model.arrays["moments"][CHECKPOINT, 0] > 5000 - BLOCK  # the new scale is the checkpoint


def test_a_long_stretch_is_the_new_normal() -> None:
    draw = np.random.default_rng(2)
    n = int(LONGEST) + 1000
    x = np.concatenate([draw.normal(0, 1, n), draw.normal(0, 1e4, n), draw.normal(0, 1, 500)])[:, None]
    model = build({**BINARY, "dense": 1})
    learn(model, x, (x[:, 0] > 0).astype(float))
    assert deviations(model)[0] > 1000.0


def test_moments_do_not_depend_on_how_rows_are_cut() -> None:
    x, y = sensors(1000)
    x[300:400] *= 1000.0
    whole, cut = build({**BINARY, "dense": 3}), build({**BINARY, "dense": 3})
    learn(whole, x, y)
    for first in range(0, 1000, 37):
        learn(cut, x[first : first + 37], y[first : first + 37])
    assert all((whole.arrays[name] == cut.arrays[name]).all() for name in whole.arrays)


def test_constant_columns_stay_finite() -> None:
    x = np.full((500, 2), 7.0)
    x[250:, 1] = 8.0
    model = build({**BINARY, "dense": 2})
    scores = learn(model, x, (np.arange(500) % 2).astype(float))
    assert np.isfinite(scores).all()
    assert all(np.isfinite(array).all() for array in model.arrays.values())


def test_bursts_of_a_rare_value_are_no_bad_stretch() -> None:
    draw = np.random.default_rng(4)
    x = np.zeros((8000, 2))
    x[500, 0] = x[3000:3100, 0] = x[5000:5300, 0] = 1.0  # an indicator
    x[draw.random(8000) < 0.001, 1] = 7.0
    y = (draw.random(8000) < 0.5).astype(float)
    model = build({**BINARY, "dense": 2})
    learn(model, x, y)
    assert model.arrays["moments"][0, :-1].tolist() == [8000.0, 8000.0]


def test_the_block_that_comes_back_is_compared_as_its_values_are() -> None:
    """The moments of the block, as differences, are those of its values, with a bad stretch in the same sums."""
    x, y = sensors(3000)
    x[2000:2500] = x[2000:2500] * 1000.0 + 1e5
    x = x.astype(np.float32)
    model = build({**BINARY, "dense": 3})
    for first in range(0, 3000, BLOCK):
        before = model.arrays["moments"].copy()
        learn(model, x[first : first + BLOCK], y[first : first + BLOCK])
        reset = model.arrays["moments"][0, 0] < before[0, 0]
        saved = before[CHECKPOINT : CHECKPOINT + 3, 0]
        if reset:
            around = np.mean((x[first : first + BLOCK, 0].astype(np.float64) - saved[1]) ** 2)
            assert around <= 4.0 * saved[2] / saved[0]
            assert model.arrays["moments"][:3, 0].tolist() == saved.tolist()
            break
    else:
        pytest.fail("no column went back to its checkpoint")
    assert 2500 <= first < 2500 + 2 * BLOCK


def test_a_column_with_few_values_goes_on_with_its_block() -> None:
    x, y = sensors(2 * BLOCK)
    x[: BLOCK - 1, 1] = np.nan
    x[int(LEAST_BLOCK) :, 2] = np.nan
    model = build({**BINARY, "dense": 3})
    learn(model, x[:BLOCK], y[:BLOCK])
    moments = model.arrays["moments"]
    assert moments[START, :-1].tolist() == [BLOCK, 0.0, LEAST_BLOCK]
    learn(model, x[BLOCK:], y[BLOCK:])
    assert moments[START, :-1].tolist() == [2 * BLOCK, BLOCK + 1, LEAST_BLOCK]
