"""Schema inference: guess the kind of each field and the classes of the label from raw columns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from everlearn.errors import InputError
from everlearn.records import Floats, Scalar, Task
from everlearn.schema import codes, columnar, forms, kinds, meaning, origins
from everlearn.schema.field import Field, fields_of
from everlearn.schema.kinds import MOST, Guess, Sample
from everlearn.schema.layout import CATEGORIES, NUMBERS, require
from everlearn.spec import Decimal, Schema

NUMBERED_CLASSES = 20  # integers with more different values than this are a regression
CLASSES = 1_000  # at most

FREQUENT = 10  # classes whose jumps from number to number count
FEWEST_BITS, MOST_BITS = 10, 18  # range of the hash bits of an inferred schema
_EXAMPLES = 3  # values shown of a column
_WHOLE = "an object or null; its parts are separate columns"
_TRUTHS = frozenset(["True", "False"])
_NO_LABEL = frozenset(["?", "n/a", "#n/a", "<na>", "null", "nan", "na"])


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found in some data: the schema, the guess and examples for each column, and notes about the label."""

    schema: Schema
    guesses: dict[str, Guess]
    examples: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    @property
    def left_out(self) -> dict[str, str]:
        """The reason for each column that is no field."""
        fields = self.schema.fields
        return {name: guess.why for name, guess in self.guesses.items() if name not in fields}


def infer(columns: Any, label: str, *, task: Task | None = None, labels: Mapping[Any, int] | None = None) -> Schema:
    """Guess a schema from rows: a mapping of names to columns, a DataFrame or an Arrow table.

    `labels` counts the labels of the whole stream, where `columns` is only a sample of it. Check the result before use:
    it follows the rules below, and ignores up to 2% of values that do not fit a kind.

    Label: truth values, text, and integers of at most 20 different values are classes; other numbers make a regression.
    Fields: numbers are numeric, also with signs of percent, currency and thousands, or with decimal commas. Whole
    numbers are an integer, which is a number and a category, if they are few, close and evenly used (3 to 31 values, as
    for a weekday), or if the label jumps from one to the next, as for shops (`schema.codes`). They are categorical if
    they are named like an identifier (`user_id`, `FlightNum`, `zip`). true/false and yes/no are boolean; dates in usual
    forms are datetime. Mostly distinct texts of 3 words and more, or of 30 letters, are text; other texts are
    categorical. Lists of numbers of one length are vectors; lists of words are tokens. Running numbers, identifiers
    with another value in every row, and lists of objects are left out; the parts of an object are columns such as
    `user.age`. A numeric field whose values lie far from 0 has an `origin`. `bits` leaves 64 hashed columns for each
    category found, and is 18 where there is text.

    Raises `InputError` if the label is not a column or cannot be learned.

    >>> infer({"age": [31, 42, 53], "town": ["Delft", "Delft", "Gouda"], "y": ["no", "yes", "no"]}, "y").fields
    {'age': 'numeric', 'town': 'categorical'}
    """
    return survey(columns, label, task=task, labels=labels).schema


