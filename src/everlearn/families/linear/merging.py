"""Merging linear models: which of their arrays mean what, and in which coordinates they may be added up.

weights[0], hashed[..., 0]   the weights: merged by the method that was asked for
moments                      means and deviations of columns, and of the numbers to predict: pooled, as weights are
                             relative to them. Each parent's weights are first expressed relative to the pooled ones;
                             two models trained on other data would else be added up in different units
scale of "normalized"        the largest value there was: the larger one, as weights shrink when it grows
z of "ftrl"                  its weights are made of z at each step: set so that it makes the merged ones
the other slots, counts      state of the optimiser: of the first parent
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from everlearn.families.linear import settings
from everlearn.families.linear.settings import RATES, Settings
from everlearn.families.linear.updates import BETA
from everlearn.merge.contents import FamilyMerge, pooled
from everlearn.records import Arrays, Floats

_SQUARES = {"adagrad": 1, "adam": 2, "ftrl": 2, "normalized": 1}  # the slot with sums or means of squared gradients


def opened(spec: Mapping[str, Any], snapshots: Sequence[Arrays], shares: Floats) -> list[Arrays]:
    """The weights of each snapshot, float64, relative to the moments that those with a share have together.

    `shares` (parents,) are of the first snapshots; an ancestor, without one, may come last. What a model answers
    stays the same, up to 1 / rows (a row is scaled as if it had been counted) and values cut at 4 deviations.
    """
    chosen = settings.read(spec)
    moments = pooled([one["moments"] for one in snapshots[: len(shares)]], shares)
    return [_expressed(chosen, one, moments) for one in snapshots]


def closed(spec: Mapping[str, Any], parents: Sequence[Arrays], shares: Floats, merged: Arrays) -> Arrays:
    """The snapshot with the merged weights in it."""
    chosen, first = settings.read(spec), parents[0]
    weights, hashed = first["weights"].copy(), first["hashed"].copy()
    weights[0], hashed[:, :, 0] = merged["weights"], merged["hashed"]
    if chosen.optimizer == "normalized":
        weights[2] = np.max([one["weights"][2] for one in parents], axis=0)
        hashed[:, :, 2] = np.max([one["hashed"][:, :, 2] for one in parents], axis=0)
    if chosen.optimizer == "ftrl":
        l1, l2 = np.full(chosen.columns, chosen.l1), np.full(chosen.columns, chosen.l2)
        l1[-1] = l2[-1] = 0.0  # the intercept is never penalised
        weights[1] = _z(chosen, weights[0], weights[1], weights[2], l1, l2)
        own = [hashed[:, :, slot].astype(np.float64) for slot in range(3)]
        hashed[:, :, 1] = _z(chosen, own[0], own[1], own[2], np.float64(chosen.l1), np.float64(chosen.l2))
    moments = pooled([one["moments"] for one in parents], shares)
    return {"weights": weights, "hashed": hashed, "moments": moments, "counts": first["counts"].copy()}


def fisher(spec: Mapping[str, Any], arrays: Arrays) -> Arrays | None:
    """How much data stands behind each weight: what the optimiser keeps of squared gradients, which is the empirical
    Fisher diagonal.

    "auto" keeps it for hashed entries; its dense columns, which are scaled to a mean square of 1, count by the rows
    learned. "sgd" keeps none: None.
    """
    chosen = settings.read(spec)
    hashed = arrays["hashed"].astype(np.float64)
    if chosen.optimizer == "auto":
        rows = np.full(arrays["weights"].shape[1:], arrays["counts"][0])
        return {"weights": rows, "hashed": hashed[:, :, 1] ** -4.0 - 1.0}
    if chosen.optimizer not in _SQUARES:
        return None
    slot = _SQUARES[chosen.optimizer]
    return {"weights": arrays["weights"][slot].copy(), "hashed": hashed[:, :, slot]}


def _expressed(chosen: Settings, arrays: Arrays, moments: Floats) -> Arrays:
    """Weights relative to other moments: a model that says the same."""
    own, columns = arrays["moments"], chosen.dense
    weights, hashed = arrays["weights"][0].copy(), arrays["hashed"][:, :, 0].astype(np.float64)
    if chosen.standardize and columns:
        spread = _deviations(own[:, :columns])
        varied = (spread > 0.0) & (own[0, :columns] > 0.0)
        divisor = np.where(varied, spread, 1.0)
        stretch = np.where(varied, _deviations(moments[:, :columns]) / divisor, 1.0)
        shift = np.where(varied, (moments[1, :columns] - own[1, :columns]) / divisor, 0.0)
        weights = np.stack([_moved(row, stretch, shift) for row in weights])
    if settings.dials(chosen)[7]:  # scores are relative to the numbers to predict
        centre, unit = own[1, -1], _deviations(own[:, -1:])[0] or 1.0
        unit_now = _deviations(moments[:, -1:])[0] or 1.0
        weights, hashed = weights * (unit / unit_now), hashed * (unit / unit_now)
        weights[:, -1] += (centre - moments[1, -1]) / unit_now
    return {"weights": weights, "hashed": hashed}


def _moved(row: Floats, stretch: Floats, shift: Floats) -> Floats:
    """The weights of one score where z = stretch * z' + shift is written for each column z, in products as well."""
    columns = len(stretch)
    own, pairs, intercept = row[:columns], row[columns:-1], row[-1]
    if not len(pairs):
        return np.concatenate([own * stretch, [intercept + np.sum(own * shift)]])
    upper = np.triu_indices(columns, 1)
    crossed = np.zeros((columns, columns))
    crossed[upper] = pairs
    both = crossed + crossed.T
    pulled = (both * shift).sum(axis=1)
    constant = intercept + np.sum(own * shift) + 0.5 * np.sum(shift * pulled)
    return np.concatenate([(own + pulled) * stretch, (crossed * np.outer(stretch, stretch))[upper], [constant]])


def _deviations(moments: Floats) -> Floats:
    """The standard deviation of each column, 0 where nothing was counted."""
    found: Floats = np.sqrt(np.maximum(moments[2], 0.0) / np.where(moments[0] > 0.0, moments[0], 1.0))
    return found


def _z(chosen: Settings, w: Floats, z: Floats, total: Floats, l1: Any, l2: Any) -> Floats:
    """The z that makes these weights, and where they are 0 the old one as far as it does."""
    rate = RATES["ftrl"] if chosen.rate is None else chosen.rate
    made = -(w * ((BETA + np.sqrt(total)) / rate + l2) + np.sign(w) * l1)
    return np.where(w != 0.0, made, np.clip(z, -l1, l1))


PARTS = FamilyMerge(opened, closed, fisher)
