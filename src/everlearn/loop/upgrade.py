"""Compare the settings that a home stores with those that a file and this release would give it; nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec

from everlearn import config
from everlearn import schema as encoding
from everlearn.config import default_model
from everlearn.errors import BlobError, LogError
from everlearn.events import BOOK, Log, SqliteLog, connect, has_broker, scan, url_of
from everlearn.loop import details
from everlearn.loop.backup import LOG, copy_log
from everlearn.records import Checkpoint, Decision
from everlearn.spec import STORED_ONLY, LogSpec, Spec
from everlearn.version.blobs import blobs_of

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

    A copy of a log in a file is read, so that another process may use the home, and a log of an older format stays as
    it is. A log elsewhere is read where `spec.log` says; of a log in a broker, its book. Raises LogError for a home
    without stored settings, or of a newer release.
    """
    before = _stored(home, spec.log)
    after = config.resumed(before, spec)
    stored = {name.removeprefix("schema.") for name in STORED_ONLY}
    schema = {name: value for name, value in msgspec.to_builtins(before.schema).items() if name not in stored}
    shape = encoding.shape(before.schema)
    plain = default_model.completed(config.convert({"schema": schema}), shape)
    given = default_model.completed(spec, shape)
    found: list[Difference] = []
    for name in [*config.setting_names(), *STORED_ONLY]:
        value = attrgetter(name)
        old, new = _plain(value(before)), _plain(value(after))
        fixed = name in config.FIXED or name.partition(".")[0] in config.FIXED
        if old != new:
            found.append(Difference(name, old, new, "refused" if fixed else "changed"))
        elif old != (default := _plain(value(plain))) and (name in STORED_ONLY or _plain(value(given)) == default):
            found.append(Difference(name, old, default, "kept"))
    return found


def _stored(home: Path, settings: LogSpec) -> Spec:
    """Return the newest settings that a home stores."""
    with _opened(home, settings) as log:
        decisions = [event.payload for event in scan(log, kinds=("decision",))]
        saved = [event.payload for event in scan(log, kinds=("checkpoint",))]
    logged = [details.full_spec(one) for one in decisions if isinstance(one, Decision)]
    if known := [settings for settings in logged if settings is not None]:
        return config.read_stored(known[-1], str(home))
    for checkpoint in reversed(saved[-2:]):
        with suppress(BlobError):
            assert isinstance(checkpoint, Checkpoint)
            return config.read_stored(blobs_of(home, settings).get(checkpoint.blob)[1]["spec"], str(home))
    raise LogError(f"{home}: neither its log nor a checkpoint holds settings; expected a home whose loop has started")


@contextmanager
def _opened(home: Path, settings: LogSpec) -> Iterator[Log]:
    """Open the log that has the decisions of a home, or a copy of it where it is a file there."""
    broker = has_broker(settings.url)
    elsewhere = settings.book if broker else settings.url
    if elsewhere:
        with closing(connect(url_of(home, elsewhere))) as log:
            yield log
        return
    name = BOOK if broker else LOG
    with TemporaryDirectory() as scratch:
        copy_log(home / name, Path(scratch) / name)
        with SqliteLog(Path(scratch) / name) as log:
            yield log


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)
