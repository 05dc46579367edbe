"""Data frames in and out of a loop: pandas, polars, Arrow, whatever narwhals knows, or a dict of columns.

A cell of a frame means what the same value means in a file or a request: both become the values that the log holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

from everlearn.errors import InputError, UnknownId
from everlearn.feedback import admission
from everlearn.feedback.admission import Admission
from everlearn.predict import Instance, interval, new_ids
from everlearn.records import Example, Feedback, Prediction
from everlearn.schema import columnar, nested
from everlearn.schema.actions import PREFIX
from everlearn.spec import Schema


@runtime_checkable
class _Series(Protocol):
    """A row of a data frame: cells by the names of their columns."""

    def to_dict(self) -> dict[str, Any]:
        """Return the cells of the row."""


def record(features: Any, actions: Sequence[Any] | None = None) -> Any:
    """Return a row as a dict of its cells, if it is a series of pandas or the like; else what was given.

    `actions` are those on offer, beside the record of a bandit.
    """
    given = features.to_dict() if not isinstance(features, Mapping) and isinstance(features, _Series) else features
    return given if actions is None else {**given, PREFIX: actions}


def instances(given: Admission, frame: Any, ids: str = "") -> list[Instance]:
    """Return the rows of a frame as instances to predict; `ids` names the column of their ids, if they have one.

    Raises InputError for a frame that cannot be read, and, naming the row, for a cell that cannot be used.
    """
    rows = _rows(given, frame)
    named = [_text(row.get(_present(rows, ids)), ids, i) for i, row in enumerate(rows)] if ids else new_ids(len(rows))
    made = []
    for i, (id, row) in enumerate(zip(named, rows, strict=True)):
        with _row(i):
            made.append(Instance(id, admission.features(given, row), admission.subject(given, row)))
    return made


def answers(frame: Any, predictions: Sequence[Prediction], schema: Schema) -> Any:
    """Return predictions as a frame of the library of `frame`: id, value, version, and `proba_CLASS` for each class.

    A bandit has `propensity`, and `proba_ACTION` for each action. Forecasts with an interval have `low` and `high`.
    """
    columns: dict[str, list[Any]] = {
        "id": [one.id for one in predictions],
        "value": [one.value for one in predictions],
        "version": [one.version for one in predictions],
    }
    if schema.actions:
        columns["propensity"] = [one.propensity for one in predictions]
    for place, name in enumerate(schema.classes or schema.actions):
        columns[f"proba_{name}"] = [one.proba[place] for one in predictions]
    bounds = [interval(one) for one in predictions]
    if any(bounds):
        columns |= {name: [one[i] if one else None for one in bounds] for i, name in enumerate(("low", "high"))}
    return like(frame, columns)


def examples(given: Admission, frame: Any, weight: str, source: str, refused: Any, first: int) -> list[Example]:
    """Return the rows of a frame with their labels, ready for the log; `first` is the number of the first one.

    `weight` names the column of weights, if there is one. Raises as `instances` does.
    """
    rows, label = _rows(given, frame), given.spec.schema.label
    _present(rows, label)
    made: list[Example] = []
    for i, row in enumerate(rows):
        with _row(i):
            heavy = float(row[_present(rows, weight)]) if weight else 1.0
            some = row, row[label], heavy, None, source
            made.append(
                admission.example(given, *some, refused=refused, new_id=partial("example-{}".format, first + i))
            )
    return made


def judgements(given: Admission, frame: Any, ids: str, label: str, weight: str, source: str) -> list[Feedback]:
    """Return the labels of a frame for the predictions in its column `ids`, ready for the log.

    Raises as `instances` does, and UnknownId for a prediction that is not in the log.
    """
    rows, label = _rows(given, frame), label or given.spec.schema.label
    for name in (ids, label):
        _present(rows, name)
    made: list[Feedback] = []
    for i, row in enumerate(rows):
        with _row(i):
            heavy = float(row[_present(rows, weight)]) if weight else 1.0
            made.append(admission.feedback(given, _text(row[ids], ids, i), row[label], None, None, heavy, source))
    return made


def like(frame: Any, columns: Mapping[str, list[Any]]) -> Any:
    """Return columns as a frame of the library of `frame`, with its index; as a dict, if that is one."""
    if isinstance(frame, Mapping):
        return dict(columns)
    import narwhals as nw

    given = nw.from_native(frame, eager_only=True)
    made: Any = nw.from_dict(dict(columns), backend=given.implementation).to_native()
    if (index := nw.maybe_get_index(given)) is not None:
        made.index = index
    return made


def _rows(given: Admission, frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a frame, the parts of objects under dotted names."""
    parts = {name: columnar.native(column) for name, column in columnar.named(frame).items()}
    if given.spec.schema.rules > 1:
        parts = nested.flat_columns(parts)
    columns = {name: columnar.values_of(part) for name, part in parts.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the columns have different lengths: {lengths}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@contextmanager
def _row(number: int) -> Iterator[None]:
    """Name the row in an error about one of its cells."""
    try:
        yield
    except UnknownId as error:
        raise UnknownId(f"row {number}: {error}") from None
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"row {number}: {error}") from None


def _present(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return a name that is a column. Raises InputError for one that is not."""
    if rows and name not in rows[0]:
        raise InputError(f"the frame has no column {name!r}; it has {', '.join(rows[0])}")
    return name


def _text(value: Any, name: str, row: int) -> str:
    """Return an id as text: that of an integer, or the text itself."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"row {row}: {name}: got {value!r}; expected an id: text, or an integer")
