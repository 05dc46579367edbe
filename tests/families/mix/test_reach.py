"""The bound of labels: what one wild number does to a mix, and that no honest number is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn import model
from everlearn.errors import ConfigError
from everlearn.families.mix import reach
from everlearn.records import Batch

ROWS = 1500
SPEC: dict[str, Any] = {"family": "mix", "task": "regression", "dense": 2}


def _batch(x: Any) -> Batch:
    return Batch(x, np.zeros(len(x) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def _bounded(y: Any, most: float = 1000.0) -> Any:
    return reach.bound(np.asarray(y, np.float64), np.ones(len(y), np.float32), most, np.zeros(3))


def test_the_bound_is_that_of_plain_means() -> None:
    random = np.random.default_rng(0)
    y, weight = random.standard_cauchy(600), np.where(random.random(600) < 0.9, 1.0, 0.0).astype(np.float32)
    y[::50] = np.nan
    found = reach.bound(y, weight, 20.0, np.zeros(3))
    learned: list[float] = []  # an oracle that keeps all labels
    means: list[float] = []
    deviations: list[float] = []
    for i in range(600):
        if not np.isfinite(y[i]) or weight[i] == 0.0:
            assert found[i] == y[i] or np.isnan(y[i])
            continue
        expected = y[i]
        if len(learned) >= 100:
            most = 20.0 * float(np.mean(deviations))
            expected = float(np.clip(y[i], means[-1] - most, means[-1] + most))
        assert found[i] == pytest.approx(expected, rel=1e-9)
        if learned:
            deviations.append(abs(expected - means[-1]))
        learned.append(expected)
        means.append(float(np.mean(learned)))
    assert np.any(found[np.isfinite(y)] != y[np.isfinite(y)])


@pytest.mark.parametrize("name", ["normal", "prices", "claims", "counts", "far"])
def test_honest_numbers_stay_as_they_are(name: str) -> None:
    random = np.random.default_rng(1)
    n = 100_000
    y: Any = {
        "normal": random.normal(size=n),
        "prices": np.exp(2.3 * random.normal(size=n)),  # six decades in 19 of 20 rows and more
        "claims": np.where(random.random(n) < 0.002, np.exp(5 + random.normal(size=n) / 2), 0.0),
        "counts": random.poisson(0.01, n).astype(float),
        "far": 1e9 + random.normal(size=n),
    }[name]
    assert np.array_equal(_bounded(y), y)


def test_a_scale_that_grows_for_good_is_followed() -> None:
    y = np.random.default_rng(2).normal(size=4000)
    y[1000:] *= 1e9
    found = _bounded(y)
    assert np.array_equal(found[:1000], y[:1000])
    assert np.mean(found[2000:] == y[2000:]) > 0.99


@pytest.mark.parametrize("wild", [1e6, -1e12])
def test_one_wild_label_does_not_spoil_a_mix(wild: float) -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(ROWS, 2)).astype(np.float32)
    honest = 3.0 * x[:, 0] + x[:, 1] + random.normal(size=ROWS) * 0.3
    y = honest.copy()
    y[500] = wild
    members = [{"family": "linear"}, {"family": "forest", "trees": 3, "memory": 1 << 20}, {"family": "last"}]
    worst = {}
    for most in (0.0, 1000.0):
        made = el.build({**SPEC, "members": members, "reach": most})
        scores = made.learn(_batch(x), y, np.ones(ROWS, np.float32))[:, 0]
        worst[most] = np.abs(scores - honest)[700:].max()
    assert worst[0.0] > 1e3
    assert worst[1000.0] < 100.0


def test_rows_learned_singly_or_together_are_bounded_alike() -> None:
    random = np.random.default_rng(4)
    x, y = random.normal(size=(400, 2)).astype(np.float32), random.standard_cauchy(400) * 100
    whole, pieces = (el.build({**SPEC, "reach": 5.0}) for _ in range(2))
    one = whole.learn(_batch(x), y, np.ones(400, np.float32))
    many = [pieces.learn(_batch(x[i : i + 1]), y[i : i + 1], np.ones(1, np.float32)) for i in range(400)]
    assert np.array_equal(one, np.concatenate(many))
    held, other = whole.arrays, pieces.arrays
    assert all(np.array_equal(held[name], other[name]) for name in held)
    assert held["learn/reach/labels"][0] == 400


def test_only_numbers_of_a_new_layout_have_a_bound() -> None:
    new = el.build(SPEC)
    assert new.spec["reach"] == 1000.0
    assert model.build(new.spec).spec == new.spec
    for old in ({**SPEC, "layout": 5}, {name: value for name, value in new.spec.items() if name != "reach"}):
        made = el.build(old)
        assert made.spec["reach"] == 0.0
        assert "learn/reach/labels" not in made.arrays
    assert el.build({"family": "mix", "task": "binary", "dense": 2}).spec["reach"] == 0.0


def test_a_snapshot_for_serving_leaves_the_bound_out_and_keeps_the_copy_apart() -> None:
    made = el.build(SPEC)
    other = model.copy(made)
    made.learn(_batch(np.ones((3, 2), np.float32)), np.arange(3.0), np.ones(3, np.float32))
    assert made.arrays["learn/reach/labels"][0] == 3
    assert other.arrays["learn/reach/labels"][0] == 0
    other.arrays = model.answering(made.arrays)
    assert other.arrays["learn/reach/labels"][0] == 0


@pytest.mark.parametrize(
    ("spec", "words"),
    [({**SPEC, "reach": -1.0}, "reach: got -1.0"), ({**SPEC, "task": "binary", "reach": 3.0}, "0 for classes")],
)
def test_wrong_bounds_are_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        el.build(spec)
