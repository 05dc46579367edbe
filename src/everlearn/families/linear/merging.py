"""Merge linear models: the meaning of each array, and the coordinates in which weights can be added up.

weights[0], hashed[..., 0]   the weights: merged by the chosen method
both columns of "blend"      the weights that answer, and the difference of both columns: each merged by the chosen
                             method. Share, scale and counts of classes are the means of the parents', and the columns
                             are computed back from these
moments                      means and deviations of columns and of the numbers to predict: pooled. Weights are relative
                             to them, so the weights of each parent are first expressed relative to the pooled moments
scale of "normalized"        the largest value so far: the larger of the parents', as weights shrink when it grows
z of "ftrl"                  its weights are computed from z at each step: set to give the merged weights
other slots, counts          state of the optimiser: that of the first parent
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from everlearn.families.linear import settings
from everlearn.families.linear.blend import COUNTS, SCALE, SHARE, prior_score
from everlearn.families.linear.settings import RATES, Settings
from everlearn.families.linear.updates import BETA
from everlearn.merge.contents import FamilyMerge, pooled
from everlearn.model import prefixed
from everlearn.records import Arrays, Floats

_SQUARES = {"adagrad": 1, "adam": 2, "ftrl": 2, "normalized": 1}  # the slot with sums or means of squared gradients


def opened(spec: Mapping[str, Any], snapshots: Sequence[Arrays], shares: Floats) -> list[Arrays]:
    """Return the weights of each snapshot, float64, relative to the pooled moments of those with a share.

    `shares` (parents,) belong to the first snapshots; an ancestor, without a share, may come last. The predictions of
    each model stay the same, up to 1 / rows (a row is scaled as if it were counted) and values cut at 4 deviations.
    """
    chosen = settings.read(spec)
    moments = pooled([snapshot["moments"] for snapshot in snapshots[: len(shares)]], shares)
    return [_opened(chosen, snapshot, moments) for snapshot in snapshots]


def _opened(chosen: Settings, snapshot: Arrays, moments: Floats) -> Arrays:
    """Return the weights that answer and, of a blend, the differences of its columns, relative to other moments."""
    weights, hashed = snapshot["weights"][0].copy(), snapshot["hashed"][:, :, 0].astype(np.float64)
    if chosen.optimizer != "blend":
        return expressed(chosen, snapshot["moments"], moments, weights, hashed)
    (share, _, scale, _), settled = snapshot["blend"][:COUNTS], snapshot["hashed"][:, :, 2].astype(np.float64)
    apart = weights - snapshot["weights"][1], hashed - settled
    answering = scale * (snapshot["weights"][1] + share * apart[0]), scale * (settled + share * apart[1])
    answering[0][:, -1] += (1.0 - scale) * _prior_scores(chosen, snapshot["blend"])
    between = expressed(chosen, snapshot["moments"], moments, *apart, centred=False)
    return expressed(chosen, snapshot["moments"], moments, *answering) | prefixed("between/", between)


def _prior_scores(chosen: Settings, blend: Floats) -> Floats:
    """Return the scores of the base rate (scores,), as `prior_score` computes each."""
    return np.array([prior_score(settings.LOSSES[chosen.loss], blend, k) for k in range(chosen.margins)])


def _closed_blend(chosen: Settings, parents: Sequence[Arrays], shares: Floats, merged: Arrays) -> Arrays:
    """Return the columns, float64, and the array `blend` that answer with the merged weights."""
    blend, held = parents[0]["blend"].copy(), np.stack([parent["blend"] for parent in parents])
    means, counts = shares @ held, slice(COUNTS, COUNTS + chosen.classes)
    blend[[SHARE, SCALE]], blend[counts] = means[[SHARE, SCALE]], means[counts]
    rounding = held[:, counts.stop :] - np.log(held[:, counts])  # logarithms are kept by a series
    blend[counts.stop :] = np.log(blend[counts]) + shares @ rounding
    weights, hashed = merged["weights"].copy(), merged["hashed"]
    weights[:, -1] -= (1.0 - blend[SCALE]) * _prior_scores(chosen, blend)
    columns = {"blend": blend}
    for name, answering in (("weights", weights), ("hashed", hashed)):
        settled = answering / blend[SCALE] - blend[SHARE] * merged[f"between/{name}"]
        columns |= {f"quick/{name}": settled + merged[f"between/{name}"], f"settled/{name}": settled}
    return columns


def closed(spec: Mapping[str, Any], parents: Sequence[Arrays], shares: Floats, merged: Arrays) -> Arrays:
    """Return a snapshot with the merged weights."""
    chosen, first = settings.read(spec), parents[0]
    weights, hashed = first["weights"].copy(), first["hashed"].copy()
    weights[0], hashed[:, :, 0] = merged["weights"], merged["hashed"]
    optional: Arrays = {}
    if chosen.optimizer == "blend":
        columns = _closed_blend(chosen, parents, shares, merged)
        optional["blend"] = columns["blend"]
        weights[0], weights[1] = columns["quick/weights"], columns["settled/weights"]
        hashed[:, :, 0], hashed[:, :, 2] = columns["quick/hashed"], columns["settled/hashed"]
    if chosen.optimizer == "normalized":
        weights[2] = np.max([parent["weights"][2] for parent in parents], axis=0)
        hashed[:, :, 2] = np.max([parent["hashed"][:, :, 2] for parent in parents], axis=0)
    if chosen.optimizer == "ftrl":
        l1, l2 = np.full(chosen.columns, chosen.l1), np.full(chosen.columns, chosen.l2)
        l1[-1] = l2[-1] = 0.0  # the intercept is never penalised
        weights[1] = z_of(chosen, weights[0], weights[1], weights[2], l1, l2)
        own = [hashed[:, :, slot].astype(np.float64) for slot in range(3)]
        hashed[:, :, 1] = z_of(chosen, own[0], own[1], own[2], np.float64(chosen.l1), np.float64(chosen.l2))
    triples = range(0, len(first["moments"]), 3)  # now, where the block began, and at the checkpoint
    moments = np.concatenate([pooled([parent["moments"][at : at + 3] for parent in parents], shares) for at in triples])
    return {"weights": weights, "hashed": hashed, "moments": moments, "counts": first["counts"].copy(), **optional}


def fisher(spec: Mapping[str, Any], arrays: Arrays) -> Arrays | None:
    """Return the empirical Fisher diagonal of the weights: the squared gradients that the optimiser keeps.

    "blend" and "quick" keep them for hashed entries; their dense columns, which have a mean square of 1, count by the
    rows learned. None for "sgd", which keeps none.
    """
    chosen = settings.read(spec)
    hashed = arrays["hashed"].astype(np.float64)
    if chosen.optimizer in ("blend", "quick"):
        rows = np.full(arrays["weights"].shape[1:], arrays["counts"][0])
        return {"weights": rows, "hashed": hashed[:, :, 1] ** -4.0 - 1.0}
    if chosen.optimizer not in _SQUARES:
        return None
    slot = _SQUARES[chosen.optimizer]
    return {"weights": arrays["weights"][slot].copy(), "hashed": hashed[:, :, slot]}


def expressed(
    chosen: Settings, own: Floats, moments: Floats, weights: Floats, hashed: Floats, centred: bool = True
) -> Arrays:
    """Return weights relative to other moments than their own, with the same predictions.

    Weights that are not `centred` are a difference of two models, whose predictions have the same centre.
    """
    columns = chosen.dense
    if chosen.standardize and columns:
        spread = _deviations(own[:, :columns])
        varied = (spread > 0.0) & (own[0, :columns] > 0.0)
        divisor = np.where(varied, spread, 1.0)
        stretch = np.where(varied, _deviations(moments[:, :columns]) / divisor, 1.0)
        shift = np.where(varied, (moments[1, :columns] - own[1, :columns]) / divisor, 0.0)
        weights = np.stack([_moved(row, stretch, shift) for row in weights])
    if settings.kernel_settings(chosen)[settings.SCALE_TARGET]:
        centre, unit = own[1, -1], _deviations(own[:, -1:])[0] or 1.0
        unit_now = _deviations(moments[:, -1:])[0] or 1.0
        weights, hashed = weights * (unit / unit_now), hashed * (unit / unit_now)
        if centred:
            weights[:, -1] += (centre - moments[1, -1]) / unit_now
    return {"weights": weights, "hashed": hashed}


def _moved(row: Floats, stretch: Floats, shift: Floats) -> Floats:
    """Return the weights of one score after substituting z = stretch * z' + shift for each column, also in products."""
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
    """Return the standard deviation of each column, 0 where nothing is counted."""
    found: Floats = np.sqrt(np.maximum(moments[2], 0.0) / np.where(moments[0] > 0.0, moments[0], 1.0))
    return found


def z_of(chosen: Settings, w: Floats, z: Floats, total: Floats, l1: Any, l2: Any) -> Floats:
    """Return the z that gives these weights; where they are 0, the old z within l1."""
    rate = RATES["ftrl"] if chosen.rate is None else chosen.rate
    made = -(w * ((BETA + np.sqrt(total)) / rate + l2) + np.sign(w) * l1)
    return np.where(w != 0.0, made, np.clip(z, -l1, l1))


PARTS = FamilyMerge(opened, closed, fisher)
