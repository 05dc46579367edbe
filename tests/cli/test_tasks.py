"""`everlearn init` and `run` for anomalies and forecasts: files without labels, and series."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import everlearn as el
from everlearn import cli, config


def run(*words: str) -> str:
    done = CliRunner().invoke(cli.app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    heat = random.normal(60.0, 2.0, 1500)
    heat[[900, 1300]] += 30.0
    lines = [
        f"2026-01-01T{i // 60 % 24:02d}:{i % 60:02d},{value:.2f},{value / 2 + i % 5:.2f}"
        for i, value in enumerate(heat)
    ]
    (tmp_path / "machine.csv").write_text("at,heat,load\n" + "\n".join(lines) + "\n")
    return tmp_path


def test_a_file_without_labels_is_scored_and_the_alerts_are_named(machine: Path) -> None:
    run("init", "machine.csv", "--task", "anomaly")
    spec = config.load(machine / "everlearn.toml")
    assert (spec.schema.classes, spec.schema.unlabelled) == (("normal", "anomaly"), "normal")
    assert set(spec.schema.fields) == {"heat", "load"}
    shown = run("run")
    assert "1,500 rows scored" in shown
    assert "row 901:" in shown
    with el.open(spec, home=machine / "everlearn.home") as loop:
        report = loop.report()
    assert report["examples"] == 1500
    assert report["rollbacks"] == 0
    assert report["metrics"]["champion"]["decided_positive"] < 0.05


def test_some_labels_make_the_rarer_class_the_anomaly(machine: Path) -> None:
    rows = (machine / "machine.csv").read_text().splitlines()
    states = ["state", *("" if i % 2 else "broken" if i in (900, 1300) else "fine" for i in range(1500))]
    (machine / "some.csv").write_text("\n".join(f"{row},{state}" for row, state in zip(rows, states, strict=True)))
    run("init", "some.csv", "--label", "state", "--task", "anomaly")
    spec = config.load(machine / "everlearn.toml")
    assert (spec.schema.classes, spec.schema.unlabelled) == (("fine", "broken"), "fine")
    found = json.loads(run("run", "--json"))
    assert (found["examples"], found["rejected"]) == (1500, 0)
    assert found["metrics"]["champion"]["roc_auc"] > 0.99


def test_predictions_without_labels_are_learned_after_a_while(machine: Path) -> None:
    run("init", "machine.csv", "--task", "anomaly")
    values: dict[str, Any] = {"feedback": {"window": 1e-6, "default": "normal", "correction": "ignore"}}
    spec = config.load(machine / "everlearn.toml")
    spec = config.convert(
        {
            "schema": {
                "label": "anomaly",
                "task": "binary",
                "classes": ["normal", "anomaly"],
                "fields": dict(spec.schema.fields),
                "unlabelled": "normal",
            },
            "model": {"family": "anomaly"},
            **values,
        }
    )
    random = np.random.default_rng(1)
    with el.open(spec, home=machine / "served") as loop:
        for heat in random.normal(60.0, 2.0, 400).tolist():
            loop.predict({"heat": heat, "load": 30.0})
        usual = loop.predict({"heat": 60.0, "load": 30.0}).proba[1]
        odd = loop.predict({"heat": 95.0, "load": 30.0}).proba[1]
    assert usual < 0.7 < 0.99 < odd


def test_a_series_is_forecast_in_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    at = np.datetime64("2026-01-01T00:00") + np.arange(900) * np.timedelta64(60, "m")
    load = 50 + 10 * np.sin(np.arange(900) * 2 * np.pi / 24) + np.random.default_rng(0).normal(size=900)
    (tmp_path / "load.csv").write_text("at,load\n" + "\n".join(f"{t},{y}" for t, y in zip(at, load, strict=True)))
    run("init", "load.csv", "--label", "load", "--task", "forecast")
    found = json.loads(run("run", "--json"))
    assert found["metrics"]["champion"]["mae"] < found["metrics"]["seasonal"]["mae"]
    with el.open(config.load(tmp_path / "everlearn.toml"), home=tmp_path / "everlearn.home") as loop:
        answer = loop.predict({"at": "2026-02-08T20:00"})  # 33 hours ahead
        forecast, low, high, horizon = np.frombuffer(answer.trace, "<f4")
        loop.feedback(answer.id, label=40.0)
    assert (answer.value, horizon) == (forecast, 33.0)
    assert low < forecast < high
    assert abs(forecast - (50 + 10 * np.sin((900 - 1 + 33) * 2 * np.pi / 24))) < 3.0


def test_wrong_words_are_answered_with_the_right_ones(machine: Path) -> None:
    for words, message in (
        (["init", "machine.csv", "--task", "anomalies"], "expected one of anomaly, forecast, bandit"),
        (["init", "machine.csv"], "DATA with --task anomaly for rows without labels"),
    ):
        done = CliRunner().invoke(cli.app, words)
        assert message in str(done.exception)
    (machine / "plain.csv").write_text("a,y\n" + "\n".join(f"{i % 7}.5,{i * i % 13}.5" for i in range(60)))
    done = CliRunner().invoke(cli.app, ["init", "plain.csv", "--label", "y", "--task", "forecast"])
    assert "none of which is a time" in str(done.exception)


def init_forecast(folder: Path, lines: list[str]) -> str:
    (folder / "sold.csv").write_text("\n".join(lines) + "\n")
    return " ".join(run("init", "sold.csv", "--label", "sold", "--task", "forecast", "--force").split())


def test_the_notes_of_a_series_name_its_keys_and_rows_out_of_order(machine: Path) -> None:
    days = [f"2026-01-{day:02d}" for day in range(1, 31)]
    straight = init_forecast(machine, ["at,sold", *(f"{day},{i % 7}.5" for i, day in enumerate(days))])
    assert "note:" not in straight
    turned = init_forecast(machine, ["at,sold", *(f"{day},{i % 7}.5" for i, day in enumerate(days[::-1]))])
    assert "29 of 30 rows are older than a row of their series above them" in turned
    assert "sort the file by at" in turned
    twice = [f"{day},{i % 7}.5" for i, day in enumerate(sorted(days * 2))]
    assert "30 of 60 rows have the time of a row" in init_forecast(machine, ["at,sold", *twice])
    shops = [f"{day},{shop},{i % 9}.25,{i % 7}.5" for shop in ("east", "west") for i, day in enumerate(days)]
    found = init_forecast(machine, ["at,shop,price,sold", *shops])
    assert "2 series, one for each value of shop" in found
    assert "forecasts do not use price" in found
    assert "older" not in found
    assert "have the time" not in found
    many = [f"{day},s{shop},{(i + shop) % 7}.5" for i, day in enumerate(days) for shop in range(70)]
    assert "only 64 series are kept; set series = 70" in init_forecast(machine, ["at,shop,sold", *many])


def test_labelled_ranks_are_measured_by_their_order_alone(machine: Path) -> None:
    lines = (machine / "machine.csv").read_text().splitlines()
    labelled = [f"{line},{'broken' if i in (900, 1300) else 'ok'}" for i, line in enumerate(lines[1:])]
    (machine / "labelled.csv").write_text("\n".join([lines[0] + ",state", *labelled]) + "\n")
    run("init", "labelled.csv", "--label", "state", "--task", "anomaly")
    shown = run("run")
    assert "ROC AUC" in shown
    assert "decision recall" in shown
    for word in ("accuracy", "log loss", "kappa", "majority", "picture"):
        assert word not in shown


def test_few_rows_and_alerts_that_are_left_out_are_said(machine: Path) -> None:
    (machine / "one.csv").write_text("heat,load\n1.5,2\n")
    run("init", "one.csv", "--task", "anomaly", "--force")
    shown = run("run")
    assert "1 row scored, 0 alerts (0.00%)" in shown
    assert "no row ranks above 1/2 before 100 rows were scored" in shown


@pytest.mark.parametrize(
    ("classes", "words", "task", "made"),
    [
        (8, [], "multiclass", 8),
        (8, ["--task", "regression"], "regression", 0),
        (60, [], "regression", 0),
        (60, ["--task", "classes"], "multiclass", 60),
        (2, ["--task", "classes"], "binary", 2),
        (2, ["--task", "regression"], "regression", 0),
    ],
)
def test_whole_numbers_are_what_the_task_says(
    classes: int, words: list[str], task: str, made: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{i * 37 % 101 / 10},{i * 7 % classes}" for i in range(1200)]
    (tmp_path / "counts.csv").write_text("x,visits\n" + "\n".join(rows) + "\n")
    shown = " ".join(run("init", "counts.csv", "--label", "visits", *words).split())
    schema = config.load(tmp_path / "everlearn.toml").schema
    assert (schema.task, len(schema.classes)) == (task, made)
    assert ("note: the" in shown) == (not words)


def test_integers_name_the_series_of_a_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"2026-01-{1 + i // 96:02d}T{i // 4 % 24:02d}:00,{81_000_000 + i % 4},{i % 4}" for i in range(1200)]
    (tmp_path / "sold.csv").write_text("at,shop,sold\n" + "\n".join(rows) + "\n")
    shown = " ".join(run("init", "sold.csv", "--label", "sold", "--task", "forecast").split())
    assert config.load(tmp_path / "everlearn.toml").schema.fields == {"at": "datetime", "shop": "categorical"}
    assert "4 series, one for each value of shop" in shown
