"""The Llama of SlotWorld in plain PyTorch: equal numbers to that of transformers, in a third of its time.

Rounds of steps on a model this small spend most of their time outside of the arithmetic. `SlotLlama` takes the weights
of a `LlamaForCausalLM`, and the arguments that the preference family gives to a causal language model. It works for
batches without padding alone, which answers of one length make. Only words may follow: other logits are -10,000.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class SlotLlama(nn.Module):
    """A causal language model with the weights of `model`, whose first `silent` tokens are never generated."""

    def __init__(self, model: Any, silent: int) -> None:
        super().__init__()
        self.config, self.generation_config = model.config, model.generation_config
        self.silent, self.layers = silent, model.config.num_hidden_layers
        self.heads = model.config.num_attention_heads
        for name, weight in model.named_parameters():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(weight.detach().clone()))
        half = model.config.hidden_size // self.heads // 2
        angles = torch.arange(16.0)[:, None] / 10000.0 ** (torch.arange(half) / half)
        self.register_buffer("cos", torch.cat([angles, angles], 1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([angles, angles], 1).sin(), persistent=False)

    def get_input_embeddings(self) -> Any:
        """Return the table of embeddings."""
        return SimpleNamespace(weight=self._parameters["model/embed_tokens/weight"])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        output_hidden_states: bool = False,
        logits_to_keep: int = 0,
    ) -> Any:
        """Return logits and hidden states, as a model of transformers does; there must be no padding."""
        weights: dict[str, Any] = dict(self._parameters)
        x = functional.embedding(input_ids, weights["model/embed_tokens/weight"])
        cache = past_key_values if use_cache else None
        past = cache.get_seq_length() if cache is not None else 0
        turn = self.cos[past : past + x.shape[1]], self.sin[past : past + x.shape[1]]
        states = [x]
        for layer in range(self.layers):
            x = self._layer(x, {n: weights[f"model/layers/{layer}/{n}/weight"] for n in _NAMES}, turn, cache, layer)
            states.append(x)
        states[-1] = functional.rms_norm(x, x.shape[-1:], weights["model/norm/weight"], 1e-6)
        logits = functional.linear(states[-1][:, -logits_to_keep:], weights["lm_head/weight"])  # 0: all
        logits = functional.pad(logits[..., self.silent :], (self.silent, 0), value=-1e4)
        return SimpleNamespace(logits=logits, hidden_states=tuple(states))

    def _layer(self, x: Tensor, weights: Any, turn: tuple[Tensor, Tensor], cache: Any, layer: int) -> Tensor:
        n, t, width = x.shape
        h = functional.rms_norm(x, (width,), weights["input_layernorm"], 1e-6)
        q, k, v = (
            functional.linear(h, weights[f"self_attn/{one}_proj"]).view(n, t, self.heads, -1).transpose(1, 2)
            for one in "qkv"
        )
        q, k = (one * turn[0] + _turned(one) * turn[1] for one in (q, k))
        if cache is not None:
            k, v = cache.update(k, v, layer)
        # The flag is_causal takes the first query for the first key; after others, token i also sees all of them.
        after = torch.ones(t, k.shape[2], dtype=torch.bool).tril(k.shape[2] - t) if t > 1 and k.shape[2] > t else None
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=after, is_causal=t > 1 and after is None)
        x = x + functional.linear(seen.transpose(1, 2).reshape(n, t, width), weights["self_attn/o_proj"])
        h = functional.rms_norm(x, (width,), weights["post_attention_layernorm"], 1e-6)
        gate = functional.silu(functional.linear(h, weights["mlp/gate_proj"]))
        return x + functional.linear(gate * functional.linear(h, weights["mlp/up_proj"]), weights["mlp/down_proj"])


_NAMES = (
    *("input_layernorm", "post_attention_layernorm", "mlp/gate_proj", "mlp/up_proj", "mlp/down_proj"),
    *("self_attn/q_proj", "self_attn/k_proj", "self_attn/v_proj", "self_attn/o_proj"),
)


def _turned(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], -1)
