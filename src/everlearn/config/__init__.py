"""Read and write settings: TOML files, plain dicts, and the specs that homes store.

The only place that reads configuration files and the environment. EVERLEARN_HOME, where set, replaces `home`.
EVERLEARN_WEBHOOK_SECRET signs the alerts that a server sends.

A file leaves out what has its default. A stored spec (in each checkpoint, and in the decisions that start or configure
a loop) has a format number and every setting, so that later releases can change defaults and remove settings.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import tomli_w

from everlearn import events, model
from everlearn.config import default_model, environment, release_0_1_0
from everlearn.errors import ConfigError, LogError, nearest
from everlearn.spec import (
    GATE_LAYOUT,
    KEEP_BYTES,
    LAYOUT,
    LOG_LAYOUT,
    MIB,
    RULES,
    STORED_ONLY,
    AskSpec,
    BanditSpec,
    DecisionSpec,
    JudgeSpec,
    Spec,
)

FORMAT = 1  # of stored specs; 0: those of release 0.1.0, which have no number and leave out defaults

_NO_MATTER = ("source", "prompts", "home", "warm_start", "judge", "ask", "mlflow")  # to the state of a started loop
_ANOTHER = (
    "Start another home, and `everlearn run` its file there; `everlearn export rows.jsonl` writes such a file from "
    "labelled traffic"
)
FIXED = {
    "schema": f"what was learned belongs to these columns. {_ANOTHER}",
    "model": "the champion is such a model. `loop.challenge({...})` or POST /challengers starts a model of any family "
    "beside it, and the gate seats that once it is better",
    "seed": "random numbers of the past come from it. Start another home",
    "class_weight": f"what was learned has these weights. {_ANOTHER}",
    "log.encrypt": f"the events so far are as they are. {_ANOTHER}",
}
"""Settings that a loop keeps, with the reason and the way to another value."""

_KEEPS = "A home that was started with it keeps its value"
_REMOVED = {
    "epochs": "Remove it: a warm start is one pass over its rows",
    "limits.window": f"Remove it: the window is 1000 labels. {_KEEPS}",
    "log.rows": "Remove it: a loop with a `subject` appends the rows of a file to its log, any other loop reads "
    f"them from the file. {_KEEPS}",
    "replay.width": f"Remove it: the schema gives the width of a row. {_KEEPS}",
    "serve.batch": "Remove it: a request holds at most 1000 rows",
    "serve.body": "Remove it: a request holds at most 1 MiB",
}
_WITHOUT_EFFECT = ("epochs", "serve.batch", "serve.body")  # on a loop that has started: the rest is STORED_ONLY

_FILES = ("prompts", "judge.rubric", "ask.gold")  # relative to the configuration file

# The defaults of a task, where they differ from those of others. People judge a few pairs a minute, and a pair of
# answers has a thousand tokens. A bandit has the hashed weights once for each action.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "preference": {"tick": 16, "gate.minimum": 50, "replay.bytes": 64 * MIB},
    "bandit": {"schema.bits": 14},
}

# Settings that a loop which chooses actions cannot have, with the values that do nothing, and the reasons.
_NOT_FOR_BANDITS: dict[str, tuple[Any, str]] = {
    "class_weight": ({}, "there are no classes"),
    "gate.guards": ({}, "there are no classes"),
    "decision": (DecisionSpec(), "the policy of the model chooses"),
    "limits.clip": (0.0, "rows have columns of actions, which must stay as they were served"),
}

# Settings that a loop which learns preferences cannot have.
_NOT_FOR_PREFERENCES: dict[str, tuple[Any, str]] = {
    "warm_start": (0.0, "it trains on records with labels"),
    "class_weight": ({}, "which answer comes first is chance"),
    "gate.guards": ({}, "which answer comes first is chance"),
    "decision": (DecisionSpec(), "which answer comes first is chance"),
    "drift.watch": ("loss", "a pair is predicted when it is judged, so only losses can be watched"),
    "feedback.default": (None, "a judgement that has not come is no judgement"),
    "limits.clip": (0.0, "the columns of a pair are lengths and names"),
    "limits.quarantine": (1.0, "an annotator may be odd, and models weigh each annotator"),
    "metrics.segment": ("", "rows have groups instead"),
    "serve.canary": (0.0, "a candidate is compared in duels"),
}

_HEADING = """\
# What this loop predicts, learns from, and how it decides. Every setting, with its meaning and default, is in
# docs/reference/settings.md. A setting that is left out has its default.

