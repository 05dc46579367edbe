"""Running metrics as arrays: the quality of the predictions, in total and over time.

`start` makes the arrays, `update` adds rows to them in stream order, `report` and `curve` read them. Rows are added one
after the other, so the result has the same bytes however the stream is split into calls. A row counts if its label is
usable (finite, and for classes an integer in [0, classes)) and its weight is finite and not negative; other rows are
ignored. Weights apply everywhere except in `examples` and `count`. The order of binary scores is kept in `ranks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.errors import ConfigError, ModelError
from everlearn.metrics import histogram, ranks
from everlearn.records import Arrays, Floats, Ints, Loss, LossKind, Singles, Task

Bits = NDArray[np.int32]

FLOOR = 1e-15  # lowest probability in the log loss; a certain and wrong prediction costs 34.54

_EXAMPLES, _UNSCORED, _LAST, _SHIFT, _END = range(5)  # in arrays["counts"]
_WEIGHT, _LOG_LOSS, _BRIER, _REPEATED = range(4)  # in arrays["sums"], for classes
_ABSOLUTE, _SQUARED, _MEAN, _SPREAD = range(1, 5)  # in arrays["sums"] after _WEIGHT, for a regression
_TRUE, _PREDICTED, _HIT = range(3)  # columns of arrays["by_class"]
_COMPARED, _OURS, _LAST_KNOWN, _COMMON = range(4)  # in arrays["naive"]: weight, then hits or absolute errors
_COUNT, _MASS, _GOOD, _LOSS = range(4)  # columns of arrays["curve"]; for a regression absolute and squared errors

# A float32 is 2**exponent * (1 + j / 128) * (1 + r) with r below 1 / 128: the logarithm is a sum of three, two of them
# known and one a short series. It is twice as fast here as a call to log, which would be most of the cost of a row.
_LEAST, _ONE = int(np.float32(FLOOR).view(np.int32)), 127 << 23
_LN2 = math.log(2)
_SHARES = 1 / (1 + np.arange(128) / 128)
_LOGS = np.array([math.log1p(j / 128) for j in range(128)])  # np.log1p rounds differently on different processors


def start(task: Task, classes: int, points: int = 256, names: Collection[str] | None = None) -> Arrays:
    """Return arrays of fixed size for the metrics of one model: running sums, and a curve of at most `points` points.

    `counts` is int64 (5,); the rest is float64: `curve` (points, 4), `naive` (4,), `sums` (5,) for a regression, and
    for classes `sums` (4,), `by_class` (classes, 3), with the arrays of `ranks.start` if the task is binary. With
    `names`, only these are made: homes of release 0.1.0 have no `naive`, and `histogram` (2, 2561) in place of ranks;
    so do the gate's trials, which start often. Raises `ConfigError` for fewer than two points, or a number
    of classes that does not fit the task.

    >>> sorted(start("multiclass", 3))
    ['by_class', 'counts', 'curve', 'naive', 'sums']
    """
    if points < 2:
        raise ConfigError(f"points: got {points} for a curve; expected at least 2")
    counts = np.zeros(5, np.int64)
    counts[_LAST] = -1
    arrays: Arrays = {"counts": counts, "curve": np.zeros((points, 4)), "naive": np.zeros(4)}
    if task == "regression":
        arrays |= {"sums": np.zeros(5)}
        return arrays if names is None else {name: array for name, array in arrays.items() if name in names}
    if classes < 2 or (task == "binary" and classes != 2):
        raise ConfigError(f"metrics of a {task} task with {classes} classes; expected 2 if binary, at least 2 if not")
    arrays |= {"sums": np.zeros(4), "by_class": np.zeros((classes, 3))}
    if task == "binary":
        arrays |= ranks.start()
    if names is None:
        return arrays
    arrays["histogram"] = histogram.start()
    return {name: array for name, array in arrays.items() if name in names}


def update(
    arrays: Arrays, task: Task, scores: Singles, y: Floats, weight: Singles, index: int, known: Floats | None = None
) -> None:
    """Add n rows, in stream order, to the arrays that `start` made.

    `scores` is float32, (n, classes) or (n, 1) for a regression; `y` is float64 (n,), `weight` float32 (n,). `index` is
    the number of labelled examples in the whole stream before the first row, so that the curves of models that began at
    different moments share an axis. `known`, contiguous float64 (n, 2), is what naive baselines answered to each row:
    the last label that was known then, and the most common one or the mean (`baselines.labels`). A classifier's scores
    that are not finite count as the worst possible prediction; a regression's are left out and counted as `unscored`.
    Raises `ModelError` if the shapes differ.

    >>> arrays = start("binary", 2)
    >>> scores = np.array([[0.2, 0.8], [0.4, 0.6]], np.float32)
    >>> update(arrays, "binary", scores, np.array([1.0, 0.0]), np.ones(2, np.float32), 0)
    >>> report(arrays, "binary")["accuracy"]
    0.5
    """
    columns = 1 if task == "regression" else len(arrays["by_class"])
    if scores.shape != (len(y), columns) or weight.shape != y.shape:
        raise ModelError(
            f"scores of shape {scores.shape} and weights of shape {weight.shape} for {len(y)} labels; expected "
            f"{(len(y), columns)} and {y.shape} for this {task} task: see what the model's predict returns"
        )
    scores = np.ascontiguousarray(scores, np.float32)
    y = np.ascontiguousarray(y, np.float64)
    weight = np.ascontiguousarray(weight, np.float32)
    counts, sums, curve = arrays["counts"], arrays["sums"], arrays["curve"]
    naive = arrays["naive"] if "naive" in arrays else np.zeros(4)
    known = np.zeros((0, 2)) if known is None else known
    if task == "regression":
        _add_numbers(scores, y, weight, known, index, counts, sums, curve, naive)
        return
    label, bits = np.empty(len(y), np.int64), scores.view(np.int32)
    _score_classes(scores, bits, y, weight, known, index, label, counts, sums, curve, naive, arrays["by_class"])
    if "rank_cells" in arrays:
        ranks.update(arrays, bits, label, weight)
    elif "histogram" in arrays:
        histogram.update(bits, label, weight, arrays["histogram"])


def report(arrays: Arrays, task: Task) -> dict[str, float]:
    """Return the metrics so far, without those that are not defined yet (no example, one class only), so none is NaN.

    Classes: `examples`, `accuracy`, `log_loss` (natural log), `brier` (half the sum of squares, so in [0, 1] and (p -
    y)**2 when binary), `kappa` (against chance), `kappa_t` (against repeating the last known label, for which it is 0;
    Žliobaitė et al. 2015, "Evaluation methods and decision theory for classification of streaming data with temporal
    dependence", eq. 3), `kappa_m` (against the most common known label; Bifet et al. 2015, "Efficient online evaluation
    of big data stream classifiers"), `balanced_accuracy`, and `precision`, `recall`, `f1` of class 1 when binary, else
    their mean over the classes seen. If binary, also `roc_auc` and `pr_auc`, each with `..._low` and `..._high` unless
    the value is exact (`ranks.report`); homes of release 0.1.0 have `roc_auc` from a histogram, without its error.

    A regression: `examples`, `mae`, `rmse`, `r2`, `skill_last` and `skill_mean` (1 - mae / mae of the baseline that
    repeats the last known label, or answers with the mean), and `unscored` if there are such rows.

    Where `update` was called without `known`, `kappa_t` compares with the label of the row before, and `kappa_m` and
    both skills are left out.

    >>> arrays = start("regression", 0)
    >>> scores = np.array([[1.0], [3.0]], np.float32)
    >>> update(arrays, "regression", scores, np.array([0.0, 3.0]), np.ones(2, np.float32), 0)
    >>> report(arrays, "regression")["mae"]
    0.5
    """
    counts, sums = arrays["counts"], arrays["sums"]
    result: dict[str, float] = {"examples": int(counts[_EXAMPLES])}
    if task == "regression":
        result |= _number_metrics(sums, arrays.get("naive"))
        return result | ({"unscored": int(counts[_UNSCORED])} if counts[_UNSCORED] else {})
    if sums[_WEIGHT] > 0:
        result |= _class_metrics(sums, arrays["by_class"], arrays.get("naive"), task)
    if "rank_cells" in arrays:
        result |= ranks.report(arrays)
    elif "histogram" in arrays:
        result |= histogram.report(arrays["histogram"])
    return result


def curve(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return the metrics over time, a point for each of up to `points` equal stretches of the stream with examples.

    `x` (int64) is the index at which the stretch ends, `count` (int64) its examples and `weight` (float64) the sum of
    their weights. `accuracy` and `log_loss`, or `mae` and `mse` (squared errors), are float64 means over the stretch
    alone. When the stream outgrows the points, neighbours are merged and stretches double, at the same index for every
    model.
    """
    counts, points = arrays["counts"], arrays["curve"]
    (used,) = np.nonzero(points[:, _MASS] > 0)
    rows = points[used]
    ends = np.minimum((used + 1) << counts[_SHIFT], counts[_END])
    first, second = rows[:, _GOOD] / rows[:, _MASS], rows[:, _LOSS] / rows[:, _MASS]
    measured = {"accuracy": first, "log_loss": second}
    if "by_class" not in arrays:
        measured = {"mae": first, "mse": second}
    count, weight = rows[:, _COUNT].astype(np.int64), rows[:, _MASS].copy()
    return {"x": ends.astype(np.int64), "count": count, "weight": weight, **measured}


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
    label, best, log_loss, brier = _judged(scores, y)
    if kind not in ("brier", "error", "log_loss"):
        raise ConfigError(f"loss: got {kind!r}; expected one of {', '.join(get_args(LossKind))}")
    if parameter > 0.0:
        log_loss = np.minimum(log_loss, -math.log(parameter))
    chosen = log_loss if kind == "log_loss" else brier if kind == "brier" else (best != label).astype(np.float64)
    chosen[label < 0] = np.nan
    return chosen


def _judged(scores: Singles, y: Floats) -> tuple[Ints, Ints, Floats, Floats]:
    """Return for each row its label (-1 if it is no class), the predicted class, its log loss and its Brier score."""
    rows = len(y)
    judged = np.empty(rows, np.int64), np.empty(rows, np.int64), np.empty(rows), np.empty(rows)
    judge = _judge_two if scores.shape[1] == 2 else _judge_many
    judge(scores, scores.view(np.int32), y, *judged)
    return judged


def _number_metrics(sums: Floats, naive: Floats | None) -> dict[str, float]:
    if not sums[_WEIGHT] > 0:
        return {}
    result = {
        "mae": float(sums[_ABSOLUTE] / sums[_WEIGHT]),
        "rmse": math.sqrt(sums[_SQUARED] / sums[_WEIGHT]),
    }
    if sums[_SPREAD] > 0:
        result["r2"] = float(1 - sums[_SQUARED] / sums[_SPREAD])
    for name, errors in (("skill_last", _LAST_KNOWN), ("skill_mean", _COMMON)):
        if naive is not None and naive[errors] > 0:
            result[name] = float(1 - naive[_OURS] / naive[errors])
    return result


def _class_metrics(sums: Floats, by_class: Floats, naive: Floats | None, task: Task) -> dict[str, float]:
    total = float(sums[_WEIGHT])
    true, predicted, hit = by_class.T
    accuracy = float(hit.sum()) / total
    result = {
        "accuracy": accuracy,
        "log_loss": float(sums[_LOG_LOSS]) / total,
        "brier": float(sums[_BRIER]) / total,
    }
    chance = float(true @ predicted) / total**2
    if chance < 1:
        result["kappa"] = (accuracy - chance) / (1 - chance)
    if naive is None or not naive[_COMPARED] > 0:
        naive = np.array([total, hit.sum(), sums[_REPEATED], total])  # the last one: no kappa_m
    for name, hits in (("kappa_t", _LAST_KNOWN), ("kappa_m", _COMMON)):
        ours, theirs = float(naive[_OURS] / naive[_COMPARED]), float(naive[hits]) / float(naive[_COMPARED])
        if theirs < 1:
            result[name] = (ours - theirs) / (1 - theirs)
    labelled = true > 0
    result["balanced_accuracy"] = float((hit[labelled] / true[labelled]).mean())
    seen = np.array([False, True]) if task == "binary" else labelled | (predicted > 0)
    true, predicted, hit = true[seen], predicted[seen], hit[seen]
    # A mean over classes counts an empty denominator as 0; class 1 alone, with nothing to divide by, is left out.
    for name, parts in (("precision", predicted), ("recall", true), ("f1", (true + predicted) / 2)):
        if task == "multiclass" or parts[0] > 0:
            shares = np.divide(hit, parts, out=np.zeros(len(parts)), where=parts > 0)
            result[name] = float(shares.mean())
    return result


@exact_kernel
def _widen(x: int, counts: Ints, curve: Floats) -> int:
    """Merge neighbours of the curve until example number x fits in; return the number of doublings so far."""
    points, columns = curve.shape
    while (x >> counts[_SHIFT]) >= points:
        counts[_SHIFT] += 1
        for point in range(points):
            for column in range(columns):
                merged = 0.0
                for old in range(2 * point, min(2 * point + 2, points)):
                    merged += curve[old, column]
                curve[point, column] = merged
    return int(counts[_SHIFT])


@exact_kernel
def _surprise(bits: int) -> float:
    """Return -log of a probability given as the bits of its float32, clipped to [1e-15, 1]; accurate to 1e-14."""
    bits = min(max(bits, _LEAST), _ONE)
    j = (bits >> 16) & 127
    r = (1 + (bits & 0x7FFFFF) * 2.0**-23) * _SHARES[j] - 1
    series = r * (1 - r * (1 / 2 - r * (1 / 3 - r * (1 / 4 - r * (1 / 5 - r / 6)))))
    return float(-(((bits >> 23) - 127) * _LN2 + _LOGS[j] + series))


@exact_kernel
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
        log_loss[row] = _surprise(bits[row, 1 if y[row] == 1.0 else 0] if finite else _LEAST)
        brier[row] = gap * gap if finite else 1.0


@exact_kernel
def _judge_many(
    scores: Singles, bits: Bits, y: Floats, label: Ints, best: Ints, log_loss: Floats, brier: Floats
) -> None:
    """Judge each row: its label (-1 if it is no class), predicted class, log loss and half the sum of squares.

    The predicted class is the first of equals, or -1 if the scores are not finite, which has the highest loss.
    """
    classes = scores.shape[1]
    for row in range(len(y)):
        # NaN fails every comparison, so it is no class.
        usable = 0 <= y[row] < classes and y[row] == np.floor(y[row])
        true = np.int64(y[row]) if usable else -1
        top, choice, total, squares = scores[row, 0], 0, 0.0, 0.0
        for k in range(classes):
            gap = np.float64(scores[row, k]) - (k == true)
            total += gap
            squares += gap * gap
            choice = k if scores[row, k] > top else choice
            top = max(top, scores[row, k])
        finite = np.isfinite(total)
        label[row] = true
        best[row] = choice if finite else -1
        log_loss[row] = _surprise(bits[row, max(true, 0)] if finite else _LEAST)
        brier[row] = squares / 2 if finite else 1.0


@exact_kernel
def _put(curve: Floats, bucket: int, count: float, mass: float, good: float, loss: float) -> None:
    curve[bucket, _COUNT], curve[bucket, _MASS], curve[bucket, _GOOD], curve[bucket, _LOSS] = count, mass, good, loss


@exact_kernel
def _score_classes(
    scores: Singles,
    bits: Bits,
    y: Floats,
    weight: Singles,
    known: Floats,
    index: int,
    label: Ints,
    counts: Ints,
    sums: Floats,
    curve: Floats,
    naive: Floats,
    by_class: Floats,
) -> None:
    """Judge rows, and add them; write their labels to `label`. One kernel, since a call costs as much as 100 rows."""
    rows = len(y)
    best, log_loss, brier = np.empty(rows, np.int64), np.empty(rows), np.empty(rows)
    if scores.shape[1] == 2:
        _judge_two(scores, bits, y, label, best, log_loss, brier)
    else:
        _judge_many(scores, bits, y, label, best, log_loss, brier)
    _add_classes(label, best, log_loss, brier, weight, known, index, counts, sums, curve, naive, by_class)


@exact_kernel
def _add_classes(
    label: Ints,
    best: Ints,
    log_loss: Floats,
    brier: Floats,
    weight: Singles,
    known: Floats,
    index: int,
    counts: Ints,
    sums: Floats,
    curve: Floats,
    naive: Floats,
    by_class: Floats,
) -> None:
    last, examples, shift, given = counts[_LAST], 0, counts[_SHIFT], len(known) > 0
    compared, ours, repeats, common = naive[_COMPARED], naive[_OURS], naive[_LAST_KNOWN], naive[_COMMON]
    total, surprise, squared, repeated = sums[_WEIGHT], sums[_LOG_LOSS], sums[_BRIER], sums[_REPEATED]
    # The current stretch of the curve is held in registers, because its memory would be the slowest part.
    bucket, count, mass, good, loss = -1, 0.0, 0.0, 0.0, 0.0
    for row in range(len(label)):
        if (index + row) >> shift != bucket:
            if bucket >= 0:
                _put(curve, bucket, count, mass, good, loss)
            if (index + row) >> shift >= len(curve):
                shift = _widen(index + row, counts, curve)
            bucket = (index + row) >> shift
            count, mass = curve[bucket, _COUNT], curve[bucket, _MASS]
            good, loss = curve[bucket, _GOOD], curve[bucket, _LOSS]
        w = np.float64(weight[row])
        true, predicted = label[row], best[row]
        if not (true >= 0 and 0 <= w < np.inf):
            continue
        hit = w * (predicted == true)
        by_class[true, _TRUE] += w
        by_class[true, _HIT] += hit
        by_class[max(predicted, 0), _PREDICTED] += w * (predicted >= 0)
        total += w
        surprise += w * log_loss[row]
        squared += w * brier[row]
        repeated += w * (true == last)
        last = true
        if given:
            compared += w
            ours += hit
            repeats += w * (known[row, 0] == true)
            common += w * (known[row, 1] == true)
        examples += 1
        count += 1
        mass += w
        good += hit
        loss += w * log_loss[row]
    if bucket >= 0:
        _put(curve, bucket, count, mass, good, loss)
    counts[_LAST], counts[_END] = last, max(counts[_END], index + len(label))
    counts[_EXAMPLES] += examples
    sums[_WEIGHT], sums[_LOG_LOSS], sums[_BRIER], sums[_REPEATED] = total, surprise, squared, repeated
    naive[_COMPARED], naive[_OURS], naive[_LAST_KNOWN], naive[_COMMON] = compared, ours, repeats, common


@exact_kernel
def _add_numbers(
    scores: Singles,
    y: Floats,
    weight: Singles,
    known: Floats,
    index: int,
    counts: Ints,
    sums: Floats,
    curve: Floats,
    naive: Floats,
) -> None:
    shift = counts[_SHIFT]
    counts[_END] = max(counts[_END], index + len(y))
    for row in range(len(y)):
        if (index + row) >> shift >= len(curve):
            shift = _widen(index + row, counts, curve)
        bucket = (index + row) >> shift
        w = np.float64(weight[row])
        if not (0 <= w < np.inf and np.isfinite(y[row])):
            continue
        gap = np.float64(scores[row, 0]) - y[row]
        if not np.isfinite(gap * gap):
            counts[_UNSCORED] += 1
            continue
        sums[_WEIGHT] += w
        sums[_ABSOLUTE] += w * abs(gap)
        sums[_SQUARED] += w * gap * gap
        if len(known) and np.isfinite(known[row, 0]):
            naive[_COMPARED] += w
            naive[_OURS] += w * abs(gap)
            naive[_LAST_KNOWN] += w * abs(known[row, 0] - y[row])
            naive[_COMMON] += w * abs(known[row, 1] - y[row])
        if w > 0:  # the running weighted mean and spread of y, after West (1979)
            off = y[row] - sums[_MEAN]
            sums[_MEAN] += off * w / sums[_WEIGHT]
            sums[_SPREAD] += w * off * (y[row] - sums[_MEAN])
        counts[_EXAMPLES] += 1
        curve[bucket, _COUNT] += 1
        curve[bucket, _MASS] += w
        curve[bucket, _GOOD] += w * abs(gap)
        curve[bucket, _LOSS] += w * gap * gap


_NUMBER_LOSSES = ("absolute", "squared", "pinball", "huber")
_ABSOLUTE_LOSS, _SQUARED_LOSS, _PINBALL_LOSS, _HUBER_LOSS = range(4)


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
