"""The module that learns: found by its name and made from a seed, or the built-in one; its answers and its losses."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from everlearn._torch import Tensor, functional, nn, torch
from everlearn.errors import ConfigError, EverlearnError, InputError
from everlearn.families.neural.contract import Inputs
from everlearn.families.neural.settings import Settings

Losses = Callable[[Tensor, Tensor], Tensor]

FILLED_IN = ("dense", "hashed", "classes", "outputs", "width", "shape")  # of a spec, for makers that name them
BUCKETS = 4096  # rows of the built-in table of hashed features
PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
LOW = -1e30  # a logit that is out of the question; not infinite, lest 0 * it is NaN


def make(chosen: Settings) -> nn.Module:
    """Make the module of a spec, its random numbers drawn from `seed`; the global ones stay as they are.

    The maker is called with `arguments`, and with those of dense, hashed, classes, outputs, width and shape that it
    names as parameters and `arguments` does not give. Raises `ConfigError` where there is no such maker, where it
    fails, or what it makes is no module.
    """
    if chosen.module.startswith("<"):
        raise ConfigError(
            f"this model was made of a module in hand ({chosen.module[1:-1]}), which its spec cannot make again; "
            "write a function that makes the module, in a file that can be imported, and name it: "
            '{"family": "your_file:make_net", ...}'
        )
    maker = Mlp if chosen.module == "mlp" else found(chosen.module, "module")
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(chosen.seed)
        module = maker(**filled_in(maker, chosen))
    except EverlearnError:
        raise
    except Exception as error:  # of the user's own code: anything
        unset = not chosen.shape and "shape" in inspect.signature(maker).parameters
        more = f"; it names shape, which is not set: set it to that of one row, {chosen.dense} numbers in all"
        raise ConfigError(
            f"neural model: {chosen.module!r} with arguments {chosen.arguments} made no module: {told(error)}"
            f"{more if unset else ''}"
        ) from error
    finally:
        torch.set_rng_state(state)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"neural model: {chosen.module!r} made a {type(module).__name__}, expected a torch.nn.Module")
    return module


def filled_in(maker: Callable[..., Any], chosen: Settings) -> dict[str, Any]:
    """The arguments of a maker, with what it names of the shape of rows."""
    shape = {name: getattr(chosen, name) for name in FILLED_IN}
    named = inspect.signature(maker).parameters
    return {name: value for name, value in shape.items() if name in named} | dict(chosen.arguments)


def found(target: str, dial: str) -> Callable[..., Any]:
    """What "module:name" stands for; raise `ConfigError` that names the dial where there is no such thing."""
    module, colon, name = target.partition(":")
    if not colon:
        raise ConfigError(f"neural model: {dial} is {target!r}, expected 'your_module:function'")
    try:
        one = getattr(importlib.import_module(module), name)
    except EverlearnError:
        raise
    except Exception as error:  # of the user's own code: anything
        why = f"importing {module!r} failed: {told(error)}"
        if isinstance(error, ModuleNotFoundError) and (not error.name or module.startswith(error.name)):
            why = f"no module {module!r} can be imported"
        elif isinstance(error, AttributeError) and module in sys.modules:
            why = f"{module!r} has no {name!r}"
        raise ConfigError(f"neural model: {dial} is {target!r}, and {why}") from error
    if not callable(one):
        raise ConfigError(f"neural model: {dial} is {target!r}, a {type(one).__name__}; expected a function")
    return cast(Callable[..., Any], one)


def told(error: Exception) -> str:
    """What an exception of the user's code says, with its kind: "ValueError: no file there"."""
    return f"{type(error).__name__}: {error}"


