"""Append the labels of a file to the log, where a loop in any process finds them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from everlearn import events
from everlearn.errors import UnknownId
from everlearn.feedback.admission import Admission, check_known
from everlearn.records import Label, Rejected
from everlearn.schema import features, reading
from everlearn.spec import Spec
from everlearn.stream.labels import read_labels

_SHOWN = 1000  # rejected rows that are kept to be shown


@dataclass(slots=True)
class AppendedLabels:
    """The counts of one label file: new labels, labels known before and rejected rows, with the first of the latter."""

    accepted: int = 0
    known: int = 0
    refused: int = 0
    rejected: list[Rejected] = field(default_factory=list)


def append(home: Path, spec: Spec, source: Any, *, id: str, label: str, by: str = "") -> AppendedLabels:
    """Append the labels in the columns `id` and `label` of a source (see `stream.labels.read_labels`) to a loop's log.

    Another process may have the loop open; it learns the labels as it reads on. Otherwise the next process that opens
    the loop learns them. The same file twice counts once. Labels of unknown predictions are rejected, unless
    `feedback.early` lets them wait. `by` becomes the source of each label. Raises as `read_labels` does.
    """
    appended = AppendedLabels()
    with closing(events.connect(events.url_of(home, spec.log.url, spec.log.book), spec.log.durability)) as log:
        admission = Admission(spec, reading(spec.schema), log)
        for part in read_labels(source, features(admission.encoder), id=id, label=label, by=by):
            labels, unknown = _split(admission, part.labels, by)
            rejected = [*part.rejected, *unknown]
            end = log.end()
            new = sum(position > end for position in set(log.append(labels)))
            appended.accepted += new
            appended.known += len(labels) - new
            appended.refused += len(rejected)
            appended.rejected += rejected[: _SHOWN - len(appended.rejected)]
    return appended


def _split(admission: Admission, labels: list[Label], by: str) -> tuple[list[Label], list[Rejected]]:
    """Return the labels that the loop can use, and the labels of unknown predictions."""
    known: list[Label] = []
    rejected: list[Rejected] = []
    for label in labels:
        try:
            check_known(admission, label.id)
            known.append(label)
        except UnknownId as error:
            rejected.append(Rejected(by, 0, str(error), msgspec.json.encode(label).decode()))
    return known, rejected
