"""Named tensors and the modules that they are poured into."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Mapping
from typing import NamedTuple

from everlearn._torch import Tensor, Tensors, array, nn, torch
from everlearn.errors import ConfigError

SERVED, RAW = "weights/", "learn/raw/"
FROZEN = "base"  # the digest of weights that are made anew with the module


class Names(NamedTuple):
    """What a module holds, by name: parameters that are trained, others, and buffers (those of `state_dict`)."""

    trained: tuple[str, ...]
    fixed: tuple[str, ...]
    buffers: tuple[str, ...]


def names(module: nn.Module) -> Names:
    """What this module holds; raises `ConfigError` if it has numbers that arrays do not have."""
    parameters = dict(module.named_parameters())
    persistent = module.state_dict(keep_vars=True).keys()
    buffers = {name: one for name, one in module.named_buffers() if name in persistent}
    for name, one in {**parameters, **buffers}.items():
        if one.dtype in (torch.bfloat16, torch.complex64, torch.complex128):
            raise ConfigError(
                f"neural model: {name!r} is {one.dtype}; expected float32, with precision 'bfloat16' for passes in it"
            )
    trained = tuple(name for name, one in parameters.items() if one.requires_grad)
    return Names(trained, tuple(name for name in parameters if name not in trained), tuple(buffers))


class Mould:
    """A module whose parameters and buffers are whatever tensors were last poured into it.

    `held` is who poured last, and `lock` is to be held from pouring to the end of the pass: a mould may be shared.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters = dict(module.named_parameters())
        self._owners: list[tuple[str, nn.Module, str]] = []
        for name in names(module).buffers:
            path, _, leaf = name.rpartition(".")
            self._owners.append((name, module.get_submodule(path), leaf))
        self.held: object = None
        self.lock = threading.Lock()

    def pour(self, tensors: Mapping[str, Tensor], holder: object = None) -> None:
        """Take these tensors, by the names of parameters and buffers; those that are not given stay."""
        for name, parameter in self.parameters.items():
            if name in tensors:
                parameter.data = tensors[name]
        for name, owner, leaf in self._owners:
            owner._buffers[leaf] = tensors[name]
        self.held = holder

    def gather(self, tensors: Tensors) -> None:
        """Take back what the module put in the place of its buffers, into the tensors that were poured."""
        for name, owner, leaf in self._owners:
            now = owner._buffers[leaf]
            if now is not tensors[name] and now is not None:
                tensors[name].copy_(now)
                owner._buffers[leaf] = tensors[name]


def twin(module: nn.Module, trained: tuple[str, ...] = ()) -> nn.Module:
    """A copy of a module, around the same tensors, of which only `trained` asks for gradients."""
    known: dict[int, object] = {}
    for name, one in module.named_parameters():
        known[id(one)] = nn.Parameter(one.data, requires_grad=name in trained) if type(one) is nn.Parameter else one
    persistent = module.state_dict(keep_vars=True).keys()
    known |= {id(one): one for name, one in module.named_buffers() if name in persistent}
    return copy.deepcopy(module, known)


def under(prefix: str, tensors: Tensors) -> Tensors:
    """These tensors, with this before their names."""
    return {prefix + name: one for name, one in tensors.items()}


def within(tensors: Tensors, prefix: str) -> Tensors:
    """Those of the tensors whose names begin so, without it."""
    return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}


def digest(module: nn.Module, fixed: tuple[str, ...]) -> Tensor:
    """The SHA-256 of parameters that are made anew with the module, uint8 (32,)."""
    sha, parameters = hashlib.sha256(), dict(module.named_parameters())
    for name in fixed:
        sha.update(f"{name} {tuple(parameters[name].shape)} {parameters[name].dtype}\n".encode())
        sha.update(array(parameters[name].data.contiguous()).tobytes())
    return torch.frombuffer(bytearray(sha.digest()), dtype=torch.uint8)
