"""A loop that decides nothing by itself, traffic for it, and orders put into its log."""

from __future__ import annotations

from typing import Any

from everlearn.loop import commands
from everlearn.loop.loop import Loop
from everlearn.model import Model
from everlearn.records import Decision
from everlearn.spec import DriftSpec, GateSpec, Spec
from tests.support.loops import record, spec

MEAN = {"family": "tests.support.models:Mean"}
LINEAR = {"family": "linear"}


def serve(loop: Loop, columns: dict[str, Any], start: int, stop: int, delay: int = 10, flip: int = 0) -> None:
    """A client that predicts, and sends labels later; every `flip`th label is wrong, and from a source "bad"."""
    for row in range(start, stop + delay):
        if row < stop:
            loop.predict(record(columns, row), id=str(row))
        if row - delay >= start:
            judged = row - delay
            wrong = bool(flip) and judged % flip == 0
            label = int(columns["label"][judged])
            loop.feedback(str(judged), label=1 - label if wrong else label, source="bad" if wrong else "good")


def state(loop: Loop) -> dict[str, Any]:
    arrays, header = loop.fold.state()
    return {"header": header} | {name: array.tobytes() for name, array in arrays.items()}


def families(loop: Loop) -> dict[str, str]:
    roster = loop.fold.roster
    return {roster.role_of(one): str(one.model.spec["family"]) for one in roster.contestants}


def ordered(loop: Loop, order: Decision) -> Decision:
    """Put an order into the log, as another process would, and fold it; what came of it."""
    (position,) = loop.log.append([order])
    while loop.catch_up():
        pass
    done = commands.outcome(loop.log, order, position)
    assert done is not None
    return done


def quiet(**changes: Any) -> Spec:
    """A loop that decides nothing by itself, and in `gated` mode serves what is frozen."""
    return spec(gate=GateSpec(minimum=1_000_000, promote="snapshot"), drift=DriftSpec(detector="none"), **changes)


def arrays_of(model: Model) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in model.arrays.items()}
