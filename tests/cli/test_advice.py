"""The command `everlearn advise`: as data, on data, on a terminal, and its error messages."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from everlearn import config
from tests.support.commands import call
from tests.support.situations import blobs, table_of


def test_advice_as_data_names_what_was_assumed(data):
    output = data("advise", "--model", "7e7", "--frequency", "daily", "--volume", "300")
    assert output["title"] == "online LoRA + replay + EMA .99, each update validated"
    assert output["situation"]["model"] == 70_000_000
    assert "forgetting" in output["assumed"]
    assert not {"model", "frequency", "volume", "borders"} & set(output["assumed"])
    assert {"settings", "because", "why", "source"} == output["reasons"][0].keys()
    assert config.convert(config.tomllib.loads(output["toml"])).model == output["model"]


def test_advice_on_data_is_written_and_runs(data, folder):
    columns = table_of(blobs(1500, seed=1))
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    (folder / "sub").mkdir()
    arguments = ("advise", "rows.csv", "--label", "y", "--drift", "fast", "--write", "sub/loop.toml")
    output = data(*arguments)
    assert output["from_data"] == ["inputs", "predicts", "volume"]
    assert output["situation"]["volume"] == 1500
    assert output["config"] == "sub/loop.toml"
    assert data("run", "--config", "sub/loop.toml")["metrics"]["champion"]["accuracy"] > 0.8
    call(*arguments, expect=1)  # it is there
    data(*arguments, "--force", "--model", "small", "--module", "my_nets:make")
    assert config.load(folder / "sub" / "loop.toml").model["module"] == "my_nets:make"


def test_the_page_and_the_configuration_for_people(folder, capsys):
    call("advise", "--inputs", "image", "--new-classes", "yes", "--frequency", "weekly")
    out = " ".join(capsys.readouterr().out.split())
    for words in ("given inputs", "assumed", "Known dangers", "Not advised", "19.6 to 20.1 %", "[model.memory]"):
        assert words in out
    call("advise", "--inputs", "image", "--toml")
    (folder / "everlearn.toml").write_text(capsys.readouterr().out)
    assert config.load(folder / "everlearn.toml").model["family"] == "neural"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frequency", "hourly"], ["frequency: got 'hourly'", "weekly"]),
        (["--store", "perhaps"], ["store: got 'perhaps'", "yes, no"]),
        (["rows.csv"], ["--label COLUMN"]),
        (["--write", "x.toml"], ["--write needs DATA"]),
        (["--model", "linear", "--module", "a:b"], ["--module", "linear"]),
    ],
)
def test_what_is_wrong_is_said_in_one_message(folder, capsys, arguments, words):
    call("advise", *arguments, expect=1)
    output = " ".join(capsys.readouterr().err.split())
    assert [word for word in words if word not in output] == []


def test_a_terminal_is_asked_what_is_missing(tmp_path):
    """A real terminal: questions come one by one, a wrong answer is asked for again, what does not matter is not asked.

    The beginning of a choice will do, and an empty line is the default.
    """
    command = [sys.executable, "-m", "everlearn", "advise", "--frequency", "weekly", "--drift", "slow"]
    replies = ["ima", "huge", "sm", "", "50,000", "y", "high", "no", "yes", "n", ""]
    outer, inner = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, cwd=tmp_path, env=environment) as process:
        os.close(inner)
        shown = ""
        for reply in replies:
            shown += _read(outer, r"\([\w,]+\) $")  # a question, with its default at the end
            os.write(outer, f"{reply}\n".encode())
        shown += _read(outer, "all of this")
    os.close(outer)
    assert process.returncode == 0
    assert shown.count("Which model do you have?") == 2
    assert "model: got 'huge'; expected one of any, linear, small, large" in shown
    assert "When is the model updated?" not in shown
    assert "network + replay + EMA .999, gated" in shown
    assert "assumed" not in shown


def _read(terminal: int, pattern: str, seconds: float = 60.0) -> str:
    """What a terminal shows, without colours, until the pattern is there."""
    shown, deadline = "", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 65536).decode()
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
        if re.search(pattern, plain):
            return plain
    raise AssertionError(f"waited for {pattern!r}, got {shown!r}")


def test_a_network_of_the_current_folder_is_tried_on_the_data_and_what_it_lacks_is_said(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    (folder / "picture_nets.py").write_text(
        "from torch import nn\n\ndef conv(shape, outputs):\n"
        "    return nn.Sequential(nn.Conv2d(shape[0], 2, 3), nn.Flatten(), nn.Linear(8, outputs))\n"
    )
    columns = ",".join(f"p{i}" for i in range(16))
    lines = [columns + ",y"] + [",".join(map(str, [*range(row, row + 16), "ab"[row % 2]])) for row in range(40)]
    (folder / "pictures.csv").write_text("\n".join(lines) + "\n")
    options = (
        "pictures.csv",
        "--label",
        "y",
        "--inputs",
        "image",
        "--module",
        "picture_nets:conv",
        "--write",
        "a.toml",
    )

    call("advise", *options)
    output = " ".join(capsys.readouterr().out.split())
    assert "Still missing, in [model]: neural model: 'picture_nets:conv'" in output
    assert "it names shape, which is not set: set it to that of one row, 16 numbers in all" in output
    path = folder / "a.toml"
    path.write_text(path.read_text().replace('module = "picture', 'shape = [1, 4, 4]\nmodule = "picture'))
    call("run", "--config", "a.toml", "--json")
    assert json.loads(capsys.readouterr().out)["events"] == 40
