"""Ten digits, two at a time: how much of the first ones four methods still know when the last have come.

    python examples/continual.py

A small network meets the digits 0 and 1, then 2 and 3, and so on, each image once (8 x 8 pixels, from scikit-learn if
it is installed; otherwise blobs of noise). Four methods are compared on the same streams:

    naive         learn only the new rows
    replay        learn a few stored images beside each new one
    replay + EMA  the same; an average of the weights predicts
    EWC           keep important weights near their values, without storing images

It prints a table of means over seeds and writes a picture: accuracy on the digits seen so far, and the accuracy matrix
of each method. Needs PyTorch: pip install "everlearn[torch]".
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from rich.console import Console

import everlearn as el
from everlearn.evaluate import continual

NETWORK: dict[str, Any] = {
    "family": "neural",
    "arguments": {"hidden": [100]},
    "scale": 1 / 16,
    "optimizer": {"name": "sgd", "lr": 0.3},
    "batch": 10,
    "one_at_a_time": False,  # predict test rows in batches: equal up to rounding, and much faster
}
NONE = {"kind": "none"}
MEMORY = {"kind": "balanced", "rows": 100}
METHODS: dict[str, dict[str, Any]] = {
    "naive": {"ema": 0.0, "memory": NONE},
    "replay": {"ema": 0.0, "memory": MEMORY, "terms": [{"kind": "replay"}]},
    "replay + EMA": {"ema": 0.95, "memory": MEMORY, "terms": [{"kind": "replay"}]},
    "EWC": {"ema": 0.0, "memory": NONE, "terms": [{"kind": "ewc", "strength": 100.0}], "consolidate": {"every": 250}},
}


def digits(rows: int) -> tuple[continual.Data, continual.Data]:
    """Return images (n, 8, 8) and their digits, for training and for tests."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        random = np.random.default_rng(0)
        y = random.integers(10, size=1797)
        x = random.uniform(0, 16, size=(10, 8, 8))[y] + random.normal(0, 4, size=(1797, 8, 8))
    else:
        x, y = load_digits(return_X_y=True)
        x = x.reshape(-1, 8, 8)
    x = x.astype(np.float32)
    return (x[:rows], y[:rows]), (x[1400:], y[1400:])


def method(settings: dict[str, Any]) -> continual.Build:
    """Return a function that builds a method's model for a stream and a seed."""
    return lambda stream, seed: el.build({**NETWORK, **settings, "seed": seed}, stream.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1400, help="images to learn, up to 1,400")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", default="continual.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # more threads slow down a network this small
    train, test = digits(min(arguments.rows, 1400))
    result = continual.compare(
        {name: method(settings) for name, settings in METHODS.items()},
        lambda seed: continual.split(train, test, per_task=2, seed=seed),
        seeds=range(arguments.seeds),
        every=100,
    )
    Console(width=120).print(result)
    result.plot(arguments.picture)
    print(f"\nthe picture is in {arguments.picture}")


if __name__ == "__main__":
    main()
