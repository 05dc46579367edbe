"""The map in docs/why/architecture.md is the one that its script makes from today's code."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT


def test_picture_and_walks_are_those_of_the_code():
    script = ROOT / "docs" / "why" / "draw_architecture.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
