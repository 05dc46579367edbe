"""Traffic of many persons, one of whom is erased, and the oracle that learns everybody else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from everlearn.loop.loop import Loop
from everlearn.model import Model
from everlearn.records import Event, Example, Label, Payload, Prediction, Rejected
from everlearn.spec import DriftSpec, GateSpec, Spec
from tests.support.loops import FIELDS, spec, table

PERSON = "zoe-quux-4711"
OTHER = "zoe-quux-47"  # not the same person
ROWS = 700
SINCE = 330  # the row from which the person is there


def settings(**changes: Any) -> Spec:
    """A loop whose live champion is promoted now and then, and that does nothing but learn between."""
    plain = {"mode": "live", "subject": "user", "drift": DriftSpec(detector="none"), "gate": GateSpec(minimum=100)}
    return spec(**(plain | changes))


def about(row: int, since: int = SINCE) -> str:
    return PERSON if row >= since and row % 7 == 0 else OTHER if row % 11 == 0 else f"user-{row % 50}"


def traffic(rows: int = ROWS, since: int = SINCE) -> list[Payload]:
    """Return predictions whose labels come ten rows later, corrections, some examples, and a row set aside.

    The person is in every seventh row from row `since` on.
    """
    columns = table(rows)
    events: list[Payload] = []
    for row in range(rows + 10):
        if row < rows:
            features = {name: columns[name][row] for name in FIELDS}
            id = f"{about(row, since)}/{row}"
            if row % 9 == 5:
                events.append(Example(id, features, int(columns["label"][row]), subject=about(row, since)))
            else:
                events.append(Prediction(id, features, 0, (0.5, 0.5), "v", subject=about(row, since)))
        judged = row - 10
        if judged >= 0 and judged % 9 != 5 and judged % 13 != 12:
            label = int(columns["label"][judged])
            events.append(Label(f"{about(judged, since)}/{judged}", label))
            if judged % 17 == 0:
                events.append(Label(f"{about(judged, since)}/{judged}", 1 - label))
    events.append(Rejected("rows", 3, f"line 3: 'age' is bad for {PERSON}", f"x,{PERSON},3"))
    events.append(Rejected("rows", 4, "line 4 is too short", f"x,{OTHER}"))
    return events


def filled(home: Path, chosen: Spec, events: Sequence[Payload | None], pieces: int = 5) -> None:
    """Fold these events in a loop, one a second, closed and opened in between; None is a second without an event."""
    size = len(events) // pieces + 1
    for start in range(0, len(events), size):
        with Loop(chosen, home) as loop:
            for moment, payload in enumerate(events[start : start + size], start):
                if payload is not None:
                    loop.log.append([payload], time=1e6 + moment)
                if moment % 3 == 0:
                    loop.catch_up()
            while loop.catch_up():
                pass


def learn_all(
    one: Model, loop: Loop, events: list[Event], after: int, upto: int, erased: tuple[str, ...] = (PERSON,)
) -> Model:
    """Let a model learn the rows of everybody else, one by one in the order of their labels: the oracle."""
    predictions = {e.payload.id: e.payload for e in events if isinstance(e.payload, Prediction)}
    for event in events:
        payload = event.payload
        if not after < event.position <= upto or not isinstance(payload, Label | Example):
            continue
        if payload.id.partition("/")[0] in erased:
            continue
        label = payload.value if isinstance(payload, Label) else payload.label
        row = payload if isinstance(payload, Example) else predictions[payload.id]
        y = np.array([loop.fold.encoder.label(label)])
        one.learn(loop.fold.encoder.record(row.features), y, np.ones(1, np.float32))
    return one
