"""A generated stream: its columns, its truth and its best possible error, as functions of the seed and the row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from everlearn._random import uniform
from everlearn.errors import ConfigError, InputError
from everlearn.records import Arrays, Floats, Ints, Task
from everlearn.spec import Schema
from everlearn.stream.generated import functions, mixtures
from everlearn.stream.generated.schedule import DriftPlan, RowConcepts, stretches

LABEL = "label"
_PIECE = 65_536  # rows that are made at a time
_CLASS, _NOISE, _SCHEDULE, _CONCEPTS, _TURNS = (0x5EED << 16 | k for k in range(1, 6))  # seeds of separate draws


class GeneratedKind(NamedTuple):
    """One of the streams: its classes, its concepts (0: any number), and the features that decide the label.

    `function` is its number in `functions`, or -1. With `moves` a concept can move to the next one. `noise_features` is
    the default number of features that say nothing.
    """

    classes: int
    concepts: int
    relevant: int
    function: int = -1
    moves: bool = False
    noise_features: int = 0
    names: tuple[str, ...] = ()
    fields: Mapping[str, str] = {}


KINDS = {
    "sea": GeneratedKind(2, 4, 3, functions.SEA, moves=True),
    "agrawal": GeneratedKind(
        2, 10, 9, functions.AGRAWAL,
        names=("salary", "commission", "age", "elevel", "car", "zipcode", "hvalue", "hyears", "loan"),
        fields=dict.fromkeys(("elevel", "car", "zipcode"), "categorical"),
    ),
    "sine": GeneratedKind(2, 4, 2, functions.SINE),
    "mixed": GeneratedKind(2, 2, 4, functions.MIXED),
    "hyperplane": GeneratedKind(2, 0, 10, functions.HYPERPLANE, moves=True),
    "led": GeneratedKind(10, 8, 7, noise_features=17),
    "waveform": GeneratedKind(3, 22, 21),
    "rbf": GeneratedKind(2, 0, 10, moves=True),
}  # fmt: skip


class Truth(NamedTuple):
    """The truth of n rows of a generated stream.

    `concept` int64 (n,) is the concept of each row, `toward` the one that it moves to and `share` float64 (n,) how far
    it has moved (0 unless drift is incremental). `clean` int64 (n,) is the class before the noise of labels. `proba`
    float64 (n, classes) is P(class | features, concept), with the noise: no model can beat it on average.
    """

    concept: Ints
    toward: Ints
    share: Floats
    clean: Ints
    proba: Floats


def write_rows(columns: Callable[[int, int], dict[str, Any]], rows: int, path: str | Path) -> None:
    """Write the rows that `columns(after, rows)` makes to .parquet or .csv. Raises `InputError` for another ending."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    ending = Path(path).suffix.lower()
    if ending not in (".parquet", ".csv"):
        raise InputError(f"write: got {str(path)!r}; expected a path that ends in .parquet or .csv")
    made = pa.table(columns(0, 0)).schema
    open_ = pyarrow.parquet.ParquetWriter if ending == ".parquet" else pyarrow.csv.CSVWriter
    with open_(str(path), made) as writer:
        for start in range(0, rows, _PIECE):
            writer.write_table(pa.table(columns(start, min(_PIECE, rows - start)), schema=made))


