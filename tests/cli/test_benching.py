"""The command `bench`: the table, the picture, and errors that say what to choose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import everlearn as el
from everlearn.cli import app, console


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console.screen, "_width", 120)
    el.generate("sea", rows=1500, noise=0.1).generator.write("sea.csv")
    return "sea.csv"


def test_models_of_three_libraries_are_compared(rows: str) -> None:
    names = "linear,tree,river:linear,sklearn:bayes"
    done = CliRunner().invoke(app, ["bench", rows, "--label", "label", "--models", names, "--delay", "20"])
    assert done.exit_code == 0, done.output
    assert "1,500 rows, labels 20 rows late" in done.output
    for words in (*names.split(","), "majority", "last label", "kappa-T", "raw records", "Wrote bench.png"):
        assert words in done.output
    assert Path("bench.png").stat().st_size > 10_000


def test_small_learners_run_where_they_are_named(rows: str) -> None:
    names = "naive_bayes,passive_aggressive,neighbours"
    done = CliRunner().invoke(app, ["bench", rows, "--label", "label", "--models", names, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["models"]
    assert list(found) == names.split(",")
    assert all(0.75 < one["metrics"]["accuracy"] < 0.92 for one in found.values())  # a tenth of the labels is wrong


def test_json_holds_figures_intervals_and_equal_rows(rows: str) -> None:
    arguments = ["bench", rows, "--label", "label", "--models", "linear,river:arf", "--seconds", "0.2", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    slow = found["models"]["river:arf"]
    assert slow["rows"] < found["models"]["linear"]["rows"] == found["rows"] == 1500
    assert slow["above_best"].keys() == {"mean", "low", "high"}
    assert 0 <= slow["best_on_same_rows"] <= 1
    assert found["best"] == "linear"
    assert {"last_label", "majority"} <= found["baselines"].keys()


def test_a_slow_model_is_reported_with_the_rows_it_reached(rows: str) -> None:
    arguments = ["bench", rows, "--label", "label", "--models", "linear,river:arf", "--seconds", "0.2"]
    done = CliRunner().invoke(app, arguments)
    assert "out of time after 0.2 CPU seconds" in done.output
    assert "of linear" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "got no --label; expected the column to predict, one of x0, x1, x2, label"),
        (["--label", "labl"], "did you mean 'label'"),
        (["--label", "label", "--models", "forrest"], "did you mean 'forest'"),
        (["--label", "label", "--delay", "-1"], "got --delay -1"),
    ],
)
def test_errors_say_what_to_choose(rows: str, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["bench", rows, *arguments])
    assert done.exit_code == 1
    assert message in str(done.exception)


def test_numbers_are_compared_by_all_models_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console.screen, "_width", 120)
    random = np.random.default_rng(0)
    hours = np.arange("2024-01-01", "2024-02-12", dtype="datetime64[h]").astype(str)
    y = 20 * np.sin(np.arange(len(hours)) / 24 * 2 * np.pi) + random.normal(size=len(hours))
    rows = zip(hours, random.normal(size=len(y)), y, strict=True)
    lines = [f"{hour},{value:.3f},{load:.3f}" for hour, value, load in rows]
    Path("load.csv").write_text("\n".join(["at,x,load", *lines]))
    done = CliRunner().invoke(app, ["bench", "load.csv", "--label", "load", "--seconds", "2"])
    assert done.exit_code == 0, done.output
    assert "failed" not in done.output
    for words in ("MAE", "RMSE", "MAE above the best", "seasonal", "mean", "river:arf", "sklearn:pa", "forest"):
        assert words in done.output
    assert "mondrian" not in done.output
    assert "bayes" not in done.output
