"""Write a model to a folder that other libraries load: the one that answers now, or a stored version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from everlearn import model
from everlearn.errors import InputError, InUse
from everlearn.loop import commands
from everlearn.loop.loop import Loop
from everlearn.model import Model
from everlearn.serve import snapshot
from everlearn.spec import Spec
from everlearn.version.registry import Versions


def export_served(spec: Spec, home: Path, folder: str | Path) -> str:
    """Write the model that answers in a home, with all that it has learned; return its version's id.

    Where another process has the loop open, that is the model of its newest snapshot. Raises `InputError` as
    `export_version` does.
    """
    try:
        with Loop(spec, home) as loop:
            served = loop.ready()
            _write(served.model, served.version, folder)
    except InUse:
        served = snapshot.Reader(snapshot.folder(home), model.build).current().champion
        _write(served.model, served.version, folder)
    return served.version


def export_version(spec: Spec, versions: Versions, name: str, folder: str | Path) -> str:
    """Write a stored version to an empty or new folder, in its family's own format; return its id.

    `spec` and `versions` are those of the loop (`loop.spec`, `loop.home.versions`). `name` is an id, a unique beginning
    of one, or an alias. A policy is written as adapters of PEFT, or as a model of transformers where all its weights
    are trained. The champion of a live loop has learned more since it was stored: `export_served` writes that. Raises
    `InputError` for an unknown version, for a folder with content and for a family that writes none, `BlobError` where
    the version's arrays are lost.
    """
    found = versions.find(name)
    made = commands.build(spec, found.spec)
    model.restore(made, versions.load(name))
    _write(made, found.id, folder)
    return found.id


def _write(made: Model, version: str, folder: str | Path) -> None:
    write: Any = getattr(made, "export", None)
    if not callable(write):
        raise InputError(
            f"version {version}: got a {type(made).__name__}, which other libraries cannot load; expected a family "
            'that writes a folder, such as "preference". Its arrays are loop.home.versions.load(name)'
        )
    write(folder)
