"""The mix: its members, their traces, and the stacker over what they say."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from everlearn.families import specs
from everlearn.families.batches import check_classes, check_rows, labels
from everlearn.families.mix import numbers, reach, stacking, thinning
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
    row_slice,
    traced,
    within,
)
from everlearn.records import Arrays, Batch, Floats, Ints, Singles

COUNTER = 1 << 22  # the counter of rows in a trace starts again here, so that float32 holds it exactly


class Counted(Protocol):
    """A member that counts its operations."""

    def operations(self) -> float:
        """Return the operations of a row, about one for a nanosecond."""
        ...


class Mix:
    """Models of any families, each learning every row, and a stacker that combines what they say.

    Arrays: those of member i with the prefix `members/i/` (`learn/members/i/` for those that only learning needs). The
    stackers have the prefix `stack/`: see `everlearn.families.mix.stacking.start`, and for a regression
    `everlearn.families.mix.numbers.start_numbers`; a first axis has one bank for each set of members that may rest.
    Those of `everlearn.families.mix.thinning.start_thinning` have the prefix `rest/`. Numbers with a bound also have
    `learn/reach/labels`, see `everlearn.families.mix.reach`.

    The trace of a prediction holds what each member answered, the members' own traces, the members that were silent (if
    any may rest), and the number of rows learned. A mix of more than 256 such numbers has no trace: under late labels
    its stacker learns from the answers that the members give when the label comes.
    """

    def __init__(self, spec: Mapping[str, Any], parts: MixParts) -> None:
        self.spec = spec
        self.loss = parts.loss
        self._settings, self._members, self._dear = parts.settings, parts.members, parts.dear
        self._widths = [traced(member) for member in parts.members]
        self._width = len(parts.members) * parts.settings.outputs + sum(self._widths) + bool(parts.dear) + 1
        self.trace = self._width if self._width <= WIDEST_TRACE else 0
        self._seats = thinning.seats(len(parts.members), parts.dear)
        self._missed = ~np.arange(len(self._seats))[:, None]  # by each bank: the members that it has not
        self._stack = _banks(parts, self._seats)
        self._rest = thinning.start_thinning(len(parts.dear))
        self._reach: Arrays = {"labels": np.zeros(3)} if parts.settings.reach else {}

    @property
    def arrays(self) -> Arrays:
        found = prefixed("stack/", self._stack) | prefixed("rest/", self._rest)
        found |= prefixed(f"{LEARN}reach/", self._reach)
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
        self._members, self._stack, self._rest = members, within(arrays, "stack/"), within(arrays, "rest/")
        own = {name: array.copy() for name, array in self._reach.items()}
        self._reach = within(arrays, f"{LEARN}reach/") or own

    def __repr__(self) -> str:
        return described(self)

    @property
    def members(self) -> tuple[Model, ...]:
        """The members, in order."""
        return self._members

    def answering_bank(self) -> tuple[Arrays, list[int]]:
        """Return the arrays of the stackers that answer, without their prefix, and the places of their members."""
        bank = int(self._rest["absent"][0])
        who = self._seats[bank, 1 : 1 + self._seats[bank, 0]].tolist()
        of = stacking.bank if self.loss is None else numbers.bank
        return of(self._stack, bank, len(who)), who

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
        bank, who = self.answering_bank()
        if self.loss is not None:
            found = numbers.number_weights(bank, LOSSES[self.loss.kind])
        else:
            found = stacking.weights(bank)
        weights = dict(zip(who, found, strict=True))
        return {name: float(weights.get(place, 0.0)) for place, name in enumerate(self._names())}

    def resting(self) -> dict[str, float]:
        """Return the members that rest now, by place and family, with the share of rows that each did not learn.

        >>> build({"task": "binary", "dense": 2}).resting()
        {}
        """
        names, rows = self._names(), max(thinning.learned_rows(self._rest), 1)
        silent = self._silent()
        return {
            names[place]: float(self._rest["rested"][bit] / rows)
            for bit, place in enumerate(self._dear)
            if place in silent
        }

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
        silent = self._silent()
        spoken = [None if place in silent else member.predict(batch) for place, member in enumerate(self._members)]
        return self._combined(self._votes(spoken, len(batch)))

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        """Score n rows, and return the trace, float32 (n, trace).

        It holds the members' answers, their traces, the members that were silent if any may rest, and a row counter.
        """
        n, rows = len(batch), thinning.learned_rows(self._rest)
        silent = frozenset[int]() if thinning.attended(rows) else self._silent()
        found = np.zeros((n, self._width), np.float32)
        at = len(self._members) * self._settings.outputs
        spoken = list[Singles | None]()
        for place, (member, width) in enumerate(zip(self._members, self._widths, strict=True)):
            scores, trace = (None, None) if place in silent else predict_traced(member, batch)
            spoken.append(scores)
            if trace is not None:
                found[:, at : at + width] = trace
            at += width
        votes = self._votes(spoken, n)
        found[:, : votes.shape[1] * votes.shape[2]] = votes.reshape(n, votes.shape[1] * votes.shape[2])
        if self._dear:
            found[:, -2] = self._bits(silent)
        found[:, -1] = rows % COUNTER
        return self._combined(votes), found

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        """Predict and then learn each of n rows, in order; return the predictions, as `predict` does.

        Every member that does not rest learns the rows, and the stacker their answers about each: those at its
        prediction if there is a trace, else those of now. A row with a label that is not finite, or a weight that is
        not a finite number above 0, is only predicted. Raises `InputError`, with nothing learned, if the shapes do not
        fit or a label is not a class.
        """
        n, settings = len(batch), self._settings
        y, weight = labels(y, weight, n)
        if settings.classes:
            check_classes(y, settings.classes)
        elif self._reach:
            check_rows(batch, settings.dense, settings.hashed)
            y = reach.bound(y, weight, settings.reach or 0.0, self._reach["labels"])
        usable = np.isfinite(y) & np.isfinite(weight) & (weight > 0.0)
        out = np.empty((n, settings.outputs), np.float32)
        start, stop = 0, self._same_until(usable)
        if stop == n:
            self._learn_piece(batch, y, weight, usable, trace, out)
            return out
        check_rows(batch, settings.dense, settings.hashed)
        while start < n:
            piece = slice(start, stop)
            part = None if trace is None else trace[piece]
            rows = row_slice(batch, start, stop)
            self._learn_piece(rows, y[piece], weight[piece], usable[piece], part, out[piece])
            start, stop = stop, stop + self._same_until(usable[stop:])
        return out

    def _same_until(self, usable: NDArray[np.bool_]) -> int:
        """Return the end of the first rows during which the same members learn, given those that will be learned."""
        if not self._dear:
            return len(usable)
        return thinning.last_row(thinning.learned_rows(self._rest), bool(self._rest["absent"][0]), usable)

    def _learn_piece(
        self,
        batch: Batch,
        y: Floats,
        weight: Singles,
        usable: NDArray[np.bool_],
        trace: Singles | None,
        out: Singles,
    ) -> None:
        """Learn the usable ones of rows during which the same members rest, and write all predictions to `out`."""
        n, held, rest = len(batch), self._stack, self._rest
        before = thinning.learned_rows(rest)
        silent = frozenset[int]() if thinning.attended(before) else self._silent()
        traces, then, silent_then, late = self._split(trace, usable)
        votes = self._votes([
            None if place in silent else learn(member, batch, y, weight, own)
            for place, (member, own) in enumerate(zip(self._members, traces, strict=True))
        ], n)  # fmt: skip
        earlier = votes if then is None else np.where(np.isnan(then), votes, then)
        absent, losses = int(rest["absent"][0]), np.empty((len(self._seats), n))
        unheard = np.where(late > 0.0, silent_then, self._bits(silent))
        able = unheard & self._missed == 0
        if self.loss is not None:
            kind, parameter = LOSSES[self.loss.kind], self.loss.parameter
            rows = votes[:, :, 0], earlier[:, :, 0], late, y, weight, able, self._seats, absent, kind, parameter
            state = held["base"], held["shares"], held["bias"], held["recent"], held["prior"], held["products"]
            numbers.stack_number_banks(*rows, *state, held["counts"], out, losses)
        else:
            state = held["own"], held["shared"], held["bias"], held["recent"], held["squares"], held["counts"]
            spoken = votes, earlier, late, y, weight, able, self._seats, absent, self._settings.patience or 0.0
            stacking.stack_banks(*spoken, *state, out, losses)
        thinning.measure(losses, y, weight, absent, rest["counts"], rest["gains"], rest["watched"])
        after = thinning.learned_rows(rest)
        for bit, place in enumerate(self._dear):
            rest["rested"][bit] += (after - before) * (place in silent)
        if self._dear and after > before and after % thinning.PERIOD == 0:
            thinning.decide(rest, self._prices(), len(self._members) - len(self._dear))

    def _prices(self) -> Floats:
        """Return the loss that each dear member must add, float64 (dear,), in the unit of the losses."""
        found: Floats = np.array([cast(Counted, self._members[place]).operations() for place in self._dear])
        found *= (self._settings.price or 0.0) / 1e6
        if self.loss is None:
            return found
        # The likelihood of normal errors falls by half of the relative rise of the squared loss, that of Laplace's by
        # all of the rise of the absolute loss.
        found *= self._rest["watched"][thinning.USUAL] * (2.0 if self.loss.kind == "squared" else 1.0)
        return found

    def _names(self) -> list[str]:
        return [f"{place} {member.spec.get('family', 'linear')}" for place, member in enumerate(self._members)]

    def _silent(self) -> frozenset[int]:
        """Return the places of the members that rest."""
        absent = int(self._rest["absent"][0])
        return frozenset(place for bit, place in enumerate(self._dear) if absent >> bit & 1)

    def _bits(self, silent: frozenset[int]) -> int:
        """Return a set of members that may rest as a number."""
        return sum(1 << bit for bit, place in enumerate(self._dear) if place in silent)

    def _votes(self, scores: list[Singles | None], n: int) -> Singles:
        """Return what the members say about n rows, float32 (n, members, outputs); zeros of silent ones."""
        votes = np.zeros((n, len(scores), self._settings.outputs), np.float32)
        for place, spoken in enumerate(scores):
            if spoken is not None:
                votes[:, place] = spoken
        return votes

    def _combined(self, votes: Singles) -> Singles:
        held, who = self.answering_bank()
        votes = votes if len(who) == votes.shape[1] else votes[:, who]
        if self.loss is not None:
            answers = held["shares"], held["bias"], held["recent"], held["prior"]
            return numbers.combine_numbers(votes[:, :, 0], LOSSES[self.loss.kind], *answers, held["counts"])
        return stacking.combine(votes, held["own"], held["shared"], held["bias"], held["recent"])

    def _split(
        self, trace: Singles | None, usable: NDArray[np.bool_]
    ) -> tuple[list[Singles | None], Singles | None, Ints, Floats]:
        """Return the members' own traces, what they answered then, those silent then, and the rows since then.

        The second is None where no trace is known, and NaN in single rows without one; such rows are 0 rows late. The
        third is int64 (n,), the fourth float64 (n,).
        """
        n, members, outputs = len(usable), len(self._members), self._settings.outputs
        own: list[Singles | None] = [None] * members
        silent, late = np.zeros(n, np.int64), np.zeros(n)
        if trace is None:
            return own, None, silent, late
        at = members * outputs
        then = np.ascontiguousarray(trace[:, :at], np.float32).reshape(n, members, outputs)
        if self._dear:
            bits = trace[:, -2]
            silent = np.where(np.isnan(bits), np.float32(0.0), bits).astype(np.int64)
        for number, width in enumerate(self._widths):
            if width:
                own[number] = np.ascontiguousarray(trace[:, at : at + width], np.float32)
            at += width
        earlier = np.cumsum(usable) - usable if n > 1 else 0  # rows of this batch that are learned before each
        gone = np.mod(thinning.learned_rows(self._rest) + earlier - trace[:, -1].astype(np.float64), float(COUNTER))
        return own, then, silent, np.where(np.isfinite(gone), gone, 0.0)


def _banks(parts: MixParts, seats: Ints) -> Arrays:
    """Return the arrays of the banks, with a first axis of banks; each uses as many places as it has members."""
    informed = np.array([member.spec.get("family") != "last" for member in parts.members])
    classes, found = parts.settings.classes, []
    for row in seats:
        who = row[1 : 1 + row[0]]
        chosen = informed[who] if len(who) else informed[:1]
        found.append(stacking.start(chosen, classes) if classes else numbers.start_numbers(chosen))
    whole = {name: np.zeros((len(seats), *array.shape), array.dtype) for name, array in found[0].items()}
    for bank, arrays in enumerate(found):
        for name, array in arrays.items():
            whole[name][bank][tuple(slice(size) for size in array.shape)] = array
    return whole


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
