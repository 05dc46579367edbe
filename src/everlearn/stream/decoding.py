"""Bytes of a file as UTF-8: unpacked, and decoded from UTF-16, Windows-1252 and Latin-1."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from everlearn.errors import InputError

PIECE = 1 << 20  # bytes read at a time

_UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_FRONT = 10  # bytes that show how a file is packed
_PACKED: dict[str, tuple[re.Pattern[bytes], Callable[..., Any]]] = {
    "gzip": (re.compile(rb"\x1f\x8b\x08"), gzip.open),
    "bzip2": (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.open),
    "xz": (re.compile(rb"\xfd7zXZ\x00"), lzma.open),
}
_UTF_8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


class Bytes(Protocol):
    """A binary file that returns the bytes available so far."""

    def read1(self, size: int, /) -> bytes:
        """Return at most `size` bytes that are available; empty at the end."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Chained:
    """Bytes that have been read already, followed by the rest of their file."""

    def __init__(self, start: bytes, file: Bytes | None) -> None:
        self._start = start
        self._file = file

    def read1(self, size: int, /) -> bytes:
        """Return the bytes read already, then those of the file."""
        if self._start:
            start, self._start = self._start, b""
            return start
        return self._file.read1(size) if self._file else b""

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file:
            self._file.close()


class Kept:
    """A file that can be read again from its start until `release`; `kept` are the bytes read so far."""

    def __init__(self, start: bytes, file: Bytes) -> None:
        self.kept = start
        self._file, self._place, self._keeps = file, 0, True

    def read1(self, size: int, /) -> bytes:
        """Return kept bytes that come next, then those of the file."""
        if self._place < len(self.kept):
            data = self.kept[self._place :]
            self._place = len(self.kept)
        else:
            data = self._file.read1(size)
            if self._keeps:
                self.kept += data
                self._place = len(self.kept)
        if not self._keeps:
            self.kept, self._place = b"", 0
        return data

    def rewind(self) -> None:
        """Begin again with the first byte. Call it before `release`."""
        self._place = 0

    def release(self) -> None:
        """Keep no more bytes than those that have not been read again."""
        self._keeps = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Recoded:
    """A file in UTF-16 as UTF-8; invalid UTF-16 becomes U+FFFD."""

    def __init__(self, file: Bytes, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ended = False

    def read1(self, size: int, /) -> bytes:
        """Return the next bytes, as UTF-8."""
        while not self._ended:
            data = self._file.read1(size)
            self._ended = not data
            if text := self._decoder.decode(data, self._ended):
                return text.encode("utf-8", "replace")
        return b""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def opened(path: Path, name: str) -> Bytes:
    """Open a file as UTF-8: unpacked if it is gzip, bzip2 or xz, and decoded if a mark says that it is UTF-16.

    Raises `InputError` if it cannot be opened.
    """
    try:
        program = packing(path)
        return utf_8(_PACKED[program][1](path, "rb") if program else path.open("rb"), name)
    except OSError as error:
        raise InputError(f"{name} cannot be opened: {error.strerror or error}") from error


def packing(path: Path) -> str:
    """Return the name of the program that a file is packed with; empty if it is not."""
    with path.open("rb") as file:
        front = file.read(_FRONT)
    return next((program for program, (sign, _) in _PACKED.items() if sign.match(front)), "")


def utf_8(file: Bytes, name: str) -> Bytes:
    """Return a file that begins with the mark of UTF-16 as UTF-8, and any other as it is."""
    try:
        start = read(file, name)
    except InputError:
        file.close()
        raise
    if len(start) == 1:
        start += read(file, name)
    encoding = _UTF_16.get(start[:2])
    return Chained(start, file) if encoding is None else Recoded(Chained(start[2:], file), encoding)


def read(file: Bytes, name: str) -> bytes:
    """Read the next bytes of a file, empty at its end. Raises `InputError` if it is damaged."""
    try:
        return file.read1(PIECE)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{name} is damaged and cannot be read further ({error}); write or copy it again") from error


def decoded(line: bytes) -> tuple[str, bool]:
    """Return a line as text, and True if it was decoded from Windows-1252 (which contains Latin-1).

    A line that is no UTF-8, but holds characters of several bytes in UTF-8, is damaged: its bytes become surrogates,
    and its row will be refused.

    >>> decoded("£5 café".encode("latin-1")), decoded("café".encode())
    (('£5 café', True), ('café', False))
    """
    try:
        return line.decode(), False
    except UnicodeDecodeError:
        if _UTF_8.search(line):
            return line.decode("utf-8", "surrogateescape"), False
    try:
        return line.decode("cp1252"), True
    except UnicodeDecodeError:  # five bytes have no meaning in Windows-1252
        return line.decode("latin-1"), True
