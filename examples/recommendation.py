"""Recommendation: choose one of five articles for each reader, and learn from clicks that come late.

    python examples/recommendation.py

Readers are simulated, so the truth is known: each likes one topic, and an article that is new attracts everyone a
little. The served policy should earn more than the best constant article, and nearly as much as the best policy.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np

import everlearn as el

ARTICLES = ["election", "football", "concert", "recipe", "gadget"]
READERS = ["politics", "sport", "music", "food", "science"]
SPEC: dict[str, Any] = {
    "schema": {
        "label": "clicked",
        "task": "bandit",
        "fields": {"reader": "categorical", "evening": "boolean"},
        "actions": ARTICLES,
        "action_fields": {"fresh": "boolean"},
        "bits": 10,
    },
    "bandit": {"fallback": "election"},  # served if the model ever fails
}


def chances(reader: int, evening: bool, fresh: np.ndarray) -> np.ndarray:
    """Return the probability of a click on each article."""
    found = np.array([0.15, 0.1, 0.1, 0.1, 0.1]) + 0.08 * fresh
    found[reader] += 0.4 if evening else 0.25
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=4000)
    parser.add_argument("--delay", type=int, default=50, help="visits after which a click is known")
    arguments = parser.parse_args()
    draw = np.random.default_rng(7)
    truth: list[np.ndarray] = []
    served: list[str] = []
    with tempfile.TemporaryDirectory() as folder, el.open(SPEC, home=folder) as loop:
        for visit in range(arguments.visits + arguments.delay):
            if visit < arguments.visits:
                reader, evening = int(draw.integers(5)), bool(draw.random() < 0.5)
                fresh = draw.random(5) < 0.3
                offers = [{"name": name, "fresh": bool(new)} for name, new in zip(ARTICLES, fresh, strict=True)]
                record = {"reader": READERS[reader], "evening": evening}
                served.append(str(loop.predict(record, str(visit), actions=offers).value))
                truth.append(chances(reader, evening, fresh))
            if (before := visit - arguments.delay) >= 0:
                clicked = draw.random() < truth[before][ARTICLES.index(served[before])]
                loop.feedback(str(before), reward=float(clicked))
        found = loop.report()["bandit"]
    later = slice(arguments.visits // 2, None)
    table, chosen = np.array(truth)[later], [ARTICLES.index(name) for name in served[later]]
    print("clicks per visit in the second half, by the truth")
    print(f"served          {table[np.arange(len(chosen)), chosen].mean():.3f}")
    print(f"best constant   {table.mean(axis=0).max():.3f}")
    print(f"best policy     {table.max(axis=1).mean():.3f}")
    value = found["policies"]["champion"]
    print(f"by the log alone, the policy earns {value['low']:.3f} to {value['high']:.3f} over all visits")


if __name__ == "__main__":
    main()
