"""Low-rank adapters, merged as what they add to a weight, `scale * B @ A`, and not factor by factor.

Merging the factors is wrong: (B1 + B2)(A1 + A2) contains products of one adapter's B with the other's A, and half of
each factor gives a quarter of the product. An adapter is (A, B): A (rank, ...), B (out, rank, ...), as in PEFT.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.records import Floats

Adapter = tuple[NDArray[Any], NDArray[Any]]

_A = re.compile(r"^(.*\blora_(?:embedding_)?)A(\.[^/]*)?$")
_EXACT = 1e-9  # relative error below which two deltas count as equal
_CONDITION = 1e3  # largest condition number of a basis that is kept


def pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the names of adapters among those of arrays, as pairs (of A, of B), in order.

    >>> pairs(["weights/fc.lora_A.default.weight", "weights/fc.lora_B.default.weight", "weights/fc.bias"])
    [('weights/fc.lora_A.default.weight', 'weights/fc.lora_B.default.weight')]
    """
    known = dict.fromkeys(names)
    found = [(match.group(0), f"{match[1]}B{match[2] or ''}") for name in known if (match := _A.match(name))]
    return [(a, b) for a, b in found if b in known]


def delta(a: NDArray[Any], b: NDArray[Any], scale: float = 1.0) -> Floats:
    """Return the delta that an adapter adds to its weight, float64 (out, rest of A).

    `scale` is alpha / rank, or alpha / sqrt(rank).

    >>> delta(np.array([[1.0, 2.0]]), np.array([[3.0], [0.5]]), scale=2.0).tolist()
    [[6.0, 12.0], [1.0, 2.0]]
    """
    flat_a, flat_b = _flat(a, b)
    return scale * (flat_b @ flat_a)


def concatenated(adapters: Sequence[Adapter], weights: Sequence[float], scales: Sequence[float]) -> Adapter:
    """Return one adapter of scale 1 whose delta is exactly the weighted sum of deltas.

    Its rank is the sum of their ranks.

    >>> adapter = np.array([[1.0, 0.0]]), np.array([[1.0], [2.0]])
    >>> a, b = concatenated([adapter, adapter], [0.5, 0.5], [4.0, 4.0])
    >>> a.shape, delta(a, b).tolist() == delta(*adapter, scale=4.0).tolist()
    ((2, 2), True)
    """
    parts = [weight * scale * b for (_, b), weight, scale in zip(adapters, weights, scales, strict=True)]
    return np.concatenate([a for a, _ in adapters], axis=0), np.concatenate(parts, axis=1)


def truncated(change: Floats, rank: int) -> Adapter:
    """Return the adapter of at most this rank, of scale 1, whose delta is nearest to `change` (out, in).

    Eckart & Young (1936): the greatest singular values, half of each in A and half in B.

    >>> a, b = truncated(np.diag([3.0, 2.0, 0.1]), 2)
    >>> delta(a, b).round(6).tolist()
    [[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    """
    u, s, vt = np.linalg.svd(change, full_matrices=False)
    return _balanced(u, s, vt, rank)


def compressed(a: NDArray[Any], b: NDArray[Any], rank: int) -> Adapter:
    """Return `truncated(delta(a, b), rank)` without computing the delta, for factors much thinner than it."""
    flat_a, flat_b = _flat(a, b)
    q_b, r_b = np.linalg.qr(flat_b)
    q_a, r_a = np.linalg.qr(flat_a.T)
    u, s, vt = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return _balanced(q_b @ u, s, vt @ q_a.T, rank)


def in_basis(adapter: Adapter, like: NDArray[Any]) -> Adapter:
    """Return an adapter with the same delta whose A is as near as possible to `like`.

    Many A and B have the same delta. With this choice, merging an adapter with itself gives its own factors, and the
    optimiser state for the factors of the first parent still fits.
    """
    a, b = adapter
    near = like.reshape(like.shape[0], -1).astype(np.float64)
    change = b @ a
    fitted = change @ np.linalg.pinv(near)
    if _norm(change - fitted @ near) <= _EXACT * _norm(change):
        return near, fitted
    _, _, rows = np.linalg.svd(a, full_matrices=False)
    across = near @ rows.T
    if across.shape[0] != across.shape[1] or not np.linalg.cond(across) < _CONDITION:
        return adapter
    return across @ rows, np.linalg.solve(across.T, (b @ (a @ rows.T)).T).T


def _balanced(u: Floats, s: Floats, vt: Floats, rank: int) -> Adapter:
    """Return the factors, with zeros where there are fewer singular values than `rank`."""
    held = min(rank, len(s))
    root = np.sqrt(s[:held])
    a, b = np.zeros((rank, vt.shape[1])), np.zeros((u.shape[0], rank))
    a[:held], b[:, :held] = root[:, None] * vt[:held], u[:, :held] * root
    return a, b


def _flat(a: NDArray[Any], b: NDArray[Any]) -> tuple[Floats, Floats]:
    return a.reshape(a.shape[0], -1).astype(np.float64), b.reshape(b.shape[0], -1).astype(np.float64)


def _norm(array: Floats) -> float:
    return float(np.sqrt(np.sum(array * array)))
