"""Forecast demand a day ahead in a loop: ask for a time to come, and say later what it was.

    python examples/demand_forecast.py

Every hour the loop is asked for the demand 24 hours later, with the interval that should hold it nine times in ten.
The true demand comes when that hour is over. The errors are compared with those of the demand a day before.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np

import everlearn as el

AHEAD = 24
SPEC: dict[str, Any] = {
    "schema": {"label": "demand", "task": "regression", "fields": {"at": "datetime"}},
    "model": {"family": "forecast"},
}


def demand(hours: int) -> tuple[list[str], np.ndarray]:
    """Return hours and their demand: a wave a day, quiet weekends, slow growth, and noise that remembers."""
    draw, hour = np.random.default_rng(7), np.arange(hours)
    at = np.datetime64("2026-01-05T00:00") + hour * np.timedelta64(60, "m")
    noise = np.zeros(hours)
    for t in range(1, hours):
        noise[t] = 0.8 * noise[t - 1] + draw.normal()
    weekend = (hour // 24) % 7 >= 5
    level = 100.0 + 0.005 * hour + 20.0 * np.sin((hour % 24 - 7) * 2 * np.pi / 24) - 25.0 * weekend
    return [str(moment) for moment in at], level + 2.0 * noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24 * 7 * 8)
    arguments = parser.parse_args()
    at, truth = demand(arguments.hours)
    errors, naive, inside = [], [], []
    with tempfile.TemporaryDirectory() as folder, el.open(SPEC, home=folder) as loop:
        waiting: dict[int, Any] = {}
        for hour in range(arguments.hours):
            if hour + AHEAD < arguments.hours:
                answer = loop.predict({"at": at[hour + AHEAD]})
                _, low, high, _ = np.frombuffer(answer.trace, "<f4")  # forecast, interval, horizon
                waiting[hour + AHEAD] = answer, low, high
            if hour not in waiting:
                loop.learn({"at": at[hour]}, label=float(truth[hour]))
                continue
            answer, low, high = waiting.pop(hour)
            loop.feedback(answer.id, label=float(truth[hour]))
            if hour >= arguments.hours // 2:
                errors.append(abs(answer.value - truth[hour]))
                naive.append(abs(truth[hour - AHEAD] - truth[hour]))
                inside.append(low <= truth[hour] <= high)
    print(f"mean error a day ahead, second half: {np.mean(errors):.2f}")
    print(f"demand of the day before instead:    {np.mean(naive):.2f}")
    print(f"within the interval of 90 %:         {np.mean(inside):.3f}")


if __name__ == "__main__":
    main()
