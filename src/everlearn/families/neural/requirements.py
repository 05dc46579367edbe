"""What the settings of a network ask of those who learn: rows that terms draw, consolidations, rows in a minibatch."""

from __future__ import annotations

import copy
from typing import Any

from everlearn._torch import nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Term
from everlearn.families.neural.inputs import Reading
from everlearn.families.neural.settings import Settings
from everlearn.families.neural.terms import DRAWING, kind

One = tuple[int, Any, Term]  # where a term stands, its settings, its functions


def wanted(term: Term, settings: Any, batch: int) -> int:
    """How many remembered rows a term wants with each minibatch; -k is k times as many as came."""
    many = term.draws(settings) if term.draws is not None else 0
    return many if many >= 0 else -many * batch


def remembers(chosen: Settings) -> bool:
    """Whether rows go into a memory: there is one, and somebody draws from it."""
    return chosen.memory.kind != "none" and (
        chosen.head == "ncm" or any(isinstance(one, DRAWING) for one in chosen.terms)
    )


def consolidates(chosen: Settings, terms: list[One]) -> bool:
    """Whether anchors are ever taken; raise `ConfigError` where a term waits for that and it never comes."""
    waits = [one for one in terms if one[2].consolidate is not None]
    ever = (
        chosen.consolidate.told
        or chosen.consolidate.every > 0
        or (chosen.drift.detector != "none" and chosen.drift.consolidate)
    )
    if waits and not ever:
        raise ConfigError(
            f"neural model: the term {kind(waits[0][1])!r} acts at consolidations, and there are none; set "
            "consolidate.every to a number of rows, drift.detector, or consolidate.told if you call consolidate()"
        )
    return bool(waits)


def prefix(one: One) -> str:
    """What stands before the names of a term's tensors."""
    return f"learn/terms/{one[0]}-{kind(one[1])}/"


def try_alone(module: nn.Module, chosen: Settings, reading: Reading) -> None:
    """Raise `ConfigError` where this module cannot learn a minibatch of one row, as batch normalisation cannot, which
    finds no deviation in one number. Nothing is changed in it."""
    if not any(isinstance(one, nn.modules.batchnorm._BatchNorm) and one.training for one in module.modules()):
        return
    width = chosen.width if chosen.hashed else 0
    row = torch.zeros((1, chosen.dense)), torch.zeros((1, width), dtype=torch.int32), torch.zeros((1, width))
    try:
        with torch.no_grad():
            copy.deepcopy(module)(*reading.inputs(*row))
    except ValueError as error:
        raise ConfigError(
            f"neural model: batch is 1, and the module cannot learn a row by itself: {error}; set batch to 2 or more"
        ) from error
