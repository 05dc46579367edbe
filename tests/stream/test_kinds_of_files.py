"""Imitations of 27 kinds of file, each read as its owner means it; docs/reference/files.md lists them."""

from __future__ import annotations

import bz2
import gzip
import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from everlearn.schema import Encoder
from everlearn.schema.guessing import Survey
from everlearn.stream import read

ROWS = 300
DOCS = Path(__file__).parents[2] / "docs" / "reference" / "files.md"
_draw = random.Random(7)
_noise = [_draw.random() for _ in range(ROWS)]


_WORK = ("Private", "State-gov", "?")


class Kind(NamedTuple):
    """A kind of file: its name and content, the label, what is found, and a request equal to the first row."""

    file: str
    content: Callable[[], bytes]
    found: str
    request: dict[str, Any]
    label: str = "y"


def table(header: str, row: Callable[[int], str], encoding: str = "utf-8") -> Callable[[], bytes]:
    """Return a function that makes a file of a header line and rows."""
    return lambda: "".join([header + "\n", *(row(i) + "\n" for i in range(ROWS))]).encode(encoding)


def at(i: int, form: str, hours: int = 7) -> str:
    """Return a moment in a form of strftime."""
    return (datetime(2015, 1, 14) + timedelta(hours=hours * i)).strftime(form)


def lines(make: Callable[[int], Any]) -> Callable[[], bytes]:
    """Return a function that makes JSON lines."""
    return lambda: "".join(json.dumps(make(i)) + "\n" for i in range(ROWS)).encode()


_plain = table("x,town,y", lambda i: f"{_noise[i]:.3f},{'abc'[i % 3]},{i % 2}")
_first = {"x": round(_noise[0], 3), "town": "a"}
_two = "`x` numeric, `town` categorical; binary"
_day = datetime(2015, 1, 14).isoformat()

_COLOURS = ("red", "big red")
_HEAD = "@relation r\n@attribute x numeric\n@attribute town {a,'b c'}\n@attribute y {no,yes}\n@data\n"
_TOWNS, _ANSWERS = ("a", "'b c'"), ("no", "yes")
_arff = (_HEAD + "".join(f"{_noise[i]:.3f},{_TOWNS[i % 2]},{_ANSWERS[i % 2]}\n" for i in range(ROWS))).encode()

