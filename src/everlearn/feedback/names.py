"""Names in files and requests that no field has, and fields that they lack: counted, shown, and refused if strict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from everlearn.errors import InputError, nearest
from everlearn.schema.actions import columns
from everlearn.spec import Spec

MOST = 40  # different names of each sort that are counted; the others only add to the totals
LONGEST = 40  # bytes of a name that is counted
UNKNOWN, MISSING = "unknown", "missing"

Counted = Callable[[str, int], None]


class FieldNames:
    """The counts of one process since it started, by "unknown:NAME" and "missing:FIELD", and in total.

    The label, the subject, `id` and the names in `ignore` are never unknown. `add` counts elsewhere, if given; `before`
    holds the names that were counted there before.

    >>> from everlearn.spec import Schema
    >>> names = FieldNames(Spec(schema=Schema(label="y", task="regression", fields={"age": "numeric"})))
    >>> names.check({"aeg": 31})
    >>> report(names.counts, ["age"])
    {'unknown': {'aeg': {'rows': 1, 'nearest': 'age'}}, 'missing': {'age': 1}}
    """

    def __init__(self, spec: Spec, add: Counted | None = None, before: Iterable[str] = ()) -> None:
        self.counts: dict[str, int] = {}
        self._fields = spec.schema.fields.keys()
        self._known = {*columns(spec.schema), spec.schema.label, spec.subject, "id", *spec.ignore, ""}
        self._strict = spec.strict
        self._add = add
        self._counted: dict[str, set[str]] = {UNKNOWN: set(), MISSING: set()}
        for sort, _, name in (one.partition(":") for one in before):
            if name and sort in self._counted:
                self._counted[sort].add(name)

    def check(self, record: Mapping[str, Any]) -> None:
        """Count the names of a record. Raises `InputError` for one that is unknown or missing, if strict."""
        names = record.keys()
        if names == self._fields:
            return
        unknown = [name for name in names if name not in self._known]
        missing = [name for name in self._fields if name not in names]
        if unknown or missing:
            self._refuse(unknown, missing, "the record")
            self._count(UNKNOWN, unknown, 1)
            self._count(MISSING, missing, 1)

    def require(self, columns: Sequence[str], where: str) -> None:
        """Raise `InputError` for columns of a file that are unknown or missing, if strict."""
        self._refuse(*self._split(columns), where)

    def add_rows(self, columns: Sequence[str], rows: int) -> None:
        """Count the names of the columns of some rows."""
        unknown, missing = self._split(columns)
        self._count(UNKNOWN, unknown, rows)
        self._count(MISSING, missing, rows)

    def _split(self, columns: Sequence[str]) -> tuple[list[str], list[str]]:
        given = set(columns)
        unknown = [name for name in columns if name not in self._known]
        return unknown, [name for name in self._fields if name not in given]

    def _refuse(self, unknown: Sequence[str], missing: Sequence[str], where: str) -> None:
        if not self._strict:
            return
        if unknown:
            near = nearest(unknown[0], self._fields)
            near = f" (the nearest is {near!r})" if near else ""
            raise InputError(
                f"{where}: got the name {unknown[0]!r}, which no field has{near}. Correct it, list it in `ignore`, "
                "or set strict = false"
            )
        if missing:
            raise InputError(
                f"{where}: got no field {missing[0]!r}; expected all of {', '.join(self._fields)}. Send it, null where "
                "it has no value, or set strict = false"
            )

    def _count(self, sort: str, names: Iterable[str], rows: int) -> None:
        held = self._counted[sort]
        for name in names:
            if name in held or (len(held) < MOST and 0 < len(name.encode("utf-8", "replace")) <= LONGEST):
                held.add(name)
                self._put(f"{sort}:{name}", rows)
            else:
                self._put(f"{sort}:", rows)

    def _put(self, name: str, rows: int) -> None:
        if self._add is not None:
            self._add(name, rows)
        else:
            self.counts[name] = self.counts.get(name, 0) + rows


def report(counts: Mapping[str, int], fields: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the rows and the nearest field of each unknown name, and the rows of each missing field.

    Names beyond the first ones are under "".
    """
    known = list(fields)
    found: dict[str, dict[str, Any]] = {UNKNOWN: {}, MISSING: {}}
    for name, rows in counts.items():
        sort, mark, given = name.partition(":")
        if mark and sort == UNKNOWN:
            found[UNKNOWN][given] = {"rows": rows, "nearest": nearest(given, known) if given else ""}
        elif mark and sort == MISSING:
            found[MISSING][given] = rows
    return found


def lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a report as lines of text."""
    unknown = []
    for name, one in found[UNKNOWN].items():
        near = f": did you mean {one['nearest']!r}?" if one["nearest"] else ""
        unknown.append(f"unknown name {name!r} in {one['rows']:,} rows{near}")
    return [*unknown, *(f"no field {name!r} in {rows:,} rows" for name, rows in found[MISSING].items())]
