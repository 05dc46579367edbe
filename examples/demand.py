"""Demand of a shop: the number that is enough on nine days of ten, which is a quantile, not a mean.

    python examples/demand.py

Demand is generated with noise whose spread depends on the weekday, so the true quantile is known. The model of the
quantile should cover 90 % of the days; the one of the mean covers about half of them.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np

import everlearn as el

SCHEMA = {
    "label": "sold",
    "task": "regression",
    "fields": {"day": "categorical", "price": "numeric", "promotion": "boolean"},
}
Z90 = 1.2816  # the 0.9 quantile of the normal distribution


def days(rows: int) -> tuple[dict[str, Any], np.ndarray]:
    """Return a table of days, and the true 0.9 quantile of each."""
    draw = np.random.default_rng(5)
    day, price, promotion = np.arange(rows) % 7, draw.uniform(1.0, 3.0, rows), draw.random(rows) < 0.2
    mean = 100.0 + 30.0 * (day >= 5) - 20.0 * price + 25.0 * promotion
    spread = 5.0 + 10.0 * (day >= 5)
    sold = mean + spread * draw.normal(size=rows)
    names = np.array(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])[day]
    return {"day": names, "price": price, "promotion": promotion, "sold": sold}, mean + Z90 * spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8000)
    arguments = parser.parse_args()
    table, truth = days(arguments.rows)
    data = el.read(table, schema=el.config.convert({"schema": SCHEMA}).schema)
    later = slice(arguments.rows // 2, None)
    print("days on which the answer was enough, and its distance from the true quantile, in the second half")
    for name, model in (
        ("quantile 0.9", {"family": "linear", "loss": "quantile", "loss_parameter": 0.9}),
        ("mean", {"family": "linear"}),
    ):
        with tempfile.TemporaryDirectory() as folder, el.open({"schema": SCHEMA, "model": model}, home=folder) as loop:
            loop.run(data, delay=0)  # as predictions, so that the log has the answers
            given = np.array([event.payload.value for event in loop.log.read(0, 10**9, kinds=("prediction",))])
        enough = np.mean(given[later] >= table["sold"][later])
        print(f"{name:14}{enough:7.3f}{np.mean(np.abs(given[later] - truth[later])):8.2f}")


if __name__ == "__main__":
    main()
