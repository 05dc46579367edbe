"""Generated streams with and without drift, on which defaults are judged before any real stream is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import everlearn as el
from everlearn.stream import Stream

DRIFTS = ("none", "sudden", "gradual", "recurring")
KINDS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "sea": ("sea", (0, 1, 2, 3), {}),
    "agrawal": ("agrawal", (0, 3, 5, 8), {}),
    "sine": ("sine", (0, 1, 2, 3), {}),
    "mixed": ("mixed", (0, 1, 0, 1), {}),
    "led": ("led", (0, 3, 5, 7), {}),
    "waveform": ("waveform", (0, 5, 10, 19), {"noise_features": 19}),
    "hyperplane": ("hyperplane", (0, 1, 2, 3), {}),
    "rbf": ("rbf", (0, 1, 2, 3), {}),
    "hyperplane30": ("hyperplane", (0, 1, 2, 3), {"features": 30}),
    "rbf30": ("rbf", (0, 1, 2, 3), {"features": 30, "classes": 5}),
}
"""The name of each stream: its kind, the concepts that follow each other, and its parameters."""


def streams(rows: int, seeds: int) -> Iterator[tuple[str, str, Stream]]:
    """Yield a name, a drift and a stream with 10 % of noise; three changes of concept divide it into quarters."""
    for name, (kind, concepts, more) in KINDS.items():
        for drift in DRIFTS:
            for seed in range(seeds):
                given = {"rows": rows, "noise": 0.1, "seed": seed, **more}
                if drift != "none":
                    order = (*concepts[:2], *concepts[:2]) if drift == "recurring" else concepts
                    at = [rows // 4, rows // 2, 3 * rows // 4]
                    given |= {"drift": drift, "concepts": order, "positions": at}
                    given |= {"width": rows // 10} if drift == "gradual" else {}
                yield name, drift, el.generate(kind, **given)
