from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from everlearn.cli import app

LINES = ["x,y", *(f"{row % 10},{int(row % 10 > 4)}" for row in range(1600))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with rows and a configuration of two learners."""
    (tmp_path / "rows.csv").write_text("\n".join([*LINES, "broken,1"]))
    (tmp_path / "everlearn.toml").write_text(
        'source = "rows.csv"\n[schema]\nlabel = "y"\ntask = "binary"\nclasses = [0, 1]\n'
        '[schema.fields]\nx = "numeric"\n[partitions]\ncount = 2\n'
    )
    return tmp_path


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["run", *arguments, "--config", str(folder / "everlearn.toml")])
    return done.exit_code, done.output


@pytest.mark.slow
def test_a_run_prints_one_report_of_both_learners(folder: Path) -> None:
    code, output = run(folder, "--json")
    result = json.loads(output.splitlines()[-1])
    assert code == 0
    assert result["rows"] == result["events"] == 1600
    assert result["rejected"] == 1
    assert [one["partition"] for one in result["partitions"]] == [0, 1]
    assert result["metrics"]["champion"]["accuracy"] > 0.9
    assert Path(result["picture"]).exists()


@pytest.mark.slow
def test_a_second_run_has_nothing_new_and_the_home_is_no_loop(folder: Path) -> None:
    run(folder)
    code, output = run(folder)
    assert code == 0
    assert "nothing new: all rows were learned already" in output
    assert "partition 1:" in output
    assert "2 merges, the last after row 1,601" in output
    done = CliRunner().invoke(app, ["versions", "--config", str(folder / "everlearn.toml")])
    assert done.exit_code != 0
    assert "is the home of a run in partitions, which has no versions" in str(done.exception or done.output)


@pytest.mark.parametrize("option", [("--delay", "5"), ("--label-time", "at")])
def test_late_labels_are_refused(folder: Path, option: tuple[str, str]) -> None:
    done = CliRunner().invoke(app, ["run", *option, "--config", str(folder / "everlearn.toml")])
    assert done.exit_code != 0
    assert not (folder / "everlearn.home").exists()
