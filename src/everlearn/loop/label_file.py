"""Append the labels of a file to the log, whichever process the loop runs in."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from everlearn import events
from everlearn.feedback.admission import unknown
from everlearn.records import Label, Rejected
from everlearn.schema import Encoder
from everlearn.spec import Spec
from everlearn.stream.labels import read_labels

_SHOWN = 1000  # rejected rows kept in the result


@dataclass(slots=True)
class AppendedLabels:
    """The result of appending a file of labels: counts of new, known and rejected ones, and the first rejected rows."""

    accepted: int = 0
    known: int = 0
    refused: int = 0
    rejected: list[Rejected] = field(default_factory=list)


def append(home: Path, spec: Spec, source: Any, *, id: str, label: str, by: str = "") -> AppendedLabels:
    """Append the labels in the columns `id` and `label` of a source (see `stream.labels.read_labels`) to a loop's log.

    The loop may be open in another process, which learns the labels as it reads on; else the next process that opens
    it does. The same file twice counts once. Labels of unknown predictions are rejected, unless `feedback.early` lets
    them wait for their predictions. `by` names their source. Raises InputError for a file that cannot be read.
    """
    appended = AppendedLabels()
    with closing(events.connect(str(home / "log.sqlite"), spec.log.durability)) as log:
        for part in read_labels(source, Encoder(spec.schema), id=id, label=label, by=by):
            rejected = list(part.rejected)
            labels = part.labels
            if not spec.feedback.early:
                known = [log.find(f"prediction:{row.id}") is not None for row in labels]
                rejected += [_stray(row, by) for row, there in zip(labels, known, strict=True) if not there]
                labels = [row for row, there in zip(labels, known, strict=True) if there]
            end = log.end()
            positions = set(log.append(labels))
            appended.accepted += sum(position > end for position in positions)
            appended.known += len(labels) - sum(position > end for position in positions)
            appended.refused += len(rejected)
            appended.rejected += rejected[: _SHOWN - len(appended.rejected)]
    return appended


def _stray(label: Label, by: str) -> Rejected:
    return Rejected(by, 0, str(unknown(label.id)), msgspec.json.encode(label).decode())
