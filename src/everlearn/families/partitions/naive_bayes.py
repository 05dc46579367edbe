"""Merge naive Bayes learners of the partitions of one stream.

The bank that counts all rows alike is a sum: the counts of all parts since the base are added, and are those of one
learner. In the bank whose older rows fade, the weight of a row grows, so the counts of each part are first divided by
it; then they are averaged, as each part remembers as many rows as one learner does. The state of the
likelihoods (the temper, the loss of late) is averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from everlearn.families.naive_bayes.rows import HIGH, LOW, SCALE, VALUES
from everlearn.merge.partitions import PartitionRules, added, averaged, pooled_since
from everlearn.records import Arrays, Floats


def merge(spec: Mapping[str, Any], base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Return the merged arrays of naive Bayes learners."""
    merged = {name: array.astype(np.float64) for name, array in base.items()}
    for bank in range(len(base["counts"])):
        first, held = _bank(base, bank), [_bank(part, bank) for part in parts]
        found = _faded(held, rows) if bank == 1 else _counted(first, held)
        found["moments"][LOW:] = _values(first["moments"][LOW:], [part["moments"][LOW:] for part in held])
        state = averaged([part["state"] for part in held], rows)
        state[SCALE] = 1.0 if bank == 1 else first["state"][SCALE]
        found["state"] = state
        for name, array in found.items():
            merged[name][bank] = array
    return merged


def _bank(arrays: Arrays, bank: int) -> Arrays:
    return {name: array[bank].astype(np.float64) for name, array in arrays.items()}


def _counted(base: Arrays, parts: Sequence[Arrays]) -> Arrays:
    """Add what the parts have counted."""
    found = {name: added(base[name], [part[name] for part in parts]) for name in ("counts", "table", "totals")}
    found["columns"] = np.stack([
        pooled_since(base["columns"][k], [part["columns"][k] for part in parts]) for k in range(len(base["columns"]))
    ])  # fmt: skip
    moments = pooled_since(base["moments"][:LOW], [part["moments"][:LOW] for part in parts])
    found["moments"] = np.concatenate([moments, base["moments"][LOW:]])
    found["totals"][-1] = np.count_nonzero(found["table"].any(axis=1))  # an entry is new in several parts at once
    return found


def _faded(parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Average fading counts, in weights of the next row; means are averaged with the weights that they have."""
    plain = []
    for part in parts:
        scale = part["state"][SCALE]
        own = {name: part[name] / scale for name in ("counts", "table", "totals")}
        own |= {"columns": part["columns"].copy(), "moments": part["moments"].copy()}
        own["columns"][:, [0, 2]] /= scale
        own["moments"][[0, 2]] /= scale
        plain.append(own)
    found = {name: averaged([part[name] for part in plain], rows) for name in ("counts", "table", "totals")}
    found["totals"][-1] = np.count_nonzero(found["table"].any(axis=1))
    found["columns"] = np.stack([
        _pooled([part["columns"][k] for part in plain], rows) for k in range(len(plain[0]["columns"]))
    ])  # fmt: skip
    moments = _pooled([part["moments"][:LOW] for part in plain], rows)
    found["moments"] = np.concatenate([moments, plain[0]["moments"][LOW:]])
    return found


def _pooled(moments: Sequence[Floats], rows: Floats) -> Floats:
    """Return the moments of a stream in which each part has the share of its rows."""
    weights = rows / rows.sum()
    count = sum(share * part[0] for share, part in zip(weights, moments, strict=True))
    divisor = np.where(count > 0.0, count, 1.0)
    mean = sum(share * part[0] * part[1] for share, part in zip(weights, moments, strict=True)) / divisor
    squares = sum(
        share * (part[2] + part[0] * (part[1] - mean) ** 2) for share, part in zip(weights, moments, strict=True)
    )
    return np.stack([count, mean, squares])


def _values(base: Floats, parts: Sequence[Floats]) -> Floats:
    """Merge the first two values of each column, and how many there were: 3 stands for more than two."""
    found = base.copy()
    low, high, many = LOW - LOW, HIGH - LOW, VALUES - LOW
    for part in parts:
        for j in range(found.shape[1]):
            for value in (part[low, j], part[high, j])[: int(min(part[many, j], 2.0))]:
                known = (found[low, j], found[high, j])[: int(min(found[many, j], 2.0))]
                if value in known:
                    continue
                if found[many, j] < 2.0:
                    found[low + int(found[many, j]), j] = value
                found[many, j] = min(found[many, j] + 1.0, 3.0)
            found[many, j] = max(found[many, j], part[many, j])
    return found


RULES = {"naive_bayes": PartitionRules(merge)}
