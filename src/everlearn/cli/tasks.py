"""Settings of loops for tasks that are more than classes or numbers: anomalies and forecasts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import structs

from everlearn.cli.console import screen
from everlearn.errors import ConfigError
from everlearn.schema import moments
from everlearn.spec import DecisionSpec, DriftSpec, FeedbackSpec, GateSpec, Spec

if TYPE_CHECKING:
    from everlearn.stream import Stream

ALERTS = 0.01  # the share of rows that are alerts
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
            "expected a column of dates or times. Write the time of each row as 2026-01-31T08:30"
        )
    return structs.replace(spec, model={"family": "forecast"}, warm_start=0.0)


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
