"""Schema inference: guess the kind of each field and the classes of the label from raw columns."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from everlearn.errors import InputError
from everlearn.records import Scalar, Task
from everlearn.schema import columnar, meaning, origins
from everlearn.schema.layout import require
from everlearn.spec import Schema

MOST = 0.98  # share of values that must fit a kind; the others count as dirt
NUMBERED_CLASSES = 20  # integers with more different values than this are a regression
CLASSES = 1_000  # at most
ENOUGH = 20  # distinct values from which a column counts as an identifier

FEWEST_BITS, MOST_BITS = 10, 18  # range of the hash bits of an inferred schema
_CATEGORY_NUMBERS = range(3, 32)  # number of different integers that may be categories
_EVENLY = 0.6  # entropy of these values, as a share of the entropy of even use
_ID_WORDS = frozenset(["id", "no", "nr", "num", "number", "code", "zip", "zipcode", "postcode", "uuid", "key"])
_ROW_NAMES = frozenset(["", "index", "row", "unnamed: 0"])
_TRUTH_WORDS = frozenset(["true", "false", "yes", "no", "t", "f", "y", "n"])
_LEADING_ZERO = re.compile(r"0[0-9]+")


def infer(columns: Any, label: str, *, task: Task | None = None, labels: Mapping[Any, int] | None = None) -> Schema:
    """Guess a schema from rows: a mapping of names to columns, a DataFrame or an Arrow table.

    `labels` counts the labels of the whole stream, where `columns` is only a sample of it. Check the result before use:
    it follows the rules below, and ignores up to 2% of values that do not fit a kind.

    Label: truth values, text, and integers of at most 20 different values are classes; other numbers make a regression.
    Fields: numbers are numeric. Integers are categorical if they are few, close and evenly used (3 to 31 values, as for
    a weekday) or named like an identifier (`user_id`, `FlightNum`, `zip`). true/false and yes/no are boolean; ISO dates
    are datetime. Mostly distinct texts of 3 words and more, or of 30 letters, are text; other texts are categorical.
    Lists of numbers of one length are vectors. Identifiers with another value in every row and columns of nested values
    are left out. A numeric field whose values lie far from 0 has an `origin`. `bits` leaves 64 hashed columns for each
    category found, and is 18 where there is text.

    Raises `InputError` if the label is not a column or cannot be learned.

    >>> infer({"age": [31, 42, 53], "town": ["Delft", "Delft", "Gouda"], "y": ["no", "yes", "no"]}, "y").fields
    {'age': 'numeric', 'town': 'categorical'}
    """
    parts = {name: columnar.native(column) for name, column in columnar.named(columns).items()}
    require(label, list(parts))
    counts = Counter(columnar.values_of(parts[label])) if labels is None else labels
    found, classes = target(label, counts, task)
    kinds = {name: kind_of(name, part) for name, part in parts.items() if name != label}
    fields = {name: kind for name, kind in kinds.items() if kind is not None}
    if not fields:
        raise InputError(f"no column beside the label {label!r} can be learned from; got {', '.join(parts)}")
    categories = sum(
        len(set(columnar.values_of(parts[name]))) for name, kind in fields.items() if kind == "categorical"
    )
    bits = MOST_BITS if "text" in fields.values() else min(max((64 * categories).bit_length(), FEWEST_BITS), MOST_BITS)
    middles = {name: origins.guess(columnar.numbers(parts[name])[0]) for name in fields if fields[name] == "numeric"}
    origin = {name: middle for name, middle in middles.items() if middle is not None}
    return Schema(label=label, task=found, fields=fields, classes=classes, bits=bits, origin=origin)


def kind_of(name: str, part: Any) -> str | None:
    """Return the kind of a field, guessed from a native column; None if the field should be left out."""
    if columnar.is_arrow(part) and str(part.type).startswith("dictionary"):
        return "categorical"
    everything = columnar.values_of(part)
    values = [value for value in everything if not _absent(value)]
    if not values:
        typed = isinstance(part, np.ndarray) or any(isinstance(value, float) for value in everything)
        return "numeric" if typed else "categorical"
    kinds = set(map(type, values))
    if kinds == {bool}:
        return "boolean"
    if kinds <= {bool, int, float, Decimal}:
        return _number_kind(name, [float(value) for value in values])
    if all(issubclass(kind, date) for kind in kinds):
        return "datetime"
    if kinds <= {list, tuple, np.ndarray}:
        return _vector_kind(values)
    if kinds & {dict, list, tuple}:
        return None
    return _text_kind(name, [meaning.category(value).decode() for value in values])


def _absent(value: Any) -> bool:
    return meaning.is_missing(value) or (isinstance(value, str | bytes) and not value.strip())


def _number_kind(name: str, numbers: Sequence[float]) -> str | None:
    whole = [number for number in numbers if number == math.floor(number)] if all(map(math.isfinite, numbers)) else []
    if len(whole) < MOST * len(numbers):
        return "numeric"
    counts = Counter(whole)
    if _named_like_id(name):
        if len(counts) == len(whole) >= ENOUGH:
            return None
        return "categorical" if len(counts) > 2 else "numeric"
    if name.strip().lower() in _ROW_NAMES and len(counts) == len(whole) >= ENOUGH:
        return None
    few = len(counts) in _CATEGORY_NUMBERS and len(whole) >= 10 * len(counts)
    close = max(whole) - min(whole) < 2 * len(counts)
    return "categorical" if few and close and _evenness(counts) >= _EVENLY else "numeric"


def _evenness(counts: Mapping[Any, int]) -> float:
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) / math.log(len(counts))


def _named_like_id(name: str) -> bool:
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).lower()
    return re.split(r"[^a-z]+", words.rstrip("0123456789_ "))[-1] in _ID_WORDS


def _text_kind(name: str, texts: Sequence[str]) -> str | None:
    numbers = accepted(texts, meaning.number)
    if len(numbers) >= MOST * len(texts):
        known = [number for number in numbers if number == number]
        zeros = sum(1 for text in texts if _LEADING_ZERO.fullmatch(text))
        if zeros <= (1 - MOST) * len(texts):
            return _number_kind(name, known) if known else "numeric"
    elif sum(text.strip().lower() in _TRUTH_WORDS for text in texts) >= MOST * len(texts):
        return "boolean"
    elif len(accepted(texts, meaning.moment)) >= MOST * len(texts):
        return "datetime"
    elif texts[0].startswith("["):
        return _vector_kind([text.strip("[] ").split(",") for text in texts])
    return _word_kind(texts)


def _word_kind(texts: Sequence[str]) -> str | None:
    """Return "text", "categorical" or None, by the number of words and how often texts repeat."""
    distinct, count = len(set(texts)), len(texts)
    words = sum(len(text.split()) for text in texts) / count
    lengths = list(map(len, texts))
    long = sum(lengths) >= 30 * count and len(set(lengths)) > 1
    if (words >= 3 or long) and distinct > count / 5:
        return "text"
    return None if distinct == count >= ENOUGH and words < 1.5 else "categorical"


def _vector_kind(values: Sequence[Any]) -> str | None:
    lengths = Counter(map(len, values))
    length, count = lengths.most_common(1)[0]
    if length == 0 or count < MOST * len(values):
        return None
    try:
        meaning.vector(next(value for value in values if len(value) == length), length)
    except InputError:
        return None
    return f"vector[{length}]"


def accepted(values: Sequence[Any], function: Callable[[Any], float]) -> list[float]:
    """Return the function's result for each value that it accepts."""
    found = []
    for value in values:
        try:
            found.append(function(value))
        except InputError:
            continue
    return found


