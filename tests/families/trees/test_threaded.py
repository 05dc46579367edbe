"""Several threads: the bytes of one thread, for each task, number of threads, and cut of a stream."""

from __future__ import annotations

import copy
import os
import pickle
import signal

import numpy as np
import pytest

from everlearn import checks
from everlearn.errors import ConfigError, InputError
from everlearn.families.trees import Trees, build, threaded
from everlearn.records import Batch
from tests.support.trees import batch_of, boxes, learned, tree_of


def forest(threads: int, task: str = "multiclass", **settings: object) -> Trees:
    classes = {"binary": 2, "multiclass": 3, "regression": 0}[task]
    shape = {"family": "forest", "task": task, "dense": 4, "classes": classes, "trees": 40, "memory": 40 << 15}
    return build({**shape, "threads": threads, **settings})


def same(one: Trees, two: Trees) -> bool:
    return all(array.tobytes() == two.arrays[name].tobytes() for name, array in one.arrays.items())


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threaded, "LEAST_WORK", 1)
    monkeypatch.setattr(threaded, "BLOCK_ROWS", 100)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_no_byte(task: str, threads: int) -> None:
    """Rows with missing values, weights of 0, labels that are not finite, and a drift."""
    x, y = boxes(1500, classes=2 if task == "binary" else 3, seed=2)
    x[::9, 1], y[700:] = np.nan, y[700:][::-1]
    y[::50] = np.nan
    weight = np.where(np.arange(1500) % 7 == 0, 0.0, 1.5).astype(np.float32)
    one, several = forest(1, task), forest(threads, task)
    expected = one.learn(batch_of(x), y, weight)
    assert several.learn(batch_of(x), y, weight).tobytes() == expected.tobytes()
    assert same(one, several)
    assert several.predict(batch_of(x)).tobytes() == one.predict(batch_of(x)).tobytes()


@pytest.mark.parametrize("cut", [1, 2, 99, 101, 350])
def test_threads_take_any_cut(cut: int) -> None:
    x, y = boxes(800, classes=3, seed=3)
    one, several = forest(1), forest(2)
    expected = learned(one, x, y)
    got = [learned(several, x[start : start + cut], y[start : start + cut]) for start in range(0, 800, cut)]
    assert np.concatenate(got).tobytes() == expected.tobytes()
    assert same(one, several)


def test_threads_take_rows_that_are_hashed() -> None:
    random = np.random.default_rng(0)
    entries = [sorted(random.choice(50, random.integers(0, 5), replace=False).tolist()) for _ in range(600)]
    y = np.array([float(7 in one) for one in entries])
    one, several = (forest(threads, "binary", dense=0, hashed=50) for threads in (1, 2))
    x = np.zeros((600, 0))
    assert learned(several, x, y, entries).tobytes() == learned(one, x, y, entries).tobytes()
    assert same(one, several)
    assert several.predict(batch_of(x, entries)).tobytes() == one.predict(batch_of(x, entries)).tobytes()


def test_faults_are_those_of_one_thread() -> None:
    x, y = boxes(400, classes=3, seed=4)
    bad = [0.0] * 400
    bad[301], bad[350] = 5.0, 6.0
    rows = Batch(x, np.arange(401), np.where(np.arange(400) == 270, 9, 0).astype(np.int32), np.ones(400, np.float32))
    messages = []
    for model in (forest(1, hashed=8), forest(3, hashed=8)):
        before = {name: array.tobytes() for name, array in model.arrays.items()}
        for call in (
            lambda model=model: learned(model, x, np.array(bad)),
            lambda model=model: model.predict(rows),
            lambda model=model: model.learn(rows, y, np.ones(400, np.float32)),
        ):
            with pytest.raises(InputError) as caught:
                call()
            messages.append(str(caught.value))
        assert before == {name: array.tobytes() for name, array in model.arrays.items()}
    assert messages[:3] == messages[3:]
    assert "row 301" in messages[0]
    assert "row 270" in messages[1]


def test_a_model_with_threads_keeps_the_contract() -> None:
    results = checks.run(lambda: forest(2, trees=5, memory=200_000, grace=5.0))
    assert [result for result in results if not result.ok] == []


def test_copies_pickles_and_forks_go_on_alike() -> None:
    x, y = boxes(600, classes=3, seed=5)
    model = forest(2)
    learned(model, x[:300], y[:300])
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    expected = learned(model, x[300:], y[300:]).tobytes()
    for twin in twins:
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if learned(twin, x[300:], y[300:]).tobytes() == expected else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert learned(twin, x[300:], y[300:]).tobytes() == expected
        assert same(model, twin)


def test_few_rows_use_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not threaded.pays(1, 10_000)
    assert not threaded.pays(20, 32)
    assert threaded.pays(64, 32)


@pytest.mark.parametrize("threads", [0, 65])
def test_threads_are_a_small_number(threads: int) -> None:
    with pytest.raises(ConfigError, match=f"threads: got {threads}; expected 1 to 64"):
        forest(threads)
    with pytest.raises(ConfigError, match="threads: got 2; expected 1 for the family 'tree'"):
        tree_of(4, threads=2)
