"""Merge whole snapshots of one model: model soups, task arithmetic, adapters as deltas.

The weights that predict, and the trained weights behind them, are merged. Everything else in a snapshot (optimiser
state, counters, replay memory) belongs to one history and comes from the first parent. Networks that have diverged lose
by merging, because their units are in another order, so the gate tests a merged version like any other.
`docs/how-to/merge.md` shows both.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from everlearn.errors import ConfigError, ModelError, did_you_mean
from everlearn.merge import adapters, dora
from everlearn.merge.contents import NAMED, FamilyMerge, broken
from everlearn.merge.methods import METHODS, How, ParentArrays
from everlearn.model import Model, compare
from everlearn.records import Arrays, Floats

__all__ = ["LEARNING", "METHODS", "How", "adapters", "completed", "differing", "ema", "merge", "merged"]

FAMILIES: dict[str, str] = {
    "linear": "everlearn.families.linear.merging:PARTS"
}  # families whose arrays need their own rules

LEARNING: dict[str, frozenset[str]] = {
    "linear": frozenset({"rate", "l1", "l2", "clip", "seed"}),
    "neural": frozenset(
        {"optimizer", "schedule", "batch", "passes", "clip", "ema", "memory", "terms", "consolidate", "drift"}
        | {"precision", "device", "compile", "one_at_a_time"}
    ),
}
"""Settings of each family that affect only learning, not the meaning of the weights; merged models may differ in them.

