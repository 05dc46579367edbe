"""Models of anomalies: what they learn, what they leave out, and better ranks than River's on streams with a truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn import model
from everlearn.families.anomaly.model import Anomaly, build
from everlearn.records import Batch, Floats, Singles
from everlearn.schema import Encoder
from everlearn.spec import Schema

SPEC: dict[str, Any] = {"family": "anomaly", "task": "binary", "dense": 2, "window": 128}


def rows_of(dense: Singles) -> Batch:
    return Batch(dense, np.zeros(len(dense) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def scored(detector: Anomaly, x: Singles, y: Floats | None = None) -> Floats:
    y = np.zeros(len(x)) if y is None else y
    return detector.learn(rows_of(x), y, np.ones(len(x), np.float32))[:, 1].astype(np.float64)


def auc(y: Floats, scores: Floats) -> float:
    order = np.concatenate([scores[y == 1], scores[y == 0]]).argsort().argsort()[: int(y.sum())]
    return float((order.mean() - (y.sum() - 1) / 2.0) / (y == 0).sum())


def test_labels_do_not_matter_unless_anomalies_are_left_out() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(600, 2)).astype(np.float32), (random.random(600) < 0.3).astype(float)
    x[y == 1] += 8.0
    blind, all_rows = scored(build(SPEC), x), scored(build(SPEC), x, y)
    assert blind.tobytes() == all_rows.tobytes()
    strict = scored(build({**SPEC, "learn_anomalies": False}), x, y)
    assert auc(y[200:], strict[200:]) > 0.999 > auc(y[200:], blind[200:])


def test_few_rows_are_needed_for_a_useful_score() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(260, 2)).astype(np.float32)
    odd = np.arange(140, 260, 20)
    x[odd] = 7.0
    scores = scored(build(SPEC), x)
    assert np.median(scores[odd]) > np.quantile(np.delete(scores[140:], odd - 140), 0.95)


def test_a_stream_that_drifts_away_becomes_normal_again() -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(6000, 2)).astype(np.float32)
    x[3000:] += 20.0
    scores = scored(build(SPEC), x)
    assert scores[3000:3050].mean() > 0.95
    assert (scores[-500:] > 0.99).mean() < 0.03


def test_steady_drift_shortens_the_reference() -> None:
    random = np.random.default_rng(5)
    y = (random.random(3000) < 0.02).astype(float)
    x = random.normal(size=(3000, 2)) + np.linspace(0.0, 20.0, 3000)[:, None]
    x[y == 1] += random.choice([-5.0, 5.0], (int(y.sum()), 2))
    assert auc(y[300:], scored(build({**SPEC, "window": 1024}), x.astype(np.float32))[300:]) > 0.9


def test_explanations_name_the_column_that_stands_out() -> None:
    encoder = Encoder(Schema(label="y", task="binary", classes=("normal", "anomaly"), fields=FIELDS))
    random = np.random.default_rng(3)
    detector = model.build({"family": "anomaly", "window": 256}, encoder.shape)
    records = [
        {"heat": float(heat), "load": float(load), "mode": str(mode)}
        for heat, load, mode in zip(
            random.normal(size=800), random.normal(size=800), random.choice(list("ab"), 800), strict=True
        )
    ]
    batch = encoder.rows(records)
    detector.learn(batch, np.zeros(800), np.ones(800, np.float32))
    from everlearn.families.explain import contributions

    for record, field in (
        ({"heat": 9.0, "load": 0.1, "mode": "a"}, "heat"),
        ({"heat": 0.0, "load": -9.0, "mode": "b"}, "load"),
        ({"heat": 0.0, "load": 0.1, "mode": "never seen"}, "mode"),
    ):
        found = contributions(detector, encoder, record)
        rank = float(detector.predict(encoder.record(record))[0, 1])
        numbers = {name: float(value) for name, value in found.items() if isinstance(value, float | np.floating)}
        assert max(numbers, key=numbers.__getitem__) == field
        assert sum(numbers.values()) == pytest.approx(np.log(rank / (1.0 - rank)), rel=1e-3)


FIELDS = {"heat": "numeric", "load": "numeric", "mode": "categorical"}


def test_ranks_are_as_good_as_those_of_rivers_trees() -> None:
    """On numbers of any scale, River's trees after a scaler; three streams with the true anomalies known."""
    river = pytest.importorskip("river")
    from river import anomaly, preprocessing

    assert river
    random = np.random.default_rng(4)
    y = (random.random(3000) < 0.02).astype(float)
    correlated = random.normal(size=(3000, 4)) @ random.normal(size=(4, 4))
    correlated[y == 1] = random.permutation(correlated[y == 1], axis=0)[:, random.permutation(4)] * 1.5
    heavy = np.exp(2.0 * random.normal(size=(3000, 4)))
    heavy[y == 1] *= 6.0
    drifting = random.normal(size=(3000, 4)) + np.linspace(0.0, 4.0, 3000)[:, None]
    drifting[y == 1] += random.choice([-4.0, 4.0], (int(y.sum()), 4))
    for x in (correlated, heavy, drifting):
        theirs = preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=1)
        found = []
        for row in x.tolist():
            record = dict(enumerate(row))
            found.append(theirs.score_one(record))
            theirs.learn_one(record)
        ours = scored(build({**SPEC, "dense": 4, "window": 1024}), x.astype(np.float32))
        assert auc(y[250:], ours[250:]) > auc(y[250:], np.array(found)[250:])