class Mlp(nn.Module):
    """A perceptron: dense columns, and a table of `buckets` rows for hashed features, which share rows modulo it.

    >>> from everlearn.families.neural.settings import read
    >>> module = make(read({"task": "binary", "dense": 3, "arguments": {"hidden": [8]}}))
    >>> sum(one.numel() for one in module.parameters()), module(torch.zeros(5, 3)).shape
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


def says(module: Callable[..., Any], inputs: Inputs, columns: int, precision: str = "float32") -> Tensor:
    """One forward pass: raw outputs, float32 (n, columns). Raises `InputError` for a token that has no embedding."""
    try:
        if precision == "float32":
            said = module(*inputs)
        else:
            with torch.autocast(inputs[0].device.type, dtype=PRECISIONS[precision]):
                said = module(*inputs)
    except IndexError as error:
        if "out of" not in str(error) or "Dimension" in str(error):  # of the module's own code, not of a token
            raise
        raise InputError(
            f"the network cannot look up a row: {error}; expected tokens below the size of its embedding"
        ) from error
    if not isinstance(said, Tensor):
        said = said["logits"] if isinstance(said, Mapping) else said[0]
    n = inputs[0].shape[0]
    if said.shape != (n, columns):
        if said.shape != (n,) or columns != 1:
            raise ConfigError(
                f"neural model: the module answered {n} rows with shape {tuple(said.shape)}, expected {(n, columns)}: "
                "a logit for each class, or one number for a regression"
            )
        said = said[:, None]
    return cast(Tensor, said if said.dtype == torch.float32 else said.float())


def hint(module: nn.Module, chosen: Settings, said: str) -> str:
    """Which dial to set, where a module could not take rows and `said` why."""
    if chosen.hashed:
        return (
            "hashed features (of fields of categories or text) come as two more arguments, indices and values; where "
            "the module is to see them as numbers, make the fields numeric in the schema"
        )
    looks_up = any(isinstance(one, nn.Embedding | nn.EmbeddingBag) for one in module.modules())
    if chosen.dtype == "float32" and re.search(r"'indices'|\b(Long|LongTensor|int64)\b", said):
        more = f", and where it names shape as well, shape = [{chosen.dense}]" if looks_up and not chosen.shape else ""
        return f'it looks rows up, and wants whole numbers (tokens): set dtype = "int64"{more}'
    if chosen.dtype == "int64" and re.search(r"\b(Long|LongTensor|Int|int64|integral|floating)\b", said):
        return 'it calculates with rows: set dtype = "float32", or leave dtype out'
    if re.search(
        r"\d-?D\b|[Dd]imension|\bdims?\b|unpack|input\[|input\.size|channels|too many indices|'permute\('", said
    ):
        now = f"shape is {list(chosen.shape)}" if chosen.shape else f"rows come flat, as {chosen.dense} numbers"
        return (
            f"{now}: set shape to what the module takes for one row, for instance [channels, height, width] of an "
            f"image or [steps, channels] of a sequence, {chosen.dense} numbers in all"
        )
    return (
        f"a row is {list(chosen.shape) or [chosen.dense]} of {chosen.dtype}, as the dials shape and dtype say: set "
        "them, or let the module take it"
    )


def loss(chosen: Settings) -> Losses:
    """The losses (n,) of outputs (n, columns) and y (n,): cross entropy, squared error, or a function of the user's."""
    if chosen.loss == "auto":
        return _squared if chosen.task == "regression" else _cross_entropy
    return cast(Losses, found(chosen.loss, "loss"))


def _cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, y, reduction="none")


def _squared(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs[:, 0] - y).square()


def groups(chosen: Settings) -> Tensor | None:
    """Which classes a row of each class competes with while learning, bool (classes, classes); None: with all.

    Classes that no head names form one together. Raises `ConfigError` for a class in two heads, or in none there is.

    >>> from everlearn.families.neural.settings import read
    >>> groups(read({"task": "multiclass", "dense": 1, "classes": 3, "heads": [[0, 2]]})).int().tolist()
    [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    if not chosen.heads:
        return None
    named = [one for head in chosen.heads for one in head]
    if len(set(named)) < len(named) or any(one >= chosen.classes for one in named):
        raise ConfigError(
            f"neural model: heads are {chosen.heads}, expected each of 0 to {chosen.classes - 1} once at most"
        )
    of = torch.full((chosen.classes,), -1)
    for number, head in enumerate(chosen.heads):
        of[list(head)] = number
    return of[:, None] == of[None, :]
