"""Contributions of trees and forests: they add up to the score, and closed cases come out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everlearn.errors import InputError
from everlearn.families import frozen
from everlearn.families.explain import contributions
from everlearn.families.frozen import ENTRY
from everlearn.families.parts import Names
from everlearn.families.trees import explain
from everlearn.families.trees.layout import BAYES_RIGHT, MAJORITY_RIGHT, SOLVE
from everlearn.schema import Encoder
from everlearn.spec import Schema
from tests.support.learned_models import CLASSES, fresh, taught
from tests.support.trees import batch_of, boxes, learned, tree_of


def expected_scores(task: str, scores: np.ndarray) -> list[float]:
    if task == "regression":
        return [float(scores[0])]
    if task == "binary":
        return [math.log(scores[1] / scores[0])]
    return np.log(scores).tolist()


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("family", ["tree", "forest"])
def test_contributions_add_up_to_the_score(family: str, task: str, hashed: bool) -> None:
    model, encoder = taught(family, task, hashed)
    records, batch = fresh(encoder)
    answers = model.predict(batch).astype(float)
    intercepts = set()
    for record, scores in zip(records, answers, strict=True):
        found = contributions(model, encoder, record)
        parts = [found[label] for label in CLASSES[task]] if task == "multiclass" else [found]
        sums = [sum(part.values()) for part in parts]
        np.testing.assert_allclose(sums, expected_scores(task, scores), rtol=2e-6, atol=2e-6)
        intercepts.add(round(parts[0]["intercept"], 9))
    assert len(intercepts) == 1  # the same for all records of a model


def test_what_naive_bayes_adds_is_counted_in_some_leaf() -> None:
    """Else the test above would not cover it: leaves of both kinds answer."""
    model, _ = taught("forest", "binary", hashed=True)
    used = model.arrays["blocks"][model.arrays["choices"][:, :, 0] >= 0]
    bayes = used[:, BAYES_RIGHT] >= used[:, MAJORITY_RIGHT]
    assert 0 < bayes.sum() < len(bayes)
    numbers, _ = taught("forest", "regression")
    assert (numbers.arrays["blocks"][:, :, SOLVE] > 0.0).any()


def stump(x: np.ndarray, y: np.ndarray) -> tuple[object, Encoder]:
    fields = {"a": "numeric", "b": "numeric"}
    encoder = Encoder(Schema(label="y", task="binary", classes=(0, 1), fields=fields))
    model = tree_of(2, rate=0, drift=False)
    learned(model, x, y)
    blocks = model.arrays["blocks"].copy()
    blocks[:, :, BAYES_RIGHT], blocks[:, :, MAJORITY_RIGHT] = -1.0, 0.0  # shares of classes, no naive Bayes
    model.arrays = {**model.arrays, "blocks": blocks}
    return model, encoder


def test_a_stump_gives_its_column_the_log_odds_of_the_leaf_over_those_of_all_rows() -> None:
    random = np.random.default_rng(0)
    x = random.integers(0, 2, (400, 2)).astype(np.float32)
    model, encoder = stump(x, np.where(random.random(400) < 0.9, x[:, 0], 1 - x[:, 0]))
    tree = frozen.tree(model)  # type: ignore[arg-type]
    assert len(tree.left) == 3
    found = contributions(model, encoder, {"a": 1.0, "b": 1.0})  # type: ignore[arg-type]
    share = tree.weights[1:] / tree.weights[1:].sum()
    mean = (1 - 1e-4) * (share @ tree.answers[1:]) + 0.5e-4
    leaf = (1 - 1e-4) * tree.answers[2] + 0.5e-4
    assert found["intercept"] == pytest.approx(math.log(mean[1] / mean[0]))
    assert found["a"] == pytest.approx(math.log(leaf[1] / leaf[0]) - math.log(mean[1] / mean[0]))
    assert found["b"] == 0.0


def test_a_column_that_no_leaf_looks_at_adds_nothing() -> None:
    x, y = boxes(3000, columns=4)
    model = tree_of(5, share=None)
    constant = np.column_stack([x, np.ones(3000, np.float32)])
    learned(model, constant, y)
    names = Names(["a", "b", "c", "d", "constant"], [], "absent values")
    for row in constant[:20]:
        part = explain.parts(model, batch_of(row[None]), names)
        assert not np.any(part.terms.get("constant", 0.0))
        assert np.any(part.terms["a"])


def test_naive_bayes_adds_the_log_likelihood_ratio_of_each_column() -> None:
    """In a tree of one leaf the contribution of a column is log p(x | 1) - log p(x | 0), the density as learned."""
    random = np.random.default_rng(1)
    y = (random.random(400) < 0.4).astype(float)
    x = np.column_stack([random.normal(2.0 * y, 1.0), random.normal(-y, 2.0)]).astype(np.float32)
    encoder = Encoder(Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric", "b": "numeric"}))
    model = tree_of(2, rate=0, drift=False, grace=10_000)
    learned(model, x, y)
    assert len(frozen.tree(model).left) == 1
    found = contributions(model, encoder, {"a": 1.5, "b": 0.5})
    before = x[:1] * 0 + x[0]
    moments = model.arrays["moments"]
    spread = moments[2] / moments[0]
    for place, (name, value) in enumerate({"a": 1.5, "b": 0.5}.items()):
        logs = []
        for k in (0, 1):
            own = x[y == k, place].astype(float) - float(before[0, place])
            total = ((own - own.mean()) ** 2).sum() + 10.0 * spread[place]
            variance = total / (len(own) + 10.0)
            logs.append(-0.5 * ((value - before[0, place] - own.mean()) ** 2 / variance + math.log(variance)))
        assert found[name] == pytest.approx(logs[1] - logs[0], rel=0.02)  # the floor of 1e-4 bends it a little
    assert found["intercept"] == pytest.approx(math.log(y.mean() / (1 - y.mean())), rel=1e-2)


def test_what_is_kept_for_naive_bayes_adds_up_to_the_score_of_any_row() -> None:
    """Rows with missing values, with a third value of a binary column, and others, before and after it varies."""
    random = np.random.default_rng(3)
    y = (random.random(600) < 0.4).astype(float)
    x = np.column_stack([random.normal(y, 1.0), random.random(600) < 0.3 + 0.4 * y, np.zeros(600)]).astype(np.float32)
    x[500:, 2] = random.random(100)
    x[::7, 0] = np.nan
    model = tree_of(3, rate=0, drift=False, grace=100, delta=0.5)
    names = Names(["a", "b", "c"], [], "absent values")
    rows = np.array([[1.5, 1.0, 0.0], [np.nan, 0.0, 0.0], [-1.0, 0.5, 3.0]], np.float32)
    for start in range(0, 600, 100):
        learned(model, x[start : start + 100], y[start : start + 100])
        for row in rows:
            part = explain.parts(model, batch_of(row[None]), names)
            np.testing.assert_allclose(part.answer, model.predict(batch_of(row[None]))[0], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(part.base + sum(part.terms.values()), part.answer, rtol=1e-9)


def test_a_test_of_a_value_that_the_record_lacks_has_the_name_of_the_hashed_field() -> None:
    model, encoder = taught("tree", "binary", hashed=True)
    assert (frozen.tree(model).kinds == ENTRY).any()
    found = contributions(model, encoder, {"amount": 3050.0, "age": 30, "night": False})
    assert found["absent values"] != 0.0
    assert found["country"] == found["note"] == 0.0
    alone = Encoder(Schema(label="y", task="binary", classes=(0, 1), fields={"x": "numeric", "town": "categorical"}))
    one = tree_of(1, hashed=alone.shape["hashed"])
    rows, _ = alone.records([{"x": 0.0, "town": "DN"[i % 2]} for i in range(800)])
    one.learn(rows, (np.arange(800) % 2).astype(float), np.ones(800, np.float32))
    without = contributions(one, alone, {"x": 0.0})
    assert "absent values" not in without
    assert abs(contributions(one, alone, {"x": 0.0, "town": "D"})["town"]) > 1.0


def test_a_tree_that_has_learned_nothing_is_explained() -> None:
    encoder = Encoder(Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric"}))
    assert contributions(tree_of(1), encoder, {"a": 1.0}) == {"a": 0.0, "intercept": 0.0}


def test_another_family_is_refused_with_the_right_ones() -> None:
    encoder = Encoder(Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric"}))
    model = tree_of(1)
    model.spec = {**model.spec, "family": "neural"}
    with pytest.raises(InputError, match="expected one of anomaly, forest, last, linear, mix, mondrian, tree"):
        contributions(model, encoder, {"a": 1.0})
