"""Choose an action for each record by the policy of the model that answers, and say with which probability.

The number that decides belongs to (seed, id) and is another one than that which chooses the canary, so that every
process draws the same action. Under a canary the propensity of an action is that of both models together, since the id
decided which of them answered. Where a model fails, the fallback is its policy, with probability 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError, ModelError
from everlearn.model import Model, predict_traced, row_slice, traced
from everlearn.records import Batch, Floats, Singles
from everlearn.schema import actions
from everlearn.serve.isolation import wrong_trace
from everlearn.serve.snapshot import Answering
from everlearn.spec import Schema

_CLOSE = 1e-3  # how far from 1 the probabilities of a row may sum


class Arms(NamedTuple):
    """The models that may choose, and the share of ids that the canary answers; `fallback` is "" where there is none.

    `seed` is that of the loop.
    """

    champion: Answering
    canary: Answering | None
    share: float
    seed: int
    fallback: str


class Choice(NamedTuple):
    """An action with its propensity, the probabilities of all actions, and the reward that was expected of it.

    `expected` is NaN, and `trace` empty, where the model failed; `fell_back` then says that it chose nothing, either.
    """

    value: str
    proba: tuple[float, ...]
    propensity: float
    expected: float
    arm: Answering
    trace: bytes
    fell_back: bool


def uniform(seed: int, id: str) -> float:
    """Return the number in [0, 1) that draws the action of an id: 64 bits of a BLAKE2b digest. Equal in all processes.

    >>> round(uniform(0, "a"), 3), round(uniform(1, "a"), 3)
    (0.381, 0.267)
    """
    key = seed.to_bytes(8, "little")
    held = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8, key=key, person=b"action")
    return int.from_bytes(held.digest()) / 2.0**64


def choose(arms: Arms, schema: Schema, batch: Batch, ids: Sequence[str], drawn: Sequence[bool]) -> list[Choice]:
    """Choose an action for each of n rows; `drawn` says which of them the canary answers.

    Raises `ModelError` where a model fails and there is no fallback on offer.
    """
    n = len(batch)
    rows = actions.filled(batch, np.full(n, np.nan), np.full(n, np.nan))
    offered = actions.offered(schema, rows)
    policies, failed = _policies(arms.champion, arms.fallback, schema, rows, offered)
    own, mixed = policies, policies
    broken = failed
    canary = np.array(drawn, bool)
    if arms.canary is not None and arms.share:
        others, other_failed = _policies(arms.canary, arms.fallback, schema, rows, offered)
        mixed = arms.share * others + (1.0 - arms.share) * policies
        own = np.where(canary[:, None], others, policies)
        broken = np.where(canary, other_failed, failed)
    chosen = [_draw(probabilities, uniform(arms.seed, id)) for probabilities, id in zip(own, ids, strict=True)]
    propensity = mixed[np.arange(n), chosen]
    served = actions.filled(rows, np.array(chosen, float), propensity)
    choices: list[Choice | None] = [None] * n
    for arm, mine in ((arms.champion, ~canary), (arms.canary, canary)):
        places = np.flatnonzero(mine & ~broken)
        if arm is not None and len(places):
            scores, trace = _expected(arm, served, places, bool(arms.fallback))
            for place, score, row in zip(places.tolist(), scores.tolist(), trace, strict=True):
                held = row.astype("<f4").tobytes() if score == score else b""
                choices[place] = _choice(schema, mixed, chosen, place, score, arm, held)
    for place in np.flatnonzero(broken).tolist():
        arm = arms.canary if canary[place] and arms.canary is not None else arms.champion
        choices[place] = _choice(schema, mixed, chosen, place, np.nan, arm, b"")._replace(fell_back=True)
    return [one for one in choices if one is not None]


def check_unchosen(schema: Schema, features: Collection[str]) -> None:
    """Raise `InputError` for a record to predict that has an action, or a propensity, already."""
    for name in (schema.action, schema.propensity):
        if name in features:
            raise InputError(
                f"field {name!r}: got a value in a record to predict; the loop chooses the action. Leave it out, or "
                "send a record whose action and reward are known to learn"
            )


def _choice(
    schema: Schema, mixed: Floats, chosen: Sequence[int], place: int, expected: float, arm: Answering, trace: bytes
) -> Choice:
    action, probabilities = chosen[place], mixed[place]
    value, propensity = schema.actions[action], float(probabilities[action])
    return Choice(value, tuple(probabilities.tolist()), propensity, expected, arm, trace, False)


def _draw(probabilities: Floats, u: float) -> int:
    """Return the first action whose cumulated probability exceeds u."""
    total = 0.0
    last = 0
    for action, probability in enumerate(probabilities.tolist()):
        total += probability
        last = action if probability > 0.0 else last
        if total > u:
            return action
    return last  # rounding left the sum below u


def _policies(
    arm: Answering, fallback: str, schema: Schema, rows: Batch, offered: NDArray[np.bool_]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the probabilities of n rows, float64 (n, actions), and which rows the model failed on.

    Raises `ModelError` where it fails and there is no fallback on offer.
    """
    try:
        return _checked(arm.model, rows, offered), np.zeros(len(rows), bool)
    except MemoryError:  # not the fault of the model
        raise
    except Exception as error:
        if not fallback:
            raise ModelError(f"version {arm.version}: its policy failed: {error}; roll it back") from error
        if len(rows) > 1:
            parts = [
                _policies(arm, fallback, schema, row_slice(rows, i, i + 1), offered[i : i + 1])
                for i in range(len(rows))
            ]
            return np.concatenate([part for part, _ in parts]), np.concatenate([part for _, part in parts])
        safe = schema.actions.index(fallback)
        if not offered[0, safe]:
            raise ModelError(
                f"version {arm.version}: its policy failed, and the fallback {fallback!r} is not on offer: {error}"
            ) from error
        found = np.zeros((1, len(schema.actions)))
        found[0, safe] = 1.0
        return found, np.ones(1, bool)


