"""Card fraud: one payment in eighty is fraud, and the bank hears of it days later, or never.

    python examples/fraud.py

A payment that nobody complained about within five days counts as fine; complaints that come later still teach the
model, with weights that undo the bias of the default. Half-way the fraudsters change their ways. The clock is
simulated, so that sixty days pass in seconds; everything else is what a bank would run.

It prints, for each way to treat late labels, the share of fraud among the hundredth of payments that a team would look
at, and how honest the probabilities are, beside a model that was trained on the first ten days and then frozen.
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
    told: float  # when the complaint comes


def payments(number: int, seed: int) -> Iterator[Payment]:
    """A simulated bank, whose truth we know: the odds of fraud are a logistic function that changes on day 35."""
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
    """The time that the loop is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def play(stream: list[Payment], feedback: dict[str, Any], home: Path) -> list[tuple[float, bool]]:
    """Take payments and complaints through a loop in the order of time; return (score, fraud) of each payment."""
    clock = Clock()
    spec = {
        "schema": SCHEMA,
        "mode": "live",
        "warm_start": sum(one.at < OFFLINE * DAY for one in stream),
        "feedback": {"window": 5 * DAY, "default": "fine", **feedback},
    }
    scores: list[tuple[float, bool]] = []
    complaints: list[tuple[float, str]] = []
    with el.open(spec, home=home, clock=clock) as loop:
        for one in stream:
            if one.at < OFFLINE * DAY:  # history: its labels are known
                loop.learn(one.features, "fraud" if one.fraud else "fine", id=one.id)
                continue
            while complaints and complaints[0][0] <= one.at:
                clock.now, id = heapq.heappop(complaints)
                loop.feedback(id, label="fraud", source="chargeback")
            clock.now = one.at
            answer = loop.predict(one.features, id=one.id)
            scores.append((answer.proba[1], one.fraud))
            if one.fraud:
                heapq.heappush(complaints, (one.told, one.id))
    return scores


def frozen(stream: list[Payment]) -> list[tuple[float, bool]]:
    """What is shipped today: the same model, trained on the history and never again."""
    history = [one for one in stream if one.at < OFFLINE * DAY]
    rows = [one.features | {"kind": "fraud" if one.fraud else "fine"} for one in history]
    table = {name: [row[name] for row in rows] for name in rows[0]}
    data = el.read(table, schema=el.config.convert({"schema": SCHEMA}).schema)
    model = el.build({"family": "linear"})
    el.prequential(model, data)
    encoder = el.schema.Encoder(data.schema)
    later = [one for one in stream if one.at >= OFFLINE * DAY]
    return [(float(model.predict(encoder.record(one.features))[0, 1]), one.fraud) for one in later]


def caught(scores: list[tuple[float, bool]]) -> float:
    """The share of all fraud among the hundredth of payments with the highest scores."""
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
    fraud = sum(one.fraud for one in stream)
    print(f"{len(stream):,} payments, {fraud:,} of them fraud; complaints come after 7 days on average\n")
    print(f"{'':50}  fraud caught in the top 1%   expected / true fraud")
    for name, scores in results.items():
        honest = sum(score for score, _ in scores) / max(1, sum(fraud for _, fraud in scores))
        print(f"{name:50}  {caught(scores):26.1%}   {honest:21.2f}")


if __name__ == "__main__":
    main()
