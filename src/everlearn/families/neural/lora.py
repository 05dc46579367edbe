"""Low-rank adapters for any module, through PEFT: a few weights that learn, beside many that stay as they are.

    y = W x + scale * B (A x)      A (rank, in), B (out, rank), scale = alpha / rank; W is frozen

Hu et al. 2021, "LoRA", arXiv 2106.09685. With `rslora` the scale is alpha / sqrt(rank) (Kalajdzievski 2023, arXiv
2312.03732); with `dora` the length of each row of the sum is learned apart from its direction (Liu et al. 2024, arXiv
2402.09353). B begins at 0, so an adapted network answers at first as it did before.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray

from everlearn._torch import Tensor, Tensors, nn, tensor, torch
from everlearn._torch import array as as_array
from everlearn.errors import BlobError, ConfigError, MissingExtra, ModelError
from everlearn.families.neural.named_tensors import FROZEN, digest, names
from everlearn.families.neural.settings import Lora

ADAPTER = "default"  # PEFT's name of an adapter without a name: it stands in the names of weights
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # PEFT's own files
_ARRAYS = "weights/"  # what a neural model puts before them in its arrays
_GATED = "accepted/"  # what the family "gated" puts before the arrays of the model that answers
_OUTER = "base_model.model."  # what PEFT puts before the names of weights in its files
_SAME = ("r", "lora_alpha", "use_dora", "use_rslora")  # what an adapter's numbers mean nothing without
_LORA = re.compile(r"\.lora_\w+\.")


def adapt(module: nn.Module, chosen: Lora, seed: int = 0) -> nn.Module:
    """Put adapters beside the layers that `chosen.targets` name, in place, and freeze everything else but `also`.

    Linear and convolution layers can have adapters; without targets all do but the last, which learns as a whole.
    Weights are then named `<layer>.base_layer.weight` (frozen), `<layer>.lora_A.default.weight` and
    `<layer>.lora_B.default.weight` (with dora, `<layer>.lora_magnitude_vector.default.weight`). What A begins with
    belongs to `seed`; the global random numbers stay as they are. Returns the same module. Raises `MissingExtra` where
    PEFT is not installed, `ConfigError` for names that nothing has, and layers that can have no adapter.

    >>> from everlearn.families.neural.settings import Lora
    >>> net = adapt(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)), Lora(rank=2))
    >>> [(name, tuple(one.shape)) for name, one in net.named_parameters() if one.requires_grad]
    [('0.lora_A.default.weight', (2, 8)), ('0.lora_B.default.weight', (6, 2)), ('2.weight', (2, 6)), ('2.bias', (2,))]
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] not in ("peft", "transformers", "accelerate"):
            raise
        raise MissingExtra("a network with adapters", "lora") from error
    targets, also = _layers(module, chosen)
    config = peft.LoraConfig(
        r=chosen.rank,
        lora_alpha=cast(int, chosen.alpha),  # PEFT divides by the rank, and takes any number
        target_modules="|".join(map(re.escape, targets)),  # whole names: ends of names match what was not meant
        lora_dropout=chosen.dropout,
        use_dora=chosen.dora,
        use_rslora=chosen.rslora,
    )
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fan_in_fan_out")  # PEFT finds out by itself which way weights lie
            peft.inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"lora: {error}") from error
    finally:
        torch.random.set_rng_state(state)
    for name in also:
        module.get_submodule(name).requires_grad_(True)
    _keep_to_the_layers(module)
    return module


def _layers(module: nn.Module, chosen: Lora) -> tuple[list[str], list[str]]:
    """The whole names of the layers that get an adapter, and of the modules that learn as they are."""
    named = {name: one for name, one in module.named_modules() if name}
    within = [name for name, one in named.items() if isinstance(one, nn.MultiheadAttention)]
    can = [name for name, one in named.items() if _adaptable(one) and not _inside(name, within)]
    also = [name for given in chosen.also for name in _named(given, list(named), "also")]
    if not chosen.targets:
        if not can:
            raise ConfigError("lora: the network has no linear and no convolution layer; name its layers in targets")
        also = list(dict.fromkeys([*also, can[-1]]))
        targets = [name for name in can if not _inside(name, also)]
        if not targets:
            raise ConfigError(f"lora: no layer is left for an adapter beside {', '.join(also)}; name some in targets")
        return targets, also
    targets = [name for given in chosen.targets for name in _named(given, list(named), "targets")]
    bad = [name for name in targets if _inside(name, within)]
    if bad:
        raise ConfigError(
            f"lora: {bad[0]} belongs to a torch.nn.MultiheadAttention, which reads the weights of its layers and never "
            f"calls them, so an adapter there would have no effect; expected some of {', '.join(can)}"
        )
    return list(dict.fromkeys(targets)), also


