"""Terms of the loss: what keeps a network from forgetting, and able to learn. Each is settings and plain functions.

replay          ER, ER-ACE                      ewc   si   mas     anchors: stay near weights that mattered
distill         DER, DER++                      lwf                stay near what the network used to answer
agem   gdumb    gradients; the baseline         l2_init  shrink_perturb  continual_backprop   stay able to learn
                                                orthogonal         adapters that leave old ones alone
"""

from __future__ import annotations

from everlearn.neural.parts import Term
from everlearn.neural.terms import anchors, functions, orthogonal, plasticity, replay
from everlearn.neural.terms.anchors import Ewc, Mas, Si
from everlearn.neural.terms.functions import Lwf
from everlearn.neural.terms.orthogonal import Orthogonal
from everlearn.neural.terms.plasticity import ContinualBackprop, L2Init, ShrinkPerturb
from everlearn.neural.terms.replay import Agem, Distill, Gdumb, Replay

AnyTerm = (
    Replay | Distill | Agem | Gdumb | Ewc | Si | Mas | Lwf | L2Init | ShrinkPerturb | ContinualBackprop | Orthogonal
)

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
