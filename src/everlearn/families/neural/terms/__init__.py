"""Terms of the loss: what keeps a network from forgetting, and able to learn. Each is settings and plain functions.

replay          ER, ER-ACE                      ewc   si   mas     anchors: stay near weights that mattered
distill         DER, DER++                      lwf                stay near what the network used to answer
agem   gdumb    gradients; the baseline         l2_init  shrink_perturb  continual_backprop   stay able to learn
                                                orthogonal         adapters that leave old ones alone
"""

from __future__ import annotations

from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Term
from everlearn.families.neural.terms import anchors, functions, orthogonal, plasticity, replay
from everlearn.families.neural.terms.anchors import Ewc, Mas, Si
from everlearn.families.neural.terms.functions import Lwf
from everlearn.families.neural.terms.orthogonal import Orthogonal
from everlearn.families.neural.terms.plasticity import ContinualBackprop, L2Init, ShrinkPerturb
from everlearn.families.neural.terms.replay import Agem, Distill, Gdumb, Replay

AnyTerm = (
    Replay | Distill | Agem | Gdumb | Ewc | Si | Mas | Lwf | L2Init | ShrinkPerturb | ContinualBackprop | Orthogonal
)

DRAWING = (Replay, Distill, Agem, Gdumb)  # terms of remembered rows

FUNCTIONS: dict[type, Term] = {
    Replay: replay.REPLAY,
    Distill: replay.DISTILL,
    Agem: replay.AGEM,
    Gdumb: replay.GDUMB,
    Ewc: anchors.EWC,
    Si: anchors.SI,
    Mas: anchors.MAS,
    Lwf: functions.LWF,
    L2Init: plasticity.L2_INIT,
    ShrinkPerturb: plasticity.SHRINK_PERTURB,
    ContinualBackprop: plasticity.CONTINUAL_BACKPROP,
    Orthogonal: orthogonal.ORTHOGONAL,
}


def fitting(terms: tuple[AnyTerm, ...], memory: str, told: bool = True) -> tuple[AnyTerm, ...]:
    """The terms of a network whose memory is of this kind; without `told`, they are what nobody asked for otherwise.

    Terms of remembered rows are left out where nothing is remembered and nobody told terms. Raises `ConfigError` for
    those that were told, and for two terms that replace the loss of the rows that come, of which one would be unheard.

    >>> fitting((Replay(),), "none", told=False), fitting((Replay(),), "balanced", told=False)
    ((), (Replay(rows=0, loss='joint', retrieve='uniform'),))
    """
    if memory == "none":
        drawing = [one for one in terms if isinstance(one, DRAWING)]
        if drawing and told:
            raise ConfigError(
                f"neural model: term {kind(drawing[0])!r} draws from the memory and memory.kind is 'none'; expected "
                "terms that remember no rows, or none ('terms': []), or another memory.kind"
            )
        terms = tuple(one for one in terms if one not in drawing)
    fresh = [one for one in terms if FUNCTIONS[type(one)].fresh is not None]
    if len(fresh) > 1:
        raise ConfigError(
            f"neural model: terms {kind(fresh[0])!r} and {kind(fresh[1])!r} both replace the loss of the rows that "
            "come; expected at most one such term"
        )
    return terms


def kind(term: AnyTerm) -> str:
    """What a term is called in a spec.

    >>> kind(L2Init())
    'l2_init'
    """
    return str(type(term).__struct_config__.tag)
