"""A term for adapters: new directions stay orthogonal to those that earlier adapters used."""

from __future__ import annotations

from msgspec import Struct

from everlearn.neural.parts import Term


class Orthogonal(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="orthogonal"):
    """Penalise the overlap of the adapters that learn with the directions of earlier ones (O-LoRA)."""

    strength: float = 0.5
    directions: int = 32


ORTHOGONAL = Term()
