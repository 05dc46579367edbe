"""Thinning: members that add less than they cost rest, are measured, and return; nothing depends on calls."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from everlearn import checks
from everlearn.checks import CHECKS
from everlearn.errors import ConfigError, InputError
from everlearn.families.mix import thinning
from everlearn.families.mix.model import Mix
from everlearn.model import build, copied, row_slice
from everlearn.records import Arrays, Batch

FOREST = {"family": "forest", "trees": 2, "memory": 1 << 18}
MONDRIAN = {"family": "mondrian", "trees": 2, "nodes": 200}
MEMBERS = [{"family": "linear"}, FOREST, MONDRIAN, {"family": "last"}]
# the arrays of a trained mix are not those of its spec
KEPT = [check for check in CHECKS if check is not checks.check_spec_builds_the_same_model]
HIGH = 100.0  # a price that no member is worth
TASKS = pytest.mark.parametrize("task", ["binary", "regression"])


def mix(task: str = "binary", price: float = HIGH, **more: Any) -> Mix:
    members = [one for one in MEMBERS if task != "regression" or one is not MONDRIAN]
    model = build({"family": "mix", "task": task, "dense": 3, "hashed": 8, "members": members, "price": price, **more})
    assert isinstance(model, Mix)
    return model


def linear_rows(n: int, seed: int = 0) -> tuple[Batch, np.ndarray]:
    """Return rows whose class is a side of a plane, with a tenth of the labels turned round."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    y = ((x @ [1.0, 2.0, -1.0] > 0) ^ (rng.random(n) < 0.1)).astype(float)
    indices, values = rng.integers(0, 8, n).astype(np.int32), np.ones(n, np.float32)
    return Batch(x, np.arange(n + 1, dtype=np.int64), indices, values), y


def boxed_rows(n: int, seed: int = 0) -> tuple[Batch, np.ndarray]:
    """Return rows whose class is the exclusive or of two signs: no plane parts them."""
    rows, _ = linear_rows(n, seed)
    return rows, ((rows.dense[:, 0] > 0) ^ (rows.dense[:, 1] > 0)).astype(float)


def teach(model: Mix, rows: Batch, y: np.ndarray, cut: int = 0) -> np.ndarray:
    n = len(y)
    step, ones = cut or n, np.ones(n, np.float32)
    return np.concatenate([
        model.learn(row_slice(rows, i, min(i + step, n)), y[i : i + step], ones[i : i + step])
        for i in range(0, n, step)
    ])  # fmt: skip


@cache
def rested(task: str, members: int) -> Arrays:
    """Return arrays at the first row at which `members` members rest."""
    model = mix(task)
    teach(model, *linear_rows(2_048 if members == 1 else 3_072))
    assert len(model.resting()) == members
    return copied(model.arrays)


def resting(task: str, members: int = 1) -> Mix:
    model = mix(task)
    model.arrays = copied(rested(task, members))
    return model


@pytest.mark.parametrize(("task", "members"), [("binary", 1), ("binary", 2), ("regression", 1)])
@pytest.mark.parametrize("check", KEPT, ids=lambda check: check.__name__)
def test_a_mix_with_resting_members_keeps_the_contract(task: str, members: int, check: Any) -> None:
    check(lambda: resting(task, members), checks.sample(mix(task).spec, 160))


@TASKS
def test_a_resting_member_learns_the_first_rows_of_each_period_alone(task: str) -> None:
    model = resting(task)
    place = next(iter(model.resting())).split()[0]
    rows, y = linear_rows(3_000, seed=1)
    clock = next(name for name in model.arrays if name.startswith((f"members/{place}/", f"learn/members/{place}/"))
                 and name.endswith("clock"))  # fmt: skip
    before, start = int(model.arrays[clock][0]), int(model.arrays["rest/counts"][0])
    teach(model, rows, y)
    attended = sum(thinning.attended(start + i) for i in range(3_000))
    assert int(model.arrays[clock][0]) - before == attended


@TASKS
@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_rows_may_be_cut_anywhere(task: str, cut: int) -> None:
    rows, y = linear_rows(4_200, seed=2)
    y[::50] = np.nan
    whole, parts = mix(task), mix(task)
    assert teach(whole, rows, y).tobytes() == teach(parts, rows, y, cut).tobytes()
    for name, array in whole.arrays.items():
        assert array.tobytes() == parts.arrays[name].tobytes(), name
    assert whole.resting()


def test_predictions_do_not_call_resting_members(monkeypatch: pytest.MonkeyPatch) -> None:
    model = resting("binary", 2)
    rows, _ = linear_rows(50, seed=3)
    expected = model.predict(rows)
    for place in (1, 2):
        monkeypatch.delattr(type(model._members[place]), "predict")
    assert model.predict(rows).tobytes() == expected.tobytes()


def test_members_that_earn_their_cost_change_nothing() -> None:
    rows, y = boxed_rows(4_000)
    free, priced = mix(price=0.0), mix(price=0.1)
    assert teach(free, rows, y).tobytes() == teach(priced, rows, y).tobytes()
    assert priced.resting() == {}
    assert free.trace == priced.trace - 1


