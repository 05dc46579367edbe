"""The functions of `meaning` applied to whole columns, from any container.

A column is first made `native`: a numpy array, an Arrow array or a list. Values that a fast path does not handle go to
the function for one value, so both give the same result. Faults are (row, reason), in row order.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from types import NoneType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from everlearn.errors import InputError
from everlearn.records import Floats, Ints
from everlearn.schema import meaning
from everlearn.schema.field import Field

Faults = list[tuple[int, str]]
Cells = tuple[NDArray[np.uint8], Any]  # bytes, and n + 1 offsets (int32 or int64)

_NUMBERS = frozenset([float, int, bool, NoneType])
_REMEMBERED = frozenset([str, int, float, bool, NoneType])
_TABLED = frozenset([str, int, bool])  # whose equal values have one meaning; -0.0 and 0.0 need not
_FEW = 1000  # different values of a column that are read once each
_COMMA, _POINT = np.uint8(44), np.uint8(46)
_SIMPLE = frozenset(["bool", "int8", "int16", "int32", "int64", "float", "double", "string", "large_string"])
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@runtime_checkable
class _ArrowStream(Protocol):
    """A table of any library that can be read through the C interface of Arrow."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


def is_arrow(column: Any) -> bool:
    """Return True for an Arrow array; always False before pyarrow is imported."""
    arrow = sys.modules.get("pyarrow")
    return arrow is not None and isinstance(column, arrow.Array)


def named(table: Any) -> dict[str, Any]:
    """Return a mapping of names to the columns of a mapping, a DataFrame or an Arrow table.

    Raises `InputError` for any other table, or for two columns of one name.
    """
    arrow, pandas = sys.modules.get("pyarrow"), sys.modules.get("pandas")
    if isinstance(table, Mapping):
        pairs = [(str(name), column) for name, column in table.items()]
    elif pandas is not None and isinstance(table, pandas.DataFrame):
        pairs = [(str(name), table.iloc[:, i]) for i, name in enumerate(table.columns)]
    elif arrow is not None and isinstance(table, arrow.Table | arrow.RecordBatch):
        pairs = list(zip(table.schema.names, table.columns, strict=True))
    elif isinstance(table, _ArrowStream):  # polars, DuckDB, Ibis, ...
        import pyarrow

        whole = pyarrow.table(table)
        pairs = list(zip(whole.schema.names, whole.columns, strict=True))
    else:
        raise InputError(
            f"got a {type(table).__name__}, expected columns: a dict of name -> list, a DataFrame or an Arrow table"
        )
    require_unique(name for name, _ in pairs)
    return dict(pairs)


def require_unique(names: Iterable[str]) -> None:
    """Raise `InputError` if two columns have the same name."""
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise InputError(
            f"two columns are named {twice[0]!r}; rename or remove one, so that it is clear which is meant"
        )


def native(column: Any) -> Any:
    """Return the column as a numeric or datetime numpy array, an Arrow array, or a list."""
    arrow, pandas = sys.modules.get("pyarrow"), sys.modules.get("pandas")
    if pandas is not None and isinstance(column, pandas.Series | pandas.Index):
        return native(_from_pandas(column))
    if arrow is not None and isinstance(column, arrow.ChunkedArray | arrow.Array):
        return _plain_arrow(column)
    if isinstance(column, np.ndarray):
        plain = column.dtype.kind in "biufM" and not isinstance(column, np.ma.MaskedArray)
        return column if plain else list(column) if column.ndim > 1 else column.tolist()
    return column if isinstance(column, list) else list(column)


def _from_pandas(column: Any) -> Any:
    import pyarrow as pa

    if column.dtype.kind in "biufM" and isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError):
        return column.tolist()


