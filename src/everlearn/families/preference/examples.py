"""Examples that a policy imitates beside what it learns from rewards, so that it keeps old skills and facts.

They come from a file of JSON lines with a prompt and a completion, as TRL's format "prompt-completion" has them, and
are tokens in the arrays of a model: a file that changed is noticed, and a rebuild takes the same steps.

    ids      prompt and completion of each example, int32 (n, longest)
    sizes    their numbers of tokens, int64 (n, 2)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from everlearn.errors import ConfigError, InputError, ModelError
from everlearn.families.preference import text
from everlearn.families.preference.text import Ids
from everlearn.records import Arrays

MOST = 4096  # examples of a file

Taught = Sequence[tuple[Ids, Ids]]


class ExampleTurn(Struct, frozen=True):
    """One message: who speaks, and the text."""

    role: str
    content: str


class WrittenExample(Struct, frozen=True):
    """A prompt, and the completion to imitate; each is text or a list of messages."""

    prompt: str | tuple[ExampleTurn, ...]
    completion: str | tuple[ExampleTurn, ...]


def read(path: str, tokenizer: Any, stop: Sequence[int], longest: tuple[int, int]) -> Taught:
    """Return the tokens of the examples in a file; `longest` are the most tokens of a prompt and of a completion.

    Raises `ConfigError`, with the line, for a file that cannot be read, an example that is too long, and more than
    4,096 examples.
    """
    if tokenizer is None:
        raise ConfigError("examples: got a file for a model without a tokenizer; expected none. Set model.tokenizer")
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"examples: got {path!r}, which cannot be read: {error}; expected JSON lines") from error
    found: list[tuple[Ids, Ids]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = msgspec.json.decode(line, type=WrittenExample)
            prompt, completion = (_plain(part) for part in (one.prompt, one.completion))
            ids = text.render(tokenizer, prompt), text.written(tokenizer, completion, stop)
        except (msgspec.DecodeError, InputError) as error:
            raise ConfigError(
                f'{path}:{number}: {error}; expected {{"prompt": "text", "completion": "text"}}, or messages'
            ) from error
        sizes = tuple(map(len, ids))
        if sizes[0] > longest[0] or sizes[1] > longest[1]:
            raise ConfigError(
                f"{path}:{number}: got {sizes[0]} and {sizes[1]} tokens; expected at most {longest[0]} of the prompt "
                f"and {longest[1]} of the completion (schema.prompt_tokens, schema.answer_tokens). Shorten it"
            )
        found.append(ids)
    if not 0 < len(found) <= MOST:
        raise ConfigError(f"examples: got {len(found)} in {path}; expected 1 to {MOST:,}. Name another file")
    return found


def start(taught: Taught) -> Arrays:
    """Return the arrays of n examples.

    >>> sorted((name, array.tolist()) for name, array in start([([5], [7, 2]), ([6, 6], [8])]).items())
    [('ids', [[5, 7, 2], [6, 6, 8]]), ('sizes', [[1, 2], [2, 1]])]
    """
    sizes = np.array([[len(prompt), len(completion)] for prompt, completion in taught], np.int64)
    ids = np.zeros((len(taught), int(sizes.sum(1).max())), np.int32)
    for row, (prompt, completion) in zip(ids, taught, strict=True):
        row[: len(prompt) + len(completion)] = [*prompt, *completion]
    return {"ids": ids, "sizes": sizes}


def held(arrays: Arrays) -> Taught:
    """Return the examples in arrays."""
    rows = zip(arrays["ids"].tolist(), arrays["sizes"].tolist(), strict=True)
    return [(ids[:prompt], ids[prompt : prompt + completion]) for ids, (prompt, completion) in rows]


def check_same(now: Arrays, stored: Arrays) -> None:
    """Raise `ModelError` where stored examples are others than those of the file."""
    if any(not np.array_equal(now[name], stored[name]) for name in now):
        raise ModelError(
            "these arrays were learned with other examples than those of the file. Restore the file "
            "`model.examples`, or start a new home"
        )


def _plain(given: str | tuple[ExampleTurn, ...]) -> str | list[text.Message]:
    return given if isinstance(given, str) else [{"role": one.role, "content": one.content} for one in given]
