"""Any optimiser of PyTorch's form, with its state as named tensors that exist from the start."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from everlearn._torch import Tensor, Tensors, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.network import found
from everlearn.families.neural.settings import Schedule, Settings

log = logging.getLogger("everlearn.families.neural")

PREFIX = "learn/optimizer/"
STEEPEST = 1e18  # gradients beyond this are not taken for numbers: their squares are no float32
GROWTH, BACKOFF, STEADY = 2.0, 0.5, 2000  # of the scale of float16 losses
_BENDS = ("momentum", "weight_decay", "nesterov", "maximize", "differentiable")  # of plain descent


def make(chosen: Settings, weights: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of a spec: the name of one in `torch.optim`, in any case, or "module:Class", and its arguments.

    It runs fused, or over all weights at once, where it can and nothing else is said. Raises `ConfigError`.
    """
    told = dict(chosen.optimizer)
    name = str(told.pop("name", "adam"))
    if ":" in name:
        maker = found(name, "optimizer.name")
    elif name.lower() in known():
        maker = known()[name.lower()]
    else:
        raise ConfigError(
            f"neural model: optimizer.name is {name!r}, expected one of {', '.join(known())}, or 'your_module:Class'"
        )
    if not {"fused", "foreach", "capturable", "differentiable"} & told.keys():
        takes = inspect.signature(maker).parameters
        whole = all(one.dtype == torch.float32 for one in weights.values())
        whole &= not (maker is torch.optim.SGD and told.get("momentum"))  # fused, it wants all weights to begin at once
        told |= {"fused": True} if "fused" in takes and whole else {"foreach": True} if "foreach" in takes else {}
    try:
        return cast(torch.optim.Optimizer, maker(list(weights.values()), **told))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"neural model: optimizer {name!r}: {error}") from error


def known() -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """The optimisers of PyTorch, by their names in small letters."""
    kind = torch.optim.Optimizer
    found = {name: one for name, one in vars(torch.optim).items() if isinstance(one, type) and issubclass(one, kind)}
    return {name.lower(): found[name] for name in sorted(found) if found[name] is not kind}


