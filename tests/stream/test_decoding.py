"""Bytes of files as UTF-8: packed, in UTF-16, in Windows-1252, and damaged."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from everlearn.errors import InputError
from everlearn.stream import read
from everlearn.stream.decoding import decoded, opened

TEXT = "town,y\n" + "Zürich,1\nGenève,0\n" * 50


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_file_is_read_whatever_its_bytes(tmp_path: Path, pack: Callable[[bytes], bytes], encoding: str) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(pack(TEXT.encode(encoding)))
    stream = read(path, label="y")
    (chunk,) = stream.chunks()
    (expected,) = read({"town": ["Zürich", "Genève"] * 50, "y": [1, 0] * 50}, schema=stream.schema).chunks()
    assert chunk.examples.batch.indices.tobytes() == expected.examples.batch.indices.tobytes()
    assert stream.survey is not None
    assert any("100 lines are not UTF-8" in note for note in stream.survey.notes) == (encoding == "cp1252")


@pytest.mark.parametrize("mark", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_decoded_in_any_pieces(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes("\ufeff€ and 𝄞".encode(mark))
    file, found = opened(path, "d.csv"), b""
    while data := file.read1(3):
        found += data
    file.close()
    assert found.decode() == "€ and 𝄞"


def test_a_damaged_line_is_not_guessed() -> None:
    line, foreign = decoded("café ".encode() + b"\xe9")
    assert not foreign
    with pytest.raises(UnicodeEncodeError):
        line.encode()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_file_that_was_cut_is_damaged(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "d.csv"
    rows = "".join(f"{i * 7919 % 10_007},{i % 2}\n" for i in range(50_000))
    path.write_bytes(pack(b"x,y\n" + rows.encode())[:-500])
    with pytest.raises(InputError, match="is damaged"):
        read(path, label="y")


@pytest.mark.parametrize("name", ["BZ", "BZh9", "ORC", "PAR1", "<x>"])
def test_names_of_columns_that_look_like_a_format(tmp_path: Path, name: str) -> None:
    (tmp_path / "d.csv").write_text(f"{name},y\n" + "".join(f"{i / 7},{i % 2}\n" for i in range(40)))
    stream = read(tmp_path / "d.csv", label="y")
    assert (list(stream.schema.fields), stream.rows) == ([name], 40)
