"""Policies as folders: PEFT and transformers load what is written, and a policy starts from what PEFT wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from everlearn.errors import BlobError, ConfigError, InputError
from everlearn.families.neural.lora import CONFIG
from everlearn.families.neural.settings import Lora
from everlearn.families.preference.passes import logprobs
from everlearn.families.preference.policy import Policy
from everlearn.families.preference.policy_folder import read_adapters, write_policy
from tests.support import preference_models
from tests.support.tiny_lms import NAMES, tiny, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT reads it
IDS = torch.tensor([[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]])
ADAM = {"name": "adam", "lr": 0.02}


def learned(name: str, lora: Lora | None) -> Policy:
    policy = Policy(tiny(name), lora=lora, optimizer=ADAM)
    for _ in range(3):
        policy.step([-logprobs(policy.module, [[1, 2], [3]], [[4, 5, 6], [7]]).sum()])
    return policy


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module(input_ids=IDS).logits
        return found


@pytest.mark.parametrize("name", NAMES)
def test_peft_loads_the_adapters_with_equal_logits(name: str, tmp_path: Path) -> None:
    policy = learned(name, Lora(rank=3, alpha=5.0))
    write_policy(policy, "somewhere/base", tokenizer(True), tmp_path / "adapter")
    base = tiny(name)
    before = logits(base)
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert isinstance(loaded, peft.PeftModelForCausalLM)
    torch.testing.assert_close(logits(loaded), logits(policy.module), rtol=1e-5, atol=1e-5)
    assert (logits(loaded) - before).abs().max() > 0.01
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["base_model_name_or_path"] == "somewhere/base"
    assert (tmp_path / "adapter" / "tokenizer.json").exists()


def test_transformers_loads_all_weights_with_equal_logits(tmp_path: Path) -> None:
    policy = learned("llama", None)
    write_policy(policy, "base", None, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(str(tmp_path))
    torch.testing.assert_close(logits(loaded), logits(policy.module), rtol=1e-6, atol=1e-6)
    with policy.reference() as module:
        assert (logits(loaded) - logits(module)).abs().max() > 0.01
    with pytest.raises(InputError, match="which has content"):
        write_policy(policy, "base", None, tmp_path)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_policy_starts_from_adapters_that_peft_wrote(name: str, tmp_path: Path) -> None:
    targets = ["c_attn"] if name == "gpt2" else ["q_proj", "down_proj"]
    given = {"r": 4, "lora_alpha": 6, "target_modules": targets, "task_type": "CAUSAL_LM", "init_lora_weights": False}
    config = peft.LoraConfig(**given, fan_in_fan_out=name == "gpt2")
    theirs = peft.get_peft_model(tiny(name), config).eval()
    theirs.save_pretrained(str(tmp_path))
    module = tiny(name)
    policy = Policy(module, lora=read_adapters(module, tmp_path), optimizer=ADAM)
    torch.testing.assert_close(logits(policy.module), logits(theirs), rtol=1e-5, atol=1e-5)
    policy.step([-logprobs(policy.module, [[1, 2]], [[4, 5, 6]]).sum()])
    assert (logits(policy.module) - logits(theirs)).abs().max() > 1e-3
    with policy.reference() as reference:  # the adapters that it started from, not the model without any
        torch.testing.assert_close(logits(reference), logits(theirs), rtol=1e-5, atol=1e-5)


def test_a_model_goes_from_a_folder_to_a_folder(tmp_path: Path) -> None:
    first = preference_models.made({"lora": {"rank": 2}, "optimizer": ADAM})
    first.policy.step([-logprobs(first.policy.module, [[1, 2]], [[4, 5, 6]]).sum()])
    first.export(tmp_path / "first")
    second = preference_models.made({"adapter": str(tmp_path / "first")})
    torch.testing.assert_close(logits(second.policy.module), logits(first.policy.module))
    second.export(tmp_path / "second")
    third = peft.PeftModel.from_pretrained(preference_models.world(), str(tmp_path / "second"))
    torch.testing.assert_close(logits(third), logits(first.policy.module), rtol=1e-5, atol=1e-5)


def test_a_wrong_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BlobError, match=r"adapter: got .*missing.*expected a folder with adapter_config.json"):
        preference_models.made({"adapter": str(tmp_path / "missing")})
    write_policy(learned("llama", Lora(rank=2)), "base", None, tmp_path / "llama")
    with pytest.raises(BlobError, match="does not fit this model"):
        preference_models.made({"adapter": str(tmp_path / "llama")})
    with pytest.raises(ConfigError, match="adapter: got 'x' with all weights trained"):
        preference_models.made({"adapter": "x", "weights": "all"})
