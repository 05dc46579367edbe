"""The examples, run with small budgets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import everlearn as el
from everlearn.app.supervisor import Server
from everlearn.spec import ServeSpec, Spec
from tests.support import ROOT

EXAMPLES = ROOT / "examples"


def play(name: str, *arguments: str) -> str:
    """Run an example and return its output."""
    done = subprocess.run([sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_late_complaints_raise_probabilities_that_were_too_low_without_them():
    lines = play("fraud.py", "--rows", "5000").splitlines()
    honest = {line[:50].strip(): float(line.split()[-1]) for line in lines[3:]}
    ignored, weighed = (honest[name] for name in honest if "ignored" in name or "importance" in name)
    assert weighed > ignored + 0.1


def test_the_notebook_runs_from_the_first_cell_to_the_last():
    printed = play("notebook.py")
    assert "weights no older than" in printed
    assert "40783 examples" in printed  # those of the stream behind the warm start, and two labels


def test_a_client_with_manners_meets_a_server_that_learns(tmp_path):
    stream = el.read(Path(el.__file__).parent / "data" / "elec2.parquet", label="label")
    spec = Spec(schema=stream.schema, mode="live", serve=ServeSpec(port=0))
    with Server(spec, tmp_path / "home") as server:
        printed = play("traffic.py", "--url", server.url, "--rows", "400", "--rate", "400", "--delay", "5")
    last = printed.splitlines()[-1]
    assert last.startswith("400 predictions")
    with el.open(spec, home=tmp_path / "home") as loop:
        labelled = loop.report()["examples"]
        never = int(re.search(r"(\d+) never labelled", last)[1]) if "never labelled" in last else 0
        assert labelled == 400 - never
