"""Build models of versions, and store what models have become as versions.

A `TransitionContext` holds the parts of one loop that its transitions read and change. The functions here return
payloads; `note` adds them to the version registry, in the order in which the caller will append them to the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from everlearn import metrics
from everlearn.events import Log
from everlearn.learn.monitor import Monitor
from everlearn.loop import commands, details
from everlearn.loop.details import Detail, Withdrawn
from everlearn.model import Model, restore
from everlearn.records import Born, Decision, Evidence, Payload, Singles
from everlearn.schema import Reading
from everlearn.serve.contestant import Contestant, Progress, Trial
from everlearn.serve.roster import Roster
from everlearn.spec import GateSpec, Spec
from everlearn.version.registry import Versions

Transition = Literal["start", "promote", "reject", "rollback", "drift", "challenger", "withdraw", "config"]

_REPLACED = "what served until it was replaced"  # the log's words


class Moment(NamedTuple):
    """The position that a decision follows, and the progress of the models that learn."""

    at: int
    learned: Progress


class Alias(NamedTuple):
    """The move of an alias: its name, the version it moves to, and the version it leaves.

    Without a name no alias moves, and `version` is the one that a decision is about.
    """

    name: str = ""
    version: str = ""
    previous: str = ""


NO_ALIAS = Alias()


@dataclass(frozen=True, slots=True)
class TransitionContext:
    """The parts of one loop that its transitions read and change.

    `widths` returns the steps of the waiting predictions (see `PendingPredictions`), and `traces` the waiting traces of
    a uid. `retraced` takes, by uid, the traces of waiting predictions after a rebuild or a copy, for the fold to set.
    """

    spec: Spec
    gate: GateSpec
    encoder: Reading
    monitor: Monitor
    roster: Roster
    versions: Versions
    log: Log
    widths: Callable[[], Sequence[tuple[int, int]]] = tuple
    traces: Callable[[int], Mapping[str, Singles]] = lambda uid: {}
    retraced: dict[int, Mapping[str, Singles]] = field(default_factory=dict)


def untrained(context: TransitionContext, version: str) -> Model:
    """Return an untrained model of a version's spec."""
    return commands.build(context.spec, context.versions.find(version).spec)


def revive(context: TransitionContext, version: str) -> Model:
    """Return the model that is a version."""
    model = untrained(context, version)
    restore(model, context.versions.load(version))
    return model


def store(
    context: TransitionContext,
    moment: Moment,
    model: Model,
    spec: Mapping[str, Any],
    parents: Sequence[str],
    reason: str,
    trial: Trial | None = None,
) -> Born:
    """Store the arrays of a model, and its decision threshold among the metrics; return the version, not noted yet."""
    scored = trial.metrics if trial is not None else None
    if scored is None and context.roster.is_first_champion(model):  # no good version to compare it with yet
        scored = context.monitor.metrics["champion"]
    measured = metrics.report(scored, context.monitor.task) if scored is not None else {}
    contestant = next((one for one in context.roster.contestants if one.model is model), None)
    measured |= context.monitor.rules.stored(contestant)
    return Born(context.versions.make(model.arrays, spec, tuple(parents), moment.at, reason, measured))


def store_progress(context: TransitionContext, moment: Moment, learner: Contestant, reason: str) -> Born | None:
    """Store what a learner has become since its version; None if it is that version still."""
    origin = context.versions.find(learner.version)
    born = store(context, moment, learner.model, origin.spec, (origin.id,), reason, learner.trial)
    return born if born.version.blob != origin.blob else None


def store_champion(context: TransitionContext, moment: Moment) -> tuple[list[Payload], str]:
    """Store a champion that learns before it is replaced; return the payloads to note and log, and its version id.

    A frozen champion is its version already, and there are no payloads.
    """
    roster = context.roster
    born = store_progress(context, moment, roster.champion, _REPLACED) if roster.serves_learner else None
    if born is None:
        return [], roster.champion.version
    id = born.version.id
    detail = Withdrawn(learned=moment.learned)
    return [born, decision(context, moment, "withdraw", _REPLACED, "loop", detail, Alias(version=id))], id


def note(context: TransitionContext, payloads: list[Payload]) -> list[Payload]:
    """Make payloads known to the version registry, and return them."""
    for payload in payloads:
        context.versions.note(payload)
    return payloads


def decision(
    context: TransitionContext,
    moment: Moment,
    action: Transition,
    reason: str,
    by: str,
    detail: Detail,
    alias: Alias = NO_ALIAS,
    evidence: Evidence | None = None,
) -> Decision:
    """Return a decision for the log, with the number of examples scored so far in its detail."""
    counted = msgspec.structs.replace(detail, examples=context.monitor.scored)
    return Decision(action, moment.at, reason, by, *alias, evidence, details.write(counted))
