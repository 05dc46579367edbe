"""Guesses what a column of raw values is: the rules behind `schema.infer`."""

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
from everlearn.schema import columnar, meaning

MOST = 0.98  # of the values must fit a kind; the others are taken for dirt
NUMBERED_CLASSES = 20  # whole numbers of more values than this are a regression
CLASSES = 1_000  # at most
ENOUGH = 20  # values that must all differ before a column is taken for an identifier

_CATEGORY_NUMBERS = range(3, 32)  # how many values whole numbers may have to be categories: from a few to a month
_EVENLY = 0.6  # entropy of these values, as a share of the entropy of even use
_ID_WORDS = frozenset(["id", "no", "nr", "num", "number", "code", "zip", "zipcode", "postcode", "uuid", "key"])
_ROW_NAMES = frozenset(["", "index", "row", "unnamed: 0"])
_TRUTH_WORDS = frozenset(["true", "false", "yes", "no", "t", "f", "y", "n"])
_LEADING_ZERO = re.compile(r"0[0-9]+")


def kind_of(name: str, part: Any) -> str | None:
    """The kind of a field from a native column of it; None if it is better left out."""
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
    numbers = fitting(texts, meaning.number)
    if len(numbers) >= MOST * len(texts):
        known = [number for number in numbers if number == number]
        zeros = sum(1 for text in texts if _LEADING_ZERO.fullmatch(text))
        if zeros <= (1 - MOST) * len(texts):
            return _number_kind(name, known) if known else "numeric"
    elif sum(text.strip().lower() in _TRUTH_WORDS for text in texts) >= MOST * len(texts):
        return "boolean"
    elif len(fitting(texts, meaning.moment)) >= MOST * len(texts):
        return "datetime"
    elif texts[0].startswith("["):
        return _vector_kind([text.strip("[] ").split(",") for text in texts])
    return _word_kind(texts)


def _word_kind(texts: Sequence[str]) -> str | None:
    """Text, a category, or nothing, by how many words there are and how often they come back."""
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


def fitting(values: Sequence[Any], function: Callable[[Any], float]) -> list[float]:
    """What the function makes of each value that it does not refuse."""
    found = []
    for value in values:
        try:
            found.append(function(value))
        except InputError:
            continue
    return found


def target(label: str, labels: Mapping[Any, int], task: Task | None) -> tuple[Task, tuple[Scalar, ...]]:
    """The task and the classes in class order, from how often each label occurs.

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
    """The labels that are numbers, if nearly all are; the words that mean missing are left out."""
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
            f"the label {label!r} has {len(classes):,} different values ({_some(classes)}), "
            f"expected at most {CLASSES:,} classes; is it the right column?"
        )
    if task == "binary" and len(classes) > 2:
        raise InputError(f"the label {label!r} has {len(classes)} classes ({_some(classes)}), a binary task has 2")
    return task or ("binary" if len(classes) == 2 else "multiclass"), tuple(sorted(classes))


def _some(values: Any) -> str:
    shown = [meaning.show(value) for value in list(values)[:3]]
    return ", ".join(shown) + (", ..." if len(values) > 3 else "")