"""

_AUTO = '[model]\nfamily = "auto"'
_SPEED = '# a mix of models; speed = "fast" is the linear model alone, ten times as fast, with versions of kilobytes'


# ---- files -----------------------------------------------------------------------------------------------------------


def load(path: str | Path, folder: Path | None = None) -> Spec:
    """Read `everlearn.toml`. Raises ConfigError naming the file and the setting at fault.

    The file of an existing home may name settings that were removed since: the home keeps their values. `folder` is
    that home, where it is not the one that the file names.
    """
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
    values = environment.filled(values, str(path))
    spec = convert(values, str(path), folder or _folder(path, values.get("home", "")))
    for name in _FILES:
        if named := attrgetter(name)(spec):
            spec = _with(spec, name, str(path.parent / named))
    return spec


def convert(values: Mapping[str, Any], where: str = "the spec", folder: Path | None = None) -> Spec:
    """Return the Spec of plain values. Raises ConfigError naming the setting, the value got and those expected.

    The defaults of `tick`, `gate.minimum`, `replay.bytes` and `schema.bits` depend on the task. Settings that
    were removed are refused, unless `folder` is an existing home, which keeps their values.

    >>> convert({"schema": {"label": "y", "task": "regression", "fields": {"a": "numeric"}}, "mode": "lve"})
    Traceback (most recent call last):
    everlearn.errors.ConfigError: the spec: mode: got 'lve'; expected 'live' or 'gated'
    """
    if folder is not None and events.exists(folder):
        values = _without_removed(values)
    for name in [*_REMOVED, *STORED_ONLY]:
        if _has(values, name):
            todo = _REMOVED.get(name, "Remove it: only stored specs have it")
            what = "this setting was removed" if name in _REMOVED else "this is no setting"
            raise ConfigError(f"{where}: {name}: {what}. {todo}")
    try:
        spec = msgspec.convert(values, Spec)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {explain(Spec, values) or error}") from error
    defaults = _DEFAULTS.get(spec.schema.task, {})
    for name, default in defaults.items():
        spec = spec if _has(values, name) else _with(spec, name, default)
    if defaults:
        check_task(spec, f"{where}: ")
    return spec


def check_task(spec: Spec, where: str = "") -> None:
    """Raise ConfigError for a setting that has no meaning for the task; `where` begins the message."""
    task, fallback = spec.schema.task, spec.bandit.fallback
    for name, default, wanted in (
        ("judge", JudgeSpec(), "preference"),
        ("ask", AskSpec(), "preference"),
        ("bandit", BanditSpec(), "bandit"),
    ):
        if task != wanted and getattr(spec, name) != default:
            raise ConfigError(f"{where}{name}: got settings for the task {task!r}; expected {wanted!r}. Remove them")
    if fallback and fallback not in spec.schema.actions:
        raise ConfigError(
            f"{where}bandit.fallback: got {fallback!r}; expected one of schema.actions: "
            f"{', '.join(map(repr, spec.schema.actions))}"
        )
    without = {"preference": _NOT_FOR_PREFERENCES, "bandit": _NOT_FOR_BANDITS}.get(task, {})
    for name, (default, why) in without.items():
        if attrgetter(name)(spec) != default:
            got = _show(_shown(spec, name))
            raise ConfigError(f"{where}{name}: got {got} for the task {task!r}, where {why}. Remove it")
    if task == "preference" and spec.feedback.correction == "importance":
        raise ConfigError(
            f"{where}feedback.correction: got 'importance', which weighs default labels, for the task 'preference', "
            "which has none; expected 'learn' or 'ignore'"
        )


def save(spec: Spec, path: str | Path) -> None:
    """Write a spec as TOML, leaving out what has its default; the file can be edited by hand."""
    Path(path).write_text(text(spec), encoding="utf-8")


def text(spec: Spec) -> str:
    """Return the TOML text that `save` writes."""
    values = msgspec.to_builtins(spec)
    for name in STORED_ONLY:
        record, _, field = name.partition(".")
        values.get(record, {}).pop(field, None)
    for name in _DEFAULTS.get(spec.schema.task, {}):  # a value left out would have the default of the task
        record, _, field = name.rpartition(".")
        (values.setdefault(record, {}) if record else values)[field] = attrgetter(name)(spec)
    if (warm_start := values.get("warm_start", 0.0)) >= 1:
        values["warm_start"] = int(warm_start)  # a number of rows
    text = _HEADING + tomli_w.dumps({name: value for name, value in values.items() if value != {}})
    return text.replace(_AUTO, f"{_AUTO}  {_SPEED}") if spec.model == {"family": "auto"} else text


def home(spec: Spec, path: Path) -> Path:
    """Return the home of the loop of the configuration file `path`.

    That is EVERLEARN_HOME or `spec.home`, both relative to the file's folder, else the file's own name ending in
    `.home`.
    """
    return _folder(path, spec.home)


def _folder(path: Path, named: Any) -> Path:
    return path.parent / str(os.environ.get("EVERLEARN_HOME") or named or f"{path.stem}.home")


def _without_removed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values without the settings that were removed."""
    left = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    for path in _REMOVED:
        record, _, name = path.rpartition(".")
        table = left.get(record) if record else left
        if isinstance(table, dict):
            table.pop(name, None)
    return left


