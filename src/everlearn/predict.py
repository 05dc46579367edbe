"""Answer with the champion, and make the record of the answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from everlearn.model import Model
from everlearn.records import Batch, Prediction, Scalar, Singles


@dataclass(frozen=True, slots=True)
class Served:
    """What answers at this moment; replaced whole, in one assignment, and never changed."""

    version: str
    model: Model


def answer(
    served: Served,
    row: Batch,
    features: Mapping[str, Any],
    decode: Callable[[Singles], Scalar],
    classes: int,
    id: str | None = None,
) -> Prediction:
    """Score one encoded row, and return the answer with everything needed to judge it later.

    `decode` turns scores (k,) into the answer; `classes` is 0 for a regression, whose answer has no `proba`.
    """
    scores = served.model.predict(row)[0]
    return Prediction(
        id=id or new_id(),
        features=dict(features),
        value=decode(scores),
        proba=tuple(scores.tolist()) if classes else (),
        version=served.version,
    )


def new_id() -> str:
    """An id that nobody can guess and that sorts by time, because an index takes ascending keys much faster."""
    return new_ids(1)[0]


def new_ids(count: int) -> list[str]:
    """As many new ids, for the price of one."""
    now, random = f"{time.time_ns() // 1_000_000:012x}", secrets.token_hex(8 * count)
    return [now + random[start : start + 16] for start in range(0, 16 * count, 16)]
