"""Merge linear learners of the partitions of one stream.

moments          added: those of all rows. Weights are relative to them, so each part's are first expressed in them
dense weights    averaged by rows. Every learner moves at the full rate, and the mean of their moves is less noisy
hashed weights   averaged by the information that each part had of an entry: the squared gradients that it summed. An
                 entry of which one part alone saw rows moves as in one learner
squared sums     added, so rates fall as they do in one learner
settled columns  running means: each part's mean of the rows that it saw since the base, with the weight that one
                 learner would have given to all of these rows
share, scale     averaged by rows
counts           added
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from everlearn.families.linear import settings
from everlearn.families.linear.blend import COUNTS, LEAST_MIX, RECENT
from everlearn.families.linear.merging import expressed, z_of
from everlearn.families.linear.settings import Settings
from everlearn.families.partitions import blended
from everlearn.families.partitions.blended import BlendArrays
from everlearn.merge.partitions import PartitionRules, added, averaged, informed, pooled_since, shares
from everlearn.records import Arrays, Floats

_SQUARES = {"adagrad": 1, "ftrl": 2, "normalized": 1}  # the slot with the sums of squared gradients
_STEADY = (1.0 + RECENT) / float(LEAST_MIX) - RECENT  # rows after which a settled column forgets at a constant rate


def merge(spec: Mapping[str, Any], base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Return the merged arrays of linear learners.

    Only the hashed entries that a part has changed are computed: between two merges most of them rest. The weights of a
    regression are in units of the numbers to predict, which move, so there all are.
    """
    chosen, scaled = _settings(msgspec.json.encode(spec))
    moved = np.full(len(base["hashed"]), scaled)
    for part in () if scaled else parts:
        blended.differing(base["hashed"], part["hashed"], moved)
    some = [{**arrays, "hashed": arrays["hashed"][moved]} for arrays in (base, *parts)]
    found = (_blended if chosen.optimizer == "blend" else _merged)(chosen, some[0], some[1:], rows)
    hashed = base["hashed"].copy()
    hashed[moved] = found["hashed"]
    return {**found, "hashed": hashed}


@lru_cache(maxsize=16)
def _settings(spec: bytes) -> tuple[Settings, bool]:
    """Return the settings of a spec, as JSON, and True if weights are in units of the numbers to predict."""
    chosen = settings.read(msgspec.json.decode(spec))
    return chosen, bool(settings.kernel_settings(chosen)[settings.SCALE_TARGET])