def webhook_secret() -> str:
    """Return the key that signs alerts; empty if they are not signed."""
    return os.environ.get("EVERLEARN_WEBHOOK_SECRET", "")


# ---- stored specs ----------------------------------------------------------------------------------------------------


def stored(spec: Spec) -> dict[str, Any]:
    """Return the spec as plain values for a home to store: numbered, and with every setting.

    The layout of a model of a built-in family is the newest one where its spec names none. The places of log and
    snapshots are left out: a home may be moved, and a URL may hold a password.
    """
    values, newest = _full(_placeless(spec)), model.newest_layout(spec.model)
    layout = {"layout": newest} if newest else {}
    return {"format": FORMAT, **values, "model": layout | values["model"]}


def read_stored(values: Mapping[str, Any], where: str) -> Spec:
    """Return the Spec that a home (named `where`) stored, of this release or an older one.

    What an older release left out has the default of that release; a setting that was removed since is kept where it
    has an effect on the home. Raises LogError for a spec of a newer release, or with an unknown layout.
    """
    number = values.get("format", 0)
    if number > FORMAT:
        raise LogError(_newer(where, "spec format", number, FORMAT))
    held = {name: value for name, value in values.items() if name not in ("format", *_WITHOUT_EFFECT)}
    if number == 0:
        held = _over(release_0_1_0.DEFAULTS, held)
    held["serve"] = {name: value for name, value in held["serve"].items() if f"serve.{name}" not in _WITHOUT_EFFECT}
    if (layout := held["schema"]["layout"]) > LAYOUT:
        raise LogError(_newer(where, "schema.layout", layout, LAYOUT))
    held["schema"] = {"rules": 1, **held["schema"]}  # stored since rules 2
    if (rules := held["schema"]["rules"]) > RULES:
        raise LogError(_newer(where, "schema.rules", rules, RULES))
    if held["gate"].get("layout", 1) == 1:  # stored since layout 2
        held["gate"] = {"promote": "snapshot", **held["gate"], "layout": 1}
    held["model"] = {"family": model.INNER, **held["model"]}
    held = {"keep_bytes": 0, **held, "log": {"layout": 1, **held["log"]}}  # stored since layout 2
    if (layout := held["log"]["layout"]) > LOG_LAYOUT:
        raise LogError(_newer(where, "log.layout", layout, LOG_LAYOUT))
    if (layout := held["gate"]["layout"]) > GATE_LAYOUT:
        raise LogError(_newer(where, "gate.layout", layout, GATE_LAYOUT))
    if known := model.newest_layout(held["model"]):
        if (layout := held["model"].get("layout", 1)) > known:
            raise LogError(_newer(where, "model.layout", layout, known))
        held["model"] = {name: value for name, value in held["model"].items() if name != "layout"}
        if layout != known:
            held["model"]["layout"] = layout
    try:
        return msgspec.convert(held, Spec)
    except msgspec.ValidationError as error:
        found = explain(Spec, held) or error
        raise LogError(f"the spec stored in {where} cannot be read: {found}. Upgrade Everlearn") from error


