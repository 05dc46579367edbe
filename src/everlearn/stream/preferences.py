"""Preference data in the column formats of TRL, from and to JSON lines and Parquet.

    preference   prompt, chosen, rejected; or chosen and rejected alone, which both begin with the prompt
    unpaired     prompt, completion, label (true: good)
    prompt       prompt
    ranking      prompt, completions, and ranks (1 is best); without ranks, the best comes first

Each text is a string, or a conversation: a list of messages with "role" and "content". The first three formats are
those of TRL 1.16, "Dataset formats". A row that cannot be used becomes a `Rejected` with its line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, islice
from os import PathLike
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
import numpy as np
from msgspec import Struct

from everlearn.errors import ConfigError, InputError
from everlearn.records import Rejected
from everlearn.schema import columnar
from everlearn.stream.blocks import Block
from everlearn.stream.opening import source_of
from everlearn.stream.sources import Files
from everlearn.stream.stream import rejected_rows

Form = Literal["preference", "unpaired", "prompt", "ranking"]

COLUMNS: Mapping[Form, tuple[str, ...]] = {
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label"),
    "prompt": ("prompt",),
    "ranking": ("prompt", "completions", "ranks"),
}
_NEEDED: Mapping[Form, frozenset[str]] = {  # searched in this order
    "preference": frozenset({"chosen", "rejected"}),
    "ranking": frozenset({"prompt", "completions"}),
    "unpaired": frozenset({"prompt", "completion", "label"}),
    "prompt": frozenset({"prompt"}),
}
_WRITTEN = 1_024  # rows written at a time


class ChatTurn(Struct, frozen=True):
    """One message of a conversation: the role that speaks ("system", "user", "assistant", ...), and its text."""

    role: str
    content: str


Text = str | tuple[ChatTurn, ...]


class PreferredRow(Struct, frozen=True):
    """A prompt, the preferred completion, and the other one."""

    prompt: Text
    chosen: Text
    rejected: Text


class UnpairedRow(Struct, frozen=True):
    """A prompt, one completion, and True if it is good."""

    prompt: Text
    completion: Text
    label: bool


class PromptRow(Struct, frozen=True):
    """A prompt alone."""

    prompt: Text


class RankedRow(Struct, frozen=True):
    """A prompt, n completions, and their ranks: 1 is best, and equal ranks are ties."""

    prompt: Text
    completions: tuple[Text, ...]
    ranks: tuple[int, ...]


Row = PreferredRow | UnpairedRow | PromptRow | RankedRow


@dataclass(frozen=True, slots=True)
class PreferenceChunk:
    """Consecutive rows of a source: the usable rows with their positions, the rejected ones, and the last position."""

    positions: list[int]
    rows: list[Row]
    rejected: tuple[Rejected, ...]
    last: int


def read_preferences(
    source: Any, form: Form | None = None, *, after: int = 0, size: int = 256
) -> Iterator[PreferenceChunk]:
    """Yield the rows of a source in order, after the first `after`, at most `size` in a chunk.

    `source` is any source that `everlearn.read` accepts. The form follows from its columns, if it is not given; other
    columns are ignored. Memory is bounded by the chunk. Positions count all rows from 1. Raises `InputError`, before
    anything is read, if the columns fit no form.

    >>> rows = {"prompt": ["The sky is", "The sun is"], "chosen": [" blue.", ""], "rejected": [" green.", " here."]}
    >>> chunk = next(read_preferences(rows))
    >>> chunk.rows
    [PreferredRow(prompt='The sky is', chosen=' blue.', rejected=' green.')]
    >>> [(row.line, row.reason) for row in chunk.rejected]
    [(2, "chosen: got '', expected some text or a list of messages")]
    """
    if size < 1:
        raise ConfigError(f"size: got {size}; expected at least 1")
    opened = source_of(source, peek=0)
    parts = opened.sources if isinstance(opened, Files) else [opened]
    found = form or form_of_columns(opened.names, opened.name)
    for part in parts:
        missing = _NEEDED[found] - set(part.names)
        if missing:
            raise InputError(
                f"{Path(part.name).name} has no column {', '.join(map(repr, sorted(missing)))}; its columns are "
                f"{', '.join(map(repr, part.names[:20]))}, and a {found} file needs {', '.join(COLUMNS[found])}"
            )
    return (_chunk(block, found) for block in opened.blocks(after, size, list(COLUMNS[found])))


def form_of_columns(names: Iterable[str], source: str = "the source") -> Form:
    """Return the form that columns fit. Raises `InputError` if they fit none.

    >>> form_of_columns(["chosen", "rejected", "score_chosen"])
    'preference'
    """
    columns = set(names)
    for form, needed in _NEEDED.items():
        if needed <= columns and not (form == "prompt" and "completion" in columns):
            return form
    known = "; ".join(f"{form}: {', '.join(named)}" for form, named in COLUMNS.items())
    raise InputError(
        f"{source} has the columns {', '.join(map(repr, sorted(columns)[:20]))}; expected those of one form. {known}"
    )


def write_preferences(path: str | PathLike[str], rows: Iterable[Row]) -> int:
    """Write rows of one form to a file, Parquet if its name ends in ".parquet", else JSON lines; return their number.

    Rows are taken and written 1,024 at a time; the file appears under its name when it is complete. Raises `InputError`
    with the row's number where a row is of another form than the first, or mixes text with conversations.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    taken = iter(rows)
    first = next(taken, None)
    count = 0
    try:
        with unfinished.open("wb") as file, _writer(file, path, first) as write:
            batch = [] if first is None else [first, *islice(taken, _WRITTEN - 1)]
            while batch and first is not None:
                write([_columns(row, first, count + number) for number, row in enumerate(batch, 1)])
                count += len(batch)
                batch = list(islice(taken, _WRITTEN))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def pairs_of(row: RankedRow) -> list[PreferredRow]:
    """Return the preferences in a ranking: every two completions of different rank, the better one chosen.

    >>> [(pair.chosen, pair.rejected) for pair in pairs_of(RankedRow("?", ("a", "b", "c"), (2, 1, 2)))]
    [('b', 'a'), ('b', 'c')]
    """
    ranked = sorted(zip(row.ranks, row.completions, strict=True), key=lambda entry: entry[0])
    return [
        PreferredRow(row.prompt, better, worse)
        for (rank, better), (other, worse) in combinations(ranked, 2)
        if rank < other
    ]


