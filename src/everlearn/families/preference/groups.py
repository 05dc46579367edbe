"""Drift of preferences: an e-detector for each group of prompts, on what the reward model predicted before it learned.

A label that came with predicted probability p multiplies the group's statistic by (1 + (1 - p) / p) / 2, a bet that
preferences turned. The factor has mean 1 while predictions are calibrated, so the product, restarted at 1 whenever it
falls below, is an e-detector: false alarms of a group are at least `THRESHOLD` labels apart on average (Shin, Ramdas
and Rinaldo, arXiv 2203.03532, sec. 2). After an alarm, `reward.forget` drops the group's old labels.
"""

from __future__ import annotations

import numpy as np

from everlearn.errors import InputError
from everlearn.records import Arrays, Floats, Ints

THRESHOLD = 2000.0
CLIP = 0.02  # predictions count as at least this, and at most 1 minus this
JUDGED, ALARMS, LAST = range(
    3
)  # columns of "groups": labels, alarms, the label of the last alarm in order of all labels


def start(capacity: int) -> Arrays:
    """Return the arrays of detectors for groups 0 to `capacity` - 1.

    >>> {name: array.shape for name, array in start(8).items()}
    {'log_evidence': (8,), 'groups': (8, 3), 'seen': (1,)}
    """
    return {
        "log_evidence": np.zeros(capacity),
        "groups": np.zeros((capacity, 3), np.int64),
        "seen": np.zeros(1, np.int64),
    }


def update(arrays: Arrays, group: Ints, label: Floats, proba: Floats) -> list[int]:
    """Add labels, (n,), in order and in place; return the groups that raised an alarm, which start again.

    `proba` is P(first preferred) as the model predicted it before it learned the label. Raises `InputError` for
    probabilities outside [0, 1].

    >>> detectors = start(2)
    >>> update(detectors, np.zeros(20, np.int64), np.ones(20), np.full(20, 0.1))
    [0, 0, 0, 0]
    """
    if not ((proba >= 0) & (proba <= 1)).all():
        raise InputError(
            "proba: got a value outside [0, 1]; expected P(first preferred) of the model before it learned."
        )
    log, counts, alarms = arrays["log_evidence"], arrays["groups"], []
    right = np.clip(np.where(label > 0.5, proba, 1 - proba), CLIP, 1 - CLIP)
    factor = np.log(0.5 + 0.5 * (1 - right) / right)
    for at, one in enumerate(group.tolist()):
        arrays["seen"] += 1
        log[one] = max(log[one], 0.0) + factor[at]
        counts[one, JUDGED] += 1
        if log[one] >= np.log(THRESHOLD):
            log[one] = 0.0
            counts[one, ALARMS] += 1
            counts[one, LAST] = arrays["seen"][0]
            alarms.append(one)
    return alarms
