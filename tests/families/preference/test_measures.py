"""Measures of judged pairs: errors by arm, the share out of distribution, and lengths."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.families.preference import measures
from everlearn.schema.pairs import ARMS


def test_errors_are_apart_by_arm_and_recent() -> None:
    held, random = measures.start(4), np.random.default_rng(0)
    errors = random.random(200)
    for number, error in enumerate(errors.tolist()):
        arm = ARMS.index("random" if number % 2 else "again")
        measures.update(held, arm, error, 9.0 if number % 4 == 0 else 1.0, float(number % 3), 1, number % 2 > 0, 0.5)
    found = measures.report(held)
    assert found["brier"]["random"] == pytest.approx(errors[1::2].mean())
    assert found["brier"]["again"] == pytest.approx(errors[::2].mean())
    assert found["brier"]["duel"] is None
    assert (found["strange"], found["trusted"]) == (pytest.approx(0.25), 50.0)
    assert found["length"] == pytest.approx(np.mean(np.arange(200) % 3))
    assert held["kinds"].tolist() == [0.0, 100.0, 0.0, 0.0]


def test_old_errors_are_forgotten() -> None:
    held = measures.start(2)
    for error in [1.0] * 300 + [0.0] * 2000:
        measures.update(held, ARMS.index("random"), error, 0.0, 1.0, 0, False, 1.0)
    assert measures.report(held)["brier"]["random"] < 0.001


def test_nothing_judged_is_unknown() -> None:
    found = measures.report(measures.start(2))
    assert (found["strange"], found["length"], found["brier"]["random"]) == (None, None, None)
