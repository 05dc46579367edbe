"""Work out what settings require of the trainer: drawn rows, a memory, consolidations, rows of a minibatch."""

from __future__ import annotations

import copy
import logging
from functools import cache
from typing import Any

from everlearn._torch import nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Term
from everlearn.families.neural.inputs import InputReader
from everlearn.families.neural.settings import Settings
from everlearn.families.neural.terms import DRAWING, kind

PlacedTerm = tuple[int, Any, Term]  # the place of a term, its settings, its functions

log = logging.getLogger(__name__)


def wanted(term: Term, settings: Any, batch: int) -> int:
    """Return how many remembered rows a term draws for each minibatch; its -k is k rows for each new one."""
    count = term.draws(settings) if term.draws is not None else 0
    return count if count >= 0 else -count * batch


def remembers(settings: Settings) -> bool:
    """Return True if rows go into a memory: there is one, and a term or the head draws from it."""
    return settings.memory.kind != "none" and (
        settings.head == "ncm" or any(isinstance(term, DRAWING) for term in settings.terms)
    )


def consolidates(settings: Settings, terms: list[PlacedTerm]) -> bool:
    """Return True if a term takes anchors; log a warning where only a call of `consolidate()` would take them."""
    waiting = [term for term in terms if term[2].consolidate is not None]
    scheduled = settings.consolidate.every > 0 or (settings.drift.detector != "none" and settings.drift.consolidate)
    if waiting and not scheduled and not settings.consolidate.told:
        _warn_unscheduled(kind(waiting[0][1]))
    return bool(waiting)


@cache
def _warn_unscheduled(term: str) -> None:
    """Log, once for each kind of term, that consolidations are left to the caller."""
    log.warning(
        "neural model: the term %r acts at consolidations, and none is scheduled. Set consolidate.every to a number of "
        "rows, or drift.detector, or call model.consolidate()",
        term,
    )


def prefix(term: PlacedTerm) -> str:
    """Return the prefix of the names of a term's tensors."""
    return f"learn/terms/{term[0]}-{kind(term[1])}/"


def try_alone(module: nn.Module, settings: Settings, reader: InputReader) -> None:
    """Raise `ConfigError` where a module cannot learn a minibatch of one row; the module is not changed.

    Batch normalisation cannot, as one number has no deviation.
    """
    norm = nn.modules.batchnorm._BatchNorm
    if not any(isinstance(part, norm) and part.training for part in module.modules()):
        return
    width = settings.width if settings.hashed else 0
    row = torch.zeros((1, settings.dense)), torch.zeros((1, width), dtype=torch.int32), torch.zeros((1, width))
    try:
        with torch.no_grad():
            copy.deepcopy(module)(*reader.inputs(*row))
    except ValueError as error:
        raise ConfigError(
            f"neural model: batch: got 1; expected 2 or more, as the module cannot learn a row by itself: {error}"
        ) from error
