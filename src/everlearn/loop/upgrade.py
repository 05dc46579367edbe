"""Compare the settings that a home stores with those that a file and this release would give it; nothing is changed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec

from everlearn import config
from everlearn.errors import BlobError, LogError
from everlearn.events import SqliteLog, scan
from everlearn.loop import details
from everlearn.loop.backup import BLOBS, LOG, copy_log
from everlearn.records import Checkpoint, Decision
from everlearn.spec import STORED_ONLY, Spec
from everlearn.version.blobs import Blobs

Then = Literal["kept", "changed", "refused"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting whose value in a home is not what a new loop would have.

    `home` and `new` are plain values. `then` is what happens when the home is opened: its value is kept although this
    release has another default, it is changed to `new`, or the file is refused.
    """

    setting: str
    home: Any
    new: Any
    then: Then


def differences(home: Path, spec: Spec) -> list[Difference]:
    """Return the settings of a home that `spec`, read from its file, and this release would give another value.

    A copy of the log is read, so that another process may use the home, and a log of an older format stays as it is.
    Raises LogError for a home without stored settings, or of a newer release.
    """
    before = _stored(home)
    after = config.resumed(before, spec)
    stored = {name.removeprefix("schema.") for name in STORED_ONLY}
    schema = {name: value for name, value in msgspec.to_builtins(before.schema).items() if name not in stored}
    plain = config.convert({"schema": schema})
    found: list[Difference] = []
    for name in [*config.setting_names(), *STORED_ONLY]:
        value = attrgetter(name)
        old, new = _plain(value(before)), _plain(value(after))
        fixed = name in config.FIXED or name.partition(".")[0] in config.FIXED
        if old != new:
            found.append(Difference(name, old, new, "refused" if fixed else "changed"))
        elif old != (default := _plain(value(plain))) and (name in STORED_ONLY or _plain(value(spec)) == default):
            found.append(Difference(name, old, default, "kept"))
    return found


def _stored(home: Path) -> Spec:
    """Return the newest settings that a home stores."""
    with TemporaryDirectory() as scratch:
        copy_log(home / LOG, Path(scratch) / LOG)
        with SqliteLog(Path(scratch) / LOG) as log:
            decisions = [event.payload for event in scan(log, kinds=("decision",))]
            saved = [event.payload for event in scan(log, kinds=("checkpoint",))]
    logged = [details.full_spec(one) for one in decisions if isinstance(one, Decision)]
    if known := [settings for settings in logged if settings is not None]:
        return config.read_stored(known[-1], str(home))
    for checkpoint in reversed(saved[-2:]):
        with suppress(BlobError):
            assert isinstance(checkpoint, Checkpoint)
            return config.read_stored(Blobs(home / BLOBS).get(checkpoint.blob)[1]["spec"], str(home))
    raise LogError(f"{home}: neither its log nor a checkpoint holds settings; expected a home whose loop has started")


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)
