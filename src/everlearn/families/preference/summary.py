"""The state of a preference model in plain values, for a status, a page or a notebook."""

from __future__ import annotations

from typing import Any

import numpy as np

from everlearn.families.preference import annotators, first_come
from everlearn.families.preference.improve import Round
from everlearn.records import Arrays

LABELS, TRUSTED, ROUNDS, REPEATED = range(4)  # of "counts" in the part "progress"
SHOWN = 64  # annotators


def summary(progress: Arrays, people: Arrays) -> dict[str, Any]:
    """Return the counts, the measurements of the policy and the annotators, from the parts of a preference model.

    `progress` holds "counts" and "rounds" (R, 1 + fields of `Round`), the rounds in a ring; `people` is the table of
    `annotators`. The result has `labels`, `trusted`, `repeated`, `rounds`; `policy`, the newest round as a dict, None
    before the first; `curves`, one list for each measurement and `labels`, oldest first; and `annotators`, each with
    its `digest` (48 bits of the source), `judged`, `reliability`, `named` ("", "random" or "inverted"), `seconds`,
    `hasty`, `consistency` on repeated pairs and the share of `gold` questions answered rightly; None where unknown.

    >>> empty = {"counts": np.zeros(4), "rounds": np.zeros((4, 1 + len(Round._fields)))}
    >>> summary(empty, annotators.start(4))["policy"] is None
    True
    """
    counts, held = progress["counts"], progress["rounds"]
    rounds = int(counts[ROUNDS])
    newest = held[:rounds] if rounds <= len(held) else np.roll(held, -(rounds % len(held)), 0)
    names = ("labels", *Round._fields)
    curves = {name: [_plain(value) for value in newest[:, column]] for column, name in enumerate(names)}
    return {
        "labels": float(counts[LABELS]),
        "trusted": float(counts[TRUSTED]),
        "repeated": float(counts[REPEATED]),
        "rounds": rounds,
        "policy": {name: curves[name][-1] for name in Round._fields} if rounds else None,
        "curves": curves,
        "annotators": _annotators(people),
    }


def _annotators(people: Arrays) -> list[dict[str, Any]]:
    """Return the annotators with the most judgements first, at most `SHOWN`."""
    taken = int(people[first_come.COUNTS][first_come.TAKEN])
    trust, verdicts = annotators.reliability(people), annotators.named(people)
    pace, hasty = annotators.seconds(people)
    counts, same = people["judgements"], annotators.consistency(people)
    golds = counts[:, annotators.GOLDS]
    right = counts[:, annotators.RIGHT] / np.where(golds > 0, golds, np.nan)
    order = sorted(range(1, 1 + taken), key=lambda number: -int(people["judgements"][number, annotators.JUDGED]))
    return [
        {
            "digest": int(people[first_come.DIGESTS][number]),
            "judged": int(people["judgements"][number, annotators.JUDGED]),
            "reliability": float(trust[number]),
            "named": annotators.NAMES[int(verdicts[number])],
            "seconds": _plain(pace[number]),
            "hasty": _plain(hasty[number]),
            "consistency": _plain(same[number]),
            "gold": _plain(right[number]),
        }
        for number in order[:SHOWN]
    ]


def _plain(value: float) -> float | None:
    """Return a number that JSON can hold, with five digits; None for one that is not finite."""
    return float(f"{float(value):.5g}") if np.isfinite(value) else None
