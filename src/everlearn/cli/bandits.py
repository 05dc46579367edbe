"""Infer the settings of a loop that chooses actions from a file of logged rows."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from everlearn.errors import ConfigError, InputError, did_you_mean

if TYPE_CHECKING:
    from everlearn.schema.guessing import Survey
    from everlearn.spec import Spec
    from everlearn.stream import Stream


def inferred(data: str, label: str, action: str, propensity: str, path: Path) -> tuple[Spec, Survey]:
    """Return the settings of a loop for a file of logged rows, to be written to `path`, and what was found in it.

    `action` and `propensity` name columns; "uniform" says that all actions had the same probability. The actions are
    the values in the column, the bounds of rewards hold all rewards of the file, and columns "actions.NAME.FIELD" are
    fields of actions. Raises `ConfigError` for columns that the file lacks, `InputError` as `stream.read` does.
    """
    from everlearn import stream
    from everlearn.schema import actions as rows
    from everlearn.schema import check
    from everlearn.spec import Spec

    opened = stream.read(data, label=label, task="regression")
    _require(opened.names, action, "--action", "the action that was taken")
    if propensity != rows.UNIFORM:
        _require(
            opened.names,
            propensity,
            "--propensity",
            'the probability with which it was chosen (or "uniform", if all actions had the same)',
        )
    names = tuple(map(str, stream.infer_file(data, action, "multiclass").classes))
    fields = {
        name: kind
        for name, kind in opened.schema.fields.items()
        if name not in (action, propensity) and not name.startswith(f"{rows.PREFIX}.")
    }
    tables: dict[str, Any] = {
        setting: {name: value for name, value in held.items() if name in (*fields, label)}
        for setting in ("origin", "missing", "decimal", "dates")
        if isinstance(held := getattr(opened.schema, setting), dict)
    }
    schema = msgspec.structs.replace(
        opened.schema,
        task="bandit",
        fields=fields,
        actions=names,
        action_fields=_fields_of_actions(opened, names),
        rewards=_bounds(opened),
        action=action,
        propensity=propensity,
        **tables,
    )
    check(schema)
    _require_usable(stream.read(data, schema=schema))
    spec = Spec(
        schema=schema,
        model={"family": "bandit"},
        source=os.path.relpath(data, path.parent),
        ignore=tuple(opened.survey.left_out) if opened.survey else (),
    )
    assert opened.survey is not None  # of a stream that was read with a label
    kept = {*fields, *opened.survey.left_out}
    guesses = {name: guess for name, guess in opened.survey.guesses.items() if name in kept}
    return spec, dataclasses.replace(opened.survey, schema=schema, guesses=guesses)


def _require(names: Any, column: str, option: str, what: str) -> None:
    if column not in names:
        raise ConfigError(
            f"{option}: got {column!r}; expected the column of {what}, one of {', '.join(map(repr, names))}"
            f"{did_you_mean(column, names)}"
        )


def _require_usable(opened: Stream) -> None:
    """Raise InputError if none of the first rows can be learned, with the reason for the first one."""
    chunk = next(opened.chunks(), None)
    if chunk and chunk.rejected and not len(chunk.examples.y):
        first = chunk.rejected[0]
        raise InputError(
            f"{opened.name}: none of the first {len(chunk.rejected):,} rows can be learned; line {first.line}: "
            f"{first.reason}"
        )


def _fields_of_actions(opened: Stream, names: tuple[str, ...]) -> dict[str, str]:
    """Return the fields that columns "actions.NAME.FIELD" give to actions."""
    from everlearn.schema import actions as rows

    found: dict[str, str] = {}
    for column, kind in opened.schema.fields.items():
        for action in names:
            field = column.removeprefix(f"{rows.PREFIX}.{action}.")
            if field != column and field != rows.AVAILABLE:
                found[field] = "boolean" if kind == "boolean" and found.get(field, kind) == kind else "numeric"
    return found


def _bounds(opened: Stream) -> tuple[float, float]:
    """Return bounds that hold all rewards: 0 and 1, or whole numbers beyond."""
    low, high = 0.0, 1.0
    for chunk in opened.chunks():
        if len(chunk.examples.y):
            low, high = min(low, float(chunk.examples.y.min())), max(high, float(chunk.examples.y.max()))
    return float(math.floor(low)), float(math.ceil(high))
