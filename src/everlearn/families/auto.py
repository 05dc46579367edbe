"""The automatic model: a mix whose members were chosen once, for all streams.

A linear model follows drift, a forest bends, a Mondrian forest learns most from few rows, and on runs of labels the
last label says more than all features. `docs/why/mix.md` has the figures, the time a row takes and the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from everlearn import model
from everlearn.families import specs
from everlearn.families.trees import settings as trees
from everlearn.model import Model
from everlearn.records import RowTask

LOSSES = ("loss", "loss_parameter")
OF_CLASSES = (("linear", "forest", "mondrian"), ("last",))  # trained for a loss; others
OF_NUMBERS = (("linear", "forest"), ("last",))
# Less than a forest has alone: more adds little to a mix, and much to its versions (docs/why/mix.md).
FOREST_BYTES = 8 << 20
MONDRIAN = {"trees": 6, "nodes": 1000}


# A row of more columns takes a quarter of a millisecond or more, one of more classes half of one (docs/why/mix.md).
MOST_COLUMNS, MOST_CLASSES = 1000, 300


class AutoSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of the automatic model.

    `speed` "fast" is the linear model alone. `loss` and `loss_parameter` are those of the linear family, for numbers:
    what the members and the mix are trained for.
    """

    family: str = "auto"
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    speed: Literal["best", "fast"] = "best"
    loss: str | UnsetType = UNSET
    loss_parameter: float | UnsetType = UNSET
    seed: int = 0


def chosen(shape: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the model for new loops with rows of a shape, and why it is the linear model alone; "" where it is not.

    >>> chosen({"task": "binary", "dense": 8, "hashed": 0, "classes": 2})
    ({'family': 'auto'}, '')
    >>> chosen({"task": "regression", "dense": 1536, "hashed": 0, "classes": 0})[1]
    '1,536 columns of numbers, and trees take a quarter of a millisecond or more for a row of over 1,000'
    """
    bounds = ("dense", MOST_COLUMNS, "columns of numbers", "a quarter"), ("classes", MOST_CLASSES, "classes", "half")
    for name, most, what, part in bounds:
        if shape[name] > most:
            why = f"{shape[name]:,} {what}, and trees take {part} of a millisecond or more for a row of over {most:,}"
            return {"family": "auto", "speed": "fast"}, why
    return {"family": "auto"}, ""


def build(spec: Mapping[str, Any]) -> Model:
    """Make an untrained model: a mix, or the linear model for `"speed": "fast"`.

    The spec of the result names its members, so that a stored model stays what it was when a later release chooses
    others. Raises `ConfigError` for an unknown setting or a wrong value, also of a member.

    >>> [one["family"] for one in build({"task": "binary", "dense": 3}).spec["members"]]
    ['linear', 'forest', 'mondrian', 'last']
    >>> build({"task": "regression", "dense": 3, "speed": "fast", "loss": "absolute"}).spec["loss"]
    'absolute'
    """
    given = dict(spec)
    settings = specs.convert(given, AutoSettings, "auto", {})
    trained = {name: given[name] for name in LOSSES if name in given}
    shared = {name: value for name, value in given.items() if name not in (*LOSSES, "family", "speed")}
    if settings.speed == "fast":
        return model.build({**shared, **trained, "family": "linear"})
    learners, others = OF_NUMBERS if settings.task == "regression" else OF_CLASSES
    budgets: dict[str, dict[str, Any]] = {
        "forest": {"memory": trees.with_memory({**shared, **trained, "family": "forest"}, FOREST_BYTES)["memory"]},
        "mondrian": MONDRIAN,
    }
    members = [{"family": name, **budgets.get(name, {}), **trained} for name in learners]
    members += [{"family": name} for name in others]
    return model.build({**shared, "family": "mix", "members": members})
