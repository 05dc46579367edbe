"""Open a loop from a file of settings, a spec, or a plain dict."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from everlearn import config
from everlearn.loop.loop import Loop
from everlearn.spec import Spec


def open(
    source: str | Path | Mapping[str, Any] | Spec,
    home: str | Path | None = None,
    clock: Callable[[], float] = time.time,
) -> Loop:
    """Open a loop from `everlearn.toml`, a spec, or a plain dict; `home` is the folder it lives in.

    A new home starts a loop. An existing home goes on where it stopped, however it was stopped. `clock` returns the
    time of events in seconds since 1970; a simulation gives its own. Raises `ConfigError` for wrong settings, and
    `LogError` if another process has the home open.
    """
    path = Path(source) if isinstance(source, str | Path) else Path("everlearn.toml")
    folder = Path(home) if home is not None else None
    if isinstance(source, str | Path):
        spec = config.load(path, folder)
    else:
        spec = source if isinstance(source, Spec) else config.convert(source, folder=folder)
    return Loop(spec, folder or config.home(spec, path), clock=clock)
