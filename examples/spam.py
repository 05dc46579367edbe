"""Spam: messages of words, whose spammers change their words half-way.

    python examples/spam.py

Messages are generated, so the best possible accuracy is known: it is that of a judge who knows how each word is used.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile

import everlearn as el

COMMON = [f"word{number}" for number in range(200)]
SPAM = [["prize", "winner", "free", "urgent"], ["crypto", "invoice", "parcel", "refund"]]  # before and after the change


def message(draw: random.Random, label: str, late: bool) -> str:
    """Return eight words; a word of a spam message is one of the spammers' with probability 0.25, else with 0.02."""
    share = 0.25 if label == "spam" else 0.02
    return " ".join(draw.choice(SPAM[late]) if draw.random() < share else draw.choice(COMMON) for _ in range(8))


def best(text: str, late: bool) -> str:
    """Return the more probable label of a message, from the true shares."""
    count = sum(word in SPAM[late] for word in text.split())
    return "spam" if count * math.log(0.25 / 0.02) + (8 - count) * math.log(0.75 / 0.98) > 0 else "ham"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8000)
    arguments = parser.parse_args()
    draw, rows = random.Random(1), arguments.rows
    labels = [draw.choice(["ham", "spam"]) for _ in range(rows)]
    texts = [message(draw, label, row >= rows // 2) for row, label in enumerate(labels)]
    data = el.read({"text": texts, "label": labels}, schema=el.config.convert({"schema": SCHEMA}).schema)
    with tempfile.TemporaryDirectory() as folder, el.open({"schema": SCHEMA}, home=f"{folder}/spam.home") as loop:
        accuracy = loop.run(data)["metrics"]["champion"]["accuracy"]
        answer = loop.predict({"text": "your parcel waits pay the invoice for a refund"})
        print(f"spam with probability {answer.proba[1]:.3f}: {answer.value}")
    right = [best(text, row >= rows // 2) == labels[row] for row, text in enumerate(texts)]
    ceiling = sum(right) / rows
    print(f"accuracy {accuracy:.3f}; of a judge who knows how each word is used {ceiling:.3f}")


SCHEMA = {"label": "label", "task": "binary", "classes": ["ham", "spam"], "fields": {"text": "text"}}


if __name__ == "__main__":
    main()
