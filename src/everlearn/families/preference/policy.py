"""A language model that learns, and the reference: the same model as it started.

The frozen weights are held once. Trained weights, all or adapters, exist twice as named tensors, as the policy learns
them and as the reference keeps them; the module computes with one or the other.

    policy/NAME             trained weights
    reference/NAME          the same at the start; never written
    learn/optimizer/...     moments of the optimiser
    learn/steps             number of steps, int64
    learn/skipped           number of steps left out because a loss or gradient was not finite, int64
    learn/value/...         the value head of PPO, where it is used
    base                    digest of the frozen weights, uint8 (32,)

Names, shapes and dtypes never change. On the CPU, steps from stored arrays give the same bytes as if nothing had been
interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from everlearn._torch import Tensor, Tensors, array, nn, tensor, torch
from everlearn.errors import ConfigError, MissingExtra, ModelError
from everlearn.families.neural import lora as adapters
from everlearn.families.neural.named_tensors import FROZEN, digest, sharing_copy, under, within
from everlearn.families.neural.network import load_function
from everlearn.families.neural.optimizer import TensorOptimizer, finite
from everlearn.families.neural.settings import Lora
from everlearn.families.neural.settings import Settings as NeuralSettings
from everlearn.families.preference.passes import FrozenPass, read_answers
from everlearn.families.preference.text import Ids

POLICY, REFERENCE, VALUE = "policy/", "reference/", "learn/value/"
STEPS, SKIPPED = "learn/steps", "learn/skipped"
ADAM: Mapping[str, Any] = {"name": "adam", "lr": 4e-4}


def load_model(name: str, *, device: str = "cpu", dtype: str = "float32") -> nn.Module:
    """Return a causal language model: a name on the Hub or a folder, as transformers loads it, or "module:function".

    The function takes no arguments and returns the module, with equal weights at each call. Weights have the given
    `dtype`; trained weights must be float32. Raises `MissingExtra` without transformers, `ConfigError` where the name
    cannot be loaded.
    """
    if ":" in name:
        module = cast(nn.Module, load_function(name, "policy.model")())
        return module.to(device).eval()
    try:
        from transformers import AutoModelForCausalLM
    except ModuleNotFoundError as error:
        raise MissingExtra("a language model", "llm") from error
    try:
        module = cast(nn.Module, AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype)))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"policy.model: got {name!r}, which cannot be loaded: {error}; expected a folder that transformers wrote, "
            "a name on the Hub, or 'your_module:function'"
        ) from error
    return cast(nn.Module, cast(Any, module).to(device)).eval()


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model: a name on the Hub or a folder, or "module:function", which makes it.

    None where a function makes the model and no tokenizer is named. Raises as `load_model` does.
    """
    if not name:
        return None
    if ":" in name:
        return load_function(name, "policy.tokenizer")()
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise MissingExtra("a language model", "llm") from error
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"tokenizer: got {name!r}, which cannot be loaded: {error}; expected a folder, a name on the Hub, or "
            "'your_module:function'"
        ) from error