def _blended(chosen: Settings, base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Merge all arrays of the default optimiser."""
    learned = float(base["counts"][0])
    counted = [float(part["counts"][0]) - learned for part in parts]
    left = np.array([kept(learned, more) for more in (*counted, sum(counted))])
    names = BlendArrays._fields
    found = {name: np.empty(base[name].shape, base[name].dtype) for name in names}
    scaled = settings.kernel_settings(chosen)[settings.SCALE_TARGET]
    blended.merge_blended(
        chosen.dense, bool(chosen.standardize), bool(scaled), COUNTS, chosen.classes, shares(rows), left,
        BlendArrays(*(base[name] for name in names)),
        BlendArrays(*(np.array([part[name] for part in parts]) for name in names)),
        BlendArrays(*(found[name] for name in names)),
    )  # fmt: skip
    return found


def _merged(chosen: Settings, base: Arrays, parts: Sequence[Arrays], rows: Floats) -> Arrays:
    """Merge all arrays of the other optimisers, with any number of hashed entries."""
    triples = range(0, len(base["moments"]), 3)
    moments = np.concatenate([
        pooled_since(base["moments"][at : at + 3], [part["moments"][at : at + 3] for part in parts]) for at in triples
    ])  # fmt: skip
    seen = _information(chosen, base, parts)
    origin = _columns(chosen, base, moments)
    columns = [_columns(chosen, part, moments) for part in parts]
    merged = {name: array.astype(np.float64) for name, array in base.items()}
    merged |= {"moments": moments, "counts": added(base["counts"], [part["counts"] for part in parts])}
    merged["weights"][0] = averaged([own["weights"] for own in columns], rows)
    merged["hashed"][:, :, 0] = informed(origin["hashed"], [own["hashed"] for own in columns], seen)
    if chosen.optimizer == "quick":
        merged["hashed"][:, :, 1] = (base["hashed"][:, :, 1].astype(np.float64) ** -4.0 + sum(seen)) ** -0.25
    _optimize(chosen, base, parts, rows, merged)
    return merged


def _columns(chosen: Settings, arrays: Arrays, moments: Floats) -> Arrays:
    """Return the quick weights relative to the merged moments, float64."""
    quick = arrays["weights"][0], arrays["hashed"][:, :, 0].astype(np.float64)
    return expressed(chosen, arrays["moments"], moments, *quick)


def _information(chosen: Settings, base: Arrays, parts: Sequence[Arrays]) -> list[Floats]:
    """Return the squared gradients that each part has added to each hashed entry, float64 (hashed, scores)."""
    if chosen.optimizer == "quick":
        before = base["hashed"][:, :, 1].astype(np.float64) ** -4.0
        return [np.maximum(part["hashed"][:, :, 1].astype(np.float64) ** -4.0 - before, 0.0) for part in parts]
    if chosen.optimizer in _SQUARES:
        slot = _SQUARES[chosen.optimizer]
        return [
            np.maximum(part["hashed"][:, :, slot].astype(np.float64) - base["hashed"][:, :, slot], 0.0)
            for part in parts
        ]
    return [(part["hashed"][:, :, 0] != base["hashed"][:, :, 0]).astype(np.float64) for part in parts]


def kept(rows: float, more: float) -> float:
    """Return the weight that a settled column, a mean over `rows`, keeps after `more` rows.

    Row r takes the part 4 / (r + 3), until that is the least part; the product of the rest telescopes.

    >>> kept(0.0, 1.0), kept(1.0, 1.0), round(kept(1e6, 1e4), 3)
    (0.0, 0.2, 0.368)
    """

    def rising(at: float) -> float:
        return at * (at + 1.0) * (at + 2.0) * (at + RECENT)

    until, falling = min(rows + more, _STEADY), min(rows, _STEADY)
    left = rising(falling) / rising(until) if until > 0.0 else 1.0
    steady = max(rows + more - max(rows, _STEADY), 0.0)
    return left * math.pow(1.0 - float(LEAST_MIX), steady)


def _optimize(chosen: Settings, base: Arrays, parts: Sequence[Arrays], rows: Floats, merged: Arrays) -> None:
    """Merge the state of the optimisers with slots: sums are added, means averaged, the largest values kept."""

    def slots(number: int) -> tuple[list[Floats], list[Floats]]:
        return (
            [part["weights"][number] for part in parts],
            [part["hashed"][:, :, number].astype(np.float64) for part in parts],
        )

    if chosen.optimizer == "adam":
        for slot in (1, 2):
            dense, hashed = slots(slot)
            merged["weights"][slot], merged["hashed"][:, :, slot] = averaged(dense, rows), averaged(hashed, rows)
    if chosen.optimizer in _SQUARES:
        slot = _SQUARES[chosen.optimizer]
        dense, hashed = slots(slot)
        merged["weights"][slot] = added(base["weights"][slot], dense)
        merged["hashed"][:, :, slot] = added(base["hashed"][:, :, slot], hashed)
    if chosen.optimizer == "normalized":
        dense, hashed = slots(2)
        merged["weights"][2], merged["hashed"][:, :, 2] = np.max(dense, axis=0), np.max(hashed, axis=0)
    if chosen.optimizer == "ftrl":
        dense, hashed = slots(1)
        l1, l2 = np.full(chosen.columns, chosen.l1), np.full(chosen.columns, chosen.l2)
        l1[-1] = l2[-1] = 0.0  # the intercept is never penalised
        weights, table = merged["weights"], merged["hashed"]
        weights[1] = z_of(chosen, weights[0], averaged(dense, rows), weights[2], l1, l2)
        own = table[:, :, 0], averaged(hashed, rows), table[:, :, 2]
        table[:, :, 1] = z_of(chosen, *own, np.float64(chosen.l1), np.float64(chosen.l2))


RULES = {"linear": PartitionRules(merge)}
