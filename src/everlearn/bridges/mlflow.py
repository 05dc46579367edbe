"""Versions, metrics and aliases of a loop, copied to a tracking server and model registry of MLflow.

Each version of a loop becomes a run with its metrics, and a version of a registered model with its arrays; aliases are
moved as they move here. The log of the loop is only read, so any process may do this while another one learns.
`start` goes the other way: it returns the settings of a loop that begins with a registered model.
"""

from __future__ import annotations

import importlib
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from everlearn import config, events
from everlearn import model as contract
from everlearn.bridges import pyfunc
from everlearn.errors import BlobError, ConfigError, MissingExtra
from everlearn.model import Model, restore
from everlearn.records import Arrays, Born, Checkpoint, Decision, Version
from everlearn.spec import Spec
from everlearn.version.blobs import blobs_of
from everlearn.version.registry import Versions

PAGE = 1000  # events read at a time
TAG = "everlearn."
OWN = TAG + "aliases"  # a tag of the registered model: the aliases that were set from here
_ALIAS = re.compile(r"(?!latest$|[vV][0-9]+$)[\w-]+", re.ASCII)  # what MLflow takes as an alias
_URI = re.compile(r"models:/[^/@]+(/[0-9]+|@[\w-]+)")


class Pushed(NamedTuple):
    """What a call of `Follower.push` changed: ids of new versions, ids without arrays, and aliases that moved."""

    versions: tuple[str, ...]
    without_arrays: tuple[str, ...]
    aliases: dict[str, str]


