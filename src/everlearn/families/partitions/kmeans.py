"""Merge online k-means learners of the partitions of one stream.

A centre is a sum of rows over a weight. Without fading these sums are added, as in the mini-batches of Sculley (2010,
"Web-scale k-means clustering"). Where older rows fade, they are averaged: each part remembers as many rows as one
learner does. Until a base has its first centres, every learner must see the same rows: see `merge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from everlearn.errors import ConfigError
from everlearn.families.kmeans.settings import START
from everlearn.merge.partitions import PartitionRules, added, averaged, pooled_since
from everlearn.records import Arrays, Floats

OPENING = 1000  # rows that all learners of a stream have in common, at least; see `everlearn.scale.partitions`


def merge(spec: Mapping[str, Any], base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Return the merged arrays of k-means learners.

    A part that is still collecting its first rows has no centres; then all arrays are those of the part that has seen
    most rows.
    """
    if int(base["clock"][0]) < len(base["first"]):
        return dict(parts[int(np.argmax([int(part["clock"][0]) for part in parts]))])
    merged = {name: array.copy() for name, array in base.items()}
    merged["clock"] = added(base["clock"], [part["clock"] for part in parts])
    merged["moments"] = pooled_since(base["moments"], [part["moments"] for part in parts])
    if spec["memory"]:
        counts = averaged([part["counts"] for part in parts], rows)
        sums = averaged([part["counts"][:, None] * part["centres"] for part in parts], rows)
        names = {name: averaged([part[name] for part in parts], rows) for name in ("errors", "state")}
    else:
        counts = added(base["counts"], [part["counts"] for part in parts])
        origin = base["counts"][:, None] * base["centres"]
        sums = added(origin, [part["counts"][:, None] * part["centres"] for part in parts])
        names = {name: added(base[name], [part[name] for part in parts]) for name in ("errors", "state")}
    merged |= {"counts": counts, **names}
    held = counts[:, None] > 0.0
    merged["centres"] = np.where(held, sums / np.where(held, counts[:, None], 1.0), base["centres"])
    return merged


def check(spec: Mapping[str, Any]) -> None:
    """Raise ConfigError where the rows that all learners have in common are too few for the first centres."""
    most = OPENING // START
    if int(spec["classes"]) > most:
        raise ConfigError(
            f"partitions: got a kmeans model of {spec['classes']} clusters; expected at most {most}, whose first "
            "centres are found in the rows that all learners have in common. Use one learner"
        )


RULES = {"kmeans": PartitionRules(merge, check=check)}
