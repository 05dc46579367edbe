"""Terms of the loss, against forgetting and loss of plasticity; each is settings and plain functions.

Settings of a term, the network, and rows of a step come in; losses, changed gradients and changed weights go out.
Drawing remembered rows is in `neural/replay_sampler.py`, calling the terms in `neural/step.py`.

replay          ER, ER-ACE, MIR                 ewc   si   mas     anchors: stay near weights that mattered
distill         DER, DER++                      lwf                stay near the outputs of the last consolidation
agem   gdumb    gradients; the baseline         l2_init  shrink_perturb  continual_backprop   stay able to learn
                                                orthogonal         adapters that keep the outputs of earlier ones
"""

from __future__ import annotations

from everlearn.errors import ConfigError
from everlearn.families.neural.contract import Term
from everlearn.families.neural.terms import ewc_si_mas as anchors
from everlearn.families.neural.terms import functions, orthogonal, plasticity, replay
from everlearn.families.neural.terms.ewc_si_mas import Ewc, Mas, Si
from everlearn.families.neural.terms.functions import Lwf
from everlearn.families.neural.terms.orthogonal import Orthogonal
from everlearn.families.neural.terms.plasticity import ContinualBackprop, L2Init, ShrinkPerturb
from everlearn.families.neural.terms.replay import Agem, Distill, Gdumb, Replay

AnyTerm = (
    Replay | Distill | Agem | Gdumb | Ewc | Si | Mas | Lwf | L2Init | ShrinkPerturb | ContinualBackprop | Orthogonal
)

DRAWING = (Replay, Distill, Agem, Gdumb)  # terms that draw remembered rows

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


def fitting(terms: tuple[AnyTerm, ...], memory: str, given: bool = True) -> tuple[AnyTerm, ...]:
    """Return the terms that a network with a memory of this kind can have; `given`: the spec names them.

    Without a memory, terms that draw remembered rows are left out of the default. Raises `ConfigError` for such a term
    in the spec, and for two terms that replace the loss of new rows, of which one would have no effect.

    >>> fitting((Replay(),), "none", given=False), fitting((Replay(),), "balanced", given=False)
    ((), (Replay(rows=0, loss='joint', retrieve='uniform'),))
    """
    if memory == "none":
        drawing = [term for term in terms if isinstance(term, DRAWING)]
        if drawing and given:
            raise ConfigError(
                f"neural model: terms: got {kind(drawing[0])!r}, which draws from the memory, with memory.kind 'none'; "
                "expected terms without remembered rows. Set terms to [], or set another memory.kind"
            )
        terms = tuple(term for term in terms if term not in drawing)
    fresh = [term for term in terms if FUNCTIONS[type(term)].fresh is not None]
    if len(fresh) > 1:
        raise ConfigError(
            f"neural model: terms: got {kind(fresh[0])!r} and {kind(fresh[1])!r}, which both replace the loss of new "
            "rows; expected at most one of them"
        )
    return terms


def kind(term: AnyTerm) -> str:
    """Return the name of a term in specs.

    >>> kind(L2Init())
    'l2_init'
    """
    return str(type(term).__struct_config__.tag)
