"""Take optimiser steps, with the optimiser's state in named tensors that exist from the start."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from everlearn._torch import Tensor, Tensors, nn, torch
from everlearn.errors import ConfigError
from everlearn.families.neural.network import load_function
from everlearn.families.neural.settings import Schedule, Settings

log = logging.getLogger("everlearn.families.neural")

PREFIX = "learn/optimizer/"
STEEPEST = 1e18  # bound of losses and gradients: the square of a larger number is not a float32
GROWTH, BACKOFF, STEADY = 2.0, 0.5, 2000  # of the scale of float16 losses
_EXTRAS = ("momentum", "weight_decay", "nesterov", "maximize", "differentiable")  # beyond plain gradient descent


def make(settings: Settings, weights: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimiser of a spec: the name of one in `torch.optim`, in any case, or "module:Class", with arguments.

    It runs fused, or over all weights at once, where it can, unless the arguments choose. Raises `ConfigError`.
    """
    arguments = dict(settings.optimizer)
    name = str(arguments.pop("name", "adam"))
    if ":" in name:
        maker = load_function(name, "optimizer.name")
    elif name.lower() in known():
        maker = known()[name.lower()]
    else:
        raise ConfigError(
            f"neural model: optimizer.name is {name!r}, expected one of {', '.join(known())}, or 'your_module:Class'"
        )
    if not {"fused", "foreach", "capturable", "differentiable"} & arguments.keys():
        parameters = inspect.signature(maker).parameters
        fuses = all(weight.dtype == torch.float32 for weight in weights.values())
        fuses &= not (maker is torch.optim.SGD and arguments.get("momentum"))  # fused, all weights must begin at once
        if "fused" in parameters and fuses:
            arguments["fused"] = True
        elif "foreach" in parameters:
            arguments["foreach"] = True
    try:
        return cast(torch.optim.Optimizer, maker(list(weights.values()), **arguments))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"neural model: optimizer {name!r}: {error}") from error


def known() -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """Return the optimisers of PyTorch, by their lower-case names."""
    kind = torch.optim.Optimizer
    found = {
        name: member
        for name, member in vars(torch.optim).items()
        if isinstance(member, type) and issubclass(member, kind)
    }
    return {name.lower(): found[name] for name in sorted(found) if found[name] is not kind}


