"""The headline metric: the one number by which a picture, a table of versions and a page show quality."""

from __future__ import annotations

from everlearn.errors import ConfigError
from everlearn.metrics.class_sums import TOTAL
from everlearn.records import Arrays, Loss, Task

RARE = 0.9  # share of the commonest class from which accuracy says little
_ENOUGH = 100.0  # weight of labels from which that share counts

_CLASSES = ("accuracy", "balanced_accuracy", "log_loss", "brier", "kappa", "kappa_t", "kappa_m", "precision", "recall")
_BINARY = ("roc_auc", "pr_auc", "recall_at_share", "precision_at_share")
_NUMBERS = ("mae", "rmse", "r2", "skill_last", "skill_mean")


def choices(task: Task, own: Loss | None = None, costs: bool = False) -> tuple[str, ...]:
    """Return the metrics that can be the headline of a task; `own` is the loss that the model is trained for.

    With `costs` the settings hold a cost matrix, and the cost per decision is measured.

    >>> choices("regression")
    ('mae', 'rmse', 'r2', 'skill_last', 'skill_mean')
    """
    if task == "regression":
        return (*_NUMBERS, "pinball") if own is not None and own.kind == "pinball" else _NUMBERS
    return (*_CLASSES, "f1", "ece", *(_BINARY if task == "binary" else ()), *(("cost",) if costs else ()))


def checked(metric: str, task: Task, own: Loss | None = None, costs: bool = False) -> str:
    """Return `metric`. Raises `ConfigError` for one that is no headline of this task.

    >>> checked("accuracy", "regression")
    Traceback (most recent call last):
    everlearn.errors.ConfigError: metric: got 'accuracy' for a regression task; expected one of auto, mae, rmse, r2, \
skill_last, skill_mean
    """
    known = ("auto", *choices(task, own, costs))
    if metric in known:
        return metric
    hint = "" if metric != "pinball" or task != "regression" else ' Build the model with loss = "pinball" for it.'
    hint += (
        " State the costs of decisions in [decision.costs] for it." if metric == "cost" and task != "regression" else ""
    )
    raise ConfigError(f"metric: got {metric!r} for a {task} task; expected one of {', '.join(known)}{hint}")


def chosen(metric: str, task: Task, arrays: Arrays | None = None, own: Loss | None = None) -> str:
    """Return the headline metric: `metric`, or what "auto" stands for.

    A model of a quantile has its pinball loss, any other regression its mean absolute error. Classes have the accuracy,
    or the log loss where one class has at least nine tenths of the labels in `arrays` (metrics of the champion): there
    the majority class alone is hard to beat in accuracy, also for a model that ranks well.

    >>> chosen("auto", "multiclass"), chosen("auto", "regression", own=Loss("pinball", 0.9))
    ('accuracy', 'pinball')
    """
    if metric != "auto":
        return metric
    if task == "regression":
        return "pinball" if own is not None and own.kind == "pinball" else "mae"
    if arrays is None or not arrays["sums"][TOTAL] >= _ENOUGH:
        return "accuracy"
    return "log_loss" if arrays["by_class"][:, 0].max() >= RARE * arrays["sums"][TOTAL] else "accuracy"
