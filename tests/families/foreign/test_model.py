"""Models of River and scikit-learn learn in a loop as they do at home, resume exactly, and need trust."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from river import datasets, linear_model, preprocessing
from sklearn.linear_model import SGDClassifier

import everlearn as el
from everlearn import checks
from everlearn.app.supervisor import Server
from everlearn.client import Client
from everlearn.errors import ConfigError, ModelError
from everlearn.families.foreign import pickles
from everlearn.loop import commands
from everlearn.loop.loop import Loop
from everlearn.records import Example
from everlearn.spec import DriftSpec, ServeSpec
from tests.support import foreign_models
from tests.support.foreign_models import SGD, TREE
from tests.support.servers import catch_up, content, record, replay, spec

BINARY = {"task": "binary", "dense": 5, "hashed": 0, "classes": 2}
FOREIGN = {"family": "foreign", "trusted": True, "bytes": 1 << 20}


def sample(count: int = 400, **shape: Any):
    return checks.sample({**BINARY, **shape}, count)


@pytest.mark.parametrize(
    "model",
    [
        {"model": "river.tree:HoeffdingTreeClassifier"},
        {"model": "river.tree:HoeffdingAdaptiveTreeClassifier"},
        {"model": "river.naive_bayes:GaussianNB"},
        {"model": "tests.support.foreign_models:scaled"},
        {"model": "river.linear_model:LogisticRegression", "task": "multiclass", "classes": 4},
        {"model": "river.tree:HoeffdingTreeRegressor", "task": "regression", "classes": 0},
        {"model": "sklearn.linear_model:SGDRegressor", "task": "regression", "classes": 0, "hashed": 32},
    ],
    ids=lambda model: model["model"].partition(":")[2],
)
def test_foreign_models_keep_the_contract(model):
    whole = {**FOREIGN, **BINARY, **model}
    rows = checks.sample(whole, 40 if "sgd" in model["model"].lower() else 104)  # scikit-learn takes 1 ms a row
    failed = [one for one in checks.run(lambda: el.build(whole), rows) if not one.ok]
    assert failed == []


def test_a_model_of_river_predicts_as_it_does_in_river():
    rows = list(datasets.Phishing().take(400))
    names = list(rows[0][0])
    theirs = preprocessing.StandardScaler() | linear_model.LogisticRegression(l2=0.1)
    spec = {**FOREIGN, "model": "tests.support.foreign_models:scaled", "arguments": {"rate": 0.1}}
    ours = el.build(spec, {**BINARY, "dense": len(names)})
    stream = el.read({name: [x[name] for x, _ in rows] for name in names} | {"y": [y for _, y in rows]}, label="y")
    scores = []
    for chunk in stream.chunks():
        scores += ours.learn(chunk.examples.batch, chunk.examples.y, chunk.examples.weight)[:, 1].tolist()
    expected = []
    for x, y in rows:
        expected.append(theirs.predict_proba_one({j: float(np.float32(x[name])) for j, name in enumerate(names)})[True])
        theirs.learn_one({j: float(np.float32(x[name])) for j, name in enumerate(names)}, y)
    assert np.allclose(scores, expected, atol=1e-6)


def test_a_model_of_scikit_learn_gets_standardised_rows_with_weights():
    rows = sample()
    model = el.build(SGD, BINARY)
    model.learn(rows.batch, rows.y, rows.weight)
    theirs, count, mean, squares = SGDClassifier(loss="log_loss", random_state=0), 0, np.zeros(5), np.zeros(5)
    counts = np.zeros(5)
    for x, y, weight in zip(rows.batch.dense.astype(float), rows.y, rows.weight, strict=True):
        if weight == 0:
            continue
        known, count = np.isfinite(x), count + 1
        counts[known] += 1
        before = x[known] - mean[known]
        mean[known] += before / counts[known]
        squares[known] += before * (x[known] - mean[known])
        scale = np.sqrt(squares / np.maximum(counts, 1))
        row = np.where(known, (x - mean) / np.where(scale > 0, scale, 1), 0.0)[None, :]
        theirs.partial_fit(row, [int(y)], classes=[0, 1], sample_weight=[float(weight)])
    assert np.allclose(model._loaded().coef_, theirs.coef_)


def test_a_model_without_probabilities_is_certain():
    model = el.build({**FOREIGN, "model": "tests.support.foreign_models:plain_sgd"}, BINARY)
    rows = sample(40)
    assert set(model.predict(rows.batch).ravel().tolist()) == {0.5}  # it has learned nothing
    model.learn(rows.batch, rows.y, rows.weight)
    assert set(model.predict(rows.batch).ravel().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("trust", [{}, {"trusted": False}])
def test_without_trust_nothing_is_built_and_no_pickle_is_read(trust, tmp_path, monkeypatch):
    monkeypatch.setenv("PICKLE_BOMB", str(tmp_path / "went-off"))
    bare = {name: value for name, value in TREE.items() if name != "trusted"}
    with pytest.raises(ConfigError, match="trusted: got False; expected true: .* a pickle can run any code"):
        el.build({**bare, **trust}, BINARY)
    data = pickles.dumps(foreign_models.Bomb())
    model = el.build(TREE, BINARY)
    arrays = {name: array.copy() for name, array in model.arrays.items()}
    arrays["pickle"][: len(data)] = np.frombuffer(data, np.uint8)
    arrays["size"][0] = len(data)
    model.arrays = arrays
    assert not (tmp_path / "went-off").exists()  # assigning reads nothing
    with pytest.raises((AttributeError, TypeError)):
        model.predict(sample(3).batch)
    assert (tmp_path / "went-off").exists()  # which is why trust is asked for


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"model": "river.tree"}, "expected 'module:name'"),
        ({"model": "river.tree:Nothing"}, "cannot be imported"),
        ({"model": "river.tree:__name__"}, "is a str; expected a class or a function"),
        ({"arguments": {"depth": 3}}, "failed: TypeError: .*'depth'"),
        ({"model": "tests.support.foreign_models:nothing"}, "made a NoneType without partial_fit and predict"),
        ({"bytes": 0}, "bytes: got 0"),
        ({"size": 3}, "size: unknown setting"),
        ({"model": "river.linear_model:LinearRegression"}, "made a regressor; expected a classifier"),
        ({"model": "sklearn.linear_model:SGDRegressor"}, "made a regressor; expected a classifier"),
        ({"model": "tests.support.foreign_models:regression"}, "made a regressor; expected a classifier"),
    ],
)
def test_wrong_settings_say_what_is_right(setting, words):
    with pytest.raises(ConfigError, match=words):
        el.build({**TREE, **setting}, BINARY)


@pytest.mark.parametrize("model", ["river.linear_model:LogisticRegression", "sklearn.linear_model:SGDClassifier"])
def test_a_classifier_does_not_learn_numbers(model):
    with pytest.raises(ConfigError, match="made a classifier; expected a regressor for the task 'regression'"):
        el.build({**FOREIGN, "model": model}, {"task": "regression", "dense": 2})


def test_a_model_that_outgrows_its_array_fails_loudly():
    model = el.build({**FOREIGN, "model": "tests.support.foreign_models:Grows", "bytes": 20_000}, BINARY)
    rows = sample(3000)
    words = r"the pickle of tests.support.foreign_models:Grows has [\d,]+ bytes after 1,000 rows; its array has 20,000"
    with pytest.raises(ModelError, match=words + r"\. Set bytes = \d+ in \[model\]"):
        model.learn(rows.batch, rows.y, np.ones(3000, np.float32))
    with pytest.raises(ModelError, match="has 20,000"):
        _ = model.arrays


def test_the_seed_of_the_loop_is_that_of_the_model():
    made = el.build({**FOREIGN, "model": "river.forest:ARFClassifier", "seed": 7, "bytes": 1 << 22}, BINARY)
    assert made._loaded().seed == 7
    own = {"model": "river.forest:ARFClassifier", "arguments": {"seed": 3}, "seed": 7, "bytes": 1 << 22}
    assert el.build({**FOREIGN, **own}, BINARY)._loaded().seed == 3


def settings(**other: Any):
    return spec(model=TREE, mode="live", drift=DriftSpec(detector="none"), **other)


def learn(loop: Loop, first: int, last: int) -> None:
    for row in range(first, last):
        features, label = record(row)
        loop.learn(features, label, id=str(row))


def test_a_loop_that_was_closed_goes_on_to_the_byte(tmp_path):
    with Loop(settings(), tmp_path / "whole") as whole, Loop(settings(), tmp_path / "halves") as half:
        learn(whole, 0, 300)
        learn(half, 0, 170)
        expected = {name: array.tobytes() for name, array in whole.fold.roster.champion.model.arrays.items()}
    with Loop(settings(), tmp_path / "halves") as half:
        learn(half, 170, 300)
        got = {name: array.tobytes() for name, array in half.fold.roster.champion.model.arrays.items()}
    assert got == expected
    assert int(np.frombuffer(got["size"], np.int64)[0]) > 1000


def test_a_challenger_of_another_library_learns_beside_the_champion(tmp_path):
    with Loop(spec(drift=DriftSpec(detector="none")), tmp_path / "home") as loop:
        learn(loop, 0, 50)
        version = loop.challenge(SGD, "try it")
        learn(loop, 50, 200)
        assert version.spec["family"] == "foreign"
        challenger = next(one for one in loop.fold.roster.contestants if one.version == version.id)
        assert int(challenger.model.arrays["rows"][0]) >= 150


def test_the_door_of_a_server_takes_no_pickled_model_unless_named():
    plain, tree_name = spec(), TREE["model"]
    with pytest.raises(ConfigError, match="'foreign' may not be started here"):
        commands.challenge(plain, TREE, "from outside")
    with pytest.raises(ConfigError, match="'foreign' may not be started here"):
        commands.challenge(plain, TREE, "from outside", frozenset([tree_name]))
    with pytest.raises(ConfigError, match="'foreign' may not be started here"):
        commands.challenge(plain, {"family": "mix", "members": [TREE]}, "inside", frozenset([tree_name]))
    with pytest.raises(ConfigError, match=f"'{tree_name}' may not be started here"):
        commands.challenge(plain, TREE, "from outside", frozenset(["foreign"]))
    assert commands.challenge(plain, TREE, "named", frozenset(["foreign", tree_name])).action == "order"
    assert commands.challenge(settings(), TREE, "the loop's own").action == "order"
    with pytest.raises(ConfigError, match="may not be started here"):
        commands.challenge(settings(), {**TREE, "model": "os:system"}, "another model")


def test_it_serves_over_http_and_a_replay_makes_the_same_bytes(tmp_path):
    whole, home = settings(serve=ServeSpec(port=0)), tmp_path / "home"
    with Server(whole, home) as server, Client(server.url) as client:
        for begin in range(0, 120, 40):
            rows = [record(row) for row in range(begin, begin + 40)]
            client.learn_many([Example(str(begin + i), x, y) for i, (x, y) in enumerate(rows)])
            catch_up(server)
        answers = client.predict_many([record(row)[0] for row in range(20)])
        assert len({answer.proba[1] for answer in answers}) > 1
    with Loop(whole, home) as loop:
        assert content(loop) == replay(home, whole, tmp_path / "replay")
