"""Resolve the names of guards: "recall:CLASS" stands for the recall of one class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from everlearn.errors import ConfigError

Label = TypeVar("Label")


def guarded_class(guard: str, classes: Mapping[str, Label]) -> Label:
    """Return the class whose recall a guard bounds; `classes` maps the name of each class to the class.

    Raises `ConfigError` for another metric, or an unknown class.

    >>> guarded_class("recall:fraud", {"fine": 0, "fraud": 1})
    1
    """
    metric, _, name = guard.partition(":")
    if metric != "recall" or name not in classes:
        raise ConfigError(
            f"gate.guards: got {guard!r}; expected 'recall:CLASS' with CLASS one of {', '.join(classes) or 'none'}"
        )
    return classes[name]
