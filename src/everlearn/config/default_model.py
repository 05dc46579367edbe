"""Choose the model of a loop whose settings name none.

A new loop has the automatic model, or that of its task. A home keeps the model with which it began, whatever the
default was by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from everlearn import model
from everlearn.errors import ConfigError
from everlearn.records import Task
from everlearn.spec import Spec

# A row of more columns takes a quarter of a millisecond or more, one of more classes half of one (docs/why/mix.md).
MOST_COLUMNS, MOST_CLASSES = 1000, 300


def chosen(task: Task, shape: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the model of new loops for a task and the shape of its rows, and why it is the linear model alone.

    The reason is "" for any other model. Raises `ConfigError` for preferences, which need a language model.

    >>> chosen("binary", {"dense": 8, "hashed": 0, "classes": 2})
    ({'family': 'auto'}, '')
    >>> chosen("regression", {"dense": 1536, "hashed": 0, "classes": 0})[1]
    '1,536 columns of numbers, and trees take a quarter of a millisecond or more for a row of over 1,000'
    """
    if task == "preference":
        raise ConfigError(
            'model: missing; the task "preference" expects a language model, such as {family = "preference", '
            'model = "gpt2"}. `everlearn init --model NAME` writes the settings'
        )
    if task == "bandit":
        return {"family": "bandit"}, ""
    bounds = ("dense", MOST_COLUMNS, "columns of numbers", "a quarter"), ("classes", MOST_CLASSES, "classes", "half")
    for name, most, what, part in bounds:
        if shape[name] > most:
            why = f"{shape[name]:,} {what}, and trees take {part} of a millisecond or more for a row of over {most:,}"
            return {"family": model.DEFAULT, "speed": "fast"}, why
    return {"family": model.DEFAULT}, ""


def completed(spec: Spec, shape: Mapping[str, Any]) -> Spec:
    """Return the spec of a new loop with its model, or the family of it, where it names none. Raises as `chosen`."""
    if "family" in spec.model:
        return spec
    found = {"family": model.DEFAULT, **spec.model} if spec.model else chosen(spec.schema.task, shape)[0]
    return msgspec.structs.replace(spec, model=found)


def kept(spec: Spec, before: Mapping[str, Any]) -> Spec:
    """Return the spec with the model that a home has, or the family of it, where it names none.

    >>> from everlearn.spec import Schema
    >>> new = Spec(schema=Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric"}))
    >>> kept(new, {"family": "forest", "trees": 30}).model
    {'family': 'forest', 'trees': 30}
    """
    if "family" in spec.model:
        return spec
    found = {"family": before["family"], **spec.model} if spec.model else dict(before)
    return msgspec.structs.replace(spec, model=found)
