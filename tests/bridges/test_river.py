"""Our models keep the rules of River, without an exemption, and score in it as they do here."""

from __future__ import annotations

import pickle

import pandas as pd
import pytest
from river import checks, compose, datasets, evaluate, linear_model, metrics, preprocessing

import everlearn as el
from everlearn.bridges.river import EverlearnOnlineClassifier, EverlearnOnlineRegressor

KINDS = (EverlearnOnlineClassifier, EverlearnOnlineRegressor)
SMALL_FOREST = {"family": "forest", "trees": 3, "memory": 200_000}
LEARNERS = [kind("linear") for kind in KINDS] + [
    pytest.param(kind(model), marks=pytest.mark.slow) for model in ("auto", SMALL_FOREST) for kind in KINDS
]


@pytest.mark.parametrize(
    "learner",
    LEARNERS,
    ids=lambda one: f"{type(one).__name__}-{one.model if isinstance(one.model, str) else one.model['family']}",
)
def test_models_keep_the_rules_of_river(learner):
    assert learner._unit_test_skips() == set()
    names = set()
    for check in checks.yield_checks(learner):
        check(learner.clone())
        names.add(check.__name__)
    assert {"check_learn_many_matches_learn_one", "check_bounded_memory_growth", "check_emerging_features"} <= names


def test_a_model_is_as_good_in_river_as_here():
    rows = list(datasets.Phishing())
    metric = evaluate.progressive_val_score(rows, EverlearnOnlineClassifier("linear"), metrics.Accuracy())
    columns = {name: [x[name] for x, _ in rows] for name in rows[0][0]} | {"y": [y for _, y in rows]}
    read = el.read(columns, label="y")
    here = el.prequential(el.build({"family": "linear"}, el.schema.shape(read.schema)), read)
    assert metric.get() == pytest.approx(here.metrics["accuracy"], abs=0.01)


def test_a_regressor_beats_the_linear_model_of_river():
    ours, theirs = metrics.MAE(), metrics.MAE()
    plain = preprocessing.StandardScaler() | linear_model.LinearRegression()
    evaluate.progressive_val_score(datasets.TrumpApproval(), EverlearnOnlineRegressor(), ours)
    evaluate.progressive_val_score(datasets.TrumpApproval(), plain, theirs)
    assert ours.get() < theirs.get()


def test_it_is_the_last_step_of_a_pipeline():
    model = compose.Discard("is_popular") | EverlearnOnlineClassifier("linear")
    for x, y in datasets.Phishing().take(50):
        model.learn_one(x, y)
    assert set(model.predict_proba_one(x)) == {False, True}


def test_text_and_numbers_of_any_name_are_learned():
    model = EverlearnOnlineClassifier("linear")
    assert model.predict_one({"town": "Delft"}) is None
    for i in range(200):
        model.learn_one({"town": ("Delft", "Ghent")[i % 2], 7: 1.5}, ("d", "g")[i % 2])
    assert model.predict_one({"town": "Ghent"}) == "g"
    assert model.predict_one({"town": "Delft", "unseen": 3.0, "nothing": None}) == "d"


def test_a_pickle_goes_on_as_the_model_does():
    rows = list(datasets.ImageSegments().take(300))
    model = EverlearnOnlineClassifier("linear")
    for x, y in rows[:150]:
        model.learn_one(x, y)
    twin = pickle.loads(pickle.dumps(model))
    for x, y in rows[150:]:
        model.learn_one(x, y)
        twin.learn_one(x, y)
    assert [model.predict_proba_one(x) for x, _ in rows] == [twin.predict_proba_one(x) for x, _ in rows]


def test_frames_keep_their_index():
    x = pd.DataFrame({"a": [1.0, -1.0] * 50}, index=range(100, 200))
    model = EverlearnOnlineClassifier("linear")
    model.learn_many(x, pd.Series(["p", "n"] * 50))
    assert model.predict_many(x).loc[100] == "p"
    assert model.predict_proba_many(x).columns.tolist() == ["p", "n"]
    number = EverlearnOnlineRegressor("linear")
    number.learn_many(x, x["a"] * 3)
    assert number.predict_many(x).loc[101] == pytest.approx(-3.0, abs=0.5)


def test_weights_reach_the_model():
    model = EverlearnOnlineRegressor("linear")
    for i in range(20):
        model.learn_one({"a": float(i)}, i)
    before = model.predict_one({"a": 10.0})
    model.learn_one({"a": 10.0}, 500.0, w=0.0)
    assert model.predict_one({"a": 10.0}) == before
    model.learn_one({"a": 10.0}, 500.0, w=3.0)
    assert model.predict_one({"a": 10.0}) > before
