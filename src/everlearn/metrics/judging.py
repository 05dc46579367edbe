"""Losses of single rows: what a prediction costs, for classes and for numbers."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import bare, exact_kernel
from everlearn.errors import ConfigError
from everlearn.records import Floats, Ints, Loss, LossKind, Singles, Task

Bits = NDArray[np.int32]

FLOOR = 1e-15  # lowest probability in the log loss; a certain and wrong prediction costs 34.54

# A float32 is 2**exponent * (1 + j / 128) * (1 + r) with r below 1 / 128: the logarithm is a sum of three, two of them
# known and one a short series. It is twice as fast here as a call to log, which would be most of the cost of a row.
LEAST, ONE = int(np.float32(FLOOR).view(np.int32)), 127 << 23
_LN2 = math.log(2)
_SHARES = 1 / (1 + np.arange(128) / 128)
_LOGS = np.array([math.log1p(j / 128) for j in range(128)])  # np.log1p rounds differently on different processors

_CLASS_LOSSES = ("brier", "error", "log_loss")
_BRIER_LOSS, _ERROR_LOSS, _LOG_LOSS = range(3)
_NUMBER_LOSSES = ("absolute", "squared", "pinball", "huber")
_ABSOLUTE_LOSS, _SQUARED_LOSS, _PINBALL_LOSS, _HUBER_LOSS = range(4)


def losses(kind: str, scores: Singles, y: Floats, parameter: float = 0.0) -> Floats:
    """Return the loss of each row, float64 (n,), of one `kind`.

    For classes "brier" (half the sum of squares), "error" (0 or 1) or "log_loss" (of a probability of at least
    `parameter`, or 1e-15, as in River; scikit-learn stops at the precision of the dtype). For numbers "absolute",
    "squared", "pinball" of the quantile `parameter` (Koenker & Bassett 1978), or "huber", half the square up to a
    distance of `parameter` and linear beyond (Huber 1964). Scores that are not finite have the highest loss (for
    numbers infinity); a label that is no class gives NaN. Raises `ConfigError` for another kind.

    >>> losses("brier", np.array([[0.25, 0.75]], np.float32), np.array([1.0])).tolist()
    [0.0625]
    >>> losses("pinball", np.array([[2.0], [2.0]], np.float32), np.array([4.0, 1.0]), 0.75).tolist()
    [1.5, 0.25]
    """
    scores = np.ascontiguousarray(scores, np.float32)
    y = np.ascontiguousarray(y, np.float64)
    if kind in _NUMBER_LOSSES:
        result = np.empty(len(y))
        _number_losses(_NUMBER_LOSSES.index(kind), parameter, scores, y, result)
        return result
    if kind not in _CLASS_LOSSES:
        raise ConfigError(f"loss: got {kind!r}; expected one of {', '.join(get_args(LossKind))}")
    result = np.empty(len(y))
    _class_losses(_CLASS_LOSSES.index(kind), scores, scores.view(np.int32), y, result)
    return np.minimum(result, -math.log(parameter)) if kind == "log_loss" and parameter > 0.0 else result


def loss_kind(kind: str, task: Task, own: Loss | None = None) -> Loss:
    """Return the loss that contestants are compared by.

    "auto" is the loss that the model is trained for, `own`; without one, the Brier score for classes, else the absolute
    error. "pinball" and "huber" have the parameter of `own`. Raises `ConfigError` for a loss that does not fit the task
    or the model.
    """
    fitting: tuple[LossKind, ...] = ("brier", "error", "log_loss")
    if task == "regression":
        fitting = ("absolute", "squared")
        if own is not None and own.kind in ("pinball", "huber"):
            fitting = (*fitting, own.kind)
    if kind == "auto":
        kind = own.kind if own is not None else fitting[0]
    for known in fitting:
        if kind == known:
            return own if own is not None and own.kind == known else Loss(known)
    of = f" and a model of the loss {own.kind!r}" if own is not None else ""
    raise ConfigError(f"gate.loss: got {kind!r} for a {task} task{of}; expected one of auto, {', '.join(fitting)}")


@bare
def surprise(bits: int) -> float:
    """Return -log of a probability given as the bits of its float32, clipped to [1e-15, 1]; accurate to 1e-14."""
    bits = min(max(bits, LEAST), ONE)
    j = (bits >> 16) & 127
    r = (1 + (bits & 0x7FFFFF) * 2.0**-23) * _SHARES[j] - 1
    series = r * (1 - r * (1 / 2 - r * (1 / 3 - r * (1 / 4 - r * (1 / 5 - r / 6)))))
    return float(-(((bits >> 23) - 127) * _LN2 + _LOGS[j] + series))


@bare
def judge_row(scores: Singles, row: int, true: int) -> tuple[int, float, float]:
    """Return the predicted class of a row, half the sum of squares of its gaps, and the score of the predicted class.

    The predicted class is the first of equals, or -1 if the scores are not finite, which has the highest loss.
    """
    row_scores = scores[row]
    top, choice, total, squares = row_scores[0], 0, 0.0, 0.0
    for k in range(len(row_scores)):
        gap = np.float64(row_scores[k]) - (k == true)
        total += gap
        squares += gap * gap
        choice = k if row_scores[k] > top else choice
        top = max(top, row_scores[k])
    if not np.isfinite(total):
        return -1, 1.0, 0.0
    return choice, squares / 2, np.float64(top)


@bare
def _judge_two(
    scores: Singles, bits: Bits, y: Floats, label: Ints, best: Ints, log_loss: Floats, brier: Floats
) -> None:
    """Judge each row as `_judge_many` does, for two classes: in fewer steps, and without branches."""
    for row in range(len(y)):
        usable = y[row] == 0.0 or y[row] == 1.0
        score, gap = np.float64(scores[row, 1]), scores[row, 1] - y[row]
        finite = np.isfinite(score + scores[row, 0])
        label[row] = np.int64(y[row]) if usable else -1
        best[row] = np.int64(score > scores[row, 0]) if finite else -1
        log_loss[row] = surprise(bits[row, 1 if y[row] == 1.0 else 0] if finite else LEAST)
        brier[row] = gap * gap if finite else 1.0


@bare
def _judge_many(
    scores: Singles, bits: Bits, y: Floats, label: Ints, best: Ints, log_loss: Floats, brier: Floats
) -> None:
    """Judge each row: its label (-1 if it is no class), predicted class, log loss and half the sum of squares."""
    classes = scores.shape[1]
    for row in range(len(y)):
        # NaN fails every comparison, so it is no class.
        usable = 0 <= y[row] < classes and y[row] == np.floor(y[row])
        true = np.int64(y[row]) if usable else -1
        label[row] = true
        best[row], brier[row], _ = judge_row(scores, row, int(true))
        log_loss[row] = surprise(bits[row, max(true, 0)] if best[row] >= 0 else LEAST)


@exact_kernel
def _class_losses(kind: int, scores: Singles, bits: Bits, y: Floats, result: Floats) -> None:
    rows = len(y)
    label, best = np.empty(rows, np.int64), np.empty(rows, np.int64)
    log_loss, brier = np.empty(rows), np.empty(rows)
    if scores.shape[1] == 2:
        _judge_two(scores, bits, y, label, best, log_loss, brier)
    else:
        _judge_many(scores, bits, y, label, best, log_loss, brier)
    for row in range(rows):
        if label[row] < 0:
            result[row] = np.nan
        elif kind == _ERROR_LOSS:
            result[row] = np.float64(best[row] != label[row])
        else:
            result[row] = brier[row] if kind == _BRIER_LOSS else log_loss[row]


@exact_kernel
def _number_losses(kind: int, parameter: float, scores: Singles, y: Floats, result: Floats) -> None:
    for row in range(len(y)):
        above = np.float64(scores[row, 0]) - y[row]
        gap = abs(above)
        if np.isnan(gap):
            gap = np.nan if np.isnan(y[row]) else np.inf
        if kind == _SQUARED_LOSS:
            gap = gap * gap
        elif kind == _PINBALL_LOSS:
            gap = gap * (1.0 - parameter if above > 0.0 else parameter)
        elif kind == _HUBER_LOSS:
            gap = 0.5 * gap * gap if gap <= parameter else parameter * (gap - 0.5 * parameter)
        result[row] = gap
