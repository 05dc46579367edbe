"""Family "gated": a model whose updates are learned first, validated next, and then accepted or taken back.

    the accepted model answers ─────────────────────────────────────────────────────────────┐
    a proposal, equal to it, learns `update` rows ─ is frozen ─ both predict the next rows ─ gate ─ accepted? it answers
                 ↑                                                                              │
                 └─ learns the rows that it was validated on ─ (not accepted: goes back to the accepted arrays) ─┘

Validation rows are predicted by both before anybody learns them, and the losses go to the gate that is used
everywhere (`everlearn.gate`): of proposals that are no better, at most the share `alpha` is accepted. The gate is asked
after each 100 of them, and at the end; as soon as it says better or worse, the validation is over. What it can see in
so many rows is told by `everlearn.gate.power`.

A proposal that is not accepted goes back to the accepted arrays, all of them: optimiser state, memory and counters
belong to the weights. That holds for one that is undecided after all validation rows, too. Rows of a validation are
kept, and learned after its end by whoever goes on; they count as rows of the next proposal. So with every verdict some
work falls on one row: at most `validation` rows are learned at once. What a rejected proposal had learned before its
validation is lost, which is the point of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from everlearn import gate, metrics
from everlearn._jit import exact_kernel
from everlearn.errors import ConfigError, InputError
from everlearn.gate.kernels import CALIBRATION
from everlearn.metrics import loss_kind
from everlearn.model import LEARN, Model, cut, prefixed, refused, restore, within
from everlearn.model import build as build_model
from everlearn.records import Arrays, Batch, Evidence, Examples, Floats, Ints, Singles, Task, Verdict
from everlearn.spec import GateSpec

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Bits = NDArray[np.int32]
Flags = NDArray[np.bool_]

ASKED = 100  # the gate is asked after each so many validation rows
FEWEST = 500  # a shorter validation says next to nothing: see `everlearn.gate.power`

LEARNED, TESTED, ACCEPTED, REJECTED, UNDECIDED, CUT, COUNTS = range(7)  # where each count stands
OUTCOMES = {"promote": ACCEPTED, "reject": REJECTED, "wait": UNDECIDED}


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a gated model is made of.

    `model` is the spec of any model, and takes its shape (task, dense, hashed, classes) and seed from here. A proposal
    is frozen once it has learned `update` rows, and compared with the accepted model on at most `validation` rows, at
    least 500. `gate` says when it is accepted, as everywhere; its guards are "recall:0", "recall:1", ... by number of
    class. Kept rows have `width` hashed features on average; of those that have more, the first are kept.
    """

    family: str = "gated"
    task: Task
    dense: Count
    hashed: Count = 0
    classes: Count = 0
    model: dict[str, Any] = {}
    gate: GateSpec = GateSpec()
    update: Positive = 1000
    validation: Annotated[int, Meta(ge=FEWEST)] = 2000
    width: Positive = 64
    one_at_a_time: bool = True
    seed: int = 0


def read(spec: Mapping[str, Any]) -> Settings:
    """Check a spec and fill in its defaults; raise `ConfigError` that names the dial, what was got and expected.

    >>> read({"task": "binary", "dense": 8}).validation
    2000
    """
    given = dict(spec)
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    try:
        chosen = msgspec.convert(given, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"gated model: {error}; known dials: {', '.join(Settings.__struct_fields__)}") from error
    asked = msgspec.structs.replace(chosen.gate, loss=loss_kind(chosen.gate.loss, chosen.task))
    unscaled = CALIBRATION if asked.loss in gate.UNBOUNDED else 0
    least = max(asked.minimum + unscaled, asked.cycle)
    if chosen.validation < least:
        raise ConfigError(
            f"gated model: validation is {chosen.validation}, and the gate says nothing before {least} rows (its "
            f"minimum {asked.minimum}, {unscaled} to learn the scale of the loss {asked.loss!r}, its cycle "
            f"{asked.cycle}); expected at least as many"
        )
    for name in asked.guards:
        _guarded(name, chosen.classes)
    return msgspec.structs.replace(chosen, gate=asked)


def _guarded(name: str, classes: int) -> int:
    """The class that a guard is about."""
    kind, _, number = name.partition(":")
    if kind != "recall" or not number.isdecimal() or int(number) >= classes:
        raise ConfigError(f"gated model: guard {name!r}; expected recall:0 to recall:{classes - 1}, a class by number")
    return int(number)


