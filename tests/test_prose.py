"""The words that the code must not use, because they read like a translation or name nobody who acts."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

FILES = sorted(path for path in (ROOT / "src" / "everlearn").rglob("*") if path.suffix in (".py", ".js", ".html"))
BANNED = "told|said|anew|lest|whoever|nobody|anybody|everybody|of its own|of their own|by name|that there is|what is"
PROSE = re.compile(rf"\b({BANNED})\b", re.I)
KEPT = {
    "families/neural/memory.py": ["said"],  # an array of a replay memory in checkpoints
    "families/neural/requirements.py": ["told"],  # the setting consolidate.told of release 0.1
    "families/neural/settings.py": ["told"],
}
"""Names on disk and in configurations, which old homes hold; by file."""

NAMES = re.compile(r"(^|_)(told|said|anew|heard|asked|pupil|lesson|lessons|births)(_|$)")


def words(path: Path) -> Iterator[tuple[int, str]]:
    """Each banned word of a file, with its line: in comments, strings and names of Python, anywhere in other files."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        for number, line in enumerate(text.splitlines(), 1):
            yield from ((number, found[0]) for found in PROSE.finditer(line))
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            joined = re.sub(r"\s+(#\s*)?", " ", token.string)
            yield from ((token.start[0], found[0]) for found in PROSE.finditer(joined))
        elif token.type == tokenize.NAME and NAMES.search(token.string):
            yield token.start[0], token.string


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "src" / "everlearn")))
def test_words_that_read_like_a_translation_stay_out(path: Path) -> None:
    kept = KEPT.get(str(path.relative_to(ROOT / "src" / "everlearn")), [])
    found = [f"line {line}: {word}" for line, word in words(path) if word not in kept]
    assert not found, f"{path.name} uses {'; '.join(found[:10])}; see the note on prose in CONTRIBUTING.md"