def survey(
    columns: Any,
    label: str,
    *,
    task: Task | None = None,
    labels: Mapping[Any, int] | None = None,
    sample: Sample | None = None,
) -> Survey:
    """Return what `infer` finds, with a reason for each column.

    `sample` says where the rows stand in their source; without it, they are the source. Raises as `infer` does.
    """
    parts = {name: columnar.native(column) for name, column in columnar.named(columns).items()}
    require(label, list(parts))
    rows = len(parts[label])
    sample = Sample(np.arange(rows), rows) if sample is None else sample
    counts = Counter(columnar.values_of(parts[label])) if labels is None else labels
    guesses = {name: kinds.guess(name, part, sample) for name, part in parts.items() if name != label}
    guesses |= {name: Guess(None, _WHOLE) for name in guesses if _is_whole(name, parts)}
    found = _Label(label, counts, task, {guess.decimal for guess in guesses.values() if not guess.open})
    guesses = _settled(guesses, found.decimal)
    guesses |= _codes(guesses, parts, found.targets(parts[label]))
    fields = {name: guess.kind for name, guess in guesses.items() if guess.kind is not None}
    if not fields:
        fields = {name: "numeric" for name, guess in guesses.items() if "running number" in guess.why}
    if not fields:
        why = "; ".join(f"{name}: {guess.why}" for name, guess in list(guesses.items())[:5])
        raise InputError(
            f"no column beside the label {label!r} can be learned from; got {', '.join(parts)}"
            + (f" ({why})" * bool(why))
        )
    schema = Schema(
        label=label,
        task=found.task,
        fields=fields,
        classes=found.classes,
        bits=_bits(fields, parts),
        decimal=_decimal({name: guess for name, guess in guesses.items() if name in fields}, found, label),
        dates={name: guess.order for name, guess in guesses.items() if guess.order and name in fields},  # type: ignore[misc]
        missing={name: guess.missing for name, guess in guesses.items() if guess.missing and name in fields}
        | ({label: found.missing} if found.missing else {}),
    )
    schema = msgspec.structs.replace(schema, origin=_origin(schema, parts))
    examples = {name: _examples(part) for name, part in parts.items()}
    return Survey(schema, guesses, examples, tuple(found.notes))


def _is_whole(name: str, parts: Mapping[str, Any]) -> bool:
    """Return True for an object that has columns for its parts, and no value beside them."""
    inner = any(other.startswith(f"{name}.") for other in parts)
    return inner and all(kinds.absent(value) for value in columnar.values_of(parts[name]))


def _origin(schema: Schema, parts: Mapping[str, Any]) -> dict[str, float]:
    """Return the origins of the numeric fields whose values lie far from 0."""
    fields = fields_of(schema)
    numeric = [name for name, kind in schema.fields.items() if kind in NUMBERS]
    middles = {name: origins.guess(columnar.numbers(parts[name], fields[name])[0]) for name in numeric}
    return {name: middle for name, middle in middles.items() if middle is not None}


def _codes(guesses: Mapping[str, Guess], parts: Mapping[str, Any], targets: Floats) -> dict[str, Guess]:
    """Return the guess "integer" for the columns of numbers in which the label jumps from number to number."""
    found = {}
    for name, guess in guesses.items():
        if guess.kind != "numeric":
            continue
        gone = frozenset(forms.spelled(meaning.category(value)) for value in guess.missing)
        codes_gone = tuple(float(value) for value in guess.missing if not isinstance(value, str))
        field = Field(name, "numeric", decimal=guess.decimal, gone=gone, gone_numbers=codes_gone)
        numbers = columnar.numbers(parts[name], field)[0]
        if codes.tried(numbers) and codes.jump(numbers, targets):
            found[name] = replace(guess, kind="integer", why=f"{guess.why}; the label jumps from one to the next")
    return found


def _settled(guesses: dict[str, Guess], label: str) -> dict[str, Guess]:
    """Let columns whose numbers fit both decimal marks follow the others: 1,234 is 1.234 beside 0,5."""
    sure = {guess.decimal for guess in guesses.values() if not guess.open} | {label}
    if "," not in sure:
        return guesses
    return {
        name: replace(guess, decimal=",", why="numbers with a decimal comma, as in other columns")
        if guess.open
        else guess
        for name, guess in guesses.items()
    }


def _decimal(guesses: Mapping[str, Guess], found: _Label, label: str) -> Decimal | dict[str, Decimal]:
    """Return the setting: a mark by field; one mark where all numbers have it, those of the label too."""
    marks: dict[str, Decimal] = {name: "," for name, guess in guesses.items() if guess.decimal == ","}
    if found.decimal == ",":
        marks[label] = ","
    numbers = [name for name, guess in guesses.items() if guess.kind in NUMBERS]
    if found.task == "regression":
        numbers.append(label)
    if marks and all(name in marks for name in numbers):
        return ","
    return marks or "."


