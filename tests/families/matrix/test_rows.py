"""Matrix factorisation: scores in numpy, slopes, losses that must agree, drawn negatives, and choices with truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.evaluate.ranking import rank
from everlearn.model import build
from everlearn.records import Batch
from everlearn.stream.generated import generate

SPACE = 64


def pairs_of(pairs: Any) -> Batch:
    pairs = np.asarray(pairs, np.int32)
    n = len(pairs)
    return Batch(np.zeros((n, 0), "f4"), np.arange(0, 2 * n + 1, 2), pairs.ravel(), np.ones(2 * n, np.float32))


def of(task: str = "binary", **spec: Any) -> Any:
    return build({"family": "matrix", "task": task, "dense": 0, "hashed": SPACE, **spec})


def learn(model: Any, pairs: Any, y: Any = None) -> Any:
    y = np.ones(len(pairs)) if y is None else np.asarray(y, float)
    return model.learn(pairs_of(pairs), y, np.ones(len(y), np.float32))


def test_a_score_is_biases_and_a_product() -> None:
    model = of()
    model.arrays["hashed"][:] = np.random.default_rng(0).normal(0, 0.5, model.arrays["hashed"].shape)
    user, item = model.arrays["hashed"][[3, 40], 0].astype(float)
    total = user[0] + item[0] + user[1:] @ item[1:]
    assert model.predict(pairs_of([[3, 40]]))[0, 1] == pytest.approx(1 / (1 + np.exp(-total)), rel=1e-5)
    one = Batch(np.zeros((2, 0), "f4"), np.array([0, 1, 1]), np.array([40], np.int32), np.ones(1, "f4"))
    found = model.predict(one)[:, 1]  # of one entry its bias, of none 0
    assert found == pytest.approx([1 / (1 + np.exp(-item[0])), 0.5], rel=1e-5)


def test_a_rating_moves_user_and_item_along_the_slope() -> None:
    model = of("regression", rate=0.5, l2=0.0, factors=2)
    learn(model, [[1, 30]] * 3, [1.0, 3.0, 2.0])
    table, moments = model.arrays["hashed"].copy(), model.arrays["moments"].copy()
    learn(model, [[1, 30]], [5.0])
    count, mean, squares = moments[:, 0]
    away = 5.0 - mean
    mean += away / (count + 1)
    spread = np.sqrt((squares + away * (5.0 - mean)) / (count + 1))
    user, item = table[[1, 30], 0].astype(float)
    slope = user[0] + item[0] + user[1:] @ item[1:] - (5.0 - mean) / spread
    for row, own, other in ((1, user, item), (30, item, user)):
        slopes = np.concatenate([[slope], slope * other[1:]])
        kept = 0.999 * table[row, 1] + slopes**2
        assert model.arrays["hashed"][row, 0] == pytest.approx(own - 0.5 * slopes / np.sqrt(kept + 1.0), abs=1e-5)


def test_with_one_negative_softmax_is_bpr() -> None:
    pairs = np.random.default_rng(1).integers(0, 20, (300, 2)) + np.array([0, 20])
    softmax, bpr = (of(loss=loss, negatives=1) for loss in ("softmax", "bpr"))
    learn(softmax, pairs)
    learn(bpr, pairs)
    assert softmax.arrays["hashed"] == pytest.approx(bpr.arrays["hashed"], abs=0.02)  # the item moves twice in bpr
    assert np.abs(softmax.arrays["hashed"][:, 0]).max() > 0.2


def test_negatives_are_never_of_the_future() -> None:
    model = of()
    learn(model, [[user, 20 + user % 5] for user in range(15)] * 4)
    assert model.arrays["items"][: model.arrays["clock"][1]].tolist() == [20, 21, 22, 23, 24]
    assert not model.arrays["hashed"][25:].any()  # items that were never chosen have not moved
    assert (model.arrays["hashed"][20:25, 0, 0] != 0.0).all()


def test_a_row_of_class_0_is_no_choice_and_lowers_its_item() -> None:
    model = of()
    learn(model, [[1, 20], [1, 21]] * 50, [1.0, 0.0] * 50)
    assert model.arrays["clock"].tolist() == [100, 1]
    scores = model.predict(pairs_of([[1, 20], [1, 21]]))[:, 1]
    assert scores[1] < 0.1 < scores[0]


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_it_ranks_choices_better_than_popularity_and_not_better_than_the_truth(loss: str) -> None:
    stream = generate("choices", rows=12_000, users=100, items=100, change=0.5, seed=2)
    report = rank({"family": "matrix", "loss": loss}, stream)
    best, popular = stream.generator.best(), report.baselines["popular"]  # type: ignore[union-attr]
    for metric in ("recall", "ndcg"):
        assert popular[metric] + 0.03 < report.metrics[metric] < best[metric]
    assert report.metrics["recall"] > 0.65 * best["recall"]  # type: ignore[operator]


def test_it_predicts_ratings_better_than_means_of_items() -> None:
    stream = generate("ratings", rows=30_000, users=100, items=100, seed=3)
    rows = next(stream.chunks(0, 30_000)).examples
    truth, error = stream.generator.truth().rating, {}  # type: ignore[union-attr]
    for family in ("matrix", "popular"):
        model = build({"family": family, "task": "regression", "dense": 0, "hashed": 1 << stream.schema.bits})
        found = model.learn(rows.batch, rows.y, rows.weight)[15_000:, 0]
        error[family] = float(np.mean((found - rows.y[15_000:]) ** 2) ** 0.5)
    noise = float(np.mean((np.clip(truth, 1, 5) - rows.y)[15_000:] ** 2) ** 0.5)
    assert noise < error["matrix"] < 0.8 * error["popular"]