def _plain_arrow(column: Any) -> Any:
    """Return one Arrow array of a supported type, without chunks and views."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column.cast(_without_views(column.type)) if "string_view" in str(column.type) else column


def _without_views(kind: Any) -> Any:
    """Return an Arrow type with large strings in place of string views, inside lists and structs too."""
    import pyarrow as pa

    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _without_views(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return (pa.list_ if pa.types.is_list(kind) else pa.large_list)(_without_views(kind.value_type))
    return kind


def values_of(part: Any) -> list[Any]:
    """Return the values of a native column as Python objects."""
    if isinstance(part, list):
        return part
    if isinstance(part, np.ndarray):
        values: list[Any] = (part.astype("datetime64[us]") if part.dtype.kind == "M" else part).tolist()
        return values
    if str(part.type).startswith("timestamp[ns"):
        import pyarrow as pa

        part = part.cast(pa.timestamp("us", part.type.tz), safe=False)
    if not part.null_count and str(part.type) in _SIMPLE:
        return part.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]
    return part.to_pylist()  # type: ignore[no-any-return]


def each(part: Any, function: Callable[[Any], float]) -> tuple[Floats, Faults]:
    """Apply a function of one value to a native column: float64 (n,), NaN with a fault where it raises `InputError`."""
    values = values_of(part)
    if (quick := _by_table(values, function)) is not None:
        return quick, []
    result = np.empty(len(values), np.float64)
    known: dict[Any, float] = {}
    faults: Faults = []
    for row, value in enumerate(values):
        kind = type(value)
        key = (kind, value) if kind in _REMEMBERED and value != 0.0 else None  # -0.0 is equal to 0.0
        if key in known:
            result[row] = known[key]
            continue
        try:
            result[row] = found = function(value)
        except InputError as error:
            result[row] = np.nan
            faults.append((row, str(error)))
        else:
            if key is not None:
                known[key] = found
    return result, faults


def _by_table(values: Sequence[Any], function: Callable[[Any], float]) -> Floats | None:
    """Apply a function to a column of few different values of one type, once to each; None for any other column."""
    kinds = set(map(type, values))
    if len(kinds) != 1 or not kinds <= _TABLED or len(different := set(values)) > _FEW:
        return None
    try:
        table = {value: function(value) for value in different}
    except InputError:  # find the rows one by one
        return None
    return np.fromiter(map(table.__getitem__, values), np.float64, len(values))


def numbers(part: Any, field: Field) -> tuple[Floats, Faults]:
    """Return the numbers of a native column, float64 (n,), and the faults."""
    if _is_text(part):
        found, faults = _written_numbers(part, field)
    else:
        quick = _quick_numbers(part)
        if quick is None:
            return each(part, field.number)
        found, faults = quick, []
        beyond = np.flatnonzero(np.abs(found) > meaning.LARGEST)
        if len(beyond):
            faults = _faults(part, beyond, field.number)
            found[beyond] = np.nan
    if field.gone_numbers and field.rules > 1:
        found[np.isin(found, field.gone_numbers)] = np.nan
    return found, faults


def bounded(part: Any, field: Field) -> tuple[Floats, Faults]:
    """Return numbers as `numbers` does, with a fault, and NaN, for each that is out of the range of the field."""
    found, faults = numbers(part, field)
    beyond = np.flatnonzero((found < field.low) | (found > field.high))
    faults += [(row, field.out_of_range(float(found[row]))) for row in beyond.tolist()]
    found[beyond] = np.nan
    return found, faults


def _quick_numbers(part: Any) -> Floats | None:
    """Convert a column of only numbers at require_unique, into a new array; None if it holds anything else."""
    if isinstance(part, np.ndarray):
        return part.astype(np.float64) if part.dtype.kind in "biuf" and part.ndim == 1 else None
    if isinstance(part, list):
        try:
            return np.array(part, np.float64) if set(map(type, part)) <= _NUMBERS else None
        except OverflowError:
            return None
    import pyarrow as pa

    kind = part.type
    if pa.types.is_boolean(kind):
        part = part.cast(pa.uint8())
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return part.to_numpy(zero_copy_only=False).astype(np.float64)  # type: ignore[no-any-return]
    return None


def _written_numbers(part: Any, field: Field) -> tuple[Floats, Faults]:
    """Parse numbers written as text: the usual ones in a kernel, the others one at a time."""
    from everlearn.schema import hashing

    data, offsets = _byte_cells(part)
    if field.decimal == "," and field.rules > 1:
        if (data == _POINT).any():
            return each(part, field.number)
        found, odd = hashing.parse_numbers(np.where(data == _COMMA, _POINT, data), offsets)
    else:
        found, odd = hashing.parse_numbers(data, offsets)
    faults: Faults = []
    known: dict[bytes, float] = {}
    for row in np.flatnonzero(odd).tolist():
        cell = data[offsets[row] : offsets[row + 1]].tobytes()
        value = known.get(cell)
        if value is None:
            try:
                value = known[cell] = field.number(cell.decode("utf-8", "replace"))
            except InputError as error:
                faults.append((row, str(error)))
                value = np.nan
        found[row] = value
    return found, faults


def _faults(part: Any, rows: NDArray[np.intp], function: Callable[[Any], float]) -> Faults:
    """Return the faults of a function on the values of these rows."""
    faults: Faults = []
    for row in rows.tolist():
        try:
            function(values_of(part[row : row + 1])[0])
        except InputError as error:
            faults.append((row, str(error)))
    return faults


def booleans(part: Any, field: Field) -> tuple[Floats, Faults]:
    """Return 1.0, 0.0 or NaN for each value of a native column, float64 (n,), and the faults."""
    if not isinstance(part, list) and field.is_plain:
        found = _quick_numbers(part)
        if found is not None and np.all((found == 0) | (found == 1) | np.isnan(found)):
            return found, []
    return each(part, field.boolean)


def moments(part: Any, field: Field) -> tuple[Floats, Faults]:
    """Return whole seconds since 1970 for each value of a native column, float64 (n,), and the faults."""
    if isinstance(part, np.ndarray) and part.dtype.kind == "M" and part.dtype != np.dtype("datetime64"):
        missing, stamps = np.isnat(part), part.astype("datetime64[s]").astype(np.int64)
    elif is_arrow(part) and str(part.type).startswith(("timestamp", "date32")):
        import pyarrow as pa

        missing = part.is_null().to_numpy(zero_copy_only=False)
        if pa.types.is_date32(part.type):
            stamps = part.cast(pa.int32()).fill_null(0).to_numpy().astype(np.int64) * 86_400
        else:
            stamps = part.cast(pa.int64()).fill_null(0).to_numpy() // _PER_SECOND[part.type.unit]
    else:
        return each(part, field.moment)
    seconds = np.where(missing, np.nan, stamps)
    beyond = ~((seconds >= meaning.FIRST_SECOND) & (seconds <= meaning.LAST_SECOND)) & ~missing
    if beyond.any():
        seconds[beyond] = np.nan
        return seconds, [(int(row), meaning.BEYOND_YEARS) for row in np.flatnonzero(beyond)]
    return seconds, []


def phases(seconds: Floats) -> Floats:
    """Return the five columns of `meaning.phases`, float64 (n, 5)."""
    result = np.full((len(seconds), 5), np.nan)
    rows = np.flatnonzero(~np.isnan(seconds))
    sines, cosines = _clock()
    minute = (seconds[rows].astype(np.int64) // 60 + meaning.MONDAY) % meaning.WEEK
    day = minute * 7 % meaning.WEEK
    years = (seconds[rows] - meaning.YEAR_2000) / meaning.YEAR
    result[rows] = np.stack([sines[day], cosines[day], sines[minute], cosines[minute], years], axis=1)
    return result


@cache
def _clock() -> tuple[Floats, Floats]:
    sines, cosines = meaning.clock()
    return np.array(sines), np.array(cosines)


def vectors(part: Any, length: int, field: Field) -> tuple[Floats, Faults]:
    """Return `length` numbers for each value of a native column, float64 (n, length), and the faults."""
    found = part if isinstance(part, np.ndarray) else None
    if is_arrow(part) and str(part.type).startswith("fixed_size_list") and not part.null_count:
        flat = native(part.flatten())
        inner = _quick_numbers(flat)
        found = None if inner is None else inner.reshape(len(part), -1)
    if found is not None and found.shape[1:] == (length,) and found.dtype.kind in "biuf":
        found = found.astype(np.float64)
        if not (np.abs(found) > meaning.LARGEST).any():
            return found, []
    values = values_of(part)
    result = np.full((len(values), length), np.nan)
    faults: Faults = []
    for row, value in enumerate(values):
        try:
            result[row] = field.vector(value, length)
        except InputError as error:
            faults.append((row, str(error)))
    return result, faults


def whole_numbers(part: Any) -> tuple[Ints, NDArray[np.bool_]] | None:
    """Return a native column of integers, int64 (n,), and the mask of present values; None for any other column."""
    if isinstance(part, list) and set(map(type, part)) == {int}:
        try:
            part = np.array(part, np.int64)
        except OverflowError:
            return None
    if is_arrow(part):
        import pyarrow as pa

        if not pa.types.is_integer(part.type) or pa.types.is_uint64(part.type):
            return None
        there = part.is_valid().to_numpy(zero_copy_only=False)
        return part.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64), there
    if not isinstance(part, np.ndarray) or part.ndim > 1:
        return None
    if part.dtype.kind == "i" or (part.dtype.kind == "u" and part.dtype.itemsize < 8):
        return part.astype(np.int64), np.ones(len(part), np.bool_)
    if part.dtype.kind == "f":
        there = ~np.isnan(part)
        known = np.where(there, part, 0)
        if np.all(np.abs(known) < 2.0**62) and np.all(np.floor(known) == known):
            return known.astype(np.int64), there
    return None


def cells(part: Any, field: Field) -> tuple[Cells, Faults]:
    """Return the bytes of each category or text of a native column, empty where missing, and the faults."""
    if _is_text(part):
        return _respelled(_byte_cells(part), field), []
    values = values_of(part)
    spellings: list[bytes] = []
    faults: Faults = []
    for row, value in enumerate(values):
        try:
            spellings.append(field.category(value))
        except InputError as error:
            spellings.append(b"")
            faults.append((row, str(error)))
    return meaning.joined(spellings), faults


def _respelled(found: Cells, field: Field) -> Cells:
    """Return the cells of a column of text as `Field.category` spells them; most columns need no copy."""
    if field.rules == 1 or (field.kind == "text" and not field.gone):
        return found
    from everlearn.schema import hashing

    data, offsets = found
    odd = np.ones(len(offsets) - 1, np.bool_) if field.gone else hashing.odd_spellings(data, offsets)
    if not odd.any():
        return found
    whole, known = data.tobytes(), dict[bytes, bytes]()
    spellings = []
    ends = offsets.tolist()
    for is_odd, start, end in zip(odd.tolist(), ends, ends[1:], strict=False):
        cell = whole[start:end]
        if is_odd:
            cell = known[cell] if cell in known else known.setdefault(cell, field.category(cell))
        spellings.append(cell)
    return meaning.joined(spellings)


def tokens(part: Any, field: Field) -> tuple[Cells, Ints, Faults]:
    """Return the bytes of all tokens of a native column, the n + 1 places at which rows begin, and the faults."""
    values = values_of(part)
    found: list[bytes] = []
    places = np.zeros(len(values) + 1, np.int64)
    faults: Faults = []
    for row, value in enumerate(values):
        try:
            found += field.tokens(value)
        except InputError as error:
            faults.append((row, str(error)))
        places[row + 1] = len(found)
    return meaning.joined(found), places, faults


def _is_text(part: Any) -> bool:
    """Return True if a native column holds only text and missing values."""
    if isinstance(part, list):
        return set(map(type, part)) <= {str, NoneType}
    if isinstance(part, np.ndarray):
        return False
    import pyarrow as pa

    return bool(pa.types.is_string(part.type) or pa.types.is_large_string(part.type))


def _byte_cells(part: Any) -> Cells:
    """Return the bytes of a text column and their offsets; an Arrow column is not copied."""
    if isinstance(part, list):
        texts = [value or "" for value in part]
        whole = "".join(texts)
        if not whole.isascii():
            return meaning.joined([value.encode("utf-8", "replace") for value in texts])
        lengths = np.fromiter(chain((0,), map(len, texts)), np.int64, len(texts) + 1)
        return np.frombuffer(whole.encode(), np.uint8), np.cumsum(lengths)
    if part.null_count:
        part = part.fill_null("")
    _, offset_bytes, data = part.buffers()
    wide = np.int64 if str(part.type).startswith("large") else np.int32
    offsets = np.frombuffer(offset_bytes, wide, len(part) + 1, part.offset * np.dtype(wide).itemsize)
    return np.frombuffer(data or b"", np.uint8), offsets
