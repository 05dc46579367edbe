"""The gain over the baseline: paired curves, the choice of metric and baseline, and the gate beside it."""

from __future__ import annotations

import numpy as np
import pytest

import everlearn
from everlearn import metrics
from everlearn.gate import interval
from everlearn.loop import gain
from everlearn.stream import read
from tests.support.loops import spec, table


def curve(rights, points=256):
    """Return the curve of a classifier that was right, or not, on each row."""
    arrays = metrics.start("binary", 2, points)
    right = np.asarray(rights, float)
    scores = np.stack([0.7 - 0.4 * right, 0.3 + 0.4 * right], axis=1).astype(np.float32)
    metrics.update(arrays, "binary", scores, np.ones(len(right)), np.ones(len(right), np.float32), 0)
    return metrics.curve(arrays)


@pytest.fixture(scope="module")
def curves():
    draw = np.random.default_rng(4)
    rows = draw.random(4000)
    ours, other = rows < 0.9, np.where(draw.random(4000) < 0.1, draw.random(4000) < 0.5, rows < 0.8)
    held = {"champion": curve(ours), "frozen": curve(other), "last_label": curve(draw.random(4000) < 0.95)}
    return held | {"truth": float(ours.mean() - other.mean())}


def test_the_difference_is_that_of_the_rows_and_the_start_comes_before_naive_baselines(curves):
    found = gain.of({role: curves[role] for role in ("champion", "frozen", "last_label")}, "accuracy", 0.05)
    assert (found["baseline"], found["examples"]) == ("frozen", 4000)
    assert found["difference"] == pytest.approx(curves["truth"], abs=1e-12)
    assert found["low"] < curves["truth"] < found["high"]
    assert found["better"] == 1
    swapped = gain.of({"champion": curves["frozen"], "frozen": curves["champion"]}, "accuracy", 0.05)
    assert (swapped["better"], swapped["low"]) == (-1, pytest.approx(-found["high"]))


def test_a_loss_is_better_if_it_is_lower_and_metrics_without_a_curve_use_the_log_loss(curves):
    both = {"champion": curves["champion"], "frozen": curves["frozen"]}
    for headline in ("log_loss", "cost", "roc_auc", "brier"):
        found = gain.of(both, headline, 0.05)
        assert found["metric"] == "log_loss"
        assert found["difference"] < found["high"] < 0
        assert found["better"] == 1


def test_the_best_naive_baseline_shares_alpha_among_those_it_was_chosen_of(curves):
    naive = {"champion": curves["champion"], "last_label": curves["last_label"], "majority": curves["frozen"]}
    found = gain.of(naive, "accuracy", 0.05)
    assert (found["baseline"], found["better"]) == ("last_label", -1)
    alone = gain.of({role: naive[role] for role in ("champion", "last_label")}, "accuracy", 0.025)
    assert (found["low"], found["high"]) == (alone["low"], alone["high"])


def test_rows_that_only_one_of_them_answered_are_left_out(curves):
    late = {name: line[50:] for name, line in curves["frozen"].items()}
    found = gain.of({"champion": curves["champion"], "frozen": late}, "accuracy", 0.05)
    assert found["examples"] == late["count"].sum()
    assert gain.of({"champion": curve(np.ones(99)), "frozen": curve(np.ones(99))}, "accuracy", 0.05) is None
    assert gain.of({"champion": curves["champion"]}, "accuracy", 0.05) is None


COMPARED = {"role": "champion", "candidate": "c", "reference_role": "previous", "reference": "f"}
COMPARED |= {"loss": "brier", "examples": 4000, "difference": 0.02, "low": 0.01, "high": 0.03}


def test_the_gate_is_heard_where_it_compares_the_same_two(curves):
    found = gain.of({"champion": curves["champion"], "frozen": curves["frozen"]}, "accuracy", 0.05)
    assert gain.beside_gate(found, "other", [COMPARED])["gate"] is None
    beside = gain.beside_gate(found, "f", [COMPARED])
    assert beside["gate"]["better"] == 1
    assert beside["low"] == found["low"]  # a Brier score is no accuracy
    turned = {"role": "frozen", "candidate": "f", "reference_role": "champion", "reference": "c"}
    against = gain.beside_gate(found, "f", [COMPARED | turned])["gate"]
    assert (against["difference"], against["low"], against["high"], against["better"]) == (-0.02, -0.03, -0.01, -1)


def test_the_gate_decides_where_it_measures_the_same_over_the_same_rows(curves):
    found = gain.of({"champion": curves["champion"], "frozen": curves["frozen"]}, "accuracy", 0.05)
    same = gain.beside_gate(found, "f", [COMPARED | {"loss": "error"}])
    assert (same["difference"], same["low"], same["high"], same["better"]) == (0.02, 0.01, 0.03, 1)
    few = gain.beside_gate(found, "f", [COMPARED | {"loss": "error", "examples": 1000}])
    assert few["low"] == found["low"]
    losses = gain.of({"champion": curves["champion"], "frozen": curves["frozen"]}, "log_loss", 0.05)
    same = gain.beside_gate(losses, "f", [COMPARED | {"loss": "log_loss"}])
    assert (same["difference"], same["low"], same["high"], same["better"]) == (-0.02, -0.03, -0.01, 1)


def test_a_loop_reports_its_gain_and_the_time_of_its_newest_label(tmp_path):
    settings = spec(warm_start=0.1)
    with everlearn.open(settings, home=tmp_path / "home") as loop:
        loop.run(read(table(3000), schema=settings.schema))
        now = loop.status()
        means = {role: now["metrics"][role]["accuracy"] for role in ("champion", "frozen")}
        assert now["gain"]["difference"] == pytest.approx(means["champion"] - means["frozen"], abs=1e-9)
        assert now["gain"]["baseline"] == "frozen"
        assert now["labelled_at"] is None  # the file is its own log
        loop.learn({"a": 1.0, "b": 2.0, "c": "c1"}, 1)
        assert now["time"] <= loop.status()["labelled_at"] <= loop.status()["time"]


def test_intervals_come_from_the_gates_module(curves):
    pairs = curves["champion"], curves["frozen"]
    weights = pairs[0]["weight"]
    sums = (pairs[0]["accuracy"] - pairs[1]["accuracy"]) * weights
    expected = interval.of_stretches(sums, weights, 4000, 0.05, 1.0)
    found = gain.of({"champion": pairs[0], "frozen": pairs[1]}, "accuracy", 0.05)
    assert (found["difference"], found["low"], found["high"]) == expected
