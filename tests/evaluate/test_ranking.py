"""Ranking in time order against ranks by hand, and recommendations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import ndcg_score

import everlearn as el
from everlearn.errors import ConfigError, InputError
from everlearn.evaluate.ranking import _metrics, _place, rank, recommend
from everlearn.schema import Encoder
from everlearn.spec import Schema

FIELDS = {"user": "categorical", "item": "categorical"}


def stream_of(pairs: list[tuple[str | None, str]], label: Any = None, task: Any = "binary", **fields: Any) -> el.Stream:
    classes = (0, 1) if task == "binary" else ()
    schema = Schema(label="y", task=task, classes=classes, fields={**FIELDS, **fields}, bits=12)
    users, items = zip(*pairs, strict=True)
    y = [1] * len(pairs) if label is None else label
    return el.read(pa.table({"user": users, "item": items, "y": y}), schema=schema)


def counted(pairs: list[tuple[str, str]], memory: int = 0) -> tuple[list[float], list[bool]]:
    """Return the rank that plain counts give each choice of a known item, and True where its user is new."""
    counts: dict[str, int] = {}
    users: set[str] = set()
    ranks, cold = [], []
    for user, item in pairs:
        if item in counts:
            own = counts[item]
            above, level = sum(n > own for n in counts.values()), sum(n == own for n in counts.values())
            ranks.append(1 + above + (level - 1) / 2)
            cold.append(user not in users)
        counts[item] = counts.get(item, 0) + 1
        users.add(user)
    return ranks, cold


def drawn(n: int = 400) -> list[tuple[str, str]]:
    random = np.random.default_rng(0)
    return [(f"u{random.integers(60)}", f"i{int(random.integers(6) * random.random())}") for _ in range(n)]


def test_ranks_are_those_of_counts_before_each_choice() -> None:
    pairs = drawn()
    report = rank({"family": "popular", "memory": 0}, stream_of(pairs), k=2)
    ranks, cold = (np.array(part) for part in counted(pairs))
    for found, part in ((report.metrics, ranks[~cold]), (report.cold, ranks[cold])):
        gain = np.where(part <= 2, 1 / np.log2(1 + part), 0.0)
        assert found == pytest.approx({"recall": (part <= 2).mean(), "ndcg": gain.mean(), "mrr": (1 / part).mean()})
    assert (report.choices, report.cold_choices) == ((~cold).sum(), cold.sum())
    assert report.new_items == report.items == len({item for _, item in pairs})


def test_ndcg_is_that_of_scikit_learn() -> None:
    scores = np.random.default_rng(1).permutation(20).astype(float)
    for place in (3, 11, 17):
        expected = ndcg_score(np.eye(20)[[place]], scores[None], k=10)
        assert _metrics(np.array([_place(scores, place)]), 10)["ndcg"] == pytest.approx(expected)


def items_of(batch: Any) -> set[int]:
    return set(batch.indices[batch.indptr[0] : batch.indptr[-1]][1::2].tolist())


class Witness:
    """A model that scores all items alike, and notes which it was to rank and which it had learned by then."""

    def __init__(self) -> None:
        self.spec: Mapping[str, Any] = {"task": "binary", "classes": 2, "dense": 0, "hashed": 1 << 12}
        self.arrays: dict[str, Any] = {}
        self.ranked: list[set[int]] = []
        self.before: list[set[int]] = []
        self.learned: set[int] = set()

    def predict(self, batch: Any) -> Any:
        self.ranked.append(items_of(batch))
        self.before.append(set(self.learned))
        return np.tile(np.array([[0.5, 0.5]], np.float32), (len(batch), 1))

    def learn(self, batch: Any, y: Any, weight: Any) -> Any:
        self.learned |= items_of(batch)
        return np.full((len(batch), 2), 0.5, np.float32)


def test_candidates_are_all_items_that_were_learned_and_none_of_the_future() -> None:
    model = Witness()
    rank(model, stream_of(drawn(100)))
    assert len(model.ranked) > 80
    assert model.ranked == model.before


def test_without_repeats_what_a_user_had_is_no_candidate() -> None:
    pairs = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("b", "x")]
    model = Witness()
    report = rank(model, stream_of(pairs), repeats=False, k=1)
    assert [len(items) for items in model.ranked] == [2, 1, 1]  # b has had x, and then x and y
    assert report.metrics["recall"] == 1.0
    assert (report.cold_choices, report.cold["recall"]) == (1, 0.0)  # x and y share the rank 1.5


def test_rows_that_are_no_choice_are_learned_and_not_ranked() -> None:
    pairs = [("a", "x"), ("b", "y")] * 20
    report = rank("popular", stream_of(pairs, [1, 0] * 20))
    assert (report.choices + report.cold_choices, report.items) == (19, 1)
    ratings = stream_of(pairs, [5.0, 1.0] * 20, "regression")
    assert rank("matrix", ratings, liked=4.0).items == 1
    assert rank("matrix", ratings).items == 2


def test_rows_without_a_user_are_counted() -> None:
    report = rank("matrix", stream_of([("a", "x"), (None, "x"), ("a", "x")]))
    assert (report.incomplete, report.choices) == (1, 1)


def test_the_curve_has_both_models() -> None:
    report = rank("matrix", stream_of(drawn()))
    assert set(report.curve) == {"x", "recall", "ndcg", "popular_recall", "popular_ndcg"}
    assert len(report.curve["x"]) == 50
    assert (np.diff(report.curve["x"]) > 0).all()


def test_other_families_rank_too() -> None:
    stream = el.generate("choices", rows=1500, users=20, items=20, seed=4)
    for family in ("factorization", "linear"):
        assert 0.0 < rank(family, stream).metrics["ndcg"] < 1.0


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"user": "item"}, "got user 'item' and item 'item'; expected two categorical fields"),
        ({"item": "title"}, "of user, item"),
        ({"k": 0}, "k: got 0"),
    ],
)
def test_a_wrong_argument_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        rank("matrix", stream_of(drawn(10)), **changed)
    assert words in str(refused.value)


def test_recommendations_are_the_best_scores_of_a_user() -> None:
    stream = stream_of([("ann", "tea"), ("bob", "milk")] * 100)
    schema, rows = stream.schema, next(stream.chunks()).examples
    model = el.build({"family": "matrix"}, Encoder(schema).shape)
    model.learn(rows.batch, rows.y, rows.weight)
    items = ["milk", "oats", "tea"]
    found = {user: recommend(model, schema, {"user": user}, items, n=2) for user in ("ann", "bob")}
    assert (found["ann"][0][0], found["bob"][0][0]) == ("tea", "milk")
    encoded = Encoder(schema).rows([{"user": "ann", "item": name} for name in items])
    assert found["ann"][0][1] == model.predict(encoded)[2, 1]
    assert len(found["ann"]) == 2
    assert recommend(model, schema, {"user": "ann"}, []) == []
    with pytest.raises(InputError, match="expected a number from 1"):
        recommend(model, schema, {"user": "ann"}, items, n=0)
    with pytest.raises(InputError, match="recommend: got the field 'usr'; .*did you mean 'user'"):
        recommend(model, schema, {"usr": "ann"}, items)