def test_useless_members_rest_and_the_answers_are_as_good() -> None:
    rows, y = linear_rows(12_000)
    losses, models = [], (mix(price=0.0), mix(price=2.0))
    for model in models:
        scores = teach(model, rows, y).astype(float)
        losses.append(-np.log(scores[np.arange(len(y)), y.astype(int)]).mean())
    assert losses[1] < losses[0] + 0.002
    assert models[1].arrays["rest/rested"].max() > 4_000


def test_members_return_when_the_stream_needs_them() -> None:
    """After 2,048 rows of a plane come rows that no plane parts."""
    model = resting("binary", 1)
    assert model.resting()
    cheap = mix(price=0.1)
    cheap.arrays = copied(model.arrays)
    rows, y = boxed_rows(12_000, seed=4)
    scores = teach(cheap, rows, y)
    assert cheap.resting() == {}
    assert (scores.argmax(axis=1) == y)[-3_000:].mean() > 0.9


def test_a_late_label_is_learned_by_the_banks_whose_members_spoke() -> None:
    model = resting("binary", 2)
    rows, y = linear_rows(1, seed=5)
    model.arrays["rest/counts"][0] = 4 * thinning.PERIOD + thinning.ATTENDED  # no resting member speaks
    scores, trace = model.predict_traced(rows)
    assert trace[0, -2] == 3.0
    assert not trace[0, 2:6].any()
    assert scores.tobytes() == model.predict(rows).tobytes()
    model.arrays["rest/counts"][0] = 5 * thinning.PERIOD
    before = copied(model.arrays)
    model.learn(rows, y, np.ones(1, np.float32), trace)
    moved = [not np.array_equal(before["stack/recent"][bank], model.arrays["stack/recent"][bank]) for bank in range(4)]
    assert moved == [False, False, False, True]


def test_a_faulty_row_of_a_later_piece_is_refused_before_anything_is_learned() -> None:
    model = resting("binary")
    before = copied(model.arrays)
    rows, y = linear_rows(2_000)
    rows.indices[1_900] = 8
    with pytest.raises(InputError, match=r"row 1900 of the batch has a hashed index outside"):
        teach(model, rows, y)
    assert all(np.array_equal(array, before[name]) for name, array in model.arrays.items())


def test_weights_of_resting_members_are_nothing() -> None:
    model = resting("binary", 2)
    weights = model.weights()
    assert set(model.resting()) == {"1 forest", "2 mondrian"}
    assert weights["1 forest"] == weights["2 mondrian"] == 0.0
    assert weights["0 linear"] > 0.5


def test_a_mix_of_dear_members_keeps_one() -> None:
    model = mix(members=[FOREST, MONDRIAN])
    teach(model, *linear_rows(8_000))
    assert len(model.resting()) == 1


def test_a_wrong_price_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"price: got -1.0; expected a finite number from 0"):
        mix(price=-1.0)


def test_one_member_rests_or_returns_at_a_time() -> None:
    arrays = thinning.start_thinning(2)
    arrays["counts"][0] = 4096.0
    arrays["gains"][:] = [[3000.0, 0.0, 1e-6], [3000.0, -0.001, 1e-6]]
    thinning.decide(arrays, np.array([0.001, 0.001]), 1)
    assert arrays["absent"][0] == 2  # the second adds less
    assert arrays["gains"][:, 0].tolist() == [1000.0, 0.0]
    arrays["gains"][1] = [200.0, 0.5, 1e-6]
    thinning.decide(arrays, np.array([0.001, 0.001]), 1)
    assert arrays["absent"][0] == 0


def test_a_rest_ends_with_a_trial_and_the_next_may_be_twice_as_long() -> None:
    arrays = thinning.start_thinning(1)
    arrays["absent"][0] = 1
    arrays["trials"][0] = [1000.0, 8192.0]
    for rows, absent in ((9000.0, 1), (9192.0, 0)):
        arrays["counts"][0] = rows
        thinning.decide(arrays, np.array([0.001]), 1)
        assert arrays["absent"][0] == absent
    assert arrays["trials"][0, 1] == 16_384.0


def test_all_return_when_the_loss_jumps() -> None:
    arrays = thinning.start_thinning(2)
    arrays["absent"][0] = 3
    for period in range(12):
        arrays["watched"][:2] = 100.0 * (0.3 + 0.01 * (period % 3)), 100.0
        thinning.decide(arrays, np.ones(2), 1)
        assert arrays["absent"][0] == 3
    arrays["watched"][:2] = 60.0, 100.0
    thinning.decide(arrays, np.ones(2), 1)
    assert arrays["absent"][0] == 0


def test_what_a_member_adds_is_the_mean_of_paired_differences() -> None:
    rng = np.random.default_rng(6)
    losses, arrays = rng.random((2, 500)), thinning.start_thinning(1)
    losses[1, ::7] = np.nan
    state = arrays["counts"], arrays["gains"], arrays["watched"]
    thinning.measure(losses, np.ones(500), np.ones(500, np.float32), 0, *state)
    away = (losses[1] - losses[0])[np.isfinite(losses[1])]
    assert arrays["gains"][0] == pytest.approx([len(away), away.mean(), away.var()])
    assert arrays["watched"][:2] == pytest.approx([losses[0].sum(), 500.0])