class Policy:
    """A causal language model of transformers that learns by steps, with its reference.

    `module` is used as it is, and adapted in place where `lora` is given. Without `targets`, all linear layers get an
    adapter but the last, which writes the logits. `optimizer` names one of `torch.optim`; gradients are clipped to the
    norm `clip` (0: not at all). `value` adds a value head for PPO. `frozen` is the digest of the frozen weights, where
    it is known. Raises `ConfigError` for weights that cannot be
    trained.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        lora: Lora | None = None,
        optimizer: Mapping[str, Any] = ADAM,
        clip: float = 1.0,
        value: bool = False,
        seed: int = 0,
        frozen: Tensor | None = None,
    ) -> None:
        if lora is not None and not adapters.factors(module):
            module.requires_grad_(False)
            adapters.adapt(module, _all_linear(module, lora), seed)
        if lora is not None:
            for weight in module.parameters():
                weight.data = (
                    weight.data.float() if weight.requires_grad else weight.data
                )  # adapters of a bfloat16 model
        self.module = module.eval()
        self._given = {"lora": lora, "optimizer": optimizer, "clip": clip, "value": value, "seed": seed}
        self._weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        wrong = [f"{name} is {weight.dtype}" for name, weight in self._weights.items() if weight.dtype != torch.float32]
        if wrong or not self._weights:
            found = wrong[0] if wrong else "no weight requires a gradient"
            raise ConfigError(f"policy: {found}; expected trained weights of float32. Load the model in that dtype")
        self.head = _value_head(module) if value else None
        extra = dict(self.head.named_parameters()) if self.head is not None else {}
        start = {name: weight.data.clone() for name, weight in self._weights.items()}
        learned = {**self._weights, **{VALUE + name: weight for name, weight in extra.items()}}
        settings = NeuralSettings(task="regression", dense=1, optimizer=dict(optimizer))
        self._optimizer = TensorOptimizer(settings, learned)
        fixed = tuple(name for name, weight in module.named_parameters() if name not in self._weights)
        self.tensors: Tensors = {
            **under(POLICY, start),
            **under(REFERENCE, {name: weight.clone() for name, weight in start.items()}),
            **under(VALUE, {name: weight.data for name, weight in extra.items()}),
            **self._optimizer.start,
            STEPS: torch.zeros((), dtype=torch.int64),
            SKIPPED: torch.zeros((), dtype=torch.int64),
            FROZEN: digest(module, fixed) if frozen is None else frozen.clone(),
        }
        self._reference_digest = ""  # once it was asked for
        self._use(POLICY)
        self._optimizer.bind(self.tensors, 0)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All named arrays. On the CPU they share the memory of the tensors that steps write."""
        return {name: array(one) for name, one in self.tensors.items()}

    @property
    def steps(self) -> int:
        """Number of steps taken or skipped."""
        return int(self.tensors[STEPS])

    @property
    def reference_digest(self) -> str:
        """A digest of the reference, 16 characters: of its trained and its frozen weights."""
        if not self._reference_digest:
            found = hashlib.blake2b(array(self.tensors[FROZEN]).tobytes(), digest_size=8)
            for held in within(self.tensors, REFERENCE).values():
                found.update(np.ascontiguousarray(array(held)).data)
            self._reference_digest = found.hexdigest()
        return self._reference_digest

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy stored arrays into the policy, and continue from there.

        Raises `ModelError`, with nothing changed, where names, shapes or dtypes differ, or where the frozen weights
        are others than those that the arrays were learned with.
        """
        self._copy(arrays, self.tensors)
        self._optimizer.bind(self.tensors, self.steps)

    def adopt(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy the weights of a published snapshot, whose arrays under "learn/" may have been left out.

        For processes that answer and do not learn. Raises as `restore` does.
        """
        served = {name: one for name, one in self.tensors.items() if not name.startswith("learn/")}
        self._copy({name: one for name, one in arrays.items() if not name.startswith("learn/")}, served)

    def _copy(self, arrays: Mapping[str, NDArray[Any]], into: Tensors) -> None:
        """Copy arrays into tensors of the same names. Raises `ModelError`, with nothing changed, where they differ."""
        now = {name: array(one) for name, one in into.items()}
        wrong = [f"{name!r} is missing" for name in now if name not in arrays]
        wrong += [f"{name!r} was not expected" for name in arrays if name not in now]
        wrong += [
            f"{name!r} is {one.dtype} {one.shape}, expected {now[name].dtype} {now[name].shape}"
            for name, one in arrays.items()
            if name in now and (now[name].shape, now[name].dtype) != (one.shape, one.dtype)
        ]
        if wrong:
            raise ModelError(f"these arrays do not fit this policy: {'; '.join(wrong)}. Build it with the same spec")
        if not np.array_equal(arrays[FROZEN], now[FROZEN]):
            raise ModelError(
                "these arrays were learned with other frozen weights than those of this policy. Load the same model"
            )
        for name, held in into.items():
            held.copy_(tensor(np.asarray(arrays[name])))
        self._reference_digest = ""

    def __copy__(self) -> Policy:
        """Return a policy with separate learned tensors, whose module shares the frozen weights with this one."""
        module, frozen = sharing_copy(self.module, tuple(self._weights)), self.tensors[FROZEN]
        twin = Policy(module, **self._given, frozen=frozen)  # type: ignore[arg-type]
        twin.restore(self.arrays)
        return twin

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """A context in which the module computes as the reference. Do not take steps in it.

        >>> module = nn.Linear(1, 1)
        >>> policy = Policy(module, optimizer={"name": "sgd", "lr": 1.0})
        >>> before = module.weight.item()
        >>> _ = policy.step([module.weight.sum()])
        >>> with policy.reference():
        ...     module.weight.item() == before
        True
        >>> module.weight.item() == before
        False
        """
        self._use(REFERENCE)
        try:
            yield self.module
        finally:
            self._use(POLICY)

    def read(
        self, prompts: Sequence[Ids], answers: Sequence[Ids], *, layers: Sequence[int] = (), rows: int = 64
    ) -> FrozenPass:
        """Return log-probabilities and features of answers under the reference; see `passes.read_answers`."""
        with self.reference() as module:
            return read_answers(module, prompts, answers, layers=layers, rows=rows)

    def step(self, losses: Iterable[Tensor]) -> float:
        """Take one step along the gradient of the sum of losses, each a scalar, and return the sum.

        The graph of a loss is freed before the next is asked for, so that an iterator of losses bounds the memory. A
        step is skipped, and counted, where a loss or gradient is not finite.
        """
        weights = [*self._weights.values(), *(self.head.parameters() if self.head is not None else ())]
        for weight in weights:
            weight.grad = None
        total = torch.zeros((), device=weights[0].device)
        for loss in losses:
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        with_gradient = [weight for weight in weights if weight.grad is not None]
        self.tensors[STEPS] += 1
        if not with_gradient or not finite(total, cast(list[Tensor], with_gradient)):
            self.tensors[SKIPPED] += 1
            return float(total)
        if self._given["clip"]:
            torch.nn.utils.clip_grad_norm_(with_gradient, cast(float, self._given["clip"]))
        with torch.no_grad():
            self._optimizer.step(self.tensors, self._optimizer.rate)
        return float(total)

    def _use(self, prefix: str) -> None:
        """Compute with the trained weights under a prefix."""
        held = within(self.tensors, prefix)
        for name, weight in self._weights.items():
            weight.data = held[name]


def _all_linear(module: nn.Module, lora: Lora) -> Lora:
    """Return settings whose targets, where none were given, are all linear layers but the one that writes logits."""
    if lora.targets:
        return lora
    last = cast(Any, module).get_output_embeddings()
    found = [
        name
        for name, layer in module.named_modules()
        if layer is not last and (isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D")
    ]
    return structs.replace(lora, targets=tuple(found))


def _value_head(module: nn.Module) -> nn.Linear:
    """Return a linear map of hidden states to 0, on the device of the module."""
    width = int(cast(Any, module).get_input_embeddings().weight.shape[1])
    state = torch.random.get_rng_state()
    head = nn.Linear(width, 1)  # draws random numbers, which are not those of the policy
    torch.random.set_rng_state(state)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head.to(next(module.parameters()).device)