class State:
    """The state of an optimiser as named tensors.

    That of a weight is in the optimiser only from its first gradient on: before, an optimiser makes its own, as it
    would by itself. Which weights had one says the optimiser's `step`, or `begun` where it counts no steps.
    """

    def __init__(self, chosen: Settings, weights: dict[str, nn.Parameter]) -> None:
        self.optimizer = make(chosen, weights)
        self._weights, self._all = weights, list(weights.values())
        self.start: Tensors = {}
        self._scalars: list[tuple[str, nn.Parameter, str, type]] = []  # plain numbers, which are not written in place
        self._keys: list[tuple[str, nn.Parameter, str]] = []
        self._begun: dict[nn.Parameter, str] = {}  # the tensor that is 0 until a weight has a state
        self._idle: set[nn.Parameter] = set()  # weights that have none yet
        self._look(chosen)
        dials = self.optimizer.param_groups[0]
        self._plain = type(self.optimizer) is torch.optim.SGD and not any(dials[name] for name in _BENDS)

    def _look(self, chosen: Settings) -> None:
        """Find out what there will be, by a step of zero gradients on copies."""
        copies = {name: nn.Parameter(one.detach().clone()) for name, one in self._weights.items()}
        trial = make(chosen, copies)
        groups = [{key: value for key, value in one.items() if key != "params"} for one in trial.param_groups]
        for one in copies.values():
            one.grad = torch.zeros_like(one)
        try:
            trial.step()
        except TypeError as error:
            raise ConfigError(
                f"neural model: optimizer {chosen.optimizer.get('name')!r} steps otherwise: {error}"
            ) from error
        after = [{key: value for key, value in one.items() if key != "params"} for one in trial.param_groups]
        if groups != after:
            raise ConfigError(
                "neural model: this optimizer keeps what it learns in its groups, where it cannot be kept"
            )
        for name, copied in copies.items():
            state = trial.state[copied]
            if state:
                mark = "step" if float(state.get("step") or 0.0) > 0.0 else "begun"
                self._begun[self._weights[name]] = f"{PREFIX}{name}/{mark}"
                if mark == "begun":
                    self.start[f"{PREFIX}{name}/begun"] = torch.zeros((), dtype=torch.int64)
            for key, value in state.items():
                whole = f"{PREFIX}{name}/{key}"
                if isinstance(value, Tensor):
                    self.start[whole] = torch.zeros_like(value, memory_format=torch.contiguous_format)
                    self._keys.append((whole, self._weights[name], key))
                elif isinstance(value, int | float):
                    dtype = torch.int64 if isinstance(value, int) else torch.float64
                    self.start[whole] = torch.zeros((), dtype=dtype)
                    self._scalars.append((whole, self._weights[name], key, type(value)))
                elif value is not None:
                    raise ConfigError(
                        f"neural model: the optimizer's {key!r} is a {type(value).__name__}, not a tensor"
                    )

    def bind(self, tensors: Tensors, taken: int) -> None:
        """Let the optimiser go on from these tensors, after so many steps."""
        self.optimizer.state.clear()
        self._idle = {weight for weight, whole in self._begun.items() if not taken or not tensors[whole].item()}
        for whole, weight, key in self._keys:
            if weight not in self._idle:
                self.optimizer.state[weight][key] = tensors[whole]
        for whole, weight, key, kind in self._scalars:
            if weight not in self._idle:
                self.optimizer.state[weight][key] = kind(tensors[whole].item())

    def step(self, tensors: Tensors, rate: float) -> None:
        """One step at this rate."""
        if self._plain:  # the same arithmetic, without what an optimiser does around it
            having: list[Tensor] = [one for one in self._all if one.grad is not None]
            torch._foreach_add_(having, [cast(Tensor, one.grad) for one in having], alpha=-rate)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for whole, weight, key, _ in self._scalars:
            tensors[whole].fill_(self.optimizer.state.get(weight, {}).get(key, 0))
        if self._idle:
            self._begin(tensors)

    def _begin(self, tensors: Tensors) -> None:
        """What the optimiser has made for weights with their first gradient is in the tensors from now on."""
        begun = {weight for weight in self._idle if self.optimizer.state.get(weight)}
        for whole, weight, key in self._keys:
            if weight in begun:
                held = self.optimizer.state[weight]
                if key in held:
                    tensors[whole].copy_(held[key])
                held[key] = tensors[whole]
        for weight in begun:
            if self._begun[weight].endswith("/begun"):
                tensors[self._begun[weight]].fill_(1)
        self._idle -= begun


def finite(total: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether the loss and all gradients are numbers whose squares are numbers, too."""
    slopes = [one.grad for one in weights if one.grad is not None]
    if total.device.type != "cpu":
        return bool(torch.stack([*torch._foreach_norm(slopes), total.abs().to(slopes[0].dtype)]).max() < STEEPEST)
    most = abs(float(total))
    with np.errstate(over="ignore", invalid="ignore"):
        for one in slopes:  # twice as fast as a norm
            flat = one.numpy().reshape(-1)
            most += float(np.dot(flat, flat))
    return most < STEEPEST**2


def warn(skipped: int, passes: int) -> None:
    """Say that a minibatch was not learned, the 1st, 2nd, 4th, 8th ... time."""
    if skipped & (skipped - 1) == 0:
        log.warning(
            "a network did not learn from a minibatch, whose loss or gradient is not finite (%d of %d so far); lower "
            "optimizer.lr, set clip, or look for rows that are far from all others",
            skipped,
            passes,
        )


def rescale(scale: Tensor, steady: Tensor, finite: bool) -> None:
    """The loss of float16 passes is scaled up as long as gradients stay finite (Micikevicius et al. 2018)."""
    if not finite:
        steady.zero_()
        scale.mul_(BACKOFF)
        return
    steady.add_(1)
    if int(steady) % STEADY == 0:
        scale.mul_(GROWTH)


def rate(schedule: Schedule, step: int) -> float:
    """What the learning rate is multiplied by at a step, counted from 0.

    >>> down = Schedule(kind="cosine", warmup=2, steps=10, floor=0.1)
    >>> [round(rate(down, step), 3) for step in (0, 1, 2, 7, 12, 99)]
    [0.5, 1.0, 1.0, 0.55, 0.1, 0.1]
    """
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    if schedule.kind == "constant":
        return 1.0
    done = min(1.0, (step - schedule.warmup) / schedule.steps)
    left = 1.0 - done if schedule.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return schedule.floor + (1.0 - schedule.floor) * left
