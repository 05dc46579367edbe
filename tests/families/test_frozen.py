"""Plain trees answer as the models do whose trees they are."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn import model as models
from everlearn.errors import InputError
from everlearn.families import frozen
from everlearn.families.frozen import DENSE, ENTRY, SUM, FrozenTree
from everlearn.families.mondrian import freezing as mondrian
from tests.support.learned_models import fresh, taught


def votes(model: models.Model, batch: models.Batch) -> np.ndarray:
    """Return the mean answer of the plain trees of a model, row by row."""
    found = []
    for t in range(frozen.count(model)):
        tree, answers = frozen.tree(model, t), []
        for i in range(len(batch)):
            some = slice(batch.indptr[i], batch.indptr[i + 1])
            entries = batch.indices[some], batch.values[some]
            sums = (
                mondrian.sums_of(model, t, entries) if model.spec["family"] == "mondrian" else np.zeros(0, np.float32)
            )
            right = frozen.rights(tree, batch.dense[i], entries[0], sums)
            answers.append(tree.answers[frozen.leaf_of(tree, right)])
        found.append(answers)
    return np.mean(found, axis=0)


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("family", ["tree", "forest", "mondrian"])
def test_plain_trees_answer_as_the_model_does(family: str, task: str, hashed: bool) -> None:
    model, encoder = taught(family, task, hashed)
    _, batch = fresh(encoder)
    expected = frozen.still(model).predict(batch)
    found = votes(model, batch)
    if task != "regression":
        found = (1.0 - 1e-4) * found + 1e-4 / found.shape[1]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    kinds = {int(kind) for t in range(frozen.count(model)) for kind in frozen.tree(model, t).kinds}
    assert DENSE in kinds
    if hashed and task != "regression":  # the numbers of this stream are split by the dense columns alone
        assert (SUM if family == "mondrian" else ENTRY) in kinds


def test_a_still_mix_stills_its_members_and_leaves_the_mix_alone() -> None:
    model, encoder = taught("auto", "binary")
    _, batch = fresh(encoder)
    before = model.predict(batch)
    stilled = frozen.still(model)
    assert not np.array_equal(stilled.predict(batch), before)
    assert np.array_equal(model.predict(batch), before)
    linear, forest = frozen.members(stilled)[:2]
    assert np.array_equal(linear.predict(batch), frozen.members(model)[0].predict(batch))
    assert np.array_equal(forest.predict(batch), frozen.still(frozen.members(model)[1]).predict(batch))


@pytest.mark.parametrize("origin", [0.0, 3000.1, -1e6, 1.7e9])
def test_thresholds_part_encoded_values_where_the_tree_does(origin: float) -> None:
    """The values around each threshold, one float32 apart, go where the comparison less the origin sends them."""
    random = np.random.default_rng(0)
    cuts = (random.normal(size=50) * 10.0 ** random.integers(-3, 4, 50)).astype(np.float32)
    zero = np.zeros(50)
    tree = FrozenTree(zero, zero, cuts, np.full(50, origin), zero, zero > 0, zero, zero, zero)
    found = frozen.thresholds(tree)
    above = np.nextafter(found, np.float32(np.inf))
    assert (frozen.less_origin(found, tree.origins) <= cuts).all()
    assert (frozen.less_origin(above, tree.origins) > cuts).all()


def test_weights_of_siblings_are_the_rows_that_went_left_and_right() -> None:
    """With weights of 1 and one split that never changes, a stump has all rows of the stream below its root."""
    model, _ = taught("tree", "binary", rate=0, drift=False)
    tree = frozen.tree(model)
    assert tree.weights[0] == pytest.approx(2500, rel=0.01)
    inner = np.flatnonzero(tree.left >= 0)
    assert len(inner) > 2
    below = tree.weights[tree.left[inner]] + tree.weights[tree.left[inner] + 1]
    assert (below <= tree.weights[inner]).all()


def test_trees_have_names_and_a_wrong_one_is_refused() -> None:
    two = [{"family": "forest", "trees": 2}, {"family": "forest", "trees": 1}, {"family": "mondrian", "trees": 1}]
    model = models.build({"family": "mix", "task": "binary", "dense": 2, "members": two})
    assert frozen.names(model) == ["0.forest/0", "0.forest/1", "1.forest/0", "mondrian/0"]
    assert frozen.tree(model, "mondrian/0").answers.tolist() == [[0.5, 0.5]]
    with pytest.raises(InputError, match=r"tree: got 'mondrain/0'; expected 0 to 3, .*did you mean 'mondrian/0'"):
        frozen.tree(model, "mondrain/0")
    with pytest.raises(InputError, match="family 'linear', which has no trees; expected one of forest, mondrian, tree"):
        frozen.tree(models.build({"family": "linear", "task": "binary", "dense": 2}))


def test_a_split_of_absent_values_is_not_met_by_an_entry_of_value_0() -> None:
    model, encoder = taught("tree", "binary", hashed=True)
    tree = frozen.tree(model)
    assert (tree.kinds == ENTRY).any()
    index = int(tree.columns[tree.kinds == ENTRY][0])
    dense, none = np.zeros(encoder.shape["dense"], np.float32), np.zeros(0, np.float32)
    here = frozen.rights(tree, dense, np.array([index], np.int32), none)
    gone = frozen.rights(tree, dense, np.zeros(0, np.int32), none)
    node = int(np.flatnonzero((tree.kinds == ENTRY) & (tree.columns == index))[0])
    assert (bool(here[node]), bool(gone[node])) == (False, True)
