"""Terms that hold what the network answers near what it used to answer: learning without forgetting."""

from __future__ import annotations

from msgspec import Struct

from everlearn.neural.parts import Term


class Lwf(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="lwf"):
    """Distil the network of the last consolidation into the one that learns, on the rows that come."""

    strength: float = 1.0
    temperature: float = 2.0


LWF = Term()
