"""The status of a loop: one dict of plain values, the same for a notebook, a page and a metrics scraper.

Nothing here changes the loop. `everlearn.report` draws the status.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from everlearn import drift, gate
from everlearn.events import Log, scan
from everlearn.gate import policy
from everlearn.learn import limits
from everlearn.loop import details, gain
from everlearn.loop.fold import Fold
from everlearn.loop.home import Home
from everlearn.loop.policy_status import policies
from everlearn.records import Decision
from everlearn.report import SHOWN, drawable, marked
from everlearn.report import picture as drawn
from everlearn.serve.contestant import Contestant

POINTS = 200  # of a curve
MARKS = 200  # the newest ones
_COUNTED = ("prediction", "label", "reward", "preference", "example", "rejected", "decision", "version")
_LABELS = ("label", "reward", "preference", "example")
_STATES = ("stable", "warning", "drift")


class Marks:
    """The newest decisions to show in a picture, read from the log as it grows."""

    def __init__(self) -> None:
        self._after = 0
        self._marks: deque[dict[str, Any]] = deque(maxlen=MARKS)
        self._labels: dict[str, tuple[int, float]] = {}  # of each kind: how many, and the time of the newest

    def follow(self, log: Log) -> list[dict[str, Any]]:
        """Return the newest `MARKS` marks, oldest first."""
        for event in scan(log, self._after, ("decision",)):
            self._after = event.position
            decision = event.payload
            if not isinstance(decision, Decision) or decision.action not in SHOWN:
                continue
            if decision.action != "reject" or decision.by != "loop":  # the loop rejects orders, the gate models
                self._marks.append(_mark(event.position, decision))
        return list(self._marks)

    def labelled(self, log: Log) -> float | None:
        """Return the time of the newest label, in seconds since 1970; None without any.

        The log is searched only for kinds with new labels: they are near its end.
        """
        for kind in _LABELS:
            number = log.count(kind)
            if number and number != self._labels.get(kind, (0, 0.0))[0] and (newest := log.last(kind)) is not None:
                self._labels[kind] = number, newest.time
        return max((time for _, time in self._labels.values()), default=None)


def of(fold: Fold, home: Home, marks: Marks, position: int, rows: int = 0) -> dict[str, Any]:
    """Return the status of a loop whose log was folded up to `position`.

    `rows` counts the rows taken from files that are their own log. The staleness is that of a loop that serves what it
    has learned at once; a server's workers know better. Ages in the replay memory are in positions.
    """
    spec, learner, log, end = fold.spec, fold.monitor, home.log, home.log.end()
    contestants = fold.roster.contestants
    curves = learner.curves()
    compared = [_comparison(fold, *pair) for pair in (fold.roster.comparisons() if contestants else [])]
    frozen = next((one.version for one in contestants if fold.roster.role_of(one) == "frozen"), "")
    gained = gain.beside_gate(gain.of(curves, learner.headline, spec.gate.alpha), frozen, compared)
    if spec.mode == "live":
        del curves["challenger"]  # it is the champion
    lag = _lag(log, position, end)
    found, held_back = marks.follow(log), limits.report(learner.limits)
    return {
        "time": time.time(),
        "mode": spec.mode,
        "paused": learner.limiter.paused,
        "task": spec.schema.task,
        "metric": learner.headline,
        "label": spec.schema.label,
        "classes": list(spec.schema.classes),
        "position": position,
        "end": end,
        "lag": lag,
        "staleness": stale(lag["seconds"], spec.serve.staleness),
        "counts": {kind: log.count(kind) for kind in _COUNTED} | {"row": rows},
        "examples": learner.scored,
        "labelled_at": marks.labelled(log),
        "waiting": len(fold.pending),
        "evicted": fold.pending.evicted,
        "waiting_from": next((one.position for one in fold.pending), position + 1),
        "labelling": labelling(fold),
        "early": len(fold.early),
        "unusable": fold.unusable,
        **{name: held_back[name] for name in ("quarantined", "capped", "reduced", "refused")},
        "set_aside": held_back["positions"],
        "metrics": learner.report(),
        "gain": gained,
        "segments": learner.by_segment(),
        "reliability": learner.reliability(),
        "curves": {role: _curve(curve) for role, curve in curves.items()},
        "marks": found,
        "drift": _drift(fold, found),
        "replay": _replay(fold),
        "gate": compared,
        "contestants": [_contestant(fold, one) for one in contestants],
        "members": members(fold),
        "aliases": {alias: id for id, names in home.versions.aliases().items() for alias in names},
        **({"preference": policies(fold) | _preference(contestants)} if fold.encoder.late and contestants else {}),
        **_bandit(fold),
    }


def members(fold: Fold) -> dict[str, list[dict[str, Any]]]:
    """Return, for each role that is a mix, its members with their weights; of several with one role, those of one."""
    contestants = fold.roster.contestants if fold.started else []
    return {fold.roster.role_of(one): listed for one in contestants if (listed := _members(one))}


def _contestant(fold: Fold, contestant: Contestant) -> dict[str, Any]:
    """Return the role of a contestant, its version and its model."""
    return {
        "role": fold.roster.role_of(contestant),
        "version": contestant.version,
        "family": str(contestant.model.spec.get("family", "")),
        "learns": contestant.learns,
        "members": _members(contestant),
    }


def _members(contestant: Contestant) -> list[dict[str, Any]]:
    """Return the members of a mix with their weights; empty for any other model.

    `resting` is true for a member that adds too little for its cost now; `rested` the share of rows that it skipped.
    """
    if contestant.model.spec.get("family") != "mix":
        return []
    mix: Any = contestant.model
    resting = mix.resting()
    return [
        {"name": name, "weight": weight, "resting": name in resting, "rested": resting.get(name, 0.0)}
        for name, weight in mix.weights().items()
    ]


def report(fold: Fold, home: Home, decisions: Sequence[Decision], rows: int) -> dict[str, Any]:
    """Return the counts and metrics that `Loop.report` returns; `rows` is that of `of`."""
    learner, log = fold.monitor, home.log
    actions = [each.action for each in decisions if not (each.action == "reject" and each.by == "loop")]
    return {
        "events": rows + log.count("example") + log.count("prediction"),
        "examples": learner.scored,
        "metric": learner.headline,
        "metrics": learner.report(),
        "segments": learner.by_segment(),
        "reliability": learner.reliability(),
        "drifts": actions.count("drift"),
        "versions": len(home.versions.list()),
        "promotions": actions.count("promote"),
        "rollbacks": actions.count("rollback"),
        "rejections": actions.count("reject"),
        "rejected": log.count("rejected"),
        "waiting": len(fold.pending),
        "evicted": fold.pending.evicted,
        "labelling": labelling(fold),
        "replay": learner.composition(),
        "champion": home.versions.alias("champion"),
        "members": members(fold),
        **({"preference": policies(fold)} if fold.encoder.late and fold.started else {}),
        **_bandit(fold),
    }


def in_words(fold: Fold) -> str:
    """Return how many labels were scored, and what serves, in a few words."""
    serves = f"{fold.roster.champion.version} serves" if fold.started else "not started"
    paused = ", learning paused" if fold.monitor.limiter.paused else ""
    return f"{fold.monitor.scored:,} labelled examples, {serves}{paused}"


def picture(fold: Fold, decisions: Sequence[Decision], path: str | Path | None, title: str) -> Any:
    """Return the matplotlib Figure that `Loop.picture` returns."""
    curves = fold.monitor.curves()
    if fold.spec.mode == "live":
        del curves["challenger"]  # the champion learns
    metric = drawable(fold.monitor.headline, curves["champion"])
    return drawn(curves, marked(decisions), path, title, metric)


def labelling(fold: Fold) -> dict[str, Any]:
    """Return what the metrics are conditional on: how many predictions have a label, and the default labels in them.

    `default` is None for a loop without `feedback.default`; see `everlearn.feedback.labelling`.
    """
    joiner, learner = fold.joiner, fold.monitor
    tables = learner.metrics["champion"], learner.rules.tables.get("champion"), learner.rules.costs
    default = joiner.defaults.report(joiner.now, *tables) if joiner.defaults else None
    return joiner.coverage.report(len(fold.pending), fold.pending.evicted) | {"default": default}


def stale(seconds: float, bound: float) -> dict[str, Any]:
    """Return a staleness in seconds (None if unknown), its bound, and whether it is above the bound."""
    known = seconds if math.isfinite(seconds) else None
    return {"seconds": known, "bound": bound, "broken": seconds > bound}


def _mark(position: int, decision: Decision) -> dict[str, Any]:
    return {
        "at": details.examples(decision),
        "position": position,
        "kind": SHOWN[decision.action],
        "version": decision.version,
        "text": decision.reason,
    }


def _bandit(fold: Fold) -> dict[str, Any]:
    """Return the actions that were served, with their rewards, and the values of policies; empty for other tasks."""
    found = fold.monitor.policies.report()
    if found and fold.spec.mode == "live":
        found["policies"].pop("challenger", None)  # it is the champion
    return {"bandit": found} if found else {}


def _preference(contestants: Sequence[Contestant]) -> dict[str, Any]:
    """Return the summary of the first contestant that learns, else of the first; empty where it makes none."""
    ordered = sorted(contestants, key=lambda one: not one.learns)
    summary = getattr(ordered[0].model, "summary", None) if ordered else None
    return dict(summary()) if callable(summary) else {}


def _lag(log: Log, position: int, end: int) -> dict[str, Any]:
    """Return the number of events not folded yet, and the seconds for which the oldest of them has waited."""
    waiting = log.read(position, 1) if end > position else []
    return {"events": max(0, end - position), "seconds": max(0.0, time.time() - waiting[0].time) if waiting else 0.0}


def _curve(curve: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return a metric's curve in at most `POINTS` points; of more, neighbours become their weighted mean."""
    held = dict(curve)
    x, weight = held.pop("x"), held.pop("weight")
    count = held.pop("count")
    if len(x) > POINTS:
        starts = np.arange(0, len(x), math.ceil(len(x) / POINTS))
        total = np.add.reduceat(weight, starts)
        held = {name: np.add.reduceat(line * weight, starts) / total for name, line in held.items()}
        x, count = x[np.append(starts[1:], len(x)) - 1], np.add.reduceat(count, starts)
    lines = {name: [float(f"{value:.5g}") for value in line] for name, line in held.items()}
    return {"x": x.tolist(), "count": count.tolist(), **lines}