KINDS: dict[str, Kind] = {
    "comma separated": Kind("d.csv", _plain, _two, _first),
    "blanks after commas": Kind(
        "adult.data",
        table(
            "x, work, y",
            lambda i: f"{_noise[i]:.3f}, {('Private', 'State-gov', '?')[i % 3]}, {('<=50K', '>50K')[i % 2]}",
        ),
        "`x` numeric, `work` categorical, missing ['?']; binary",
        {"x": round(_noise[0], 3), "work": "Private"},
    ),
    "semicolons and decimal commas": Kind(
        "air.csv",
        table("CO;NOx;y;;", lambda i: f"{_noise[i] * 9:.1f};{_noise[-i]:.3f};{i % 2};;".replace(".", ",")),
        "`CO` numeric, `NOx` numeric, decimal ','; binary",
        {"CO": round(_noise[0] * 9, 1), "NOx": round(_noise[0], 3)},
    ),
    "tabs": Kind("d.tsv", lambda: _plain().replace(b",", b"\t"), _two, _first),
    "bars": Kind("d.txt", lambda: _plain().replace(b",", b"|"), _two, _first),
    "runs of blanks": Kind("auto.data", lambda: _plain().replace(b",", b"   "), _two, _first),
    "comment lines on top": Kind("d.csv", lambda: b"# station 5\n# exported 2024\n" + _plain(), _two, _first),
    "names in a comment": Kind("d.csv", lambda: b"# " + _plain(), _two, _first),
    "the header again and again": Kind("d.csv", lambda: b"".join([_plain(), _plain()]), _two, _first),
    "gzip": Kind("d.csv.gz", lambda: gzip.compress(_plain()), _two, _first),
    "bzip2": Kind("d.csv.bz2", lambda: bz2.compress(_plain()), _two, _first),
    "Windows-1252 and Latin-1": Kind(
        "d.csv",
        table("x,town,y", lambda i: f"{_noise[i]:.3f},{('Zürich', 'Genève', '€')[i % 3]},{i % 2}", "cp1252"),
        _two,
        {"x": round(_noise[0], 3), "town": "Zürich"},
    ),
    "UTF-16": Kind("d.csv", lambda: _plain().decode().encode("utf-16"), _two, _first),
    "currency and thousands": Kind(
        "d.csv",
        table("price,y", lambda i: f'"${1000 + 7.31 * (i * 7919 % 997):,.2f}",{i % 2}'),
        "`price` numeric; binary",
        {"price": 1000.0},
    ),
    "percent as label": Kind(
        "d.csv",
        table("x,y", lambda i: f"{_noise[i]:.3f},{_noise[i] * 20:.1f}%"),
        "`x` numeric; regression",
        {"x": _first["x"]},
    ),
    "the day first": Kind(
        "d.csv",
        table("at,y", lambda i: f"{at(i, '%d/%m/%Y %H:%M')},{i % 2}"),
        "`at` datetime, day first; binary",
        {"at": _day},
    ),
    "the month first": Kind(
        "d.csv",
        table("at,y", lambda i: f"{at(i, '%m/%d/%y %I:%M %p')},{i % 2}"),
        "`at` datetime, month first; binary",
        {"at": _day},
    ),
    "times of an Apache log": Kind(
        "d.csv",
        table("at,y", lambda i: f"{at(i, '%d/%b/%Y:%H:%M:%S')} +0000,{i % 2}"),
        "`at` datetime; binary",
        {"at": _day},
    ),
    "times that end in UTC": Kind(
        "d.csv",
        table("at,y", lambda i: f"{at(i, '%Y-%m-%d %H:%M:%S')} UTC,{i % 2}"),
        "`at` datetime; binary",
        {"at": _day},
    ),
    "milliseconds since 1970": Kind(
        "d.csv",
        table("at,y", lambda i: f"{1421193600000 + i * 3_600_123},{i % 2}"),
        "`at` datetime; binary",
        {"at": 1421193600},
    ),
    "YYYYMMDD": Kind(
        "d.csv",
        table("at,y", lambda i: f"{at(i, '%Y%m%d', 24)},{i % 2}"),
        "`at` datetime; binary",
        {"at": "2015-01-14"},
    ),
    "numbers that mean missing": Kind(
        "d.csv",
        table("t,y", lambda i: f"{-200 if i % 9 == 4 else round(_noise[i] * 40, 1)},{i % 2}"),
        "`t` numeric, missing [-200]; binary",
        {"t": round(_noise[0] * 40, 1)},
    ),
    "labels in upper and lower case": Kind(
        "d.csv",
        table("x,y", lambda i: f"{_noise[i]:.3f},{('spam', 'ham', 'Spam', 'ham')[i % 4]}"),
        "`x` numeric; binary",
        {"x": _first["x"]},
    ),
    "running numbers and identifiers": Kind(
        "d.csv",
        table("nr,ref,x,y", lambda i: f"{i + 1},k{i * 7919 % 997:06x},{_noise[i]:.3f},{i % 2}"),
        "`x` numeric, left out: `nr`, `ref`; binary",
        {"x": _first["x"]},
    ),
    "nested JSON and lists": Kind(
        "d.jsonl",
        lines(
            lambda i: {"user": {"age": _noise[i], "orders": [{"at": i}]}, "tags": ["red", "big"][: i % 3], "y": i % 2}
        ),
        "`user.age` numeric, `tags` tokens, left out: `user.orders`; binary",
        {"tags": [], "user.age": _noise[0]},
    ),
    "ARFF": Kind("d.arff", lambda: _arff, _two, _first),
    "LIBSVM and Vowpal Wabbit": Kind(
        "d.vw",
        lambda: "".join(f"{i % 2 * 2 - 1} |n x:{_noise[i]:.3f} |c {_COLOURS[i % 2]}\n" for i in range(ROWS)).encode(),
        "`c` tokens, `n.x` numeric; binary",
        {"n.x": _first["x"], "c": ["red"]},
        "label",
    ),
}


def summary(survey: Survey) -> str:
    """Return what was found, as the table of the documentation says it."""
    schema = survey.schema
    parts = []
    for name, kind in schema.fields.items():
        missing = f", missing {list(schema.missing[name])}" if name in schema.missing else ""
        parts.append(f"`{name}` {kind}{', ' + schema.dates[name] if name in schema.dates else ''}{missing}")
    if schema.decimal != ".":
        parts.append(f"decimal {schema.decimal!r}")
    if survey.left_out:
        parts.append("left out: " + ", ".join(f"`{name}`" for name in survey.left_out))
    return f"{', '.join(parts)}; {schema.task}"


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_read_as_its_owner_means_it(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    path = tmp_path / kind.file
    path.write_bytes(kind.content())
    stream = read(path, label=kind.label)
    assert stream.survey is not None
    assert summary(stream.survey) == kind.found
    chunks = list(stream.chunks())
    rejected = [row.reason for chunk in chunks for row in chunk.rejected]
    assert set(rejected) <= {"the header line again"}
    assert len(rejected) == (name == "the header again and again")
    first = chunks[0].examples.batch
    asked = Encoder(stream.schema).record(kind.request)
    assert first.dense[:1].tobytes() == asked.dense.tobytes()
    assert first.indices[: first.indptr[1]].tolist() == asked.indices.tolist()
    assert not np.isnan(asked.dense).all() or not asked.dense.size


def test_the_documentation_lists_the_same_kinds() -> None:
    rows = [
        line.split(" | ") for line in DOCS.read_text().splitlines() if line.startswith("| ") and line.count(" | ") == 2
    ]
    listed = {cells[0].removeprefix("| "): cells[2].removesuffix(" |") for cells in rows if cells[0] != "| file"}
    assert len(KINDS) == 27
    assert listed == {name: kind.found for name, kind in KINDS.items()}