def _checked(model: Model, rows: Batch, offered: NDArray[np.bool_]) -> Floats:
    """Return a model's policy for n rows, float64 (n, actions) that sums to 1. Raises `ModelError` for others."""
    policy = getattr(model, "policy", None)
    if policy is None:
        raise ModelError(f"a {type(model).__name__} has no policy")
    found = np.asarray(policy(rows), np.float64)
    if found.shape != offered.shape:
        raise ModelError(f"policy returned shape {found.shape}, expected {offered.shape}")
    sums = found.sum(1)
    if not (found >= 0.0).all() or not (np.abs(sums - 1.0) <= _CLOSE).all() or (found[~offered] > 0.0).any():
        raise ModelError("policy returned numbers that are no probabilities of the actions on offer")
    normed: Floats = found / sums[:, None]
    return normed


def _expected(arm: Answering, served: Batch, places: NDArray[np.intp], lenient: bool) -> tuple[Floats, Singles]:
    """Return the expected rewards of some rows, float64 (m,), and their traces; NaN where a model fails, if `lenient`.

    Raises `ModelError` otherwise.
    """
    picked = Batch(served.dense[places], *_entries(served, places))
    try:
        scores, trace = predict_traced(arm.model, picked)
        wrong = wrong_trace(trace, len(picked), traced(arm.model))
        if not wrong and not np.isfinite(scores).all():
            wrong = "answered with a number that is not finite"
        if wrong:
            raise ModelError(f"version {arm.version} {wrong}; roll it back")
    except MemoryError:
        raise
    except Exception:
        if not lenient:
            raise
        return np.full(len(places), np.nan), np.zeros((len(places), 1), np.float32)
    assert trace is not None
    return scores[:, 0].astype(np.float64), trace


def _entries(batch: Batch, places: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.int32], Singles]:
    """Return the hashed part of some rows."""
    spans = [(int(batch.indptr[place]), int(batch.indptr[place + 1])) for place in places]
    indptr = np.zeros(len(spans) + 1, np.int64)
    np.cumsum([end - begin for begin, end in spans], out=indptr[1:])
    held = np.concatenate([np.arange(begin, end) for begin, end in spans]) if spans else np.zeros(0, np.int64)
    return indptr, batch.indices[held], batch.values[held]