class Gated:
    """A model that answers with what was accepted, and learns in a proposal.

    Arrays: `accepted/...` and `learn/accepted/...` are those of the model that answers, `learn/proposal/...` those of
    the one that learns, `learn/gate/...` the evidence. `learn/rows/...` are validation rows that were not learned yet:
    `dense` and `values` as the bits of float32 in int32 (a missing value is NaN, and arrays hold numbers only),
    `indptr`, `indices`, `y`, `weight`. `learn/counts` int64 (6,): rows learned by this proposal, rows it was tested on,
    proposals accepted, rejected and undecided, and hashed entries that had no room. `learn/last` float64 (10,): the
    outcome of the last verdict (2 accepted, 3 rejected, 4 undecided, 0 none yet), then its evidence.
    """

    def __init__(self, spec: Mapping[str, Any], chosen: Settings, accepted: Model, proposal: Model) -> None:
        self.spec: Mapping[str, Any] = spec
        self._chosen, self._accepted, self._proposal = chosen, accepted, proposal
        self._guards = {name: _guarded(name, chosen.classes) for name in chosen.gate.guards}
        rows, entries = chosen.validation, chosen.validation * chosen.width if chosen.hashed else 0
        self._own: Arrays = prefixed("gate/", gate.start(chosen.gate)) | {
            "rows/dense": np.zeros((rows, chosen.dense), np.int32),
            "rows/indptr": np.zeros(rows + 1, np.int64),
            "rows/indices": np.zeros(entries, np.int32),
            "rows/values": np.zeros(entries, np.int32),
            "rows/y": np.zeros(rows),
            "rows/weight": np.zeros(rows, np.float32),
            "counts": np.zeros(COUNTS, np.int64),
            "last": np.zeros(1 + len(Evidence.__struct_fields__)),
        }

    @property
    def arrays(self) -> Arrays:
        answering = self._accepted.arrays
        learning = within(answering, LEARN)
        return (
            {f"accepted/{name}": array for name, array in answering.items() if not name.startswith(LEARN)}
            | prefixed(f"{LEARN}accepted/", learning)
            | prefixed(f"{LEARN}proposal/", self._proposal.arrays)
            | prefixed(LEARN, self._own)
        )

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        learning = within(arrays, LEARN)
        # Copies, so that a shallow copy of this model that is given arrays stands apart from it.
        self._accepted, self._proposal = copy.copy(self._accepted), copy.copy(self._proposal)
        self._accepted.arrays = within(arrays, "accepted/") | prefixed(LEARN, within(learning, "accepted/"))
        if learning:  # else they are for answering only
            self._proposal.arrays = within(learning, "proposal/")
            self._own = {name: learning[name] for name in self._own}
        elif not all(one.flags.writeable for one in arrays.values()):  # of one who never learns: no second model
            self._proposal = copy.copy(self._accepted)

    def predict(self, batch: Batch) -> Singles:
        """Score n rows with the accepted model: float32 (n, classes), or (n, 1) for a regression."""
        return self._accepted.predict(batch)

    def refused(self, batch: Batch) -> dict[int, str]:
        """The rows that the model inside cannot take, and why."""
        return refused(self._accepted, batch)

    def learn(self, batch: Batch, y: Floats, weight: Singles) -> Singles:
        """Learn, or validate on, each of n rows in order; return what was predicted for each before that.

        A row whose label is not finite, or whose weight is not a finite number above 0, validates nothing. Raises
        `InputError`, with nothing changed, if the batch does not fit or a label is not a class.
        """
        examples = self._read(batch, y, weight)
        usable = np.isfinite(examples.y) & np.isfinite(examples.weight) & (examples.weight > 0)
        said = self._accepted.predict(batch)
        start, n = 0, len(examples.y)
        while start < n:
            stop = self._border(usable, start)
            rows = cut(examples, start, stop)
            if self._validating:
                self._test(rows, said[start:stop], usable[start:stop])
                if self._judge() == "promote" and stop < n:
                    said[stop:] = self._accepted.predict(cut(examples, stop, n).batch)
            else:
                self._proposal.learn(rows.batch, rows.y, rows.weight)
                self._own["counts"][LEARNED] += usable[start:stop].sum()
            start = stop
        return said

    def evidence(self) -> Evidence:
        """What the gate knows about the proposal that is being validated; of 0 examples while one is being learned."""
        return gate.evidence(within(self._own, "gate/"), self._chosen.gate)

    def verdicts(self) -> dict[str, Any]:
        """How many proposals were `accepted`, `rejected` and `undecided`, and what there is to know of the current one.

        `learned` and `tested` are the rows that it has learned and was validated on; `last` is the outcome and the
        evidence of the last verdict, empty before the first. `cut` hashed entries had no room among kept rows.

        >>> model = build({"task": "binary", "dense": 2, "model": {"family": "linear"}})
        >>> model.verdicts()["accepted"], model.verdicts()["last"]
        (0, {})
        """
        counts, (outcome, *numbers) = self._own["counts"].tolist(), self._own["last"].tolist()
        last = dict(zip(Evidence.__struct_fields__, numbers, strict=True)) if outcome else {}
        names = {ACCEPTED: "accepted", REJECTED: "rejected", UNDECIDED: "undecided"}
        return {
            **{name: counts[place] for place, name in names.items()},
            "learned": counts[LEARNED],
            "tested": counts[TESTED],
            "cut": counts[CUT],
            "last": {"outcome": names[int(outcome)], **last} if outcome else {},
        }

    @property
    def _validating(self) -> bool:
        return bool(self._own["counts"][LEARNED] >= self._chosen.update)

    def _read(self, batch: Batch, y: Floats, weight: Singles) -> Examples:
        """Labelled rows in the dtypes of the contract, or `InputError`."""
        n, classes = len(batch), self._chosen.classes
        y, weight = np.ascontiguousarray(y, np.float64), np.ascontiguousarray(weight, np.float32)
        if y.shape != (n,) or weight.shape != (n,):
            raise InputError(f"a batch of {n} rows came with y {y.shape} and weight {weight.shape}; expected ({n},)")
        if self._chosen.task != "regression":
            foreign = np.isfinite(y) & ~((y >= 0) & (y < classes) & (y == np.floor(y)))
            if foreign.any():
                row = int(np.argmax(foreign))
                raise InputError(
                    f"label {y[row]!r} in row {row} of the batch is not a class; "
                    f"expected a whole number from 0 to {classes - 1}"
                )
        dense = np.ascontiguousarray(batch.dense, np.float32)
        indices, values = np.ascontiguousarray(batch.indices, np.int32), np.ascontiguousarray(batch.values, np.float32)
        plain = Batch(dense, np.ascontiguousarray(batch.indptr, np.int64), indices, values)
        return Examples(plain, y, weight, np.zeros(n, np.int64))

    def _border(self, usable: Flags, start: int) -> int:
        """The row before which something may be decided: where this proposal is frozen, or the gate is asked."""
        counts, chosen = self._own["counts"], self._chosen
        room = chosen.update - counts[LEARNED]
        if self._validating:
            room = min(ASKED - counts[TESTED] % ASKED, chosen.validation - counts[TESTED])
        (places,) = np.nonzero(usable[start:])
        return start + int(places[room - 1]) + 1 if len(places) >= room else len(usable)

    def _test(self, rows: Examples, said: Singles, usable: Flags) -> None:
        """Show the gate what both say of validation rows, and keep the rows."""
        proposed = self._proposal.predict(rows.batch)[usable]
        said, y = said[usable], rows.y[usable]
        evidence, asked = within(self._own, "gate/"), self._chosen.gate
        loss = loss_kind(asked.loss, self._chosen.task)
        gate.update(evidence, asked, metrics.losses(loss, said, y), metrics.losses(loss, proposed, y))
        for name, guarded in self._guards.items():
            mine = y == guarded
            pair = (metrics.losses("error", scores[mine], y[mine]) for scores in (said, proposed))
            gate.update_guard(evidence, asked, name, *pair)
        self._keep(rows, usable)

    def _judge(self) -> str:
        """Ask the gate where it is time to, and do what it says; returns what it said."""
        counts = self._own["counts"]
        over = counts[TESTED] >= self._chosen.validation
        if not (over or (counts[TESTED] % ASKED == 0 and counts[TESTED] > 0)):
            return "wait"
        verdict = gate.verdict(within(self._own, "gate/"), self._chosen.gate)
        if over or verdict.action != "wait":
            self._settle(verdict)
        return verdict.action

    def _settle(self, verdict: Verdict) -> None:
        """End a validation: one of the two gets the arrays of the other, and what goes on learns the rows kept."""
        counts, outcome = self._own["counts"], OUTCOMES[verdict.action]
        counts[outcome] += 1
        self._own["last"][:] = [outcome, *msgspec.structs.astuple(verdict.evidence)]
        if outcome == ACCEPTED:
            restore(self._accepted, self._proposal.arrays)
        else:
            restore(self._proposal, self._accepted.arrays)
        for name, array in gate.start(self._chosen.gate).items():
            self._own[f"gate/{name}"][...] = array
        kept = self._kept()
        counts[TESTED], counts[LEARNED] = 0, len(kept.y)
        self._proposal.learn(kept.batch, kept.y, kept.weight)

    def _keep(self, rows: Examples, usable: Flags) -> None:
        own, first, count = self._own, int(self._own["counts"][TESTED]), int(usable.sum())
        own["rows/dense"][first : first + count] = rows.batch.dense[usable].view(np.int32)
        own["rows/y"][first : first + count] = rows.y[usable]
        own["rows/weight"][first : first + count] = rows.weight[usable]
        if self._chosen.hashed:
            batch, held = rows.batch, (own["rows/indptr"], own["rows/indices"], own["rows/values"])
            bits = batch.values.view(np.int32)
            own["counts"][CUT] += _put(first, self._chosen.width, usable, batch.indptr, batch.indices, bits, *held)
        own["counts"][TESTED] += count

    def _kept(self) -> Examples:
        """Copies of the validation rows that have not been learned."""
        own, count = self._own, int(self._own["counts"][TESTED])
        indptr = own["rows/indptr"][: count + 1].copy()
        dense, values = own["rows/dense"][:count].copy(), own["rows/values"][: indptr[-1]].copy()
        batch = Batch(dense.view(np.float32), indptr, own["rows/indices"][: indptr[-1]].copy(), values.view(np.float32))
        y, weight = own["rows/y"][:count].copy(), own["rows/weight"][:count].copy()
        return Examples(batch, y, weight, np.zeros(count, np.int64))


