"""Prepare a module for training: choose the device, add adapters, check that the module takes rows of the spec."""

from __future__ import annotations

import re
from typing import Any

from everlearn._torch import nn, torch
from everlearn.errors import ConfigError, EverlearnError
from everlearn.families.neural import inputs, network
from everlearn.families.neural.settings import Settings


def device(settings: Settings) -> torch.device:
    """Return the device of a spec. Raises `ConfigError` for an unknown device, or float16 on a CPU."""
    wanted = settings.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    kind = wanted.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"neural model: device is {settings.device!r}, expected 'cpu', 'cuda', 'cuda:1' or 'auto'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"neural model: device is {settings.device!r}, and PyTorch sees no GPU here; try 'auto'")
    if settings.precision == "float16" and kind == "cpu":
        raise ConfigError("neural model: precision 'float16' is for GPUs; expected 'bfloat16' or 'float32' on a CPU")
    return torch.device(wanted)


def prepare(module: nn.Module, settings: Settings, device: torch.device, stored: bool = False) -> nn.Module:
    """Return the module on its device, with its adapters, after a trial pass that finishes lazy layers.

    A `stored` spec, of an earlier layout, may have adapters that a new one must not.
    Raises `ConfigError` for anything but a dense module that takes rows of this spec.
    """
    given: Any = module
    if not isinstance(given, nn.Module):
        got = f"the class {given.__name__}" if isinstance(given, type) else f"something of type {type(given).__name__}"
        raise ConfigError(
            f"neural model: got {got}, expected a torch.nn.Module in hand: call what makes it, as in Neural(Net(), ...)"
        )
    if sparse := [name for name, layer in module.named_modules() if getattr(layer, "sparse", False) is True]:
        raise ConfigError(
            f"neural model: the layer {sparse[0]!r} has sparse=True, and steps are taken with dense gradients; make it "
            "with sparse=False"
        )
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(settings.seed)
    try:
        if settings.lora is not None:
            from everlearn.families.neural import lora

            module = lora.adapt(module, settings.lora, settings.seed, mergeable=not stored)
        module = module.to(device)
        _try(module, settings, device)
    finally:
        torch.set_rng_state(state)
    for held in [*module.parameters(), *module.buffers()]:
        if not held.is_contiguous():
            held.data = held.data.contiguous()
    return module


def _try(module: nn.Module, settings: Settings, device: torch.device) -> None:
    """Run the module on two rows of this spec, and leave it unchanged. Raises `ConfigError` if it fails."""
    modes = [layer.training for layer in module.modules()]
    width = settings.width if settings.hashed else 0
    none = torch.zeros((2, settings.dense)), torch.zeros((2, width), dtype=torch.int32), torch.zeros((2, width))
    x = inputs.reader(settings, device).inputs(*none)
    try:
        with torch.no_grad():
            network.forward(module.eval(), x, settings.outputs)
    except EverlearnError:
        raise
    except Exception as error:  # of the user's own code: anything
        shapes = ", ".join(f"{part.dtype} {tuple(part.shape)}".removeprefix("torch.") for part in x)
        advice = hint(module, settings, str(error))
        raise ConfigError(
            f"neural model: the module cannot take rows ({shapes}): {network.describe(error)}; {advice}"
        ) from error
    for layer, mode in zip(module.modules(), modes, strict=True):
        layer.training = mode


def hint(module: nn.Module, settings: Settings, message: str) -> str:
    """Return which setting to change when a module failed on rows with this message."""
    if settings.hashed:
        return (
            "hashed features (of fields of categories or text) come as two more arguments, indices and values; where "
            "the module is to see them as numbers, make the fields numeric in the schema"
        )
    looks_up = any(isinstance(layer, nn.Embedding | nn.EmbeddingBag) for layer in module.modules())
    if settings.dtype == "float32" and re.search(r"'indices'|\b(Long|LongTensor|int64)\b", message):
        more = (
            f", and where it names shape as well, shape = [{settings.dense}]" if looks_up and not settings.shape else ""
        )
        return f'it looks rows up, and wants whole numbers (tokens): set dtype = "int64"{more}'
    if settings.dtype == "int64" and re.search(r"\b(Long|LongTensor|Int|int64|integral|floating)\b", message):
        return 'it calculates with rows: set dtype = "float32", or leave dtype out'
    if re.search(
        r"\d-?D\b|[Dd]imension|\bdims?\b|unpack|input\[|input\.size|channels|too many indices|'permute\('", message
    ):
        now = f"shape is {list(settings.shape)}" if settings.shape else f"rows come flat, as {settings.dense} numbers"
        return (
            f"{now}: set shape to what the module takes for one row, for instance [channels, height, width] of an "
            f"image or [steps, channels] of a sequence, {settings.dense} numbers in all"
        )
    return (
        f"a row is {list(settings.shape) or [settings.dense]} of {settings.dtype}, as the dials shape and dtype say: "
        "set them, or let the module take it"
    )
