"""Take a file of judged pairs through a loop: the same events as online, from another source.

Each row is a question and a judgement in the log, so that a file, and the people who judge afterwards, teach one model
in one run. A later epoch records the pairs again on the arm "repeat", from which the policy learns and nothing else
does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from everlearn.errors import ConfigError, IdTaken, InputError
from everlearn.loop import questions
from everlearn.loop.loop import Loop
from everlearn.records import Rejected
from everlearn.stream.preferences import PreferredRow, RankedRow, pairs_of, read_preferences

_SHOWN = 1000  # rejected rows that are kept to be shown


@dataclass(slots=True)
class TakenPairs:
    """The counts of one pair file: pairs and epochs taken, and rejected rows, with the first of these."""

    pairs: int = 0
    epochs: int = 0
    refused: int = 0
    rejected: list[Rejected] = field(default_factory=list)


def take(
    loop: Loop,
    source: Any,
    *,
    epochs: int = 1,
    by: str = "",
    progress: Callable[[int, Loop], None] | None = None,
) -> TakenPairs:
    """Let a loop learn the pairs of a source (see `stream.preferences.read_preferences`), `epochs` times.

    A file that is taken again, after an interruption or because it grew, goes on where it stopped. `by` is the source
    of the judgements (default: "people/" with the file's name); people are trusted. `progress(pairs, loop)` is called
    now and then. A row whose texts cannot be used is counted and passed over.

    Raises `InputError` for a source without pairs and for a model that takes no texts, `IdTaken` for a pair that the
    log holds with other tokens, `ConfigError` for no epoch.
    """
    if epochs < 1:
        raise ConfigError(f"epochs: got {epochs}; expected at least 1")
    questions.check_takes_texts(loop.ready())
    taken, by = TakenPairs(), by or f"people/{_name(source)}"
    for epoch in range(epochs):
        done = 0
        for place, row in _rows(source, taken, first=not epoch):
            key = hashlib.blake2b(msgspec.json.encode((place, row)), digest_size=8)
            seeds = loop.spec.seed, int.from_bytes(key.digest()[:4], "little")
            try:
                question, better = questions.transcribe(
                    loop.ready(), row.prompt, (row.chosen, row.rejected), seeds, repeated=epoch > 0
                )
                id = f"pair-{key.hexdigest()}-{epoch + 1}"
                loop.record(question, {"prompt": questions.text(row.prompt)}, id)
            except IdTaken:  # by another tokenizer, for instance: no fault of the row
                raise
            except InputError as error:
                if not epoch:
                    _refuse(taken, Rejected(_name(source), place[0], str(error), "", place[0]))
                continue
            loop.judge(id, better, source=by)
            done += 1
            if progress is not None and not done % 32:
                progress(taken.pairs * epoch + done, loop)
        taken.pairs, taken.epochs = max(taken.pairs, done), epoch + 1
    return taken


def _rows(source: Any, taken: TakenPairs, first: bool) -> Iterator[tuple[tuple[int, int], PreferredRow]]:
    """Yield the pairs of a source with (number of the row, number of the pair in it)."""
    for chunk in read_preferences(source):
        for position, row in zip(chunk.positions, chunk.rows, strict=True):
            if not isinstance(row, PreferredRow | RankedRow):
                raise InputError(
                    f"{_name(source)}: got rows with {', '.join(row.__struct_fields__)}; expected pairs: prompt, "
                    "chosen and rejected, or prompt, completions and ranks"
                )
            pairs = [row] if isinstance(row, PreferredRow) else pairs_of(row)
            yield from (((position, number), pair) for number, pair in enumerate(pairs))
        for refused in chunk.rejected if first else ():
            _refuse(taken, refused)


def _refuse(taken: TakenPairs, row: Rejected) -> None:
    taken.refused += 1
    if len(taken.rejected) < _SHOWN:
        taken.rejected.append(row)


def _name(source: Any) -> str:
    return Path(source).stem if isinstance(source, str | Path) else "table"
