"""The kind of one column, guessed from a sample of its values, with the reason.

No single value decides: a kind must fit 98% of the values, so the first cell may be odd. Amounts may have more remarks
between them. Values that stand for
"missing" are found first. `guessing` asks for each column, and settles what one column alone leaves open.
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from everlearn.errors import InputError
from everlearn.records import Floats, Ints, Scalar
from everlearn.schema import columnar, forms, meaning
from everlearn.schema.field import Field

MOST = 0.98  # share of values that must fit a kind; the others count as dirt
MANY = 0.8  # share of numbers in a column of text from which they are amounts with remarks between them
ENOUGH = 20  # distinct values from which a column counts as an identifier
PROBED = 1_000  # distinct values that are tried, spread over the sample, before all are

_CATEGORY_NUMBERS = range(3, 32)  # number of different integers that may be categories
_EVENLY = 0.6  # entropy of these values, as a share of the entropy of even use
_ID_WORDS = frozenset(["id", "no", "nr", "num", "number", "code", "zip", "zipcode", "postcode", "uuid", "key"])
_ROW_NAMES = frozenset(["", "index", "row", "unnamed: 0"])
_TRUTH_WORDS = frozenset(["true", "false", "yes", "no", "t", "f", "y", "n"])
_GONE_WORDS = frozenset(["?", "-", "--", "n/a", "#n/a", "<na>", "null", "nan", "na"])
_UNKNOWN_WORDS = frozenset(["unknown", "missing", "not available", "unk", "undefined", "n.d.", "nd", "*", ".", ".."])
_LONGEST_WORD = max(map(len, _GONE_WORDS | _UNKNOWN_WORDS))
_CODES = (-200.0, -99.0, -999.0, -999.9, -9999.0, -99999.0, 999.0, 9999.0, 99999.0)  # that stand for missing values
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]+")
_UNIT = re.compile(r"[+-]?[0-9][0-9.,]*\s*([A-Za-zµ°][A-Za-z0-9µ°/²³]*)")
_CLOCK = re.compile(r"[0-2]?[0-9][:.][0-5][0-9]([:.][0-5][0-9])?")
_TIME_WORDS = frozenset(["time", "timestamp", "date", "datetime", "ts", "epoch", "unixtime", "at", "when", "created"])
_RECENT = (631_152_000.0, 2_524_608_000.0)  # seconds from 1990 to 2050
_TOKEN = re.compile(r"[^|]{1,40}(\|[^|]{1,40})*")


@dataclass(frozen=True, slots=True)
class Guess:
    """What a column is taken for: its kind (None: it is left out), the reason, and how its values are read.

    `open` is True where numbers with commas fit both decimal marks.
    """

    kind: str | None
    why: str
    decimal: str = "."
    order: str = ""
    missing: tuple[Scalar, ...] = ()
    open: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """Where the rows of a sample stand in their source, int64 (n,), and how many rows that has."""

    places: Ints
    rows: int


def guess(name: str, part: Any, sample: Sample) -> Guess:
    """Return the guess for a native column."""
    if columnar.is_arrow(part) and str(part.type).startswith("dictionary"):
        return Guess("categorical", "a column of categories")
    everything = columnar.values_of(part)
    if set(map(type, everything)) == {str}:  # the usual column of a file
        stripped = {text: text.strip() for text in set(everything)}
        texts = [stripped[text] for text in everything]
        if "" in stripped.values():
            kept = [i for i, text in enumerate(texts) if text]
            sample = Sample(sample.places[kept], sample.rows)
            texts = [texts[i] for i in kept]
        return _texts(name, texts, sample) if texts else Guess("categorical", "no value in the sample")
    kept = [i for i, value in enumerate(everything) if not absent(value)]
    values = [everything[i] for i in kept]
    if not values:
        typed = isinstance(part, np.ndarray) or any(isinstance(value, float) for value in everything)
        return Guess("numeric" if typed else "categorical", "no value in the sample")
    kinds = set(map(type, values))
    sample = Sample(sample.places[kept], sample.rows)
    if kinds == {bool}:
        return Guess("boolean", "true or false")
    if kinds <= {bool, int, float, Decimal}:
        return _numbers(name, np.array([float(value) for value in values]), sample)
    if all(issubclass(kind, date) for kind in kinds):
        return Guess("datetime", "dates")
    shares = Counter("list" if isinstance(value, list | tuple | np.ndarray) else type(value) for value in values)
    if shares["list"] >= MOST * len(values):
        return _lists([value for value in values if isinstance(value, list | tuple | np.ndarray)])
    if kinds & {dict, list, tuple, np.ndarray}:
        return Guess(None, "objects or lists beside other values, or too deep; write their parts as separate columns")
    return _texts(name, [meaning.category(value).decode().strip() for value in values], sample)


def absent(value: Any) -> bool:
    """Return True for a missing value, and for text that is empty or blank."""
    return meaning.is_missing(value) or (isinstance(value, str | bytes) and not value.strip())


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _numbers(name: str, numbers: Floats, sample: Sample, why: str = "numbers") -> Guess:
    """Return the guess for numbers, which may be missing (NaN)."""
    known = np.isfinite(numbers)
    numbers, places = numbers[known], sample.places[known]
    if not len(numbers):
        return Guess("numeric", why)
    codes = _stand_ins(numbers)
    if codes:
        kept = ~np.isin(numbers, codes)
        numbers, places = numbers[kept], places[kept]
        shown = " and ".join(f"{code:g}" for code in codes)
        why = f"{why}; {shown} {'stands' if len(codes) == 1 else 'stand'} for missing values"
    missing: tuple[Scalar, ...] = tuple(int(code) if code == int(code) else code for code in codes)
    kind, reason = _number_kind(name, numbers, Sample(places, sample.rows))
    return Guess(kind, reason if kind != "numeric" else why, missing=missing if kind else ())


def _stand_ins(numbers: Floats) -> tuple[float, ...]:
    """Return the codes such as -999 that occur again and again, far from all other numbers."""
    found = []
    for code in _CODES:
        times = int((numbers == code).sum())
        if times < max(2, len(numbers) / 2_000) or times == len(numbers):
            continue
        others = numbers[~np.isin(numbers, _CODES)]
        if not len(others):
            continue
        apart = others.min() > code / 4 if code < 0 else others.max() < code / 5 and others.min() > -code / 5
        if apart and len(np.unique(others)) > 2:
            found.append(code)
    return tuple(found)


def _number_kind(name: str, numbers: Floats, sample: Sample) -> tuple[str | None, str]:
    """Return the kind of numbers without missing ones, and the reason."""
    whole = numbers[numbers == np.floor(numbers)]
    if len(whole) < MOST * len(numbers):
        moments = _like_moments(name, numbers)
        return ("datetime", "seconds since 1970") if moments else ("numeric", "numbers")
    values, counts = np.unique(whole, return_counts=True)
    different, total = len(values), len(whole)
    unique = different == total >= ENOUGH
    if np.mean([forms.is_date_digits(float(value)) for value in values[:: max(1, different // PROBED)]]) >= MOST:
        return "datetime", "digits of dates (YYYYMMDD)"
    if _like_moments(name, whole):
        return "datetime", "seconds or milliseconds since 1970"
    if unique and _is_running(numbers, sample):
        return None, "a running number: it grows evenly with each row"
    if unique and (name.strip().lower() in _ROW_NAMES or _named_like_id(name)):
        return None, "an identifier: another number in every row"
    if different == total >= 100 and values[-1] - values[0] < 1.5 * sample.rows:
        return None, "an identifier: every number once"
    if _named_like_id(name):
        return ("categorical", "numbers named like an identifier") if different > 2 else ("numeric", "numbers")
    few = different in _CATEGORY_NUMBERS and total >= 10 * different
    if few and values[-1] - values[0] < 2 * different and _evenness(counts) >= _EVENLY:
        return "integer", f"{different} whole numbers, close together and evenly used"
    return "numeric", "numbers"


def _is_running(numbers: Floats, sample: Sample) -> bool:
    """Return True if a number grows or falls by the same whole step from row to row, dirt aside."""
    if len(numbers) != len(sample.places):
        return False
    steps = np.diff(numbers) / np.maximum(np.diff(sample.places), 1)
    step = float(np.median(steps))
    if step == 0 or step != math.floor(step):
        return False
    start = numbers - step * sample.places
    return float(np.mean(start == np.median(start))) >= MOST


def _like_moments(name: str, numbers: Floats) -> bool:
    """Return True for numbers that are moments from 1990 to 2050: in milliseconds, or named like a time."""
    low, high = float(numbers.min()), float(numbers.max())
    if len(numbers) < 2 or low == high:
        return False
    for scale in (1e3, 1e6, 1e9):
        if _RECENT[0] * scale <= low and high <= _RECENT[1] * scale:
            return (scale == 1e3 and high - low < 1e12) or bool(_words(name) & _TIME_WORDS)
    return _RECENT[0] <= low and high <= _RECENT[1] and bool(_words(name) & _TIME_WORDS)


def _evenness(counts: Ints) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum()) / math.log(len(counts))


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).lower()))


def _named_like_id(name: str) -> bool:
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).lower()
    return re.split(r"[^a-z]+", words.rstrip("0123456789_ "))[-1] in _ID_WORDS


# ---- text ------------------------------------------------------------------------------------------------------------


def _texts(name: str, texts: Sequence[str], sample: Sample) -> Guess:
    counts = Counter(texts)
    short = [word for word in counts if len(word) <= _LONGEST_WORD and not word[-1:].isdigit()]  # no such word ends so
    gone = tuple(sorted(word for word in short if word.lower() in _GONE_WORDS))
    unknown = tuple(sorted(word for word in short if word.lower() in _UNKNOWN_WORDS))
    distinct = (
        [text for text in counts if text not in gone and text not in unknown] if gone or unknown else list(counts)
    )
    if not distinct:
        return Guess("categorical", "only words that mean missing")
    probe = _spread(distinct, counts)
    known = sum(counts[text] for text in probe)
    if sum(counts[text] for text in probe if text.lower() in _TRUTH_WORDS) >= MOST * known:
        return Guess("boolean", "words for true and false", missing=unknown)
    if (found := read_numbers({text: counts[text] for text in probe})) is not None:
        zeros = sum(counts[text] for text in probe if _LEADING_ZERO.fullmatch(text))
        if zeros <= (1 - MOST) * known:
            return _written_numbers(name, texts, found, unknown, sample)
        return Guess("categorical", "codes that begin with 0", missing=missing_categories(gone, counts))
    plain = [text for text in probe if meaning.plain_number(text) == meaning.plain_number(text)]
    if (made := _remarked_numbers(name, texts, counts, plain, probe, unknown, sample)) is not None:
        return made
    if len(plain) < len(probe) / 2 and (order := read_dates(probe)) is not None:
        first = f", the {order[0].split()[0]} first" if order[0] else ""
        return Guess("datetime", f"dates as text{first}{order[1]}", order=order[0], missing=unknown)
    if (made := _written_vectors(distinct)) is not None:
        return replace(made, missing=unknown if made.kind else ())
    if unknown:
        distinct = [text for text in counts if text not in gone]
    kept = {text: counts[text] for text in distinct}
    if (made := _tokens_in_text(kept)) is not None:
        return made
    kind, why = _word_kind(kept)
    missing = missing_categories(gone, counts) if kind == "categorical" else ()
    return Guess(kind, why, missing=missing)


@dataclass(frozen=True, slots=True)
class Read:
    """How a column of written numbers is read: the decimal mark, if both fit, and if any has signs or separators."""

    decimal: str
    open: bool
    signed: bool


def read_numbers(counts: Mapping[str, int]) -> Read | None:
    """Return how the numbers in a column of text are written; None if too few of them are numbers."""
    probe = _spread(list(counts), counts)
    total = sum(counts[text] for text in probe)
    commas = any("," in text for text in probe)
    marks = (".", ",") if commas or any(text.count(".") > 1 for text in probe) else (".",)
    fitting = {}
    for mark in marks:
        _, faults = columnar.numbers(probe, Field("", "numeric", decimal=mark))
        share = total - sum(counts[probe[row]] for row, _ in faults)
        if share >= MOST * total:
            fitting[mark] = share
    if not fitting:
        return None
    signed = any(meaning.plain_number(text) != meaning.plain_number(text) for text in probe)
    best = max(fitting, key=lambda mark: (fitting[mark], mark == "."))
    undecided = commas and len(fitting) == 2 and fitting["."] == fitting[","]
    return Read(best if commas or "." not in fitting else ".", undecided, signed)


def _moments(texts: Sequence[str], order: str) -> list[float]:
    """Return the moments of the texts that are dates in this order of day and month."""
    field, found = Field("", "datetime", order=order), []
    for text in texts:
        try:
            found.append(field.moment(text))
        except InputError:
            continue
    return found


def _written_numbers(name: str, texts: Sequence[str], found: Read, unknown: tuple[str, ...], sample: Sample) -> Guess:
    field = Field(name, "numeric", decimal=found.decimal, gone=frozenset(word.encode() for word in unknown))
    if found.signed and len(texts) > 2 * PROBED:  # these are read one at a time, so some of them must do
        some = np.arange(2 * PROBED) * len(texts) // (2 * PROBED)
        texts, sample = [texts[i] for i in some.tolist()], Sample(sample.places[some], sample.rows)
    numbers, _ = columnar.numbers(texts, field)
    why = "numbers"
    if found.decimal == ",":
        why = "numbers with a decimal comma"
    elif found.signed:
        why = "numbers with signs (currency, percent or thousands)"
    made = _numbers(name, numbers, sample, why)
    missing = (*made.missing, *unknown) if made.kind else ()
    return Guess(made.kind, made.why, found.decimal, missing=missing, open=found.open)


def _remarked_numbers(
    name: str,
    texts: Sequence[str],
    counts: Mapping[str, int],
    plain: Sequence[str],
    probe: Sequence[str],
    unknown: tuple[str, ...],
    sample: Sample,
) -> Guess | None:
    """Return the guess for amounts with remarks between them; None for other text, such as codes with letters.

    `plain` holds the numbers among the texts of the `probe`. Remarks that occur again count as missing.
    """
    known = sum(counts[text] for text in probe)
    if sum(counts[text] for text in plain) < MANY * known:
        return None
    odd = set(counts) - set(plain)
    if len(counts) > len(probe):
        odd = {text for text in odd if meaning.plain_number(text) != meaning.plain_number(text)}
    amounts = sum("." in text for text in plain) > len(plain) / 2
    if not amounts and (len(plain) <= _CATEGORY_NUMBERS.stop or any(map(str.isdigit, "".join(odd)))):
        return None
    odd -= {*unknown, *_GONE_WORDS}
    often = sorted((text for text in odd if counts[text] > 1), key=lambda text: (-counts[text], text))[:ENOUGH]
    kept = [i for i, text in enumerate(texts) if text not in odd]
    rest = Sample(sample.places[kept], sample.rows)
    made = _written_numbers(name, [texts[i] for i in kept], Read(".", False, False), unknown, rest)
    share = f"{100 * sum(counts[text] for text in odd) / len(texts):.2g} %"
    why = f"{made.why}; {share} of the values are text"
    if len(often) < len(odd):
        rare = min(odd.difference(often))
        why += f", and rows with others than these words, such as {meaning.show(rare)}, are set aside"
    return replace(made, why=why, missing=(*made.missing, *often) if made.kind else ())


def read_dates(probe: Sequence[str]) -> tuple[str, str] | None:
    """Return the order of day and month in a column of dates ("": none is needed), and a remark; None for others."""
    pairs = [pair for pair in map(forms.year_last, probe) if pair]
    order = remark = ""
    if len(pairs) >= MOST * len(probe):
        days, months = sum(pair[0] > 12 for pair in pairs), sum(pair[1] > 12 for pair in pairs)
        order = "month first" if months > days else "day first"
        if not days and not months:
            order, sure = _by_order(probe)
            remark = "" if sure else " (a guess: no day is above 12; correct `dates` if it is wrong)"
    share = len(_moments(probe, order))
    return (order, remark) if share >= MOST * len(probe) else None


def _by_order(texts: Sequence[str]) -> tuple[str, bool]:
    """Return the order in which more dates follow one another, and True if it is clear."""
    rising = {}
    for order in ("day first", "month first"):
        found = _moments(texts, order)
        rising[order] = sum(abs(later - before) for before, later in itertools.pairwise(found))
    best = min(rising, key=lambda order: rising[order])
    return best, max(rising.values()) > 4 * rising[best] > 0


def _written_vectors(distinct: Sequence[str]) -> Guess | None:
    """Return the guess for text of JSON lists; None for other text."""
    probe = _spread(distinct, {})
    lists = [text for text in probe if text.startswith("[") and text.endswith("]")]
    if len(lists) < MOST * len(probe):
        return None
    found: list[Any] = []
    for text in lists:
        try:
            found.append(meaning.listed(text))
        except InputError:
            continue
    return _lists(found) if len(found) >= MOST * len(probe) else None


def _lists(values: Sequence[Any]) -> Guess:
    """Return the guess for lists: numbers of one length are a vector, other text and whole numbers are tokens."""
    lengths = Counter(map(len, values))
    length, count = lengths.most_common(1)[0]
    inner = [one for value in values[:PROBED] for one in value]
    numbers = all(isinstance(one, int | float | np.number) or one is None for one in inner)
    if numbers and length and count >= MOST * len(values):
        return Guess(f"vector[{length}]", f"lists of {length} numbers")
    if not inner:
        return Guess(None, "empty lists")
    if all(isinstance(one, str | int | np.integer) and not isinstance(one, bool) for one in inner):
        return Guess("tokens", "lists of words or whole numbers")
    if numbers:
        return Guess(None, "lists of numbers of several lengths; bring them to one length to make a vector of them")
    if any(isinstance(one, dict) for one in inner):
        return Guess(None, "lists of objects, any number of them in a row; write what counts as separate columns")
    return Guess(None, "lists of lists or of unlike values; write their parts as separate columns")


def _tokens_in_text(counts: Mapping[str, int]) -> Guess | None:
    """Return the guess for words between bars such as "Drama|Crime"; None for other text."""
    probe = _spread(list(counts), counts)
    barred = sum("|" in text for text in probe)
    if barred < 0.3 * len(probe) or not all(_TOKEN.fullmatch(text) for text in probe):
        return None
    words = {word for text in probe for word in text.split("|")}
    if len(words) > max(ENOUGH, len(probe)):
        return None
    return Guess("tokens", f"{len(words)} words between bars")


def _word_kind(counts: Mapping[str, int]) -> tuple[str | None, str]:
    """Return "text", "categorical" or None, by the number of words and how often texts repeat, and the reason."""
    distinct, total = len(counts), sum(counts.values())
    words = sum(len(text.split()) * n for text, n in counts.items()) / total
    letters = sum(len(text) * n for text, n in counts.items()) / total
    long = letters >= 30 and len(set(map(len, counts))) > 1
    if (words >= 3 or long) and distinct > total / 5:
        return "text", "sentences, mostly different"
    if distinct >= ENOUGH and distinct > MOST * total:
        return None, f"another value in {'every' if distinct == total else 'nearly every'} row{_hint(list(counts))}"
    return "categorical", f"{distinct:,} different value{'s' if distinct > 1 else ''}{_hint(list(counts))}"


def _hint(distinct: Sequence[str]) -> str:
    """Return what to do with values that look like numbers with a unit, or like times of day."""
    probe = _spread(distinct, {})
    units = [match for match in map(_UNIT.fullmatch, probe) if match]
    if len(units) >= MOST * len(probe):
        return f"; they look like numbers with the unit {units[0][1]!r}: remove it to learn from them"
    if sum(_CLOCK.fullmatch(text) is not None for text in probe) >= MOST * len(probe):
        return "; they look like times of day: join them with their dates to learn from them"
    return ""


def missing_categories(gone: Sequence[str], counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return the words that mean missing in a column of categories; NA may be a code, as that of Namibia is."""
    codes = sum(len(text) == 2 and text.isupper() for text in counts) > len(counts) / 2
    return tuple(word for word in gone if not (codes and word == "NA"))


def _spread(values: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    """Return at most about `PROBED` of some values, spread over all of them, with the most frequent ones."""
    if len(values) <= PROBED:
        return list(values)
    often = heapq.nlargest(ENOUGH, values, key=counts.__getitem__) if counts else values[:ENOUGH]
    return list(dict.fromkeys([*often, *(values[i * len(values) // PROBED] for i in range(PROBED))]))
