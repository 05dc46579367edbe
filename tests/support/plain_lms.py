"""A language model and a tokenizer that need no part of transformers but its cache, and so start soon.

For tests that start many processes. The model sees the present token and its position alone.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from everlearn.app.process import VARIABLE
from everlearn.spec import Spec
from tests.support import preference_loops

if VARIABLE in os.environ:  # a process of a server: optimizers load torch's compiler for 3 seconds, and never use it
    compiler = ModuleType("torch._dynamo")
    vars(compiler).update(disable=lambda function, *_, **__: function, graph_break=lambda *_, **__: None)
    sys.modules.setdefault("torch._dynamo", compiler)

VOCABULARY, WIDTH, ROOM, END = 257, 16, 96, 256


class PlainConfig:
    """The settings that sampling reads."""

    max_position_embeddings = ROOM
    num_hidden_layers = 0
    layer_types: tuple[str, ...] = ()
    per_layer_config: tuple[Any, ...] = ()

    def get_text_config(self, **_: Any) -> PlainConfig:
        return self


class PlainLM(nn.Module):
    """Logits of the next token, from the present one and its position."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PlainConfig()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(ROOM, WIDTH)
        self.inner, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> Any:
        first = self.tokens(input_ids) + self.places(position_ids)
        last = torch.tanh(self.inner(first))
        return SimpleNamespace(logits=self.head(last[:, -logits_to_keep:]), hidden_states=(first, last))


class ByteTokenizer:
    """A token for each byte, and one that ends an answer."""

    chat_template = None
    bos_token_id = None
    eos_token_id = END

    def __len__(self) -> int:
        return VOCABULARY

    def get_vocab(self) -> dict[str, int]:
        return {chr(id): id for id in range(VOCABULARY)}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return bytes(id for id in ids if id < END).decode(errors="replace")


def model() -> nn.Module:
    """The model, with the same weights each time."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    made = PlainLM()
    torch.random.set_rng_state(state)
    return made.eval()


def tokenizer() -> Any:
    return ByteTokenizer()


def settings(**changes: Any) -> Spec:
    """Return the settings of a loop with this model: the policy takes two steps after four labels."""
    named = {"model": "tests.support.plain_lms:model", "tokenizer": "tests.support.plain_lms:tokenizer"}
    model = {**preference_loops.MODEL, **named, "weights": "all"}  # adapters would load PEFT, which takes 5 seconds
    del model["lora"]
    return preference_loops.settings(model=model, **changes)
