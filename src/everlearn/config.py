"""Spec records <-> TOML. The only place that reads configuration files and the environment.

EVERLEARN_HOME, where set, takes the place of `home`. EVERLEARN_WEBHOOK_SECRET signs what a server tells its webhook.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from everlearn.errors import ConfigError
from everlearn.spec import Spec

_NO_MATTER = ("source", "home", "warm_start", "epochs")  # once a loop has started
_FIXED = ("schema", "model", "mode", "seed", "drift", "replay")

_HEADING = """\
# What this loop predicts, learns from, and how it decides. Every setting, with its meaning and default, is in
# docs/reference/settings.md; what is not written here has its default.

"""


def load(path: str | Path) -> Spec:
    """Read `everlearn.toml`; raise ConfigError naming the file, the setting, what was got and what was expected."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {path}; `everlearn init DATA --label COLUMN` writes one, or name the file to read"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return convert(values, str(path))


def convert(values: Mapping[str, Any], where: str = "the spec") -> Spec:
    """Make a Spec of plain values; raise ConfigError that names the setting at fault."""
    try:
        return msgspec.convert(values, Spec)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_plain(str(error), values)}") from error


def changed(before: Spec, now: Spec, where: str) -> list[str]:
    """The settings of a loop that are other ones than they were; refuse those that what it has learned depends on."""
    names = (field.name for field in msgspec.structs.fields(Spec) if field.name not in _NO_MATTER)
    found = [name for name in names if getattr(before, name) != getattr(now, name)]
    if fixed := [name for name in found if name in _FIXED]:
        raise ConfigError(
            f"{where} was started with other settings: "
            + "; ".join(f"{name} was {_shown(before, name)}, is now {_shown(now, name)}" for name in fixed)
            + ". Put them back, or start anew with another home"
        )
    return found


def save(spec: Spec, path: str | Path) -> None:
    """Write a spec as TOML, leaving out what has its default; the file can be edited by hand."""
    Path(path).write_text(text(spec), encoding="utf-8")


def text(spec: Spec) -> str:
    """What `save` writes."""
    return _HEADING + tomli_w.dumps(msgspec.to_builtins(spec))


def home(spec: Spec, path: Path) -> Path:
    """Where the loop of the configuration file `path` lives: EVERLEARN_HOME, or `spec.home`, both relative to the
    file's folder, or the file's own name ending in `.home`."""
    return path.parent / (os.environ.get("EVERLEARN_HOME") or spec.home or f"{path.stem}.home")


def webhook_secret() -> str:
    """What alerts are signed with; empty: they are not signed."""
    return os.environ.get("EVERLEARN_WEBHOOK_SECRET", "")


def _shown(spec: Spec, name: str) -> Any:
    return msgspec.to_builtins(getattr(spec, name))


def _plain(message: str, values: Mapping[str, Any]) -> str:
    """msgspec says "Expected `int` >= 1 - at `$.gate.minimum`"; people say "gate.minimum: expected ..., got 0"."""
    what, dash, where = message.rpartition(" - at ")
    if not dash:
        return message
    names = where.strip("`").removeprefix("$.").split(".")
    found: Any = values
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    got = f", got {found!r}" if found is not None and ", got" not in what else ""
    return f"{'.'.join(names)}: {what[0].lower()}{what[1:]}{got}"