def unpaired_of(row: PreferredRow) -> tuple[UnpairedRow, UnpairedRow]:
    """Return a preference as one good and one bad completion, for losses such as KTO."""
    return UnpairedRow(row.prompt, row.chosen, True), UnpairedRow(row.prompt, row.rejected, False)


# ---- reading -------------------------------------------------------------------------------------------------------


def _chunk(block: Block, form: Form) -> PreferenceChunk:
    n = len(block.kept)
    lists = {
        name: columnar.values_of(columnar.native(block.columns[name])) if name in block.columns else [None] * n
        for name in COLUMNS[form]
    }
    faults = dict(block.faults)
    positions, rows = [], []
    for number, at in enumerate(block.kept.tolist()):
        try:
            rows.append(_READERS[form]({name: column[number] for name, column in lists.items()}))
            positions.append(block.before + at + 1)
        except InputError as error:
            faults[at] = str(error)
    return PreferenceChunk(positions, rows, rejected_rows(block, faults), block.before + block.rows)


def _preferred(record: Mapping[str, Any]) -> Row:
    chosen, rejected = _text(record, "chosen"), _text(record, "rejected")
    _require_alike(chosen, rejected, "rejected", "chosen")
    if chosen == rejected:
        raise InputError("rejected: got the same as chosen, expected another answer")
    prompt = None if record["prompt"] is None else _text(record, "prompt")
    if prompt is None or isinstance(prompt, str) is not isinstance(chosen, str):
        return _split(chosen, rejected)  # a prompt as text beside whole conversations repeats what they begin with
    if isinstance(prompt, tuple) and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        return _split(chosen, rejected, len(prompt))
    return PreferredRow(prompt, chosen, rejected)


def _split(chosen: Text, rejected: Text, length: int | None = None) -> PreferredRow:
    """Return the row of two texts that begin with their prompt: the longest common beginning, whole words or messages.

    TRL cuts between characters, which would leave half a word in the prompt where two answers begin with equal letters.
    """
    if length is None:
        pairs = zip(chosen, rejected, strict=False)
        length = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
        if isinstance(chosen, str) and isinstance(rejected, str):
            length = _before_the_word(chosen, rejected, length)
    if not chosen[length:] or not rejected[length:]:
        raise InputError(
            "chosen: got the beginning of rejected, or the reverse, expected two answers after a common prompt"
        )
    if not chosen[:length]:
        raise InputError("prompt: got none, and chosen and rejected begin differently; expected a prompt")
    return PreferredRow(chosen[:length], chosen[length:], rejected[length:])


def _before_the_word(chosen: str, rejected: str, length: int) -> int:
    """Return where the prompt ends if two texts first differ at `length`: not inside a word, and before a space.

    Scripts without spaces between words are cut between characters.
    """
    cut = length
    if _in_word(chosen[cut : cut + 1]) or _in_word(rejected[cut : cut + 1]):
        while cut and _in_word(chosen[cut - 1]):
            cut -= 1
    cut = cut or length
    return cut - 1 if cut and chosen[cut - 1] == " " else cut


def _in_word(character: str) -> bool:
    return character.isalnum() and character < "\u3000"


