"""The mix: its members, their traces, and the stacker over what they say."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from everlearn.families import specs
from everlearn.families.batches import check_classes, labels
from everlearn.families.mix import numbers, stacking
from everlearn.families.mix import settings as reading
from everlearn.families.mix.settings import LOSSES, MixParts
from everlearn.model import (
    LEARN,
    WIDEST_TRACE,
    Model,
    answering,
    described,
    learn,
    predict_traced,
    prefixed,
    refused,
    traced,
    within,
)
from everlearn.records import Arrays, Batch, Floats, Singles

COUNTER = 1 << 22  # the counter of rows in a trace starts again here, so that float32 holds it exactly


class Mix:
    """Models of any families, each learning every row, and a stacker that combines what they say.

    Arrays: those of member i with the prefix `members/i/` (`learn/members/i/` for those that only learning needs), and
    of the stacker with the prefix `stack/`: see `everlearn.families.mix.stacking.start`, and for a regression
    `everlearn.families.mix.numbers.start_numbers`.

    The trace of a prediction holds what each member answered, the members' own traces, and the number of rows learned.
    A mix of more than 256 such numbers has no trace: under late labels its stacker learns from the answers that the
    members give when the label comes.
    """

    def __init__(self, spec: Mapping[str, Any], parts: MixParts) -> None:
        self.spec = spec
        self.loss = parts.loss
        self._settings, self._members = parts.settings, parts.members
        self._widths = [traced(member) for member in parts.members]
        width = len(parts.members) * parts.settings.outputs + sum(self._widths) + 1
        self.trace = width if width <= WIDEST_TRACE else 0
        informed = np.array([member.spec.get("family", "linear") != "last" for member in parts.members])
        classes = parts.settings.classes
        self._stack: Arrays = dict(stacking.start(informed, classes) if classes else numbers.start_numbers(informed))

    @property
    def arrays(self) -> Arrays:
        found = prefixed("stack/", self._stack)
        for number, member in enumerate(self._members):
            found |= prefixed(f"members/{number}/", answering(member.arrays))
            found |= prefixed(f"{LEARN}members/{number}/", within(member.arrays, LEARN))
        return found

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        # Copies, so that assigning arrays to a shallow copy of this model does not change this model.
        members = tuple(copy.copy(member) for member in self._members)
        for number, member in enumerate(members):
            learning = within(arrays, f"{LEARN}members/{number}/")
            member.arrays = within(arrays, f"members/{number}/") | prefixed(LEARN, learning)
        self._members, self._stack = members, within(arrays, "stack/")

    def __repr__(self) -> str:
        return described(self)

    @property
    def members(self) -> tuple[Model, ...]:
        """The members, in order."""
        return self._members

    def with_members(self, members: Sequence[Model]) -> Mix:
        """Return a copy of this mix with other members of the same shapes, in order."""
        found = copy.copy(self)
        found._members = tuple(members)
        return found

    def weights(self) -> dict[str, float]:
        """Return the weight of each member now, by its place and family, as in "0 linear".

        >>> found = build({"task": "binary", "dense": 2}).weights()
        >>> {name: round(weight, 2) for name, weight in found.items()}
        {'0 linear': 0.98, '1 last': 0.02}
        """
        families = [member.spec.get("family", "linear") for member in self._members]
        if self.loss is not None:
            found = numbers.number_weights(self._stack, LOSSES[self.loss.kind])
        else:
            found = stacking.weights(self._stack)
        return {f"{number} {families[number]}": float(weight) for number, weight in enumerate(found)}

    def refused(self, batch: Batch) -> dict[int, str]:
        """Return the rows that a member cannot take, with reasons."""
        found: dict[int, str] = {}
        for member in self._members:
            found |= refused(member, batch)
        return found

    def predict(self, batch: Batch) -> Singles:
        """Score n rows: class probabilities float32 (n, classes), or float32 (n, 1) for a regression.

        Raises `InputError` if the batch does not fit a member.
        """
        return self._combined(self._votes([member.predict(batch) for member in self._members]))

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        """Score n rows, and return the trace, float32 (n, trace): the members' answers, their traces, a row counter."""
        both = [predict_traced(member, batch) for member in self._members]
        votes, n = self._votes([scores for scores, _ in both]), len(batch)
        counter = np.full((n, 1), self._rows % COUNTER, np.float32)
        traces = [trace for _, trace in both if trace is not None]
        return self._combined(votes), np.concatenate(
            [votes.reshape(n, votes.shape[1] * votes.shape[2]), *traces, counter], axis=1
        )

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        """Predict and then learn each of n rows, in order; return the predictions, as `predict` does.

        Every member learns the rows, and the stacker their answers about each: those at its prediction if there is a
        trace, else those of now. A row with a label that is not finite, or a weight that is not a finite number above
        0, is only predicted. Raises `InputError`, with nothing learned, if the shapes do not fit or a label is not a
        class.
        """
        n, settings = len(batch), self._settings
        y, weight = labels(y, weight, n)
        if settings.classes:
            check_classes(y, settings.classes)
        traces, then, late = self._split(trace, n, y, weight)
        votes = self._votes([
            learn(member, batch, y, weight, own) for member, own in zip(self._members, traces, strict=True)
        ])  # fmt: skip
        out = np.empty((n, settings.outputs), np.float32)
        earlier = votes if then is None else np.where(np.isnan(then), votes, then)
        held = self._stack
        if self.loss is not None:
            kind, parameter = LOSSES[self.loss.kind], self.loss.parameter
            rows = votes[:, :, 0], earlier[:, :, 0], late, y, weight
            answers = held["shares"], held["bias"], held["recent"], held["prior"]
            numbers.stack_numbers(*rows, kind, parameter, held["base"], *answers, held["products"], held["counts"], out)
        else:
            state = held["own"], held["shared"], held["bias"], held["recent"], held["squares"], held["counts"]
            stacking.stack(votes, earlier, late, y, weight, *state, out)
        return out

    @property
    def _rows(self) -> int:
        return int(self._stack["counts"][stacking.ROWS])

    def _votes(self, scores: list[Singles]) -> Singles:
        """Return what the members say about n rows, float32 (n, members, outputs)."""
        return np.stack(scores, axis=1)

    def _combined(self, votes: Singles) -> Singles:
        held = self._stack
        if self.loss is not None:
            answers = held["shares"], held["bias"], held["recent"], held["prior"]
            return numbers.combine_numbers(votes[:, :, 0], LOSSES[self.loss.kind], *answers, held["counts"])
        return stacking.combine(votes, held["own"], held["shared"], held["bias"], held["recent"])

    def _split(
        self, trace: Singles | None, n: int, y: Floats, weight: Singles
    ) -> tuple[list[Singles | None], Singles | None, Floats]:
        """Return each member's own trace, what the members answered then, and the rows since then, float64 (n,).

        The second is None where no trace is known, and NaN in single rows without one; such rows are 0 rows late.
        """
        none: list[Singles | None] = [None] * len(self._members)
        late: Floats = np.zeros(n)
        if trace is None:
            return none, None, late
        vote_width = len(self._members) * self._settings.outputs
        then = np.ascontiguousarray(trace[:, :vote_width], np.float32).reshape(
            n, len(self._members), self._settings.outputs
        )
        at = vote_width
        for number, width in enumerate(self._widths):
            if width:
                none[number] = np.ascontiguousarray(trace[:, at : at + width], np.float32)
            at += width
        usable = np.isfinite(y) & np.isfinite(weight) & (weight > 0.0)
        now = self._rows + np.cumsum(usable) - usable
        gone = np.mod(now - trace[:, -1].astype(np.float64), float(COUNTER))
        return none, then, np.where(np.isfinite(gone), gone, 0.0)


def build(spec: Mapping[str, Any]) -> Mix:
    """Make an untrained mix; see `everlearn.families.mix.settings.MixSettings`.

    Raises `ConfigError` for an unknown setting or a wrong value, also of a member.

    >>> from everlearn.records import Batch
    >>> model = build({"task": "binary", "dense": 1})
    >>> x = np.random.default_rng(0).normal(size=(3000, 1)).astype(np.float32)
    >>> rows = Batch(x, np.zeros(3001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> scores = model.learn(rows, (x[:, 0] > 0).astype(float), np.ones(3000, np.float32))
    >>> model.weights()["0 linear"] > model.weights()["1 last"]
    True
    """
    parts = reading.read(spec)
    return Mix(specs.written(parts.settings, {}), parts)
