"""Evidence and verdicts: is the candidate's loss lower than the reference's?

The gate takes paired losses in log order and keeps sums of their differences in fixed arrays. It can be evaluated after
every example: frequent evaluation adds no false alarms. A verdict needs two kinds of evidence to agree, a bet on every
example and a t-test on blocks (`kernels.py` has the arithmetic of both). The first is exact for losses of any shape,
but can be misled by one favourable stretch of a stream; the second is not.

Weights count in all of it: a difference is multiplied by its weight, as a share of a bound (`weights.py`). A row of
weight 0 is no evidence at all.

Both are computed twice: over the whole stream, and over a recent window. A candidate that improves late looks, over the
whole stream, like one that fluctuates. A window must exceed the largest fluctuation that the stream has shown.
`docs/why/gate.md` shows why all this is needed, and what no rule can decide.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import numpy as np

from everlearn.errors import ConfigError, InputError, did_you_mean
from everlearn.gate import deterioration, losses, weights
from everlearn.gate.kernels import (
    CALIBRATED,
    COMPARED,
    FALL,
    GUARDS,
    LEVELS,
    LOSS,
    NET,
    RISE,
    SCALE,
    SKIPPED,
    STAKES,
    WINDOW,
    compare,
    first_outside,
    is_plain,
    weigh_row,
)
from everlearn.gate.weights import CLIPPED, COLUMNS
from everlearn.records import Arrays, Evidence, Floats, Singles, Verdict
from everlearn.spec import GateSpec

WHOLE = 0.9  # share of alpha that the whole stream may use; the k-th window may use (1 - WHOLE) / (k (k + 1))
OUTDO = 3.0  # a window's gain must be this many times the deepest fall that the stream has shown, or the reverse

_NO_WEIGHTS, _NO_LOSSES = np.zeros((0, COLUMNS)), np.zeros(0)  # stand in for arrays that a comparison lacks


class _MetricRow(NamedTuple):
    """The row of a metric in the arrays, and the bounds of its tests: mean above `better`, and mean below `worse`.

    `most` is the highest loss that is accepted.
    """

    number: int
    better: float
    worse: float
    most: float
    cycle: int


class _Case(NamedTuple):
    """The evidence in one row of the arrays; `whole` is the mean difference without clipping."""

    examples: int
    difference: float
    whole: float
    low: float
    high: float
    better: float
    worse: float
    block: int
    blocks: int


class _Question(NamedTuple):
    """The evidence on the loss, and the rows behind it: the whole stream or the window."""

    evidence: Evidence
    better: _Case
    worse: _Case


def start(spec: GateSpec, weighted: bool = False, guard: bool = True) -> Arrays:
    """Return the fixed-size arrays of one comparison; `weighted` adds the array of weights, whatever they will be.

    With `guard`, a candidate that becomes worse is rejected soon, however long it was good; see
    `everlearn.gate.deterioration`. Without it, the gate rejects a candidate that is worse over the whole stream or a
    window. Under layout 1 there is no guard. Raises `ConfigError` for an invalid setting.

    >>> arrays = start(GateSpec(guards={"recall:yes": 0.02}), guard=False)
    >>> sum(array.nbytes for array in arrays.values())
    9760
    """
    _check(spec)
    rows = GUARDS + len(spec.guards) + 2
    totals, most = np.zeros((rows, 8)), losses.bound(spec)
    totals[:, SCALE] = 1.0
    totals[[LOSS, WINDOW, -2, -1], SCALE] = most if most < math.inf else 0.0  # 0: not known yet
    capital = np.zeros((rows, 2, 2, len(STAKES)))  # direction; factor and logarithm, which together are the capital
    capital[:, :, 0] = 1.0
    some: Arrays = {"weights": np.zeros((rows, COLUMNS))} if weighted else {}
    if most != 1.0 and spec.layout > 1:
        some["recent"] = np.array([0.0, 0.0, most if most < math.inf else 0.0])
    if guard and spec.layout > 1:
        some |= deterioration.start(most if most < math.inf else 0.0)
    return some | {
        "seen": np.zeros((rows, 4), np.int64),
        "totals": totals,
        "capital": capital,
        "blocks": np.zeros((rows, LEVELS + 1, 8 if spec.layout > 1 else 7)),
    }


def update(
    arrays: Arrays, spec: GateSpec, reference: Floats, candidate: Floats, weight: Floats | Singles | None = None
) -> None:
    """Add n pairs of losses, float64 (n,), in log order, with their weights (n,); without them, each weighs 1.

    The first weight that is neither 0 nor 1 adds the array "weights", float64 (rows, 7). A pair of weight 0 is left
    out. The result does not depend on how a stream is split into calls. A pair with a loss that is not finite is
    skipped and counted. Raises `InputError`, before anything is changed, if a loss is negative, or above 1 for a loss
    in [0, 1], and if a weight is negative or not finite. A loss of "auto" counts as a loss in [0, 1].

    >>> spec = GateSpec()
    >>> arrays = start(spec)
    >>> rng = np.random.default_rng(0)
    >>> champion, challenger = rng.random(1000), 0.9 * rng.random(1000)
    >>> update(arrays, spec, champion, challenger)
    >>> evidence(arrays, spec).examples
    1000
    """
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    _feed(arrays, _row(spec), reference, candidate, weight, f"loss {spec.loss!r}")
    if "guard_counts" in arrays:
        weight = np.ones(len(reference)) if weight is None else np.asarray(weight, np.float32).astype(np.float64)
        deterioration.add(arrays, candidate - reference, weight, reference)


def load_kernels(spec: GateSpec) -> None:
    """Load or compile what `update` needs, by a pair that is thrown away.

    The first version to guard comes long after the first label: without this, all labels would wait for the compiler.
    """
    update(start(spec), spec, np.zeros(1), np.zeros(1))


def update_guard(
    arrays: Arrays,
    spec: GateSpec,
    name: str,
    reference: Floats,
    candidate: Floats,
    weight: Floats | Singles | None = None,
) -> None:
    """Add n pairs of a guard's losses in [0, 1], float64 (n,), for instance 0/1 errors on the rows of one class.

    `weight` is as for `update`; the bound of a guard comes from the weights of its rows alone.

    Raises `ConfigError` if `spec` has no such guard, and `InputError` as `update` does.
    """
    if name not in spec.guards:
        known = ", ".join(sorted(spec.guards)) or "none"
        raise ConfigError(f"unknown guard {name!r}; expected one of {known}{did_you_mean(name, spec.guards)}")
    _feed(arrays, _guard(spec, name), reference, candidate, weight, f"guard {name!r}")


def evidence(arrays: Arrays, spec: GateSpec, share: float = 1.0) -> Evidence:
    """Return the evidence on the loss; changes nothing.

    `share` in (0, 1] is the part of alpha of this comparison when several challengers are compared at the same time.
    Raises `ConfigError` for another share.
    """
    return _ask(arrays, spec, _threshold(spec, share)).evidence


def verdict(arrays: Arrays, spec: GateSpec, share: float = 1.0) -> Verdict:
    """Return promote, reject or wait, with the reason; changes nothing.

    promote: the candidate is better by more than `tolerance`, and every guard is within its limit. reject: the
    candidate is worse, or exceeds the limit of a guard. A candidate that is neither keeps waiting. Each of the two is
    wrong with probability at most alpha * share, however often the gate is evaluated. An alarm of the guard against
    deterioration rejects as well; `deterioration` says how rarely it is false. Raises `ConfigError` as
    `evidence` does.

    >>> spec = GateSpec()
    >>> arrays = start(spec)
    >>> rng = np.random.default_rng(0)
    >>> update(arrays, spec, 0.3 + 0.2 * rng.random(2000), 0.25 + 0.2 * rng.random(2000))
    >>> verdict(arrays, spec).action
    'promote'
    """
    threshold = _threshold(spec, share)
    if "guard_counts" in arrays and deterioration.alarm(arrays):
        return deterioration.verdict(arrays)
    question = _ask(arrays, spec, threshold)
    found = question.evidence
    if found.examples < max(spec.minimum, 1):
        skipped = int(arrays["seen"][LOSS, SKIPPED])
        note = f", {skipped} skipped because a loss was not finite" if skipped else ""
        return Verdict("wait", f"{found.examples} of at least {spec.minimum} examples compared{note}", found)
    guards = {name: _weigh(arrays, _guard(spec, name), threshold) for name in sorted(spec.guards)}
    note = _clipped(arrays, spec)
    least = deterioration.least(arrays) if "guard_counts" in arrays else 0.0
    against = _objection(spec, question, guards, least)
    if against:
        return Verdict("reject", against + note, found)
    missing = _missing(spec, question, guards)
    if missing:
        if "guard_counts" in arrays and deterioration.shown(arrays):
            missing = deterioration.verdict(arrays).reason
        return Verdict("wait", missing + note, found)
    reason = f"better by {question.better.difference:.4g} {_where(question.better, found)}"
    return Verdict("promote", reason + note, found)


def _objection(spec: GateSpec, question: _Question, guards: dict[str, _Case], least: float) -> str:
    """Return the reason for a rejection, if there is one: one metric is enough, so the metrics share alpha.

    A difference in the loss below `least` is no reason.
    """
    found = question.evidence
    needed = found.threshold + math.log(1 + len(guards))
    if found.log_e_worse >= needed and question.worse.whole < 0.0 and -question.worse.difference >= least:
        return f"worse by {-question.worse.difference:.4g} {_where(question.worse, found)}"
    for name, guard in guards.items():
        if guard.worse >= needed:
            return f"{name} is worse by {-guard.difference:.4g} on {guard.examples} rows, {spec.guards[name]:g} allowed"
    return ""


def _missing(spec: GateSpec, question: _Question, guards: dict[str, _Case]) -> str:
    """Return what a promotion still lacks, if anything: it needs every metric, so each may use all of alpha."""
    found = question.evidence
    if found.log_e_better < found.threshold:
        return (
            f"difference {found.difference:.4g} over {found.examples} examples in blocks of {found.block}: "
            f"log e {found.log_e_better:.1f}, needed {found.threshold:.1f}"
        )
    if question.better.whole <= spec.tolerance:
        return "better only as long as very large losses are clipped"
    for name, guard in guards.items():
        if guard.better < found.threshold:
            needed = f"log e {guard.better:.1f} on {guard.examples} rows, needed {found.threshold:.1f}"
            return f"better, but {name} is not yet shown to keep within {spec.guards[name]:g}: {needed}"
    return ""


def _where(case: _Case, found: Evidence) -> str:
    recent = case.examples < found.examples
    return f"on the last {case.examples} of {found.examples} examples" if recent else f"on {case.examples} examples"


def _clipped(arrays: Arrays, spec: GateSpec) -> str:
    """Return a note on the cap of the losses, if they have one, and on weights that were clipped."""
    note = ""
    if losses.bound(spec) != 1.0 and spec.layout > 1:
        note = f"; losses capped at {arrays['totals'][LOSS, SCALE]:.4g}"
    if "weights" in arrays and (rows := int(arrays["weights"][LOSS, CLIPPED])):
        note += f"; weights above 10 times their mean were clipped (examples: {rows})"
    return note


def _check(spec: GateSpec) -> None:
    def refuse(setting: str, got: object, expected: str) -> None:
        raise ConfigError(f"gate.{setting} is {got!r}; expected {expected}")

    if not 0.0 < spec.alpha < 1.0:
        refuse("alpha", spec.alpha, "a probability above 0 and below 1, such as 0.05")
    if not 0.0 <= spec.tolerance < math.inf:
        refuse("tolerance", spec.tolerance, "a loss of 0 or more")
    if spec.minimum < 0:
        refuse("minimum", spec.minimum, "a number of examples, 0 or more")
    if spec.cycle < 0:
        refuse("cycle", spec.cycle, "a number of examples, or 0 for no cycle")
    for name, allowed in spec.guards.items():
        if not 0.0 <= allowed < 1.0:
            refuse(f"guards[{name!r}]", allowed, "how much may be lost, from 0 to below 1")


def _threshold(spec: GateSpec, share: float) -> float:
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"share of alpha is {share!r}; expected a number above 0 and at most 1")
    return math.log(1.0 / (spec.alpha * share))


def _row(spec: GateSpec, number: int = LOSS) -> _MetricRow:
    most = losses.bound(spec)
    return _MetricRow(number, spec.tolerance, 0.0, 1.0 if most == 1.0 else math.inf, spec.cycle)


def _guard(spec: GateSpec, name: str) -> _MetricRow:
    allowed = -spec.guards[name]
    return _MetricRow(GUARDS + sorted(spec.guards).index(name), allowed, allowed, 1.0, 0)


def _feed(
    arrays: Arrays,
    row: _MetricRow,
    reference: Floats,
    candidate: Floats,
    weight: Floats | Singles | None,
    name: str,
) -> None:
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    if reference.shape != candidate.shape or reference.ndim != 1:
        raise InputError(f"{name}: got losses of shapes {reference.shape} and {candidate.shape}; expected (n,) twice")
    if _is_plain(arrays, row, reference, candidate, weight):
        _compare(arrays, row, reference, candidate, reference)  # without an array of weights, none is read
        return
    for side, given in (("reference", reference), ("candidate", candidate)):
        i = first_outside(given, row.most)
        if i >= 0:
            expected = "between 0 and 1" if row.most == 1.0 else "0 or more"
            raise InputError(f"{name}: {side} loss {given[i]:g} at index {i}; expected {expected}")
    weight = np.ones(len(reference)) if weight is None else weights.checked(weight, len(reference), name)
    if not weights.all_one(weight):
        counts = weight > 0.0
        reference, candidate, weight = reference[counts], candidate[counts], weight[counts]
        if "weights" not in arrays and not weights.all_one(weight):
            arrays["weights"] = _unit_weights(arrays)
    _compare(arrays, row, reference, candidate, weight)


def _is_plain(
    arrays: Arrays, row: _MetricRow, reference: Floats, candidate: Floats, weight: Floats | Singles | None
) -> bool:
    """Return True for pairs that need no check and no weights: the usual case, seen in one pass."""
    if weight is None or weight.dtype != np.float32 or weight.shape != reference.shape or "weights" in arrays:
        return False
    return is_plain(reference, candidate, cast(Singles, weight), row.most)


def _compare(arrays: Arrays, row: _MetricRow, reference: Floats, candidate: Floats, weight: Floats) -> None:
    compare(
        reference, candidate, weight, row.number, row.better, row.worse, row.cycle,
        arrays["seen"], arrays["totals"], arrays["capital"], arrays["blocks"],
        arrays.get("weights", _NO_WEIGHTS), arrays.get("recent", _NO_LOSSES),
    )  # fmt: skip


def _unit_weights(arrays: Arrays) -> Floats:
    """Return the array of weights, float64 (rows, 7), as of the pairs so far, which all weighed 1."""
    held: Floats = np.stack([weights.after(int(rows)) for rows in arrays["seen"][:, COMPARED]])
    held[:, [weights.COUNT, weights.TOTAL]] += arrays["seen"][:, [CALIBRATED]]
    held[:, weights.HIGHEST] = held[:, weights.COUNT] > 0.0
    held[[WINDOW, WINDOW - 2], : weights.SHARES] = 0.0  # the bound is that of the whole stream
    return held


def _ask(arrays: Arrays, spec: GateSpec, threshold: float) -> _Question:
    """Combine the whole stream, and the window if it is long enough; their shares of alpha add up to 1."""
    share = math.log(WHOLE)
    row, window = _row(spec), _row(spec, WINDOW)
    whole = _weigh(arrays, row, threshold - share)
    better, better_case = whole.better + share, whole
    worse, worse_case = whole.worse + share, whole
    compared, _, _, restarts = arrays["seen"][_at(window)].tolist()
    if restarts > 0 and compared >= max(spec.minimum, 1):
        recent = _weigh(arrays, window, threshold)
        share = math.log((1.0 - WHOLE) / (restarts * (restarts + 1)))
        stream, lately = arrays["totals"][_at(row)], arrays["totals"][_at(window)]
        if recent.better + share > better and lately[NET] > OUTDO * stream[FALL]:
            better, better_case = recent.better + share, recent
        if recent.worse + share > worse and -lately[NET] > OUTDO * stream[RISE]:
            worse, worse_case = recent.worse + share, recent
    found = Evidence(
        examples=whole.examples,
        block=better_case.block,
        blocks=better_case.blocks,
        difference=whole.difference,
        low=whole.low,
        high=whole.high,
        log_e_better=better,
        log_e_worse=worse,
        threshold=threshold,
    )
    return _Question(found, better_case, worse_case)


def _at(row: _MetricRow) -> int:
    """Return the index at which a row is read: with a cycle, that of the copy made after the last whole cycle."""
    return row.number - 2 if row.cycle else row.number


def _weigh(arrays: Arrays, row: _MetricRow, threshold: float) -> _Case:
    held = arrays["seen"], arrays["totals"], arrays["capital"], arrays["blocks"], arrays.get("weights", _NO_WEIGHTS)
    return _Case(*weigh_row(*held, _at(row), row.better, row.worse, row.cycle, threshold))
