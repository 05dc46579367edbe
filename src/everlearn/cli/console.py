"""What all commands share: output to the terminal, common options, and the home of a loop."""

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

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Config = Annotated[Path, typer.Option("--config", "-c", help="Read this configuration file.")]
Reason = Annotated[str, typer.Option(help="The reason, recorded with the decision.")]
TOML = Path("everlearn.toml")


def home_of(spec: Spec, path: Path) -> Path:
    """Return the home of an existing loop; raises ConfigError if the loop has not been started yet."""
    from everlearn import config, events

    home = config.home(spec, path)
    if (home / "partitions.sqlite").exists():
        raise ConfigError(
            f"{home} is the home of a run in partitions, which has no versions, commands or server; expected that of a "
            "loop with one learner. Print its report with `everlearn run`"
        )
    if not events.exists(home, spec.log.url):
        raise ConfigError(f"{home} holds no loop yet; start one with `everlearn run{option(path)}`")
    return home


def option(path: Path) -> str:
    """Return the --config option for a path; "" for the default path."""
    return "" if path == TOML else f" --config {path}"


def print_json(value: Any) -> None:
    """Print a value as one line of JSON on standard output."""
    sys.stdout.write(json.dumps(value) + "\n")
