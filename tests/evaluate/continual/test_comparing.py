"""Comparisons of methods over seeds and at a fixed budget."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from everlearn.evaluate import continual
from everlearn.evaluate.continual import TaskStream
from everlearn.model import Model, build
from tests.support import ROOT
from tests.support.task_streams import blobs, linear


def test_a_comparison_is_the_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    train, test = blobs(900, space=2.0), blobs(200, seed=1, space=2.0)
    methods = {
        "auto": linear,
        "adam": lambda stream, seed: build({"family": "linear", "optimizer": "adam"}, stream.shape),
    }
    result = continual.compare(methods, lambda seed: continual.split(train, test, seed=seed), seeds=[3, 5, 9])
    values = [outcome.metrics["average_accuracy"] for outcome in result.outcomes["adam"]]
    mean, sd = result.metrics["adam"]["average_accuracy"]
    assert (mean, sd) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    alone = continual.split(train, test, seed=5)
    assert continual.evaluate(linear(alone), alone).metrics == result.outcomes["auto"][1].metrics
    console = Console(width=140)
    with console.capture() as capture:
        console.print(result)
    line = next(line for line in capture.get().splitlines() if line.startswith("average accuracy"))
    assert f"{mean:.3f} ± {sd:.3f}" in line
    best = max(result.metrics, key=lambda name: result.metrics[name]["average_accuracy"][0])
    assert f"<b>{result.metrics[best]['average_accuracy'][0]:.3f}" in result._repr_html_()
    assert json.loads(json.dumps(result.to_dict()))["metrics"]["adam"]["average_accuracy"] == {"mean": mean, "sd": sd}
    figure = result.plot(tmp_path / "comparison.png")
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes[1:]] == ["auto", "adam"]
    np.testing.assert_allclose(
        figure.axes[2].images[0].get_array(), np.mean([outcome.matrix for outcome in result.outcomes["adam"]], axis=0)
    )


def test_at_a_fixed_budget_a_method_learns_the_rows_it_has_time_for() -> None:
    train = blobs(600)
    stream = continual.split(train, train)
    rich = continual.compare({"linear": linear}, lambda seed: stream, seeds=[0], budget=1e6)
    poor = continual.compare({"linear": linear}, lambda seed: stream, seeds=[0], budget=1e-6)
    assert rich.metrics["linear"]["learned"] == (1.0, 0.0)
    assert 0 < poor.outcomes["linear"][0].learned < 30
    assert rich.metrics["linear"]["average_accuracy"] > poor.metrics["linear"]["average_accuracy"]


def test_replay_keeps_what_a_naive_network_forgets() -> None:
    torch = pytest.importorskip("torch", reason="networks need PyTorch: pip install everlearn[torch]")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train, test = blobs(1000, columns=8), blobs(300, columns=8, seed=1)
    dials: dict[str, Any] = {
        "family": "neural",
        "ema": 0.0,
        "optimizer": {"name": "sgd", "lr": 0.2},
        "one_at_a_time": False,
    }

    def naive(stream: TaskStream, seed: int) -> Model:
        return build({**dials, "memory": {"kind": "none"}, "seed": seed}, stream.shape)

    def replay(stream: TaskStream, seed: int) -> Model:
        return build({**dials, "memory": {"rows": 50}, "terms": [{"kind": "replay"}], "seed": seed}, stream.shape)

    methods = {"naive": naive, "replay": replay}
    result = continual.compare(methods, lambda seed: continual.split(train, test, seed=seed), seeds=[0])
    torch.set_num_threads(threads)
    assert result.metrics["naive"]["forgetting"][0] > 0.8
    assert result.metrics["replay"]["forgetting"][0] < 0.3
    assert result.metrics["replay"]["average_accuracy"][0] > 0.8


def test_the_example_shows_that_replay_keeps_what_ewc_forgets(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks need PyTorch: pip install everlearn[torch]")
    example = ROOT / "examples" / "continual.py"
    command = [sys.executable, str(example), "--rows", "700", "--seeds", "1", "--picture", str(tmp_path / "digits.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("average accuracy"))
    naive, replay, averaged, ewc = (float(cell.split("±")[0]) for cell in re.split(r"\s{2,}", line.strip())[1:])
    assert min(replay, averaged) > max(naive, ewc) + 0.2
    assert (tmp_path / "digits.png").exists()
