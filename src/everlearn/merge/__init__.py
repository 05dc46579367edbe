"""Merging: several snapshots of one model in, one snapshot out. Model soups, task arithmetic, adapters as deltas.

What is merged are the numbers that serve, and those of them that are trained. Whatever else a snapshot holds (the
optimiser's state, counters, the memory) belongs to a history that cannot be averaged, and comes from the first parent.
Networks that have diverged lose by merging: units in another order add up to nothing. So what was merged goes through
the gate like any other version. `docs/how-to/merge.md` shows both.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from everlearn.errors import ConfigError, ModelError
from everlearn.merge import adapters
from everlearn.merge.methods import METHODS, How, One
from everlearn.merge.parts import NAMED, Parts, broken
from everlearn.model import Model, compare
from everlearn.records import Arrays, Floats

__all__ = ["LEARNING", "METHODS", "How", "adapters", "completed", "differing", "ema", "merge", "merged"]

FAMILIES: dict[str, str] = {
    "linear": "everlearn.families.linear.merging:PARTS"
}  # whose arrays are more than names tell

LEARNING: dict[str, frozenset[str]] = {
    "linear": frozenset({"rate", "l1", "l2", "clip", "seed"}),
    "neural": frozenset(
        {"optimizer", "schedule", "batch", "passes", "clip", "ema", "memory", "terms", "consolidate", "drift"}
        | {"precision", "device", "compile", "one_at_a_time"}
    ),
}
"""The dials of each family that say how a model learns, and not what its weights mean: two that are merged may differ
in them. Networks must have one seed: it says in which order their units are."""

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
    """Merge snapshots of equal names, shapes and dtypes; the result has these, too, and shares no memory with them.

    `method` is one of METHODS. `weights`, one for each parent, count by their proportion, but in "task" and "dare",
    where they multiply what each learned since the `ancestor`; without, parents count alike ("ema": 0.9 and 0.1).
    `density` is the share of differences that "ties" (0.2) and "dare" (0.5) keep, `scale` multiplies what is added to
    the ancestor, `seed` is of "dare". `fisher` holds, for each parent, arrays that are not negative by the names of
    what they belong to; without, the parents' own are used. `spec` is the parents' spec: of a linear model it must be
    given, as its weights are relative to the moments of its columns.

    Raises `ConfigError` for dials, `ModelError` for parents, that do not fit.

    >>> a, b = ({"w": np.array([one], np.float32), "rows": np.array(7)} for one in (1.0, 4.0))
    >>> merge("linear", [a, b], [2.0, 1.0])
    {'w': array([2.], dtype=float32), 'rows': array(7)}
    """
    how = method if isinstance(method, How) else How(method=method, weights=tuple(map(float, weights)))
    if not isinstance(method, How):
        how = msgspec.structs.replace(how, density=float(density), scale=float(scale), seed=int(seed))
    how = completed(how, len(parents))
    snapshots = _fitting(how, parents, ancestor)
    told = {} if spec is None else spec
    if told.get("family") == "gated":
        raise ModelError(
            "models of the family 'gated' hold a proposal that is being validated: merge models without it"
        )
    parts = _parts(str(told.get("family", "")))
    shares = _shares(how.weights)
    ready = parts.open(told, snapshots, shares)
    _check_finite(ready)
    origin = ready.pop() if ancestor is not None else None
    fishers = _fishers(how, parts, told, parents, fisher)
    _check_fishers(fishers, ready[0], parents[0])
    together = _adapters(how, ready, origin)
    for name in ready[0]:
        if name not in together:
            own = [one[name] for one in ready]
            known = [one[name] for one in fishers if name in one]
            before = origin[name] if origin is not None else None
            together[name] = METHODS[how.method].run(how, One(name, own, before, known or None))
    with np.errstate(over="ignore"):  # it is said below
        whole = parts.close(told, parents, shares, together)
    if bad := broken(whole, parents):
        raise ModelError(
            f"{how.method} with the weights {how.weights} makes numbers that are not finite in {', '.join(bad)}; "
            "expected smaller weights, a smaller scale, and parents that learned nothing broken"
        )
    return whole


def merged(how: How, parents: Sequence[Model], ancestor: Model | None = None) -> Arrays:
    """Merge models of one family, whatever they were trained with; see `merge`.

    Raises `ModelError` where their specs differ in more than how they learn.
    """
    first = parents[0]
    for other in [*parents[1:], *([ancestor] if ancestor is not None else [])]:
        if differences := differing(first.spec, other.spec):
            raise ModelError("these models cannot be merged: " + "; ".join(differences))
    before = ancestor.arrays if ancestor is not None else None
    return merge(how, [one.arrays for one in parents], spec=first.spec, ancestor=before)


def ema(average: Arrays, newest: Arrays, decay: float = 0.99, spec: Spec | None = None) -> Arrays:
    """One step of an exponential moving average of snapshots: decay * average + (1 - decay) * newest.

    >>> ema({"w": np.array([1.0])}, {"w": np.array([2.0])}, 0.75)
    {'w': array([1.25])}
    """
    return merge("ema", [average, newest], [decay, 1.0 - decay], spec=spec)


def differing(one: Spec, other: Spec) -> list[str]:
    """Say in words where two complete specs differ, but for dials that only say how a model learns."""
    free = LEARNING.get(str(one.get("family")), frozenset())
    if one.get("family") != other.get("family"):
        return [f"their families are {one.get('family')!r} and {other.get('family')!r}, expected the same"]
    return [
        f"{name} is {one.get(name)!r} in one and {other.get(name)!r} in another, expected the same"
        for name in sorted({*one, *other} - free)
        if one.get(name) != other.get(name)
    ]


def completed(how: How, many: int) -> How:
    """The same with all weights and the density; raises `ConfigError` for dials that do not fit so many parents."""
    method = METHODS.get(how.method)
    if method is None:
        raise ConfigError(f"merge: there is no method {how.method!r}; expected one of {', '.join(METHODS)}")
    if many < 2 or (many > 2 and (method.pair or method.weights)):
        expected = "2" if method.pair or method.weights else "2 or more"
        raise ConfigError(f"merge: {how.method} got {many} parents, expected {expected}")
    weights = how.weights or method.weights or (1.0 / many,) * many
    if len(weights) != many:
        raise ConfigError(f"merge: got {len(weights)} weights for {many} parents; expected one for each, or none")
    fine = all(math.isfinite(one) and (method.signed or one >= 0.0) for one in weights)
    if not fine or (sum(weights) == 0.0 and not method.ancestor) or not any(weights):
        expected = "finite numbers" if method.signed else "finite numbers from 0"
        raise ConfigError(f"merge: {how.method} got the weights {weights}; expected {expected} whose sum is not 0")
    if how.density not in (0.0, 1.0) and not method.density:
        able = ", ".join(name for name, one in METHODS.items() if one.density)
        raise ConfigError(f"merge: {how.method} got a density of {how.density!r}, and keeps all; {able} take one")
    density = how.density or method.density or 1.0
    if not 0.0 < density <= 1.0:
        raise ConfigError(f"merge: density is {density!r}, expected a share above 0, to 1")
    if not math.isfinite(how.scale):
        raise ConfigError(f"merge: scale is {how.scale!r}, expected a finite number")
    return msgspec.structs.replace(how, weights=weights, density=density)


def _fitting(how: How, parents: Sequence[Arrays], ancestor: Arrays | None) -> list[Arrays]:
    """The parents, and the ancestor behind them; raises where they are not snapshots of one model."""
    needs = METHODS[how.method].ancestor
    if needs and ancestor is None:
        raise ConfigError(
            f"merge: {how.method} looks at what each parent learned since a common ancestor; name that one, or merge "
            "by linear, slerp or fisher"
        )
    snapshots = [*parents, *([ancestor] if ancestor is not None else [])]
    for number, one in enumerate(snapshots[1:], 2):
        if differences := compare(parents[0], one):
            name = "the ancestor" if one is ancestor and number == len(snapshots) else f"parent {number}"
            raise ModelError(f"{name} does not fit the first parent: " + "; ".join(differences))
    return snapshots


def _check_finite(ready: Sequence[Arrays]) -> None:
    for number, one in enumerate(ready, 1):
        if bad := [name for name, array in one.items() if not np.isfinite(array).all()]:
            raise ModelError(
                f"snapshot {number} of those to be merged has numbers that are not finite in {', '.join(bad)}; "
                "expected a model that learned nothing broken"
            )


def _parts(family: str) -> Parts:
    """How snapshots of a family are taken apart: by the names of arrays, where there is nothing to know beyond."""
    if family not in FAMILIES:
        return NAMED
    module, _, name = FAMILIES[family].partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def _shares(weights: Sequence[float]) -> Floats:
    """How much of each parent's statistics is taken: by the weights, and alike where one of these is below 0."""
    if min(weights) < 0.0:
        return np.full(len(weights), 1.0 / len(weights))
    return np.array(weights, np.float64) / sum(weights)


