"""Our estimators keep the rules of scikit-learn, learn in order, and pickle as arrays."""

from __future__ import annotations

import pickle
import pickletools

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification, make_friedman1
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import everlearn as el
from everlearn.bridges.sklearn import EverlearnClassifier, EverlearnRegressor
from everlearn.errors import InputError

SMALL_FOREST = {"family": "forest", "trees": 3, "memory": 200_000}
KINDS = (EverlearnClassifier, EverlearnRegressor)
ORDERED = "the order of rows counts, and trees draw how often they learn a row, so a weight of 2 is not the row twice"


def exempt(estimator):
    names = ("on_dense_data", "on_sparse_data")
    return {f"check_sample_weight_equivalence_{name}": ORDERED for name in names}


@parametrize_with_checks([kind(model) for model in ("auto", "linear") for kind in KINDS], expected_failed_checks=exempt)
def test_estimators_keep_the_rules_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [kind(model) for model in ("mondrian", SMALL_FOREST) for kind in KINDS], expected_failed_checks=exempt
)
def test_estimators_of_trees_keep_the_rules_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("model", ["auto", "linear"])
def test_a_pass_over_iris_is_learned(model):
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    learner = EverlearnClassifier(model, passes=5)
    assert cross_val_score(learner, x, names, cv=5).mean() > 0.9
    assert set(learner.fit(x, names).predict(x)) == set(names)


def test_partial_fit_equals_the_model_itself_row_by_row():
    x, y = make_classification(300, 6, random_state=1)
    learner = EverlearnClassifier("linear")
    for start in range(0, 300, 50):
        learner.partial_fit(x[start : start + 50], y[start : start + 50], classes=[0, 1])
    stream = el.read({f"x{j}": x[:, j] for j in range(6)} | {"y": y}, label="y")
    spec = {"family": "linear", "seed": learner.model_.spec["seed"]}
    model = el.build(spec, {"task": "binary", "dense": 6, "hashed": 0, "classes": 2})
    for chunk in stream.chunks():
        model.learn(chunk.examples.batch, chunk.examples.y, chunk.examples.weight)
    assert all(np.array_equal(array, learner.model_.arrays[name]) for name, array in model.arrays.items())


def test_fit_forgets_and_partial_fit_goes_on():
    x, y = make_classification(300, 6, random_state=1)
    learner = EverlearnClassifier("linear").fit(x, y)
    once = learner.predict_proba(x)
    assert np.array_equal(learner.fit(x, y).predict_proba(x), once)
    assert not np.array_equal(learner.partial_fit(x, y).predict_proba(x), once)


def test_labels_outside_the_classes_are_refused():
    x, y = make_classification(60, 4, random_state=1)
    learner = EverlearnClassifier("linear").partial_fit(x, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"got label 5; expected one of \[0, 1\]. Name all classes"):
        learner.partial_fit(x, np.full(60, 5))
    with pytest.raises(ValueError, match="those of the first call"):
        learner.partial_fit(x, y, classes=[0, 1, 2])


def test_one_class_is_predicted_with_certainty():
    learner = EverlearnClassifier("linear").fit(np.ones((10, 2)), ["only"] * 10)
    assert learner.predict_proba(np.ones((3, 2))).tolist() == [[1.0]] * 3
    assert learner.predict(np.ones((1, 2))).tolist() == ["only"]


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_frames_with_text_need_no_encoder(library):
    random = np.random.default_rng(3)
    town = random.choice(["Delft", "Ghent", "Lille"], 900)
    age = random.normal(50.0, 10.0, 900)
    age[::17] = np.nan
    label = np.where(town == "Ghent", "yes", "no")
    frame = library({"town": town, "age": age, "old": age > 50})
    learner = EverlearnClassifier("linear").fit(frame, label)
    assert accuracy_score(label, learner.predict(frame)) > 0.99
    assert learner.feature_names_in_.tolist() == ["town", "age", "old"]
    twin = pickle.loads(pickle.dumps(learner))
    assert np.array_equal(twin.predict_proba(frame), learner.predict_proba(frame))


def test_a_frame_that_lost_a_column_is_refused():
    frame = pd.DataFrame({"town": ["a", "b"] * 20, "n": range(40)})
    learner = EverlearnClassifier("linear").fit(frame, ["x", "y"] * 20)
    with pytest.raises(ValueError, match="feature names should match"):
        learner.predict(frame[["n"]])
    with pytest.raises(InputError, match="row 1, column 'n': got 'many', expected a number"):
        learner.predict(pd.DataFrame({"town": ["a", "b"], "n": ["1", "many"]}))


def test_sparse_and_dense_rows_of_one_estimator_score_alike():
    x, y = make_classification(400, 8, random_state=2)
    x[abs(x) < 0.5] = 0.0
    learner = EverlearnClassifier("linear").fit(csr_matrix(x), y)
    assert learner.model_.spec["hashed"] == 8
    assert learner.score(x, y) > 0.7
    assert np.array_equal(learner.predict_proba(x), learner.predict_proba(csr_matrix(x)))


def test_missing_values_are_learned_and_infinity_is_refused():
    x, y = make_friedman1(500, random_state=1)
    x[::3, 4] = np.nan
    assert EverlearnRegressor(passes=3).fit(x, y).score(x, y) > 0.8
    x[0, 0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        EverlearnRegressor().fit(x, y)


def test_a_pickle_holds_arrays_and_no_code_of_models():
    x, y = make_classification(100, 4, random_state=1)
    learner = EverlearnClassifier(SMALL_FOREST).fit(x, y)
    data = pickle.dumps(learner)
    parts = [argument for code, argument, _ in pickletools.genops(data) if isinstance(argument, str)]
    assert "everlearn.bridges.sklearn" in parts
    assert not [part for part in parts if part.startswith("everlearn.families")]
    assert np.array_equal(pickle.loads(data).predict_proba(x), learner.predict_proba(x))


def test_it_works_in_pipelines_and_searches():
    x, y = make_classification(200, 5, random_state=4)
    grid = {"everlearnclassifier__passes": [1, 3]}
    found = GridSearchCV(make_pipeline(StandardScaler(), EverlearnClassifier("linear")), grid, cv=3).fit(x, y)
    assert found.best_score_ > 0.8
    assert clone(EverlearnClassifier(SMALL_FOREST)).model == SMALL_FOREST


def test_wrong_passes_are_refused():
    with pytest.raises(ValueError, match="passes: got 0; expected a whole number from 1"):
        EverlearnRegressor(passes=0).fit(np.ones((5, 1)), np.ones(5))
