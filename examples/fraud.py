"""Card fraud: one payment in eighty is fraud, and the bank learns of it days later, or never.

    python examples/fraud.py

A payment without a complaint within five days counts as fine. Later complaints still train the model, with weights that
undo the bias of the default. Half-way the pattern of fraud changes. The clock is simulated, so that sixty days pass in
seconds; everything else is what a bank would run.

For each way to treat late labels it prints the share of fraud among the 1% of payments with the highest scores, and the
calibration of the probabilities, beside a model that was trained on the first ten days and then frozen.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import everlearn as el

DAY = 86_400.0
DAYS = 60
OFFLINE = 10  # days of history, fully labelled, that every model starts from
SCHEMA = {
    "label": "kind",
    "task": "binary",
    "classes": ["fine", "fraud"],
    "fields": {
        "amount": "numeric",
        "hour": "numeric",
        "age_days": "numeric",
        "new_device": "boolean",
        "country": "categorical",
        "shop": "categorical",
    },
}
WAYS: dict[str, dict[str, Any]] = {
    "wait 5 days, then fine; late complaints ignored": {"correction": "ignore"},
    "wait 5 days, then fine; late complaints learned": {"correction": "learn"},
    "the same, with importance weights": {"correction": "importance"},
}


@dataclass(frozen=True)
class Payment:
    at: float
    id: str
    features: dict[str, Any]
    fraud: bool
    reported: float  # time of the complaint


def payments(number: int, seed: int) -> Iterator[Payment]:
    """Simulate a bank whose truth is known: the odds of fraud are a logistic function that changes on day 35."""
    draw = random.Random(seed)
    for row in range(number):
        at = row * DAYS * DAY / number
        features = {
            "amount": round(math.exp(draw.gauss(3.5, 1.0)), 2),
            "hour": (at / 3600.0) % 24,
            "age_days": round(draw.expovariate(1 / 400)),
            "new_device": draw.random() < 0.15,
            "country": draw.choice(["NL", "NL", "BE", "DE", "FR", "XX"]),
            "shop": draw.choice(["food", "food", "travel", "games", "gifts"]),
        }
        odds = -8.0 + 2.5 * features["new_device"] + 2.0 * (features["country"] == "XX")
        odds += 0.004 * features["amount"] - 0.001 * features["age_days"]
        odds += 3.5 * (features["shop"] == ("games" if at < 35 * DAY else "gifts"))
        fraud = draw.random() < 1 / (1 + math.exp(-odds))
        yield Payment(at, f"payment-{row}", features, fraud, at + draw.expovariate(1 / (7 * DAY)))


class Clock:
    """The simulated time, which the loop reads."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def play(stream: list[Payment], feedback: dict[str, Any], home: Path) -> list[tuple[float, bool]]:
    """Pass payments and complaints through a loop in order of time; return (score, fraud) of each payment."""
    clock = Clock()
    spec = {
        "schema": SCHEMA,
        "mode": "live",
        "warm_start": sum(payment.at < OFFLINE * DAY for payment in stream),
        "feedback": {"window": 5 * DAY, "default": "fine", **feedback},
    }
    scores: list[tuple[float, bool]] = []
    complaints: list[tuple[float, str]] = []
    with el.open(spec, home=home, clock=clock) as loop:
        for payment in stream:
            if payment.at < OFFLINE * DAY:  # history: its labels are known
                loop.learn(payment.features, "fraud" if payment.fraud else "fine", id=payment.id)
                continue
            while complaints and complaints[0][0] <= payment.at:
                clock.now, id = heapq.heappop(complaints)
                loop.feedback(id, label="fraud", source="chargeback")
            clock.now = payment.at
            answer = loop.predict(payment.features, id=payment.id)
            scores.append((answer.proba[1], payment.fraud))
            if payment.fraud:
                heapq.heappush(complaints, (payment.reported, payment.id))
    return scores


def frozen(stream: list[Payment]) -> list[tuple[float, bool]]:
    """Score with a model that is trained on the history and never again, as is common today."""
    history = [payment for payment in stream if payment.at < OFFLINE * DAY]
    rows = [payment.features | {"kind": "fraud" if payment.fraud else "fine"} for payment in history]
    table = {name: [row[name] for row in rows] for name in rows[0]}
    data = el.read(table, schema=el.config.convert({"schema": SCHEMA}).schema)
    model = el.build({"family": "linear"})
    el.prequential(model, data)
    encoder = el.schema.Encoder(data.schema)
    later = [payment for payment in stream if payment.at >= OFFLINE * DAY]
    return [(float(model.predict(encoder.record(payment.features))[0, 1]), payment.fraud) for payment in later]


def caught(scores: list[tuple[float, bool]]) -> float:
    """Return the share of all fraud among the 1% of payments with the highest scores."""
    top = sorted(scores, reverse=True)[: max(1, len(scores) // 100)]
    return sum(fraud for _, fraud in top) / max(1, sum(fraud for _, fraud in scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    stream = list(payments(arguments.rows, arguments.seed))
    results = {"frozen after 10 days": frozen(stream)}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, feedback) in enumerate(WAYS.items()):
            results[name] = play(stream, feedback, Path(folder) / f"{number}.home")
    fraud = sum(payment.fraud for payment in stream)
    print(f"{len(stream):,} payments, {fraud:,} of them fraud; complaints come after 7 days on average\n")
    print(f"{'':50}  fraud caught in the top 1%   expected / true fraud")
    for name, scores in results.items():
        calibration = sum(score for score, _ in scores) / max(1, sum(fraud for _, fraud in scores))
        print(f"{name:50}  {caught(scores):26.1%}   {calibration:21.2f}")


if __name__ == "__main__":
    main()