@dataclass(frozen=True, eq=False)
class Generator:
    """The rows of one generated stream: `columns`, `truth` and `best` read them, `write` stores them.

    `kind` is the name of the stream and `rows` its length; `concepts` are the numbers of its concepts and `schedule`
    says when they change. `noise` is the probability that a label is wrong (of LED: that a segment is), `shares` are
    those of the classes (empty: as they come), `change` and `reversal` move a hyperplane or the centres of an RBF.
    """

    kind: str
    rows: int
    concepts: tuple[int, ...]
    schedule: DriftPlan
    seed: int
    features: int
    classes: int
    noise: float
    shares: tuple[float, ...]
    change: float
    reversal: float
    drifting: int
    centres: int
    _made: Arrays = field(default_factory=dict, repr=False)

    @property
    def schema(self) -> Schema:
        """The fields, and the label `label` with classes from 0."""
        fields = {name: KINDS[self.kind].fields.get(name, "numeric") for name in self.names}
        task: Task = "binary" if self.classes == 2 else "multiclass"
        return Schema(label=LABEL, task=task, fields=fields, classes=tuple(range(self.classes)))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features: those that may decide first, then noise."""
        given = KINDS[self.kind].names or tuple(f"x{j}" for j in range(self.features))
        return given + tuple(f"x{j}" for j in range(len(given), self.features))

    def columns(self, after: int = 0, rows: int | None = None) -> dict[str, Any]:
        """Return the rows `after` + 1 and further as columns: float64 (n,), int64 (n,) for categories and the label."""
        x, _, y, _ = self._rows(after, rows)
        kinds = KINDS[self.kind].fields
        columns: dict[str, Any] = {
            name: x[:, j].astype(np.int64) if name in kinds else np.ascontiguousarray(x[:, j])
            for j, name in enumerate(self.names)
        }
        return columns | {LABEL: y}

    def truth(self, after: int = 0, rows: int | None = None) -> Truth:
        """Return the truth of the rows `after` + 1 and further.

        >>> from everlearn.stream.generated import generate
        >>> found = generate("sea", rows=100, drift="sudden", noise=0.1).generator.truth(48, 4)
        >>> found.concept.tolist(), found.proba.max(axis=1).tolist()
        ([0, 0, 1, 1], [0.9, 0.9, 0.9, 0.9])
        """
        x, clean, _, at = self._rows(after, rows)
        proba = self._proba(x, clean, at, after)
        if self.noise and self.kind != "led":
            proba = (1.0 - self.noise) * proba + self.noise * (1.0 - proba) / (self.classes - 1)
        numbers = np.array(self.concepts)
        return Truth(numbers[at.now], numbers[at.toward], at.share, clean, proba)

    def best(self, after: int = 0, rows: int | None = None) -> dict[str, float]:
        """Return `accuracy`, `log_loss` and `brier` of a model that knows P(class | features, concept) of each row.

        They are expectations over the labels of the rows `after` + 1 and further: no model does better on average.
        """
        count, sums = self._count(after, rows), np.zeros(3)
        for start in range(0, count, _PIECE):
            p = self.truth(after + start, min(_PIECE, count - start)).proba
            logs = np.log(p, out=np.zeros_like(p), where=p > 0)
            sums += p.max(axis=1).sum(), -(p * logs).sum(), (1.0 - (p**2).sum(axis=1)).sum() / 2.0
        return dict(zip(("accuracy", "log_loss", "brier"), (sums / max(count, 1)).tolist(), strict=True))

    def write(self, path: str | Path) -> None:
        """Write all rows to a file: .parquet or .csv. Raises `InputError` for another ending."""
        write_rows(self.columns, self.rows, path)

    def _count(self, after: int, rows: int | None) -> int:
        if after < 0 or (rows is not None and rows < 0):
            raise InputError(f"rows: got {rows} after {after}; expected numbers from 0")
        left = max(self.rows - after, 0)
        return left if rows is None else min(rows, left)

    def _rows(self, after: int, rows: int | None) -> tuple[Floats, Ints, Ints, RowConcepts]:
        """Return features, classes before noise, labels and concepts of rows."""
        count = self._count(after, rows)
        at = stretches(self.schedule, self.seed ^ _SCHEDULE, after, count)
        x, clean = np.empty((count, self.features)), np.empty(count, np.int64)
        if KINDS[self.kind].function >= 0:
            self._draw_function(x, clean, at, after)
        elif self.kind == "rbf":
            made = self._centres()
            parts = (made["centres"], made["spread"], made["classes"], made["cumulative"], made["velocity"])
            mixtures.draw_rbf(self.seed, after, *parts, *at, x, clean)
        elif self.kind == "led":
            mixtures.draw_led(self.seed, after, self.noise, self._order(), at.now, np.cumsum(self._priors()), x, clean)
        else:
            mixtures.draw_waveform(self.seed, after, self._order(), at.now, np.cumsum(self._priors()), x, clean)
        y = clean
        if self.noise and self.kind != "led":
            y = clean.copy()
            mixtures.replace(self.seed ^ _NOISE, after, self.noise, self.classes, y)
        return x, clean, y, at

    def _draw_function(self, x: Floats, clean: Ints, at: RowConcepts, after: int) -> None:
        wanted = np.full(len(x), -1)
        if self.shares:
            mixtures.choose(self.seed ^ _CLASS, after, np.cumsum(self.shares), wanted)
        code = KINDS[self.kind].function
        relevant = self.features if code == functions.HYPERPLANE else functions.RELEVANT[code]
        functions.draw(code, self.seed, after, relevant, self._parameters(at, after), wanted, x, clean)
        missing = np.flatnonzero((wanted >= 0) & (clean != wanted))
        if len(missing):
            raise InputError(
                f"shares: found no row of class {wanted[missing[0]]} in {functions.ATTEMPTS:,} draws for row "
                f"{after + missing[0] + 1:,} of {self.kind}; expected a class that occurs under each concept"
            )

    def _parameters(self, at: RowConcepts, after: int) -> Floats:
        """Return the concept of each row as the parameters of `functions`, float64 (n, m)."""
        numbers = np.array(self.concepts, np.float64)
        if self.kind == "sea":
            held = np.array(functions.THRESHOLDS)[list(self.concepts)][:, None]
        elif self.kind == "hyperplane":
            seed = self.seed ^ _CONCEPTS
            held = np.array([[uniform(seed, c, j) for j in range(self.features)] for c in self.concepts])
        else:
            held = numbers[:, None]
        share = at.share[:, None]
        found: Floats = held[at.now]
        if self.schedule.moves:
            found = (1 - share) * found + share * held[at.toward]
        if self.kind == "hyperplane" and self.change:
            found[:, : self.drifting] += self._walked(after, len(found))
        return found

    def _walked(self, after: int, rows: int) -> Floats:
        """Return how far the weights of a hyperplane have moved at each row, float64 (n, drifting).

        The walk continues where the last call ended, and begins again for an earlier row.
        """
        held = self._made
        if "at" not in held or held["at"][0] > after:
            held |= {"at": np.zeros(1, np.int64), "offset": np.zeros(self.drifting), "way": np.ones(self.drifting)}
        while True:
            begin = int(held["at"][0])
            count = min(_PIECE, after - begin) if begin < after else rows
            moved = np.empty((count, self.drifting))
            functions.walk(self.seed ^ _TURNS, begin, self.change, self.reversal, held["offset"], held["way"], moved)
            held["at"] += count
            if begin >= after:
                return moved

    def _order(self) -> Ints:
        """Return the place of each feature by concept, int64 (concepts, features)."""
        relevant = KINDS[self.kind].relevant
        orders = [mixtures.swapped(self.seed ^ _CONCEPTS, self.features, relevant, c) for c in self.concepts]
        return np.stack(orders)

    def _priors(self) -> Floats:
        return np.array(self.shares) if self.shares else np.full(self.classes, 1.0 / self.classes)

    def _centres(self) -> Arrays:
        """Return the centres of an RBF stream by concept; see `mixtures.draw_rbf`."""
        if "centres" not in self._made:
            count, d = self.centres, self.features
            flat = (uniform(self.seed ^ _CONCEPTS, c, j) for c in self.concepts for j in range(count * (2 * d + 3)))
            drawn = np.fromiter(flat, np.float64).reshape(len(self.concepts), count, 2 * d + 3)
            velocity = drawn[:, :, d : 2 * d] / np.linalg.norm(drawn[:, :, d : 2 * d], axis=2, keepdims=True)
            velocity[:, self.drifting :] = 0.0
            weight, classes = drawn[:, :, 2 * d + 1].copy(), (drawn[:, :, 2 * d + 2] * self.classes).astype(np.int64)
            if self.schedule.moves:  # a centre keeps its class and its weight while it moves
                weight[:], classes[:] = weight[0], classes[0]
            for c in range(len(weight)):
                for k, share in enumerate(self.shares):
                    if not (classes[c] == k).any():
                        raise ConfigError(f"shares: class {k} has no centre under concept {self.concepts[c]}; add some")
                    weight[c, classes[c] == k] *= share / weight[c, classes[c] == k].sum()
            weight /= weight.sum(axis=1, keepdims=True)
            self._made.update(
                centres=drawn[:, :, :d].copy(), spread=drawn[:, :, 2 * d].copy(), velocity=velocity * self.change,
                weight=weight, cumulative=np.cumsum(weight, axis=1), classes=classes,
            )  # fmt: skip
        return self._made

    def _proba(self, x: Floats, clean: Ints, at: RowConcepts, after: int) -> Floats:
        """Return P(class | features) before the noise of labels."""
        if self.kind == "led":
            return mixtures.led(x, self.noise, self._order(), at.now, self._priors())
        if self.kind == "waveform":
            return mixtures.waveform(x, self._order(), at.now, self._priors())
        proba = np.zeros((len(x), self.classes))
        if self.kind == "rbf":
            made = self._centres()
            parts = (made["centres"], made["spread"], made["classes"], made["weight"], made["velocity"])
            mixtures.rbf_densities(after, *parts, *at, x, proba)
        else:
            proba[np.arange(len(x)), clean] = 1.0
        return proba
