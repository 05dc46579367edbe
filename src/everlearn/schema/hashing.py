"""Kernels that turn bytes into hashed columns: categories, words, and numbers written as text.

A hash is FNV-1a (Fowler, Noll and Vo, 64 bits) over the bytes, from a start value of the field,
finished by the 64-bit mixer of MurmurHash3 so that the low bits are as good as the high ones. It reads one byte at a
time, so it is the same on every machine. It must never change, because learned weights depend on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from everlearn._jit import exact_kernel
from everlearn.records import Floats, Ints, Singles

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]
Flags = NDArray[np.bool_]
Rows = tuple[Ints, NDArray[np.int32], Singles]

WORDS = 10_000  # words and punctuation marks read of one text, at most

_BASIS = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_PAIR = np.uint64(0x9E3779B97F4A7C15)
_33 = np.uint64(33)


@exact_kernel
def mixed(h: Any) -> Any:
    """Mix the bits of a hash: every bit of the result depends on every bit of `h` (the finaliser of MurmurHash3)."""
    h = (h ^ (h >> _33)) * _MIX_1
    h = (h ^ (h >> _33)) * _MIX_2
    return h ^ (h >> _33)


@exact_kernel
def paired(first: Any, second: Any) -> Any:
    """Return the hash of an ordered pair of hashes."""
    return mixed((first * _PAIR) ^ (second + _PAIR))


@exact_kernel
def hash_bytes(data: Bytes, start: Any, end: Any, seed: Any) -> Any:
    """Return the hash of data[start:end], in the field with the given seed."""
    h = seed
    for i in range(start, end):
        h = (h ^ np.uint64(data[i])) * _PRIME
    return mixed(h)


@exact_kernel
def hash_cells(data: Bytes, offsets: Any, seed: Any) -> tuple[Hashes, Flags]:
    """Return the hash of each cell data[offsets[i]:offsets[i+1]], uint64 (n,), and a mask of non-empty cells."""
    n = len(offsets) - 1
    hashes = np.empty(n, np.uint64)
    present = np.empty(n, np.bool_)
    for i in range(n):
        hashes[i] = hash_bytes(data, offsets[i], offsets[i + 1], seed)
        present[i] = offsets[i + 1] > offsets[i]
    return hashes, present


@exact_kernel
def hash_integers(values: Ints, seed: Any) -> Hashes:
    """Return the hashes of integers as if written in decimal, without writing them."""
    hashes = np.empty(len(values), np.uint64)
    digits = np.empty(20, np.uint8)
    ten = np.uint64(10)
    for i in range(len(values)):
        h = seed
        rest = np.uint64(values[i])
        if values[i] < 0:
            h = (h ^ np.uint64(45)) * _PRIME
            rest = np.uint64(0) - rest  # two's complement, which also holds for the lowest integer
        count = 0
        while True:
            digits[count] = np.uint8(np.uint64(48) + rest % ten)
            rest = rest // ten
            count += 1
            if rest == np.uint64(0):
                break
        for k in range(count - 1, -1, -1):
            h = (h ^ np.uint64(digits[k])) * _PRIME
        hashes[i] = mixed(h)
    return hashes


@exact_kernel
def _category_row(
    hashes: Hashes, present: Flags, mask: Any, crossed: bool, indices: NDArray[np.int32], values: Singles, at: int
) -> int:
    """Write one row's categories, then their pairs, from `at` on; return where the row ends."""
    fields = len(hashes)
    for j in range(fields):
        if present[j]:
            indices[at] = np.int32(hashes[j] & mask)
            values[at] = 1.0
            at += 1
    if crossed:
        for j in range(fields):
            for k in range(j + 1, fields):
                if present[j] and present[k]:
                    indices[at] = np.int32(paired(hashes[j], hashes[k]) & mask)
                    values[at] = 1.0
                    at += 1
    return at


