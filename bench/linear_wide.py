"""The default of the linear family on wide tables, and after a bad stretch: log loss, one pass, five seeds.

    python bench/linear_wide.py

Each table has 10,000 rows and five informative columns, with which the best possible log loss is .49 (the score is
normal, with a deviation of 1.777). Beside them stand 200 columns of noise ("noise"), or 200 columns made of ten hidden
ones ("factors"), or there are 50 copies of each informative column with a little noise instead ("copies"), or copies
and noise together ("both"). Columns have any scale and middle, in any order.

The second table breaks a stream for 1,000 of 10,000 rows, and shows the accuracy of the 5,000 rows after it. "keeps
all" is the default without `forget_bad_stretches`, as it was up to layout 3 of model specs. On the first table it gives
the same predictions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import everlearn as el
from everlearn import metrics
from everlearn.records import Batch

ROWS, INFORMATIVE, DEVIATION, SEEDS = 10_000, 5, 1.777, 5
KINDS = ("noise", "factors", "copies", "both")
WAYS: dict[str, dict[str, Any]] = {
    "adagrad": {"optimizer": "adagrad"},
    "quick": {"optimizer": "quick"},
    "keeps all": {"forget_bad_stretches": False},
    "default": {},
}
FAULTS = ("none", "units", "offset", "stuck")


def table(kind: str, seed: int) -> tuple[Any, Any, float]:
    """Return columns, labels, and the log loss of the true probabilities."""
    draw = np.random.default_rng([seed, 7])
    known = draw.normal(size=(ROWS, INFORMATIVE))
    signs = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    p = 1 / (1 + np.exp(-known @ signs * DEVIATION / math.sqrt(INFORMATIVE)))
    y = (draw.random(ROWS) < p).astype(float)
    parts = [known]
    if kind in ("copies", "both"):
        parts = [np.repeat(known, 50, axis=1) + 0.1 * draw.normal(size=(ROWS, 50 * INFORMATIVE))]
    if kind in ("noise", "both"):
        parts.append(draw.normal(size=(ROWS, 200)))
    if kind == "factors":
        hidden = draw.normal(size=(ROWS, 10)) @ draw.normal(size=(10, 200)) / math.sqrt(10)
        parts.append(hidden + 0.3 * draw.normal(size=(ROWS, 200)))
    x = np.concatenate(parts, axis=1)
    x = x * np.exp(draw.normal(size=x.shape[1])) + 3 * draw.normal(size=x.shape[1])
    return x[:, draw.permutation(x.shape[1])], y, float(-np.where(y > 0, np.log(p), np.log1p(-p)).mean())


def scores(x: Any, y: Any, way: dict[str, Any]) -> Any:
    shape = {"task": "binary", "dense": x.shape[1], "hashed": 0, "classes": 2}
    rows = Batch(x.astype(np.float32), np.zeros(len(y) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    model = el.build({"family": "linear", **way}, shape)
    return model.learn(rows, y, np.ones(len(y), np.float32))


def broken(x: Any, fault: str) -> Any:
    bad = x.copy()
    if fault == "units":
        bad[4000:5000] *= 1000.0
    elif fault == "offset":
        bad[4000:5000] += 1e5
    elif fault == "stuck":
        bad[4000:5000] = 99_999.0
    return bad


def main() -> None:
    print(f"{'log loss':<10}{'truth':>9}" + "".join(f"{way:>10}" for way in WAYS))
    for kind in KINDS:
        tables = [table(kind, seed) for seed in range(SEEDS)]
        cells = [
            [metrics.losses("log_loss", scores(x, y, way), y).mean() for x, y, _ in tables] for way in WAYS.values()
        ]
        truth = np.mean([truth for _, _, truth in tables])
        print(f"{kind:<10}{truth:>9.4f}" + "".join(f"{np.mean(cell):>10.4f}" for cell in cells), flush=True)
    print(f"\n{'accuracy':<10}{'':>9}" + "".join(f"{way:>10}" for way in WAYS))
    for fault in FAULTS:
        found = {way: [] for way in WAYS}
        for seed in range(SEEDS):
            draw = np.random.default_rng(seed)
            x = draw.normal(draw.normal(0, 5, 6), 1.0, (ROWS, 6))
            y = ((x - x.mean(0)) @ draw.normal(size=6) + 0.3 * draw.normal(size=ROWS) > 0).astype(float)
            for way, dials in WAYS.items():
                found[way].append((scores(broken(x, fault), y, dials).argmax(1) == y)[5000:].mean())
        print(f"{fault:<10}{'':>9}" + "".join(f"{np.mean(values):>10.4f}" for values in found.values()), flush=True)


if __name__ == "__main__":
    main()
