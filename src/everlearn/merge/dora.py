"""DoRA adapters, merged as the weights that they make.

DoRA (Liu et al. 2024, arXiv 2402.09353) makes of the frozen weight W the weight m * (W + s B A) / |W + s B A|, row by
row: what it adds to W is not linear in its parts. So the weights that the parents make are merged, and the result is
written as an adapter again: m holds the lengths of its rows, and s B A is the nearest of the rank to its difference
from W. At full rank the merged adapter makes exactly the merged weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from everlearn.errors import ModelError
from everlearn.merge import adapters
from everlearn.records import Arrays, Floats

_PARTS = re.compile(r"^(?:weights/|learn/raw/)?(.*)\.lora_A(\.[^/]*)?\.weight$")

Combine = Callable[[str, Sequence[Floats], Floats | None], Floats]


def magnitude_name(a: str, names: Mapping[str, Any]) -> str | None:
    """Return the name of the magnitudes beside an adapter's A; None for an adapter without them."""
    name = a.replace(".lora_A", ".lora_magnitude_vector")
    return name if name != a and name in names else None


def merged(
    pair: tuple[str, str],
    snapshots: Sequence[Arrays],
    origin: Arrays | None,
    whole: Arrays,
    spec: Mapping[str, Any],
    combine: Combine,
) -> Arrays:
    """Return A, B and magnitudes of one merged adapter, as a mapping of their names.

    `pair` names A and B, `whole` is the first parent with its frozen weights, and `combine` merges arrays of a name.
    Raises `ModelError` where the frozen weight or the scale is not known.
    """
    a, b = pair
    magnitude = a.replace(".lora_A", ".lora_magnitude_vector")
    frozen, scale = _frozen(a, whole, snapshots[0][b].shape[0]), _scale(spec)
    made = [_made(snapshot[a], snapshot[b], snapshot[magnitude], frozen, scale) for snapshot in snapshots]
    before = None if origin is None else _made(origin[a], origin[b], origin[magnitude], frozen, scale)
    weight = combine(a, made, before)
    # The direction is that of any multiple of a row. The mean of the parents' multiples stays nearest to their rank.
    multiple = np.mean([_multiple(snapshot, pair, frozen, scale) for snapshot in snapshots], axis=0)
    multiple = np.where(multiple == 0.0, 1.0, multiple)
    thin = adapters.truncated((multiple * weight - frozen) / scale, snapshots[0][a].shape[0])
    factors = adapters.in_basis(thin, snapshots[0][a])
    lengths = np.copysign(np.sqrt(np.sum(weight * weight, axis=1)), multiple[:, 0])
    parts = {a: factors[0], b: factors[1], magnitude: lengths}
    return {name: part.reshape(snapshots[0][name].shape) for name, part in parts.items()}


def _multiple(snapshot: Arrays, pair: tuple[str, str], frozen: Floats, scale: float) -> Floats:
    """Return what each row of the weight that an adapter makes is multiplied by to give W + s B A, (out, 1)."""
    a, b = pair
    summed = frozen + adapters.delta(snapshot[a], snapshot[b], scale)
    magnitude = snapshot[a.replace(".lora_A", ".lora_magnitude_vector")].reshape(-1, 1).astype(np.float64)
    length = np.sqrt(np.sum(summed * summed, axis=1, keepdims=True))
    return np.where(magnitude != 0.0, length / np.where(magnitude != 0.0, magnitude, 1.0), 1.0)


def _made(a: Any, b: Any, magnitude: Any, frozen: Floats, scale: float) -> Floats:
    """Return the weight that an adapter makes, float64 (out, rest)."""
    summed = frozen + adapters.delta(a, b, scale)
    length = np.sqrt(np.sum(summed * summed, axis=1, keepdims=True))
    return np.asarray(magnitude.reshape(-1, 1) * summed / np.where(length > 0.0, length, 1.0), np.float64)


def _frozen(a: str, whole: Arrays, out: int) -> Floats:
    """Return the frozen weight under an adapter, float64 (out, rest)."""
    found = _PARTS.match(a)
    name = f"weights/{found[1]}.base_layer.weight" if found else ""
    if name not in whole:
        raise ModelError(
            f"merge: {a!r} is a DoRA adapter, and its frozen weight {name!r} is not in the snapshot; expected it, "
            "since what DoRA adds depends on it. Train with frozen = 'kept', or with dora = false"
        )
    if whole[name].shape[0] != out:
        raise ModelError(
            f"merge: the frozen weight {name!r} has shape {whole[name].shape}; expected {out} rows, as its DoRA "
            "adapter has. Layers that store their weight transposed cannot be merged; train them with dora = false"
        )
    return np.asarray(whole[name].reshape(out, -1), np.float64)


def _scale(spec: Mapping[str, Any]) -> float:
    """Return the scale of the adapters of a model."""
    chosen = spec.get("lora")
    if not isinstance(chosen, Mapping):
        raise ModelError(
            "merge: got DoRA adapters without the spec of their model; expected it, since their scale depends on it. "
            "Pass spec=model.spec"
        )
    rank = float(chosen.get("rank", 8))
    return float(chosen.get("alpha", 16.0)) / (np.sqrt(rank) if chosen.get("rslora") else rank)
