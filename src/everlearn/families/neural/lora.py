"""Low-rank adapters for any module, through PEFT: few trained weights beside many frozen ones.

    y = W x + scale * B (A x)      A (rank, in), B (out, rank), scale = alpha / rank; W is frozen

Hu et al. 2021, "LoRA", arXiv 2106.09685. B begins at 0, so the outputs of a newly adapted network do not change. With
`rslora` the scale is alpha / sqrt(rank) (Kalajdzievski 2023, arXiv 2312.03732), and with `dora` the length of each row
of the sum is learned apart from its direction (Liu et al. 2024, arXiv 2402.09353).

Learning also changes buffers: the running statistics of batch normalisation. An export holds each module with buffers
of floats whole, as PEFT's `modules_to_save`, so that the reloaded network gives the same answers.
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
from everlearn.errors import BlobError, ConfigError, MissingExtra, ModelError, did_you_mean
from everlearn.families.neural.named_tensors import FROZEN, digest, names
from everlearn.families.neural.settings import Lora

ADAPTER = "default"  # the default name of an adapter in PEFT, part of the names of weights
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # the files of PEFT
_ARRAYS = "weights/"  # prefix of weights in the arrays of a neural model
_GATED = "accepted/"  # prefix of the arrays of the accepted model in the family "gated"
_OUTER = "base_model.model."  # prefix of the names of weights in the files of PEFT
_SAME = ("r", "lora_alpha", "use_dora", "use_rslora")  # an adapter fits only a module with equal values of these
_LORA = re.compile(r"\.lora_\w+\.")


def adapt(module: nn.Module, chosen: Lora, seed: int = 0, *, mergeable: bool = True) -> nn.Module:
    """Add adapters to the layers named in `chosen.targets`, in place, and freeze the rest except `also`.

    Linear and convolution layers can have adapters. Without targets, all of them have one but the last, which is
    trained as a whole. Weights are named `<layer>.base_layer.weight` (frozen), `<layer>.lora_A.default.weight` and
    `<layer>.lora_B.default.weight` (with dora, `<layer>.lora_magnitude_vector.default.weight`). The first values of A
    depend on `seed`; global random numbers are not drawn. Adapters that merging cannot read are refused if `mergeable`;
    models of release 0.1.0 may have them. Returns the same module. Raises `MissingExtra` where PEFT is
    not installed, `ConfigError` for unknown names and for layers that cannot have an adapter.

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
    targets, whole = _layers(module, chosen)
    if chosen.dora and mergeable:
        _check_orientation(module, targets)
    config = peft.LoraConfig(
        r=chosen.rank,
        lora_alpha=cast(int, chosen.alpha),  # PEFT divides by the rank, and accepts any number
        target_modules="|".join(map(re.escape, targets)),  # whole names, as ends of names could match other layers
        lora_dropout=chosen.dropout,
        use_dora=chosen.dora,
        use_rslora=chosen.rslora,
    )
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fan_in_fan_out")  # PEFT detects the orientation of weights
            peft.inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"lora: {error}") from error
    finally:
        torch.random.set_rng_state(state)
    for name in whole:
        module.get_submodule(name).requires_grad_(True)
    _keep_to_the_layers(module)
    return module


def _layers(module: nn.Module, chosen: Lora) -> tuple[list[str], list[str]]:
    """Return the full names of the layers that get an adapter, and of the modules that are trained as a whole."""
    named = {name: layer for name, layer in module.named_modules() if name}
    within = [name for name, layer in named.items() if isinstance(layer, nn.MultiheadAttention)]
    can = [name for name, layer in named.items() if _adaptable(layer) and not _inside(name, within)]
    also = [name for given in chosen.also for name in _named(given, list(named), "also")]
    if not chosen.targets:
        if not can:
            raise ConfigError(
                "lora.targets: got none for a network without linear and convolution layers; name some layers"
            )
        also = list(dict.fromkeys([*also, can[-1]]))
        targets = [name for name in can if not _inside(name, also)]
        if not targets:
            raise ConfigError(f"lora.targets: got none, and {', '.join(also)} learn as a whole; name some other layers")
        return targets, also
    targets = [name for given in chosen.targets for name in _named(given, list(named), "targets")]
    bad = [name for name in targets if _inside(name, within)]
    if bad:
        raise ConfigError(
            f"lora.targets: got {bad[0]!r}, part of a torch.nn.MultiheadAttention, which never calls its layers, so "
            f"that an adapter has no effect; expected some of {', '.join(can)}"
        )
    return list(dict.fromkeys(targets)), also


