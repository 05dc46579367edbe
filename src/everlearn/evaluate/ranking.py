"""Recommendations: the best items for a user, and how well a model ranks what users choose, in time order.

    rank(model, stream)                   -> RankReport: recall@k and NDCG@k, beside popularity
    recommend(model, schema, user, items) -> the best items, with their scores

Each choice is ranked before it is learned, among all items that were chosen before it. So no item of the future is a
negative, and none is left out (sampled metrics misjudge models: Krichene and Rendle 2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import ConfigError, InputError, did_you_mean
from everlearn.evaluate.scoring import model_of, pieces
from everlearn.model import Model, cut
from everlearn.records import Batch, Floats, Ints, Scalar
from everlearn.schema import Encoder, shape
from everlearn.schema.layout import CATEGORIES
from everlearn.spec import Schema
from everlearn.stream import Stream

POPULAR = "popular"
_CURVE = 50  # points of a curve, at most
_ENTRY = NDArray[np.int32]


@dataclass(frozen=True)
class RankReport:
    """The result of ranking the choices of a stream in time order.

    `metrics` has "recall" and "ndcg" at `k`, and "mrr", the mean of 1 / rank, over the choices of users who chose
    before; `cold` the same over the first choice of each user; `baselines` the metrics and `cold_baselines` those of
    popularity on the same choices. `choices` and `cold_choices` count them; `new_items` counts choices of an item that
    was never chosen before, which nothing can rank, and `incomplete` rows without a user or an item. `items` is the
    number of items known at the end. `curve` has `x` (choices), and "recall" and "ndcg" of the model and of popularity
    over stretches of equal length.
    """

    name: str
    k: int
    metrics: dict[str, float]
    cold: dict[str, float]
    baselines: dict[str, dict[str, float]]
    cold_baselines: dict[str, dict[str, float]]
    choices: int
    cold_choices: int
    new_items: int
    incomplete: int
    items: int
    curve: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)


def rank(
    model: Model | Mapping[str, Any] | str,
    stream: Stream,
    *,
    user: str = "user",
    item: str = "item",
    k: int = 10,
    liked: float | None = None,
    repeats: bool = True,
    chunk: int = 4096,
) -> RankReport:
    """Rank each choice of a stream before it is learned, among all items known so far, and report recall and NDCG.

    `user` and `item` name two categorical fields. A choice is a row of class 1 of two classes, or a rating of at least
    `liked` (None: each rating). Rows that are no choice are learned, and not ranked. With `repeats` false the items
    that a user chose before are no candidates. Items with equal scores share the mean of their ranks. Popularity of
    late (the family "popular") is ranked beside the model.

    Raises `ConfigError` for a stream that is not binary or a regression, for fields that are not categorical, and for
    `schema.interactions`, since crossed entries hide the item.

    >>> from everlearn.stream.generated import generate
    >>> report = rank("matrix", generate("choices", rows=8000, users=50, items=40, seed=1))
    >>> report.metrics["recall"] > report.baselines["popular"]["recall"] + 0.03
    True
    """
    schema = _checked(stream.schema, user, item, k)
    bounds = shape(schema)
    contestants = {"model": model_of(model, bounds), POPULAR: _popular(schema, item, bounds)}
    seen = _Seen(schema, user, item)
    ranked: list[tuple[int, bool, list[float]]] = []
    new_items = incomplete = number = 0
    for examples, _ in pieces(stream, chunk, ""):
        for row in range(len(examples.y)):
            one = cut(examples, row, row + 1)
            entries = seen.entries(one.batch)
            if entries is None:
                incomplete += 1
                continue
            who, what = int(entries[seen.user]), int(entries[seen.item])
            choice = _is_choice(schema, float(one.y[0]), liked)
            if choice:
                number += 1
                if what in seen.places:
                    candidates, place = seen.candidates(who, what, repeats)
                    rows = _rows(one.batch, entries, seen.item, candidates)
                    found = [_place(_scores(each, rows), place) for each in contestants.values()]
                    ranked.append((number, who not in seen.chosen, found))
                else:
                    new_items += 1
                seen.note(who, what)
            contestants["model"].learn(one.batch, one.y, one.weight)
            contestants[POPULAR].learn(one.batch, np.full(1, float(choice)), one.weight)
    return _report(stream.name, k, list(contestants), ranked, new_items, incomplete, len(seen.places))


def recommend(
    model: Model,
    schema: Schema,
    record: Mapping[str, Any],
    items: Iterable[Scalar],
    n: int = 10,
    *,
    item: str = "item",
) -> list[tuple[Scalar, float]]:
    """Return the n best items for a user, best first, with their scores.

    `record` has the user, and whatever else the model knows; `items` are the candidates, which take the place of the
    field `item`. The score is the probability of class 1, or the predicted rating. Items with equal scores stay in
    their order. Raises `InputError` for a model of more than two classes, or a record that does not fit the schema.

    >>> from everlearn.model import build
    >>> from everlearn.schema import Encoder
    >>> fields = {"user": "categorical", "item": "categorical"}
    >>> schema = Schema(label="y", task="binary", classes=(0, 1), fields=fields, bits=10)
    >>> encoder = Encoder(schema)
    >>> model = build({"family": "popular"}, encoder.shape)
    >>> rows, _ = encoder.records([{"user": "ann", "item": one} for one in ("tea", "milk", "tea")])
    >>> scores = model.learn(rows, np.ones(3), np.ones(3, np.float32))
    >>> [name for name, _ in recommend(model, schema, {"user": "bob"}, ["milk", "tea", "oats"], n=2)]
    ['tea', 'milk']
    """
    names = list(items)
    if unknown := [name for name in record if name not in schema.fields]:
        raise InputError(
            f"recommend: got the field {unknown[0]!r}; expected fields among {', '.join(map(repr, schema.fields))}"
            f"{did_you_mean(unknown[0], schema.fields)}"
        )
    if n < 1 or item not in schema.fields:
        raise InputError(f"recommend: got n {n} and item {item!r}; expected a number from 1, and a field of the schema")
    if not names:
        return []
    batch = Encoder(schema).rows([{**record, item: name} for name in names])
    scores = _scores(model, batch)
    order = np.argsort(-scores, kind="stable")[:n]
    return [(names[place], float(scores[place])) for place in order.tolist()]


class _Seen:
    """What was chosen so far: the items in the order of their first choice, and those of each user."""

    def __init__(self, schema: Schema, user: str, item: str) -> None:
        categories = [name for name, kind in schema.fields.items() if kind in CATEGORIES]
        self.user, self.item = categories.index(user), categories.index(item)
        self.places: dict[int, int] = {}  # hashed index of an item -> its place
        self.chosen: dict[int, set[int]] = {}  # hashed index of a user -> places of items
        self._whole = len(categories)
        self._items = np.zeros(64, np.int32)

    def entries(self, batch: Batch) -> _ENTRY | None:
        """Return the hashed entries of one row; None if it lacks a category."""
        found = batch.indices[batch.indptr[0] : batch.indptr[1]]
        return found if len(found) >= self._whole else None

    def candidates(self, user: int, item: int, repeats: bool) -> tuple[_ENTRY, int]:
        """Return the hashed indices of all candidates, and the place of the chosen item among them."""
        known, place = self._items[: len(self.places)], self.places[item]
        if repeats:
            return known, place
        keep = np.ones(len(known), np.bool_)
        keep[list(self.chosen.get(user, set()) - {place})] = False
        return known[keep], int(keep[:place].sum())

    def note(self, user: int, item: int) -> None:
        """Note a choice."""
        place = self.places.setdefault(item, len(self.places))
        if place == len(self._items):
            self._items = np.concatenate([self._items, np.zeros_like(self._items)])
        self._items[place] = item
        self.chosen.setdefault(user, set()).add(place)


def _rows(batch: Batch, entries: _ENTRY, place: int, candidates: _ENTRY) -> Batch:
    """Return a row for each candidate: the given one, with another item."""
    n, wide = len(candidates), len(entries)
    indices = np.tile(entries, (n, 1))
    indices[:, place] = candidates
    values = np.tile(batch.values[batch.indptr[0] : batch.indptr[1]], n)
    indptr = np.arange(0, n * wide + 1, wide, dtype=np.int64)
    return Batch(np.repeat(batch.dense, n, axis=0), indptr, indices.ravel(), values)


def _scores(model: Model, rows: Batch) -> Floats:
    """Return the score of each row: the probability of class 1, or the number, float64 (n,)."""
    scores = model.predict(rows)
    if scores.shape[1] > 2:
        raise InputError(
            f"recommend: got a model of {scores.shape[1]} classes; expected two classes, of which the second is a "
            "choice, or a regression of ratings"
        )
    return scores[:, -1].astype(np.float64)


def _place(scores: Floats, place: int) -> float:
    """Return the rank of an item, from 1; items with equal scores share the mean of their ranks.

    >>> _place(np.array([0.5, 0.9, 0.5, 0.1]), 0)
    2.5
    """
    own = scores[place]
    return 1.0 + float((scores > own).sum()) + (float((scores == own).sum()) - 1.0) / 2.0


def _is_choice(schema: Schema, y: float, liked: float | None) -> bool:
    if schema.task == "regression":
        return liked is None or y >= liked
    return y == 1.0


def _popular(schema: Schema, item: str, bounds: Mapping[str, Any]) -> Model:
    """Return the model of popularity; it counts choices, of ratings too."""
    categories = [name for name, kind in schema.fields.items() if kind in CATEGORIES]
    return model_of({"family": POPULAR, "place": categories.index(item)}, {**bounds, "task": "binary", "classes": 2})


def _checked(schema: Schema, user: str, item: str, k: int) -> Schema:
    kinds = {name: schema.fields.get(name) for name in (user, item)}
    if schema.task not in ("binary", "regression"):
        raise ConfigError(f"rank: got a stream with task {schema.task!r}; expected 'binary' (choices) or 'regression'")
    if not set(kinds.values()) <= set(CATEGORIES) or user == item:
        known = ", ".join(name for name, kind in schema.fields.items() if kind in CATEGORIES) or "none"
        raise ConfigError(
            f"rank: got user {user!r} and item {item!r}; expected two categorical fields, of {known}. Name them"
        )
    if schema.interactions:
        raise ConfigError("rank: got a schema with interactions; expected none. Set schema.interactions to false")
    if k < 1:
        raise ConfigError(f"rank: k: got {k}; expected a number from 1")
    return schema


def _metrics(ranks: Floats, k: int) -> dict[str, float]:
    """Return recall, NDCG and MRR of ranks, float64 (n,); NaN without any.

    With one right item the NDCG of a choice is 1 / log2(1 + rank), 0 beyond k (Jarvelin and Kekalainen 2002).

    >>> _metrics(np.array([1.0, 3.0, 20.0]), 10)
    {'recall': 0.6666666666666666, 'ndcg': 0.5, 'mrr': 0.4611111111111111}
    """
    if not len(ranks):
        return dict.fromkeys(("recall", "ndcg", "mrr"), float("nan"))
    inside = ranks <= k
    gain = np.where(inside, 1.0 / np.log2(1.0 + ranks), 0.0)
    return {"recall": float(inside.mean()), "ndcg": float(gain.mean()), "mrr": float((1.0 / ranks).mean())}


def _report(
    name: str, k: int, names: Sequence[str], ranked: Sequence[tuple[int, bool, list[float]]], new_items: int,
    incomplete: int, items: int,
) -> RankReport:  # fmt: skip
    cold = np.array([one[1] for one in ranked], np.bool_)
    ranks = np.array([one[2] for one in ranked], np.float64).reshape(len(ranked), len(names))
    at: Ints = np.array([one[0] for one in ranked], np.int64)
    each = {one: _metrics(ranks[~cold, place], k) for place, one in enumerate(names)}
    first = {one: _metrics(ranks[cold, place], k) for place, one in enumerate(names)}
    curve: dict[str, NDArray[Any]] = {}
    if (~cold).any():
        parts = np.array_split(np.flatnonzero(~cold), min(_CURVE, int((~cold).sum())))
        curve["x"] = np.array([at[part[-1]] for part in parts])
        for place, one in enumerate(names):
            found = [_metrics(ranks[part, place], k) for part in parts]
            for metric in ("recall", "ndcg"):
                curve[metric if one == "model" else f"{one}_{metric}"] = np.array([part[metric] for part in found])
    return RankReport(
        name=name, k=k, metrics=each.pop("model"), cold=first.pop("model"), baselines=each, cold_baselines=first,
        choices=int((~cold).sum()), cold_choices=int(cold.sum()), new_items=new_items, incomplete=incomplete,
        items=items, curve=curve,
    )  # fmt: skip
