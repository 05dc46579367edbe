"""Running metrics as arrays: the quality of the predictions, in total, over time, and lately.

`start` makes the arrays, `update` adds rows to them in stream order, `report` and `curve` read them. Rows are added one
after the other, so the result has the same bytes however the stream is split into calls. A row counts if its label is
usable (finite, and for classes an integer in [0, classes)) and its weight is finite and not negative; other rows are
ignored. Weights apply everywhere except in `examples` and `count`.

Each room has its arrays, kernels and report: `classes`, `numbers` (of a regression), `ranks` (ROC AUC, PR AUC),
`calibration`, `alerts`, `segments`, `lately`. Arrays that are absent are not kept, so each room is optional: homes of
release 0.1.0 and the gate's trials have few of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import ConfigError, ModelError
from everlearn.metrics import alerts, calibration, classes, curves, histogram, lately, numbers, ranks, recent, segments
from everlearn.metrics.curves import EXAMPLES, FOLDED, LAST, UNSCORED
from everlearn.metrics.headline import checked, choices, chosen
from everlearn.metrics.judging import FLOOR, loss_kind, losses
from everlearn.metrics.segments import SegmentTable
from everlearn.records import Arrays, Floats, Ints, Loss, Singles, Task

__all__ = [
    "FLOOR",
    "SegmentTable",
    "checked",
    "choices",
    "chosen",
    "curve",
    "loss_kind",
    "losses",
    "reliability",
    "report",
    "segment_report",
    "start",
    "update",
]

_UNKNOWN, _NO_SEGMENT = np.zeros((0, 2)), np.zeros(0, np.int64)


def start(
    task: Task,
    classes: int,
    points: int = 256,
    names: Collection[str] | None = None,
    *,
    own: Loss | None = None,
    share: float = alerts.SHARE,
    segmented: bool = False,
) -> Arrays:
    """Return arrays of fixed size for the metrics of one model: running sums, and a curve of at most `points` points.

    `own` is the loss that the model is trained for: "pinball" adds `pinball` and `coverage`. `share` is the share of
    rows that may be alerts (binary), and with `segmented` rows are also counted by segment.

    `counts` is int64 (6,), or (5,) without recent rows, `curve` float64 (points, 4), with pinball loss (points, 5),
    `naive` float64 (4,), `sums` float64 (5,) for a regression and (4,) for classes, with `by_class` (classes, 3). The
    rooms add theirs. With `names`, only these are made: homes of release 0.1.0 have no `naive`, and `histogram` (2,
    2561) in place of ranks; so do the gate's trials, which start often. Raises `ConfigError` for fewer than two points,
    a number of classes that does not fit the task, or a share outside [0.0001, 1).

    >>> sorted(start("multiclass", 3))
    ['bins', 'by_class', 'counts', 'curve', 'naive', 'recent', 'recent_bits', 'sums']
    """
    if points < 2:
        raise ConfigError(f"points: got {points} for a curve; expected at least 2")
    counts = np.zeros(6, np.int64)
    counts[LAST] = -1
    quantile = own.parameter if task == "regression" and own is not None and own.kind == "pinball" else 0.0
    arrays: Arrays = {"counts": counts, "curve": np.zeros((points, 5 if quantile else 4)), "naive": np.zeros(4)}
    arrays |= recent.start(task) | (segments.start() if segmented else {})
    if names is not None and "recent" not in names:
        arrays["counts"] = counts[:FOLDED].copy()
    if task == "regression":
        arrays |= {"sums": np.zeros(5)} | (numbers.start_pinball(quantile) if quantile else {})
        return arrays if names is None else {name: array for name, array in arrays.items() if name in names}
    if classes < 2 or (task == "binary" and classes != 2):
        raise ConfigError(f"metrics of a {task} task with {classes} classes; expected 2 if binary, at least 2 if not")
    arrays |= {"sums": np.zeros(4), "by_class": np.zeros((classes, 3))} | calibration.start()
    if task == "binary":
        arrays |= ranks.start() | alerts.start(share)
    if names is None:
        return arrays
    if task == "binary":
        arrays["histogram"] = histogram.start()
    return {name: array for name, array in arrays.items() if name in names}


def update(
    arrays: Arrays,
    task: Task,
    scores: Singles,
    y: Floats,
    weight: Singles,
    index: int,
    known: Floats | None = None,
    segment: Ints | None = None,
) -> None:
    """Add n rows, in stream order, to the arrays that `start` made.

    `scores` is float32, (n, classes) or (n, 1) for a regression; `y` is float64 (n,), `weight` float32 (n,). `index` is
    the number of labelled examples in the whole stream before the first row, so that the curves of models that began at
    different moments share an axis. `known`, contiguous float64 (n, 2), is what naive baselines answered to each row:
    the last label that was known then, and the most common one or the mean (`baselines.labels`). `segment`, contiguous
    int64 (n,), is the segment of each row (`SegmentTable.number`), -1 for none. A classifier's scores that are not
    finite count as the worst possible prediction; a regression's are left out and counted as `unscored`. Raises
    `ModelError` if the shapes differ.

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
    add = numbers.update if task == "regression" else classes.update
    add(
        arrays,
        scores,
        y,
        weight,
        index,
        _UNKNOWN if known is None else known,
        _NO_SEGMENT if segment is None else segment,
    )


