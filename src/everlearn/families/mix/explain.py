"""Split the answer of a mix into parts of columns and hashed entries, from those of its members.

For classes, each stacker adds the members' log-probabilities with its weights, and takes a softmax; the answers of both
stackers and of each member alone are averaged by their recent losses. Each step passes parts on without a rest (see
`everlearn.families.parts`). For numbers all steps are linear.
"""

from __future__ import annotations

import numpy as np

from everlearn.families import explain
from everlearn.families import parts as adding
from everlearn.families.mix import numbers, stacking
from everlearn.families.mix.model import Mix
from everlearn.families.mix.settings import LOSSES
from everlearn.families.parts import AnswerParts, Names
from everlearn.records import Arrays, Batch, Floats


def parts(model: Mix, row: Batch, names: Names) -> AnswerParts:
    """Return base, terms and answer of one row: class probabilities, or the number of a regression.

    Raises `InputError` for a member of a family without explanations.
    """
    held, who = model.answering_bank()  # members that rest say nothing
    found = [explain.parts(model.members[place], row, names) for place in who]
    if model.loss is not None:
        return _of_numbers(LOSSES[model.loss.kind], held, found)
    floored = [adding.floored(part, stacking.FLOOR) for part in found]
    logs = [adding.logarithm(part) for part in floored]
    each = [_stacked(held["shared"][s], held["own"][s], held["bias"][s], logs) for s in range(stacking.STACKERS)]
    shares = np.exp(held["recent"].min() - held["recent"])
    return adding.added(zip((shares / shares.sum()).tolist(), [*each, *floored], strict=True))


def _stacked(shared: Floats, own: Floats, bias: Floats, logs: list[AnswerParts]) -> AnswerParts:
    """Return the parts of the answer of one stacker."""
    constant = AnswerParts(bias, {}, bias)
    weighted = [(shared[m] + own[m], part) for m, part in enumerate(logs)]
    return adding.softmax(adding.added([(1.0, constant), *weighted]))


def _of_numbers(loss: int, held: Arrays, found: list[AnswerParts]) -> AnswerParts:
    """Return the parts of a number: a weighted sum of the members' parts, and the biases of the stackers.

    A member that uses no field has no base, which is NaN: it counts from the mean base of the others.
    """
    bases = np.array([part.base[0] for part in found])
    middle = np.nanmean(bases) if np.isfinite(bases).any() else 0.0
    rows = float(held["counts"][stacking.ROWS])
    shares = numbers.number_parts(held["recent"], held["prior"], rows, loss)
    weights = shares[: stacking.STACKERS] @ held["shares"][: stacking.STACKERS] + shares[stacking.STACKERS :]
    bias = np.array([shares[: stacking.STACKERS] @ held["bias"][: stacking.STACKERS, numbers.BIAS]])
    whole = [(1.0, AnswerParts(bias, {}, bias))]
    for weight, part in zip(weights.tolist(), found, strict=True):
        if np.isnan(part.base[0]):
            base = np.full(1, middle)
            part = AnswerParts(base, {name: value - base for name, value in part.terms.items()}, part.answer)
        whole.append((weight, part))
    return adding.added(whole)