def _bits(fields: Mapping[str, str], parts: Mapping[str, Any]) -> int:
    if "text" in fields.values() or "tokens" in fields.values():
        return MOST_BITS
    categories = sum(
        len({value for value in columnar.values_of(parts[name]) if not kinds.absent(value)})
        for name, kind in fields.items()
        if kind in CATEGORIES
    )
    return min(max((64 * categories).bit_length(), FEWEST_BITS), MOST_BITS)


def _examples(part: Any) -> tuple[str, ...]:
    """Return the first different values of a column as short texts."""
    found: dict[str, None] = {}
    for value in columnar.values_of(part[:200]):
        if not kinds.absent(value):
            found.setdefault(value.strip()[:40] if isinstance(value, str) else meaning.show(value), None)
        if len(found) == _EXAMPLES:
            break
    return tuple(found)


class _Label:
    """The task, the classes, the decimal mark and the missing values of the label, from counts of its values."""

    def __init__(self, name: str, labels: Mapping[Any, int], task: Task | None, marks: set[str]) -> None:
        self.notes: list[str] = []
        self.missing: tuple[Scalar, ...] = ()
        self.decimal = "."
        texts = {str(value).strip(): n for value, n in labels.items() if isinstance(value, str) and value.strip()}
        words = {text.lower() for text in texts} <= {"true", "false"}
        if len(texts) > 1 and not words and (read := kinds.read_numbers(texts)) is not None:
            self.decimal = "," if read.open and "," in marks else read.decimal
            if self.decimal == "," or read.signed:
                how = "with a decimal comma" if self.decimal == "," else "with signs"
                self.notes.append(f"the labels are numbers {how}")
        gone = [word for word in texts if word.lower() in _NO_LABEL] if len(texts) > 2 else []
        self.missing = kinds.missing_categories(gone, texts)
        kept = {value: n for value, n in labels.items() if not _in(value, self.missing)}
        if set(texts) <= _TRUTHS and texts and len(texts) == len(kept):
            kept = {text.strip() == "True": n for text, n in kept.items()}
        self._number = Field(name, "numeric", decimal=self.decimal)
        self.task, self.classes = target(name, _one_case(kept, self.notes), task, self._number)
        if task is None and (note := _other_task(self.classes, kept, self._number)):
            self.notes.append(note)

    def targets(self, part: Any) -> Floats:
        """Return a column of labels as numbers, (n, k): the rank of a number, or 0 and 1 for each frequent class."""
        if not self.classes:
            numbers = columnar.numbers(part, self._number)[0]
            _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
            ranks = (np.cumsum(counts) - counts / 2.0)[places]
            return np.where(np.isnan(numbers), np.nan, ranks)[:, None]
        cells = [forms.spelled(meaning.category(value)).lower() for value in columnar.values_of(part)]
        often = [cell for cell, _ in Counter(cell for cell in cells if cell).most_common(FREQUENT)]
        found = np.array([[cell == other for other in often] for cell in cells], np.float64)
        return np.where(np.array([not cell for cell in cells])[:, None], np.nan, found)


def _other_task(classes: Sequence[Scalar], labels: Mapping[Any, int], field: Field) -> str:
    """Return a note where whole numbers may be classes as well as amounts: which they are taken for; "" elsewhere."""
    found = _numbers({value: n for value, n in labels.items() if not kinds.absent(value)}, field)
    different = set(found.values()) if found else set()
    if not 2 < len(different) <= CLASSES or any(number != math.floor(number) for number in different):
        return ""
    if classes:
        return f"the {len(different)} whole numbers of the label are classes; `--task regression` predicts a number"
    if sum(labels.values()) < 10 * len(different):
        return ""
    return f"the {len(different)} whole numbers of the label are amounts; `--task classes` takes each for a class"


def _in(value: Any, words: tuple[Scalar, ...]) -> bool:
    return isinstance(value, str) and value.strip() in words


