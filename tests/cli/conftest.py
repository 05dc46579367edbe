"""Fixtures of the tests of commands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.commands import call
from tests.support.database import endpoint, place

__all__ = ["endpoint", "place"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory of the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data(capsys):
    """Run a command with --json and return what it printed."""

    def ask(*arguments: str) -> Any:
        capsys.readouterr()
        call(*arguments, "--json")
        return json.loads(capsys.readouterr().out)

    return ask
