from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn import metrics
from everlearn.errors import ConfigError
from everlearn.evaluate.partitioned import PartitionedScores, Scoring, learned, scorer
from everlearn.evaluate.prequential import prequential
from everlearn.evaluate.scoring import NaiveScores
from everlearn.evaluate.windows import Window
from everlearn.model import build, cut, select
from everlearn.records import Arrays, Task
from everlearn.scale.partitions.dealing import Dealing
from everlearn.scale.partitions.learner import PartitionLearner, merged
from tests.support.partitions import BINARY, labelled, learner, same

LINEAR: dict[str, Any] = {"family": "linear", **BINARY}
EXAMPLES = labelled(1400)


def scores() -> PartitionedScores:
    return PartitionedScores(Scoring(task="binary", classes=2))


def test_the_report_is_over_the_predictions_of_all_partitions() -> None:
    """The oracle predicts the rows of both partitions in this process, and scores them in the order of the stream."""
    dealing = Dealing(count=2, every=400, opening=200)
    found, model = scores(), build(LINEAR)
    barriers, costs = learned(model, EXAMPLES, dealing, found)
    predicted = np.zeros((1400, 2), np.float32)
    learners, base, at = [PartitionLearner(LINEAR, p, 2) for p in range(2)], build(LINEAR).arrays, 0
    for barrier in barriers:
        part = cut(EXAMPLES, at, barrier.at)
        owner = dealing.owners(part.position)
        for p, one in enumerate(learners):
            one.begin(base, opening=barrier.opening)
            own = (owner == p) | (owner < 0)
            predicted[at : barrier.at][own] = one.learn(select(part, own))
        base, at = merged(learners, base, opening=barrier.opening), barrier.at
    arrays = metrics.start("binary", 2)
    known = NaiveScores("binary", 2, 0, None, None).score(EXAMPLES, 0)
    metrics.update(arrays, "binary", predicted, EXAMPLES.y, EXAMPLES.weight, 0, known)
    assert found.scored.results()["metrics"] == metrics.report(arrays, "binary")
    assert same(model.arrays, base)
    assert len(costs.partitions) == 2
    assert costs.rows == 1200
    assert costs.restarts == 0


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    ("task", "window"), [("binary", None), ("regression", None), ("binary", Window(300, 1.0, 300))]
)
def test_the_parts_of_all_partitions_are_the_whole(count: int, task: Task, window: Window | None) -> None:
    """Each part is restored halfway, as after the death of its process."""
    scoring = Scoring(task=task, classes=2 if task == "binary" else 0, window=window, warm=100)
    whole, rows = PartitionedScores(scoring), labelled(1400, task=task)
    parts = [scorer(msgspec.to_builtins(scoring), partition, count) for partition in range(count)]
    draw = np.random.default_rng(5).random((1400, 2 if task == "binary" else 1)).astype(np.float32)
    for begin in range(0, 1400, 350):
        part, predicted = cut(rows, begin, begin + 350), draw[begin : begin + 350]
        for one in (whole, *parts):
            one.add(part, predicted, ())
        again = [scorer(msgspec.to_builtins(scoring), partition, count) for partition in range(count)]
        for one, other in zip(parts, again, strict=True):
            other.load(*one.state())
        parts = again
    joined: Arrays = {}
    for one in parts:
        joined |= one.state()[0]
    found = PartitionedScores(scoring)
    found.load(joined, parts[0].state()[1])
    assert same(found.state()[0], whole.state()[0])
    assert found.events == 1400
    for name, line in whole.scored.results()["windows"].items():
        np.testing.assert_array_equal(found.scored.results()["windows"][name], line)


@pytest.mark.slow
def test_prequential_takes_partitions() -> None:
    model = build(LINEAR)
    report = prequential(model, EXAMPLES, partitions=2)
    alone = prequential(build(LINEAR), EXAMPLES)
    assert report.events == 1400
    assert report.baselines == alone.baselines  # of the same rows in the same order
    assert abs(report.metrics["accuracy"] - alone.metrics["accuracy"]) < 0.03
    assert model.arrays["counts"][0] == 1400
    assert not same(model.arrays, learner(LINEAR, EXAMPLES).arrays)


def test_what_partitions_do_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="delay: got 5 rows with 2 partitions; expected 0"):
        prequential(build(LINEAR), EXAMPLES, delay=5, partitions=2)
    with pytest.raises(ConfigError, match="partitions: got 0; expected 1 to 256"):
        prequential(build(LINEAR), EXAMPLES, partitions=0)
    with pytest.raises(ConfigError, match="got the family 'tree', and a tree is one piece"):
        prequential(build({"family": "tree", **BINARY}), EXAMPLES, partitions=2)
