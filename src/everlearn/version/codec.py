"""Write arrays and a header of plain values as one safetensors file, and read them back.

    dump(arrays, header) -> bytes        equal content has equal bytes, in every process
    load(data, path)                     copies of the arrays, checked as if an attacker had written the file
    map_readonly(buffer, path)           read-only views into the buffer: nothing is copied

The header is one JSON text in the file's metadata, with a format number. A file holds numbers and text, never code.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from everlearn.errors import BlobError, ModelError
from everlearn.records import Arrays

FORMAT, PACKED = 1, 2  # of a file; of one with arrays whose empty blocks are left out (`packing`)

# The names that safetensors gives to dtypes, in the order in which it puts tensors into a file.
_CODES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES = {code: np.dtype(name).newbyteorder("<") for name, code in _CODES.items()}
_ORDER = {name: place for place, name in enumerate(_CODES)}
_ALIGNED = 8


class Tensor(msgspec.Struct, forbid_unknown_fields=True):
    """The entry of one array in the front of a file."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def dump(arrays: Mapping[str, Any], header: Mapping[str, Any], format: int = FORMAT) -> bytes:
    """Return the bytes of a file: in the layout of safetensors, with the header as one canonical text.

    Any shape; dtypes bool, int8 to uint64, float16 to float64. Raises `ModelError` for content that cannot be stored.

    >>> data = dump({"w": np.arange(3.0)}, {"of": "a test"})
    >>> len(data), load(data, Path("a.safetensors"))
    (168, ({'w': array([0., 1., 2.])}, {'of': 'a test'}))
    """
    return dump_laid_out(laid_out(arrays), header, format)


def dump_laid_out(tensors: Arrays, header: Mapping[str, Any], format: int) -> bytes:
    """Return the bytes of a file, as `dump` does, of arrays that come from `laid_out`."""
    begin = front(tensors, plain(header, "the header"), format)
    return b"".join([begin, *(octets(array) for array in tensors.values())])


def laid_out(arrays: Mapping[str, Any]) -> Arrays:
    """Return the arrays in the order of the file, contiguous and little-endian; copies only when needed.

    Raises `ModelError` for a dtype or name that a file cannot hold.
    """
    tensors = {}
    for name, given in arrays.items():
        array = np.asarray(given)
        if _name(array.dtype) not in _CODES:
            raise ModelError(
                f"array {name!r} has dtype {array.dtype}; a snapshot holds only {', '.join(sorted(_CODES))}"
            )
        if name == "__metadata__":
            raise ModelError("an array may not be named '__metadata__', which safetensors keeps for itself; rename it")
        tensors[name] = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return dict(sorted(tensors.items(), key=lambda item: (_ORDER[_name(item[1].dtype)], item[0])))


def front(tensors: Arrays, header: Mapping[str, Any], format: int = FORMAT) -> bytes:
    """Return the front of a file: all bytes before the arrays, which come from `laid_out`; `header` holds plain values.

    Raises `ModelError` for content that cannot be stored.
    """
    try:
        # One entry only: safetensors writes several in no particular order.
        entries: dict[str, Any] = {"__metadata__": {"everlearn": canonical({"format": format, "header": header})}}
        start = 0
        for name, array in tensors.items():
            end = start + array.nbytes
            entries[name] = Tensor(_CODES[_name(array.dtype)], list(array.shape), (start, end))
            start = end
        text = msgspec.json.encode(entries)
    except (TypeError, ValueError) as error:
        raise ModelError(f"these arrays cannot be stored: {error}; names: {', '.join(map(repr, tensors))}") from error
    text += b" " * (-len(text) % _ALIGNED)
    return struct.pack("<Q", len(text)) + text


@lru_cache
def _name(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype, which numpy makes again at each call."""
    return str(dtype.name)


def octets(array: np.ndarray) -> memoryview:
    """Return the bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def load(data: bytes, path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays, copied, and the header that `dump` wrote; `path` is named in errors.

    Raises `BlobError` for bytes that are not such a file, even if an attacker wrote them.
    """
    try:
        views = safetensors.numpy.load(data)  # checks lengths, offsets and the header
        (length,) = struct.unpack_from("<Q", data)
        note = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get("everlearn")
        text = json.loads(note) if note else None
    except (safetensors.SafetensorError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise BlobError(f"snapshot {path} is not a safetensors file that can be read: {error}") from error
    header = _header(text, path)
    return {name: np.array(views[name]) for name in sorted(views)}, header


def map_readonly(buffer: Any, path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays that `dump` wrote as read-only views into `buffer`, which they keep alive, and the header.

    For files that this user wrote: the front is checked, so that no view reaches beyond the buffer. Raises `BlobError`
    for bytes that are not such a file.
    """
    try:
        (length,) = struct.unpack_from("<Q", buffer)
        begin = 8 + length  # of the arrays
        if begin > len(buffer):
            raise ValueError(f"its front should end at byte {begin}, it has {len(buffer)}")
        front = msgspec.json.decode(bytes(memoryview(buffer)[8:begin]), type=dict[str, msgspec.Raw])
        notes = msgspec.json.decode(front.pop("__metadata__", b"{}"), type=dict[str, str])
        text = json.loads(notes.get("everlearn", "null"))
        tensors = {name: msgspec.json.decode(raw, type=Tensor) for name, raw in front.items()}
        arrays = {name: _view(buffer, begin, tensor) for name, tensor in sorted(tensors.items())}
    except (struct.error, msgspec.MsgspecError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise BlobError(f"snapshot {path} is not a safetensors file that can be read: {error}") from error
    return arrays, _header(text, path)


def _view(buffer: Any, begin: int, tensor: Tensor) -> np.ndarray:
    dtype, (start, end) = _DTYPES[tensor.dtype], tensor.data_offsets
    count = math.prod(tensor.shape)
    if min(tensor.shape, default=0) < 0 or start < 0 or end - start != count * dtype.itemsize:
        raise ValueError(f"shape {tensor.shape} of {tensor.dtype} does not fill the bytes {start} to {end}")
    array: np.ndarray = np.frombuffer(buffer, dtype, count, begin + start).reshape(tensor.shape)
    array.flags.writeable = False
    return array


def _header(text: Any, path: Path) -> dict[str, Any]:
    """Return the header within the canonical text. Raises `BlobError` for one that this release cannot read."""
    if not isinstance(text, dict) or not isinstance(text.get("header"), dict):
        raise BlobError(f"snapshot {path} was not written by Everlearn: its header is missing")
    if text.get("format") not in (FORMAT, PACKED):
        raise BlobError(
            f"snapshot {path}: format: got {text.get('format')}; expected {FORMAT} or {PACKED}. Upgrade Everlearn"
        )
    header: dict[str, Any] = text["header"]
    return header


def describe_damage(data: bytes) -> str:
    """Return "truncated" or "damaged", judged by the length given in the front of the file."""
    if len(data) < 8:
        return "truncated"
    (length,) = struct.unpack_from("<Q", data)
    try:
        header = json.loads(data[8 : 8 + length]) if 8 + length <= len(data) else None
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"] if header else []
        promised = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return "damaged"
    return "truncated" if len(data) < promised else "damaged"


def canonical(content: Any) -> str:
    """Return the one canonical JSON text of plain content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(content: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return the content as it will be read back: plain JSON values. Raises `ModelError` naming `what`."""
    try:
        read: dict[str, Any] = json.loads(canonical(dict(content)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{what} cannot be stored: {error}; expected finite numbers, text, lists and dicts") from error
    return read
