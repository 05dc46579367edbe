"""Documentation that can fail: blocks of code run, settings and commands are described, links lead on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from typer.main import get_command

from everlearn import cli, spec
from tests.support import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "src").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
RECORDS = [
    spec.Spec, spec.Schema, spec.GateSpec, spec.DriftSpec, spec.ReplaySpec, spec.FeedbackSpec, spec.LogSpec,
    spec.LimitsSpec, spec.ServeSpec,
]  # fmt: skip


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_every_block_of_code_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run in order, in one empty folder; Python blocks share their names."""
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


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_setting_is_described_with_its_default(record):
    text = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    tables = {spec.Spec: "", spec.Schema: "schema."} | {
        type_: f"{field}." for field, type_ in get_type_hints(spec.Spec).items() if type_ in RECORDS
    }
    for field in msgspec.structs.fields(record):
        if isinstance(field.default, tuple(RECORDS)):
            continue  # a section of its own
        if f"{tables[record]}{field.name}" in spec.STORED_ONLY:
            continue  # which no file can set
        row = next((line for line in text.splitlines() if line.startswith(f"| `{tables[record]}{field.name}` |")), None)
        assert row is not None, f"{tables[record]}{field.name} is not in docs/reference/settings.md"
        if isinstance(field.default, bool | int | float | str) and field.default != "":
            shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert f"`{shown}`" in row.replace(",", "").replace('"', ""), f"{row}\nshould give the default {shown}"


def test_every_command_and_option_is_described():
    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, group in list(commands.items()):
        if hasattr(group, "commands"):
            commands |= {f"{name} {inner}": command for inner, command in group.commands.items()}
            del commands[name]
    for command_name, command in commands.items():
        assert f"`everlearn {command_name}" in text, command_name
        for option in command.params:
            for flag in option.opts:
                if flag.startswith("--"):
                    assert f"`{flag}" in text, f"{command_name} {flag}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{name(page)} links to {target}"
