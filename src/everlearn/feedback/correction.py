"""Importance weights for labels that come after a default label was learned."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from everlearn.errors import ConfigError
from everlearn.records import Arrays, Task
from everlearn.spec import FeedbackSpec

MEMORY = 10_000  # positives behind the share of late ones, about


class Arrival(NamedTuple):
    """How a label arrived: `positive` if it is not the default, `late` if the default was learned before it.

    `share` is the share of positives that came late, as known when this label came.
    """

    positive: bool
    late: bool
    share: float

    def weight(self, p: float) -> float:
        """Return the factor for this label's weight; `p` is the model's probability of the positive class now.

        A default label weighs the same whether it was given or assumed. A late default label only confirms what was
        learned, and weighs 0.
        """
        delayed = self.share * p
        if self.positive:
            return 1.0 + delayed
        if self.late:
            return 0.0
        sure = 1.0 - p
        return (1.0 + delayed) * sure / (sure + delayed) if sure > 0.0 else 0.0


class Correction:
    """Weights that undo the bias of default labels that were wrong; `arrays` is all its state.

    Call "positive" the class that is not the default. A row x is positive with probability p, and its positive label
    comes after the default has been learned with probability d. So for each row, the model is shown a positive with
    probability p (in time or late), and a negative with probability 1 - p + d: true ones, and those that are corrected
    later. Learned as they come, they teach p / (1 + d). Weights of w1 and w0 teach f where p w1 (1 - f) equals
    (1 - p + d) w0 f, which is f = p for w1 = 1 + d and w0 = (1 + d) (1 - p) / (1 - p + d); the factor 1 + d says that a
    row counts as often as it is shown. These are the weights of ES-DFM (Yang et al. 2021, arXiv 2012.03245). Where all
    positives come late, d = p, and they are the "fake negative weighted" ones of Ktena et al. (2019, arXiv 1907.06558):
    1 + p and (1 + p) (1 - p).

    Neither p nor d is known. For p the model's own probability f stands in, taken as a constant, and d is r f with r
    the running share of the positives that came late. The only f for which the two sides above are then equal is p, if
    r is right. If r is wrong by e, f is p / (1 + p e); and if lateness depends on x, then e does.

    Raises `ConfigError` for a task that is not binary, and where there is no default label.

    >>> correction = Correction(FeedbackSpec(window=60.0, default=False, correction="importance"), "binary")
    >>> for late in (True, True, True, False): arrival = correction.arrive(positive=True, late=late)
    >>> round(correction.share, 2), round(arrival.weight(0.2), 3)
    (0.67, 1.133)
    >>> round(correction.arrive(positive=False, late=False).weight(0.2), 3)
    0.971
    """

    def __init__(self, spec: FeedbackSpec, task: Task) -> None:
        if spec.correction == "importance" and task != "binary":
            raise ConfigError(
                f"feedback.correction: got 'importance' for a {task} task; 'importance' is for two classes. "
                "Set it to 'learn' or 'ignore'."
            )
        if spec.correction == "importance" and spec.default is None:
            raise ConfigError(
                "feedback.correction: got 'importance' without feedback.default, whose mistakes it undoes. "
                "Set feedback.default to the class of a prediction that gets no label."
            )
        self.arrays: Arrays = {"positives": np.array([1.0, 2.0])}  # late, all; one of each kind to begin with

    @property
    def share(self) -> float:
        """The share of the positives that came late, in about the last 10,000 of them."""
        late, seen = self.arrays["positives"]
        return float(late / seen)

    def arrive(self, *, positive: bool, late: bool) -> Arrival:
        """Count a label, and return how it arrived."""
        if positive:
            counts = self.arrays["positives"]
            if counts[1] >= MEMORY:
                counts *= 1.0 - 1.0 / MEMORY
            counts += (float(late), 1.0)
        return Arrival(positive, late, self.share)