def target(label: str, labels: Mapping[Any, int], task: Task | None) -> tuple[Task, tuple[Scalar, ...]]:
    """Return the task and the classes in class order, from the number of occurrences of each label.

    Raises `InputError` if there is nothing to learn: no label, one class, or more than 1,000.
    """
    counts = {value: n for value, n in labels.items() if not _absent(value)}
    if not counts:
        raise InputError(f"the label {label!r} is missing in every row; expected at least two different labels")
    if all(isinstance(value, bool) for value in counts):
        return _classes(label, list(counts), task)
    numbers = _numbers(counts)
    if numbers is None:
        if task == "regression":
            raise InputError(f"the label {label!r} is not a number ({_some(counts)}), so it cannot be a regression")
        return _classes(label, sorted({meaning.category(value).decode() for value in counts}), task)
    found = sorted(set(numbers))
    whole = all(number == math.floor(number) for number in found)
    few = len(found) <= 2 or (whole and len(found) <= min(NUMBERED_CLASSES, sum(counts.values()) / 2))
    if task == "regression" or (task is None and not few):
        return "regression", ()
    return _classes(label, [int(number) if number == math.floor(number) else number for number in found], task)


def _numbers(counts: Mapping[Any, int]) -> list[float] | None:
    """Return the numeric labels if nearly all are numeric, without words that mean missing; None otherwise."""
    found, fit = [], 0
    for value, n in counts.items():
        try:
            number = meaning.number(value)
        except InputError:
            continue
        fit += n
        if number == number:
            found.append(number)
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