def _one_case(labels: Mapping[Any, int], notes: list[str]) -> dict[Any, int]:
    """Join labels that differ only in case, under the most frequent spelling; single letters may be meant apart."""
    groups: dict[str, Counter[str]] = {}
    for value, n in labels.items():
        if isinstance(value, str) and len(value.strip()) > 1:
            groups.setdefault(value.strip().lower(), Counter())[value.strip()] += n
    chosen = {text: max(group, key=lambda one: (group[one], one)) for text, group in groups.items()}
    for text, group in groups.items():
        if len(group) > 1 and len(notes) < 5:
            others = ", ".join(repr(one) for one in sorted(group) if one != chosen[text])
            notes.append(f"the label {chosen[text]!r} is also written {others}: one class")
    joined: dict[Any, int] = {}
    for value, n in labels.items():
        text = value.strip() if isinstance(value, str) else value
        text = chosen.get(text.lower(), text) if isinstance(text, str) and text.lower() in chosen else text
        joined[text] = joined.get(text, 0) + n
    return joined


def target(label: str, labels: Mapping[Any, int], task: Task | None, field: Field) -> tuple[Task, tuple[Scalar, ...]]:
    """Return the task and the classes in class order, from the number of occurrences of each label.

    Raises `InputError` if there is nothing to learn: no label, one class, or more than 1,000.
    """
    counts = {value: n for value, n in labels.items() if not kinds.absent(value)}
    if not counts:
        raise InputError(f"the label {label!r} is missing in every row; expected at least two different labels")
    if all(isinstance(value, bool) for value in counts):
        return _classes(label, list(counts), task)
    plain = _numbers(counts, field)
    if plain is None:
        if task == "regression":
            raise InputError(
                f"the label {label!r} is not a number ({_some(counts)}); a regression, a forecast and a reward are "
                "numbers. Write numbers, or name another column"
            )
        return _classes(label, sorted({forms.spelled(meaning.category(value)).decode() for value in counts}), task)
    found = sorted(set(plain.values()))
    whole = all(number == math.floor(number) for number in found)
    few = len(found) <= 2 or (whole and len(found) <= min(NUMBERED_CLASSES, sum(counts.values()) / 2))
    if task == "regression" or (task is None and not few):
        return "regression", ()
    if any(isinstance(value, str) and meaning.plain_number(value.strip()) != number for value, number in plain.items()):
        return _classes(label, sorted({forms.spelled(meaning.category(value)).decode() for value in plain}), task)
    return _classes(label, [int(number) if number == math.floor(number) else number for number in found], task)


def _numbers(counts: Mapping[Any, int], field: Field) -> dict[Any, float] | None:
    """Return the number of each label if nearly all are numbers, without words that mean missing; None otherwise."""
    found, fit = {}, 0
    for value, n in counts.items():
        try:
            number = field.number(value)
        except InputError:
            continue
        fit += n
        if number == number:
            found[value] = number
    return found if found and fit >= MOST * sum(counts.values()) else None


def _classes(label: str, classes: Sequence[Any], task: Task | None) -> tuple[Task, tuple[Scalar, ...]]:
    if len(classes) < 2:
        raise InputError(f"the label {label!r} is {classes[0]!r} in every row; expected at least two different labels")
    if len(classes) > CLASSES:
        raise InputError(
            f"the label {label!r} has {len(classes):,} different values ({_some(classes)}); "
            f"expected at most {CLASSES:,} classes; is it the right column?"
        )
    if task == "binary" and len(classes) > 2:
        raise InputError(f"the label {label!r} has {len(classes)} classes ({_some(classes)}); a binary task has 2")
    return task or ("binary" if len(classes) == 2 else "multiclass"), tuple(sorted(classes))


def _some(values: Any) -> str:
    shown = [meaning.show(value) for value in list(values)[:3]]
    return ", ".join(shown) + (", ..." if len(values) > 3 else "")
