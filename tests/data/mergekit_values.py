"""Make `mergekit.json`: what mergekit 0.1.5 answers for small tensors; `tests/merge/test_methods.py` compares with it.

To make it anew: `pip install mergekit==0.1.5 torch==2.13.0` in an environment of its own, and run this file there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from mergekit.merge_methods.registry import _METHODS
from mergekit.merge_methods.slerp import slerp
from mergekit.sparsify import SparsificationMethod, sparsify

GIVEN = {
    "ancestor": [0.5, -1.25, 2.0, 0.0, 3.5, -0.75, 1.5, -2.0, 0.25, 1.0, -0.5, 4.0],
    "a": [1.5, -1.0, 0.5, 0.3, 3.25, 0.75, 1.5, -4.5, 0.375, 2.25, -0.25, 4.0],
    "b": [0.25, -2.5, 2.875, -0.4, 6.5, -0.25, 1.0, -1.5, 0.125, 0.0, -2.25, 5.75],
    "c": [-1.5, -1.5, 1.75, 0.6, 2.75, -2.5, 2.125, -2.25, 1.25, 1.125, -0.5, 3.0],
}


class _Entry:
    def __init__(self, id: int, tensor: torch.Tensor) -> None:
        self.id, self.tensor = id, tensor


class _Group:
    def __init__(self, base: torch.Tensor | None, others: list[torch.Tensor]) -> None:
        self.base = _Entry(-1, base) if base is not None else None
        self.non_base = [_Entry(number, one) for number, one in enumerate(others)]


def over(method: str, parents: str, weights: list[float], **dials: Any) -> list[float]:
    given = {name: torch.tensor(values, dtype=torch.float64) for name, values in GIVEN.items()}
    group = _Group(given["ancestor"], [given[name] for name in parents])
    density, scale = dials.get("density", 1.0), dials.get("scale", 1.0)
    told = {
        "weight": dict(enumerate(weights)),
        "density": dict.fromkeys(range(len(weights)), density),
        "normalize": dials["normalize"],
        "rescale": False,
        "int8_mask": False,
        "lambda": scale,
    }
    return _METHODS[method].merge_group(group, **told).tolist()


def main() -> None:
    a, b = (torch.tensor([GIVEN[name]], dtype=torch.float64) for name in "ab")
    near = a + 0.01 * b
    cases = [
        {"method": "task", "parents": "ab", "weights": [1.0, 1.0], "scale": 1.0},
        {"method": "task", "parents": "abc", "weights": [0.5, 0.25, -0.5], "scale": 0.7},
        {"method": "ties", "parents": "ab", "weights": [0.5, 0.5], "density": 0.5, "scale": 1.0},
        {"method": "ties", "parents": "abc", "weights": [0.2, 0.5, 0.3], "density": 0.34, "scale": 1.0},
        {"method": "ties", "parents": "abc", "weights": [1.0, 1.0, 1.0], "density": 1.0, "scale": 0.4},
    ]
    names = {"task": ("task_arithmetic", False), "ties": ("ties", True)}
    for one in cases:
        method, normalize = names[one["method"]]
        dials = {name: one[name] for name in ("density", "scale") if name in one}
        one["merged"] = over(method, one["parents"], one["weights"], normalize=normalize, **dials)
    for share in (0.25, 0.5, 0.9):
        merged = slerp(torch.tensor([share], dtype=torch.float64), a, b)[0].tolist()
        cases.append({"method": "slerp", "parents": "ab", "weights": [1.0 - share, share], "merged": merged})
    merged = slerp(torch.tensor([0.3], dtype=torch.float64), a, near)[0].tolist()
    cases.append({"method": "slerp", "parents": "an", "weights": [0.7, 0.3], "merged": merged})
    kept = sparsify(torch.tensor(GIVEN["a"], dtype=torch.float64), 0.4, SparsificationMethod.magnitude).tolist()
    told = {"mergekit": "0.1.5", "given": {**GIVEN, "n": near[0].tolist()}, "cases": cases, "trimmed": kept}
    Path(__file__).with_name("mergekit.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