The seed of networks is not among them: it decides the order of their units."""

Spec = Mapping[str, Any]


def merge(
    method: str | How,
    parents: Sequence[Arrays],
    weights: Sequence[float] = (),
    *,
    spec: Spec | None = None,
    ancestor: Arrays | None = None,
    fisher: Sequence[Mapping[str, Any]] | None = None,
    density: float = 0.0,
    scale: float = 1.0,
    seed: int = 0,
) -> Arrays:
    """Merge snapshots of equal names, shapes and dtypes into one; it shares no memory with them.

    `method` is one of METHODS. `weights`, one for each parent, are normalised, except in "task" and "dare", where they
    multiply the change of each parent since the `ancestor`. By default parents have equal weights ("ema": 0.9 and 0.1).
    `density` is the share of differences that "ties" (0.2) and "dare" (0.5) keep, `scale` multiplies the change from
    the ancestor, and `seed` is for "dare". `fisher` holds non-negative arrays for each parent, under the names of the
    arrays that they weigh; by default the parents' own are used. `spec` is the parents' spec; a linear model requires
    it, as its weights are relative to the moments of its columns.

    Raises `ConfigError` for settings, and `ModelError` for parents, that do not fit.

    >>> a, b = ({"w": np.array([value], np.float32), "rows": np.array(7)} for value in (1.0, 4.0))
    >>> merge("linear", [a, b], [2.0, 1.0])
    {'w': array([2.], dtype=float32), 'rows': array(7)}
    """
    how = method if isinstance(method, How) else How(method=method, weights=tuple(map(float, weights)))
    if not isinstance(method, How):
        how = msgspec.structs.replace(how, density=float(density), scale=float(scale), seed=int(seed))
    how = completed(how, len(parents))
    snapshots = _fitting(how, parents, ancestor)
    settings = {} if spec is None else spec
    if settings.get("family") == "gated":
        raise ModelError(
            "models of the family 'gated' hold a proposal that is being validated: merge models without it"
        )
    rules = _rules(str(settings.get("family", "")))
    shares = _shares(how.weights)
    prepared = rules.open(settings, snapshots, shares)
    _check_finite(prepared)
    origin = prepared.pop() if ancestor is not None else None
    fishers = _fishers(how, rules, settings, parents, fisher)
    _check_fishers(fishers, prepared[0], parents[0])
    result = _adapters(how, prepared, origin, parents[0], settings)
    for name in prepared[0]:
        if name not in result:
            own = [snapshot[name] for snapshot in prepared]
            known = [values[name] for values in fishers if name in values]
            before = origin[name] if origin is not None else None
            result[name] = METHODS[how.method].run(how, ParentArrays(name, own, before, known or None))
    with np.errstate(over="ignore"):  # reported below
        whole = rules.close(settings, parents, shares, result)
    if bad := broken(whole, parents):
        raise ModelError(
            f"{how.method} with the weights {how.weights} gives numbers that are not finite in {', '.join(bad)}; "
            "expected smaller weights, a smaller scale, and parents with finite weights"
        )
    return whole


def merged(how: How, parents: Sequence[Model], ancestor: Model | None = None) -> Arrays:
    """Merge models of one family that may differ in their learning settings; see `merge`.

    Raises `ModelError` where their specs differ in other settings.
    """
    first = parents[0]
    for other in [*parents[1:], *([ancestor] if ancestor is not None else [])]:
        if differences := differing(first.spec, other.spec):
            raise ModelError("these models cannot be merged: " + "; ".join(differences))
    before = ancestor.arrays if ancestor is not None else None
    return merge(how, [parent.arrays for parent in parents], spec=first.spec, ancestor=before)


def ema(average: Arrays, newest: Arrays, decay: float = 0.99, spec: Spec | None = None) -> Arrays:
    """Return one step of an exponential moving average of snapshots: decay * average + (1 - decay) * newest.

    Raises `ConfigError` and `ModelError` as `merge` does.

    >>> ema({"w": np.array([1.0])}, {"w": np.array([2.0])}, 0.75)
    {'w': array([1.25])}
    """
    return merge("ema", [average, newest], [decay, 1.0 - decay], spec=spec)


def differing(first: Spec, second: Spec) -> list[str]:
    """Describe the differences of two complete specs, except settings that affect only learning."""
    free = LEARNING.get(str(first.get("family")), frozenset())
    if first.get("family") != second.get("family"):
        return [f"their families are {first.get('family')!r} and {second.get('family')!r}, expected the same"]
    return [
        f"{name} is {first.get(name)!r} in one and {second.get(name)!r} in another, expected the same"
        for name in sorted({*first, *second} - free - {"layout"})
        if first.get(name) != second.get(name)
    ]


def completed(how: How, count: int) -> How:
    """Return `how` with weights and density filled in.

    Raises `ConfigError` for settings that do not fit `count` parents.
    """
    method = METHODS.get(how.method)
    if method is None:
        near = did_you_mean(how.method, METHODS)
        raise ConfigError(f"merge: method: got {how.method!r}; expected one of {', '.join(METHODS)}{near}")
    if count < 2 or (count > 2 and (method.pair or method.weights)):
        expected = "2" if method.pair or method.weights else "2 or more"
        raise ConfigError(f"merge: got {count} parents; expected {expected} for {how.method}")
    weights = how.weights or method.weights or (1.0 / count,) * count
    if len(weights) != count:
        raise ConfigError(
            f"merge: weights: got {len(weights)} for {count} parents; expected one for each parent, or none"
        )
    valid = all(math.isfinite(weight) and (method.signed or weight >= 0.0) for weight in weights)
    if not valid or (sum(weights) == 0.0 and not method.ancestor) or not any(weights):
        expected = "finite numbers" if method.signed else "finite numbers from 0"
        raise ConfigError(f"merge: weights: got {weights}; expected {expected} whose sum is not 0 for {how.method}")
    if how.density not in (0.0, 1.0) and not method.density:
        able = ", ".join(name for name, other in METHODS.items() if other.density)
        raise ConfigError(
            f"merge: density: got {how.density!r} for {how.method}, which does not use it; leave it out, or use {able}"
        )
    density = how.density or method.density or 1.0
    if not 0.0 < density <= 1.0:
        raise ConfigError(f"merge: density: got {density!r}; expected a share above 0 and at most 1")
    if not math.isfinite(how.scale):
        raise ConfigError(f"merge: scale: got {how.scale!r}; expected a finite number")
    return msgspec.structs.replace(how, weights=weights, density=density)


def _fitting(how: How, parents: Sequence[Arrays], ancestor: Arrays | None) -> list[Arrays]:
    """Return the parents, followed by the ancestor if there is one.

    Raises `ConfigError` for a missing ancestor, and `ModelError` for snapshots of different models.
    """
    needs = METHODS[how.method].ancestor
    if needs and ancestor is None:
        raise ConfigError(
            f"merge: {how.method} needs the common ancestor of the parents; name it, or merge "
            "by linear, slerp or fisher"
        )
    snapshots = [*parents, *([ancestor] if ancestor is not None else [])]
    for number, snapshot in enumerate(snapshots[1:], 2):
        if differences := compare(parents[0], snapshot):
            name = "the ancestor" if snapshot is ancestor and number == len(snapshots) else f"parent {number}"
            raise ModelError(f"{name} does not fit the first parent: " + "; ".join(differences))
    return snapshots


def _check_finite(prepared: Sequence[Arrays]) -> None:
    for number, arrays in enumerate(prepared, 1):
        if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
            raise ModelError(
                f"snapshot {number} has numbers that are not finite in {', '.join(bad)}; expected finite weights"
            )


def _rules(family: str) -> FamilyMerge:
    """Return the rules for the snapshots of a family; the default is to go by the names of the arrays."""
    if family not in FAMILIES:
        return NAMED
    module, _, name = FAMILIES[family].partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def _shares(weights: Sequence[float]) -> Floats:
    """Return the share of each parent in the statistics: by the weights, or equal if a weight is negative."""
    if min(weights) < 0.0:
        return np.full(len(weights), 1.0 / len(weights))
    return np.array(weights, np.float64) / sum(weights)


def _fishers(
    how: How, rules: FamilyMerge, spec: Spec, parents: Sequence[Arrays], given: Sequence[Mapping[str, Any]] | None
) -> list[Arrays]:
    """Return the Fisher information of each parent; empty if the method does not use it.

    Raises `ConfigError` for a wrong number of parents, and `ModelError` for models without Fisher information.
    """
    if not METHODS[how.method].fisher:
        return []
    if given is not None and len(given) != len(parents):
        raise ConfigError(f"merge: got Fisher information of {len(given)} parents; expected it of all {len(parents)}")
    found = [rules.fisher(spec, parent) for parent in parents] if given is None else list(map(dict, given))
    known: list[Arrays] = [values for values in found if values is not None]
    if len(known) < len(parents):
        raise ModelError(
            "fisher: these models keep no Fisher information: a network keeps it with a term {'kind': 'ewc', 'fisher': "
            "'diagonal'}, a linear model with any optimizer but 'sgd'; merge by another method, or pass `fisher`"
        )
    return known


def _check_fishers(fishers: Sequence[Arrays], merged: Arrays, whole: Arrays) -> None:
    for number, values in enumerate(fishers, 1):
        wrong = [name for name in values if name in merged and values[name].shape != merged[name].shape]
        if wrong or not values.keys() & {*merged, *whole}:
            why = f"shape {values[wrong[0]].shape} for {wrong[0]!r}" if wrong else f"names {', '.join(values)}"
            expected = merged[wrong[0]].shape if wrong else f"some of {', '.join(merged)}"
            raise ModelError(f"fisher: the Fisher information of parent {number} has the {why}; expected {expected}")
        valid = all(np.isfinite(array).all() and (array >= 0.0).all() for array in values.values())
        if not valid or not any(array.any() for array in values.values()):
            why = "is 0 everywhere: nothing was consolidated yet" if valid else "has numbers below 0, or not finite"
            raise ModelError(f"fisher: the Fisher information of parent {number} {why}; merge by another method")


def _adapters(how: How, prepared: Sequence[Arrays], origin: Arrays | None, whole: Arrays, spec: Spec) -> Arrays:
    """Merge low-rank adapters as deltas, in the rank and the basis of the first parent's, by factor name.

    DoRA adapters are merged as the weights that they make.
    """
    result: Arrays = {}
    shares = [weight / sum(how.weights) for weight in how.weights] if METHODS[how.method].fisher else []

    def combine(name: str, made: Sequence[Floats], before: Floats | None) -> Floats:
        if shares:  # the information is of the factors, not of these weights
            return np.asarray(sum(share * weight for share, weight in zip(shares, made, strict=True)))
        return METHODS[how.method].run(how, ParentArrays(name, list(made), before))

    for a, b in adapters.pairs(prepared[0]):
        if dora.magnitude_name(a, prepared[0]):
            result |= dora.merged((a, b), prepared, origin, whole, spec, combine)
            continue
        rank = prepared[0][a].shape[0]
        held = [(snapshot[a], snapshot[b]) for snapshot in prepared]
        if METHODS[how.method].run is METHODS["linear"].run or METHODS[how.method].fisher:
            shares = [weight / sum(how.weights) for weight in how.weights]
            thin = adapters.compressed(*adapters.concatenated(held, shares, [1.0] * len(held)), rank)
        else:
            before = adapters.delta(origin[a], origin[b]) if origin is not None else None
            change = METHODS[how.method].run(
                how, ParentArrays(a, [adapters.delta(*factors) for factors in held], before)
            )
            thin = adapters.truncated(change, rank)
        for name, factor in zip((a, b), adapters.in_basis(thin, prepared[0][a]), strict=True):
            result[name] = factor.reshape(prepared[0][name].shape)
    return result
