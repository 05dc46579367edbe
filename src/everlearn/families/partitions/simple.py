"""Merge learners of small families: the last label, passive-aggressive models, and factorization machines.

Weights are averaged by rows, those of hashed entries by the information that each part had; moments and sums of squared
gradients are added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from everlearn.families.factorization.rows import SQUARES, WEIGHT
from everlearn.merge.partitions import PartitionRules, added, averaged, informed, pooled_since
from everlearn.records import Arrays, Floats


def merge_last(spec: Mapping[str, Any], base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Return the merged arrays of the last label: averaged fading counts, and the label of the last part with rows.

    Where the rows of a stream are dealt in stretches, that part has the newest ones.
    """
    newest = parts[int(np.flatnonzero(rows)[-1])]
    if "number" in base:
        return {"number": newest["number"]}
    return {"followed": averaged([part["followed"] for part in parts], rows), "label": newest["label"]}


def merge_aggressive(spec: Mapping[str, Any], base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Return the merged arrays of passive-aggressive models; a hashed weight counts in the parts that moved it."""
    moved = [(part["hashed"] != base["hashed"]) * max(more, 1.0) for part, more in zip(parts, rows, strict=True)]
    return {
        "weights": averaged([part["weights"] for part in parts], rows),
        "hashed": informed(base["hashed"], [part["hashed"] for part in parts], moved),
        "moments": pooled_since(base["moments"], [part["moments"] for part in parts]),
        "state": averaged([part["state"] for part in parts], rows),
    }


def merge_factors(spec: Mapping[str, Any], base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Return the merged arrays of factorization machines."""
    merged = {"moments": pooled_since(base["moments"], [part["moments"] for part in parts])}
    for name in ("dense", "hashed"):
        squares = [part[name][:, SQUARES].astype(np.float64) - base[name][:, SQUARES] for part in parts]
        found = base[name].astype(np.float64)
        found[:, WEIGHT] = informed(base[name][:, WEIGHT], [part[name][:, WEIGHT] for part in parts], squares)
        found[:, SQUARES] = added(base[name][:, SQUARES], [part[name][:, SQUARES] for part in parts])
        merged[name] = found
    return merged


RULES = {
    "last": PartitionRules(merge_last),
    "passive_aggressive": PartitionRules(merge_aggressive),
    "factorization": PartitionRules(merge_factors),
}
