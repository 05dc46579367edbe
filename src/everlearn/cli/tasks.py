"""Settings of loops for tasks that are more than classes or numbers: anomalies and forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs

from everlearn.cli.console import screen
from everlearn.errors import ConfigError
from everlearn.schema import moments
from everlearn.schema.layout import HASHED
from everlearn.spec import DecisionSpec, DriftSpec, FeedbackSpec, GateSpec, Schema, Spec

if TYPE_CHECKING:
    from everlearn.stream import Stream

ALERTS = 0.01  # the share of rows that are alerts
SERIES = 64  # kept by the family `forecast`, by default
WAIT = 60.0  # seconds after which a row without a label is learned as a normal one


def chosen(spec: Spec, task: str) -> Spec:
    """Return the settings for a task, "anomaly" or "forecast", over those that `everlearn init` found for the rows.

    Anomalies: one row in a hundred is an alert. Every row is learned, labelled or not. Losses on assumed labels mean
    nothing, so that they roll nothing back, and drift of the scores is only noted.
    Raises `ConfigError` for a forecast of rows without a time.
    """
    if task == "anomaly":
        normal = spec.schema.classes[0]
        return structs.replace(
            spec,
            model={"family": "anomaly"},
            warm_start=0.0,
            decision=DecisionSpec(rate=ALERTS),
            feedback=FeedbackSpec(window=WAIT, default=normal, correction="ignore"),
            gate=GateSpec(tolerance=1.0),
            drift=DriftSpec(watch="proba", reaction="note"),
        )
    if moments.clock(spec.schema) is None:
        raise ConfigError(
            f"init: --task forecast: got the columns {', '.join(spec.schema.fields)}, none of which is a time; "
            "expected a column of dates or times. Write the time of each row as 2026-01-31T08:30, a month as 2026-01-01"
        )
    return structs.replace(spec, model={"family": "forecast"}, warm_start=0.0, schema=_keyed(spec.schema))


def _keyed(schema: Schema) -> Schema:
    """Return a schema whose integers are categories: hashed fields name a series, and numbers are not used."""
    names = {name for name, kind in schema.fields.items() if kind == "integer"}
    fields = {name: "categorical" if name in names else kind for name, kind in schema.fields.items()}
    origin = {name: value for name, value in schema.origin.items() if name not in names}
    return structs.replace(schema, fields=fields, origin=origin)


def show_alerts(spec: Spec, rows: Stream, result: dict[str, Any]) -> None:
    """Print how many rows were scored, and the alerts of a file that can be read again, with what stands out in them.

    The alerts are those of the loop's model as it learned the file from its first row.
    """
    from everlearn import model
    from everlearn.evaluate.anomalies import alerts

    if not rows.replayable:
        screen.print(f"{result['examples']:,} rows scored; without labels there are no metrics", highlight=False)
        return
    found = alerts(model.build({**spec.model, "seed": spec.seed}), rows, rate=spec.decision.rate or ALERTS)
    screen.print(found.table(), highlight=False, markup=False)


def of_ranks(measured: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the metrics that mean something for ranks: of their order and of alerts, and without baselines."""
    kept = ("roc_auc", "pr_auc", "recall_at", "precision_at", "alert_", "decision_", "decided_", "examples")
    return {
        role: {name: value for name, value in metrics.items() if name.startswith(kept)}
        for role, metrics in measured.items()
        if any(name.startswith("roc_auc") for name in metrics)
    }


def series(rows: Stream) -> list[str]:
    """Return what a forecaster should know about the series of a file: its keys, its order, and columns without use."""
    fields, column = rows.schema.fields, moments.clock(rows.schema)
    if column is None:
        return []
    newest: dict[bytes, int] = {}
    count = back = same = 0
    for chunk in rows.chunks():
        batch = chunk.examples.batch
        times = moments.minutes(batch.dense, column).tolist()
        for row, at in enumerate(times):
            if at == moments.UNKNOWN:
                continue
            key = np.sort(batch.indices[batch.indptr[row] : batch.indptr[row + 1]]).tobytes()
            before = newest.get(key, moments.UNKNOWN)
            newest[key] = max(at, before)
            count, back, same = count + 1, back + (at < before), same + (at == before)
    time = next(name for name, kind in fields.items() if kind == "datetime")
    keys = [name for name, kind in fields.items() if kind in HASHED]
    unused = [name for name, kind in fields.items() if kind not in HASHED and name != time]
    notes = [f"{len(newest):,} series, one for each value of {', '.join(keys)}"] if keys else []
    if len(newest) > SERIES:
        notes.append(f"only {SERIES} series are kept; set series = {len(newest)} in [model]")
    if back:
        notes.append(
            f"{back:,} of {count:,} rows are older than a row of their series above them, and forecasts go by time; "
            f"sort the file by {time}"
        )
    if same:
        notes.append(
            f"{same:,} of {count:,} rows have the time of a row of their series above them, to the minute; if they are "
            "of several shops or stations, add a column with the name of each"
        )
    if unused:
        notes.append(f"forecasts do not use {', '.join(unused)}")
    return notes
