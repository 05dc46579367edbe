"""Documentation that can fail: blocks of code run, settings and commands are described, links lead on.

The routes are compared with their reference in `app/test_routes.py`, the settings of networks in `test_docs_neural.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from click import Command
from typer.main import get_command

from everlearn import cli, spec
from tests.support import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "src").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
SECTIONS = {spec.Spec: ""} | {
    kind: f"{field}."
    for field, kind in get_type_hints(spec.Spec).items()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
}
SETTINGS = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


NEEDED = {"docs/coming-from/mlflow.md": ("mlflow", "sqlalchemy", "alembic")}
"""Packages of pages that are skipped without them; the extra "mlflow" has these."""


def runnable() -> list[Any]:
    """Return the pages with code. MLflow and SQLAlchemy warn about themselves and each other."""
    quiet = pytest.mark.filterwarnings("ignore")
    pages = [page for page in PAGES if blocks(page)]
    return [pytest.param(page, marks=quiet) if name(page) in NEEDED else page for page in pages]


@pytest.mark.parametrize("page", runnable(), ids=name)
def test_every_block_of_code_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run in order, in one empty folder; Python blocks share their names."""
    for package in NEEDED.get(name(page), ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, Any] = {"__name__": "__main__"}
    for kind, text in blocks(page):
        if kind == "python":
            exec(compile(text, name(page), "exec"), names)
            continue
        for line in text.splitlines():
            if line.startswith("$ "):
                shell(line.removeprefix("$ "))


def shell(command: str) -> None:
    """Run a line as a shell would, with this environment's `everlearn`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", command], env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("record", SECTIONS, ids=lambda record: record.__name__)
def test_every_setting_is_described_with_its_default(record):
    for field in msgspec.structs.fields(record):
        setting = f"{SECTIONS[record]}{field.name}"
        if isinstance(field.default, tuple(SECTIONS)) or setting in spec.STORED_ONLY:
            continue  # a section, or a setting that no file can set
        row = next((line for line in SETTINGS.splitlines() if line.startswith(f"| `{setting}` |")), None)
        assert row is not None, f"{setting} is not in docs/reference/settings.md"
        if isinstance(field.default, bool | int | float | str) and field.default != "":
            shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert f"`{shown}`" in row.replace(",", "").replace('"', ""), f"{row}\nshould give the default {shown}"


def test_no_setting_is_described_that_does_not_exist():
    known = {prefix + field.name for record, prefix in SECTIONS.items() for field in msgspec.structs.fields(record)}
    described = set(re.findall(r"^\| `([\w.]+)` \|", SETTINGS, re.MULTILINE))
    assert described <= known - set(spec.STORED_ONLY)


def commands() -> dict[str, Command]:
    """Return every command of the command line by its words."""
    found: dict[str, Command] = {}
    for word, command in get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {word: command} if inner is None else {f"{word} {name}": one for name, one in inner.items()}
    return found


def test_every_command_and_option_is_described():
    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    for words, command in commands().items():
        assert f"`everlearn {words}" in text, words
        for flag in (flag for option in command.params for flag in option.opts if flag.startswith("--")):
            assert f"`{flag}" in text, f"{words} {flag}"


def test_no_command_is_described_that_does_not_exist():
    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `everlearn ([a-z]+(?: [a-z]+)?)", text, re.MULTILINE)
    assert described
    assert set(described) == commands().keys()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{name(page)} links to {target}"
