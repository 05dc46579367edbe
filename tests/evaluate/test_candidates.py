"""Candidates of advice, measured on rows: the interval, the verdict, and equal results for equal rows."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

import everlearn as el
from everlearn import advise
from everlearn.errors import InputError
from everlearn.evaluate import candidates
from everlearn.spec import Spec


def stream(rows: int = 700) -> el.Stream:
    draw = np.random.default_rng(1)
    a, b = draw.normal(size=(2, rows))
    y = (2.0 * a - b + 0.3 * draw.normal(size=rows)) > 0
    return el.read({"a": a, "b": b, "y": np.where(y, "yes", "no")}, label="y")


def test_the_interval_is_that_of_a_t_test_on_block_means():
    scipy = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(0)
    difference = draw.normal(0.1, 1.0, 2000)
    low, high = candidates.interval(difference)
    level = 1 - 0.05 / 9
    expected = scipy.ttest_1samp(difference.reshape(20, 100).mean(axis=1), 0.0).confidence_interval(level)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_equal_models_are_rarely_found_different():
    draw = np.random.default_rng(2)
    found = [candidates.interval(draw.normal(size=400))[1] < 0 for _ in range(2000)]
    assert np.mean(found) < 0.05 / 9


def test_a_rule_that_is_clearly_worse_gives_way_and_says_so():
    data = stream()
    advice = advise.of({"model": "linear"})
    bad = msgspec.structs.replace(advice, model={"family": "linear", "optimizer": "sgd", "rate": 1e-6})
    measured = candidates.measure(bad, data, delay=5, rows=700)
    assert (measured.rows, measured.delay) == (700, 5)
    assert measured.best != candidates.RULE
    settled = candidates.settled(bad, measured)
    assert settled.reasons[-1].why.startswith("the measurement decided")
    assert settled.reasons[-1].because == {"measured": "700 rows, labels 5 rows late"}
    assert isinstance(settled.spec(data.schema), Spec)
    el.build(settled.model, {"task": "binary", "dense": 2})
    best = next(one for one in measured.candidates if one.name == measured.best)
    alone = el.prequential(el.build(best.model), data, delay=5).metrics
    assert best.metrics["log_loss"] == pytest.approx(alone["log_loss"])
    assert measured == candidates.measure(bad, data, delay=5, rows=700)


def test_the_rule_stays_where_nothing_is_clearly_better():
    advice = advise.of({"model": "linear"})
    measured = candidates.measure(advice, stream(150), rows=150)
    assert measured.best == candidates.RULE
    assert "the advice stays" in measured.why
    assert candidates.settled(advice, measured) is advice


@pytest.mark.parametrize("delay", [0, 3])
def test_runs_of_labels_are_given_to_the_automatic_model(delay, monkeypatch):
    """Labels come in runs of ten and the feature says little; a mix also knows its late labels as in a loop."""
    monkeypatch.setattr(candidates.importlib.util, "find_spec", lambda name: None)  # without PyTorch
    draw = np.random.default_rng(3)
    y = np.cumsum(draw.random(1500) < 0.05) % 2
    data = el.read({"a": y + 2.0 * draw.normal(size=1500), "y": np.where(y, "yes", "no")}, label="y")
    advice = advise.of({})
    measured = candidates.measure(advice, data, delay, rows=1500)
    assert measured.best == "auto"
    settled = candidates.settled(advice, measured)
    assert settled.model == {"family": "auto"}
    assert [one.settings["model.family"] for one in settled.reasons if "model.family" in one.settings] == ["auto"]
    assert settled.title == "automatic model (measured better than linear model), live"
    best = next(one for one in measured.candidates if one.name == measured.best)
    alone = el.prequential(el.build(best.model), data, delay=delay).metrics
    assert best.metrics["log_loss"] == pytest.approx(alone["log_loss"])


def test_more_rows_than_the_most_are_not_taken(monkeypatch):
    monkeypatch.setattr(candidates, "MOST", 200)
    advice = advise.of({"model": "linear"})
    assert candidates.measure(advice, stream(300), rows=250).rows == 200


def test_rows_that_cannot_be_used_are_named():
    advice, data = advise.of({"model": "linear"}), stream(60)
    for columns in ({"a": ["x"] * 40, "b": [1] * 40, "y": ["no"] * 40}, {"a": [], "b": [], "y": []}):
        with pytest.raises(InputError, match="table has no row that can be used"):
            candidates.measure(advice, el.read(columns, schema=data.schema))
    with pytest.raises(InputError, match="rows: got -1"):
        candidates.measure(advice, data, rows=-1)
