"""Ways against forgetting on short streams: how many rows an average of weights needs before it helps.

    python bench/continual_short.py            # four lengths, three seeds, some minutes

Class-incremental streams that are generated: ten classes, two at a time, each seen once. A class is three Gaussian
clusters in 20 columns. 200 rows are remembered. The tables show the accuracy on all classes at the end and the accuracy
on the rows that come next, means of three seeds; a star marks what is below plain replay by more than half a point.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import everlearn as el
from everlearn.evaluate import continual

LENGTHS = (250, 500, 1500, 5000)  # rows of the whole stream
ACE = [{"kind": "replay", "loss": "asymmetric"}]
WAYS: dict[str, dict[str, Any]] = {
    "plain replay": {"ema": 0.0, "new_classes": "plain"},
    "recent, no average": {"ema": 0.0, "new_classes": "recent"},
    "overall, no average": {"ema": 0.0, "new_classes": "overall"},
    "recent, ema .9": {"ema": 0.9, "new_classes": "recent"},
    "recent, ema .998": {"ema": 0.998, "new_classes": "recent"},
    "recent, ER-ACE, no average": {"ema": 0.0, "new_classes": "recent", "terms": ACE},
    "recent, ER-ACE, ema .998": {"ema": 0.998, "new_classes": "recent", "terms": ACE},
    "final, ema .998": {"ema": 0.998, "new_classes": "final"},
}


def stream(rows: int, seed: int) -> continual.TaskStream:
    draw = np.random.default_rng(seed)
    centres = draw.normal(0, 1.0, (10, 3, 20))

    def drawn(n: int) -> tuple[Any, Any]:
        y = np.arange(n) % 10
        x = centres[y, draw.integers(0, 3, n)] + draw.normal(0, 0.7, (n, 20))
        return x.astype(np.float32), y

    return continual.split(drawn(rows), drawn(1000), per_task=2, seed=seed)


def run(way: dict[str, Any], rows: int, seed: int, optimizer: dict[str, Any]) -> tuple[float, float]:
    tasks = stream(rows, seed)
    spec = {
        "family": "neural",
        "arguments": {"hidden": [64]},
        "optimizer": optimizer,
        "normalize": False,
        "memory": {"kind": "balanced", "rows": 200},
        "terms": [{"kind": "replay"}],
        "one_at_a_time": False,
        "seed": seed,
    }
    measured = continual.evaluate(el.build({**spec, **way}, tasks.shape), tasks).metrics
    return measured["test_accuracy"], measured["online_accuracy"]


def main() -> None:
    for optimizer in ({"name": "adam", "lr": 0.001}, {"name": "sgd", "lr": 0.1}):
        print(f"\n{optimizer}\n{'at the end | that come next, %':<30}" + "".join(f"{n:>16,}" for n in LENGTHS))
        plain: dict[int, Any] = {}
        for name, way in WAYS.items():
            cells = []
            for rows in LENGTHS:
                found = 100 * np.mean([run(way, rows, seed, optimizer) for seed in range(3)], axis=0)
                least = plain.setdefault(rows, found) - 0.5
                marks = ["*" if value < bound else " " for value, bound in zip(found, least, strict=True)]
                cells.append(f"{found[0]:>7.1f}{marks[0]}{found[1]:>7.1f}{marks[1]}")
            print(f"{name:<30}{''.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
