"""What every command uses: the two screens, options that mean the same everywhere, and the way to a loop's home."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from everlearn.errors import ConfigError

if TYPE_CHECKING:
    from everlearn.spec import Spec

screen = Console()
aside = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Config = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
Reason = Annotated[str, typer.Option(help="Why, for the log of decisions.")]
TOML = Path("everlearn.toml")


def home_of(spec: Spec, path: Path) -> Path:
    """The home of a loop that has been started."""
    from everlearn import config

    home = config.home(spec, path)
    if not (home / "log.sqlite").exists():
        raise ConfigError(f"{home} holds no loop yet; start one with `everlearn run{option(path)}`")
    return home


def option(path: Path) -> str:
    return "" if path == TOML else f" --config {path}"


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
