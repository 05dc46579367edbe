"""Optional reports of models: those of a family that has them, and nothing of others."""

from __future__ import annotations

from everlearn.metrics import duels
from everlearn.model import build
from everlearn.serve import signals
from tests.support.policies import Reports


def test_a_family_without_reports_reports_nothing() -> None:
    model = build({"family": "linear", "task": "binary", "dense": 1})
    assert signals.alarms(model, duels.start()) == {}
    assert signals.drifted(model) == {}
    assert signals.measures(model) == {}


def test_reports_are_passed_on() -> None:
    model = build({"family": "tests.support.policies:Reports", "task": "binary", "dense": 14, "hashed": 32})
    assert isinstance(model, Reports)
    model.arrays["alarm"][:] = 1.0
    model.arrays["groups"][0] = 5, 9
    assert signals.alarms(model, None) == {"kl": "KL to the anchor: too far"}
    assert signals.drifted(model) == {5: 9}
    assert signals.measures(model)["labels"] == 0.0


def test_only_arrays_of_duels_reach_a_model() -> None:
    model = build({"family": "tests.support.policies:Reports", "task": "binary", "dense": 14, "hashed": 32})
    assert signals.alarms(model, {"seen": duels.start()["duel_sums"]}) == {}
    assert signals.alarms(model, duels.start()) == {"duels": "0 duels"}