def _unpaired(record: Mapping[str, Any]) -> Row:
    prompt, completion, label = _text(record, "prompt"), _text(record, "completion"), record["label"]
    _require_alike(prompt, completion, "completion", "prompt")
    if not isinstance(label, bool) and not (isinstance(label, int) and label in (0, 1)):
        raise InputError(f"label: got {_shown(label)}, expected true or false")
    return UnpairedRow(prompt, completion, bool(label))


def _prompt(record: Mapping[str, Any]) -> Row:
    return PromptRow(_text(record, "prompt"))


def _ranked(record: Mapping[str, Any]) -> Row:
    prompt, given = _text(record, "prompt"), record["completions"]
    if not isinstance(given, list) or len(given) < 2:
        raise InputError(f"completions: got {_shown(given)}, expected a list of at least two")
    completions = tuple(_text({"completions": entry}, "completions") for entry in given)
    for completion in completions:
        _require_alike(prompt, completion, "completions", "prompt")
    ranks = list(range(1, len(given) + 1)) if record["ranks"] is None else record["ranks"]
    whole = isinstance(ranks, list) and all(isinstance(r, int) and not isinstance(r, bool) for r in ranks)
    if not whole or len(ranks) != len(given) or len(set(ranks)) == 1:
        raise InputError(f"ranks: got {_shown(ranks)}, expected {len(given)} whole numbers that are not all the same")
    return RankedRow(prompt, completions, tuple(ranks))


_READERS: Mapping[Form, Callable[[Mapping[str, Any]], Row]] = {
    "preference": _preferred,
    "unpaired": _unpaired,
    "prompt": _prompt,
    "ranking": _ranked,
}


def _text(record: Mapping[str, Any], name: str) -> Text:
    """Return a string or a conversation. Raises `InputError` for anything else, and for an empty one."""
    value = record[name]
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str) and value:
        return _valid(value, name)
    if isinstance(value, list) and value:
        return tuple(_turn(message, name) for message in value)
    raise InputError(f"{name}: got {_shown(value)}, expected some text or a list of messages")


def _turn(message: Any, name: str) -> ChatTurn:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message["role"]:
        raise InputError(f'{name}: got {_shown(message)}, expected a message {{"role": "user", "content": "text"}}')
    if message.get("tool_calls"):
        raise InputError(f"{name}: got a message with tool_calls, expected text; calls of tools are not learned")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str):
        raise InputError(f"{name}: got the content {_shown(content)}, expected text")
    return ChatTurn(_valid(message["role"], name), _valid(content, name))


def _valid(text: str, name: str) -> str:
    """Return a text. Raises `InputError` for half a surrogate pair, which no file can hold."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{name}: got half a surrogate pair at {error.start}, expected valid Unicode") from error
    return text


def _require_alike(one: Text, other: Text, name: str, model: str) -> None:
    if isinstance(one, str) is not isinstance(other, str):
        raise InputError(f"{name}: got {_kind(other)}, expected {_kind(one)} as in {model}")


def _kind(text: Text) -> str:
    return "text" if isinstance(text, str) else "a list of messages"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- writing -------------------------------------------------------------------------------------------------------


@contextmanager
def _writer(file: IO[bytes], path: Path, first: Row | None) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Open a file for the rows of one form, those of the first row; text columns where there is no row."""
    if path.suffix != ".parquet":
        yield lambda rows: file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(first)
    with pq.ParquetWriter(file, schema) as opened:
        yield lambda rows: opened.write_table(pa.Table.from_pylist(rows, schema))


def _schema(first: Row | None) -> Any:
    import pyarrow as pa

    talk = first is not None and not isinstance(first.prompt, str)
    text = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])) if talk else pa.string()
    kinds = {"label": pa.bool_(), "completions": pa.list_(text), "ranks": pa.list_(pa.int64())}
    names = _names(first) if first is not None else COLUMNS["preference"]
    return pa.schema([(name, kinds.get(name, text)) for name in names])


def _names(row: Row) -> tuple[str, ...]:
    return type(row).__struct_fields__


def _columns(row: Row, first: Row, number: int) -> dict[str, Any]:
    """Return a row as plain values. Raises `InputError` if it does not fit the first row of the file."""
    if type(row) is not type(first) or isinstance(row.prompt, str) is not isinstance(first.prompt, str):
        raise InputError(
            f"row {number}: got a {type(row).__name__} of {_kind(row.prompt)}, expected a {type(first).__name__} of "
            f"{_kind(first.prompt)}, as in the first row; write other rows to another file"
        )
    plain: dict[str, Any] = msgspec.to_builtins(row)
    texts = [value for name, value in plain.items() if name not in ("prompt", "label", "ranks", "completions")]
    texts += plain.get("completions", ())
    for text in texts:
        if isinstance(text, str) is not isinstance(row.prompt, str):
            raise InputError(f"row {number}: got text beside a conversation, expected one of them in the whole row")
    return plain
