"""LIBSVM against the reader of scikit-learn, and Vowpal Wabbit."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from everlearn.errors import InputError
from everlearn.stream import read
from everlearn.stream.sparse import SparseReader, libsvm, vowpal


def test_rows_are_those_of_scikit_learn(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = np.where(draw.random((80, 12)) < 0.3, draw.normal(size=(80, 12)).round(4), 0.0)
    y = draw.integers(0, 2, 80)
    path = tmp_path / "d.svm"
    dump_svmlight_file(x, y, str(path), zero_based=False)
    expected = load_svmlight_file(str(path), n_features=12, zero_based=False)[0].toarray().astype(np.float32)
    stream = read(path, label="label")
    (chunk,) = stream.chunks()
    assert list(stream.schema.fields) == [str(i) for i in range(1, 13)]
    assert chunk.examples.batch.dense.tolist() == expected.tolist()
    assert [stream.schema.classes[int(one)] for one in chunk.examples.y] == y.tolist()


def test_the_label_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "d.svm").write_text("1 1:2\n0 1:3\n")
    with pytest.raises(InputError, match=r"LIBSVM \(svmlight\).*its label is called 'label'"):
        read(tmp_path / "d.svm", label="y")


def test_broken_rows_are_faults() -> None:
    reader = SparseReader(io.BytesIO(b"1 1:2\n0 x:1\n1 1:a\n"), "d.svm", libsvm)
    ((_, texts),) = reader.records()
    kept, columns, faults = reader.parse(texts, ["label", "1"])
    assert (list(kept), columns, set(faults)) == ([0], {"label": ["1"], "1": [2.0]}, {1, 2})


def test_rows_of_vowpal_wabbit() -> None:
    assert vowpal("1 'tag|n a:2 b:-1.5 |c x y | z:3 w") == {
        "label": "1",
        "n.a": 2.0,
        "n.b": -1.5,
        "c": ["x", "y"],
        "z": 3.0,
        "features": ["w"],
    }
    assert vowpal("-1 |n:2 a:3") == {"label": "-1", "n.a": 6.0}
    with pytest.raises(InputError, match="importance weight"):
        vowpal("1 2.5 |n a:1")
    with pytest.raises(InputError, match="without a label"):
        vowpal("|n a:1")


def test_too_many_columns_are_refused() -> None:
    row = "1 " + " ".join(f"{i}:1" for i in range(1, 1_500))
    with pytest.raises(InputError, match="more than 1,000 columns"):
        SparseReader(io.BytesIO(row.encode()), "d.svm", libsvm)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (libsvm, "", "without a label"),
        (libsvm, "7:0.5", "without a label"),
        (libsvm, "1 \u00b2:4", "the number of a feature"),
        (vowpal, "1 | c:2 |c d", "'c' as a feature with a value and as a namespace"),
        (vowpal, "1 |c d | c:2", "'c' as a feature with a value and as a namespace"),
        (vowpal, "1 |a b:c", "expected a feature, or feature:number"),
    ],
)
def test_a_line_that_cannot_be_read_says_why(kind: Callable[[str], dict[str, Any]], text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(text)


def test_features_named_like_the_label_are_kept_apart() -> None:
    assert vowpal("1 | label:3") == {"label": "1", "features.label": 3.0}
    assert vowpal("1 |label a b") == {"label": "1", "features.label": ["a", "b"]}
    assert vowpal("1 |") == vowpal("1 | ") == vowpal("1 |n") == {"label": "1"}
    assert vowpal("1 |:2 a:3") == {"label": "1", "a": 6.0}


@settings(max_examples=200, deadline=None)
@given(text=st.text("1 7:|#.abl-e\u00b2\t", max_size=30), kind=st.sampled_from([libsvm, vowpal]))
def test_no_line_fails_otherwise(kind: Callable[[str], dict[str, Any]], text: str) -> None:
    reader = SparseReader(io.BytesIO(text.encode()), "d", kind)
    for _, texts in reader.records():
        kept, _, faults = reader.parse(texts, None)
        assert len(kept) + len(faults) == len(texts)


def test_a_resumed_run_has_the_same_rows(tmp_path: Path) -> None:
    lines = [f"{i % 2} |n x:{i % 7} |{'c' if i % 3 else 'd'} w{i % 5}" for i in range(60)]
    lines[:20] = [line.rpartition(" |")[0] for line in lines[:20]]  # tokens come later
    (tmp_path / "d.vw").write_text("\n".join([*lines, ""]))
    schema = read(tmp_path / "d.vw", label="label").schema
    assert schema.fields == {"n.x": "numeric", "c": "tokens", "d": "tokens"}
    stream = read(tmp_path / "d.vw", schema=schema)
    (whole,) = stream.records()
    assert all(set(record) <= {"n.x", "c"} or set(record) <= {"n.x", "d"} for record in whole.features)
    for after in (1, 25, 59):
        resumed = [
            record for some in read(tmp_path / "d.vw", schema=schema).records(after, 4) for record in some.features
        ]
        assert resumed == whole.features[after:]
