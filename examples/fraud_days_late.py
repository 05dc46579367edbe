"""Fraud with labels that come days late, and with costs: a missed fraud costs 50, a payment that is held back costs 1.

    python examples/fraud_days_late.py

A file of payments is replayed as a bank would have met it: each payment is answered first, and its label comes at the
time in the column `known`. The true odds are known, so the cost of the decisions can be compared with the lowest one.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import tempfile
from pathlib import Path

import everlearn as el

COSTS = {"fine": {"fine": 0.0, "fraud": 1.0}, "fraud": {"fine": 50.0, "fraud": 0.0}}  # truth -> decision -> cost
DAY = 86_400


def write(path: Path, rows: int, seed: int) -> list[float]:
    """Write payments of thirty days; return the true probability of fraud of each."""
    draw, odds_of = random.Random(seed), []
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["at", "amount", "new_device", "country", "known", "kind"])
        for row in range(rows):
            at = 1_700_000_000 + row * 30 * DAY // rows
            amount, device = round(math.exp(draw.gauss(3.5, 1.0)), 2), draw.random() < 0.15
            country = draw.choice(["NL", "NL", "BE", "DE", "XX"])
            odds = 1 / (1 + math.exp(6.0 - 2.5 * device - 2.0 * (country == "XX") - 0.01 * min(amount, 300)))
            kind = "fraud" if draw.random() < odds else "fine"
            known = at + int(DAY * draw.uniform(1, 5))
            table.writerow([at, amount, str(device).lower(), country, known, kind])
            odds_of.append(odds)
    return odds_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "payments.csv"
        odds = write(path, arguments.rows, arguments.seed)
        spec = {
            "schema": {
                "label": "kind",
                "task": "binary",
                "classes": ["fine", "fraud"],
                "fields": {"amount": "numeric", "new_device": "boolean", "country": "categorical"},
            },
            "mode": "live",
            "decision": {"costs": COSTS},
        }
        with el.open(spec, home=Path(folder) / "home") as loop:
            loop.run(path, label_time="known", row_time="at")
            given = [event.payload.value for event in loop.log.read(0, 10**9, kinds=("prediction",))]
        kinds = [row["kind"] for row in csv.DictReader(path.open())]
    best = ["fraud" if 50 * one > 1 - one else "fine" for one in odds]
    ways = {"everlearn, labels 1 to 5 days late": given, "let all pass": ["fine"] * len(kinds), "the true odds": best}
    print(f"{len(kinds):,} payments, {kinds.count('fraud'):,} of them fraud")
    for name, answers in ways.items():
        cost = sum(COSTS[kind][answer] for kind, answer in zip(kinds, answers, strict=True)) / len(kinds)
        print(f"cost of a payment: {cost:.3f}  {name}")


if __name__ == "__main__":
    main()
