"""Read the spec of a model: check it against the family's settings, and word errors for people.

A retired setting is one that an earlier release had and that is now fixed, derived, or part of another setting. The
record of a family keeps its retired settings, so that a stored model of an earlier release stays what it was. A spec
may hold one at its fixed value. A spec with `"layout": 1`, which names the settings of release 0.1, may hold any value.
Layout 2 has the settings of this release with the defaults of release 0.1.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from everlearn.errors import ConfigError, did_you_mean

LAYOUT = 6  # the settings and defaults of this release
STORED = 1  # the settings of release 0.1, retired ones included

Record = TypeVar("Record", bound=msgspec.Struct)


class Retired(NamedTuple):
    """The fixed value of a retired setting, and what to do in a new spec instead."""

    value: Any
    advice: str


RetiredSettings = Mapping[str, Retired]  # by path: "compile", "lora.dora", "terms.si.damping"


def layout(spec: Mapping[str, Any], family: str) -> int:
    """Return the layout that a spec names, or this release's. Raises `ConfigError` for an unknown one."""
    found = spec.get("layout", LAYOUT)
    if type(found) is not int or not STORED <= found <= LAYOUT:
        raise ConfigError(
            f"{family} model: layout: got {found!r}; expected {STORED} to {LAYOUT}. "
            "Open it with the release that wrote it, or a newer one"
        )
    return found


def convert(
    spec: Mapping[str, Any], kind: type[Record], family: str, retired: RetiredSettings, hidden: Collection[str] = ()
) -> Record:
    """Make a record of a family's settings from a spec.

    Messages do not list retired settings, nor `hidden` ones. Raises `ConfigError` for an unknown, missing or wrong
    setting, and for a retired one that a new spec sets to another value than the fixed one.
    """
    stored = layout(spec, family) == STORED
    given = {name: value for name, value in spec.items() if name != "layout"}
    for path, shown, holder, name in _places(given):
        if path in retired and not stored and holder[name] != retired[path].value:
            raise ConfigError(
                f"{family} model: {shown}: got {reprlib.repr(holder[name])}; this setting was removed. "
                f"{retired[path].advice}"
            )
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{family} model: {_Faults(kind, given, {*retired, *hidden}).explain(str(error))}") from error


def written(settings: msgspec.Struct, retired: RetiredSettings) -> dict[str, Any]:
    """Return the complete spec of settings, as plain values; `convert` makes equal settings from it.

    Retired settings are left out at their fixed values. Where one has another value, the spec names layout 1.
    """
    spec: dict[str, Any] = msgspec.to_builtins(settings)
    kept = False
    for path, _, holder, name in list(_places(spec)):
        if path in retired and holder[name] == retired[path].value:
            del holder[name]
        elif path in retired:
            kept = True
    return {**spec, "layout": STORED} if kept else spec


def _places(spec: Any) -> Iterator[tuple[str, str, Any, str]]:
    """Yield each setting of a spec: its path among retired settings, its path as shown, its table and its name."""
    for name, value in spec.items():
        yield name, name, spec, name
        if isinstance(value, Mapping):
            for inner in value:
                yield f"{name}.{inner}", f"{name}.{inner}", value, inner
        elif isinstance(value, list | tuple):
            for at, table in enumerate(value):
                for inner in table if isinstance(table, Mapping) else ():
                    yield f"{name}.{table.get('kind')}.{inner}", f"{name}[{at}].{inner}", table, inner


class _Faults(NamedTuple):
    """A spec that does not fit a record of settings, and the words for its faults."""

    kind: type[msgspec.Struct]
    given: Mapping[str, Any]
    unlisted: Collection[str]

    def explain(self, message: str) -> str:
        """Rewrite a message of msgspec: the path of the setting, the value, and what that place may hold."""
        what, _, where = message.rpartition(" - at ")
        if not what or " in " in where:  # about the whole spec, or about a key that is no text
            what, where = what or where, where.partition(" in ")[2]
        path = [int(part) if part.isdigit() else part for part in re.findall(r"[^$`.\[\]]+", where)]
        type_here, got = self._walk(path)
        table, at = self._walk(path[:-1])[0], _shown(path)
        if found := re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", what):
            name = found[2]
            if found[1] == "missing required":
                return f"{at or 'the spec'}: {name!r} is missing. {self._known(type_here, path)}"
            here = f"{at}.{name}" if at else name
            near = did_you_mean(name, self._names(type_here, path)) or "."
            return f"{here}: unknown setting, got {reprlib.repr(got.get(name))}{near} {self._known(type_here, path)}"
        choices: list[str] = []
        if isinstance(type_here, inspect.LiteralType):
            choices = [str(value) for value in type_here.values]
        elif path and path[-1] == "kind":
            choices = _tags(table)
        if choices:
            near = did_you_mean(got, choices)
            return f"{at}: got {reprlib.repr(got)}; expected one of {', '.join(map(repr, choices))}{near}"
        known = f". {self._known(table, path[:-1])}" if isinstance(table, inspect.StructType) else ""
        return f"{at}: got {reprlib.repr(got)}; {what[0].lower()}{what[1:]}{known}"

    def _walk(self, path: Sequence[int | str]) -> tuple[Any, Any]:
        """Return the type that msgspec has at a path of the spec, and the value there."""
        kind: Any = inspect.type_info(self.kind)
        value: Any = self.given
        for step in path:
            if isinstance(kind, inspect.StructType):
                kind = next((known.type for known in kind.fields if known.encode_name == step), None)
            else:
                kind = getattr(kind, "item_type", None)
            inside = isinstance(value, Mapping) or (isinstance(value, Sequence) and isinstance(step, int))
            value = value[step] if inside else None
            if isinstance(kind, inspect.UnionType):
                structs = [known for known in kind.types if isinstance(known, inspect.StructType)]
                tag = value.get("kind") if isinstance(value, Mapping) else None
                kind = next((known for known in structs if known.tag == tag), structs[0] if len(structs) == 1 else kind)
        return kind, value

    def _names(self, kind: Any, path: Sequence[int | str]) -> list[str]:
        """List the settings of a table that are not retired."""
        fields = [known.encode_name for known in kind.fields] if isinstance(kind, inspect.StructType) else []
        prefix = "".join(f"{part}." for part in path if isinstance(part, str))
        prefix += f"{kind.tag}." if getattr(kind, "tag", None) else ""
        return [name for name in fields if prefix + name not in self.unlisted]

    def _known(self, kind: Any, path: Sequence[int | str]) -> str:
        """Say which settings a table has, or which kinds of tables there are."""
        if tags := _tags(kind):
            return f"Expected kind to be one of {', '.join(map(repr, tags))}"
        at = _shown(path)
        of = f" of {kind.tag}" if getattr(kind, "tag", None) else f" of {at}" if at else ""
        return f"Known settings{of}: {', '.join(self._names(kind, path)) or 'none'}"


def _tags(kind: Any) -> list[str]:
    """List the kinds of tables, where a place may hold several."""
    return sorted(str(known.tag) for known in getattr(kind, "types", ()) if getattr(known, "tag", None))


def _shown(path: Sequence[int | str]) -> str:
    """Format a path: terms[0].kind."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
