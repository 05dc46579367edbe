"""The format of a file, by its first bytes: those that are read, and those that are named in an error."""

from __future__ import annotations

import re

from everlearn.errors import InputError

MARK = b"\xef\xbb\xbf"  # the byte order mark of UTF-8
NAMES = {"arff": "ARFF", "libsvm": "LIBSVM (svmlight)", "vowpal": "Vowpal Wabbit"}  # where columns have fixed names

_FEW, _FRONT = 8, 512  # bytes: too few to judge by, and those that show whether a file is text
_LINES = 5  # that must all fit a format
_RELATION = re.compile(rb"@relation(\s|$)", re.IGNORECASE)
_LIBSVM = re.compile(rb"[+-]?[0-9][0-9.eE+-]*(,[0-9.]+)*(\s+qid:\d+)?(\s+\d+:[^\s:]+)+\s*(#.*)?")
_VW = re.compile(rb"[+-]?[0-9][0-9.eE+-]*\s+(\S+\s+)?[^\s|]*\|.*")
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "is a zip archive or a spreadsheet", "save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "is a spreadsheet of Excel", "save it as CSV"),
    (b"ARROW1", "is an Arrow (Feather) file", "write it as Parquet: pandas.read_feather(...).to_parquet(...)"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file", "write it as Parquet: pandas.read_hdf(...).to_parquet(...)"),
    (b"SQLite format 3", "is a SQLite database", "export a table of it as CSV"),
    (b"\x28\xb5\x2f\xfd", "is packed with Zstandard", "unpack it with `zstd -d`"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive", "unpack it"),
    (b"Obj\x01", "is an Avro file", "write it as Parquet"),
    (b"ORC", "is an ORC file", "write it as Parquet"),
    (b"\x93NUMPY", "is an array of numpy", "pass a dict of columns to everlearn.read, or write it as CSV"),
    (b"\x80\x04\x95", "is a pickle", "write it as Parquet, since a pickle can run code"),
    (b"\x80\x05\x95", "is a pickle", "write it as Parquet, since a pickle can run code"),
    (b"\x1f\x8b\x08", "is packed with gzip", "unpack it with `gzip -dc`"),  # a file is unpacked before; a pipe is not
    (b"BZh", "is packed with bzip2", "unpack it with `bzip2 -dc`"),
    (b"\xfd7zXZ\x00", "is packed with xz", "unpack it with `xz -dc`"),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # bytes that no text has
_NAME = re.compile(rb"\w+\s*[,;|\t\r\n]")  # of a first column
_MARKUP = re.compile(rb"<(\?xml|!--|!doctype|html|head|body|table|svg)\b", re.IGNORECASE)
_TAGS = re.compile(rb"<[A-Za-z][\w:.-]*(\s[^<>]*)?>\s*(<|[^<,;|\t]*</)")  # and not names such as <DATE>,<TIME>


def form_of(start: bytes, name: str) -> str:
    """Return the format of a file by its first bytes: "parquet", "json", "csv", "arff", "libsvm" or "vowpal".

    Raises `InputError` for another format, with what to do.
    """
    text = start.removeprefix(MARK).lstrip()
    if not text:
        raise InputError(f"{name} is empty; expected a header line, JSON objects, or Parquet")
    binary = len(text) <= _FEW or _CONTROL.search(text[:_FRONT]) is not None
    if text.startswith(b"PAR1") and (binary or not _NAME.match(text)):
        return "parquet"
    for front, what, todo in _OTHERS:
        if binary and text.startswith(front):  # a name of a column may begin with ORC
            raise InputError(f"{name} {what}; expected CSV, JSON lines or Parquet: {todo}")
    if _is_markup(text):
        raise InputError(f"{name} is HTML or XML; expected CSV, JSON lines or Parquet: save the table in it as CSV")
    if text.startswith(b"[") and text[1:].lstrip().startswith(b"{"):
        raise InputError(
            f"{name} holds one JSON array; expected one JSON object on each line: write it as such with `jq -c '.[]'`"
        )
    if text.startswith(b"{"):
        if text[1:].lstrip(b" \t").startswith((b"\n", b"\r")):
            raise InputError(
                f"{name} holds JSON objects of several lines; expected one JSON object on each line: write it as such "
                "with `jq -c .`"
            )
        return "json"
    return _text_form(text)


def _is_markup(text: bytes) -> bool:
    return bool(_MARKUP.match(text) or (_TAGS.match(text) and b"</" in text))


def _text_form(text: bytes) -> str:
    lines = [line.strip() for line in text[: 1 << 16].splitlines()]
    whole = lines[:-1] if len(text) > 1 << 16 else lines  # the last line may be cut
    bare = [line for line in whole if line and not line.startswith((b"%", b"#"))][:_LINES]
    if bare and _RELATION.match(bare[0]):
        return "arff"
    if bare and all(map(_VW.fullmatch, bare)):
        return "vowpal"
    return "libsvm" if bare and all(map(_LIBSVM.fullmatch, bare)) else "csv"
