"""Shared parts of the tests: paths, models, servers, networks. No module in this folder holds a test."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout
DATA = ROOT / "tests" / "data"
SHARED = Path(
    os.environ.get("EVERLEARN_DATA", ROOT.parent / "shared" / "data")
)  # real streams; a checkout alone lacks them
