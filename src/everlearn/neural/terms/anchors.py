"""Terms that hold weights near an anchor, the more so the more they mattered: EWC, SI, MAS."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from everlearn.neural.parts import Term


class Ewc(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="ewc"):
    """Elastic weight consolidation."""

    strength: float = 100.0
    decay: float = 1.0
    fisher: Literal["diagonal", "block", "kronecker"] = "diagonal"
    labels: Literal["model", "data"] = "model"


class Si(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="si"):
    """Synaptic intelligence."""

    strength: float = 1.0
    damping: float = 0.1


class Mas(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="mas"):
    """Memory aware synapses."""

    strength: float = 1.0
    decay: float = 0.5


EWC = SI = MAS = Term()