def settled(spec: Spec) -> Spec:
    """Return the spec of a new home: file rows go through the log if the loop has a subject.

    Raises ConfigError for a setting that has no meaning for the task.
    """
    check_task(spec)
    if spec.log.rows != "subject":
        return spec
    rows: Literal["auto", "always"] = "always" if spec.subject else "auto"
    return msgspec.structs.replace(spec, log=msgspec.structs.replace(spec.log, rows=rows))


def resumed(before: Spec, now: Spec) -> Spec:
    """Return the settings `now` with what only stored specs have taken from `before`, which the home stored.

    A home of release 0.1.0 keeps its mode: there, a file that leaves it out means "gated", which promotes snapshots.
    A home from before `keep_bytes` keeps as many bytes of versions as before, where the file does not name a number.
    """
    now = default_model.kept(now, before.model)
    if before.log.layout == 1 and now.keep_bytes == KEEP_BYTES:
        now = msgspec.structs.replace(now, keep_bytes=before.keep_bytes)
    if before.gate.layout == 1:
        gate = msgspec.structs.replace(now.gate, promote=before.gate.promote)
        now = msgspec.structs.replace(now, mode=before.mode, gate=gate)
    for name in STORED_ONLY:
        record, _, field = name.partition(".")
        held = msgspec.structs.replace(getattr(now, record), **{field: getattr(getattr(before, record), field)})
        now = msgspec.structs.replace(now, **{record: held})
    if model.newest_layout(before.model) and "layout" in before.model:
        now = msgspec.structs.replace(now, model={**now.model, "layout": before.model["layout"]})
    return now


def changed(before: Spec, now: Spec, where: str) -> list[str]:
    """Return the names of the settings of a loop that changed.

    Raises ConfigError for a changed setting that learned state depends on.
    """
    before, now = _placeless(before), _placeless(now)
    names = (field.name for field in msgspec.structs.fields(Spec) if field.name not in _NO_MATTER)
    found = [name for name in names if getattr(before, name) != getattr(now, name)]
    if fixed := [name for name in FIXED if attrgetter(name)(before) != attrgetter(name)(now)]:
        raise ConfigError(
            f"{where} was started with other settings: "
            + "; ".join(
                f"{name} was {_shown(before, name)}, is now {_shown(now, name)}, and cannot change: {FIXED[name]}"
                for name in fixed
            )
            + ". Or put the value back"
        )
    return found


def _placeless(spec: Spec) -> Spec:
    """Return a spec that does not say where log, snapshots and a registry are."""
    for name in ("log.url", "log.book", "log.blobs", "mlflow.uri"):
        spec = _with(spec, name, "")
    return spec


def _with(spec: Spec, name: str, value: Any) -> Spec:
    """Return a spec with another value of a setting, named as a file names it."""
    record, _, field = name.rpartition(".")
    if record:
        field, value = record, msgspec.structs.replace(getattr(spec, record), **{field: value})
    return msgspec.structs.replace(spec, **{field: value})


def _shown(spec: Spec, name: str) -> Any:
    return msgspec.to_builtins(attrgetter(name)(spec))


def _newer(where: str, what: str, got: Any, known: int) -> str:
    return f"{where} is of a newer release: {what}: got {got}; expected at most {known}. Upgrade Everlearn"


def _full(record: msgspec.Struct) -> dict[str, Any]:
    """Return every field of a record as plain values, defaults included."""
    fields = ((name, getattr(record, name)) for name in record.__struct_fields__)
    return {
        name: _full(value) if isinstance(value, msgspec.Struct) else msgspec.to_builtins(value)
        for name, value in fields
    }


