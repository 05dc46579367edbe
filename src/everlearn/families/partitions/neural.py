"""Merge networks of the partitions of one stream.

Weights, the trained weights behind an average, and the state of the optimiser are averaged by rows: local SGD with
periodic averaging (Stich 2019, "Local SGD converges fast and communicates little"). The moments of the inputs are those
of all rows. The replay memory, and the rows that wait for their minibatch, stay with their partition: a memory is a
sample of the rows of one history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from everlearn.errors import ConfigError
from everlearn.merge.partitions import PartitionRules, averaged, pooled_since
from everlearn.records import Arrays, Floats

_MOMENTS, _STAYING = "inputs/moments", ("learn/memory/", "learn/pending/", "learn/counts")


def merge(spec: Mapping[str, Any], base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Return the merged arrays of networks."""
    merged: Arrays = {}
    for name, array in base.items():
        held = [part[name] for part in parts]
        if name == _MOMENTS:
            merged[name] = pooled_since(array, held)
        elif name.endswith("/step") or not np.issubdtype(array.dtype, np.floating):
            merged[name] = np.max(held, axis=0)
        else:
            merged[name] = averaged(held, rows)
    return merged


def local(spec: Mapping[str, Any], name: str) -> bool:
    """Return True for the replay memory and the rows that wait for their minibatch."""
    return name.startswith(_STAYING)


def check(spec: Mapping[str, Any]) -> None:
    """Raise ConfigError for a network whose other state belongs to one history."""
    kinds = [str(term["kind"]) for term in spec.get("terms", ())]
    wrong = sorted(set(kinds) - {"replay"})
    if wrong or spec.get("head", "module") != "module":
        what = f"terms {', '.join(wrong)}" if wrong else f"the head {spec['head']!r}"
        raise ConfigError(
            f"partitions: got a neural model with {what}, whose state belongs to one history; expected the term "
            "'replay' alone and the head 'module'. Leave the others out, or use one learner"
        )


RULES = {"neural": PartitionRules(merge, local, check=check)}
