"""Scores become decisions by one rule, in a loop and in a worker alike; costs are checked before anything starts."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from everlearn import model
from everlearn.errors import ConfigError
from everlearn.predict import Instance, Serving, answer
from everlearn.schema import Encoder
from everlearn.serve import deciding
from everlearn.serve.snapshot import Answering, Publisher, Reader
from everlearn.spec import DecisionSpec, Schema, Spec

FRAUD = {"fraud": {"ok": 100.0}, "ok": {"fraud": 1.0}}
FIELDS = {"a": "numeric"}


def spec(classes: tuple[Any, ...] = ("ok", "fraud"), task: Any = "binary", **decision: Any) -> Spec:
    schema = Schema(label="y", task=task, classes=classes, fields=FIELDS)
    return Spec(schema=schema, model={"family": "linear"}, decision=DecisionSpec(**decision))


def drawn(rows: int, classes: int) -> Any:
    return np.random.default_rng(1).dirichlet(np.ones(classes), rows).astype(np.float32)


def test_the_lowest_expected_cost_is_decided_as_by_enumeration() -> None:
    costs = np.array([[0.0, 1.0, 7.0], [2.0, 0.5, 3.0], [40.0, 5.0, 0.0]])
    scores = drawn(500, 3)
    expected = [
        min(range(3), key=lambda d, row=row: (sum(float(row[t]) * costs[t, d] for t in range(3)), d)) for row in scores
    ]
    assert deciding.decide(costs, scores).tolist() == expected
    one_by_one = [int(deciding.decide(costs, scores[row : row + 1])[0]) for row in range(500)]
    assert one_by_one == expected


@pytest.mark.parametrize("costs", [((0.0, 1.0), (100.0, 0.0)), ((0.0, 5.0), (9.0, 4.0)), ((1.0, 2.0), (3.0, 0.0))])
def test_the_threshold_of_bayes_decides_as_the_expected_cost_does(costs: Any) -> None:
    table, scores = np.array(costs), drawn(2000, 2)
    threshold = np.array([deciding.bayes_threshold(table)])
    near = np.abs(scores[:, 1] - threshold) < 1e-6  # the two scores of a row need not add up to exactly 1
    assert (deciding.decide(threshold, scores) == deciding.decide(table, scores))[~near].all()


def test_without_a_rule_the_likeliest_class_is_decided() -> None:
    assert deciding.decide(None, drawn(100, 4)).tolist() == drawn(100, 4).argmax(1).tolist()
    assert deciding.kind(spec()) == "none"


def test_a_threshold_is_compared_in_full_precision() -> None:
    score = np.float32(0.1)  # 0.100000001490116
    rows = np.array([[1 - score, score]], np.float32)
    assert deciding.decide(np.array([float(score)]), rows).tolist() == [1]
    assert deciding.decide(np.array([float(score) + 1e-12]), rows).tolist() == [0]


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (spec(costs=FRAUD, rate=0.1), r"decision: got costs and rate; expected one of them"),
        (spec((0, 1, 2), "multiclass", rate=0.1), r"decision.rate: got it for a multiclass task; 'rate' is for two"),
        (spec((), "regression", costs=FRAUD), r"decision.costs: got it for a regression task; 'costs' needs classes"),
        (spec((), "regression", recall=0.9), r"decision.recall: got it for a regression task"),
    ],
)
def test_settings_that_do_not_fit_are_refused(chosen: Spec, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        deciding.kind(chosen)


@pytest.mark.parametrize(
    ("costs", "says"),
    [
        ({"frad": {"ok": 1.0}}, r"decision.costs: got the class 'frad' \(did you mean 'fraud'\?\); expected one of ok"),
        ({"fraud": {"fine": 1.0}}, r"decision.costs.fraud.fine: got the class 'fine'.*; expected one of ok, fraud"),
        ({"fraud": {"ok": float("inf")}}, r"decision.costs.fraud.ok: got inf; expected a finite cost"),
        ({"fraud": {"fraud": 9.0}, "ok": {"fraud": 1.0}}, r"costs.fraud.ok: got 0; expected at least 9, the cost of"),
        (
            {"fraud": {"ok": 9.0}},
            r"deciding 'fraud' never costs more than the right decision.*Add what a false 'fraud'",
        ),
    ],
)
def test_costs_that_cannot_decide_are_refused(costs: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        deciding.costs(spec(costs=costs))


@pytest.mark.parametrize("classes", [(False, True), (0, 1), ("no", "yes"), (1.0, 2.5)])
def test_costs_name_classes_by_their_text(classes: tuple[Any, ...]) -> None:
    names = [str(label) for label in classes], [str(label).lower().removesuffix(".0") for label in classes]
    for no, yes in names:
        given = deciding.costs(spec(classes, costs={yes: {no: 3.0}, no: {yes: 2.0}}))
        assert given.tolist() == [[0.0, 2.0], [3.0, 0.0]]


def test_a_worker_decides_by_the_published_rule_and_answers_the_same_probabilities(tmp_path: Any) -> None:
    encoder = Encoder(spec().schema)
    made = model.build({"family": "linear"}, encoder.shape)
    rows = [{"a": float(value)} for value in np.random.default_rng(0).normal(size=400)]
    y = np.array([float(row["a"] > 0.5) for row in rows])
    made.learn(encoder.records(rows)[0], y, np.ones(400, np.float32))
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    publisher, reader = Publisher(folder), Reader(folder, model.build)
    asked = [Instance(f"{i}", row) for i, row in enumerate(rows)]

    def answers(champion: Any, canary: Any = None) -> list[Any]:
        publisher.publish(
            Answering("v", made, champion), Answering("w", made, canary) if canary is not None else None, 1, {}
        )
        held = reader.current()
        return answer(Serving(held.champion, held.canary, 0.5, 1, lambda batch: batch), encoder, asked)

    plain = answers(None)
    for threshold, other in product((0.01, 0.3, 2.0), (None, 0.8)):
        given = answers(np.array([threshold]), None if other is None else np.array([other]))
        assert [one.proba for one in given] == [one.proba for one in plain]
        used = [other if one.canary else threshold for one in given]
        assert [one.value for one in given] == [
            "fraud" if one.proba[1] >= least else "ok" for one, least in zip(given, used, strict=True)
        ]
    costs = np.array([[0.0, 1.0], [100.0, 0.0]])
    assert [one.value == "fraud" for one in answers(costs)] == [100 * one.proba[1] > one.proba[0] for one in plain]
    publisher.close()
