"""The command line as a whole: errors, help, and the nearest known name for an unknown one."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.support.commands import call
from tests.support.tables import write_csv


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "there is no everlearn.toml"),
        (["run", "nowhere.csv", "--label", "y"], "nowhere.csv"),
        (["versions"], "there is no everlearn.toml"),
        (["check", "no_such_family"], "unknown family 'no_such_family'"),
        (["check", "linear", "--spec", "{"], "--spec"),
        (["init", "rows.csv", "--label", "nope"], "nope"),
        (["init", "rows.csv", "--label", "label", "--config", "nowhere/x.toml"], "nowhere/x.toml"),
    ],
)
def test_an_error_is_one_message(folder, capsys, arguments, message):
    write_csv(folder / "rows.csv", 50)
    call(*arguments, expect=1)
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_help_costs_no_heavy_import():
    program = "import sys; sys.argv = ['everlearn', '--help']\nfrom everlearn.cli import main\n"
    program += "try:\n    main()\nexcept SystemExit:\n"
    program += "    print('heavy', {'numba', 'pyarrow', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.splitlines()[-1] == "heavy set()", done.stderr


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [(["promot", "v1"], "promote"), (["run", "--labl", "y"], "--label"), (["token", "creat", "x"], "create")],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(folder, capsys, arguments, nearest):
    call(*arguments, expect=2)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    assert re.search(rf"(Did you mean|Possible options:).*?{nearest}\b", shown), shown
