"""What `init` prints and writes about each column, also of those that are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from everlearn import config
from everlearn.cli import app, console


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rows: list[dict[str, Any]] = [
        {
            "ref": f"k{i:06x}",
            "user": {"age": i, "orders": [{"price": i}]},
            "at": f"{i % 28 + 1}/{i % 9 + 1}/2015",
            "x": i * 7919 % 97 / 7,
            "y": i % 2,
        }
        for i in range(300)
    ]
    Path("d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_every_column_is_named_with_a_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.screen, "_width", 200)
    done = CliRunner().invoke(app, ["init", "d.jsonl", "--label", "y"])
    assert done.exit_code == 0, done.output
    assert "JSON lines" in done.output
    for words in (
        "left out: ref (k000000",
        "left out: user.age (0,",
        "dates as text, the day first",
        "1/1/2015",
    ):
        assert words in " ".join(done.output.split())
    spec = config.load("everlearn.toml")
    assert (spec.ignore, spec.schema.dates) == (("ref", "user.age", "user.orders"), {"at": "day first"})
    assert "\n# ref: another value in every row" in Path("everlearn.toml").read_text()
    again = CliRunner().invoke(app, ["run"])
    assert again.exit_code == 0, again.output
    assert "unknown name" not in again.output


def test_the_reasons_are_in_the_json(folder: Path) -> None:
    done = CliRunner().invoke(app, ["init", "d.jsonl", "--label", "y", "--json"])
    found = json.loads(done.output)
    assert set(found["left_out"]) == {"ref", "user.age", "user.orders"}
    assert set(found["why"]) == {"at", "x"}


def test_run_names_unknown_columns(folder: Path) -> None:
    CliRunner().invoke(app, ["init", "d.jsonl", "--label", "y"])
    Path("more.csv").write_text("att,x,y\n1/2/2015,3,1\n")
    done = CliRunner().invoke(app, ["run", "more.csv"])
    assert "unknown name 'att' in 1 rows: did you mean 'at'?" in done.output
    assert "no field 'at' in 1 rows" in done.output


def test_a_word_for_missing_is_named_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.screen, "_width", 200)
    Path("d.csv").write_text("x,y\n" + "".join(f"{'unknown' if i % 5 == 0 else i / 7},{i % 2}\n" for i in range(200)))
    done = CliRunner().invoke(app, ["init", "d.csv", "--label", "y"])
    assert "numbers; 'unknown' for missing values" in done.output
    assert done.output.count("for missing values") == 1
