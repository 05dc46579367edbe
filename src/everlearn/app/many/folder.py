"""The loops of one folder: their names, settings, homes and owners.

folder/
  everlearn.toml        the template: settings of loops that have none, and of the server; optional
  NAME.toml             the settings of the loop NAME, whose home is NAME.home
  NAME/everlearn.toml   the same, with the home within that folder
  NAME.home/            the home of a loop; without settings beside it, those of the template apply
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

import msgspec
from msgspec import Struct

from everlearn import _private, config, events
from everlearn.app.problems import Refused
from everlearn.app.process import Setup
from everlearn.errors import ConfigError, InputError
from everlearn.spec import Schema, ServeSpec, Spec

TEMPLATE, HOME, SUMMARY = "everlearn.toml", ".home", "summary.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
_RULE = "1 to 48 letters, digits, - and _, the first a letter or a digit"
_AGAIN = 1.0  # seconds for which a list of names is used, where the folder has not changed
_RECENT = 0.1  # seconds in which a folder may change twice with one time of modification
_UNSUPPORTED = {
    "serve.webhook": "poll GET /loops, or serve this loop alone",
    "serve.traces": "serve this loop alone",
    "mlflow.uri": "serve this loop alone",
}


class Summary(Struct, frozen=True, omit_defaults=True):
    """The last known numbers of a loop, in its home: the position folded, the time, and the headline metric.

    `behind` is true if the log holds events that the loop had not learned when it was closed.
    """

    position: int = 0
    time: float = 0.0
    metric: str = ""
    value: float | None = None
    version: str = ""
    behind: bool = False


class LoopFolder:
    """The loops below `root`, which belong to one of so many `processes` each.

    `template` is None where the folder has none. Raises ConfigError for a folder that cannot hold loops.
    """

    def __init__(self, root: Path, processes: int = 1) -> None:
        if not root.is_dir():
            raise ConfigError(f"{root}: there is no such folder; create it, and put everlearn.toml or NAME.toml there")
        if os.environ.get("EVERLEARN_HOME"):
            raise ConfigError("EVERLEARN_HOME: got a folder; each of many loops has its own. Unset it")
        self.root = root.absolute()
        self.processes = processes
        path = self.root / TEMPLATE
        self.template = _checked(config.load(path), path) if path.exists() else None
        if "loop=" in self.service.log.url.partition("?")[2]:
            raise ConfigError(
                f"{path}: log.url: got `loop=` in a template; all loops would share one log. Leave it out: each loop "
                "gets its name"
            )
        self._specs: dict[str, tuple[int, Spec]] = {}  # by the path of the file: its time of modification, the spec
        self._names: tuple[float, int, list[str]] = (0.0, 0, [])

    @property
    def service(self) -> Spec:
        """The settings of the server: those of the template, or the defaults."""
        return self.template or Spec(schema=Schema(label="", task="regression", fields={}), serve=ServeSpec())

    def names(self) -> list[str]:
        """Return the names of all loops, sorted."""
        looked, stamp, names = self._names
        now, changed = time.time(), self.root.stat().st_mtime_ns
        if changed != stamp or now - looked > _AGAIN or now - changed / 1e9 < _RECENT:
            own = self.template is not None
            names = sorted({name for entry in os.scandir(self.root) if (name := _named(entry, own))})
            self._names = now, changed, names
        return names

    def holds(self, name: str) -> bool:
        """Return True if there is a loop of this name."""
        if not NAME.fullmatch(name):
            return False
        return self._file(name) is not None or (self.template is not None and self._own_home(name).is_dir())

    def check_name(self, name: str) -> None:
        """Raise InputError for a name that no loop can have."""
        if not NAME.fullmatch(name):
            raise InputError(f"loop: got {name[:60]!r}; expected {_RULE}")

    def create(self, name: str) -> bool:
        """Create a loop with the settings of the template; return False if there is one of this name.

        Raises InputError for a name that cannot be one, ConfigError for a folder without a template.
        """
        self.check_name(name)
        if self.holds(name):
            return False
        if self.template is None:
            raise ConfigError(
                f"{TEMPLATE}: there is none in the folder of loops; add it as the settings of new loops, or add "
                f"{name}.toml"
            )
        self._own_home(name).mkdir(mode=_private.FOLDER_MODE, exist_ok=True)
        return True

    def spec(self, name: str) -> Spec:
        """Return the settings of a loop. Raises ConfigError for a file that cannot be used."""
        file = self._file(name)
        if file is None:
            assert self.template is not None
            return self._addressed(self.template, name)
        return self._addressed(self._loaded(file), name)

    def home(self, name: str) -> Path:
        """Return the folder of a loop's log and versions."""
        file = self._file(name)
        return self._own_home(name) if file is None else config.home(self._loaded(file), file)

    def owner(self, name: str) -> int:
        """Return the number of the process that a loop belongs to: it depends on the name and the number of processes.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as root:
        ...     folder = LoopFolder(Path(root), 4)
        ...     [folder.owner(name) for name in ("amsterdam", "berlin", "copenhagen")]
        [3, 2, 2]
        """
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) % self.processes

    def summary(self, name: str) -> Summary:
        """Return the last known numbers of a loop; those of a new loop if there are none."""
        with suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((self.home(name) / SUMMARY).read_bytes(), type=Summary)
        return Summary()

    def _addressed(self, spec: Spec, name: str) -> Spec:
        """Return settings whose URL of a log names the loop."""
        if not spec.log.url or "loop=" in spec.log.url.partition("?")[2]:
            return spec
        url = events.url_of(self.root / name, spec.log.url)
        return msgspec.structs.replace(spec, log=msgspec.structs.replace(spec.log, url=url))

    def _file(self, name: str) -> Path | None:
        """Return the file of a loop's settings; None where the template applies."""
        for path in (self.root / f"{name}.toml", self.root / name / TEMPLATE):
            if path.exists() and path != self.root / TEMPLATE:
                return path
        return None

    def _loaded(self, file: Path) -> Spec:
        """Return the settings in a file, read again only if it has changed."""
        changed, key = file.stat().st_mtime_ns, str(file)
        known = self._specs.get(key)
        if known is None or known[0] != changed:
            known = self._specs[key] = changed, _checked(config.load(file), file)
        return known[1]

    def _own_home(self, name: str) -> Path:
        return self.root / f"{name}{HOME}"


