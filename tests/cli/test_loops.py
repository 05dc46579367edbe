"""The commands around a loop."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import everlearn as el
from everlearn import config
from everlearn.loop.loop import Loop
from everlearn.spec import Schema, Spec
from tests.support.commands import call
from tests.support.tables import write_csv

COUNTS = ("events", "drifts", "versions", "promotions", "rollbacks")


def linear(folder: Path) -> None:
    """Let the configuration that `init` wrote name the linear family."""
    path = folder / "everlearn.toml"
    path.write_text(path.read_text(encoding="utf-8").replace('family = "auto"', 'family = "linear"'), encoding="utf-8")


def test_wide_rows_get_the_linear_model_and_the_reason(folder, capsys):
    names = [f"x{number}" for number in range(1001)]
    lines = [
        ",".join([*(f"{(row * place) % 7 / 8 + row / 3:.3f}" for place in range(1, 1002)), ["no", "yes"][row % 2]])
        for row in range(60)
    ]
    (folder / "wide.csv").write_text("\n".join([",".join([*names, "label"]), *lines]), encoding="utf-8")
    call("init", "wide.csv", "--label", "label")
    assert "the linear model alone, since there are 1,001 columns of numbers" in capsys.readouterr().out
    assert config.load("everlearn.toml").model == {"family": "auto", "speed": "fast"}


def test_the_demo_beats_its_frozen_start(data, folder):
    result = data("demo")
    assert all(isinstance(result[name], int) for name in COUNTS)
    assert result["events"] == 45_312
    assert result["events_per_second"] > 0
    assert 0 < result["replay"]["rows"] <= 45_312
    assert sum(one["held"] for one in result["replay"]["classes"]) == result["replay"]["rows"]
    champion, frozen, challenger = (result["metrics"][role] for role in ("champion", "frozen", "challenger"))
    assert champion["accuracy"] >= frozen["accuracy"] + 0.02
    assert challenger["log_loss"] <= 0.385
    assert result["drifts"] >= 1
    assert result["promotions"] >= 1
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
    again = data("demo")  # always from the beginning, always the same
    assert again["metrics"] == result["metrics"]
    listed = data("versions", "--config", "everlearn-demo/live.toml")["versions"]
    assert len(listed) == result["versions"]
    assert {"id", "parents", "position", "blob", "aliases", "metrics", "reason"} <= listed[0].keys()


def test_init_run_versions_promote_rollback(data, folder):
    write_csv(folder / "rows.csv", 3000)
    begun = data("init", "rows.csv", "--label", "label")
    assert begun["schema"]["fields"] == {"a": "numeric", "b": "numeric", "c": "categorical"}
    assert begun["warm_start"] == 150
    assert config.load("everlearn.toml").model == {"family": "auto"}
    assert 'speed = "fast" is the linear model' in (folder / "everlearn.toml").read_text(encoding="utf-8")
    linear(folder)  # which is better than its start before the rows end
    result = data("run")
    assert (result["events"], result["examples"]) == (3000, 2850)
    assert data("run")["events"] == 3000  # nothing new
    listed = data("versions")["versions"]
    first, champion = listed[0]["id"], result["champion"]
    moved = data("promote", first[:8], "--reason", "a test")
    assert moved == {"alias": "champion", "previous": champion, "version": first}
    aliases = {one["id"]: one["aliases"] for one in data("versions")["versions"]}
    assert "champion" in aliases[first]
    served = data("rollback")["version"]  # what the champion had become
    listed = data("versions")["versions"]
    assert next(one["parents"] for one in listed if one["id"] == served) == [champion]


def test_without_json_there_are_tables_and_hints(folder, capsys):
    write_csv(folder / "rows.csv", 3000)
    call("init", "rows.csv", "--label", "label")
    out = capsys.readouterr().out
    assert "everlearn run" in out
    assert "the first 150 rows train the model offline" in out
    linear(folder)
    call("run")
    out = capsys.readouterr().out
    for word in ("champion", "last label", "majority", "accuracy", "report.png"):
        assert word in out
    call("versions")
    assert "trained offline on 150 rows" in " ".join(capsys.readouterr().out.split())
    spec = config.load("everlearn.toml")
    with el.open(spec, home=config.home(spec, folder / "everlearn.toml")) as loop:
        first = loop.versions()[0].id
    call("promote", first)
    capsys.readouterr()
    call("rollback")
    out = " ".join(capsys.readouterr().out.split())
    with el.open(spec, home=config.home(spec, folder / "everlearn.toml")) as loop:
        previous = loop.home.versions.alias("previous")
    assert (f"the next rollback goes back to {previous};" if previous else "no champion was before it;") in out


def test_a_warm_start_is_not_scored_and_is_good_from_the_start(data, folder):
    write_csv(folder / "rows.csv", 1000)
    data("init", "rows.csv", "--label", "label")
    result = data("run", "--warm-start", "0.1")
    assert (result["events"], result["examples"]) == (1000, 900)
    assert data("run", "--warm-start", "0.1")["events"] == 1000  # nothing new
    assert result["metrics"]["frozen"]["examples"] == 900
    assert data("versions")["versions"][0]["reason"] == "trained offline on 100 rows"


@pytest.mark.parametrize(("rows", "warm"), [(40, 0), (999, 0), (1000, 50), (5000, 250), (20_000, 500)])
def test_init_sets_a_warm_start_unless_the_file_is_small(data, folder, rows, warm):
    write_csv(folder / "rows.csv", rows)
    assert data("init", "rows.csv", "--label", "label")["warm_start"] == warm
    written = (folder / "everlearn.toml").read_text()
    assert (f"warm_start = {warm}\n" in written) == (warm > 0)
    result = data("run")
    assert result["examples"] == rows - warm
    assert ("frozen" in result["metrics"]) == (warm > 0)
    reason = data("versions")["versions"][0]["reason"]
    assert reason == (f"trained offline on {warm} rows" if warm else "untrained start")


def test_a_warm_start_leaves_the_answers_behind_it_as_they_were(data, folder):
    """The offline rows are learned in one pass, in order: the learner is the same as without a warm start."""
    write_csv(folder / "rows.csv", 3000)
    data("init", "rows.csv", "--label", "label")
    warm = data("run")
    text = (folder / "everlearn.toml").read_text().replace("warm_start = 150\n", "")
    (folder / "cold.toml").write_text(text)
    cold = data("run", "--config", "cold.toml")
    found = [config.load(f"{name}.toml").warm_start for name in ("everlearn", "cold")]
    assert found == [150.0, 0.0]
    with el.open("everlearn.toml") as one, el.open("cold.toml") as other:
        mine, theirs = one.fold.roster.champion.model.arrays, other.fold.roster.champion.model.arrays
    if not warm["rollbacks"] + cold["rollbacks"]:
        assert {name: array.tobytes() for name, array in mine.items()} == {
            name: array.tobytes() for name, array in theirs.items()
        }


def test_run_creates_a_missing_configuration_given_the_label(data, folder):
    write_csv(folder / "rows.csv", 500)
    assert data("run", "rows.csv", "--label", "label")["events"] == 500
    assert (folder / "everlearn.toml").exists()


def test_a_glob_is_one_stream(data, folder):
    write_csv(folder / "day1.csv", 500)
    write_csv(folder / "day2.csv", 700)
    assert data("run", "day*.csv", "--label", "label")["events"] == 1200


def test_standard_input_is_appended_to_the_log(folder):
    write_csv(folder / "rows.csv", 600)
    command = [sys.executable, "-m", "everlearn"]
    subprocess.run([*command, "init", "rows.csv", "--label", "label"], check=True, capture_output=True)
    for total in (600, 1200):  # each time it is piped in, it is a new stretch of the stream
        with (folder / "rows.csv").open() as rows:
            done = subprocess.run([*command, "run", "-", "--json"], stdin=rows, check=True, capture_output=True)
        assert json.loads(done.stdout)["events"] == total


def test_init_leaves_standard_input_to_be_read_once(folder, monkeypatch):
    write_csv(folder / "rows.csv", 400)
    (folder / "there").mkdir()
    for arguments in (["init", "-", "--label", "label"], ["run"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((folder / "rows.csv").read_bytes())))
        call(*arguments, "--config", "there/loop.toml")
    spec = config.load(folder / "there/loop.toml")
    assert (spec.source, spec.warm_start, spec.schema.label) == ("-", 0.0, "label")
    with el.open("there/loop.toml") as loop:
        assert loop.report()["examples"] == 400


@pytest.mark.parametrize("more", [["--epochs", "2"], ["--source", "people/anna"]])
def test_options_of_pairs_are_refused_for_rows(folder, capsys, more):
    write_csv(folder / "rows.csv", 60)
    call("run", "rows.csv", "--label", "label", *more, expect=1)
    assert f"{more[0]}: got it for a binary task" in capsys.readouterr().err
    assert not (folder / "everlearn.toml").exists()
    call("init", "rows.csv", "--label", "label")
    call("run", *more, expect=1)
    assert f"{more[0]}: got it for a binary task" in capsys.readouterr().err


def test_the_order_of_day_and_month_of_label_times_is_kept(data, folder):
    days = [f"{i % 28 + 1:02d}/{i % 2 + 1:02d}/2015" for i in range(100)]
    lines = [f"{i * 7919 % 97 / 7},2015-0{i % 2 + 1}-{i % 28 + 1:02d},{day},{i % 2}" for i, day in enumerate(days)]
    (folder / "rows.csv").write_text("\n".join(["x,at,known,y", *sorted(lines, key=lambda line: line.split(",")[1])]))
    found = data("run", "rows.csv", "--label", "y", "--label-time", "known")
    spec = config.load("everlearn.toml")
    assert (set(spec.schema.fields), spec.schema.dates) == ({"x", "at"}, {"known": "day first"})
    assert (found["rejected"], found["rows"]) == (0, 100)


def test_an_old_home_reads_files_by_its_own_rules_from_the_start(data, folder):
    (folder / "rows.csv").write_text(" x,y\n" + "".join(f"{i * 7919 % 97},{i % 2}\n" for i in range(60)))
    schema = Schema(label="y", task="binary", classes=(0, 1), fields={" x": "numeric"}, rules=1)
    spec = Spec(schema=schema, home="old.home")
    now = msgspec.structs.replace(spec, schema=msgspec.structs.replace(schema, rules=2))
    config.save(now, folder / "everlearn.toml")
    with Loop(spec, folder / "old.home") as loop:
        loop.ready()
    assert data("run", "rows.csv")["rows"] == 60


def test_new_files_may_appear_anywhere_in_a_glob(data, folder):
    write_csv(folder / "b.csv", 300)
    assert data("run", "*.csv", "--label", "label")["rows"] == 300
    write_csv(folder / "a.csv", 200)  # another first row would do; the names differ as well
    write_csv(folder / "c.csv", 100)
    assert data("run", "*.csv")["rows"] == 300
    assert data("run", "*.csv")["rows"] == 0


def test_a_file_that_was_changed_where_it_was_read_is_refused(data, folder, capsys):
    write_csv(folder / "rows.csv", 300)
    data("run", "rows.csv", "--label", "label")
    lines = (folder / "rows.csv").read_text().splitlines()
    (folder / "rows.csv").write_text("\n".join([*lines[:2], *lines[3:], *lines[2:4]]) + "\n")
    call("run", expect=1)
    assert "a file may grow, not change" in capsys.readouterr().err


def test_the_second_use_of_standard_input_loses_nothing(folder):
    (folder / "rows.csv").write_text("a,b,label\n" + "1,1,1\n2,2,0\n" * 20)
    command = [sys.executable, "-m", "everlearn"]
    subprocess.run([*command, "init", "rows.csv", "--label", "label"], check=True, capture_output=True)
    totals = []
    for rows in ("1,1,1\nbad\n3,3,0\n", "3,3,0\nbad\n4,4,1\n"):
        given = {"input": f"a,b,label\n{rows}", "text": True, "check": True, "capture_output": True}
        totals.append(json.loads(subprocess.run([*command, "run", "-", "--json"], **given).stdout))
    assert [one["examples"] for one in totals] == [2, 4]
    assert [one["rejected"] for one in totals] == [1, 2]


def test_a_file_without_usable_rows_is_reported_without_a_picture(data, folder, capsys):
    write_csv(folder / "rows.csv", 100)
    data("init", "rows.csv", "--label", "label")
    (folder / "rows.csv").write_text("a,b,c,label\nx,1,c1,0\n1,y,c1,0\n")
    result = data("run")
    assert (result["rejected"], result["examples"], result["picture"]) == (2, 0, "")


def test_names_are_shown_as_they_are(folder, capsys):
    (folder / "odd.csv").write_text("a[/b],[red]x,label\n" + "1,2,no\n3,4,yes [at] times\n" * 30)
    call("init", "odd.csv", "--label", "label")
    out = capsys.readouterr().out
    for text in ("a[/b]", "[red]x", "yes [at] times"):
        assert text in out


def test_bad_rows_are_counted_listed_and_change_nothing_else(data, folder, capsys):
    write_csv(folder / "clean.csv", 1000)
    lines = (folder / "clean.csv").read_text().splitlines()
    dirty = lines[:]
    dirty[500:500] = ["1.0,2.0", "a lot,1.0,c1,1", "1.0,1.0,c1,perhaps"]  # after line 500: lines 501, 502, 503
    (folder / "dirty.csv").write_text("\n".join(dirty) + "\n")
    clean = data("run", "clean.csv", "--label", "label")
    dirty_result = data("run", "dirty.csv", "--label", "label", "--config", "dirty.toml")
    assert dirty_result["rejected"] == 3
    assert dirty_result["metrics"] == clean["metrics"]
    call("run", "dirty.csv", "--config", "dirty.toml")
    out = capsys.readouterr().out
    for line in (501, 502, 503):
        assert f"line {line}" in out


def test_check_passes_the_linear_family_and_fails_a_broken_model(folder, data, capsys):
    assert data("check", "linear")["ok"]
    (folder / "mine.py").write_text(
        "import numpy as np\n"
        "class Broken:\n"
        "    def __init__(self, spec):\n"
        "        self.spec, self.arrays, self.calls = spec, {'w': np.zeros(2)}, 0\n"
        "    def predict(self, batch):\n"
        "        self.calls += 1\n"
        "        share = 1 / (1 + self.calls)\n"
        "        return np.tile(np.array([share, 1 - share], np.float32), (len(batch), 1))\n"
        "    def learn(self, batch, y, weight):\n"
        "        return self.predict(batch)\n"
    )
    call("check", "mine:Broken", "--json", expect=1)
    assert not json.loads(capsys.readouterr().out)["ok"]


def test_a_wrong_setting_is_named(folder, capsys):
    write_csv(folder / "rows.csv", 50)
    call("init", "rows.csv", "--label", "label")
    text = Path("everlearn.toml").read_text()
    Path("everlearn.toml").write_text(text + "\n[gate]\nalpha = 2.0\n")
    call("run", expect=1)
    assert "gate.alpha: got 2.0; expected a number above 0 and below 1" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "name",
    [
        "sms_spam",
        "covtype20k",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("hflights", "insects_gradual")),
    ],
)
def test_real_streams_from_init_to_rollback(data, name, shared):
    path = str(shared / f"{name}.parquet")
    data("init", path, "--label", "label")
    result = data("run", "--warm-start", "0.05")
    assert result["rejected"] == 0
    assert result["metrics"]["challenger"]["accuracy"] > result["metrics"]["frozen"]["accuracy"]
    listed = data("versions")["versions"]
    assert len(listed) == result["versions"]
    if result["promotions"]:
        assert data("rollback")["version"] in {one["id"] for one in listed}