@exact_kernel
def _put(
    first: int,
    width: int,
    usable: Flags,
    indptr: Ints,
    indices: Bits,
    values: Bits,
    held_indptr: Ints,
    held_indices: Bits,
    held_values: Bits,
) -> int:
    """Keep the hashed entries of usable rows, from row `first` on; returns how many had no room.

    The first k rows may use k * width entries: each has room for `width`, and for what those before it left.
    """
    lost, at = 0, first
    for row in range(len(usable)):
        if usable[row]:
            begin = held_indptr[at]
            many = indptr[row + 1] - indptr[row]
            room = min(many, (at + 1) * width - begin)
            for k in range(room):
                held_indices[begin + k] = indices[indptr[row] + k]
                held_values[begin + k] = values[indptr[row] + k]
            at += 1
            held_indptr[at] = begin + room
            lost += many - room
    return lost


def build(spec: Mapping[str, Any]) -> Gated:
    """Make an untrained gated model; see `Settings` for the dials. Raises `ConfigError` for a wrong one.

    >>> model = build({"task": "binary", "dense": 2, "model": {"family": "linear"}, "update": 500, "validation": 500})
    >>> sign = np.where(np.arange(2000) % 3 == 0, 1.0, -1.0)
    >>> rows = Batch(sign[:, None].astype(np.float32).repeat(2, 1), np.zeros(2001, np.int64),
    ...              np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> _ = model.learn(rows, (sign > 0).astype(float), np.ones(2000, np.float32))
    >>> model.verdicts()["accepted"]
    1
    """
    chosen = read(spec)
    shape = {"task": chosen.task, "dense": chosen.dense, "hashed": chosen.hashed, "classes": chosen.classes}
    inner = {"seed": chosen.seed, **chosen.model, **shape}
    accepted, proposal = build_model(inner), build_model(inner)
    one_at_a_time = bool(accepted.spec.get("one_at_a_time", True))
    chosen = msgspec.structs.replace(chosen, model=dict(accepted.spec), one_at_a_time=one_at_a_time)
    spec = {**msgspec.structs.asdict(chosen), "gate": msgspec.structs.asdict(chosen.gate)}
    return Gated(spec, chosen, accepted, proposal)
