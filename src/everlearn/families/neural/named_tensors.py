"""Named tensors, and the modules that compute with them."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Mapping
from typing import NamedTuple

from everlearn._torch import Tensor, Tensors, array, nn, torch
from everlearn.errors import ConfigError

SERVED, RAW = "weights/", "learn/raw/"
FROZEN = "base"  # the digest of weights that the module makes again from its seed


class ModuleNames(NamedTuple):
    """The names of a module's trained parameters, its other parameters, and its buffers in `state_dict`."""

    trained: tuple[str, ...]
    fixed: tuple[str, ...]
    buffers: tuple[str, ...]


def names(module: nn.Module) -> ModuleNames:
    """Return the names of a module's tensors; raise `ConfigError` for a dtype that arrays do not have."""
    parameters = dict(module.named_parameters())
    persistent = module.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    for name, value in {**parameters, **buffers}.items():
        if value.dtype in (torch.bfloat16, torch.complex64, torch.complex128):
            raise ConfigError(
                f"neural model: {name!r} is {value.dtype}; expected float32, with precision 'bfloat16' for passes in it"
            )
    trained = tuple(name for name, parameter in parameters.items() if parameter.requires_grad)
    return ModuleNames(trained, tuple(name for name in parameters if name not in trained), tuple(buffers))


class BoundModule:
    """A module whose parameters and buffers are the tensors that were bound last.

    Several models may share one. `holder` is the object that bound last; hold `lock` from binding to the end of the
    pass.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters = dict(module.named_parameters())
        self._owners: list[tuple[str, nn.Module, str]] = []
        for name in names(module).buffers:
            path, _, leaf = name.rpartition(".")
            self._owners.append((name, module.get_submodule(path), leaf))
        self.holder: object = None
        self.lock = threading.Lock()

    def bind(self, tensors: Mapping[str, Tensor], holder: object = None) -> None:
        """Use these tensors, by the names of parameters and buffers. Parameters without a tensor stay as they are."""
        for name, parameter in self.parameters.items():
            if name in tensors:
                parameter.data = tensors[name]
        for name, owner, leaf in self._owners:
            owner._buffers[leaf] = tensors[name]
        self.holder = holder

    def gather(self, tensors: Tensors) -> None:
        """Copy buffers that the module replaced into the bound tensors, and use those again."""
        for name, owner, leaf in self._owners:
            now = owner._buffers[leaf]
            if now is not tensors[name] and now is not None:
                tensors[name].copy_(now)
                owner._buffers[leaf] = tensors[name]


def sharing_copy(module: nn.Module, trained: tuple[str, ...] = ()) -> nn.Module:
    """Return a copy of a module around the same tensors, in which only `trained` parameters require gradients."""
    known: dict[int, object] = {}
    for name, parameter in module.named_parameters():
        known[id(parameter)] = (
            nn.Parameter(parameter.data, requires_grad=name in trained)
            if type(parameter) is nn.Parameter
            else parameter
        )
    persistent = module.state_dict(keep_vars=True).keys()
    known |= {id(buffer): buffer for name, buffer in module.named_buffers() if name in persistent}
    return copy.deepcopy(module, known)


def under(prefix: str, tensors: Tensors) -> Tensors:
    """Return these tensors with a prefix before their names."""
    return {prefix + name: value for name, value in tensors.items()}


def within(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def digest(module: nn.Module, fixed: tuple[str, ...]) -> Tensor:
    """Return the SHA-256 of these parameters, their names, shapes and dtypes, uint8 (32,)."""
    sha, parameters = hashlib.sha256(), dict(module.named_parameters())
    for name in fixed:
        sha.update(f"{name} {tuple(parameters[name].shape)} {parameters[name].dtype}\n".encode())
        sha.update(array(parameters[name].data.contiguous().reshape(-1).view(torch.uint8)).tobytes())
    return torch.frombuffer(bytearray(sha.digest()), dtype=torch.uint8)
