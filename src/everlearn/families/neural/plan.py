"""The plan of training: everything about a step that follows from the settings and the network, decided once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from everlearn._torch import Tensor, Tensors, nn, torch
from everlearn.families.neural import losses, network, replay_sampler, requirements, row_buffer
from everlearn.families.neural.contract import Inputs, Net, TensorRows
from everlearn.families.neural.inputs import InputReader
from everlearn.families.neural.losses import Losses
from everlearn.families.neural.named_tensors import BoundModule, ModuleNames
from everlearn.families.neural.optimizer import TensorOptimizer
from everlearn.families.neural.replay_sampler import ReplaySampler
from everlearn.families.neural.requirements import PlacedTerm
from everlearn.families.neural.seeding import Seeded
from everlearn.families.neural.settings import Settings
from everlearn.families.neural.terms import FUNCTIONS, replay
from everlearn.families.neural.terms.replay import Replay
from everlearn.spec import DriftSpec


@dataclass(frozen=True, slots=True)
class TermPlan:
    """The terms of the loss, by what they do in a step.

    `every` are all terms, `draws` the number of rows that each draws for a pass. `replacing` is the term that replaces
    the loss of the new rows, `joint` the place of a replay term whose loss is the mean over new and drawn rows
    together, which costs half the work of two losses; at most one of them is set.
    """

    every: tuple[PlacedTerm, ...]
    draws: list[int]
    replacing: PlacedTerm | None
    joint: int | None
    adding: tuple[PlacedTerm, ...]
    changing_gradients: tuple[PlacedTerm, ...]
    after_steps: tuple[PlacedTerm, ...]
    consolidating: tuple[PlacedTerm, ...]
    need_outputs: bool  # True if any term reads the outputs of the pass


@dataclass(frozen=True, slots=True)
class Plan:
    """How each minibatch is learned. `module`, its `weights` and `optimizer` work on the tensors that were bound last.

    `call` is the forward pass, `loss` the loss of outputs and labels, `heads` the classes that compete, bool (classes,
    classes). `sampler` draws remembered rows, if the network `remembers` any. `drift` is the detector on the network's
    own loss, or None; `consolidates`: some term takes anchors, so the newest rows are kept.
    """

    settings: Settings
    names: ModuleNames
    module: BoundModule
    weights: dict[str, nn.Parameter]
    optimizer: TensorOptimizer
    device: torch.device
    seeded: Seeded
    call: Callable[[Inputs], Tensor]
    loss: Losses
    heads: Tensor | None
    terms: TermPlan
    sampler: ReplaySampler
    remembers: bool
    consolidates: bool
    drift: DriftSpec | None

    @property
    def whole(self) -> bool:
        """True if rows wait in a dtype of whole numbers, that of the memory."""
        return self.remembers and self.settings.memory.dtype in row_buffer.WHOLE

    @property
    def revises(self) -> bool:
        """True if losses or gradients of remembered rows decide which of them stay."""
        return self.remembers and self.settings.memory.kind in ("loss", "gradient")


def plan(settings: Settings, reader: InputReader, module: nn.Module, names: ModuleNames) -> Plan:
    """Plan the training of a module that is ready for it. Raises `ConfigError` for settings that do not fit it."""
    bound = BoundModule(module)
    weights: dict[str, nn.Parameter] = {name: bound.parameters[name] for name in names.trained}
    device = next(iter(weights.values())).device
    seeded = Seeded(settings.seed, device)
    forward: Any = torch.compile(module) if settings.compile else module
    competing = losses.heads(settings)
    loss = losses.loss(settings)
    if settings.batch == 1:
        with seeded.by(0):
            requirements.try_alone(module, settings, reader)
    optimizer = TensorOptimizer(settings, weights)
    terms = term_plan(settings)
    return Plan(
        settings=settings,
        names=names,
        module=bound,
        weights=weights,
        optimizer=optimizer,
        device=device,
        seeded=seeded,
        call=partial(network.forward, forward, columns=settings.outputs, precision=settings.precision),
        loss=loss,
        heads=None if competing is None else competing.to(device),
        terms=terms,
        sampler=replay_sampler.sampler(
            settings, device, terms.draws, keeps_outputs=any(term.remembers for _, _, term in terms.every)
        ),
        remembers=requirements.remembers(settings),
        consolidates=requirements.consolidates(settings, list(terms.every)),
        drift=_detector(settings),
    )


def network_in(
    plan: Plan,
    draw: Callable[[int, int], TensorRows],
    *,
    step: int = 0,
    rate: float = 0.0,
    unseen: Tensor | None = None,
    log_frequencies: Tensor | None = None,
) -> Net:
    """Return the network as terms see it in one pass; `unseen` and `log_frequencies` are those of `losses.masked`."""
    return Net(
        module=plan.module.module,
        weights=cast(Tensors, plan.weights),
        columns=plan.settings.outputs,
        classes=plan.settings.classes,
        seed=plan.settings.seed,
        call=plan.call,
        losses=partial(_row_losses, plan, unseen, log_frequencies),
        draw=draw,
        rate=rate,
        step=step,
    )


def _row_losses(
    plan: Plan, unseen: Tensor | None, log_frequencies: Tensor | None, outputs: Tensor, rows: TensorRows
) -> Tensor:
    return plan.loss(losses.masked(outputs, rows.y, plan.heads, unseen, log_frequencies), rows.y)


def term_plan(settings: Settings) -> TermPlan:
    """Sort the terms of a spec by what they do in a step."""
    every: tuple[PlacedTerm, ...] = tuple((i, term, FUNCTIONS[type(term)]) for i, term in enumerate(settings.terms))
    draws = [requirements.wanted(term, own, settings.batch) for _, own, term in every]
    replacing = [planned for planned in every if planned[2].fresh is not None]
    joint = None
    if len(replacing) == 1:
        place, own, _ = replacing[0]
        first_drawing = next((i for i, rows in enumerate(draws) if rows), None)
        if isinstance(own, Replay) and replay.joins(own) and place == first_drawing:
            joint = place
    adding = tuple(planned for planned in every if planned[2].loss is not None and planned[0] != joint)
    changing = tuple(planned for planned in every if planned[2].gradient is not None)
    after = tuple(planned for planned in every if planned[2].stepped is not None)
    replaces = replacing[-1] if replacing and joint is None else None
    return TermPlan(
        every=every,
        draws=draws,
        replacing=replaces,
        joint=joint,
        adding=adding,
        changing_gradients=changing,
        after_steps=after,
        consolidating=tuple(planned for planned in every if planned[2].consolidate is not None),
        need_outputs=bool(adding or changing or after or replaces),
    )


def _detector(settings: Settings) -> DriftSpec | None:
    chosen = settings.drift
    if chosen.detector == "none":
        return None
    return DriftSpec(
        detector=chosen.detector, watch="loss", sensitivity=chosen.sensitivity, grace_period=chosen.grace_period
    )