@exact_kernel
def _text_row(
    data: Bytes, start: Any, end: Any, seed: Any, mask: Any, indices: NDArray[np.int32], values: Singles, at: int
) -> int:
    """Write the words and punctuation marks of one text from `at` on; return where the row ends.

    A word is a run of ASCII letters (lower-cased), digits, underscores and bytes of 128 and above.
    """
    stop = at + WORDS
    h = seed
    inside = False
    for i in range(start, end):
        byte = data[i]
        if 65 <= byte <= 90:
            byte = np.uint8(byte + 32)
        if (97 <= byte <= 122) or (48 <= byte <= 57) or byte >= 128 or byte == 95:
            h = (h ^ np.uint64(byte)) * _PRIME
            inside = True
            continue
        if inside:
            indices[at] = np.int32(mixed(h) & mask)
            at += 1
            h = seed
            inside = False
        if at < stop and 32 < byte < 127:
            indices[at] = np.int32(mixed((seed ^ np.uint64(byte)) * _PRIME) & mask)
            at += 1
        if at == stop:
            break
    if inside:
        indices[at] = np.int32(mixed(h) & mask)
        at += 1
    for k in range(stop - WORDS, at):
        values[k] = 1.0
    return at


@exact_kernel
def _word_bound(start: Any, end: Any) -> Any:
    """Return the largest number of words and marks that a text can have."""
    return min(WORDS, end - start)


