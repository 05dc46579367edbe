"""Labels from a file into the log, where the loop finds them, whichever process it runs in."""

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

_SHOWN = 1000  # rows set aside that are kept for showing


@dataclass(slots=True)
class AppendedLabels:
    """What became of a file of labels: how many are new, how many the log knew, how many were set aside, and the
    first of those."""

    accepted: int = 0
    known: int = 0
    refused: int = 0
    rejected: list[Rejected] = field(default_factory=list)


def append(home: Path, spec: Spec, source: Any, *, id: str, label: str, by: str = "") -> AppendedLabels:
    """Append the labels in the columns `id` and `label` of a source (see `stream.labels.read_labels`) to a loop's log.

    The loop may be open in another process, which learns them as it reads on; where it is not, the next one to open it
    does. The same file twice counts once. Labels of unknown predictions are set aside, unless `feedback.early` lets
    them wait for theirs. `by` says who judged.
    """
    told = AppendedLabels()
    with closing(events.connect(str(home / "log.sqlite"), spec.log.durability)) as log:
        for part in read_labels(source, Encoder(spec.schema), id=id, label=label, by=by):
            rejected = list(part.rejected)
            labels = part.labels
            if not spec.feedback.early:
                known = [log.find(f"prediction:{one.id}") is not None for one in labels]
                rejected += [_stray(one, by) for one, there in zip(labels, known, strict=True) if not there]
                labels = [one for one, there in zip(labels, known, strict=True) if there]
            end = log.end()
            positions = set(log.append(labels))
            told.accepted += sum(position > end for position in positions)
            told.known += len(labels) - sum(position > end for position in positions)
            told.refused += len(rejected)
            told.rejected += rejected[: _SHOWN - len(told.rejected)]
    return told


def _stray(label: Label, by: str) -> Rejected:
    return Rejected(by, 0, str(unknown(label.id)), msgspec.json.encode(label).decode())
