"""Rows per CPU second of the generated streams, made as columns and encoded, and the best possible accuracy.

python bench/generators.py
"""

from __future__ import annotations

import time

import everlearn as el
from everlearn.stream.generated.generator import KINDS

ROWS = 500_000
MOVING = ("hyperplane", "rbf")  # whose weights or centres move after each row


def main() -> None:
    print(f"{'stream':12}{'columns':>12}{'encoded':>12}{'best accuracy, noise .05':>28}")
    for kind in KINDS:
        change = 0.001 if kind in MOVING else 0.0
        for chunk in el.generate(kind, rows=10, change=change).chunks():
            assert len(chunk.examples.y) == 10  # loads the kernels
        stream = el.generate(kind, rows=ROWS, noise=0.05, change=change)
        began = time.process_time()
        for after in range(0, ROWS, 8192):
            stream.generator.columns(after, 8192)
        made = time.process_time()
        for _ in stream.chunks():
            pass
        encoded = time.process_time()
        best = el.generate(kind, rows=20_000, noise=0.05, change=change).generator.best()["accuracy"]
        print(f"{kind:12}{ROWS / (made - began):12,.0f}{ROWS / (encoded - made):12,.0f}{best:28.3f}")


if __name__ == "__main__":
    main()
