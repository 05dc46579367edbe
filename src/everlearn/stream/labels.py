"""Labels from a file: one column holds the prediction ids, another the true labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlearn.errors import InputError
from everlearn.records import Label, Rejected
from everlearn.schema import Encoder, columnar, meaning
from everlearn.stream.blocks import Block
from everlearn.stream.opening import source_of
from everlearn.stream.sources import Files, Source
from everlearn.stream.stream import rejected_rows


@dataclass(frozen=True, slots=True)
class LabelChunk:
    """Consecutive rows of labels: the usable labels, the rejected rows, and the number of rows read so far."""

    labels: list[Label]
    rejected: tuple[Rejected, ...]
    last: int


def read_labels(
    source: Any, encoder: Encoder, *, id: str, label: str, by: str = "", after: int = 0, size: int = 8192
) -> Iterator[LabelChunk]:
    """Yield labels from the columns `id` and `label` of a source, in order, after the first `after` rows.

    `source` is any source that `everlearn.read` accepts. An id is taken as written; 7 and 7.0 are "7". `by` becomes the
    source of each label. Labels are validated like feedback: an unknown class, or a value that is no number, makes the
    row a `Rejected`. The loop checks that the prediction of an id exists. Raises `InputError`, before anything is read,
    if a column is missing.

    >>> from everlearn.spec import Schema
    >>> encoder = Encoder(Schema(label="y", task="binary", classes=("no", "yes"), fields={"x": "numeric"}))
    >>> rows = {"order": [17, 18, None], "fraud": ["yes", "perhaps", "no"]}
    >>> chunk = next(read_labels(rows, encoder, id="order", label="fraud"))
    >>> chunk.labels
    [Label(id='17', value='yes', weight=1.0, source='', handle='')]
    >>> [(row.line, row.reason) for row in chunk.rejected]
    [(2, "label 'fraud': got the label 'perhaps', expected one of 'no', 'yes'"), (3, "id 'order': the id is missing")]
    """
    opened = source_of(source, peek=0, rules=encoder.schema.rules)
    for part in opened.sources if isinstance(opened, Files) else [opened]:
        _require_columns(part, (id, label))
    return (_read(block, encoder, id, label, by) for block in opened.blocks(after, size, [id, label]))


def _require_columns(source: Source, columns: tuple[str, str]) -> None:
    missing = [column for column in columns if column not in source.names]
    if missing:
        raise InputError(
            f"{Path(source.name).name} has no column {', '.join(map(repr, missing))}; "
            f"its columns are {', '.join(map(repr, source.names[:20]))}: name the columns of the ids and of the labels"
        )


def _read(block: Block, encoder: Encoder, id: str, label: str, by: str) -> LabelChunk:
    n = len(block.kept)
    column = columnar.native(block.columns[label]) if label in block.columns else [None] * n
    y, problems = encoder.labels(column, n)
    faults = dict(block.faults)
    for problem in problems:
        faults[int(block.kept[problem.row])] = f"label {label!r}: {problem.reason}"
    ids = columnar.values_of(columnar.native(block.columns[id])) if id in block.columns else [None] * n
    labels, classes = [], encoder.schema.classes
    for row, raw, value in zip(block.kept.tolist(), ids, y.tolist(), strict=True):
        try:
            name = _name(raw)
        except InputError as error:
            faults[row] = f"id {id!r}: {error}" + (f"; {faults[row]}" if row in faults else "")
        if row not in faults:
            labels.append(Label(name, classes[int(value)] if classes else value, source=by))
    return LabelChunk(labels, rejected_rows(block, faults), block.before + block.rows)


def _name(value: Any) -> str:
    """Return an id as text. Raises `InputError` if it is missing."""
    name = meaning.category(value).decode()
    if not name:
        raise InputError("the id is missing")
    return name