def _drift(fold: Fold, marks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the state of the detectors; it is "drift" for a grace period, since a detector restarts then."""
    spec, learner = fold.spec.drift, fold.monitor
    drifts = [mark["at"] for mark in marks if mark["kind"] == "drift"]
    level = max((int(drift.state(detector, spec).get("level", 0.0)) for detector in learner.drift.detectors), default=0)
    if drifts and learner.scored - drifts[-1] < spec.grace_period:
        level = 2
    return {
        "detector": spec.detector,
        "watch": spec.watch,
        "state": _STATES[level],
        "warnings": learner.clock["warnings"],
        "drifts": learner.clock["drifts"],
    }


def _replay(fold: Fold) -> dict[str, Any]:
    held, ages = fold.monitor.composition(), {}
    if held["age"]:
        ages = {"newest": held["age"]["0.0"], "oldest": held["age"]["1.0"]}
    classes = zip(fold.spec.schema.classes, held["classes"], strict=False)
    return {
        "kind": fold.spec.replay.kind,
        "rows": held["rows"],
        "bytes": held["bytes"],
        "classes": {str(name): counts["held"] for name, counts in classes},
        "oldest": ages.get("oldest", 0.0),
        "newest": ages.get("newest", 0.0),
    }


def _comparison(fold: Fold, candidate: Contestant, reference: Contestant) -> dict[str, Any]:
    """Return the gate's evidence on one comparison; at first there is none either way."""
    found = {
        "candidate": candidate.version,
        "role": fold.roster.role_of(candidate),
        "reference": reference.version,
        "reference_role": fold.roster.role_of(reference),
        "loss": fold.gate.loss,
    }
    evidence = candidate.trial.evidence if candidate.trial is not None else gate.start(fold.gate)
    share = policy.alpha_share(fold.roster.concept(candidate), fold.spec.challengers)
    known = gate.verdict(evidence, fold.gate, share).evidence
    names = ("examples", "blocks", "difference", "low", "high", "log_e_better", "log_e_worse", "threshold")
    return found | {name: getattr(known, name) for name in names}
