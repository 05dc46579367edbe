"""Comparisons: each model as if it ran alone, equal rows for slow ones, and failures that stop nobody else."""

from __future__ import annotations

import io
import json
import time

import numpy as np
import pytest
from rich.console import Console

import everlearn as el
from everlearn.errors import ConfigError
from everlearn.evaluate.comparing import compare
from everlearn.evaluate.entrants import Piece, Terms
from everlearn.records import Singles

SECONDS = 1.0  # of CPU time, which the other models are far from using
MODELS = {"linear": {"family": "linear"}, "tree": {"family": "tree"}, "last": {"family": "last"}}


def stream(rows: int = 6000) -> el.Stream:
    return el.generate("sea", rows=rows, noise=0.1, drift="sudden", seed=3)


class Slow:
    """A foreign model that predicts class 1, and takes all the time there is on row 1,000."""

    reads, raw = "nothing", False

    def __init__(self, terms: Terms) -> None:
        self.terms, self.rows = terms, 0

    def step(self, piece: Piece) -> Singles:
        self.rows += len(piece.examples.y)
        if self.rows == 1000:
            until = time.process_time() + SECONDS
            while time.process_time() < until:
                pass
        return np.tile(np.array([0.0, 1.0], np.float32), (len(piece.examples.y), 1))

    def size(self) -> int:
        return 8


class Broken(Slow):
    def step(self, piece: Piece) -> Singles:
        if self.rows:
            raise ValueError("broken on purpose")
        return super().step(piece)


@pytest.mark.parametrize("delay", [0, 25])
def test_each_model_has_the_report_of_a_run_alone(delay: int) -> None:
    result = compare(MODELS, stream(2000), delay, chunk=333)
    for name, spec in MODELS.items():
        alone = el.prequential(el.build(spec), stream(2000), delay)
        assert result.reports[name].metrics == alone.metrics
        assert result.baselines == alone.baselines
        for key, line in alone.curve.items():
            assert (result.reports[name].curve[key] == line).all()


def test_differences_are_those_of_the_losses_of_the_rows() -> None:
    result = compare(MODELS, stream())
    rows = 6000 // 16 * 16
    assert rows == 6000
    for loss, metric, sign in (("error", "accuracy", -1), ("log_loss", "log_loss", 1)):
        found = result.difference("last", "linear", loss)
        one, other = (result.reports[name].metrics[metric] for name in ("last", "linear"))
        assert found.mean == pytest.approx(sign * (one - other), rel=1e-6)
    assert result.best in ("linear", "tree")
    simple = result.baselines["last_label"]["accuracy"]
    assert result.difference("last_label", "linear").mean == pytest.approx(
        result.reports["linear"].metrics["accuracy"] - simple, rel=1e-6
    )
    test = result.mcnemar("last", "linear")
    gap = result.reports["linear"].metrics["accuracy"] - result.reports["last"].metrics["accuracy"]
    assert test.only_first - test.only_second == pytest.approx(gap * 6000)
    wide, one = result.difference("tree", "linear"), result.difference("tree", "linear", alpha=0.05)
    assert wide.high - wide.low > one.high - one.low  # three pairs share alpha


def test_models_that_are_equal_are_not_found_different() -> None:
    twins = {"one": {"family": "linear"}, "other": {"family": "linear"}}
    found = compare(twins, stream()).difference("one", "other")
    assert found.mean == 0.0
    assert found.low < 0.0 < found.high


def test_a_slow_model_is_compared_on_the_rows_it_reached() -> None:
    result = compare({"linear": {"family": "linear"}, "slow": Slow}, stream(), chunk=500, seconds=SECONDS)
    assert result.costs["slow"].rows == 1000
    assert result.costs["linear"].rows == result.rows == 6000
    assert result.best == "linear"
    short = compare({"linear": {"family": "linear"}}, stream().first(992), chunk=500)
    mine, best = result.same_rows("slow", "linear")
    assert best == pytest.approx(1 - short.reports["linear"].metrics["accuracy"])
    y = np.concatenate([chunk.examples.y for chunk in stream().chunks()])
    assert mine == pytest.approx(1 - y[:992].mean())


def test_a_model_that_fails_is_reported_and_stops_no_other() -> None:
    def impossible(terms: Terms) -> Slow:
        raise RuntimeError("not here")

    result = compare({"linear": {"family": "linear"}, "broken": Broken, "none": impossible}, stream(), chunk=500)
    assert result.failures == {
        "none": "RuntimeError: not here",
        "broken": "after 500 rows: ValueError: broken on purpose",
    }
    assert result.costs["broken"].rows == 500
    assert result.costs["linear"].rows == 6000


def test_it_is_shown_at_every_width_and_drawn(tmp_path) -> None:
    result = compare(MODELS, stream())
    for width in (80, 90, 100, 140):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(result)
        text = console.export_text()
        assert "…" not in text
        assert "linear" in text
        assert "last label" in text
    json.dumps(result.to_dict())
    figure = result.plot(tmp_path / "race.png", "log_loss")
    assert figure.axes[0].get_xscale() == "log"
    assert (tmp_path / "race.png").stat().st_size > 10_000
    with pytest.raises(el.errors.InputError, match="accuracy, log_loss"):
        result.plot(metric="f1")


def test_numbers_are_compared_by_their_absolute_errors() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=4000)
    rows = el.read({"x": x, "y": 3 * x + random.normal(size=4000)}, label="y")
    result = compare({"linear": {"family": "linear"}, "tree": {"family": "tree"}}, rows)
    assert result.loss == "absolute"
    one, other = (result.reports[name].metrics["mae"] for name in ("tree", "linear"))
    assert result.difference("tree", "linear").mean == pytest.approx(one - other, rel=1e-6)
    with pytest.raises(ConfigError, match="no classes"):
        result.mcnemar("tree", "linear")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 0 models"):
        compare({}, stream())
    result = compare(MODELS, stream(500))
    with pytest.raises(ConfigError, match="models with that loss: linear, tree, last"):
        result.difference("linear", "forest")
