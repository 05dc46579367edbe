"""The losses of a network: cross entropy, squared error or a user's function, over the classes that compete."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from everlearn._torch import Tensor, functional, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.network import load_function
from everlearn.families.neural.settings import Settings

Losses = Callable[[Tensor, Tensor], Tensor]

LOW = -1e30  # the logit of a masked class; finite, because 0 times infinity is NaN


def loss(settings: Settings) -> Losses:
    """Return the loss, a function of outputs (n, columns) and y (n,). Raises `ConfigError` for an unknown one."""
    if settings.loss == "auto":
        return _squared if settings.task == "regression" else _cross_entropy
    return cast(Losses, load_function(settings.loss, "loss"))


def _cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, y, reduction="none")


def _squared(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs[:, 0] - y).square()


def masked(outputs: Tensor, y: Tensor, heads: Tensor | None, unseen: Tensor | None, logs: Tensor | None) -> Tensor:
    """Return outputs (n, columns) as the loss of labels y (n,) compares them.

    Classes of other `heads`, bool (classes, classes), and `unseen` classes, bool (classes,), are masked. `logs` float32
    (classes,), the log frequency of each class among learned rows, is added, so that the network learns classes as if
    all were equally frequent (Menon et al. 2021).
    """
    if heads is not None:
        outputs = outputs.masked_fill(~heads[y], LOW)
    if unseen is not None:
        outputs = outputs.masked_fill(unseen, LOW)
    return outputs if logs is None else outputs + logs


def heads(settings: Settings) -> Tensor | None:
    """Return the classes that compete with each class in training, bool (classes, classes); None if all do.

    Classes that no head lists form one group. Raises `ConfigError` for a class in two heads, or an unknown class.

    >>> from everlearn.families.neural.settings import read
    >>> heads(read({"task": "multiclass", "dense": 1, "classes": 3, "heads": [[0, 2]]})).int().tolist()
    [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    if not settings.heads:
        return None
    listed = [label for head in settings.heads for label in head]
    if len(set(listed)) < len(listed) or any(label >= settings.classes for label in listed):
        raise ConfigError(
            f"neural model: heads are {settings.heads}, expected each of 0 to {settings.classes - 1} once at most"
        )
    group = torch.full((settings.classes,), -1)
    for number, head in enumerate(settings.heads):
        group[list(head)] = number
    return group[:, None] == group[None, :]
