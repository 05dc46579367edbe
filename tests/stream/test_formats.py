"""Formats by their first bytes: read, or named with what to do."""

from __future__ import annotations

import gzip

import pytest

from everlearn.errors import InputError
from everlearn.stream.formats import form_of


@pytest.mark.parametrize(
    ("start", "form"),
    [
        (b"a,b\n1,2\n", "csv"),
        (b"a|b\n1|2\n", "csv"),
        (b"1|2\n3|4\n", "csv"),
        (b"\xef\xbb\xbfa,b\n", "csv"),
        (b'{"a": 1}\n', "json"),
        (b"PAR1", "parquet"),
        (b"% by me\n@RELATION r\n@ATTRIBUTE a real\n", "arff"),
        (b"1 1:0.5 7:1\n-1 2:3 # note\n", "libsvm"),
        (b"2 qid:1 1:0.5\n", "libsvm"),
        (b"1 |n a:2 |c x\n-1 'tag|n a:1\n", "vowpal"),
        (b"time 12:30\n1 2:3\n", "csv"),
        (b"<TICKER>,<DATE>,<TIME>\nA,20150101,1\n", "csv"),
        (b"<DATE>\t<TIME>\n20150101\t1\n", "csv"),
        (b"<x>;note\n1;a</b>\n", "csv"),
        (b"ORCID,y\n1,2\n3,4\n", "csv"),
        (b"PAR1,PAR2,y\n1,2,3\n", "csv"),
        (b"BZ,CZ,y\n1,2,3\n", "csv"),
        (b"BZh9,y\n1,2\n3,4\n", "csv"),
        (b"@relation_id,y\n1,2\n", "csv"),
        (b"PAR1\x15\x04\x15\x10\x15\x14\x4c\x15\x02\x15", "parquet"),
    ],
)
def test_the_form(start: bytes, form: str) -> None:
    assert form_of(start, "d") == form


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (b"PK\x03\x04", "spreadsheet"),
        (b"ARROW1\0\0", "Feather"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"ORC\x0a\x0b\x0c\x00\x01\x12\x00", "ORC"),
        (gzip.compress(b"a,b\n1,2\n"), "packed with gzip"),
        (b"SQLite format 3\0", "SQLite"),
        (b"\x28\xb5\x2f\xfd", "Zstandard"),
        (b"<html>", "HTML"),
        (b"<?xml version='1.0'?>\n<a/>", "XML"),
        (b"<!DOCTYPE html>\n", "HTML"),
        (b"<rows>\n  <row><x>1</x></row>\n", "XML"),
        (b"<x a='1'>2</x>", "XML"),
        (b'[{"a": 1}]', "JSON array"),
        (b'{\n "a": 1\n}', "several lines"),
        (b"\x80\x04\x95", "pickle"),
        (b"", "is empty"),
    ],
)
def test_a_form_that_is_not_read_is_named(start: bytes, named: str) -> None:
    with pytest.raises(InputError, match=named):
        form_of(start, "d")
