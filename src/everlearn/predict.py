"""Predict: encode, clip, choose the arm, score, decode, record.

    answer(serving, encoder, instances) -> predictions      what a loop, or an HTTP worker, replies and logs
    score(model, encoder, clip, records) -> scores          encode, clip and score alone, as a rebuild needs them

This is the only implementation: a loop in one process and the workers of a server call the same function. One record is
a batch of one.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Protocol

from msgspec import Struct

from everlearn.errors import IdTaken, ModelError
from everlearn.events import Log
from everlearn.model import predict_traced, traced
from everlearn.records import Batch, Prediction, Singles
from everlearn.schema import Encoder, actions
from everlearn.serve.choosing import Arms, check_unchosen, choose
from everlearn.serve.deciding import values as decided
from everlearn.serve.isolation import wrong_trace
from everlearn.serve.snapshot import Answering
from everlearn.spec import Spec

INTERVAL = "interval"  # in the payload of a prediction: the bounds that a model gave with its number

Clip = Callable[[Batch], Batch]


class Scores(Protocol):
    """A model, or a model whose failures are isolated."""

    def predict(self, batch: Batch) -> Singles: ...


@dataclass(frozen=True, slots=True)
class Serving:
    """The models that answer at one moment; replaced whole, and never changed.

    `canary` answers the share `share` of all ids, where there is a canary. `position` is the last event of the log that
    the models have learned. `clip` bounds the dense features of encoded rows. `seed` draws the actions of a bandit, and
    `fallback` is its action where a model fails ("": none).
    """

    champion: Answering
    canary: Answering | None
    share: float
    position: int
    clip: Clip
    seed: int = 0
    fallback: str = ""


def alone(champion: Answering, position: int, clip: Clip, spec: Spec) -> Serving:
    """Return a champion without a canary, as a loop in one process serves it."""
    return Serving(champion, None, 0.0, position, clip, spec.seed, spec.bandit.fallback)


class Instance(Struct, gc=False):
    """One record to predict: its id, its features as the log holds them, and the person that it is about ("": none).

    `before` is the answer that was given when the record was first sent under its id.
    """

    id: str
    features: dict[str, Any]
    subject: str = ""
    before: Prediction | None = None


def answer(
    serving: Serving, encoder: Encoder, instances: Sequence[Instance], rows: Batch | None = None
) -> list[Prediction]:
    """Return the answers to n records, in order, each with all that is needed to judge it later.

    Each value is decided by the rule of its arm, where that has one; probabilities do not depend on it. The id decides
    whether the canary answers (see `draw`); each arm scores its rows in one call. Raises InputError for a value that
    cannot be encoded, ModelError for a score that is not finite, and what a model raises. `rows` are the encoded
    features, where the caller has them. A bandit answers with an action (see `everlearn.serve.choosing`). Where the
    trace of a model has the bounds of an interval, at the places `model.bounds`, the payload has them, too.
    """
    if encoder.schema.actions and instances:
        return _chosen(serving, encoder, instances)
    share = serving.share
    if serving.canary is None or not share:
        return _given(serving, serving.champion, encoder, instances, 1.0, False, rows) if instances else []
    chosen = [draw(instance.id) < share for instance in instances]
    others = [instance for instance, canary in zip(instances, chosen, strict=True) if not canary]
    drawn = [instance for instance, canary in zip(instances, chosen, strict=True) if canary]
    by_champion = iter(_given(serving, serving.champion, encoder, others, 1.0 - share, False) if others else ())
    by_canary = iter(_given(serving, serving.canary, encoder, drawn, share, True) if drawn else ())
    return [next(by_canary if canary else by_champion) for canary in chosen]


def score(model: Scores, encoder: Encoder, clip: Clip, records: Sequence[Mapping[str, Any]]) -> Singles:
    """Return the scores of n records: float32 (n, classes), or (n, 1) for a regression. Raises as `encoded` does."""
    return model.predict(encoded(encoder, clip, records))


def encoded(encoder: Encoder, clip: Clip, records: Sequence[Mapping[str, Any]]) -> Batch:
    """Return n records as models take them: encoded, with dense features clipped.

    Raises InputError, naming the row and the field, for a value that cannot be used.
    """
    return clip(encoder.record(records[0]) if len(records) == 1 else encoder.rows(records))


def given_before(
    log: Log, id: str, features: Mapping[str, Any], payload: Mapping[str, Any] | None = None
) -> Prediction | None:
    """Return the answer that the log holds for a record under its id; None if the id is new.

    A record that is sent again gets its first answer. `payload` is what a pair of answers asks; None for a record.
    Raises IdTaken where the id names another record, or one that was erased. The message does not quote the other
    record, which may be about another person.
    """
    found = log.find(f"prediction:{id}")
    if found is None:
        return None
    before = found.payload
    if not isinstance(before, Prediction):
        raise IdTaken(f"the record with the id {id!r} was erased; use another id")
    if before.features != features or (payload is not None and before.payload != payload):
        raise IdTaken(f"the id {id!r} names another record, which was answered before; use another id")
    return before


def draw(id: str) -> float:
    """Return a number in [0, 1) that belongs to an id: the first 64 bits of its BLAKE2b digest. Equal in all processes.

    >>> round(draw("a"), 3), round(draw("b"), 3)
    (0.254, 0.517)
    """
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2.0**64


def new_id() -> str:
    """Return an id that cannot be guessed and that sorts by time, because an index takes ascending keys much faster."""
    return new_ids(1)[0]


def new_ids(count: int) -> list[str]:
    """Return `count` new ids, at about the cost of one."""
    now, random = f"{time.time_ns() // 1_000_000:012x}", secrets.token_hex(8 * count)
    return [now + random[start : start + 16] for start in range(0, 16 * count, 16)]


def _given(
    serving: Serving,
    arm: Answering,
    encoder: Encoder,
    instances: Sequence[Instance],
    propensity: float,
    canary: bool,
    rows: Batch | None = None,
) -> list[Prediction]:
    """Return the answers of one arm, from one call of its model."""
    if rows is None:
        batch = encoded(encoder, serving.clip, [instance.features for instance in instances])
    else:
        batch = serving.clip(rows)
    scores, trace = predict_traced(arm.model, batch)
    if trace is not None and (wrong := wrong_trace(trace, len(batch), traced(arm.model))):
        raise ModelError(f"version {arm.version} {wrong}; roll it back")
    listed: list[list[float]] = scores.tolist()
    if not math.isfinite(sum(map(sum, listed))):  # float64: a sum of finite float32 is finite
        raise ModelError(f"version {arm.version} answered with a number that is not finite; roll it back")
    values = encoder.decode(scores) if arm.rule is None else decided(arm.rule, scores, encoder.schema.classes)
    probas: Iterable[tuple[float, ...]]
    probas = map(tuple, listed) if encoder.schema.classes else repeat((), len(values))
    version, position = arm.version, serving.position
    traces = repeat(b"", len(values)) if trace is None else (row.astype("<f4").tobytes() for row in trace)
    return [
        Prediction(
            instance.id,
            instance.features,
            value,
            proba,
            version,
            position,
            propensity,
            canary,
            instance.subject,
            payload,
            trace_bytes,
        )
        for instance, value, proba, payload, trace_bytes in zip(
            instances, values, probas, _payloads(arm.model, trace, len(values)), traces, strict=True
        )
    ]


def _payloads(model: Any, trace: Singles | None, count: int) -> Iterable[dict[str, Any]]:
    """Return the payload of each answer: the bounds of its interval, where the trace has them."""
    bounds: tuple[int, int] | None = getattr(model, "bounds", None)
    if trace is None or bounds is None:
        return ({} for _ in range(count))
    return ({INTERVAL: pair} for pair in trace[:, list(bounds)].tolist())


def interval(given: Prediction) -> tuple[float, float] | None:
    """Return the bounds of the interval that a model gave with its number; None if it gave none."""
    found = given.payload.get(INTERVAL)
    return None if found is None else (found[0], found[1])


def _chosen(serving: Serving, encoder: Encoder, instances: Sequence[Instance]) -> list[Prediction]:
    """Return the actions of a bandit for n records. Raises as `answer` does."""
    for instance in instances:
        check_unchosen(encoder.schema, instance.features)
    batch = encoded(encoder, serving.clip, [instance.features for instance in instances])
    share = serving.share if serving.canary is not None else 0.0
    drawn = [draw(instance.id) < share for instance in instances]
    arms = Arms(serving.champion, serving.canary, share, serving.seed, serving.fallback)
    choices = choose(arms, encoder.schema, batch, [instance.id for instance in instances], drawn)
    made = []
    for instance, choice, canary in zip(instances, choices, drawn, strict=True):
        payload: dict[str, Any] = {} if math.isnan(choice.expected) else {actions.EXPECTED: choice.expected}
        payload |= {actions.FALLBACK: True} if choice.fell_back else {}
        made.append(
            Prediction(
                instance.id,
                instance.features,
                choice.value,
                choice.proba,
                choice.arm.version,
                serving.position,
                choice.propensity,
                canary,
                instance.subject,
                payload,
                choice.trace,
            )
        )
    return made
