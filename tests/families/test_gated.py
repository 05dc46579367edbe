"""The family "gated": what is accepted, what is taken back, and that nothing is lost or leaks on the way."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn import checks, metrics, model
from everlearn.errors import ConfigError, InputError
from everlearn.evaluate import prequential
from everlearn.families.gated import Gated
from everlearn.gate.power import power
from everlearn.model import copied, cut, within
from everlearn.records import Arrays, Batch, Examples, Floats, Loss, Singles

LINEAR = {"family": "linear"}


class Told:
    """Answers what column 1 says while untouched, and what column 0 says once it has learned anything."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = dict(spec)
        self.arrays: Arrays = {"learned": np.zeros((), np.int64)}

    def predict(self, batch: Batch) -> Singles:
        return two(batch.dense[:, 0 if self.arrays["learned"] > 0 else 1])

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        said = self.predict(batch)
        said[1:] = two(batch.dense[1:, 0])
        self.arrays["learned"] += len(y)
        return said


def two(chance: Singles) -> Singles:
    return np.stack([1 - chance, chance], axis=1).astype(np.float32)


def told(dense: Singles) -> Examples:
    """Rows of class 1, with what the accepted model (column 1) and a proposal (column 0) say of it."""
    n = len(dense)
    batch = Batch(dense.astype(np.float32), np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return Examples(batch, np.ones(n), np.ones(n, np.float32), np.arange(1, n + 1))


def answers(n: int, points: float, disagreement: float, seed: int) -> Examples:
    """Rows on which the proposal is right more often by so many points."""
    drawn, border = np.random.default_rng(seed).random(n), 0.5 * (disagreement + points / 100)
    proposal = ~((drawn >= border) & (drawn < disagreement))
    return told(np.stack([proposal, drawn >= border], axis=1))


def separable(n: int, seed: int = 0, flip: float = 0.0) -> Examples:
    random = np.random.default_rng(seed)
    dense = random.normal(size=(n, 4)).astype(np.float32)
    y = (dense @ np.array([2.0, -1.0, 0.5, 0.0]) > 0) ^ (random.random(n) < flip)
    batch = Batch(dense, np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return Examples(batch, y.astype(float), np.ones(n, np.float32), np.arange(1, n + 1))


def build(**dials: Any) -> Gated:
    made = model.build({"family": "gated", "task": "binary", "dense": 4, "update": 500, "validation": 500, **dials})
    assert isinstance(made, Gated)
    return made


def learn(one: Gated, rows: Examples) -> Singles:
    return one.learn(rows.batch, rows.y, rows.weight)


def outcomes(one: Gated) -> tuple[int, int, int]:
    known = one.verdicts()
    return known["accepted"], known["rejected"], known["undecided"]


def same(left: Arrays, right: Arrays) -> bool:
    return left.keys() == right.keys() and all(left[name].tobytes() == right[name].tobytes() for name in left)


# ---- the contract -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("task", [{"task": "binary"}, {"task": "multiclass", "classes": 3}, {"task": "regression"}])
def test_the_contract_is_kept_while_proposals_come_and_go(task: dict[str, Any], check: Any) -> None:
    """Rows enough for several verdicts: the checks restart models in each phase of a validation."""
    gates = {"minimum": 400} if task["task"] == "regression" else {}
    spec = {"family": "gated", **task, "dense": 3, "hashed": 32, "update": 60, "validation": 500, "gate": gates}
    rows = checks.sample(model.build(spec).spec, 900)
    check(lambda: model.build(spec), rows)


def test_rows_of_the_contract_see_verdicts() -> None:
    one = build(hashed=32, update=60)
    learn(one, checks.sample(one.spec, 900))
    assert sum(outcomes(one)) >= 1


def test_a_deferred_one_takes_the_shape_of_its_stream() -> None:
    one = model.build({"family": "gated", "model": {"family": "linear", "optimizer": "sgd"}})
    model.bind(one, {"task": "multiclass", "dense": 2, "hashed": 0, "classes": 3})
    assert one.spec["model"] == model.build({**one.spec["model"]}).spec
    assert one.spec["model"]["optimizer"] == "sgd"
    assert one.spec["model"]["classes"] == 3


# ---- what is accepted, and when ---------------------------------------------------------------------------------


def test_who_never_learned_is_replaced_by_what_was_proposed() -> None:
    one, rows = build(), separable(1200)
    before = one.predict(rows.batch)
    said = learn(one, rows)
    assert (said[:1000] == before[:1000]).all()  # what answers is what was accepted, and nothing else
    assert outcomes(one) == (1, 0, 0)
    assert (metrics.losses("error", said[1000:], rows.y[1000:])).mean() < 0.05
    alone = model.build({**one.spec["model"]})
    alone.learn(cut(rows, 0, 500).batch, rows.y[:500], rows.weight[:500])
    assert (said[1000:] == alone.predict(cut(rows, 1000, 1200).batch)).all()


def test_rows_of_a_validation_are_learned_after_it_and_only_once() -> None:
    one, rows = build(), separable(1200)
    learn(one, cut(rows, 0, 1000))
    alone = model.build({**one.spec["model"]})
    alone.learn(cut(rows, 0, 1000).batch, rows.y[:1000], rows.weight[:1000])
    assert same(within(one.arrays, "learn/proposal/"), alone.arrays)
    assert one.verdicts()["learned"] == 500
    assert one.verdicts()["tested"] == 0


@pytest.mark.parametrize(("points", "outcome", "validated"), [(-6.0, "rejected", 500), (0.0, "undecided", 1000)])
def test_who_is_not_accepted_takes_everything_back(points: float, outcome: str, validated: int) -> None:
    """Told counts what it learned: that is its state beside its answers, like an optimiser's or a memory."""
    one = build(dense=2, model={"family": "tests.families.test_gated:Told"}, update=700, validation=1000)
    learn(one, answers(700 + validated, points, 0.06, seed=3))
    assert one.verdicts()[outcome] == sum(outcomes(one)) == 1
    assert one.verdicts()["last"]["outcome"] == outcome
    assert one.verdicts()["last"]["examples"] == validated
    assert one.arrays["accepted/learned"] == 0
    assert one.arrays["learn/proposal/learned"] == validated  # and none of the 700 before


def test_optimiser_state_goes_back_with_the_weights() -> None:
    """Updates on labels that are half wrong, after a good model: bytes of Adam's moments are the accepted ones."""
    one = build(model={"family": "linear", "optimizer": "adam", "rate": 0.5}, update=500, validation=500)
    learn(one, separable(1000))
    assert outcomes(one) == (1, 0, 0)
    accepted = copied({name: array for name, array in one.arrays.items() if name.startswith("accepted/")})
    alone = model.build({**one.spec["model"]})
    learn(one, separable(500, seed=1, flip=0.5))  # learned at once: the validation of who learned 500 rows already
    now = {name: array for name, array in one.arrays.items() if name.startswith("accepted/")}
    assert sum(outcomes(one)) == 2
    assert outcomes(one)[0] == 1
    assert same(accepted, now)
    alone.arrays = copied(within(accepted, "accepted/"))
    rows = separable(500, seed=1, flip=0.5)
    alone.learn(rows.batch, rows.y, rows.weight)
    assert same(alone.arrays, within(one.arrays, "learn/proposal/"))


def test_a_validation_is_over_when_the_gate_knows() -> None:
    one, rows = build(update=500, validation=5000), separable(2000)
    learn(one, cut(rows, 0, 999))
    assert outcomes(one) == (0, 0, 0)
    assert one.evidence().examples == 499
    learn(one, cut(rows, 999, 1000))
    assert outcomes(one) == (1, 0, 0)
    assert one.evidence().examples == 0


def test_a_guard_keeps_what_costs_a_class() -> None:
    """Better on average, worse on every row of class 0."""
    random = np.random.default_rng(0)
    y = (random.random(1700) < 0.8).astype(float)
    right_before = np.where(y == 1, random.random(1700) < 0.7, True)
    right_after = np.where(y == 1, True, random.random(1700) < 0.5)
    dense = np.stack([np.where(right, y, 1 - y) for right in (right_after, right_before)], axis=1).astype(np.float32)
    batch = told(dense).batch
    counts = {}
    for guards in ({}, {"recall:0": 0.02}):
        dials = {"dense": 2, "model": {"family": "tests.families.test_gated:Told"}, "update": 700, "validation": 1000}
        one = build(**dials, gate={"loss": "error", "guards": guards})
        one.learn(batch, y, np.ones(1700, np.float32))
        counts[len(guards)] = outcomes(one)
    assert counts[0][0] == 1
    assert counts[1][0] == 0


def test_null_proposals_are_accepted_at_most_as_often_as_alpha_says() -> None:
    """300 proposals that are no better. Accepting what scores better on the same 500 rows accepts nearly half."""
    better, accepted = 0, 0
    for seed in range(300):
        rows = answers(501, 0.0, 0.06, seed)
        one = build(dense=2, model={"family": "tests.families.test_gated:Told"}, update=1, gate={"loss": "error"})
        learn(one, rows)
        assert sum(outcomes(one)) == 1
        accepted += outcomes(one)[0]
        tested = rows.batch.dense[1:]
        better += tested[:, 0].sum() > tested[:, 1].sum()
    assert better / 300 == pytest.approx(0.47, abs=0.06)
    assert accepted / 300 <= 0.05 + 2 * (0.05 * 0.95 / 300) ** 0.5


def test_better_proposals_are_accepted_with_the_power_that_is_stated() -> None:
    """200 proposals truly better by 3 points, validated on 1,500 rows; both shares have a standard error."""
    stated = power(1500, 3.0)
    assert 0.6 < stated < 0.95
    accepted = 0
    for seed in range(200):
        one = build(
            dense=2,
            model={"family": "tests.families.test_gated:Told"},
            update=1,
            validation=1500,
            gate={"loss": "error"},
        )
        learn(one, answers(1501, 3.0, 0.06, 1000 + seed))
        accepted += outcomes(one)[0]
    assert accepted / 200 == pytest.approx(stated, abs=3 * (stated * (1 - stated) * (1 / 200 + 1 / 400)) ** 0.5)


# ---- rows that are kept -----------------------------------------------------------------------------------------


def sparse(widths: list[int], hashed: int = 50) -> Examples:
    indptr = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    random = np.random.default_rng(2)
    n, entries = len(widths), int(indptr[-1])
    indices = random.integers(0, hashed, entries).astype(np.int32)
    batch = Batch(np.full((n, 1), np.nan, np.float32), indptr, indices, random.normal(size=entries).astype(np.float32))
    return Examples(batch, (random.random(n) < 0.5).astype(float), np.ones(n, np.float32), np.arange(1, n + 1))


def test_hashed_rows_are_kept_whole_as_long_as_their_mean_width_has_room() -> None:
    one = build(dense=1, hashed=50, update=1, validation=500, width=4, layout=1)
    rows = sparse([1] + [0, 8, 4, 3, 5] * 100)
    learn(one, rows)
    alone = model.build({**one.spec["model"]})
    if outcomes(one)[0]:
        alone.learn(cut(rows, 0, 1).batch, rows.y[:1], rows.weight[:1])
    alone.learn(cut(rows, 1, 501).batch, rows.y[1:], rows.weight[1:])
    assert one.verdicts()["cut"] == 0
    assert same(within(one.arrays, "learn/proposal/"), alone.arrays)


def test_entries_without_room_are_counted() -> None:
    one = build(dense=1, hashed=50, update=1, validation=500, width=4, layout=1)
    learn(one, sparse([1, 3, 9, 2, 6]))  # 3; 5 of 9, as one was left; 2; 6, as two were left
    assert one.verdicts()["cut"] == 4
    assert one.arrays["learn/rows/indptr"][:5].tolist() == [0, 3, 8, 10, 16]


def test_rows_that_cannot_be_learned_validate_nothing() -> None:
    one, rows = build(), separable(2000)
    y, weight = rows.y.copy(), rows.weight.copy()
    y[500::2], weight[501::4] = np.nan, 0.0
    one.learn(rows.batch, y, weight)
    assert one.verdicts()["tested"] == int((np.isfinite(y[500:]) & (weight[500:] > 0)).sum())


def test_a_batch_that_is_refused_changes_nothing() -> None:
    one, rows = build(), separable(1400)
    learn(one, cut(rows, 0, 700))
    before = copied(one.arrays)
    for y in (np.where(np.arange(700) == 650, 2.0, 1.0), np.ones(3)):
        with pytest.raises(InputError):
            one.learn(cut(rows, 700, 1400).batch, y, np.ones(700, np.float32))
    narrow = Batch(np.zeros((700, 3), np.float32), np.zeros(701, np.int64), *np.zeros((2, 0), np.int32))
    with pytest.raises(InputError):
        one.learn(narrow, np.ones(700), np.ones(700, np.float32))
    assert same(before, one.arrays)


# ---- arrays -----------------------------------------------------------------------------------------------------


def test_a_shallow_copy_that_is_given_arrays_stands_apart() -> None:
    """What a server does with each snapshot; read-only arrays are enough to answer."""
    one, rows = build(), separable(1200)
    learn(one, rows)
    own = one.arrays
    twin, given = copy.copy(one), copied(build().arrays)
    for array in given.values():
        array.flags.writeable = False
    twin.arrays = given
    assert all(one.arrays[name] is own[name] for name in own)
    assert all(twin.arrays[name] is given[name] for name in given)
    assert (twin.predict(rows.batch) == 0.5).all()
    assert (one.predict(rows.batch) != 0.5).any()


def test_what_serving_needs_is_apart_from_what_learning_needs() -> None:
    one, rows = build(), separable(1200)
    learn(one, rows)
    answering = {name for name in one.arrays if not name.startswith("learn/")}
    assert answering == {f"accepted/{name}" for name in model.build({**one.spec["model"]}).arrays}


def test_who_serves_from_read_only_arrays_has_one_model_in_memory_and_can_be_given_all_again() -> None:
    one, worker, rows = build(), build(), separable(1500)
    learn(one, rows)
    serving = copied(model.answering(one.arrays))
    for array in serving.values():
        array.flags.writeable = False
    worker.arrays = serving
    proposed = within(worker.arrays, "learn/proposal/")
    assert proposed
    assert all(array is serving[f"accepted/{name}"] for name, array in proposed.items())
    worker.arrays = copied(one.arrays)
    for each in (one, worker):
        learn(each, separable(300))
    assert same(one.arrays, worker.arrays)


def test_a_gated_model_in_the_evaluation_loop_reports_what_answered() -> None:
    rows = separable(3000)
    stream = {**{f"x{i}": rows.batch.dense[:, i] for i in range(4)}, "y": rows.y.astype(int)}
    one = model.build({"family": "gated", "update": 500, "validation": 500})
    report = prequential.prequential(one, el.read(stream, label="y"))
    assert 0.75 < report.metrics["accuracy"] < 0.85  # a coin for 1,000 rows, then nearly always right


@pytest.fixture
def one_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_network_takes_its_optimiser_and_its_memory_back_and_resumes_exactly(one_thread: None) -> None:
    """Interrupted while it learns, while it is validated, and after verdicts: the same bytes as never interrupted."""
    inner = {
        "family": "neural",
        "arguments": {"hidden": [8]},
        "batch": 8,
        "ema": 0.9,
        "optimizer": {"name": "adam", "lr": 0.03},
        "memory": {"rows": 40},
        "terms": [{"kind": "replay"}],
        "one_at_a_time": False,
    }
    rows = separable(2000)
    y = np.where((np.arange(2000) > 800) & (np.arange(2000) < 1500), 1 - rows.y, rows.y)  # bad labels for a while
    whole, resumed, start = build(model=inner, update=300), build(model=inner, update=300), 0
    for stop in (60, 333, 605, 1111, 1600, 2000):
        part = cut(rows, start, stop)
        expected = whole.learn(part.batch, y[start:stop], part.weight)
        assert resumed.learn(part.batch, y[start:stop], part.weight).tobytes() == expected.tobytes()
        twin, start = build(model=inner, update=300), stop
        twin.arrays = copied(resumed.arrays)
        resumed = twin
        assert same(whole.arrays, resumed.arrays)
    assert not whole.spec["one_at_a_time"]
    assert outcomes(whole)[0] == 1
    assert sum(outcomes(whole)) == 3
    alone = model.build(dict(whole.spec["model"]))
    accepted = within(whole.arrays, "accepted/") | {
        f"learn/{name}": array for name, array in within(whole.arrays, "learn/accepted/").items()
    }
    alone.learn(cut(rows, 0, 300).batch, y[:300], rows.weight[:300])
    assert same(alone.arrays, accepted)  # moments, memory, counters and all


# ---- dials ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dials", "said"),
    [
        ({"validation": 499}, "500"),
        ({"gate": {"minimum": 600}}, "600"),
        ({"gate": {"cycle": 1000}}, "cycle 1000"),
        ({"task": "regression"}, "scale of the loss"),
        ({"gate": {"guards": {"recall:2": 0.1}}}, "got 'recall:2'; expected 'recall:CLASS' with CLASS one of 0, 1"),
        ({"gate": {"loss": "absolute"}}, "absolute"),
        ({"update": 0}, "update"),
        ({"unknown": 1}, "unknown: unknown setting, got 1. Known settings: "),
        ({"width": 4}, "width: got 4; this setting was removed"),
        ({"one_at_a_time": False}, "one_at_a_time: got False; expected that of model, True"),
        ({"model": {"family": "none"}}, "none"),
    ],
)
def test_wrong_dials_are_refused(dials: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(**dials)


def test_the_loss_of_the_inner_model_decides() -> None:
    inner = {"family": "linear", "loss": "quantile", "loss_parameter": 0.9}
    one = el.build({"family": "gated", "task": "regression", "dense": 2, "model": inner})
    assert one.spec["gate"]["loss"] == "pinball"
    assert model.own_loss(one) == Loss("pinball", 0.9)
    assert model.copy(one).spec == one.spec
    assert "learn/gate/recent" in one.arrays
    told = el.build({"family": "gated", "task": "regression", "dense": 2, "model": inner, "gate": {"loss": "squared"}})
    assert told.spec["gate"]["loss"] == "squared"


def test_a_stored_model_of_layout_1_keeps_its_rules_and_arrays() -> None:
    stored = {"family": "gated", "task": "regression", "dense": 2, "model": LINEAR, "layout": 1}
    one = el.build(stored)
    assert (one.spec["gate"]["loss"], one.spec["gate"]["layout"]) == ("absolute", 1)
    assert sorted(within(one.arrays, "learn/gate/")) == ["blocks", "capital", "seen", "totals"]
    assert model.copy(one).arrays.keys() == one.arrays.keys()


def test_validation_rows_count_by_their_weights() -> None:
    """The proposal is better on light rows, and worse on the tenth of rows that weigh nine."""
    draw, n = np.random.default_rng(4), 2500
    heavy = draw.random(n) < 0.1
    proposal = draw.random(n) < np.where(heavy, 0.3, 0.9)
    accepted = draw.random(n) < np.where(heavy, 0.9, 0.6)
    rows = told(np.stack([proposal, accepted], axis=1))
    for weight, expected in ((np.ones(n), (1, 0, 0)), (np.where(heavy, 9.0, 1.0), (0, 1, 0))):
        one = build(dense=2, update=500, validation=2000, model={"family": "tests.families.test_gated:Told"})
        one.learn(rows.batch, rows.y, weight.astype(np.float32))
        assert outcomes(one) == expected


STALE = {"family": "tests.support.traced_models:Stale"}


@pytest.mark.parametrize("check", checks.CHECKS[-2:], ids=lambda check: check.__name__)
def test_a_trace_goes_through(check: Any) -> None:
    spec = {"family": "gated", "task": "binary", "dense": 3, "update": 60, "validation": 500, "model": STALE}
    rows = checks.sample(model.build(spec).spec, 700)
    check(lambda: model.build(spec), rows)


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_a_proposal_learns_from_what_was_said_also_the_rows_of_a_validation(flip: float) -> None:
    """The steps of the inner model alone, with the traces that came: all if accepted, else since the verdict."""
    rows, n = separable(1000, flip=flip), 1000
    one, alone = build(model=STALE), model.build({**STALE, "dense": 4})
    scores, trace = one.predict_traced(rows.batch)
    assert (one.trace, trace.tolist()) == (1, scores[:, 1:].tolist())
    trace = np.linspace(0.3, 0.7, n, dtype=np.float32)[:, None]
    trace[::5] = np.nan
    one.learn(rows.batch, rows.y, rows.weight, trace)
    accepted = one.verdicts()["accepted"] == 1
    assert accepted == (flip == 0.0)
    assert sum(outcomes(one)) == 1
    since = 0 if accepted else 500
    kept = cut(rows, since, n)
    model.learn(alone, kept.batch, kept.y, kept.weight, trace[since:])
    assert one.arrays["learn/proposal/line"].tolist() == alone.arrays["line"].tolist()


def test_without_a_trace_there_is_no_array_for_it() -> None:
    assert not [name for name in build().arrays if "trace" in name]