def _over(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given values, and the defaults of those that are left out; the model's spec is one value."""
    merged = {**defaults, **given}
    for name, value in defaults.items():
        if isinstance(value, dict) and name != "model":
            merged[name] = {**value, **given.get(name, {})}
    return merged


# ---- errors ----------------------------------------------------------------------------------------------------------


def explain(record: type[msgspec.Struct], values: Any, name: str = "") -> str:
    """Return the first problem of plain values for a record of settings, as one sentence; "" if there is none.

    `name` is that of the record within the whole ("" for the whole). An unknown setting comes with the nearest known
    one, a wrong value with the right ones.
    """
    if not isinstance(values, Mapping):
        return f"{name or 'settings'}: got {_show(values)}; expected a table of settings"
    hints = get_type_hints(record, include_extras=True)
    fields = {field.name: field for field in msgspec.structs.fields(record)}
    for given in values:
        if given not in fields:
            return _unknown(record, name, str(given))
    for field in fields.values():
        full = f"{name}.{field.name}" if name else field.name
        if field.name not in values:
            if field.required:
                return f"{full}: missing; expected {_expected(hints[field.name])}"
        elif found := _wrong(hints[field.name], values[field.name], full):
            return found
    return ""


def _wrong(hint: Any, value: Any, name: str) -> str:
    """Return the problem of one value; "" if it fits."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return explain(hint, value, name)
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        if get_origin(hint) is dict and isinstance(value, Mapping):
            inner = get_args(hint)[1]
            for key, one in value.items():
                if found := _wrong(inner, one, f"{name}.{key}"):
                    return found
        return f"{name}: got {_show(value)}; expected {_expected(hint)}"
    return ""


def _unknown(record: type[msgspec.Struct], name: str, given: str) -> str:
    known = [field.name for field in msgspec.structs.fields(record)]
    full = f"{name}.{given}" if name else given
    near = nearest(given, known)
    if near and name:
        near = f"{name}.{near}"
    if not near:  # in another table?
        everywhere = list(setting_names(Spec))
        leaves = {path.rpartition(".")[2]: path for path in reversed(everywhere)}
        near = leaves.get(nearest(given, leaves), "") or nearest(full, everywhere)
    if near:
        return f"{full}: unknown setting; did you mean {near!r}?"
    return f"{full}: unknown setting; expected one of {', '.join(leaf for leaf in known if not _hidden(name, leaf))}"


def setting_names(record: type[msgspec.Struct] = Spec, prefix: str = "") -> Iterator[str]:
    """Yield the full names of all settings that a file can hold."""
    for name, hint in get_type_hints(record).items():
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from setting_names(hint, f"{prefix}{name}.")
        elif f"{prefix}{name}" not in STORED_ONLY:
            yield f"{prefix}{name}"


def _hidden(record: str, field: str) -> bool:
    return f"{record}.{field}" in STORED_ONLY


def _expected(hint: Any) -> str:
    """Return in words which values a type takes."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([_expected(inner[0]), *filter(None, map(_bounds, inner[1:]))])
    if origin is Literal:
        return _either([repr(one) for one in inner])
    if origin in (Union, UnionType):
        return _either([*dict.fromkeys(_expected(one) for one in inner if one is not type(None))])
    if origin is tuple:
        return f"a list ({_expected(inner[0])} each)"
    if origin is dict:
        return "a table" if inner[1] is Any else f"a table ({_expected(inner[1])} each)"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return "a table of settings"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[hint]


def _bounds(meta: msgspec.Meta) -> str:
    low = [f"of at least {meta.ge}"] if meta.ge is not None else [f"above {meta.gt}"] if meta.gt is not None else []
    high = [f"at most {meta.le}"] if meta.le is not None else [f"below {meta.lt}"] if meta.lt is not None else []
    return " and ".join(low + high)


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _show(value: Any) -> str:
    """Return a value as people recognise it, however long."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _has(values: Mapping[str, Any], name: str) -> bool:
    record, dot, field = name.partition(".")
    held = values.get(record)
    return field in held if dot and isinstance(held, Mapping) else not dot and record in values
