"""Family "gated": a model that learns in a proposal, validates it on later rows, and then accepts or undoes it.

    the accepted model predicts ──────────────────────────────────────────────┐
    a proposal, equal to it, learns `update` rows, is frozen ─ both predict the next rows ─ gate ─ accepted: it predicts
                 ↑                                                                            │
                 └─ learns the rows of the validation ─ (not accepted: restored from the accepted arrays) ─┘

Both models predict the validation rows before either learns them. The losses go to the gate (`everlearn.gate`): of
proposals that are no better, at most the share `alpha` is accepted. The gate gives a verdict after each 100 rows and at
the end; "better" or "worse" ends the validation. `everlearn.gate.power` computes what it can detect in so many rows.

A proposal that is not accepted is restored from the accepted arrays, all of them: optimiser state, memory and counters
belong to the weights. This includes a proposal that is undecided after all validation rows. The rows of a validation
are kept, and learned at its end by the proposal that goes on; they count as rows of the next proposal. So each verdict
makes one row expensive: at most `validation` rows are learned at once. What a rejected proposal learned before its
validation is lost, by design.

Where the inner model has a trace, that of the accepted model is the trace, since the accepted model gave the answer.
The proposal learns from it, too, and the rows that a validation keeps have it beside them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from everlearn import gate, metrics
from everlearn._jit import exact_kernel
from everlearn.errors import ConfigError
from everlearn.families import specs
from everlearn.families.batches import check_classes, labels
from everlearn.families.specs import Retired
from everlearn.gate import losses
from everlearn.gate.guard_names import guarded_class
from everlearn.gate.kernels import CALIBRATION
from everlearn.model import (
    INNER,
    LEARN,
    Model,
    cut,
    described,
    learn,
    own_loss,
    predict_traced,
    prefixed,
    refused,
    restore,
    traced,
    within,
)
from everlearn.model import build as build_model
from everlearn.records import Arrays, Batch, Evidence, Examples, Floats, Ints, Loss, RowTask, Singles, Verdict
from everlearn.spec import GateSpec

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Bits = NDArray[np.int32]
Flags = NDArray[np.bool_]

VERDICT_EVERY = 100  # validation rows between verdicts of the gate
FEWEST = 500  # a shorter validation detects next to nothing: see `everlearn.gate.power`

LEARNED, TESTED, ACCEPTED, REJECTED, UNDECIDED, CUT, COUNTS = range(7)  # positions in `learn/counts`
OUTCOMES = {"promote": ACCEPTED, "reject": REJECTED, "wait": UNDECIDED}


RETIRED = {
    "width": Retired(64, "Leave it out: kept rows have room for 64 hashed entries on average"),
}


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of a gated model.

    `model` is the spec of any model; it takes its shape (task, dense, hashed, classes) and seed from here. A proposal
    is frozen once it has learned `update` rows, and compared with the accepted model on at most `validation` rows, at
    least 500. `gate` decides when it is accepted, as everywhere; its guards are "recall:0", "recall:1", ... by number
    of class. `one_at_a_time` is not a choice: it is that of `model`.

    Retired: `width`, the hashed entries of kept rows on average; of rows that have more, the first are kept.
    """

    family: str = "gated"
    task: RowTask
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


def read(spec: Mapping[str, Any], own: Loss | None = None) -> Settings:
    """Check a spec and fill in its defaults; `own` is the loss that the inner model is trained for.

    A spec of layout 1 keeps the rules of the gate of release 0.1. Raises `ConfigError`, which names the setting, its
    value and the right values.

    >>> read({"task": "binary", "dense": 8}).validation
    2000
    """
    given = dict(spec)
    if given.get("task") == "binary":
        given.setdefault("classes", 2)
    settings = specs.convert(given, Settings, "gated", RETIRED)
    criteria = msgspec.structs.replace(settings.gate, own=settings.gate.own or own)
    if specs.layout(spec, "gated") == specs.STORED:
        criteria = msgspec.structs.replace(criteria, own=None, layout=1)
    criteria = msgspec.structs.replace(criteria, loss=losses.chosen(criteria, settings.task).kind)
    unscaled = CALIBRATION if losses.bound(criteria) == math.inf else 0
    least = max(criteria.minimum + unscaled, criteria.cycle)
    if settings.validation < least:
        raise ConfigError(
            f"gated model: validation: got {settings.validation}; expected at least {least}, the rows that the gate "
            f"needs for a verdict (gate.minimum {criteria.minimum} and {unscaled} to learn the scale of the loss "
            f"{criteria.loss!r}, or gate.cycle {criteria.cycle})"
        )
    settings = msgspec.structs.replace(settings, gate=criteria)
    _guarded_classes(settings)
    return settings


