"""The table of guards: each fires beyond its limit alone, and none without measurements."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import pytest

from everlearn.families.preference.guards import GUARDS, Guards, Measured, alarms, rounds
from everlearn.families.preference.improve import Round, repeated
from everlearn.metrics import duels
from everlearn.records import Preference
from everlearn.schema.pairs import PairReading
from everlearn.schema.pairs import number as number_of
from tests.support.pairs import answer, question, schema
from tests.support.preference_models import made

CALM = Round(
    kl=3.0,
    budget=6.0,
    entropy=20.0,
    distinct=1.0,
    length=12.0,
    cut=0.0,
    reward=1.0,
    held=0.0,
    loss=0.5,
    k3=3.0,
    repetition=0.02,
)


def fought(win: float, expected: float, longer: float = 0.0, n: int = 300) -> duels.Arrays:
    held, random = duels.start(), np.random.default_rng(0)
    for _ in range(n):
        more = longer + 0.3 * random.normal()
        duels.update(held, float(random.random() < win), expected, more)
    return held


def test_nothing_measured_is_no_alarm() -> None:
    assert alarms(Measured(None, None, 6.0, None), Guards()) == {}
    assert alarms(Measured(CALM, CALM, 6.0, duels.start()), Guards()) == {}


@pytest.mark.parametrize(
    ("name", "now", "held"),
    [
        ("kl", {"k3": 12.5}, None),
        ("entropy", {"entropy": 0.9}, None),
        ("repetition", {"repetition": 0.3}, None),
        ("length", {}, fought(0.3, 0.3)),
        ("reward", {}, fought(0.5, 0.8)),
    ],
)
def test_each_guard_fires_alone_and_is_off_at_0(name: str, now: dict[str, Any], held: Any) -> None:
    measured = Measured(CALM, CALM._replace(**now), 6.0, held)
    assert list(alarms(measured, Guards())) == [name]
    assert alarms(measured, Guards(**{name: 0.0})) == {}


def test_within_the_limits_no_guard_fires() -> None:
    near = CALM._replace(k3=11.9, entropy=1.1, repetition=0.26)
    assert alarms(Measured(CALM, near, 6.0, fought(0.5, 0.55)), Guards()) == {}


def test_every_limit_has_a_guard() -> None:
    assert list(GUARDS) == list(Guards.__struct_fields__)


def test_a_win_by_length_alone_is_no_win_at_equal_length() -> None:
    random, held = np.random.default_rng(3), duels.start()
    for _ in range(500):
        more = 0.8 + 0.5 * random.normal()
        duels.update(held, float(random.random() < 1 / (1 + np.exp(1.0 - 2.5 * more))), 0.5, more)
    assert duels.won(held).low > 0.5
    assert list(alarms(Measured(CALM, CALM, 6.0, held), Guards())) == ["length"]


def test_the_newest_rounds_are_averaged() -> None:
    ring = np.zeros((4, 1 + len(Round._fields)))
    for number in range(6):
        ring[number % 4] = number
    first, now = rounds(np.full(1 + len(Round._fields), 7.0), ring, 6)
    assert first is not None
    assert now is not None
    assert (first.kl, now.kl) == (7.0, 4.0)


def test_repeated_trigrams() -> None:
    assert repeated([1, 2]) == 0.0
    assert repeated([1] * 12) == pytest.approx(0.9)
    assert repeated(list(range(12))) == 0.0


def test_a_model_measures_its_rounds_and_judged_pairs() -> None:
    few = {"steps": 1, "prompts": 2, "candidates": 3, "limit": 4, "ramp": 0.0}
    model = made({"improve": few, "round": 2, "guards": {"kl": 1e-6, "entropy": 0.0}})
    reading = PairReading(schema(vocabulary=50))
    assert model.alarms(None) == {}
    for number in range(6):
        asked = question(answer(7, 8 + number), answer(9), prompt=(3, 4 + number))
        row = reading.mark(reading.row(asked), Preference(str(number), 0, source="people/anna"))
        model.learn(row, np.ones(1), np.ones(1, np.float32))
    found = model.measures()
    assert (found["rounds"], found["labels"], found["trusted"]) == (3, 6.0, 6.0)
    assert found["kinds"] == {int(number_of("people")): 6.0}
    assert 0.0 < found["brier"]["random"] < 0.5
    assert found["length"] == pytest.approx(2.5)
    assert found["policy"]["entropy"] > 0.0
    assert found["policy"]["k3"] > 0.0
    assert list(model.alarms(None)) == ["kl"]
    assert model.drifted() == {}
    served = copy(model)
    assert served.alarms(None) == model.alarms(None)
