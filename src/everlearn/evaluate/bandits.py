"""Evaluate a bandit on a stream of classes: it is shown only whether the action that it drew was the label.

This is the supervised-to-bandit protocol of Bietti, Agarwal & Langford 2021, "A contextual bandit bake-off" (JMLR 22),
sec. 4: each class is an action, an action is drawn from the policy, and its reward is 1 if it is the label, else 0. The
progressive validation loss is the share of rows whose action was wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from rich.table import Table

from everlearn import schema
from everlearn.errors import ConfigError, InputError
from everlearn.evaluate.scoring import pieces
from everlearn.model import Deferred, Model, build, row_slice, stack
from everlearn.records import Batch, Examples, Floats, Singles
from everlearn.stream import Stream

POINTS = 256  # of the curve
TAIL = 2  # dense columns at the end of a row: action and propensity


class ActionPolicy(Protocol):
    """A model that gives each action of a row a probability."""

    def policy(self, batch: Batch) -> Singles:
        """Return the probability of each action, float32 (n, actions)."""
        ...


@dataclass(frozen=True, repr=False)
class BanditReport:
    """The result of a bandit on a stream of classes.

    `losses` has the progressive validation loss of "bandit", of "greedy" (the same model, which takes the best action
    in all but a few rows), of "uniform" draws, and of "best constant", the action that was right most often. `actions`
    int64 (rows,) are those that the bandit drew, `propensities` float32 (rows,) their probabilities. `curve` has `x`,
    the rows so far, and `loss`, the mean loss of the rows since the last point.
    """

    name: str
    rows: int
    delay: int
    losses: dict[str, float]
    actions: np.ndarray[Any, np.dtype[np.int64]]
    propensities: Singles
    curve: dict[str, Floats]

    @property
    def loss(self) -> float:
        """The progressive validation loss of the bandit."""
        return self.losses["bandit"]

    def regret(self, other: str = "best constant") -> float:
        """Return how many rewards more another policy got; below 0, the bandit got more.

        Raises `InputError` for a policy that `losses` does not have.
        """
        if other not in self.losses:
            raise InputError(f"regret: got {other!r}; expected one of {', '.join(map(repr, self.losses))}")
        return (self.loss - self.losses[other]) * self.rows

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {loss:.4f}" for name, loss in self.losses.items())
        return f"BanditReport({self.name}: {values}; {self.rows:,} rows)"

    def __rich__(self) -> Table:
        late = f", rewards {self.delay:,} rows late" if self.delay else ""
        table = Table("policy", "loss", "regret of the bandit", title=f"{self.name}: {self.rows:,} rows{late}")
        for name, loss in self.losses.items():
            table.add_row(name, f"{loss:.4f}", "" if name == "bandit" else f"{self.regret(name):,.0f}")
        return table


def bandit_run(
    model: Model | Mapping[str, Any] | str,
    stream: Stream | Examples | Iterable[Examples],
    delay: int = 0,
    *,
    seed: int = 0,
    greedy: bool = True,
) -> BanditReport:
    """Let a bandit draw an action for each row of a stream of classes, and learn if it was right.

    The reward of row i comes right after the draw for row i + `delay`, with the propensity of row i. `model` is
    "bandit", a spec such as `{"family": "bandit", "explore": "linucb"}`, which takes its actions from the classes of
    the stream, or a model with a method `policy` whose rows are those of `as_bandit_rows`. `seed` decides all draws.
    With `greedy`, a second pass gives the loss of the same spec with `"explore": "greedy"`, for built-in bandits. All
    rows are held in memory. Rows without a label or with a weight that is not above 0 are left out.

    Raises `ConfigError` for a stream of numbers, a model that is no bandit, or a negative delay.

    >>> from everlearn.stream.generated import generate
    >>> report = bandit_run("bandit", generate("sea", rows=4000))
    >>> report.loss < report.losses["best constant"] < report.losses["uniform"]
    True
    """
    if delay < 0:
        raise ConfigError(f"delay: got {delay}; expected a number of rows from 0")
    whole, classes = _whole(stream, model)
    rows = as_bandit_rows(whole.batch, classes)
    spec = _spec(model, rows, whole, stream, classes)
    found = build(spec) if isinstance(spec, Mapping) else spec
    u = np.random.default_rng(seed).random(len(whole.y))
    played = _played(found, rows, whole, u, delay)
    wrong = played[:, 0] != whole.y
    losses = {"bandit": float(wrong.mean())}
    if greedy and found.spec.get("family") == "bandit":
        twin = build({**found.spec, "explore": "greedy"})
        losses["greedy"] = float((_played(twin, rows, whole, u, delay)[:, 0] != whole.y).mean())
    losses["uniform"] = 1.0 - 1.0 / classes
    losses["best constant"] = 1.0 - float(np.bincount(whole.y.astype(np.int64)).max()) / len(whole.y)
    ends = np.unique(np.linspace(0, len(wrong), min(POINTS, len(wrong)) + 1).astype(np.int64))
    sums = np.add.reduceat(wrong.astype(np.float64), ends[:-1])
    return BanditReport(
        name=Path(stream.name).name if isinstance(stream, Stream) else str(found.spec.get("family", "model")),
        rows=len(wrong),
        delay=delay,
        losses=losses,
        actions=played[:, 0].astype(np.int64),
        propensities=played[:, 1],
        curve={"x": ends[1:].astype(np.float64), "loss": sums / np.diff(ends)},
    )


def as_bandit_rows(batch: Batch, actions: int) -> Batch:
    """Return rows with the columns of a bandit: all actions are on offer, and none was served.

    The dense columns are followed by 1 for each action, then by action and propensity, which are NaN.

    >>> nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
    >>> as_bandit_rows(Batch(np.zeros((1, 1), np.float32), np.zeros(2, np.int64), *nothing), 2).dense.tolist()
    [[0.0, 1.0, 1.0, nan, nan]]
    """
    n = len(batch)
    added = np.full((n, actions + TAIL), np.nan, np.float32)
    added[:, :actions] = 1.0
    return Batch(np.concatenate([batch.dense, added], axis=1), batch.indptr, batch.indices, batch.values)


def _whole(stream: Stream | Examples | Iterable[Examples], model: Any) -> tuple[Examples, int]:
    """Return the usable rows of a stream of classes, and the number of classes."""
    shape = schema.shape(stream.schema) if isinstance(stream, Stream) else {}
    if shape.get("task") == "regression":
        raise ConfigError("bandit_run: got a stream of numbers; expected classes, each of which is an action")
    parts = [examples for examples, _ in pieces(stream, 8192, "")]
    y = np.concatenate([one.y for one in parts]) if parts else np.zeros(0)
    weight = np.concatenate([one.weight for one in parts]) if parts else np.zeros(0, np.float32)
    usable = np.isfinite(y) & (weight > 0.0) & np.isfinite(weight)
    if not usable.any():
        raise InputError("bandit_run: got no row with a label and a weight above 0; expected at least one")
    batch = stack([one.batch for one in parts])
    if not usable.all():
        kept = np.flatnonzero(usable)
        batch = stack([row_slice(batch, int(i), int(i) + 1) for i in kept])
    given = model if isinstance(model, Mapping) else getattr(model, "spec", {})
    known = shape.get("classes") or given.get("actions") or int(y[usable].max()) + 1
    return Examples(batch, y[usable], weight[usable], np.flatnonzero(usable) + 1), max(int(known), 2)


def _spec(model: Any, rows: Batch, whole: Examples, stream: Any, classes: int) -> Mapping[str, Any] | Model:
    """Return the spec of the bandit to build, or the bandit that was given."""
    if isinstance(model, Deferred):
        model = model.spec
    if not isinstance(model, str | Mapping):
        return cast(Model, model)
    given = {"family": model} if isinstance(model, str) else dict(model)
    indices = whole.batch.indices
    hashed = schema.shape(stream.schema)["hashed"] if isinstance(stream, Stream) else int(indices.max(initial=-1)) + 1
    known = {"hashed": hashed, "actions": classes, "dense": rows.dense.shape[1], "task": "regression"}
    return {"rewards": [0.0, 1.0], **known, **given}


def _played(model: Model, rows: Batch, whole: Examples, u: Floats, delay: int) -> Singles:
    """Return the action of each row and its probability, float32 (n, 2 or more)."""
    play = getattr(model, "play", None)
    if play is not None:
        return cast(Singles, play(rows, whole.y, whole.weight, u, delay))
    if getattr(model, "policy", None) is None:
        family = model.spec.get("family", type(model).__name__)
        raise ConfigError(f"bandit_run: got a model of the family {family!r}; expected one with a method policy")
    n, out = len(u), np.empty((len(u), 2), np.float32)
    for i in range(n + delay):
        if i < n:
            chances = cast(ActionPolicy, model).policy(row_slice(rows, i, i + 1))[0]
            action = min(int((np.cumsum(chances, dtype=np.float64) <= u[i]).sum()), len(chances) - 1)
            out[i] = action, chances[action]
        if 0 <= (late := i - delay) < n:
            row = row_slice(rows, late, late + 1)
            dense = row.dense.copy()
            dense[0, -TAIL:] = out[late]
            reward = np.array([float(out[late, 0] == whole.y[late])])
            served = Batch(dense, row.indptr, row.indices, row.values)
            model.learn(served, reward, whole.weight[late : late + 1])
    return out
