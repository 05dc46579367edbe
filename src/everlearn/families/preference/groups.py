"""Drift of preferences: an e-detector for each group of prompts, on what the reward model predicted before it learned.

A label that came with predicted probability p multiplies a statistic by 1 - w + w (1 - p) / p, a bet of the part w
that preferences turned. The factor has mean 1 while predictions are calibrated, so the product, restarted at 1 whenever
it falls below, is an e-detector, and so is the mean of several with different w, which a group's alarm uses. False
alarms of a group are then at least `THRESHOLD` of its labels apart on average (Shin, Ramdas and Rinaldo, arXiv
2203.03532, sec. 2). The label at which the largest statistic restarted last estimates the change (Page 1954). After an
alarm, `reward.forget` drops the group's labels from before it.
"""

from __future__ import annotations

import numpy as np

from everlearn.errors import InputError
from everlearn.records import Arrays, Floats, Ints

THRESHOLD = 20_000.0
BETS = np.array([0.25, 0.5, 0.9])  # parts w that are bet
CLIP = 0.02  # predictions count as at least this, and at most 1 minus this
JUDGED, ALARMS, LAST = range(
    3
)  # columns of "groups": labels, alarms, the label of the last alarm in order of all labels


def start(capacity: int) -> Arrays:
    """Return the arrays of detectors for groups 0 to `capacity` - 1.

    >>> {name: array.shape for name, array in start(8).items()}
    {'log_evidence': (8, 3), 'restarted': (8, 3), 'groups': (8, 3), 'seen': (1,)}
    """
    return {
        "log_evidence": np.zeros((capacity, len(BETS))),
        "restarted": np.zeros((capacity, len(BETS)), np.int64),
        "groups": np.zeros((capacity, 3), np.int64),
        "seen": np.zeros(1, np.int64),
    }


def update(arrays: Arrays, group: Ints, label: Floats, proba: Floats) -> dict[int, int]:
    """Add labels, (n,), in order and in place; return the groups with an alarm, which start again.

    Each comes with the number of newest labels, of all groups, since its estimated change, for `reward.forget`. `proba`
    is P(first preferred) as the model predicted it before it learned the label. Raises `InputError` for probabilities
    outside [0, 1].

    >>> detectors = start(2)
    >>> update(detectors, np.zeros(5, np.int64), np.ones(5), np.array([0.9, 0.1, 0.05, 0.05, 0.05]))
    {}
    >>> update(detectors, np.zeros(1, np.int64), np.ones(1), np.array([0.05]))
    {0: 5}
    """
    if not ((proba >= 0) & (proba <= 1)).all():
        raise InputError(
            "proba: got a value outside [0, 1]; expected P(first preferred) of the model before it learned."
        )
    log, restarted, counts, seen = (arrays[name] for name in ("log_evidence", "restarted", "groups", "seen"))
    right = np.clip(np.where(label > 0.5, proba, 1 - proba), CLIP, 1 - CLIP)
    factor, found = np.log(1 - BETS + BETS * ((1 - right) / right)[:, None]), {}
    for at, one in enumerate(group.tolist()):
        new = log[one] <= 0.0
        restarted[one][new] = seen[0]
        log[one] = np.where(new, 0.0, log[one]) + factor[at]
        seen += 1
        counts[one, JUDGED] += 1
        if np.exp(log[one]).mean() >= THRESHOLD:
            found[one] = int(restarted[one, np.argmax(log[one])])
            log[one] = 0.0
            counts[one, ALARMS] += 1
            counts[one, LAST] = seen[0]
    return {one: int(seen[0]) - since for one, since in found.items()}