def _adaptable(one: nn.Module) -> bool:
    if isinstance(one, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return one.groups == 1
    kind = type(one)  # the linear layer of GPT-2 has a class of its own, in a library that need not be there
    return isinstance(one, nn.Linear) or (kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."))


def _inside(name: str, others: Collection[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in others)


def _named(given: str, names: Sequence[str], dial: str) -> list[str]:
    """The modules that have this name, or a name that ends with it."""
    found = [name for name in names if name == given or name.endswith(f".{given}")]
    if not found:
        shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
        raise ConfigError(f"lora: {dial} has {given!r}, and no module is named so; expected some of {shown}")
    return found


def _keep_to_the_layers(module: nn.Module) -> None:
    """Have encoder layers call their parts. Outside of training they would hand the frozen weights of all parts to one
    fused function, so that the adapters of a network that answers were silently left out."""
    for one in module.modules():
        if isinstance(one, nn.TransformerEncoderLayer):
            one.activation_relu_or_gelu = 0
        if isinstance(one, nn.TransformerEncoder):
            one.use_nested_tensor = False


def factors(module: nn.Module) -> list[str]:
    """The names of the adapted layers of a module, in order.

    >>> factors(adapt(nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(4, 2)), Lora(targets=("1",))))
    ['1']
    """
    end = f".lora_A.{ADAPTER}"
    return [name.removesuffix(end) for name, _ in module.named_modules() if name.endswith(end)]


def fill(module: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> nn.Module:
    """Put the weights that answer, of a neural model's `arrays`, into a module made and adapted alike; returns it.

    The arrays may be those of the family "gated" around such a model. Weights that are not among the arrays (`frozen`
    "rebuilt") stay. Raises `ModelError`, with nothing changed, where one that learned is missing or of another shape,
    the module has none of that name, or the weights that stay are not those that the arrays were learned beside.
    """
    if any(name.startswith(_GATED) for name in arrays):
        arrays = {name.removeprefix(_GATED): one for name, one in arrays.items() if name.startswith(_GATED)}
    given = {name.removeprefix(_ARRAYS): one for name, one in arrays.items() if name.startswith(_ARRAYS)}
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    wrong = [f"{name!r} is missing" for name in _learned(module) if name not in given]
    wrong += [f"{name!r} was not expected" for name in given if name not in held]
    wrong += [
        f"{name!r} has shape {one.shape}, expected {tuple(held[name].shape)}"
        for name, one in given.items()
        if name in held and one.shape != tuple(held[name].shape)
    ]
    if wrong:
        raise ModelError(
            f"these arrays do not fit this module: {'; '.join(wrong)}; make it and adapt it as the model's"
        )
    if FROZEN in arrays and not torch.equal(digest(module, names(module).fixed), tensor(arrays[FROZEN])):
        raise ModelError(
            "these arrays were learned beside other weights that are not trained than this module's; make it of the "
            "same weights: of the same file, or with the same seed"
        )
    with torch.no_grad():
        for name, one in given.items():
            held[name].copy_(tensor(one))
    return module


def export(module: nn.Module, folder: Path | str) -> None:
    """Write what an adapted module has learned as PEFT does: its config, and its weights as safetensors.

    `peft.PeftModel.from_pretrained(module, folder)` reads it, of a module as it was before `adapt`. What learned as a
    whole is written under `modules_to_save`. Raises `ConfigError` for a module without adapters.
    """
    from safetensors.numpy import save_file

    config, folder = _config(module), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = {name: as_array(one).copy() for name, one in _learned(module).items()}
    save_file({_OUTER + _outside(name): one for name, one in held.items()}, folder / WEIGHTS, {"format": "pt"})
    whole = sorted({name.rpartition(".")[0] for name in held if not _LORA.search(name)})
    plain = {**config.to_dict(), "modules_to_save": whole or None, "inference_mode": True}
    text = json.dumps(plain, indent=2, sort_keys=True, default=lambda one: sorted(one) if isinstance(one, set) else one)
    (folder / CONFIG).write_text(text, encoding="utf-8")


def load(module: nn.Module, folder: Path | str) -> nn.Module:
    """Take the adapters that PEFT, or `export`, wrote to a folder into a module that was adapted alike; returns it.

    Raises `BlobError`, with nothing changed, where a weight is missing, is of another shape, or is not known here, or
    rank, alpha, dora or rslora differ; pickled weights (`adapter_model.bin`) are not read.
    """
    from safetensors.numpy import load_file

    config, folder = _config(module), Path(folder)
    try:
        told: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        found = {name.removeprefix(_OUTER): tensor(one) for name, one in load_file(folder / WEIGHTS).items()}
    except (OSError, ValueError) as error:
        raise BlobError(
            f"no adapter can be read from {folder}: {error}; expected PEFT's {CONFIG} and {WEIGHTS}"
        ) from error
    wrong = [
        f"{name} is {told.get(name)!r}, expected {config.to_dict()[name]!r}"
        for name in _SAME
        if told.get(name) != config.to_dict()[name]
    ]
    held = {_outside(name): one for name, one in _learned(module).items()}
    wrong += [f"{name} is missing" for name in held if name not in found]
    wrong += [f"{name} was not expected" for name in found if name not in held]
    wrong += [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(one.shape)}"
        for name, one in held.items()
        if name in found and found[name].shape != one.shape
    ]
    if wrong:
        raise BlobError(f"the adapter in {folder} does not fit this module: {'; '.join(wrong)}")
    with torch.no_grad():
        for name, one in held.items():
            one.copy_(found[name])
    return module


def _config(module: nn.Module) -> Any:
    configs = vars(module).get("peft_config", {})
    if ADAPTER not in configs:
        raise ConfigError("this module has no adapters; see everlearn.families.neural.lora.adapt")
    return configs[ADAPTER]


def _learned(module: nn.Module) -> Tensors:
    """Adapters, and what learns as a whole, by name."""
    return {name: cast(Tensor, one) for name, one in module.named_parameters() if one.requires_grad}


def _outside(name: str) -> str:
    """How PEFT names a weight in its files: without the name of the adapter."""
    return name.replace(f".lora_magnitude_vector.{ADAPTER}.weight", ".lora_magnitude_vector").replace(
        f".{ADAPTER}.weight", ".weight"
    )