def check_known(folder: LoopFolder, name: str) -> None:
    """Raise Refused (404) for a loop that the folder does not hold."""
    if not folder.holds(name):
        detail = f"there is no loop {name[:60]!r}; GET /loops lists them, POST /loops/NAME creates one"
        raise Refused(404, "There is no such loop", detail, {"where": "loop", "got": name[:60]})


def setup_of(pool: Setup, name: str, spec: Spec, home: Path) -> Setup:
    """Return the setup of one loop within that of its pool: the loop has its own folder in memory."""
    serve = msgspec.structs.replace(spec.serve, workers=pool.spec.serve.workers)
    return msgspec.structs.replace(
        pool, spec=msgspec.structs.replace(spec, serve=serve), home=str(home), serving=str(serving_of(pool, name))
    )


def serving_of(pool: Setup, name: str) -> Path:
    """Return the folder in memory of a loop that is resident."""
    return Path(pool.serving) / "loops" / name


def link_of(pool: Setup, index: int) -> Path:
    """Return the Unix socket at which a process takes the names of loops to learn."""
    return Path(pool.serving) / f"learner-{index}.sock"


def page(names: Sequence[str], after: str, limit: int, search: str) -> tuple[list[str], str | None, int]:
    """Return the names of a page, the name after which the next one begins (None: none), and the number in all.

    >>> page(["a", "ab", "b", "cab"], "a", 1, "a")
    (['ab'], 'ab', 3)
    """
    found = [name for name in names if search.lower() in name.lower()] if search else list(names)
    rest = [name for name in found if name > after] if after else found
    return rest[:limit], rest[limit - 1] if len(rest) > limit else None, len(found)


def _named(entry: os.DirEntry[str], homes: bool) -> str:
    """Return the name of the loop that an entry of the folder belongs to; "" if it belongs to none.

    With `homes`, a home without settings beside it is a loop as well.
    """
    stem, _, ending = entry.name.rpartition(".")
    if entry.name == TEMPLATE:
        return ""
    if ending in ("toml", "home") and NAME.fullmatch(stem):
        return stem if (entry.is_file() if ending == "toml" else homes and entry.is_dir()) else ""
    inner = NAME.fullmatch(entry.name) and entry.is_dir() and Path(entry.path, TEMPLATE).exists()
    return entry.name if inner else ""


def _checked(spec: Spec, path: Path) -> Spec:
    """Return settings. Raises ConfigError for those that a loop among many cannot have."""
    if spec.schema.task == "preference":
        raise ConfigError(
            f"{path}: schema.task: got 'preference', which needs further processes; expected another task. Serve "
            "this loop alone, with `everlearn serve FILE`"
        )
    if events.has_broker(spec.log.url):
        raise ConfigError(
            f"{path}: log.url: got a broker; the loops of a folder would share its stream. Use postgresql://, or leave "
            "it out"
        )
    for name, todo in _UNSUPPORTED.items():
        value: str = attrgetter(name)(spec)
        if value:
            raise ConfigError(f"{path}: {name}: got {value!r}; a loop among many does not have it. Remove it: {todo}")
    return spec
