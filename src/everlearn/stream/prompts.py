"""Prompts from a file: text, one prompt in each line, or JSON lines with a prompt and its group."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from everlearn.errors import InputError
from everlearn.stream.preferences import Text


class Prompt(Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt to ask about: text or chat messages; `group` names what drifts together."""

    prompt: Text
    group: str = ""

    @property
    def text(self) -> str:
        """The prompt as the log records it: text as it is, messages as JSON."""
        return written(self.prompt)


def written(prompt: Text) -> str:
    """Return a prompt as text: messages become JSON.

    >>> from everlearn.stream.preferences import ChatTurn
    >>> written((ChatTurn("user", "Hi"),))
    '[{"role":"user","content":"Hi"}]'
    """
    return prompt if isinstance(prompt, str) else msgspec.json.encode(prompt).decode()


def read_prompts(path: str | Path) -> tuple[Prompt, ...]:
    """Return the prompts of a file, in order.

    A file whose name ends in .jsonl holds one JSON value in each line: a string, or an object with `prompt` and
    optionally `group`. Any other file is text. Empty lines are passed over. Raises `InputError`, with the line, for a
    file that cannot be read or holds no prompt.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "prompts.txt")
    ...     _ = path.write_text("Where is it?\\n\\nMay I?\\n")
    ...     [one.text for one in read_prompts(path)]
    ['Where is it?', 'May I?']
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts: {path} cannot be read: {error}; expected text in UTF-8, a prompt a line") from error
    as_json = path.suffix.lower() in (".jsonl", ".ndjson")
    found = [_prompt(line, as_json, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError(f"prompts: got no prompt in {path}; expected at least one line")
    return tuple(found)


def _prompt(line: str, as_json: bool, where: str) -> Prompt:
    if not as_json:
        return Prompt(line.strip())
    try:
        given = msgspec.json.decode(line, type=str | Prompt)
    except msgspec.DecodeError as error:
        raise InputError(f'{where}: {error}; expected {{"prompt": "text", "group": "name"}}') from error
    one = Prompt(given) if isinstance(given, str) else given
    if not one.prompt or (isinstance(one.prompt, str) and not one.prompt.strip()):
        raise InputError(f"{where}: got an empty prompt; expected some text, or messages")
    return one
