"""Run the command line in this process."""

from __future__ import annotations

import sys

import pytest

from everlearn.cli import main


def call(*arguments: str, expect: int = 0) -> None:
    """Run a command in this process, which has compiled its kernels already."""
    sys.argv = ["everlearn", *arguments]
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == expect
