"""Terms against loss of plasticity: L2 towards the start, shrink and perturb, continual backprop."""

from __future__ import annotations

from msgspec import Struct

from everlearn.neural.parts import Term


class L2Init(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="l2_init"):
    """Pull weights towards those they began with."""

    strength: float = 0.01


class ShrinkPerturb(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="shrink_perturb"
):
    """Shrink weights a little, and add a little noise, at each step."""

    shrink: float = 1e-4
    noise: float = 1e-3


class ContinualBackprop(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="continual_backprop"
):
    """Begin units anew that contribute least."""

    rate: float = 1e-4
    maturity: int = 100
    decay: float = 0.99


L2_INIT = SHRINK_PERTURB = CONTINUAL_BACKPROP = Term()
