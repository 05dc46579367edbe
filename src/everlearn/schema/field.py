"""One field of a schema: the meaning of its raw values, whichever way they come.

Files, tables, JSON and requests all lead here, so that equal values become equal features. Rules 1 are those of release
0.1.0, which old homes keep: they read plain numbers and ISO dates only, and take categories as they are written.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np

from everlearn.errors import InputError
from everlearn.schema import actions, forms, meaning
from everlearn.spec import RULES, Schema

TOKENS = 10_000  # of one value, at most
_MISSING = meaning.MISSING_WORDS | {"-", "--", "n.a.", "#n/a", "<na>", "\\n"}
_TRUTHS = {"true": 1.0, "false": 0.0}
_SEPARATORS = "|;,"


@dataclass(frozen=True, slots=True)
class Field:
    """The settings by which the values of one field are read; `gone` are values that mean "missing".

    Numbers from `low` to `high` are in range, and `choices` are the actions of a bandit.
    """

    name: str
    kind: str
    rules: int = RULES
    decimal: str = "."
    order: str = ""
    gone: frozenset[bytes] = frozenset()
    gone_numbers: tuple[float, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """True if numbers that are float or int already need no further reading."""
        return not self.gone

    def number(self, value: Any) -> float:
        """Return the number; NaN if it is missing. Raises `InputError` for anything else."""
        if self.rules == 1:
            return meaning.number(value)
        text = meaning.text_of(value)
        if text is not None:
            text = text.strip("\u00a0\u202f\u2009")
            word = text.lower()
            if word in _MISSING or self._is_gone(text):
                return math.nan
            if word in _TRUTHS:
                return _TRUTHS[word]
            if self.decimal == "," or meaning.plain_number(text) != meaning.plain_number(text):
                found = forms.amount(text, self.decimal)
                if found != found:
                    raise InputError(self._no_number(value, text))
                value = found if abs(found) <= meaning.LARGEST else text.replace(",", ".")
        result = meaning.number(value)
        return math.nan if result in self.gone_numbers else result

    def bounded(self, value: Any) -> float:
        """Return the number as `number` does. Raises `InputError` for one that is out of range."""
        found = self.number(value)
        if found < self.low or found > self.high:
            raise InputError(self.out_of_range(found))
        return found

    def out_of_range(self, value: float) -> str:
        """Return the reason to refuse a number that is out of range."""
        if self.kind == "propensity":
            return f"got {value:g}; expected a probability above 0 and at most 1, that of the action that was taken"
        return f"got {value:g}; expected {self.low:g} to {self.high:g}. Scale it, or set schema.rewards to its bounds"

    def offered(self, value: Any) -> float:
        """Return 1.0 for an action on offer, 0.0 for another; 1.0 where the value is missing. Raises `InputError`."""
        found = self.boolean(value)
        return 1.0 if found != found else found

    def choice(self, value: Any) -> float:
        """Return the index of an action, NaN if it is missing. Raises `InputError` for one that is not known."""
        if value in self.choices and isinstance(value, str):
            return float(self.choices.index(value))
        if meaning.is_missing(value) or self._absent(value):
            return math.nan
        cell = self.category(value)
        for place, name in enumerate(self.choices):
            if cell == forms.spelled(name.encode()):
                return float(place)
        known = actions.listing(self.choices)
        raise InputError(f"got the action {meaning.show(value)}; expected one of {known}. Add it to schema.actions")

    def boolean(self, value: Any) -> float:
        """Return 1.0 for true, 0.0 for false, NaN if missing. Raises `InputError` for anything else."""
        return math.nan if self._absent(value) else meaning.boolean(value)

    def moment(self, value: Any) -> float:
        """Return whole seconds since 1970 in UTC, NaN if missing; a time without a zone counts as UTC.

        Raises `InputError` for a value that is no date or time, or lies outside the years 1 to 9999.
        """
        if self.rules == 1:
            return meaning.moment(value)
        if type(value) is str and not self.gone and value[4:5] == "-":  # ISO, the usual form
            seconds = meaning.iso_moment(value)
            if meaning.FIRST_SECOND <= seconds <= meaning.LAST_SECOND:
                return float(seconds)
        if meaning.is_missing(value) or self._absent(value):
            return math.nan
        text = meaning.text_of(value)
        seconds = math.nan
        if text is not None:
            number = meaning.plain_number(text)
            if number == number:
                value = number
            else:
                seconds = meaning.iso_moment(text)
                seconds = forms.moment(text, self.order) if seconds != seconds else seconds
                if seconds != seconds:
                    raise InputError(self._no_moment(value))
                return float(seconds)
        if isinstance(value, date) or not meaning.is_number(value) or isinstance(value, bool | np.bool_):
            return meaning.moment(value)
        seconds = forms.epoch(meaning.any_number(value))
        if math.isinf(seconds):
            raise InputError(f"got {meaning.show(value)}, {meaning.BEYOND_YEARS}")
        return float(seconds)

    def category(self, value: Any) -> bytes:
        """Return the bytes that name a category, one spelling for 7, 7.0, "7" and "7.0"; empty if missing.

        Raises `InputError` as `meaning.category` does; for an integer as `number` does.
        """
        if self.kind == "integer":
            number = self.number(value)
            return b"" if number != number else forms.spelled(meaning.category(number))
        cell = meaning.category(value)
        if self.rules == 1:
            return cell
        cell = forms.spelled(cell) if self.kind != "text" else cell
        return b"" if cell in self.gone else cell

    def vector(self, value: Any, length: int) -> list[float]:
        """Return `length` numbers; NaN where one is missing. Raises `InputError` as `meaning.vector` does."""
        if self.rules != 1 and self._absent(value):
            return [math.nan] * length
        return meaning.vector(value, length)

    def tokens(self, value: Any) -> list[bytes]:
        """Return the tokens of a list of text or numbers, or of text: a JSON list, or words between bars or commas.

        Raises `InputError` for a token that is no category, and for more than 10,000.

        >>> Field("genres", "tokens").tokens(["Drama", 7]), Field("genres", "tokens").tokens("Drama|Sci-Fi")
        ([b'Drama', b'7'], [b'Drama', b'Sci-Fi'])
        """
        if self._absent(value):
            return []
        text = meaning.text_of(value)
        if text is not None:
            value = _split(text)
        elif not isinstance(value, list | tuple):
            value = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else [value]
        if len(value) > TOKENS:
            raise InputError(f"got {len(value):,} tokens, expected at most {TOKENS:,}")
        cells = [forms.spelled(meaning.category(one)) for one in value]
        return [cell for cell in cells if cell and cell not in self.gone]

    def _absent(self, value: Any) -> bool:
        if self.rules == 1:
            return False
        text = meaning.text_of(value)
        if text is not None:
            return text.lower() in _MISSING or self._is_gone(text)
        return bool(self.gone) and not isinstance(value, list | tuple | dict) and self._is_gone(value)

    def _is_gone(self, value: Any) -> bool:
        if not self.gone:
            return False
        try:
            return forms.spelled(meaning.category(value)) in self.gone
        except InputError:
            return False

    def _no_number(self, value: Any, text: str) -> str:
        if self.decimal == ".":
            other = forms.amount(text, ",")
            hint = f"; with decimal = ',' under [schema] it is {other:g}" if other == other else ""
        else:
            hint = "; its decimal mark is a comma"
        return f"got {meaning.show(value)}, expected a number{hint}"

    def _no_moment(self, value: Any) -> str:
        order = f", with the {self.order.split()[0]} first" if self.order else ""
        return (
            f"got {meaning.show(value)}, expected a date or time such as 2026-01-31T08:30 or 31 Jan 2026 08:30{order}, "
            "or seconds since 1970"
        )


def fields_of(schema: Schema) -> dict[str, Field]:
    """Return each field of a record under its name; the label is read as a number or a category."""
    label = "numeric" if schema.task == "regression" else "reward" if schema.task == "bandit" else "categorical"
    kinds = {**actions.columns(schema), schema.label: label}
    return {name: _field(schema, name, kind) for name, kind in kinds.items()}


def _field(schema: Schema, name: str, kind: str) -> Field:
    decimal = schema.decimal if isinstance(schema.decimal, str) else schema.decimal.get(name, ".")
    values = schema.missing.get(name, ())
    gone = frozenset(forms.spelled(meaning.category(value)) for value in values)
    low, high = {"reward": schema.rewards, "propensity": (actions.SPARE, 1.0)}.get(kind, (-math.inf, math.inf))
    choices = schema.actions if kind == "action" else ()
    order = schema.dates.get(name, "")
    field = Field(name, kind, schema.rules, decimal, order, gone, low=low, high=high, choices=choices)
    numbers = tuple(number for value in values if (number := _number(value, field.decimal)) == number)
    return replace(field, gone_numbers=numbers)


def _number(value: Any, decimal: str) -> float:
    """Return the number that a value means in numbers with this decimal mark; NaN for a word."""
    text = meaning.text_of(value)
    if text is not None and (decimal == "," or meaning.plain_number(text) != meaning.plain_number(text)):
        return forms.amount(text, decimal)
    try:
        return meaning.number(value)
    except InputError:
        return math.nan


def _split(text: str) -> list[Any]:
    if text.startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return found
    mark = next((mark for mark in _SEPARATORS if mark in text), None)
    return text.split(mark)