def _guarded_classes(settings: Settings) -> dict[str, int]:
    """Return the class of each guard. Raises `ConfigError` for an unknown metric or class."""
    classes = {str(number): number for number in range(settings.classes)}
    return {guard: guarded_class(guard, classes) for guard in settings.gate.guards}


class Gated:
    """A model that predicts with the accepted arrays, and learns in a proposal.

    Arrays: `accepted/...` and `learn/accepted/...` are those of the accepted model, `learn/proposal/...` those of the
    proposal, `learn/gate/...` the evidence. `learn/rows/...` are validation rows that are not learned yet: `dense` and
    `values` as the bits of float32 in int32 (a missing value is NaN, and arrays hold numbers only), `indptr`,
    `indices`, `y`, `weight`, and `trace`, also as bits, where the model has one. `learn/counts` int64 (6,): rows
    learned by this proposal, rows it was tested on, proposals accepted, rejected and undecided, and hashed entries
    without room. `learn/last` float64 (10,): the outcome of the last verdict (2 accepted, 3 rejected, 4 undecided, 0
    none yet), then its evidence.
    """

    def __init__(self, spec: Mapping[str, Any], settings: Settings, accepted: Model, proposal: Model) -> None:
        self.spec: Mapping[str, Any] = spec
        self._settings, self._accepted, self._proposal = settings, accepted, proposal
        self._guards = _guarded_classes(settings)
        self.loss, self.trace = own_loss(accepted), traced(accepted)
        self._compared = losses.chosen(settings.gate, settings.task)
        rows, entries = settings.validation, settings.validation * settings.width if settings.hashed else 0
        self._validation: Arrays = prefixed("gate/", _evidence(settings.gate)) | {
            "rows/dense": np.zeros((rows, settings.dense), np.int32),
            "rows/indptr": np.zeros(rows + 1, np.int64),
            "rows/indices": np.zeros(entries, np.int32),
            "rows/values": np.zeros(entries, np.int32),
            "rows/y": np.zeros(rows),
            "rows/weight": np.zeros(rows, np.float32),
            "counts": np.zeros(COUNTS, np.int64),
            "last": np.zeros(1 + len(Evidence.__struct_fields__)),
        }
        if self.trace:
            self._validation["rows/trace"] = np.zeros((rows, self.trace), np.int32)

    @property
    def arrays(self) -> Arrays:
        accepted = self._accepted.arrays
        learning = within(accepted, LEARN)
        return (
            {f"accepted/{name}": array for name, array in accepted.items() if not name.startswith(LEARN)}
            | prefixed(f"{LEARN}accepted/", learning)
            | prefixed(f"{LEARN}proposal/", self._proposal.arrays)
            | prefixed(LEARN, self._validation)
        )

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        learning = within(arrays, LEARN)
        # Copies, so that assigning arrays to a shallow copy of this model does not change this model.
        self._accepted, self._proposal = copy.copy(self._accepted), copy.copy(self._proposal)
        self._accepted.arrays = within(arrays, "accepted/") | prefixed(LEARN, within(learning, "accepted/"))
        if learning:  # otherwise the arrays are for predictions only
            self._proposal.arrays = within(learning, "proposal/")
            self._validation = {name: learning[name] for name in self._validation}
        elif not all(array.flags.writeable for array in arrays.values()):  # it never learns: no second model
            self._proposal = copy.copy(self._accepted)

    def __repr__(self) -> str:
        return described(self)

    def predict(self, batch: Batch) -> Singles:
        """Score n rows with the accepted model: float32 (n, classes), or (n, 1) for a regression."""
        return self._accepted.predict(batch)

    def predict_traced(self, batch: Batch) -> tuple[Singles, Singles]:
        """Score n rows with the accepted model, which must have a trace, and return its trace."""
        scores, trace = predict_traced(self._accepted, batch)
        return scores, trace if trace is not None else np.zeros((len(batch), 0), np.float32)

    def refused(self, batch: Batch) -> dict[int, str]:
        """Return the rows that the inner model cannot take, with reasons."""
        return refused(self._accepted, batch)

    def learn(self, batch: Batch, y: Floats, weight: Singles, trace: Singles | None = None) -> Singles:
        """Learn, or validate on, each of n rows in order; return the predictions before that, as `predict` does.

        A row with a label that is not finite, or a weight that is not a finite number above 0, is no evidence. Raises
        `InputError`, with nothing changed, if the batch does not fit or a label is not a class.
        """
        examples = self._read(batch, y, weight)
        usable = np.isfinite(examples.y) & np.isfinite(examples.weight) & (examples.weight > 0)
        predictions = self._accepted.predict(batch)
        start, n = 0, len(examples.y)
        while start < n:
            stop = self._next_stop(usable, start)
            rows, traces = cut(examples, start, stop), None if trace is None else trace[start:stop]
            if self._validating:
                self._test(rows, predictions[start:stop], usable[start:stop], traces)
                if self._judge() == "promote" and stop < n:
                    predictions[stop:] = self._accepted.predict(cut(examples, stop, n).batch)
            else:
                learn(self._proposal, rows.batch, rows.y, rows.weight, traces)
                self._validation["counts"][LEARNED] += usable[start:stop].sum()
            start = stop
        return predictions

    def evidence(self) -> Evidence:
        """Return the evidence about the proposal in validation; of 0 examples while a proposal is learning."""
        return gate.evidence(within(self._validation, "gate/"), self._settings.gate)

    def verdicts(self) -> dict[str, Any]:
        """Count the proposals `accepted`, `rejected` and `undecided`, and report on the current one.

        `learned` and `tested` are the rows that it has learned and was validated on; `last` is the outcome and the
        evidence of the last verdict, empty before the first. `cut` hashed entries had no room among kept rows.

        >>> model = build({"task": "binary", "dense": 2, "model": {"family": "linear"}})
        >>> model.verdicts()["accepted"], model.verdicts()["last"]
        (0, {})
        """
        counts = self._validation["counts"].tolist()
        outcome, *numbers = self._validation["last"].tolist()
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
        """True if the proposal is frozen and compared; False while it learns."""
        return bool(self._validation["counts"][LEARNED] >= self._settings.update)

    def _read(self, batch: Batch, y: Floats, weight: Singles) -> Examples:
        """Return labelled rows in the dtypes of the contract. Raises `InputError` for wrong shapes or labels."""
        n = len(batch)
        y, weight = labels(y, weight, n)
        if self._settings.task != "regression":
            check_classes(y, self._settings.classes)
        dense = np.ascontiguousarray(batch.dense, np.float32)
        indices, values = np.ascontiguousarray(batch.indices, np.int32), np.ascontiguousarray(batch.values, np.float32)
        plain = Batch(dense, np.ascontiguousarray(batch.indptr, np.int64), indices, values)
        return Examples(plain, y, weight, np.zeros(n, np.int64))

    def _next_stop(self, usable: Flags, start: int) -> int:
        """Return the row before which the proposal is frozen, or a verdict is due; at most the end of the batch."""
        counts, settings = self._validation["counts"], self._settings
        room = settings.update - counts[LEARNED]
        if self._validating:
            room = min(VERDICT_EVERY - counts[TESTED] % VERDICT_EVERY, settings.validation - counts[TESTED])
        (places,) = np.nonzero(usable[start:])
        return start + int(places[room - 1]) + 1 if len(places) >= room else len(usable)

    def _test(self, rows: Examples, predictions: Singles, usable: Flags, trace: Singles | None) -> None:
        """Add the losses of both models on validation rows to the evidence, and keep the rows."""
        proposed = self._proposal.predict(rows.batch)[usable]
        accepted, y = predictions[usable], rows.y[usable]
        evidence, criteria = within(self._validation, "gate/"), self._settings.gate
        weight = rows.weight[usable] if "weights" in evidence else np.ones(len(y), np.float32)
        kind, parameter = self._compared
        both = [metrics.losses(kind, scores, y, parameter) for scores in (accepted, proposed)]
        gate.update(evidence, criteria, both[0], both[1], weight)
        for name, guarded in self._guards.items():
            of_class = y == guarded
            missed = [metrics.losses("error", scores[of_class], y[of_class]) for scores in (accepted, proposed)]
            gate.update_guard(evidence, criteria, name, missed[0], missed[1], weight[of_class])
        self._keep(rows, usable, trace)

    def _judge(self) -> str:
        """Get a verdict where one is due, carry it out, and return its action; "wait" where none is due."""
        counts = self._validation["counts"]
        over = counts[TESTED] >= self._settings.validation
        if not (over or (counts[TESTED] % VERDICT_EVERY == 0 and counts[TESTED] > 0)):
            return "wait"
        verdict = gate.verdict(within(self._validation, "gate/"), self._settings.gate)
        if over or verdict.action != "wait":
            self._settle(verdict)
        return verdict.action

    def _settle(self, verdict: Verdict) -> None:
        """End a validation: restore one model from the other, and learn the kept rows in the next proposal."""
        counts, outcome = self._validation["counts"], OUTCOMES[verdict.action]
        counts[outcome] += 1
        self._validation["last"][:] = [outcome, *msgspec.structs.astuple(verdict.evidence)]
        if outcome == ACCEPTED:
            restore(self._accepted, self._proposal.arrays)
        else:
            restore(self._proposal, self._accepted.arrays)
        for name, array in _evidence(self._settings.gate).items():
            self._validation[f"gate/{name}"][...] = array
        kept, trace = self._kept()
        counts[TESTED], counts[LEARNED] = 0, len(kept.y)
        learn(self._proposal, kept.batch, kept.y, kept.weight, trace)

    def _keep(self, rows: Examples, usable: Flags, trace: Singles | None) -> None:
        """Copy usable rows to the arrays, after those kept before."""
        held, first, count = self._validation, int(self._validation["counts"][TESTED]), int(usable.sum())
        held["rows/dense"][first : first + count] = rows.batch.dense[usable].view(np.int32)
        held["rows/y"][first : first + count] = rows.y[usable]
        held["rows/weight"][first : first + count] = rows.weight[usable]
        if self.trace:
            full = np.full((len(usable), self.trace), np.nan, np.float32) if trace is None else trace
            held["rows/trace"][first : first + count] = np.ascontiguousarray(full, np.float32)[usable].view(np.int32)
        if self._settings.hashed:
            batch, entries = rows.batch, (held["rows/indptr"], held["rows/indices"], held["rows/values"])
            bits = batch.values.view(np.int32)
            held["counts"][CUT] += _keep_entries(
                first, self._settings.width, usable, batch.indptr, batch.indices, bits, *entries
            )
        held["counts"][TESTED] += count

    def _kept(self) -> tuple[Examples, Singles | None]:
        """Return copies of the validation rows that are not learned yet, and of their traces."""
        held, count = self._validation, int(self._validation["counts"][TESTED])
        indptr = held["rows/indptr"][: count + 1].copy()
        dense, values = held["rows/dense"][:count].copy(), held["rows/values"][: indptr[-1]].copy()
        batch = Batch(
            dense.view(np.float32), indptr, held["rows/indices"][: indptr[-1]].copy(), values.view(np.float32)
        )
        y, weight = held["rows/y"][:count].copy(), held["rows/weight"][:count].copy()
        trace = held["rows/trace"][:count].copy().view(np.float32) if self.trace else None
        return Examples(batch, y, weight, np.zeros(count, np.int64)), trace


