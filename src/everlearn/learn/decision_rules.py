"""The decision rules of one loop: how each contestant decides, and how its decisions turned out.

A decision is made when the prediction is, by the rule of that moment, and waits with it: a one-hot row of scores under
the uid `decision(uid)`. So late labels judge what was decided then. Rules change at ticks, or with the scores that they
follow; the roster may change in between. A new contestant takes over the rule of the frozen contestant of its version,
else the threshold that is stored with its version, else it starts with the fallback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from everlearn.errors import InputError
from everlearn.feedback.pending import ANSWER, CANARY, NAIVE, decision
from everlearn.learn import thresholds
from everlearn.metrics import decisions
from everlearn.model import copied, prefixed, within
from everlearn.records import Arrays, Examples, Floats, Singles, Version
from everlearn.serve import deciding
from everlearn.serve.contestant import UNKNOWN, Contestant
from everlearn.spec import Spec

Find = Callable[[str], Version]
Known = tuple[int, str, bool]  # uid, version, learns


class DecisionRules:
    """Rules by contestant, and tables of decisions by role; nothing of it where the settings name no rule.

    Raises `ConfigError` for settings that do not fit the task or the classes.
    """

    def __init__(self, spec: Spec, classes: int, roles: Sequence[str], find: Find | None = None) -> None:
        """`find` returns a stored version."""
        self.kind = deciding.kind(spec)
        self.costs: Floats | None = deciding.costs(spec) if self.kind == "costs" else None
        self._target = spec.decision.rate or spec.decision.recall or 0.0
        self._learns = self.kind != "none" and classes == 2  # costs of more classes need no threshold
        self._fallback = deciding.bayes_threshold(self.costs) if self.costs is not None and classes == 2 else 0.5
        self._rules: dict[int, Arrays] = {}
        self._known: list[Known] = []
        self._find = find
        self._one_hot = np.eye(max(classes, 1), dtype=np.float32)
        self.tables = {role: decisions.start(classes) for role in roles} if self.kind != "none" else {}

    def __bool__(self) -> bool:
        return self.kind != "none"

    # ---- decisions -------------------------------------------------------------------------------------------------

    def decide(self, contestants: Sequence[Contestant], predictions: Mapping[int, Singles]) -> dict[int, Singles]:
        """Return the decisions on the predictions, float32 (n, k), as one-hot rows under `decision(uid)`.

        Only a rule that follows a rate learns from that: it sees all scores, labelled or not.
        """
        if not self:
            return {}
        self._sync(contestants)
        return {
            decision(one.uid): self._one_hot[self._decided(one.uid, predictions[one.uid])]
            for one in contestants
            if one.uid in predictions
        }

    def decide_one(
        self, contestants: Sequence[Contestant], champion: int, given: int | None, predictions: Mapping[int, Singles]
    ) -> dict[int, Singles]:
        """Return `decide` for one prediction event that was answered with the class `given` (None: with no class)."""
        found = self.decide(contestants, predictions)
        if self and given is not None:
            logged = self._one_hot[given : given + 1]
            shadowed = {decision(ANSWER): found[decision(champion)], decision(CANARY): logged}
            found |= shadowed if CANARY in predictions else {decision(ANSWER): logged}
        return found

    def judged(self, predictions: Mapping[int, Singles], uid: int) -> Singles:
        """Return what a contestant decided, as one-hot rows; its scores where no rule decided."""
        return predictions.get(decision(uid), predictions[uid])

    def uids(self, contestants: Sequence[Contestant], roles: Mapping[str, int]) -> set[int]:
        """Return the uids of the predictions, and of the decisions, that `test` reads."""
        if not self:
            return set()
        learners = {one.uid for one in contestants}
        return learners | {decision(uid) for uid in learners | set(roles.values())}

    def _decided(self, uid: int, scores: Singles) -> Any:
        if self.kind == "rate":
            return thresholds.follow(self._rules[uid], self._target, scores)
        return deciding.decide(self._rule(self._rules.get(uid)), scores)

    # ---- labels ----------------------------------------------------------------------------------------------------

    def test(self, examples: Examples, predictions: Mapping[int, Singles], roles: Mapping[str, int]) -> None:
        """Judge the decisions on n labelled rows, and let the rules learn from the scores; weights are above 0."""
        if not self:
            return
        for role, table in self.tables.items():
            uid = roles.get(role)
            if uid in NAIVE:
                naive = predictions.get(uid) if self.costs is not None else None
                decided = None if naive is None else deciding.decide(self._rule(None), naive)
            else:
                held = predictions.get(decision(uid)) if uid is not None else None
                decided = None if held is None else held.argmax(1)
            if decided is not None:
                decisions.update(table, decided, examples.y, examples.weight)
        for uid, rule in self._rules.items():
            if uid in predictions:
                thresholds.note(rule, self.kind, predictions[uid], examples.y, examples.weight)

    def refresh(self) -> None:
        """Choose the thresholds again; between two calls they stay. Those that follow a rate change with its scores."""
        if self.kind != "rate":
            self._choose()

    def reconsider(self) -> None:
        """Choose all thresholds again after the settings have changed; those stored with versions no longer count."""
        for rule in self._rules.values():
            rule["rule"][thresholds.FALLBACK] = self._fallback
        self._choose()

    def _choose(self) -> None:
        for rule in self._rules.values():
            thresholds.refresh(rule, self.kind, self._target, self._costs())

    def report(self, role: str) -> dict[str, float]:
        """Return the metrics of the decisions in a role; see `everlearn.metrics.decisions.report`."""
        return decisions.report(self.tables[role], self.costs) if role in self.tables else {}

    # ---- rules, where they travel ----------------------------------------------------------------------------------

    def rule(self, contestant: Contestant) -> Floats | None:
        """Return a copy of the rule that a contestant decides by now, for `everlearn.serve.deciding`."""
        if not self:
            return None
        return self._rule(self._held(contestant) if self._learns else None).copy()

    def stored(self, contestant: Contestant | None) -> dict[str, float]:
        """Return the threshold of a contestant and the target that it was chosen for, to store with its version."""
        if contestant is None or not self._learns:
            return {}
        return {"threshold": float(self._held(contestant)["rule"][thresholds.THRESHOLD]), **self._purpose()}

    def begin_again(self, contestant: Contestant) -> None:
        """Let a contestant start with the fallback: its model begins again, untrained."""
        if self._learns:
            self._rules[contestant.uid] = thresholds.start(self._fallback)
            self._known.append((contestant.uid, contestant.version, contestant.learns))

    def _rule(self, held: Arrays | None) -> Floats:
        if held is not None:
            return held["rule"][thresholds.THRESHOLD : thresholds.THRESHOLD + 1]
        return np.array([self._fallback]) if self._learns else self._costs()

    def _costs(self) -> Floats:
        return self.costs if self.costs is not None else np.zeros((2, 2))

    def _purpose(self) -> dict[str, float]:
        """Return the setting that a threshold is chosen for, as a number."""
        return {f"threshold_for_{self.kind}": self._fallback if self.kind == "costs" else self._target}

    def _sync(self, contestants: Sequence[Contestant]) -> None:
        """Follow the roster: new contestants get a rule, and those that left lose theirs."""
        now = [(one.uid, one.version, one.learns) for one in contestants]
        if self._learns and now != self._known:
            self._rules = {one.uid: self._held(one) for one in contestants}
            self._known = now

    def _held(self, contestant: Contestant) -> Arrays:
        """Return the rule of a contestant; for a new one, the rule that it starts with. Changes nothing."""
        if contestant.uid in self._rules:
            return self._rules[contestant.uid]
        is_snapshot = contestant.learned != UNKNOWN  # of the learner with the same version
        for uid, version, learns in self._known:
            if version == contestant.version and learns == is_snapshot and uid in self._rules:
                return copied(self._rules[uid])
        return thresholds.start(self._stored_threshold(contestant.version))

    def _stored_threshold(self, version: str) -> float:
        """Return the threshold stored with a version, if it was chosen for the settings of now; else the fallback."""
        try:
            found = self._find(version).metrics if self._find is not None else {}
        except InputError:  # a version that the registry lost
            found = {}
        purposes = {name: value for name, value in found.items() if name.startswith("threshold_for_")}
        return found["threshold"] if purposes == self._purpose() else self._fallback

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """Return everything that `load` needs; empty where the settings name no rule."""
        arrays = prefixed("table/", self.tables)
        for uid, rule in self._rules.items():
            arrays |= prefixed(f"{self.kind}/{uid}/", rule)
        if self._rules:
            arrays["uids"] = np.array([uid for uid, _, _ in self._known], np.int64)
            arrays["learns"] = np.array([learns for _, _, learns in self._known], np.bool_)
            arrays["versions"] = np.frombuffer("\n".join(version for _, version, _ in self._known).encode(), np.uint8)
        return arrays

    def load(self, arrays: Arrays) -> None:
        """Restore the result of `state`; rules of another kind are left out, and start again."""
        for role, table in within(arrays, "table/").items():
            if role in self.tables and table.shape == self.tables[role].shape:
                self.tables[role] = table.copy()
        self._rules, self._known = {}, []
        if not self._learns or "uids" not in arrays:
            return
        held = within(arrays, f"{self.kind}/")
        versions = arrays["versions"].tobytes().decode().split("\n")
        for uid, version, learns in zip(arrays["uids"].tolist(), versions, arrays["learns"].tolist(), strict=True):
            if rule := within(held, f"{uid}/"):
                self._rules[uid] = copied(rule)
                self._known.append((uid, version, learns))
