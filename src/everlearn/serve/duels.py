"""The other side of duels: answers of the champion are compared with those of one more contestant."""

from __future__ import annotations

from everlearn.serve import signals
from everlearn.serve.contestant import Contestant
from everlearn.serve.roster import Roster


def rival(roster: Roster) -> Contestant | None:
    """Return the contestant that the champion duels; None while the gate compares it with none, or before the start.

    That is the good version for a champion that learns, else the first candidate, once its model is nominated (see
    `signals.nominated`). A baseline is never one.
    """
    pairs = roster.comparisons() if roster.contestants else []
    others = [candidate if reference is roster.champion else reference for candidate, reference in pairs]
    found = next((other for other in others if roster.concept(other) != "baseline"), None)
    is_candidate = found is not None and found.learns
    if found is None or (is_candidate and not signals.nominated(found.model, roster.champion.model)):
        return None
    return found
