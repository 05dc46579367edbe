"""The settings of a mix: its members, and the shape that they share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from everlearn import model
from everlearn.errors import ConfigError
from everlearn.families import specs
from everlearn.families.mix.numbers import ABSOLUTE, HUBER, PINBALL, SQUARED
from everlearn.families.mix.reach import REACH
from everlearn.families.mix.stacking import LATE
from everlearn.families.mix.thinning import MOST_DEAR, PRICE
from everlearn.model import Model, own_loss
from everlearn.records import Loss, RowTask

MEMBERS: tuple[dict[str, Any], ...] = ({"family": "linear"}, {"family": "last"})
MOST_MEMBERS = 16
PATIENT, BOUNDED = 5, 6  # the layouts since which mixes have `patience`, and `reach`
FIRST = 4  # the layout of the first members; those of a spec of an earlier layout have it, too
LOSSES = {"squared": SQUARED, "absolute": ABSOLUTE, "pinball": PINBALL, "huber": HUBER}
SHAPE = ("task", "dense", "hashed", "classes")


class MixSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a mix.

    `members` are specs of models, 1 to 16, of any families; each takes its shape (task, dense, hashed, classes) from
    here, and a seed of its place. `one_at_a_time` is not a choice: it is true if it is for every member. `price` is the
    log loss that a member must add for each million operations of a row, else it rests; 0: no member rests. None is
    0.1, and 0 for numbers. `patience` is how many rows late a label makes the steps of the stackers a quarter (25), a
    fifth of it what makes a loss count half; 0 is how earlier versions took late labels, and the only value for
    numbers. `reach` is how many mean absolute deviations from the mean a number is learned at most (1,000); 0 is no
    bound, and the only value for classes.
    """

    family: str = "mix"
    task: RowTask
    dense: int
    hashed: int = 0
    classes: int = 0
    members: tuple[dict[str, Any], ...] = MEMBERS
    price: float | None = None
    patience: float | None = None
    reach: float | None = None
    one_at_a_time: bool = True
    seed: int = 0

    @property
    def outputs(self) -> int:
        """Numbers that each member says about a row: one for each class, or one for a regression."""
        return self.classes or 1


class MixParts(NamedTuple):
    """Checked settings, the members built, the loss of a regression, and the places of the members that may rest."""

    settings: MixSettings
    members: tuple[Model, ...]
    loss: Loss | None
    dear: tuple[int, ...]


def read(spec: Mapping[str, Any]) -> MixParts:
    """Check a spec, fill in its defaults and build its members.

    Raises `ConfigError`, which names the setting, its value and the right values, and what a member raises.

    >>> read({"task": "binary", "dense": 8}).settings.members[1]["family"]
    'last'
    """
    given = dict(spec)
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    settings = specs.convert(given, MixSettings, "mix", {})
    if settings.dense < 0 or (settings.classes < 2) is not (settings.task == "regression"):
        raise ConfigError(
            f"mix model: got dense {settings.dense} and classes {settings.classes} for task {settings.task!r}; "
            "expected 0 columns or more, and at least 2 classes (none for a regression)"
        )
    if not 1 <= len(settings.members) <= MOST_MEMBERS:
        raise ConfigError(
            f"mix model: members: got {len(settings.members)}; expected 1 to {MOST_MEMBERS} specs of models, such as "
            '{"family": "linear"}'
        )
    if settings.price is None:
        settings = msgspec.structs.replace(settings, price=PRICE if settings.classes else 0.0)
    if not 0.0 <= (settings.price or 0.0) < math.inf:
        raise ConfigError(
            f"mix model: price: got {settings.price!r}; expected a finite number from 0, the log loss that a member "
            "must add for each million operations of a row"
        )
    layout = specs.layout(spec, "mix")
    if settings.patience is None:  # a complete spec of an earlier version has all other settings
        new = settings.classes and layout >= PATIENT and "one_at_a_time" not in given
        settings = msgspec.structs.replace(settings, patience=LATE if new else 0.0)
    if not 0.0 <= (settings.patience or 0.0) < math.inf or (settings.patience and not settings.classes):
        raise ConfigError(
            f"mix model: patience: got {settings.patience!r}; expected a finite number of rows from 0, and 0 for "
            "numbers: how late a label is that makes the steps of the stackers a quarter"
        )
    settings = msgspec.structs.replace(settings, reach=_reach(settings, layout, "one_at_a_time" in given))
    members = tuple(_member(settings, number, max(layout, FIRST)) for number in range(len(settings.members)))
    together = all(bool(member.spec.get("one_at_a_time", True)) for member in members)
    whole = tuple(_own(member.spec) for member in members)
    settings = msgspec.structs.replace(settings, members=whole, one_at_a_time=together)
    dear = _dear(members) if (settings.price or 0.0) > 0.0 and together else ()
    return MixParts(settings, members, _loss(members) if settings.task == "regression" else None, dear)


def _reach(settings: MixSettings, layout: int, complete: bool) -> float:
    """Return the bound of labels; a complete spec of an earlier version has none. Raises `ConfigError`."""
    if settings.reach is None:
        return 0.0 if settings.classes or layout < BOUNDED or complete else REACH
    if not 0.0 <= settings.reach < math.inf or (settings.reach and settings.classes):
        raise ConfigError(
            f"mix model: reach: got {settings.reach!r}; expected a finite number from 0, and 0 for classes: how many "
            "mean absolute deviations from the mean a number is learned at most"
        )
    return settings.reach


def _dear(members: Sequence[Model]) -> tuple[int, ...]:
    """Return the places of the first members whose families count their operations: these may rest."""
    counted = [place for place, member in enumerate(members) if getattr(member, "operations", None) is not None]
    return tuple(counted[:MOST_DEAR])


def _member(settings: MixSettings, number: int, layout: int) -> Model:
    own = settings.members[number]
    family = own.get("family", model.INNER)
    if family in model.FOR_FAMILY.values() or family == "mix":
        raise ConfigError(
            f"mix model: members[{number}]: got family {family!r}; expected a family that learns from rows, and not a "
            "mix. List the members of an inner mix here instead"
        )
    shared = {name: getattr(settings, name) for name in SHAPE}
    for name, value in shared.items():
        if own.get(name, value) != value:
            raise ConfigError(
                f"mix model: members[{number}].{name}: got {own[name]!r}; expected {value!r}, that of the mix. "
                "Leave it out"
            )
    numbered = {"layout": layout} if layout < specs.LAYOUT and model.newest_layout(own) else {}
    return model.build({"seed": settings.seed + number, **numbered, **own, **shared, "family": family})


def _own(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of a member without the shape, which the mix has."""
    return {name: value for name, value in spec.items() if name not in SHAPE}


def _loss(members: Sequence[Model]) -> Loss:
    """Return the loss that the members of a regression are trained for.

    Raises `ConfigError` for members trained for different losses, or for one that no stacker has.
    """
    found = [loss for loss in map(own_loss, members) if loss is not None]
    if len(set(found)) > 1:
        known = ", ".join(f"{loss.kind} {loss.parameter:g}" for loss in found)
        raise ConfigError(
            f"mix model: members: got members trained for different losses: {known}; expected one loss for all. Set "
            '"loss" and "loss_parameter" alike in each member that has them'
        )
    loss = found[0] if found else Loss("squared")
    if loss.kind not in LOSSES:
        raise ConfigError(
            f"mix model: members: got the loss {loss.kind!r} for a regression; expected one of {', '.join(LOSSES)}"
        )
    return loss