class TensorOptimizer:
    """A PyTorch optimiser whose state lives in named tensors, all allocated before the first step.

    PyTorch makes the state of a weight at its first gradient. Until then the tensors are 0 and the optimiser has no
    state for the weight. The optimiser's `step` is above 0 once a weight has state; an optimiser without `step` gets
    the extra tensor `begun`.
    """

    def __init__(self, settings: Settings, weights: dict[str, nn.Parameter]) -> None:
        self.optimizer = make(settings, weights)
        self.rate = float(self.optimizer.param_groups[0]["lr"])
        self.start: Tensors = {}
        self._weights, self._all = weights, list(weights.values())
        self._scalars: list[tuple[str, nn.Parameter, str, type]] = []  # plain numbers, copied to tensors after a step
        self._keys: list[tuple[str, nn.Parameter, str]] = []
        self._begun: dict[nn.Parameter, str] = {}  # name of the tensor that is 0 until a weight has state
        self._idle: set[nn.Parameter] = set()  # weights without state
        self._find_layout(settings)
        defaults = self.optimizer.param_groups[0]
        self._plain = type(self.optimizer) is torch.optim.SGD and not any(defaults[name] for name in _EXTRAS)

    def _find_layout(self, settings: Settings) -> None:
        """Find the names and shapes of the state by a step of zero gradients on copies."""
        copies = {name: nn.Parameter(weight.detach().clone()) for name, weight in self._weights.items()}
        trial = make(settings, copies)
        groups = [{key: value for key, value in group.items() if key != "params"} for group in trial.param_groups]
        for weight in copies.values():
            weight.grad = torch.zeros_like(weight)
        try:
            trial.step()
        except TypeError as error:
            raise ConfigError(
                f"neural model: optimizer {settings.optimizer.get('name')!r} steps otherwise: {error}"
            ) from error
        after = [{key: value for key, value in group.items() if key != "params"} for group in trial.param_groups]
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
                path = f"{PREFIX}{name}/{key}"
                if isinstance(value, Tensor):
                    self.start[path] = torch.zeros_like(value, memory_format=torch.contiguous_format)
                    self._keys.append((path, self._weights[name], key))
                elif isinstance(value, int | float):
                    dtype = torch.int64 if isinstance(value, int) else torch.float64
                    self.start[path] = torch.zeros((), dtype=dtype)
                    self._scalars.append((path, self._weights[name], key, type(value)))
                elif value is not None:
                    raise ConfigError(
                        f"neural model: the optimizer's {key!r} is a {type(value).__name__}, not a tensor"
                    )

    def bind(self, tensors: Tensors, steps: int) -> None:
        """Continue from these tensors, after so many steps."""
        self.optimizer.state.clear()
        self._idle = {weight for weight, path in self._begun.items() if not steps or not tensors[path].item()}
        for path, weight, key in self._keys:
            if weight not in self._idle:
                self.optimizer.state[weight][key] = tensors[path]
        for path, weight, key, kind in self._scalars:
            if weight not in self._idle:
                self.optimizer.state[weight][key] = kind(tensors[path].item())

    def step(self, tensors: Tensors, rate: float) -> None:
        """Take one step at this learning rate."""
        if self._plain:  # the same arithmetic, without the optimiser's overhead
            moving: list[Tensor] = [weight for weight in self._all if weight.grad is not None]
            torch._foreach_add_(moving, [cast(Tensor, weight.grad) for weight in moving], alpha=-rate)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for path, weight, key, _ in self._scalars:
            tensors[path].fill_(self.optimizer.state.get(weight, {}).get(key, 0))
        if self._idle:
            self._adopt(tensors)

    def _adopt(self, tensors: Tensors) -> None:
        """Move state that the optimiser made for weights with their first gradient into the tensors."""
        begun = {weight for weight in self._idle if self.optimizer.state.get(weight)}
        for path, weight, key in self._keys:
            if weight in begun:
                held = self.optimizer.state[weight]
                if key in held:
                    tensors[path].copy_(held[key])
                held[key] = tensors[path]
        for weight in begun:
            if self._begun[weight].endswith("/begun"):
                tensors[self._begun[weight]].fill_(1)
        self._idle -= begun


def finite(total: Tensor, weights: Sequence[Tensor]) -> bool:
    """Return True if the loss and all gradients are finite, and so are their squares in float32."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if total.device.type != "cpu":
        return bool(torch.stack([*torch._foreach_norm(gradients), total.abs().to(gradients[0].dtype)]).max() < STEEPEST)
    size = abs(float(total))
    with np.errstate(over="ignore", invalid="ignore"):
        for gradient in gradients:  # twice as fast as a norm
            flat = gradient.numpy().reshape(-1)
            size += float(np.dot(flat, flat))
    return size < STEEPEST**2


def warn(skipped: int, passes: int) -> None:
    """Log that a minibatch was not learned, the 1st, 2nd, 4th, 8th ... time."""
    if skipped & (skipped - 1) == 0:
        log.warning(
            "a network did not learn from a minibatch, whose loss or gradient is not finite (%d of %d so far); lower "
            "optimizer.lr, set clip, or look for rows that are far from all others",
            skipped,
            passes,
        )


def rescale(scale: Tensor, steady: Tensor, finite: bool) -> None:
    """Scale the loss of float16 passes up while gradients stay finite, else down (Micikevicius et al. 2018)."""
    if not finite:
        steady.zero_()
        scale.mul_(BACKOFF)
        return
    steady.add_(1)
    if int(steady) % STEADY == 0:
        scale.mul_(GROWTH)


def rate(schedule: Schedule, step: int) -> float:
    """Return the factor of the learning rate at a step, counted from 0.

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
