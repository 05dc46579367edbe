"""Tiny language models of transformers with random weights, and tokenizers trained on a few lines."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

VOCABULARY = 50
NAMES = ("llama", "gpt2", "qwen2", "qwen3", "gemma2", "gemma3")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny(name: str, *, vocabulary: int = VOCABULARY, seed: int = 0) -> nn.Module:
    """A causal language model of two layers, on the CPU, in eval mode."""
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "head_dim": 8,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if name == "gpt2":
        sizes = {"vocab_size": vocabulary, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96}
        sizes |= {"initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None}
    if name.startswith("gemma"):
        sizes |= {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    prefix = {"gpt2": "GPT2", "gemma3": "Gemma3Text"}.get(name, name.capitalize())
    config = getattr(transformers, f"{prefix}Config")(**sizes)
    kind = {"gpt2": "GPT2LMHeadModel", "gemma3": "Gemma3ForCausalLM"}.get(name, f"{prefix}ForCausalLM")
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model: nn.Module = getattr(transformers, kind)(config).eval()
    torch.random.set_rng_state(state)
    return model


@cache
def tokenizer(template: bool) -> Any:
    """A byte-level tokenizer, with the template of ChatML or without any."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<s>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(["user assistant system hello there how are you", "I am well"], trainer)
    tokens = {"bos_token": "<s>"} if not template else {}
    found = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", **tokens)
    found.chat_template = CHATML if template else None
    return found
