"""Splits and probabilities against a tree in plain Python and against River's."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.families.trees import layout
from tests.support.tree_reference import ReferenceTree, reference_splits
from tests.support.trees import boxes, learned, splits_of, tree_of


@pytest.mark.parametrize("prior", ["parent", "stream"])
@pytest.mark.parametrize("kind", ["plain", "missing", "binary", "far", "three values"])
def test_a_tree_is_that_of_the_reference(kind: str, prior: str) -> None:
    """Probabilities differ by what tables and float32 sums round: at most .01, on average a thousandth of that."""
    classes = 3
    x, _ = boxes(700, columns=3, seed=2)
    y = np.where(x[:, 0] < 0.4, 0.0, np.where(x[:, 1] < 0.5, 1.0, 2.0))
    y[::20] = 1.0
    if kind == "missing":
        x[np.random.default_rng(1).random(x.shape) < 0.15] = np.nan
    elif kind == "binary":
        x[:, 0] = np.where(x[:, 0] > 0.35, 7.0, -2.0)
    elif kind == "far":
        x += 3000.0
    elif kind == "three values":
        x[:, 0] = np.where(x[:, 0] > 0.35, 7.0, -2.0)
        x[300::9, 0] = 4.0
    ours = tree_of(3, classes, drift=False, rate=0.0, grace=20, delta=0.5, prior=prior)
    theirs = ReferenceTree(classes, 3, grace=20.0, delta=0.5, prior=prior)
    expected = np.array([theirs.learn(row, int(label)) for row, label in zip(x, y, strict=True)])
    got = learned(ours, x, y)
    splits, right = splits_of(ours), reference_splits(theirs)
    assert len(right) >= 2
    assert [column for column, _ in splits] == [column for column, _ in right]
    np.testing.assert_allclose([cut for _, cut in splits], [cut for _, cut in right], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got, 0.9999 * expected + 1e-4 / classes, atol=0.01)
    assert abs(got - expected).mean() < 1e-4


def test_accuracy_is_rivers() -> None:
    river = pytest.importorskip("river.tree")
    x, y = boxes(4000, classes=4, seed=3)
    peer = river.HoeffdingTreeClassifier(grace_period=200, delta=1e-7)
    right = 0
    for row, label in zip(x.tolist(), y.astype(int).tolist(), strict=True):
        features = dict(enumerate(row))
        right += peer.predict_one(features) == label
        peer.learn_one(features, label)
    ours = tree_of(4, 4, drift=False, rate=0.0, grace=200, delta=1e-7)
    accuracy = (learned(ours, x, y).argmax(1) == y).mean()
    assert accuracy > right / 4000 - 0.01


def test_a_hashed_entry_splits() -> None:
    random = np.random.default_rng(0)
    words = random.integers(0, 50, 2000)
    ours = tree_of(0, hashed=1024, drift=False)
    scores = learned(ours, np.zeros((2000, 0)), words == 7, [[int(word), 100 + int(word) % 3] for word in words])
    assert -1 - 7 in [column for column, _ in splits_of(ours)]
    assert (scores.argmax(1) == (words == 7))[1000:].all()


def test_a_column_with_two_values_is_split_between_them() -> None:
    random = np.random.default_rng(0)
    x = np.stack([np.where(random.random(600) < 0.5, 3.0, 5.0), random.random(600)], 1)
    ours = tree_of(2, drift=False)
    learned(ours, x, x[:, 0] == 5.0)
    assert splits_of(ours) == [(0, 4.0)]
    assert ours.arrays["moments"][layout.KIND].tolist() == [layout.BINARY, layout.NUMERIC]


def test_missing_values_go_where_most_rows_went() -> None:
    random = np.random.default_rng(0)
    x = random.random((2000, 1))
    y = x[:, 0] > 0.2
    ours = tree_of(1, drift=False)
    learned(ours, x, y)
    nodes = ours.arrays["nodes"][0]
    assert nodes[ours.arrays["trees"][0, layout.ROOT], layout.SIDE] == 1