class Follower:
    """The versions of one home, as far as they were read, and the registered model that they are copied to.

    `uri` is that of a tracking server or store ("http://...", "sqlite:///...", "file:..."); "" is what the environment
    variable MLFLOW_TRACKING_URI says. `name` is that of the registered model and of the experiment.
    """

    def __init__(self, home: Path, spec: Spec, uri: str = "", name: str = "") -> None:
        self.name = name or spec.mlflow.name or home.name.removesuffix(".home")
        self._home, self._spec = home, spec
        self._uri = uri or spec.mlflow.uri
        self._blobs = blobs_of(home, spec.log)
        self._versions = Versions(self._blobs)
        self._times: dict[str, float] = {}  # of births, by id
        self._stored: Spec | None = None  # the settings that the home holds
        self._checkpoint = ""  # the blob that they are from
        self._ranges: Arrays = {}
        self._seen = 0  # positions of the log that were read
        self._done: tuple[int, dict[str, str]] = (0, {})  # versions and aliases that are copied

    def push(self) -> Pushed:
        """Copy the versions and aliases that are new; return them.

        Raises whatever MLflow raises. A later call goes on where this one stopped.
        """
        self._read()
        versions = self._versions.list()
        aliases = {alias: id for id, names in self._versions.aliases().items() for alias in names}
        if (len(versions), aliases) == self._done:
            return Pushed((), (), {})
        client = _client(self._uri)
        known = self._known(client)
        new, lost = [], []
        for version in versions:
            if version.id in known:
                continue
            try:
                known[version.id] = self._register(client, version)
                new.append(version.id)
            except BlobError:  # pruned; its successors have theirs
                lost.append(version.id)
        moved = self._move(client, {alias: known[id] for alias, id in aliases.items() if id in known})
        self._done = len(versions), aliases
        return Pushed(tuple(new), tuple(lost), moved)

    def _read(self) -> None:
        """Read the versions and decisions that came to the log."""
        with closing(events.log_of(self._home, self._spec.log, tidy=False)) as log:
            while found := log.read(self._seen, PAGE, ("version", "decision")):
                for event in found:
                    if isinstance(event.payload, Born):
                        self._times[event.payload.version.id] = event.time
                    if isinstance(event.payload, Born | Decision):
                        self._versions.note(event.payload)
                self._seen = found[-1].position
            if (last := log.last("checkpoint")) is not None and isinstance(last.payload, Checkpoint):
                self._look(last.payload)

    def _look(self, checkpoint: Checkpoint) -> None:
        """Read the settings that a home holds, and the ranges to which it clips rows now."""
        if checkpoint.blob == self._checkpoint or (self._stored is not None and not self._stored.limits.clip):
            return
        with suppress(BlobError):  # replaced meanwhile by a newer one, which comes next
            arrays, header = self._blobs.get(checkpoint.blob)
            self._stored, self._checkpoint = config.read_stored(header["spec"], str(self._home)), checkpoint.blob
            found = {name.rpartition("limits/")[2]: array for name, array in arrays.items() if "limits/" in name}
            clips = self._stored.limits.clip > 0.0
            self._ranges = {name: found[name] for name in pyfunc.RANGES if name in found} if clips else {}

    def _known(self, client: Any) -> dict[str, str]:
        """Return the number of each version that is registered; create what there is not yet."""
        mlflow = _mlflow()
        try:
            client.get_registered_model(self.name)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(self.name, description="Mirrored by Everlearn")
        found: dict[str, str] = {}
        token: str | None = None
        while True:
            page = client.search_model_versions(f"name='{self.name}'", page_token=token)
            found |= {one.tags[TAG + "version"]: str(one.version) for one in page if TAG + "version" in one.tags}
            if not (token := page.token):
                return found

    def _register(self, client: Any, version: Version) -> str:
        """Copy one version: a run, its metrics, its files, and the entry of the registry. Returns its number."""
        mlflow = _mlflow()
        with tempfile.TemporaryDirectory() as folder:
            spec = self._stored or self._spec
            pyfunc.write(Path(folder) / "model", spec, version, self._blobs, self._ranges)
            experiment = client.get_experiment_by_name(self.name)
            place = client.create_experiment(self.name) if experiment is None else experiment.experiment_id
            moment = int(self._times.get(version.id, time.time()) * 1000)
            tags = _tags(version)
            run = client.create_run(place, start_time=moment, tags=tags, run_name=version.id).info.run_id
            metrics = [
                mlflow.entities.Metric(_named(k), v, moment, version.position) for k, v in version.metrics.items()
            ]
            family = mlflow.entities.Param("family", str(version.spec.get("family", contract.INNER)))
            client.log_batch(run, metrics=metrics, params=[family])
            client.log_artifacts(run, str(Path(folder) / "model"), "model")
            client.set_terminated(run)
            made = client.create_model_version(
                self.name, f"runs:/{run}/model", run, tags=tags, description=version.reason
            )
        return str(made.version)

    def _move(self, client: Any, wanted: Mapping[str, str]) -> dict[str, str]:
        """Set the aliases that moved, and remove those that are gone; aliases that others set stay."""
        registered = client.get_registered_model(self.name)
        held = {alias: str(number) for alias, number in registered.aliases.items()}
        kept = {alias: number for alias, number in wanted.items() if _ALIAS.fullmatch(alias)}
        moved = {alias: number for alias, number in kept.items() if held.get(alias) != number}
        for alias, number in moved.items():
            client.set_registered_model_alias(self.name, alias, number)
        own = set(registered.tags.get(OWN, "").split(","))
        for alias in (own & held.keys()) - kept.keys():
            client.delete_registered_model_alias(self.name, alias)
        if own != kept.keys():
            client.set_registered_model_tag(self.name, OWN, ",".join(sorted(kept)))
        return moved


def pinned(uri: str, tracking: str = "") -> str:
    """Return a URI of a registered model with the number that its alias has now: "models:/fraud/3".

    Raises `ConfigError` for a URI of another form.
    """
    if not _URI.fullmatch(uri):
        raise ConfigError(f"uri: got {uri!r}; expected models:/NAME/NUMBER or models:/NAME@ALIAS")
    if "@" not in uri:
        return uri
    name, _, alias = uri.removeprefix("models:/").partition("@")
    return f"models:/{name}/{_client(tracking).get_model_version_by_alias(name, alias).version}"


def start(uri: str, tracking: str = "", folder: str | Path = "") -> dict[str, Any]:
    """Return the settings of a loop that begins with a registered model: its schema, and a model with its arrays.

    The files of the model are copied to `folder` (default: "NAME-NUMBER" here), which must stay: the loop reads them
    when it is opened, and needs the registry no more. Raises `ConfigError` for a URI of another form, and `BlobError`
    for a model that is not of Everlearn.
    """
    fixed = pinned(uri, tracking)
    name, _, number = fixed.removeprefix("models:/").rpartition("/")
    place = Path(folder or f"{name}-{number}").absolute()
    if not (place / pyfunc.TEXT).exists():
        client = _client(tracking)
        run = client.get_model_version(name, number).run_id
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copytree(Path(client.download_artifacts(run, "model", scratch)) / pyfunc.DATA, place)
    schema, version, *_ = pyfunc.read(place)
    model = {"family": "registered", "folder": str(place), "blob": version.blob, "uri": fixed}
    return {"schema": msgspec.to_builtins(schema), "model": model}


class RegisteredSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a model that begins as a registered one.

    `folder` holds its files, as `start` copied them, and `blob` is the hash of its arrays; `uri` is a note. `trusted`
    is needed where the registered model is of another library, or of a function of yours.
    """

    folder: str
    blob: str
    uri: str = ""
    trusted: bool = False
    family: str = "registered"
    task: str = ""
    dense: int = 0
    hashed: int = 0
    classes: int = 0
    seed: int = 0


def _settings(given: Mapping[str, Any]) -> RegisteredSettings:
    """Return settings from a spec. Raises `ConfigError` for an unknown, missing or wrong one."""
    try:
        return msgspec.convert(given, RegisteredSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"registered model: {error}; expected folder and blob, as everlearn.bridges.mlflow.start(uri) returns them"
        ) from error


def build(spec: Mapping[str, Any]) -> Model:
    """Make the model that a registered one is, with its arrays.

    Raises `ConfigError` for other files than those of the hash, for a model of other columns or classes, and for one
    that needs trust; `BlobError` for files that are lost or damaged.
    """
    given = {name: value for name, value in spec.items() if name not in ("layout", "pairs")}
    settings = _settings(given)
    _, version, arrays, _ = pyfunc.read(Path(settings.folder))
    if version.blob != settings.blob:
        raise ConfigError(
            f"registered model: {settings.folder} holds the arrays {version.blob[:12]}; expected {settings.blob[:12]}, "
            "those that the settings were written for. Put the folder back, or copy the model again"
        )
    fixed = settings.uri or settings.folder
    own = version.spec
    if not settings.trusted and (unsafe := _needs_trust(own)):
        raise ConfigError(
            f"registered model: {fixed} is of family {unsafe!r}, whose code or state can run anything; write "
            "trusted = true beside it if you trust all who can write to that registry"
        )
    differ = [f"{name} {own[name]} and not {spec[name]}" for name in SHAPE if own.get(name, 0) != spec.get(name, 0)]
    if "task" in spec and differ:
        raise ConfigError(
            f"registered model: {fixed} has {', '.join(differ)}; expected a loop with its schema. "
            "everlearn.bridges.mlflow.start(uri) returns it"
        )
    model = contract.build(own)
    restore(model, arrays)
    return model


SHAPE = ("task", "dense", "hashed", "classes")


def _needs_trust(value: Any) -> str:
    """Return the first family of a spec, at any depth, that is not safe to build; "" if there is none."""
    if isinstance(value, Mapping):
        family = str(value.get("family", contract.INNER))
        if family in contract.PICKLED or family not in contract.FAMILIES:
            return family
        if "module" in value:  # of a network
            return str(value["module"])
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return next((found for each in inner if isinstance(each, Mapping | list | tuple) and (found := _deep(each))), "")


def _deep(value: Any) -> str:
    """Look into a list or table that need not be the spec of a model."""
    if isinstance(value, Mapping) and "family" in value:
        return _needs_trust(value)
    inner = value.values() if isinstance(value, Mapping) else value
    return next((found for each in inner if isinstance(each, Mapping | list | tuple) and (found := _deep(each))), "")


def _client(uri: str) -> Any:
    return _mlflow().MlflowClient(uri or None)


def _mlflow() -> Any:
    try:
        return importlib.import_module("mlflow")
    except ImportError as error:
        raise MissingExtra("MLflow", "mlflow") from error


def _tags(version: Version) -> dict[str, str]:
    return {
        TAG + "version": version.id,
        TAG + "parents": ",".join(version.parents),
        TAG + "blob": version.blob,
        TAG + "position": str(version.position),
    }


def _named(metric: str) -> str:
    """Return the name of a metric with the signs that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", metric)
