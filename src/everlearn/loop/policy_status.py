"""The measures of a loop that learns preferences, as one dict of plain values for pages, reports and scrapers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from everlearn.events import Log, scan
from everlearn.loop.fold import Fold
from everlearn.metrics import duels
from everlearn.records import Preference
from everlearn.schema import pairs
from everlearn.serve import signals
from everlearn.serve.contestant import Contestant
from everlearn.serve.duels import rival


def policies(fold: Fold, prices: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return the measures of the policies of a loop that has started; changes nothing.

    "duels" has an entry for each comparison that had one: roles, number, and win, win at equal length and overrating by
    the reward model, each as value, low and high. "guards" maps a version to the reasons of its alarms. "lag" is the
    recent mean of seconds from a question to its judgement. "spend" is empty without `prices`, which maps sources to
    the price of a label. The rest is that of the model that learns from every label (`families.preference`): "policy"
    with KL, entropy, length and so on of its newest rounds; "brier" on fresh pairs, old ones and duels; "strange", the
    share of judged pairs out of distribution.
    """
    roster, learner = fold.roster, fold.roster.challenger
    compared = [(one, other) for one, other in roster.comparisons() if _duelled(one)]
    judged, seconds = fold.joiner.lag["lag"].tolist()
    measured = signals.measures(learner.model)
    kinds = measured.pop("kinds", {})
    other = rival(roster)
    return {
        "rival": other.version if other is not None else "",
        "duels": [
            {"candidate": roster.role_of(one), "reference": roster.role_of(other), **_measured(one)}
            for one, other in compared
        ],
        "guards": {
            one.version: found
            for one, _ in roster.comparisons()
            if (found := signals.alarms(one.model, one.trial.evidence if one.trial else None))
        },
        "lag": {"judgements": int(judged), "seconds": seconds if judged else None},
        "spend": spend(kinds, prices or {}),
        **measured,
    }


def agreements(log: Log) -> dict[str, dict[str, Any]]:
    """Return, for each source that is no person, its agreement with people on the pairs that both judged first.

    Reads all judgements of the log, and needs the extra "llm". `low` and `high` are a confidence sequence; see
    `families.preference.agreement`.
    """
    from everlearn.families.preference.agreement import plain_agreement

    people: dict[str, int] = {}
    others: dict[str, dict[str, int]] = {}
    for event in scan(log, 0, ("preference",)):
        if isinstance(one := event.payload, Preference) and one.verdict != "skip":
            chosen = one.chosen if one.verdict == "choice" else -1
            kind = pairs.kind(one.source)
            (people if kind == pairs.PEOPLE else others.setdefault(kind, {})).setdefault(one.id, chosen)
    found = {}
    for source, verdicts in sorted(others.items()):
        both = [id for id in verdicts if id in people]
        if source and both:
            judge, person = (np.array([held[id] for id in both]) for held in (verdicts, people))
            found[source] = plain_agreement(judge, person)
    return found


def spend(counts: Mapping[int, float], prices: Mapping[str, float]) -> dict[str, float]:
    """Return what the labels of each source cost: `counts` maps kinds, as rows hold them, to numbers of labels.

    `prices` maps sources ("people", "judge/NAME@DIGEST") to the price of a label.

    >>> spend({int(pairs.number("people")): 12.0}, {"people": 0.5, "judge/strict@12": 0.01})
    {'people': 6.0, 'judge/strict@12': 0.0}
    """
    return {source: price * counts.get(int(pairs.number(pairs.kind(source))), 0.0) for source, price in prices.items()}


def _duelled(one: Contestant) -> bool:
    return one.trial is not None and "duels" in one.trial.evidence and duels.count(one.trial.evidence) > 0


def _measured(one: Contestant) -> dict[str, Any]:
    """Return the measures of the duels of a candidate."""
    assert one.trial is not None
    held = one.trial.evidence
    named = {"win": duels.won(held), "equal_length": duels.at_equal_length(held), "overrated": duels.overrated(held)}
    return {"count": duels.count(held), **{name: found._asdict() for name, found in named.items()}}
