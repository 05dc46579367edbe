"""The supervised-to-bandit protocol: what is shown to the bandit, late rewards, and the policies beside it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import everlearn as el
from everlearn.errors import ConfigError, InputError
from everlearn.evaluate.bandits import as_bandit_rows, bandit_run
from everlearn.model import build
from everlearn.records import Batch, Examples


def labelled(n: int = 600, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 2)).astype(np.float32)
    batch = Batch(x, np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    y = (x[:, 0] > 0.5).astype(float) + (x[:, 0] > -0.5)
    return Examples(batch, y, np.ones(n, np.float32), np.arange(1, n + 1))


class Watched:
    """A bandit without `play`, which notes what it was asked and taught."""

    def __init__(self) -> None:
        self.inner: Any = build({"family": "bandit", "dense": 2 + 3 + 2, "actions": 3})
        self.spec, self.arrays = {"family": "watched"}, self.inner.arrays
        self.events: list[tuple[str, float, float, float]] = []

    def predict(self, batch: Batch) -> Any:
        return self.inner.predict(batch)

    def policy(self, batch: Batch) -> Any:
        self.events.append(("policy", float(batch.dense[0, 0]), 0.0, 0.0))
        return self.inner.policy(batch)

    def learn(self, batch: Batch, y: Any, weight: Any) -> Any:
        self.events.append(("learn", float(batch.dense[0, 0]), float(y[0]), float(batch.dense[0, -1])))
        return self.inner.learn(batch, y, weight)


@pytest.mark.parametrize("delay", [0, 3])
def test_a_model_is_asked_and_taught_in_order_and_as_the_fast_path(delay: int) -> None:
    rows, watched = labelled(100), Watched()
    report = bandit_run(watched, rows, delay, seed=4)
    fast = bandit_run("bandit", rows, delay, seed=4)
    assert report.actions.tolist() == fast.actions.tolist()
    assert report.propensities.tobytes() == fast.propensities.tobytes()
    asked = [one[1] for one in watched.events if one[0] == "policy"]
    taught = [one for one in watched.events if one[0] == "learn"]
    assert asked == [one[1] for one in taught] == rows.batch.dense[:, 0].tolist()
    assert [one[2] for one in taught] == (report.actions == rows.y).astype(float).tolist()
    assert [one[3] for one in taught] == report.propensities.tolist()
    assert [name for name, *_ in watched.events[: delay + 1]] == ["policy"] * (delay + 1)
    assert watched.events[delay + 1][0] == "learn"


def test_the_losses_are_shares_of_wrong_actions() -> None:
    rows = labelled(1000)
    report = bandit_run({"family": "bandit", "explore": "epsilon"}, rows)
    assert report.loss == pytest.approx((report.actions != rows.y).mean())
    assert report.losses["best constant"] == pytest.approx(1.0 - np.bincount(rows.y.astype(int)).max() / 1000)
    assert report.losses["uniform"] == pytest.approx(2 / 3)
    assert report.loss < 0.3
    assert report.regret("uniform") == pytest.approx(1000 * (report.loss - 2 / 3))
    assert (report.curve["loss"] * np.diff(report.curve["x"], prepend=0)).sum() == pytest.approx(1000 * report.loss)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report)
    assert "best constant" in console.export_text()


def test_classes_that_come_later_are_actions_from_the_first_row() -> None:
    stream = el.generate("led", rows=500, seed=1)
    report = el.bandit_run("bandit", stream, 10)
    assert report.losses["uniform"] == pytest.approx(0.9)
    assert report.actions.max() == 9


def test_rows_without_a_label_are_left_out() -> None:
    rows = labelled(50)
    rows.y[10] = np.nan
    rows.weight[20] = 0.0
    report = bandit_run("bandit", rows, greedy=False)
    assert report.rows == 48
    assert set(report.losses) == {"bandit", "uniform", "best constant"}


def test_what_is_no_bandit_is_refused() -> None:
    rows = labelled(20)
    with pytest.raises(ConfigError, match="expected one with a method policy"):
        bandit_run(build({"family": "linear", "task": "binary", "dense": 7}), rows)
    with pytest.raises(ConfigError, match="delay: got -1"):
        bandit_run("bandit", rows, -1)
    with pytest.raises(InputError, match="expected one of 'bandit', 'uniform'"):
        bandit_run("bandit", rows, greedy=False).regret("greedy")
    table = {"a": np.arange(50.0), "y": np.arange(50.0) * 1.37}
    with pytest.raises(ConfigError, match="got a stream of numbers"):
        bandit_run("bandit", el.read(table, label="y"))
    assert as_bandit_rows(rows.batch, 3).dense.shape == (20, 7)