def report(arrays: Arrays, task: Task) -> dict[str, float]:
    """Return the metrics so far, without those that are not defined yet (no example, one class only), so none is NaN.

    Classes: `examples`, `accuracy`, `log_loss` (natural log), `brier` (half the sum of squares, so in [0, 1] and (p -
    y)**2 when binary), `kappa` (against chance), `kappa_t` (against repeating the last known label, for which it is 0;
    Žliobaitė et al. 2015, "Evaluation methods and decision theory for classification of streaming data with temporal
    dependence", eq. 3), `kappa_m` (against the most common known label; Bifet et al. 2015, "Efficient online evaluation
    of big data stream classifiers"), `balanced_accuracy`, and `precision`, `recall`, `f1` of class 1 when binary, else
    their mean over the classes seen. `ece` is the calibration error (`calibration.report`). If binary, also `roc_auc`
    and `pr_auc`, each with `..._low` and `..._high` unless the value is exact (`ranks.report`; homes of release 0.1.0
    have `roc_auc` from a histogram, without its error), and `recall_at_share`, `precision_at_share` and `alert_share`
    (`alerts`).

    A regression: `examples`, `mae`, `rmse`, `r2`, `skill_last` and `skill_mean` (1 - mae / mae of the baseline that
    repeats the last known label, or answers with the mean), and `unscored` if there are such rows. A model of a
    quantile: `pinball`, its mean loss, and `coverage`, the share of truths at or below the prediction, beside the
    `quantile` that it should be.

    After more than 1,000 rows also the headline metrics of the last 1,000, with names ending in `_lately` (`lately`).
    Where `update` was called without `known`, `kappa_t` compares with the label of the row before, and `kappa_m` and
    both skills are left out.

    >>> arrays = start("regression", 0)
    >>> scores = np.array([[1.0], [3.0]], np.float32)
    >>> update(arrays, "regression", scores, np.array([0.0, 3.0]), np.ones(2, np.float32), 0)
    >>> report(arrays, "regression")["mae"]
    0.5
    """
    arrays = settled(arrays, task)
    counts, sums = arrays["counts"], arrays["sums"]
    result: dict[str, float] = {"examples": int(counts[EXAMPLES])}
    if task == "regression":
        result |= numbers.report(sums, arrays.get("naive"), arrays.get("pinball"))
        result |= {"unscored": int(counts[UNSCORED])} if counts[UNSCORED] else {}
    else:
        result |= classes.report(sums, arrays["by_class"], arrays.get("naive"), task)
        result |= _of_probabilities(arrays)
    return result | (lately.report(arrays, task) if "recent" in arrays else {})


def _of_probabilities(arrays: Arrays) -> dict[str, float]:
    """Return the metrics of the rooms that look at probabilities, as far as their arrays are kept."""
    result: dict[str, float] = {}
    if "bins" in arrays:
        result |= calibration.report(arrays["bins"])
    if "rank_cells" in arrays:
        result |= ranks.report(arrays)
    elif "histogram" in arrays:
        result |= histogram.report(arrays["histogram"])
    if "alert_sums" in arrays:
        result |= alerts.report(arrays["alert_sums"])
    return result


def curve(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return the metrics over time, a point for each of up to `points` equal stretches of the stream with examples.

    `x` (int64) is the index at which the stretch ends, `count` (int64) its examples and `weight` (float64) the sum of
    their weights. `accuracy` and `log_loss`, or `mae` and `mse` (squared errors) with `pinball` where it is measured,
    are float64 means over the stretch alone. When the stream outgrows the points, neighbours are merged and stretches
    double, at the same index for every model.
    """
    task: Task = "multiclass" if "by_class" in arrays else "regression"
    arrays = settled(arrays, task)
    names = ("accuracy", "log_loss") if task != "regression" else ("mae", "mse")
    return curves.points(arrays["counts"], arrays["curve"], (*names, *(("pinball",) if "pinball" in arrays else ())))


def reliability(arrays: Arrays, task: Task) -> dict[str, NDArray[Any]]:
    """Return the reliability curve (`calibration.reliability`); empty where it is not kept."""
    return calibration.reliability(settled(arrays, task)["bins"]) if "bins" in arrays else {}


def segment_report(arrays: Arrays, task: Task, table: SegmentTable) -> dict[str, dict[str, Any]]:
    """Return the metrics of each segment by its name (`segments.report`); empty where there are none."""
    return segments.report(settled(arrays, task)["segments"], task, table.names()) if "segments" in arrays else {}


def settled(arrays: Arrays, task: Task) -> Arrays:
    """Return the arrays with the rows that wait in the ring added to their sums: copies, if there are such rows."""
    counts = arrays["counts"]
    if "recent" not in arrays:
        return arrays
    held = arrays
    if counts[EXAMPLES] > counts[FOLDED]:
        held = {name: array if name.startswith("recent") else array.copy() for name, array in arrays.items()}
        (numbers if task == "regression" else classes).settle(held)
    return held
