"""ARFF against the reader of SciPy, and rows that SciPy does not read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from scipy.io import arff

from everlearn.errors import InputError
from everlearn.stream import read
from everlearn.stream.arff import ArffReader

HEAD = "% a note\n@RELATION r\n@ATTRIBUTE a NUMERIC\n@attribute 'b c' {red,blue}\n@attribute y {no,yes}\n\n@DATA\n"


def test_rows_are_those_of_scipy(tmp_path: Path) -> None:
    rows = [f"{i / 7:.3f},{('red', 'blue')[i % 2]},{('no', 'yes')[i % 2]}" for i in range(60)]
    text = HEAD + "\n".join([*rows, "?,red,no", "% the end", ""])
    (tmp_path / "d.arff").write_text(text)
    expected, _ = arff.loadarff(io.StringIO(text))
    stream = read(tmp_path / "d.arff", label="y")
    (records,) = stream.records()
    assert not records.rejected
    assert [one.get("a") for one in records.features[:-1]] == pytest.approx(expected["a"][:-1].tolist())
    assert np.isnan(expected["a"][-1])
    assert "a" not in records.features[-1]
    assert [one["b c"] for one in records.features] == [one.decode() for one in expected["b c"]]
    assert records.labels == [one.decode() for one in expected["y"]]


def test_sparse_rows_and_broken_ones() -> None:
    reader = ArffReader(
        io.BytesIO((HEAD.replace("blue", "'dark blue'") + "{0 2.5}\n{1 'dark blue', 2 yes}\n1,red\n{9 1}\n").encode()),
        "d.arff",
    )
    ((numbers, texts),) = reader.records()
    assert numbers == [8, 9, 10, 11]
    kept, columns, faults = reader.parse(texts, None)
    assert list(kept) == [0, 1]
    assert columns == {"a": ["2.5", "0"], "b c": ["red", "dark blue"], "y": ["no", "yes"]}
    assert faults[2] == "got 2 columns, expected 3"
    assert "the number of a column" in faults[3]


def test_a_file_without_attributes_is_refused() -> None:
    with pytest.raises(InputError, match="without @attribute"):
        ArffReader(io.BytesIO(b"@relation r\n@data\n1\n"), "d.arff")
