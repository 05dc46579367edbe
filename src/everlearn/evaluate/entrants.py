"""What takes part in a comparison: models of Everlearn, and adapters of other libraries' models."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from everlearn.evaluate.scoring import LateRow, predictions
from everlearn.model import Model
from everlearn.records import Examples, Singles
from everlearn.spec import Schema


class Piece(NamedTuple):
    """Consecutive rows: encoded, and as raw records where a contestant reads them (else empty)."""

    examples: Examples
    records: list[dict[str, Any]]


class Terms(NamedTuple):
    """What a contestant is made for: the shape of the encoded rows, their schema if known, and the delay in rows."""

    shape: Mapping[str, Any]
    schema: Schema | None
    delay: int


class Entrant(Protocol):
    """A model in a comparison. `reads` says in words what it is given; with `raw` that is the raw records."""

    reads: str
    raw: bool

    def step(self, piece: Piece) -> Singles:
        """Predict each row, and learn the labels that come before it or with it; float32 (n, classes) or (n, 1)."""
        ...

    def size(self) -> int:
        """Return the bytes of its state."""
        ...


Maker = Callable[[Terms], Entrant]


class ModelEntrant:
    """A model of Everlearn, or one that keeps its contract."""

    reads, raw = "encoded rows", False

    def __init__(self, model: Model, delay: int) -> None:
        self.model = model
        self._delay = delay
        self._pending: deque[LateRow] = deque()

    def step(self, piece: Piece) -> Singles:
        """Predict and learn the rows of a piece."""
        return predictions(self.model, piece.examples, self._pending, self._delay)

    def size(self) -> int:
        """Return the bytes of its arrays."""
        return sum(array.nbytes for array in self.model.arrays.values())