def _evidence(criteria: GateSpec) -> Arrays:
    """Return the arrays of one validation. Those of layout 1 know no weights: each row counts alike."""
    return gate.start(criteria, weighted=criteria.layout > 1, guard=False)


@exact_kernel
def _keep_entries(
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
    """Copy the hashed entries of usable rows to the rows from `first` on; return how many had no room.

    The first k rows may use k * width entries: each has room for `width`, and for what the rows before it left.
    """
    lost, at = 0, first
    for row in range(len(usable)):
        if usable[row]:
            begin = held_indptr[at]
            count = indptr[row + 1] - indptr[row]
            room = min(count, (at + 1) * width - begin)
            for k in range(room):
                held_indices[begin + k] = indices[indptr[row] + k]
                held_values[begin + k] = values[indptr[row] + k]
            at += 1
            held_indptr[at] = begin + room
            lost += count - room
    return lost


def build(spec: Mapping[str, Any]) -> Gated:
    """Make an untrained gated model; see `Settings`. Raises `ConfigError` for a wrong setting.

    >>> model = build({"task": "binary", "dense": 2, "model": {"family": "linear"}, "update": 500, "validation": 500})
    >>> sign = np.where(np.arange(2000) % 3 == 0, 1.0, -1.0)
    >>> rows = Batch(sign[:, None].astype(np.float32).repeat(2, 1), np.zeros(2001, np.int64),
    ...              np.zeros(0, np.int32), np.zeros(0, np.float32))
    >>> _ = model.learn(rows, (sign > 0).astype(float), np.ones(2000, np.float32))
    >>> model.verdicts()["accepted"]
    1
    """
    settings = read(spec)
    shape = {"task": settings.task, "dense": settings.dense, "hashed": settings.hashed, "classes": settings.classes}
    inner = {"family": INNER, "seed": settings.seed, **settings.model, **shape}
    if "layout" in spec:
        inner = {"layout": spec["layout"], **inner}
    accepted, proposal = build_model(inner), build_model(inner)
    settings = read(spec, own_loss(accepted))
    one_at_a_time = bool(accepted.spec.get("one_at_a_time", True))
    if spec.get("one_at_a_time", one_at_a_time) != one_at_a_time:
        raise ConfigError(
            f"gated model: one_at_a_time: got {spec['one_at_a_time']!r}; expected that of model, {one_at_a_time}. "
            "Leave it out, or set it in model"
        )
    settings = msgspec.structs.replace(settings, model=dict(accepted.spec), one_at_a_time=one_at_a_time)
    return Gated(written(settings), settings, accepted, proposal)


def written(settings: Settings) -> dict[str, Any]:
    """Return the complete spec of settings; `build` makes an equal model from it."""
    return {
        **specs.written(settings, RETIRED),
        "model": settings.model,
        "gate": msgspec.structs.asdict(settings.gate) | {"own": list(settings.gate.own) if settings.gate.own else None},
    }
