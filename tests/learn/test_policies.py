"""The values of policies by role: sums over rows that do not depend on how the rows were grouped."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.feedback.pending import chance, worth
from everlearn.learn.monitor import SCORED_ROLES
from everlearn.learn.policies import PolicyValues
from everlearn.metrics import policy
from everlearn.model import cut, select
from everlearn.records import Examples, Singles
from everlearn.schema import Encoder
from everlearn.spec import Schema
from tests.support.bandits import ACTIONS, LOG, schema, table

N = 400
ROLES = {"champion": 1, "challenger": 2}


def logged() -> Examples:
    columns = table(N)
    encoder = Encoder(schema())
    batch, _ = encoder.columns(columns, N)
    y, _ = encoder.labels(columns["reward"], N)
    return Examples(batch, y, np.ones(N, np.float32), np.arange(1, N + 1))


def numbers(seed: int = 0) -> dict[int, Singles]:
    draw = np.random.default_rng(seed)
    uids = [of(uid) for uid in ROLES.values() for of in (chance, worth)] + [*ROLES.values()]
    return {uid: draw.random((N, 1)).astype(np.float32) for uid in uids}


def test_without_actions_nothing_is_kept() -> None:
    none = PolicyValues(Schema(label="y", task="regression", fields={"x": "numeric"}), SCORED_ROLES)
    assert not none
    assert (none.arrays, none.report(), none.uids(ROLES)) == ({}, {}, set())
    none.test(logged(), {}, ROLES)
    assert none.arrays == {}


def test_the_values_are_those_of_the_rows_however_they_are_grouped() -> None:
    rows, given = logged(), numbers()
    whole, parts = (PolicyValues(schema(), SCORED_ROLES) for _ in range(2))
    whole.test(rows, given, ROLES)
    for first, last in ((0, 1), (1, 37), (37, 300), (300, N)):
        parts.test(cut(rows, first, last), {uid: held[first:last] for uid, held in given.items()}, ROLES)
    assert {name: one.tobytes() for name, one in whole.arrays.items()} == {
        name: one.tobytes() for name, one in parts.arrays.items()
    }
    again = PolicyValues(schema(), SCORED_ROLES)
    again.load(whole.arrays)
    assert again.report() == whole.report()


def test_what_was_served_uniform_and_constant_actions_are_compared() -> None:
    rows = logged()
    values = PolicyValues(schema(), SCORED_ROLES)
    values.rows(rows.batch, {})
    values.test(rows, numbers(), ROLES)
    found = values.report()
    chosen, y = rows.batch.dense[:, -2].astype(int), rows.y
    propensity = LOG.astype(np.float32)[chosen].astype(float)
    assert found["served"]["value"] == pytest.approx(y.mean())
    assert found["served"]["low"] <= y.mean() <= found["served"]["high"]
    assert found["policies"]["uniform"]["ips"] == pytest.approx(np.mean(y / 3 / propensity))
    constant = [np.sum((chosen == a) * y / propensity) / np.sum((chosen == a) / propensity) for a in range(3)]
    best = found["policies"]["best constant"]
    assert best["action"] == ACTIONS[int(np.argmax(constant))] == "middle"
    assert best["snips"] == pytest.approx(max(constant))
    assert [one["served"] for one in found["actions"]] == np.bincount(chosen).tolist()
    assert [one["reward"] for one in found["actions"]] == pytest.approx([y[chosen == a].mean() for a in range(3)])
    assert "frozen" not in found["policies"]


def test_a_contestant_is_judged_by_the_probability_that_it_gave() -> None:
    rows, given = logged(), numbers()
    values = PolicyValues(schema(), SCORED_ROLES)
    values.test(rows, given, ROLES)
    held = policy.start()
    columns = [given[of][:, 0].astype(float) for of in (chance(1), worth(1), 1)]
    policy.add(held, *columns, rows.batch.dense[:, -1].astype(float), rows.y, rows.weight)
    assert values.report()["policies"]["champion"] == policy.report(held, (0.0, 1.0))


def test_rows_of_unknown_propensity_say_nothing() -> None:
    rows, values = logged(), PolicyValues(schema(), SCORED_ROLES)
    rows.batch.dense[:, -1] = np.nan
    values.test(rows, numbers(), ROLES)
    assert values.report()["policies"] == {}


def test_a_value_that_few_rows_tell_is_unknown() -> None:
    rows, values = logged(), PolicyValues(schema(), SCORED_ROLES)
    rows.batch.dense[:, -1] = np.where(rows.batch.dense[:, -2] == 2.0, 0.001, 0.9)  # "right" is hardly ever served
    rare = np.flatnonzero(rows.batch.dense[:, -2] == 2.0)[3:]
    keep = np.setdiff1d(np.arange(N), rare)
    mask = np.zeros(N, bool)
    mask[keep] = True
    values.test(select(rows, mask), {uid: held[keep] for uid, held in numbers().items()}, ROLES)
    found = values.report()["policies"]
    assert found["uniform"]["value"] is None
    assert found["uniform"]["effective rows"] < 30
    assert found["best constant"]["action"] == "middle"
