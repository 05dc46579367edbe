"""Alerts of a stream without labels: the rows that stand out, each scored before it is learned.

alerts(model, stream, rate=0.01) -> UnusualRows: how many, and the highest ones with the columns that stand out
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from everlearn import model as models
from everlearn.errors import InputError
from everlearn.evaluate.scoring import model_of
from everlearn.families.explain import contributions
from everlearn.model import Model
from everlearn.schema import Encoder
from everlearn.stream import Stream

_ROWS = 256  # scored at once; an explanation is by the model as it was before them
RANKED = 100  # rows that the family `anomaly` ranks before a rank is above 1/2
_FIELDS = 3  # fields that a line of the table names


@dataclass(frozen=True, slots=True, order=True)
class UnusualRow:
    """A row that stood out: its rank in (0, 1), its position in the stream from 1, and what stands out, highest first.

    `fields` maps fields to what they add to the log odds of the rank, those above 0 alone.
    """

    rank: float
    position: int
    features: dict[str, Any]
    fields: dict[str, float]


@dataclass(frozen=True, slots=True)
class UnusualRows:
    """The alerts of a stream: the number of rows scored, of alerts among them, and the highest ones in stream order."""

    rows: int
    count: int
    highest: tuple[UnusualRow, ...]

    def table(self, most: int = 20) -> str:
        """Return a summary, and a line for each of the highest `most` alerts."""
        share = self.count / self.rows if self.rows else 0.0
        rows, alerts = _counted(self.rows, "row"), _counted(self.count, "alert")
        lines = [f"{rows} scored, {alerts} ({share:.2%})"]
        shown = heapq.nlargest(most, self.highest)
        for alert in sorted(shown, key=lambda one: one.position):
            named = [_named(name, alert.features.get(name)) for name in list(alert.fields)[:_FIELDS]]
            lines.append(f"  row {alert.position:,}: rank {alert.rank:.4f}; {', '.join(named) or 'no field alone'}")
        if len(shown) < self.count:
            lines.append(f"  ... and {self.count - len(shown):,} of lower rank")
        if self.rows <= RANKED:
            lines.append(f"  no row ranks above 1/2 before {RANKED} rows were scored")
        return "\n".join(lines)


def alerts(model: Model | Mapping[str, Any] | str, stream: Stream, rate: float = 0.01, most: int = 100) -> UnusualRows:
    """Score each row of a stream before it is learned, and return the rows that rank above 1 - `rate`.

    `model` is a model, a spec, or the name of a family. The `most` highest are kept, each explained by the model as it
    was at most 256 rows before. The model learns the stream. Raises `ConfigError` for a model of another task than
    "binary", and `InputError` for a rate outside (0, 1).

    >>> from everlearn.stream import read
    >>> heat = [20.0 + i % 7 for i in range(600)]
    >>> heat[450] = 95.0
    >>> stream = read({"heat": heat, "load": [i * i % 11 for i in range(600)]}, task="anomaly")
    >>> found = alerts(models.build({"family": "anomaly"}), stream)
    >>> best = max(found.highest)
    >>> best.position, list(best.fields)[0]
    (451, 'heat')
    """
    if not 0.0 < rate < 1.0:
        raise InputError(f"rate: got {rate}; expected a share of rows between 0 and 1, such as 0.01")
    encoder = Encoder(stream.schema)
    model = model_of(model, encoder.shape)
    before = models.copy(model)
    kept: list[UnusualRow] = []
    rows = count = 0
    for chunk in stream.records(size=_ROWS):
        if not chunk.features:
            continue
        before.arrays = models.copied(model.arrays)
        batch = encoder.rows(chunk.features)
        y = np.array([encoder.label(label) for label in chunk.labels])
        scores = model.learn(batch, y, np.ones(len(y), np.float32))[:, 1]
        rows += len(y)
        for row in np.flatnonzero(scores > 1.0 - rate).tolist():
            count += 1
            if len(kept) < most or scores[row] > kept[0].rank:
                alert = _explained(before, encoder, chunk.features[row], float(scores[row]), chunk.positions[row])
                (heapq.heappush if len(kept) < most else heapq.heapreplace)(kept, alert)
    return UnusualRows(rows, count, tuple(sorted(kept, key=lambda one: one.position)))


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _named(field: str, value: Any) -> str:
    missing = value is None or value == "" or value != value
    return f"{field} is missing" if missing else f"{field} = {value}"


def _explained(model: Model, encoder: Encoder, record: dict[str, Any], rank: float, position: int) -> UnusualRow:
    """Return an alert with the fields that stand out."""
    found = contributions(model, encoder, record)
    parts = {name: float(found[name]) for name in encoder.schema.fields}  # type: ignore[arg-type]
    return UnusualRow(rank, position, record, dict(sorted((one for one in parts.items() if one[1] > 0), key=_part)))


def _part(item: tuple[str, float]) -> float:
    return -item[1]
