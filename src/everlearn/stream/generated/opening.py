"""Open a generated stream by its name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from everlearn.errors import ConfigError, did_you_mean
from everlearn.stream.blocks import Block
from everlearn.stream.generated.choices import CHOICE_KINDS, ChoiceGenerator
from everlearn.stream.generated.generator import KINDS, LABEL, Generator
from everlearn.stream.generated.schedule import planned
from everlearn.stream.sources import Source
from everlearn.stream.stream import Stream

_SIZED = ("hyperplane", "rbf")  # whose number of features is free
_NO_MOVE = ("sea", "agrawal", "sine", "mixed", "led", "waveform")


def generate(
    kind: str,
    rows: int = 100_000,
    *,
    drift: str = "none",
    concepts: Sequence[int] | None = None,
    positions: Sequence[int] = (),
    width: int | Sequence[int] | None = None,
    noise: float = 0.0,
    shares: float | Sequence[float] = (),
    seed: int = 0,
    features: int = 10,
    noise_features: int | None = None,
    classes: int = 2,
    centres: int = 50,
    change: float = 0.0,
    reversal: float = 0.1,
    drifting: int | None = None,
    users: int = 500,
    items: int = 300,
) -> Stream:
    """Return a generated stream, which `prequential`, a loop and `write` take as they take a file.

    `kind` is "sea", "agrawal", "sine", "mixed", "hyperplane", "led", "waveform" or "rbf". `stream.generator` has the
    truth of each row, the best possible error, and writes the rows to a file. "choices" and "ratings" are streams for
    recommenders: `users` choose `items` by taste and by a fashion that moves as much as `change` (1.0 is as much as
    popularity differs); the label is 1, or the rating (see `everlearn.stream.generated.choices`). They take `rows`,
    `users`, `items`, `change` and `seed` alone.

    `drift` says how `concepts` follow each other: "sudden", "gradual" (rows have one of both), "recurring" (they come
    again, gradually with a `width`) or "incremental" (the concept itself moves; SEA, hyperplane and RBF).
    `positions` are the rows in the middle of each change, counted from 0, and `width` is its length in rows. Concepts
    are numbers: 0 to 3 of SEA and sine, 0 to 9 of Agrawal, 0 and 1 of mixed, the features that swapped places with
    noise of LED (to 7) and waveform (to 21), and any number of a hyperplane or an RBF, whose parameters it draws.

    `noise` is the probability that a label is replaced by another class; of LED, that a segment is inverted. `shares`
    are those of the classes before that noise, or of class 1 alone. `features` is the number of a hyperplane or an RBF;
    `noise_features` adds some that say nothing (LED has 17 unless given). `change` moves `drifting` weights of a
    hyperplane (2) or centres of an RBF (all) after each row; `reversal` is the probability that a weight turns round.
    An RBF has `classes` and `centres`.

    Sources: Street and Kim 2001 (SEA), Agrawal et al. 1993, Gama et al. 2004 (sine, mixed), Breiman et al. 1984 (LED,
    waveform), Hulten et al. 2001 (hyperplane), Bifet et al. 2009 (RBF, gradual drift). Raises `ConfigError` for a name,
    a number or a combination that does not fit.

    >>> stream = generate("sea", rows=1000, drift="sudden", concepts=(0, 2), noise=0.1)
    >>> stream.generator.truth(499, 2).concept.tolist(), round(stream.generator.best()["accuracy"], 3)
    ([0, 2], 0.9)
    """
    if kind in CHOICE_KINDS:
        return _choices(kind, rows, users, items, change, seed)
    if kind not in KINDS:
        known = [*KINDS, *CHOICE_KINDS]
        raise ConfigError(f"kind: got {kind!r}; expected one of {', '.join(known)}{did_you_mean(str(kind), known)}")
    found, sized = KINDS[kind], features if kind in _SIZED else KINDS[kind].relevant
    classes = classes if kind == "rbf" else found.classes
    noises = found.noise_features if noise_features is None else noise_features
    chosen = tuple(concepts) if concepts is not None else (0,) if drift == "none" else (0, 1)
    most = found.concepts
    if kind in ("led", "waveform"):
        most = min(most, noises + 1)
    if not chosen or any(not 0 <= one < (most or 2**31) for one in chosen):
        more = "; each swaps one more feature with noise, so add noise_features" if kind in ("led", "waveform") else ""
        raise ConfigError(f"concepts: got {chosen} of {kind}; expected numbers from 0 to {(most or 2**31) - 1}{more}")
    if drift == "incremental" and not found.moves:
        able = ", ".join(name for name, one in KINDS.items() if one.moves)
        raise ConfigError(f"drift: got 'incremental' for {kind}, whose concepts cannot move; expected one of {able}")
    count = centres if kind == "rbf" else sized
    drifts = (min(2, count) if kind == "hyperplane" else count) if drifting is None else drifting
    _check(
        ("rows", rows, rows >= 1, "a number from 1"),
        ("noise", noise, 0.0 <= noise < 1.0, "a probability from 0 to below 1"),
        ("noise_features", noises, 0 <= noises <= 3000 and (kind != "rbf" or not noises), "0 to 3,000; of rbf 0"),
        ("features", features, 1 <= features <= 1000, "a number from 1 to 1,000"),
        ("classes", classes, 2 <= classes <= 1000, "a number from 2 to 1,000"),
        ("centres", centres, 1 <= centres <= 10_000, "a number from 1 to 10,000"),
        ("change", change, change == 0.0 or (change > 0.0 and kind not in _NO_MOVE), "0, or above for hyperplane, rbf"),
        ("reversal", reversal, 0.0 <= reversal <= 1.0, "a probability"),
        ("drifting", drifts, 0 <= drifts <= count, f"a number from 0 to {count}"),
    )
    schedule = planned(drift, rows, len(chosen), positions, width)
    generator = Generator(
        kind=kind, rows=int(rows), concepts=chosen, schedule=schedule, seed=int(seed), features=sized + noises,
        classes=classes, noise=float(noise), shares=_shares(shares, classes), change=float(change),
        reversal=float(reversal), drifting=int(drifts), centres=int(centres) if kind == "rbf" else 0,
    )  # fmt: skip
    return Stream(Drawn(generator), generator.schema, generator=generator)


def _choices(kind: str, rows: int, users: int, items: int, change: float, seed: int) -> Stream:
    """Return a stream of choices or ratings. Raises `ConfigError` for a number out of range."""
    _check(
        ("rows", rows, rows >= 1, "a number from 1"),
        ("users", users, 1 <= users <= 1_000_000, "a number from 1 to 1,000,000"),
        ("items", items, 2 <= items <= 100_000, "a number from 2 to 100,000"),
        ("change", change, 0.0 <= change <= 10.0, "a number from 0 to 10"),
    )
    generator = ChoiceGenerator(kind, int(rows), int(users), int(items), float(change), int(seed))
    return Stream(Drawn(generator), generator.schema, generator=generator)


class Drawn:
    """The rows of a generator as a source; they are made when they are read."""

    form, about, foreign = "table", "a generated stream", 0

    def __init__(self, generator: Generator | ChoiceGenerator) -> None:
        self.names: Sequence[str] = (*generator.names, LABEL)
        order = "-".join(map(str, generator.concepts))
        concepts = f", concepts {order}" if order else ""
        self.name = f"{generator.kind}{concepts}, seed {generator.seed}"
        self._generator = generator

    def under(self, rules: int) -> Source:
        """Return the source itself: rules of reading concern text."""
        return self

    def blocks(self, after: int, size: int, wanted: Collection[str] | None) -> Iterator[Block]:
        """Yield the rows after the first `after`, at most `size` in a block."""
        for start in range(after, self._generator.rows, size):
            columns = self._generator.columns(start, size)
            n = len(columns[LABEL])
            kept = {name: column for name, column in columns.items() if wanted is None or name in wanted}
            yield Block(self.name, start, n, np.arange(n), range(start + 1, start + n + 1), kept, {})

    def count(self) -> int:
        """Return the number of rows."""
        return self._generator.rows


def _check(*settings: tuple[str, object, bool, str]) -> None:
    """Raise `ConfigError` for the first setting whose value does not fit."""
    for name, got, fits, expected in settings:
        if not fits:
            raise ConfigError(f"{name}: got {got!r}; expected {expected}")


def _shares(given: float | Sequence[float], classes: int) -> tuple[float, ...]:
    """Return the shares of all classes; empty where they are free. Raises `ConfigError` if they do not add up to 1."""
    if isinstance(given, int | float):
        given = (1.0 - given, given)
    found = tuple(float(one) for one in given)
    if found and (len(found) != classes or min(found) < 0.0 or abs(sum(found) - 1.0) > 1e-9):
        raise ConfigError(
            f"shares: got {found} for {classes} classes; expected one each that add up to 1, or class 1's"
        )
    return found
