"""A tokenizer and a small Llama that speak the language of the service desk, made on the spot within seconds.

`make` writes them to a folder as transformers does, so that they are loaded like any other language model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from everlearn.data import service_desk
from everlearn.errors import MissingExtra

VOCABULARY, WIDTH, LAYERS, HEADS, INNER, POSITIONS = 640, 160, 2, 4, 448, 128
STEPS, ANSWERS, RATE, WARM = 340, 24, 6e-3, 15
USER, AGENT, END = "<|user|>", "<|agent|>", "<|end|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|user|>' if m.role == 'user' else '<|agent|>' }}{{ m.content }}"
    "{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|agent|>{% endif %}"
)

Progress = Callable[[int, int], None]


def make(folder: str | Path, seed: int = 0, steps: int = STEPS, progress: Progress | None = None) -> None:
    """Write a tokenizer, and a Llama of 0.7 million parameters taught the language, to a folder.

    Everything is a function of `seed` and the number of `steps`, each on 32 answers. `progress(done, steps)` is called
    after each step. Raises `MissingExtra` without transformers and tokenizers.
    """
    try:
        import tokenizers  # noqa: F401
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra("a language model", "llm") from error
    random = np.random.default_rng(seed)
    tokenizer = make_tokenizer()
    model = taught(tokenizer, random, seed, steps, progress or (lambda done, steps: None))
    tokenizer.save_pretrained(str(folder))
    model.save_pretrained(str(folder))


def make_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer of the language, with a chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?\S+"), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[USER, AGENT, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    random = np.random.default_rng(0)
    texts = [service_desk.draw(one, random) for one in service_desk.COMPLAINTS * 250]
    bpe.train_from_iterator([*service_desk.COMPLAINTS * 50, *texts], trainer)
    tokenizer: Any = cast(Any, PreTrainedTokenizerFast)(tokenizer_object=bpe, eos_token=END, pad_token=END)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def taught(tokenizer: Any, random: np.random.Generator, seed: int, steps: int, progress: Progress) -> Any:
    """Return a Llama after `steps` steps of 32 answers each, by the cross-entropy of their tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from everlearn._torch import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=INNER,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                max_position_embeddings=POSITIONS,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM, (steps - step) / (0.6 * steps))
    )
    for step in range(steps):
        ids, labels = _batch(tokenizer, random)
        loss = model(input_ids=torch.tensor(ids), labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step + 1, steps)
    return model.eval()  # type: ignore[no-untyped-call]


def _batch(tokenizer: Any, random: np.random.Generator) -> tuple[list[list[int]], list[list[int]]]:
    """Return the ids of complaints with answers, padded on the right, and the labels, which are -100 elsewhere."""
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for number in random.integers(len(service_desk.COMPLAINTS), size=ANSWERS):
        complaint = service_desk.COMPLAINTS[number]
        prompt = tokenizer.encode(f"{USER}{complaint}{AGENT}", add_special_tokens=False)
        answer = tokenizer.encode(f"{service_desk.draw(complaint, random)}{END}", add_special_tokens=False)
        ids.append([*prompt, *answer])
        labels.append([*[-100] * len(prompt), *answer])
    width = max(map(len, ids))
    end = tokenizer.eos_token_id
    return [[*one, *[end] * (width - len(one))] for one in ids], [
        [*one, *[-100] * (width - len(one))] for one in labels
    ]
