"""Generated choices and ratings: users who choose items by taste and fashion, with the truth of each row.

Each user and item has a vector of factors. At row t a user chooses item i with a probability proportional to
exp(fashion of i at t + taste x product of the vectors); half of the items come out in the course of the stream. The
rating, from 1 to 5, depends on the product, the item and noise. All are functions of the seed and the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from everlearn._jit import exact_kernel
from everlearn._random import uniform
from everlearn.records import Arrays, Floats, Ints
from everlearn.spec import Schema
from everlearn.stream.generated.generator import write_rows

USER, ITEM, CHOSEN = "user", "item", "label"
CHOICE_KINDS = ("choices", "ratings")
FACTORS = 6
TASTE = 1.5  # deviation of the part of a logit that depends on the user
CYCLES = 2.0  # of fashion in a stream
NOISE = 0.5  # deviation of a rating
_PIECE = 2048  # rows whose probabilities are held at a time


class ChoiceTruth(NamedTuple):
    """The truth of n rows: what each user would choose, float64 (n, items), and the rating without noise, (n,)."""

    proba: Floats
    rating: Floats


@dataclass(frozen=True, eq=False)
class ChoiceGenerator:
    """The rows of a stream of choices: `columns`, `truth` and `best` read them, `write` stores them.

    `kind` "choices" has the label 1 in all rows, and "ratings" a rating. `change` is the deviation of fashion over
    time: 0 keeps the popularity of items as it is.
    """

    kind: str
    rows: int
    users: int
    items: int
    change: float
    seed: int
    concepts: tuple[int, ...] = ()
    _made: Arrays = field(default_factory=dict, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features."""
        return (USER, ITEM)

    @property
    def schema(self) -> Schema:
        """The fields, user first, and the label."""
        fields = dict.fromkeys(self.names, "categorical")
        bits = max(int(np.ceil(np.log2(16 * (self.users + self.items)))), 10)
        if self.kind == "ratings":
            return Schema(label=CHOSEN, task="regression", fields=fields, bits=bits)
        return Schema(label=CHOSEN, task="binary", classes=(0, 1), fields=fields, bits=bits)

    def columns(self, after: int = 0, rows: int | None = None) -> dict[str, Any]:
        """Return the rows `after` + 1 and further as columns: users and items int64 (n,), and the label."""
        user, item = np.zeros(self._count(after, rows), np.int64), np.zeros(self._count(after, rows), np.int64)
        for start in range(0, len(user), _PIECE):
            part = slice(start, start + _PIECE)
            user[part], item[part] = self._drawn(after + start, len(user[part]))
        label = np.ones(len(user), np.int64) if self.kind == "choices" else self._ratings(after, user, item)
        return {USER: user, ITEM: item, CHOSEN: label}

    def truth(self, after: int = 0, rows: int | None = None) -> ChoiceTruth:
        """Return the truth of the rows `after` + 1 and further.

        >>> found = ChoiceGenerator("choices", 100, users=5, items=8, change=0.0, seed=0).truth(0, 3)
        >>> found.proba.shape, found.proba.sum(axis=1).round(9).tolist()
        ((3, 8), [1.0, 1.0, 1.0])
        """
        count = self._count(after, rows)
        proba, rating = np.zeros((count, self.items)), np.zeros(count)
        for start in range(0, count, _PIECE):
            part = slice(start, start + _PIECE)
            user, item = self._drawn(after + start, len(rating[part]))
            proba[part] = self._proba(after + start, user)
            rating[part] = self._mean_rating(user, item)
        return ChoiceTruth(proba, rating)

    def best(self, after: int = 0, rows: int | None = None, k: int = 10) -> dict[str, float]:
        """Return the expected `recall` and `ndcg` at k of a model that knows the probability of each choice.

        No model does better on average over the choices of the rows `after` + 1 and further.
        """
        count, sums = self._count(after, rows), np.zeros(2)
        for start in range(0, count, _PIECE):
            proba = self.truth(after + start, min(_PIECE, count - start)).proba
            first = -np.sort(-proba, axis=1)[:, :k]
            sums += first.sum(), (first / np.log2(2.0 + np.arange(first.shape[1]))).sum()
        return dict(zip(("recall", "ndcg"), (sums / max(count, 1)).tolist(), strict=True))

    def write(self, path: str | Path) -> None:
        """Write all rows to a file: .parquet or .csv. Raises `InputError` for another ending."""
        write_rows(self.columns, self.rows, path)

    def _count(self, after: int, rows: int | None) -> int:
        left = max(self.rows - after, 0)
        return left if rows is None else min(max(rows, 0), left)

    def _parts(self) -> Mapping[str, Any]:
        """Return the parts that are drawn once: vectors, fashion, and the row from which each item is there."""
        if not self._made:
            random = np.random.default_rng([self.seed, 0xC401])
            activity = 1.0 / (1.0 + np.arange(self.users)) ** 0.5
            late = np.maximum(np.arange(self.items) - self.items // 2, 0) / max(self.items - self.items // 2, 1)
            order = random.permutation(self.items)
            made = {
                "activity": np.cumsum(activity / activity.sum()),
                "user": random.normal(size=(self.users, FACTORS)),
                "item": random.normal(size=(self.items, FACTORS)) / FACTORS**0.5,
                "popularity": random.normal(size=self.items),
                "phase": random.random(self.items),
                "born": (late * 0.8 * self.rows)[order],
            }
            self._made.update(made)
        return self._made

    def _proba(self, first: int, user: Ints) -> Floats:
        """Return the probability that each user chooses each item, float64 (n, items), from row `first` on."""
        made = self._parts()
        at = (first + np.arange(len(user)))[:, None]
        turn = 2.0 * np.pi * (CYCLES * at / self.rows + made["phase"])
        logits = made["popularity"] + self.change * 2.0**0.5 * np.sin(turn)
        logits = logits + TASTE * made["user"][user] @ made["item"].T
        logits = np.where(at >= made["born"], logits, -np.inf)
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: Floats = share / share.sum(axis=1, keepdims=True)
        return found

    def _drawn(self, first: int, rows: int) -> tuple[Ints, Ints]:
        made, drawn = self._parts(), np.empty((rows, 2))
        _fill(self.seed, first, drawn)
        user = np.minimum(np.searchsorted(made["activity"], drawn[:, 0], side="right"), self.users - 1)
        cumulative = np.cumsum(self._proba(first, user), axis=1)
        item = (cumulative <= drawn[:, 1:] * cumulative[:, -1:]).sum(axis=1)
        return user, np.minimum(item, self.items - 1)

    def _mean_rating(self, user: Ints, item: Ints) -> Floats:
        made = self._parts()
        product = (made["user"][user] * made["item"][item]).sum(axis=1)
        found: Floats = 3.0 + 0.3 * made["popularity"][item] + 0.8 * product
        return found

    def _ratings(self, after: int, user: Ints, item: Ints) -> Floats:
        drawn = np.empty((len(user), 4))
        _fill(self.seed ^ 0x5A7E, after, drawn)
        noise = (drawn.sum(axis=1) - 2.0) * 3.0**0.5  # the sum of four uniform numbers, near to a normal one
        found: Floats = np.clip(self._mean_rating(user, item) + NOISE * noise, 1.0, 5.0)
        return found


@exact_kernel
def _fill(seed: int, first: int, out: Floats) -> None:
    """Fill each row with uniform numbers that depend on the seed and the number of the row."""
    for i in range(out.shape[0]):
        for k in range(out.shape[1]):
            out[i, k] = uniform(seed, first + i, k)
