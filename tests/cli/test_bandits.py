"""A loop that chooses actions, inferred from a file of logged rows and run on it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from everlearn import config
from everlearn.cli import app
from tests.support.bandits import ACTIONS, table

INIT = ["init", "log.csv", "--label", "reward", "--task", "bandit"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    columns: dict[str, Any] = table(400) | {"actions.left.price": [1.5] * 400, "ref": [f"k{i:05x}" for i in range(400)]}
    columns["reward"] = [value * 2.5 - 0.5 for value in columns["reward"]]
    columns["p"] = columns.pop("propensity")
    with Path("log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return tmp_path


def test_a_logged_file_becomes_a_loop_that_learns_it(folder: Path) -> None:
    done = CliRunner().invoke(app, [*INIT, "--action", "action", "--propensity", "p"])
    assert done.exit_code == 0, done.output
    assert "actions: left, middle, right" in done.output
    assert "rewards: -1 to 2" in done.output
    spec = config.load("everlearn.toml")
    assert (spec.model, spec.ignore) == ({"family": "bandit"}, ("ref",))
    schema = spec.schema
    assert (schema.task, schema.actions, schema.rewards) == ("bandit", ACTIONS, (-1.0, 2.0))
    assert (schema.fields, schema.action_fields) == ({"x": "numeric", "z": "numeric"}, {"price": "numeric"})
    assert (schema.action, schema.propensity) == ("action", "p")
    ran = CliRunner().invoke(app, ["run", "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert (found["examples"], found["rejected"], found["fields"]["unknown"]) == (400, 0, {})
    assert found["bandit"]["policies"]["best constant"]["action"] == "middle"
    shown = CliRunner().invoke(app, ["run"])
    assert "best constant (middle)" in shown.output
    assert "served: middle" in shown.output


def test_a_log_of_equal_probabilities_needs_no_column(folder: Path) -> None:
    done = CliRunner().invoke(app, [*INIT, "--action", "action", "--propensity", "uniform"])
    assert done.exit_code == 0, done.output
    assert config.load("everlearn.toml").schema.propensity == "uniform"
    assert json.loads(CliRunner().invoke(app, ["run", "--json"]).stdout)["rejected"] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--action", "action"], "--propensity: missing; expected --action COLUMN and --propensity COLUMN"),
        (["--propensity", "p"], "--action: missing"),
        (["--action", "actoin", "--propensity", "p"], "--action: got 'actoin'; expected the column of the action"),
        (["--action", "action", "--propensity", "q"], "--propensity: got 'q'; expected the column of the probability"),
        (["--task", "bandits"], "--task: got 'bandits'; expected one of anomaly, forecast, bandit"),
        (["--task", "", "--action", "action"], "--action: got it without --task bandit"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder: Path, options: list[str], said: str) -> None:
    done = CliRunner().invoke(app, [*INIT, *options])
    assert done.exit_code != 0
    assert said in str(done.exception)
    assert not Path("everlearn.toml").exists()


def test_late_labels_are_refused_for_actions_that_were_taken(folder: Path) -> None:
    CliRunner().invoke(app, [*INIT, "--action", "action", "--propensity", "p"])
    done = CliRunner().invoke(app, ["run", "--delay", "3"])
    assert "whose actions were taken already" in str(done.exception)


def test_a_file_of_which_no_row_can_be_learned_is_refused_before_anything_is_written(folder: Path) -> None:
    rows = list(csv.DictReader(Path("log.csv").read_text().splitlines()))
    with Path("log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "p": 100 * float(row["p"])} for row in rows)
    done = CliRunner().invoke(app, [*INIT, "--action", "action", "--propensity", "p"])
    assert "none of the first 400 rows can be learned; line 2: field 'p': got" in str(done.exception)
    assert not Path("everlearn.toml").exists()
