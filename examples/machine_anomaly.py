"""A machine without labels: a loop scores each reading before it learns it, alerts on one in a hundred, and says why.

    python examples/machine_anomaly.py

The readings drift slowly. Faults are known here, so that the alerts can be judged: how many of the faults are among
them, and which column stood out. A few labels come later, as people look at alerts.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np

import everlearn as el

SPEC: dict[str, Any] = {
    "schema": {
        "label": "state",
        "task": "binary",
        "classes": ["normal", "fault"],
        "unlabelled": "normal",
        "fields": {"heat": "numeric", "load": "numeric", "mode": "categorical"},
    },
    "model": {"family": "anomaly"},
    "decision": {"rate": 0.01},
    "gate": {"tolerance": 1.0},
    "drift": {"watch": "proba", "reaction": "note"},
    "feedback": {"window": 1e-6, "default": "normal", "correction": "ignore"},  # learn at once, whatever comes later
}


def readings(rows: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the readings of a machine, and which of them are faults: one in 200 runs hot."""
    draw = np.random.default_rng(3)
    fault = draw.random(rows) < 0.005
    load = 10.0 + 2.0 * draw.normal(size=rows)
    heat = 40.0 + np.linspace(0.0, 10.0, rows) + 2.0 * load + draw.normal(size=rows) + 25.0 * fault
    mode = draw.choice(["idle", "run"], rows, p=[0.3, 0.7])
    return [
        {"heat": float(h), "load": float(w), "mode": str(m)} for h, w, m in zip(heat, load, mode, strict=True)
    ], fault


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000)
    arguments = parser.parse_args()
    records, fault = readings(arguments.rows)
    with tempfile.TemporaryDirectory() as folder, el.open(SPEC, home=folder) as loop:
        alerts, why = [], {}
        for row, record in enumerate(records):
            answer = loop.predict(record)
            if answer.value != "fault":
                continue
            alerts.append(row)
            parts = el.explain(loop, record)
            why[row] = max((name for name in record), key=lambda name: float(parts[name]))
            loop.feedback(answer.id, label="fault" if fault[row] else "normal")  # somebody has looked
        late = [row for row in alerts if row >= 500]
        found = [row for row in late if fault[row]]
        print(f"alerts among {arguments.rows - 500:,} readings: {len(late)} ({len(late) / (arguments.rows - 500):.2%})")
        print(f"faults found: {len(found)} of {int(fault[500:].sum())}")
        print(f"stood out in these: {', '.join(sorted({why[row] for row in found})) or 'nothing'}")


if __name__ == "__main__":
    main()