def _check_orientation(module: nn.Module, targets: Sequence[str]) -> None:
    """Raise `ConfigError` for DoRA on a square weight that its layer stores transposed.

    Merging works with arrays, and refuses other transposed weights by their shape; a square one has no such mark.
    """
    for name in targets:
        layer = module.get_submodule(name)
        if type(layer).__name__ == "Conv1D" and not isinstance(layer, nn.Conv1d):
            shape = tuple(cast(Tensor, layer.weight).shape)
            if shape[0] == shape[1]:
                raise ConfigError(
                    f"lora.dora: got true for {name!r}, a Conv1D of transformers with the square weight {shape}, which "
                    "is stored transposed, so that merging could not tell its orientation; expected other layers. Set "
                    "lora.dora to false, or leave the layer out of lora.targets"
                )


def _adaptable(layer: nn.Module) -> bool:
    """Return True for layers that can have an adapter."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.groups == 1
    kind = type(layer)  # the linear layer of GPT-2 is a class of a library that need not be installed
    return isinstance(layer, nn.Linear) or (kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."))


def _inside(name: str, others: Collection[str]) -> bool:
    """Return True if a module is one of others, or part of one."""
    return any(name == other or name.startswith(f"{other}.") for other in others)


def _named(given: str, names: Sequence[str], setting: str) -> list[str]:
    """Return the modules whose name is, or ends with, a given one. Raises `ConfigError` where none is."""
    found = [name for name in names if name == given or name.endswith(f".{given}")]
    if not found:
        shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
        raise ConfigError(f"lora.{setting}: got {given!r}; expected some of {shown}{did_you_mean(given, names)}")
    return found


def _keep_to_the_layers(module: nn.Module) -> None:
    """Make encoder layers call their parts.

    Outside of training they pass the frozen weights of all parts to one fused function, which leaves out adapters.
    """
    for layer in module.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = 0
        if isinstance(layer, nn.TransformerEncoder):
            layer.use_nested_tensor = False


def factors(module: nn.Module) -> list[str]:
    """Return the names of the adapted layers of a module, in order.

    >>> factors(adapt(nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(4, 2)), Lora(targets=("1",))))
    ['1']
    """
    end = f".lora_A.{ADAPTER}"
    return [name.removesuffix(end) for name, _ in module.named_modules() if name.endswith(end)]


def fill(module: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> nn.Module:
    """Copy the weights that predict, from a neural model's `arrays`, to a module made and adapted alike; return it.

    The arrays may be those of the family "gated" around such a model. Weights that are not in the arrays (`frozen`
    "rebuilt") stay. Raises `ModelError`, with nothing changed, where a trained weight is missing, unknown to the module
    or of another shape, and where the frozen weights differ from those that the arrays were learned with.
    """
    if any(name.startswith(_GATED) for name in arrays):
        arrays = {name.removeprefix(_GATED): weight for name, weight in arrays.items() if name.startswith(_GATED)}
    given = {name.removeprefix(_ARRAYS): weight for name, weight in arrays.items() if name.startswith(_ARRAYS)}
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    wrong = [f"{name!r} is missing" for name in _learned(module) if name not in given]
    wrong += [f"{name!r} was not expected" for name in given if name not in held]
    wrong += [
        f"{name!r} has shape {weight.shape}, expected {tuple(held[name].shape)}"
        for name, weight in given.items()
        if name in held and weight.shape != tuple(held[name].shape)
    ]
    if wrong:
        raise ModelError(
            f"these arrays do not fit this module: {'; '.join(wrong)}. Make and adapt it as the model's module"
        )
    if FROZEN in arrays and not torch.equal(digest(module, names(module).fixed), tensor(arrays[FROZEN])):
        raise ModelError(
            "these arrays were learned with other frozen weights than those of this module. Make it with the same "
            "weights: from the same file, or with the same seed"
        )
    with torch.no_grad():
        for name, weight in given.items():
            held[name].copy_(tensor(weight))
    return module


def export(module: nn.Module, folder: Path | str) -> None:
    """Write the trained weights of an adapted module in the format of PEFT: a config, and safetensors.

    `peft.PeftModel.from_pretrained(module, folder)` reads it, for a module as it was before `adapt`. Modules that are
    trained as a whole, and modules with running statistics, are written under `modules_to_save`. Buffers of modules
    that hold adapters are written, too; `load` reads them, PEFT does not. Raises `ConfigError` for a module without
    adapters.
    """
    from safetensors.numpy import save_file

    config, folder = _config(module), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    held = {name: as_array(weight).copy() for name, weight in {**_learned(module), **_beside(module)}.items()}
    save_file({_OUTER + _outside(name): weight for name, weight in held.items()}, folder / WEIGHTS, {"format": "pt"})
    adapted = {name for name, _ in module.named_modules() if _holds_adapters(name, module)}
    owners = {name.rpartition(".")[0] for name in held if not _LORA.search(name)}
    whole = sorted(owners - adapted)
    plain = {**config.to_dict(), "modules_to_save": whole or None, "inference_mode": True}
    text = json.dumps(
        plain, indent=2, sort_keys=True, default=lambda value: sorted(value) if isinstance(value, set) else value
    )
    (folder / CONFIG).write_text(text, encoding="utf-8")


def load(module: nn.Module, folder: Path | str) -> nn.Module:
    """Read adapters that PEFT or `export` wrote to a folder, into a module adapted alike; return it.

    Running statistics that the folder does not hold stay as they are. Raises `BlobError`, with nothing changed, where a
    weight is missing, unknown or of another shape, or where rank, alpha, dora or rslora differ. Pickled weights
    (`adapter_model.bin`) are not read.
    """
    from safetensors.numpy import load_file

    config, folder = _config(module), Path(folder)
    try:
        written: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        found = {name.removeprefix(_OUTER): tensor(weight) for name, weight in load_file(folder / WEIGHTS).items()}
    except (OSError, ValueError) as error:
        raise BlobError(
            f"cannot read an adapter from {folder}: {error}; expected {CONFIG} and {WEIGHTS}, as PEFT writes them"
        ) from error
    wrong = [
        f"{name} is {written.get(name)!r}, expected {config.to_dict()[name]!r}"
        for name in _SAME
        if written.get(name) != config.to_dict()[name]
    ]
    held = {_outside(name): weight for name, weight in _learned(module).items()}
    beside = {name: weight for name, weight in _beside(module).items() if name not in held}
    owners = {name.rpartition(".")[0] for name in beside if name in found}
    held |= {name: weight for name, weight in beside.items() if name.rpartition(".")[0] in owners}
    wrong += [f"{name} is missing" for name in held if name not in found]
    wrong += [f"{name} was not expected" for name in found if name not in held]
    wrong += [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(weight.shape)}"
        for name, weight in held.items()
        if name in found and found[name].shape != weight.shape
    ]
    if wrong:
        raise BlobError(f"the adapter in {folder} does not fit this module: {'; '.join(wrong)}")
    with torch.no_grad():
        for name, weight in held.items():
            weight.copy_(found[name])
    return module


def _config(module: nn.Module) -> Any:
    """Return the PEFT config of an adapted module. Raises `ConfigError` for a module without adapters."""
    configs = vars(module).get("peft_config", {})
    if ADAPTER not in configs:
        raise ConfigError("module: got one without adapters. Call lora.adapt first")
    return configs[ADAPTER]


def _learned(module: nn.Module) -> Tensors:
    """Return the named trained weights: adapters, and modules trained as a whole."""
    return {name: cast(Tensor, weight) for name, weight in module.named_parameters() if weight.requires_grad}


def _beside(module: nn.Module) -> Tensors:
    """Return what answers depend on beside the trained weights: modules with stored buffers of floats.

    A module with adapters inside gives its buffers alone.
    """
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in set(names(module).buffers)}
    owners = {name.rpartition(".")[0] for name, buffer in buffers.items() if buffer.is_floating_point()}
    found = {name: buffer for name, buffer in buffers.items() if name.rpartition(".")[0] in owners}
    for owner in sorted(owners):
        if not _holds_adapters(owner, module):
            held = module.get_submodule(owner).state_dict(keep_vars=True, prefix=f"{owner}.")
            found |= {name: cast(Tensor, value) for name, value in held.items()}
    return found


def _holds_adapters(name: str, module: nn.Module) -> bool:
    """Return True if adapters are in the module of this name."""
    return not name or any(_inside(layer, [name]) for layer in factors(module))


def _outside(name: str) -> str:
    """Return the name of a weight in the files of PEFT, which leave out the name of the adapter."""
    return name.replace(f".lora_magnitude_vector.{ADAPTER}.weight", ".lora_magnitude_vector").replace(
        f".{ADAPTER}.weight", ".weight"
    )