def _fishers(
    how: How, parts: Parts, spec: Spec, parents: Sequence[Arrays], given: Sequence[Mapping[str, Any]] | None
) -> list[Arrays]:
    """The Fisher information of each parent, where the method asks for it."""
    if not METHODS[how.method].fisher:
        return []
    if given is not None and len(given) != len(parents):
        raise ConfigError(f"merge: got Fisher information of {len(given)} parents, expected of each of {len(parents)}")
    found = [parts.fisher(spec, one) for one in parents] if given is None else [dict(one) for one in given]
    known: list[Arrays] = [one for one in found if one is not None]
    if len(known) < len(parents):
        raise ModelError(
            "fisher: these models keep no Fisher information: a network keeps it with a term {'kind': 'ewc', 'fisher': "
            "'diagonal'}, a linear model with any optimizer but 'sgd'; or merge by another method, or hand it in"
        )
    return known


def _check_fishers(fishers: Sequence[Arrays], merged: Arrays, whole: Arrays) -> None:
    for number, one in enumerate(fishers, 1):
        wrong = [name for name in one if name in merged and one[name].shape != merged[name].shape]
        if wrong or not one.keys() & {*merged, *whole}:
            why = f"shape {one[wrong[0]].shape} for {wrong[0]!r}" if wrong else f"names {', '.join(one)}"
            expected = merged[wrong[0]].shape if wrong else f"some of {', '.join(merged)}"
            raise ModelError(f"fisher: that of parent {number} has the {why}; expected {expected}")
        fine = all(np.isfinite(array).all() and (array >= 0.0).all() for array in one.values())
        if not fine or not any(array.any() for array in one.values()):
            why = "is 0 everywhere: nothing was consolidated yet" if fine else "has numbers below 0, or not finite"
            raise ModelError(f"fisher: the Fisher information of parent {number} {why}; merge by another method")


def _adapters(how: How, ready: Sequence[Arrays], origin: Arrays | None) -> Arrays:
    """Low-rank adapters, merged as deltas, in the rank and the basis of the first parent's; by the names of factors."""
    together: Arrays = {}
    for a, b in adapters.pairs(ready[0]):
        rank = ready[0][a].shape[0]
        held = [(one[a], one[b]) for one in ready]
        if METHODS[how.method].run is METHODS["linear"].run or METHODS[how.method].fisher:
            shares = [weight / sum(how.weights) for weight in how.weights]
            thin = adapters.compressed(*adapters.concatenated(held, shares, [1.0] * len(held)), rank)
        else:
            before = adapters.delta(origin[a], origin[b]) if origin is not None else None
            change = METHODS[how.method].run(how, One(a, [adapters.delta(*one) for one in held], before))
            thin = adapters.truncated(change, rank)
        for name, factor in zip((a, b), adapters.in_basis(thin, ready[0][a]), strict=True):
            together[name] = factor.reshape(ready[0][name].shape)
    return together
