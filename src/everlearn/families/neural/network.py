"""Make the network of a spec, by the name of its maker and from a seed, and run its forward pass."""

from __future__ import annotations

import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from everlearn._torch import Tensor, nn, torch
from everlearn.errors import ConfigError, EverlearnError, InputError
from everlearn.families.neural.contract import Inputs
from everlearn.families.neural.settings import Settings

FILLED_IN = ("dense", "hashed", "classes", "outputs", "width", "shape")  # settings passed to makers that have them
BUCKETS = 4096  # rows of the built-in table of hashed features
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def make(settings: Settings) -> nn.Module:
    """Make the module of a spec, with random numbers from `seed`; PyTorch's global generator keeps its state.

    The maker is called with `arguments`, and with those of dense, hashed, classes, outputs, width and shape that are
    parameters of it and not in `arguments`. Raises `ConfigError` for an unknown maker, a maker that fails, or a result
    that is no module.
    """
    if settings.module.startswith("<"):
        raise ConfigError(
            f"this model was made of a module in hand ({settings.module[1:-1]}), which its spec cannot make again; "
            "write a function that makes the module, in a file that can be imported, and name it: "
            '{"family": "your_file:make_net", ...}'
        )
    maker = Mlp if settings.module == "mlp" else load_function(settings.module, "module")
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(settings.seed)
        module = maker(**filled_in(maker, settings))
    except EverlearnError:
        raise
    except Exception as error:  # of the user's own code: anything
        unset = not settings.shape and "shape" in inspect.signature(maker).parameters
        shape = f"; it names shape, which is not set: set it to that of one row, {settings.dense} numbers in all"
        raise ConfigError(
            f"neural model: {settings.module!r} with arguments {settings.arguments} made no module: {describe(error)}"
            f"{shape if unset else ''}"
        ) from error
    finally:
        torch.set_rng_state(state)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"neural model: {settings.module!r} made a {type(module).__name__}, expected a torch.nn.Module"
        )
    return module


def filled_in(maker: Callable[..., Any], settings: Settings) -> dict[str, Any]:
    """Return the arguments of a maker: `arguments`, and the settings in FILLED_IN that are its parameters."""
    known = {name: getattr(settings, name) for name in FILLED_IN}
    parameters = inspect.signature(maker).parameters
    return {name: value for name, value in known.items() if name in parameters} | dict(settings.arguments)


def load_function(target: str, setting: str) -> Callable[..., Any]:
    """Import "module:name" and return the function. Raises `ConfigError` with the name of the setting if it fails."""
    module, colon, name = target.partition(":")
    if not colon:
        raise ConfigError(f"neural model: {setting} is {target!r}, expected 'your_module:function'")
    try:
        function = getattr(importlib.import_module(module), name)
    except EverlearnError:
        raise
    except Exception as error:  # of the user's own code: anything
        reason = f"importing {module!r} failed: {describe(error)}"
        if isinstance(error, ModuleNotFoundError) and (not error.name or module.startswith(error.name)):
            reason = f"no module {module!r} can be imported"
        elif isinstance(error, AttributeError) and module in sys.modules:
            reason = f"{module!r} has no {name!r}"
        raise ConfigError(f"neural model: {setting} is {target!r}, and {reason}") from error
    if not callable(function):
        raise ConfigError(f"neural model: {setting} is {target!r}, a {type(function).__name__}; expected a function")
    return cast(Callable[..., Any], function)


def describe(error: Exception) -> str:
    """Return an exception's type and message: "ValueError: no file there"."""
    return f"{type(error).__name__}: {error}"


class Mlp(nn.Module):
    """A perceptron of dense columns and hashed features; hashed features share a table of `buckets` rows, by modulo.

    >>> from everlearn.families.neural.settings import read
    >>> module = make(read({"task": "binary", "dense": 3, "arguments": {"hidden": [8]}}))
    >>> sum(weight.numel() for weight in module.parameters()), module(torch.zeros(5, 3)).shape
    (50, torch.Size([5, 2]))
    """

    def __init__(
        self,
        dense: int,
        outputs: int,
        hashed: int = 0,
        hidden: Sequence[int] = (64, 64),
        dropout: float = 0.0,
        buckets: int = BUCKETS,
    ) -> None:
        super().__init__()
        widths = [*hidden, outputs]
        self.buckets = min(hashed, buckets)
        self.table = nn.EmbeddingBag(self.buckets, widths[0], mode="sum") if hashed else None
        self.first = nn.Linear(dense, widths[0]) if dense or not hashed else None
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=0.1)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else []), nn.Linear(before, after)]
        self.rest = nn.Sequential(*layers)

    def forward(self, dense: Tensor, indices: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        first = self.first(dense if dense.ndim == 2 else dense.flatten(1)) if self.first is not None else None
        if self.table is not None and indices is not None:
            bag = self.table(indices % self.buckets, per_sample_weights=values)
            first = bag if first is None else first + bag
        return cast(Tensor, self.rest(first))


def forward(module: Callable[..., Any], inputs: Inputs, columns: int, precision: str = "float32") -> Tensor:
    """Run one forward pass and return raw outputs, float32 (n, columns).

    Raises `InputError` for a token without an embedding, `ConfigError` for outputs of another shape.
    """
    try:
        if precision == "float32":
            outputs = module(*inputs)
        else:
            with torch.autocast(inputs[0].device.type, dtype=PRECISIONS[precision]):
                outputs = module(*inputs)
    except IndexError as error:
        if "out of" not in str(error) or "Dimension" in str(error):  # raised by the module's own code, not for a token
            raise
        raise InputError(
            f"the network cannot look up a row: {error}; expected tokens below the size of its embedding"
        ) from error
    if not isinstance(outputs, Tensor):
        outputs = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
    n = inputs[0].shape[0]
    if outputs.shape != (n, columns):
        if outputs.shape != (n,) or columns != 1:
            raise ConfigError(
                f"neural model: the module answered {n} rows with shape {tuple(outputs.shape)}, "
                f"expected {(n, columns)}: a logit for each class, or one number for a regression"
            )
        outputs = outputs[:, None]
    return cast(Tensor, outputs if outputs.dtype == torch.float32 else outputs.float())
