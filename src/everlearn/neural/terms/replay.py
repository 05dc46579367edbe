"""Terms that learn from remembered rows: ER, ER-ACE, DER, DER++, A-GEM, and GDumb."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from everlearn.neural.parts import Term


class Replay(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="replay"):
    """Learn `rows` remembered rows with each minibatch (0: as many as came)."""

    rows: Annotated[int, Meta(ge=0)] = 0
    loss: Literal["joint", "asymmetric"] = "joint"


class Distill(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="distill"):
    """Answer remembered rows as when they came (DER; with beta, DER++)."""

    rows: Annotated[int, Meta(ge=0)] = 0
    alpha: float = 0.5
    beta: float = 0.5


class Agem(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="agem"):
    """Project gradients that would raise the loss of remembered rows."""

    rows: Annotated[int, Meta(ge=1)] = 64


class Gdumb(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="gdumb"):
    """Learn nothing but the memory, from scratch, at each consolidation."""

    epochs: Annotated[int, Meta(ge=1)] = 30


REPLAY = DISTILL = AGEM = GDUMB = Term()
