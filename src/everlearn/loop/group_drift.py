"""Drift of one group's preferences, found by the model that learns from every label, as decisions of the loop.

The model has reacted already: it weighs the newest labels of that group alone. The decision says so, and names the
group, which rows hold as a digest.
"""

from __future__ import annotations

from everlearn.errors import InputError
from everlearn.events import Log
from everlearn.loop.details import Drifted
from everlearn.loop.versioning import Moment, TransitionContext, decision
from everlearn.records import Payload, Prediction
from everlearn.schema import pairs, question
from everlearn.serve import signals

_SOUGHT = 10_000  # newest events among which the name of a group is sought
_PIECE = 500


def reported(context: TransitionContext, moment: Moment) -> list[Payload]:
    """Return a decision for each group that drifted since the last look at the learner, and note that it was seen."""
    learner = context.roster.challenger
    found, before = signals.drifted(learner.model), learner.noticed
    learner.noticed = max([before, 0, *found.values()])
    if before < 0:  # what it brought along was reported of the version that it came from
        return []
    payloads: list[Payload] = []
    for digest, label in found.items():
        if label > before:
            name = _named(context.log, digest, moment.at)
            reason = f"preferences of group {name!r} turned: its labels from before count no longer"
            payloads.append(decision(context, moment, "drift", reason, "drift", Drifted(group=name)))
    return payloads


def _named(log: Log, digest: int, at: int) -> str:
    """Return the name of a group, from the newest question about it; its digest where the log has none any more."""
    if not digest:
        return ""
    for first in range(max(0, at - _PIECE), max(-_PIECE, at - _SOUGHT), -_PIECE):
        for event in reversed(log.read(max(first, 0), _PIECE, ("prediction",))):
            if isinstance(event.payload, Prediction) and event.position <= at:
                try:
                    group = question.decode(event.payload.payload).group
                except InputError:
                    continue
                if int(pairs.number(group)) == digest:
                    return group
    return f"#{digest:06x}"