@exact_kernel
def category_rows(hashes: Hashes, present: Flags, mask: Any, crossed: bool) -> Rows:
    """Return the CSR rows of categorical fields; `hashes` and `present` are (n, fields)."""
    n, fields = hashes.shape
    most = n * fields
    if crossed:
        most += n * (fields * (fields - 1) // 2)
    indptr = np.zeros(n + 1, np.int64)
    indices = np.empty(most, np.int32)
    values = np.empty(most, np.float32)
    for i in range(n):
        indptr[i + 1] = _category_row(hashes[i], present[i], mask, crossed, indices, values, indptr[i])
    end = indptr[n]
    return indptr, indices[:end], values[:end]


@exact_kernel
def text_rows(data: Bytes, offsets: Any, seed: Any, mask: Any) -> Rows:
    """Return the CSR rows of one text field with cells data[offsets[i]:offsets[i+1]]."""
    n = len(offsets) - 1
    most = 0
    for i in range(n):
        most += _word_bound(offsets[i], offsets[i + 1])
    indptr = np.zeros(n + 1, np.int64)
    indices = np.empty(most, np.int32)
    values = np.empty(most, np.float32)
    for i in range(n):
        indptr[i + 1] = _text_row(data, offsets[i], offsets[i + 1], seed, mask, indices, values, indptr[i])
    end = indptr[n]
    return indptr, indices[:end].copy(), values[:end].copy()


@exact_kernel
def token_rows(data: Bytes, offsets: Any, places: Ints, seed: Any, mask: Any) -> Rows:
    """Return the CSR rows of one field of tokens; those of row i are the cells places[i] to places[i + 1]."""
    total = len(offsets) - 1
    indices = np.empty(total, np.int32)
    for k in range(total):
        indices[k] = np.int32(hash_bytes(data, offsets[k], offsets[k + 1], seed) & mask)
    return places, indices, np.ones(total, np.float32)


@exact_kernel
def joined_rows(left: Rows, right: Rows) -> Rows:
    """Return each row of `left` followed by the same row of `right`."""
    n = len(left[0]) - 1
    total = left[0][n] + right[0][n]
    indptr = np.zeros(n + 1, np.int64)
    indices = np.empty(total, np.int32)
    values = np.empty(total, np.float32)
    at = 0
    for i in range(n):
        for k in range(left[0][i], left[0][i + 1]):
            indices[at] = left[1][k]
            values[at] = left[2][k]
            at += 1
        for k in range(right[0][i], right[0][i + 1]):
            indices[at] = right[1][k]
            values[at] = right[2][k]
            at += 1
        indptr[i + 1] = at
    return indptr, indices, values


@exact_kernel
def one_row(data: Bytes, offsets: Ints, seeds: Hashes, categories: int, mask: Any, crossed: bool) -> Rows:
    """Return the CSR row of one record: the first `categories` cells are categories, the others texts."""
    cells = len(offsets) - 1
    hashes = np.empty(categories, np.uint64)
    present = np.empty(categories, np.bool_)
    most = categories
    if crossed:
        most += categories * (categories - 1) // 2
    for j in range(cells):
        if j < categories:
            hashes[j] = hash_bytes(data, offsets[j], offsets[j + 1], seeds[j])
            present[j] = offsets[j + 1] > offsets[j]
        else:
            most += _word_bound(offsets[j], offsets[j + 1])
    indices = np.empty(most, np.int32)
    values = np.empty(most, np.float32)
    at = _category_row(hashes, present, mask, crossed, indices, values, 0)
    for j in range(categories, cells):
        at = _text_row(data, offsets[j], offsets[j + 1], seeds[j], mask, indices, values, at)
    indptr = np.zeros(2, np.int64)
    indptr[1] = at
    return indptr, indices[:at].copy(), values[:at].copy()


@exact_kernel
def parse_numbers(data: Bytes, offsets: Any) -> tuple[Floats, Flags]:
    """Parse decimal numbers, float64 (n,), and return a mask of the cells that need the general parser.

    A number of at most 15 digits with a power of ten up to 22 is exact in one operation (Clinger, "How to read floating
    point numbers accurately", 1990). An empty cell is NaN; every other cell is left to the caller.
    """
    n = len(offsets) - 1
    result = np.empty(n, np.float64)
    unparsed = np.zeros(n, np.bool_)
    powers = np.empty(23, np.float64)
    powers[0] = 1.0
    for k in range(1, 23):
        powers[k] = powers[k - 1] * 10.0
    for i in range(n):
        start, end = offsets[i], offsets[i + 1]
        at = start
        negative = False
        if at < end and (data[at] == 45 or data[at] == 43):
            negative = data[at] == 45
            at += 1
        mantissa = np.int64(0)
        digits = 0
        scale = 0
        while at < end and 48 <= data[at] <= 57 and digits < 16:
            mantissa = mantissa * 10 + np.int64(data[at] - 48)
            digits += 1
            at += 1
        if at < end and data[at] == 46:
            at += 1
            while at < end and 48 <= data[at] <= 57 and digits < 16:
                mantissa = mantissa * 10 + np.int64(data[at] - 48)
                digits += 1
                scale += 1
                at += 1
        if at == end and 0 < digits <= 15:
            value = np.float64(mantissa) / powers[scale]
            result[i] = -value if negative else value
        else:
            result[i] = np.nan
            unparsed[i] = end > start
    return result, unparsed


@exact_kernel
def odd_spellings(data: Bytes, offsets: Any) -> Flags:
    """Return a mask of the cells that may have another spelling, bool (n,): see `everlearn.schema.forms.spelled`."""
    n = len(offsets) - 1
    odd = np.zeros(n, np.bool_)
    for i in range(n):
        start, end = offsets[i], offsets[i + 1]
        length = end - start
        if length == 0:
            continue
        first, last = data[start], data[end - 1]
        if first <= 32 or last <= 32:  # a blank
            odd[i] = True
        elif last == 48:  # 7.0
            at = end - 1
            while at > start and data[at] == 48:
                at -= 1
            odd[i] = data[at] == 46
        elif length <= 5:  # True
            odd[i] = (first == 84 or first == 70) and (last == 101 or last == 69)
        if length >= 16 and data[start + 4] == 45:  # 2015-01-05 10:00
            odd[i] = True
    return odd


def seed_of(field: str) -> np.uint64:
    """Return the start value for the hashes of a field, so that the same word in two fields has two hashes."""
    data = np.frombuffer(field.encode("utf-8", "replace"), np.uint8)
    return np.uint64(hash_bytes(data, 0, len(data), _BASIS))
