"""Prompts and answers as token ids, and batches of them.

Token in, token out: a prompt is rendered to ids once, and an answer is the ids that were sampled, with the stop token
if it was sampled. Text is never tokenised a second time, so that log-probabilities always refer to the tokens that were
sampled.

Sequences of a batch are padded on the left: answers end in the last column, and the next token follows there. Where
`model` is expected, any causal language model of transformers will do, with or without adapters; log-probabilities are
float32 and computed without temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from everlearn._torch import Tensor, nn, torch
from everlearn.errors import InputError

Ids = Sequence[int]
Message = Mapping[str, str]

_MARK = "\N{SECTION SIGN}answer\N{SECTION SIGN}"  # stands for an answer while a template is rendered


def render(tokenizer: Any, prompt: str | Sequence[Message]) -> list[int]:
    """Return the ids of a prompt, up to where the answer begins: text, or chat messages with `role` and `content`.

    The tokenizer's chat template renders messages, and text as one message of a user. Without a template, text stays
    as it is, and each message becomes a line "role: content", followed by "assistant:". Raises `InputError` for an
    empty prompt and for messages that the template refuses.
    """
    if isinstance(prompt, str) and not tokenizer.chat_template:
        return _encoded(tokenizer, prompt, start=True)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(one) for one in prompt]
    return _encoded(tokenizer, _chat(tokenizer, messages), start=not tokenizer.chat_template)


def following(tokenizer: Any, prompt_ids: Ids, answer_ids: Ids, messages: Sequence[Message]) -> list[int]:
    """Return the ids of the next prompt of a chat: prompt and answer as they were, then new messages.

    The ids of earlier turns are kept; only what the template writes after an answer is tokenised. A stop token that
    the answer ends with is not written twice; an answer without one (cut by the limit) is closed as the template does.
    """
    held = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": _MARK}]
    text = _chat(tokenizer, [*held, *(dict(one) for one in messages)])
    tail: list[int] = tokenizer.encode(text.rpartition(_MARK)[2], add_special_tokens=False)
    if answer_ids and tail and tail[0] == answer_ids[-1]:
        tail = tail[1:]
    return [*prompt_ids, *answer_ids, *tail]


def written(tokenizer: Any, answer: str | Sequence[Message], stop: Sequence[int]) -> list[int]:
    """Return the ids of an answer that was not sampled: its text, or its one message, and the token that ends it.

    Raises `InputError` for an answer of several messages, and for one without text.
    """
    if not isinstance(answer, str) and len(answer) != 1:
        raise InputError(f"completion: got {len(answer)} messages; expected text, or one message of the assistant")
    words = answer if isinstance(answer, str) else answer[0]["content"]
    found: list[int] = tokenizer.encode(words, add_special_tokens=False)
    if not found:
        raise InputError("completion: got no tokens; expected some text")
    return [*found, *stop[:1]]


def _chat(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """Return messages as text, with the opening of an answer at the end."""
    if not messages or any("role" not in one or "content" not in one for one in messages):
        raise InputError(f"messages: got {messages}; expected some, each with a role and a content")
    if not tokenizer.chat_template:
        return "".join(f"{one['role']}: {one['content']}\n" for one in messages) + "assistant:"
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of its author, and raises any error
        raise InputError(f"messages: the chat template refuses them: {error}") from error
    return text


def _encoded(tokenizer: Any, text: str, start: bool) -> list[int]:
    """Return the ids of text, after the token that starts a sequence where the text lacks it and the model has one."""
    found: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if start and tokenizer.bos_token_id is not None:
        found = [int(tokenizer.bos_token_id), *found]
    if not found:
        raise InputError("prompt: got no tokens; expected some text, or a tokenizer with a token to start with")
    return found


def stop_tokens(model: nn.Module, tokenizer: Any = None) -> tuple[int, ...]:
    """Return the ids that end an answer: those of the model's generation settings, and the tokenizer's end token."""
    config: Any = getattr(model, "generation_config", None)
    given = [getattr(config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)]
    found: list[int] = []
    for one in given:
        found += [] if one is None else [int(one)] if isinstance(one, int) else [int(id) for id in one]
    return tuple(dict.fromkeys(found))


# ---- batches -------------------------------------------------------------------------------------------------------


class Padded(NamedTuple):
    """Prompts with their answers, padded on the left.

    `ids`, `mask` and `positions` are int64 (n, t). `answer`, bool (n, a), marks the tokens of answers in the last a
    columns, a >= 1.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    answer: Tensor


def pad(prompts: Sequence[Ids], answers: Sequence[Ids], device: torch.device | str = "cpu") -> Padded:
    """Return prompts followed by answers as one batch. Raises `InputError` for an empty prompt.

    >>> batch = pad([[5], [6, 7]], [[1, 2], [3]])
    >>> batch.ids.tolist(), batch.answer.tolist()
    ([[5, 1, 2], [6, 7, 3]], [[True, True], [False, True]])
    >>> pad([[5, 6], [7]], [[], []]).positions.tolist()
    [[0, 1], [0, 0]]
    """
    if any(not len(prompt) for prompt in prompts):
        raise InputError("prompt: got no tokens; expected at least one, as the first token of an answer follows it")
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    width, longest = max(map(len, rows)), max(1, *map(len, answers))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    filled = torch.tensor([len(row) for row in rows], device=device)
    mask = (torch.arange(width, device=device) >= width - filled[:, None]).long()
    lengths = torch.tensor([len(answer) for answer in answers], device=device)
    marked = torch.arange(longest, device=device) >= longest - lengths[:, None]
    return Padded(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), marked)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first weight."""
    return next(model.parameters()).device
