"""The policy as a folder that other libraries load, and a policy that starts from such a folder.

Adapters are written as PEFT writes them, and all weights as transformers writes a model. Only weights that answers are
computed with are written: no reference, no reward model, no state of the optimiser.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from everlearn._torch import nn
from everlearn.errors import BlobError, ConfigError, InputError
from everlearn.families.neural import lora
from everlearn.families.neural.settings import Lora
from everlearn.families.preference.policy import Policy

_OUTER = "base_model.model."  # prefix of the names of weights in the files of PEFT


def write_policy(policy: Policy, base: str, tokenizer: Any, folder: Path | str) -> None:
    """Write a policy to a folder that is empty or missing.

    With adapters, `peft.PeftModel.from_pretrained(base_model, folder)` loads it, and the config names `base` as the
    model beside which they were learned. With all weights trained, `AutoModelForCausalLM.from_pretrained(folder)` does.
    The tokenizer is written beside them, if there is one. Raises `InputError` for a folder with content, `ConfigError`
    for a model that transformers cannot write.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"folder: got {folder}, which has content; expected an empty or a new one. Name another")
    if lora.factors(policy.module):
        lora.export(policy.module, folder)
        path = folder / lora.CONFIG
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        named = {} if ":" in base else {"base_model_name_or_path": base}  # a function is no name that PEFT can load
        path.write_text(json.dumps(config | {"task_type": "CAUSAL_LM"} | named, indent=2, sort_keys=True), "utf-8")
    else:
        write = getattr(policy.module, "save_pretrained", None)
        if write is None:
            raise ConfigError(
                f"model: got a {type(policy.module).__name__}, which has no save_pretrained; expected one of "
                "transformers. Store policy.module.state_dict() yourself"
            )
        write(str(folder))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


def read_adapters(module: nn.Module, folder: Path | str) -> Lora:
    """Add the adapters in a folder, as PEFT wrote them, to a module, in place; return their settings.

    Rank, alpha and the adapted layers are those of the folder; modules in `modules_to_save` are trained as a whole.
    Raises `BlobError` for a folder without adapters or for adapters of another module, `ConfigError` for adapters whose
    ranks differ from layer to layer.
    """
    from safetensors import safe_open

    folder = Path(folder)
    try:
        config: dict[str, Any] = json.loads((folder / lora.CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / lora.WEIGHTS, "numpy") as file:
            names = [name.removeprefix(_OUTER) for name in file.keys()]  # noqa: SIM118
    except (OSError, ValueError) as error:
        raise BlobError(
            f"adapter: got {str(folder)!r}, which cannot be read: {error}; expected a folder with {lora.CONFIG} and "
            f"{lora.WEIGHTS}, as PEFT writes it"
        ) from error
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ConfigError(
            f"adapter: got {str(folder)!r} with ranks or alphas that differ by layer; expected one for all layers. "
            "Merge these adapters into the model with peft, and train new ones"
        )
    chosen = Lora(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        targets=tuple(sorted({name.split(".lora_")[0] for name in names if ".lora_" in name})),
        also=tuple(sorted({name.rpartition(".")[0] for name in names if ".lora_" not in name})),
        dora=bool(config.get("use_dora", False)),
        rslora=bool(config.get("use_rslora", False)),
    )
    module.requires_grad_(False)
    try:
        lora.adapt(module, chosen)
    except ConfigError as error:
        raise BlobError(
            f"the adapter in {folder} does not fit this model: {error}. Name the model it was made for"
        ) from (error)
    lora.load(module, folder)
    return chosen
