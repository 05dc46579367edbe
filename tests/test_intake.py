"""Rows of streams: how far each source was taken, what is handed to the loop, and what a changed file meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import InputError
from everlearn.loop import Loop
from everlearn.records import Example, Rejected
from everlearn.spec import LogSpec
from everlearn.stream import Stream, read

from .test_kill import FIELDS, spec, table


def write(path: Path, columns: dict[str, Any], rows: int) -> None:
    lines = [",".join(columns)]
    lines += [",".join(str(values[row]) for values in columns.values()) for row in range(rows)]
    path.write_text("\n".join(lines) + "\n")


def stream(path: Path) -> Stream:
    return read(path, schema=spec().schema)


def test_nothing_is_folded_before_the_commits_are_drawn(tmp_path):
    with Loop(spec(), tmp_path / "home") as loop:
        steps = loop.intake.folded(read(table(500), schema=loop.spec.schema))
        taken, commits = next(steps)
        assert (taken, loop.fold.learner.scored, loop.intake.rows) == (500, 0, 0)
        drawn = [loop._commit(commit) for commit in commits]
        assert drawn
        assert (loop.fold.learner.scored, loop.intake.rows) == (500, 500)
        assert list(steps) == []


def test_each_file_is_taken_from_where_it_was_left(tmp_path):
    columns = table(900)
    with Loop(spec(), tmp_path / "home") as loop:
        for name, rows in (("one", 300), ("two", 200), ("one", 400)):
            write(tmp_path / f"{name}.csv", columns, rows)
            loop.run(stream(tmp_path / f"{name}.csv"))
        assert sorted(one["rows"] for one in loop.intake.sources.values()) == [200, 400]
        assert loop.fold.cursor["row"] == loop.intake.rows == 600


def test_a_file_may_grow_but_not_change(tmp_path):
    columns, path = table(300), tmp_path / "rows.csv"
    write(path, columns, 200)
    with Loop(spec(), tmp_path / "home") as loop:
        loop.run(stream(path))
        columns["b"][199] += 1.0
        write(path, columns, 300)
        with pytest.raises(InputError, match="its row 200 is not what it was"):
            loop.run(stream(path))


def test_rows_that_cannot_be_used_are_noted_once_with_the_commit_after_them(tmp_path):
    path, columns = tmp_path / "rows.csv", table(300)
    columns["a"] = [*columns["a"][:100], "far", *columns["a"][101:250], "near", *columns["a"][251:]]
    write(path, columns, 300)
    with Loop(spec(), tmp_path / "home") as loop:
        assert loop.run(stream(path))["rejected"] == 2
        assert loop.run(stream(path))["rejected"] == 2
        events = loop.log.read(0, 1000, kinds=("rejected", "checkpoint"))
        noted = [event.payload for event in events if isinstance(event.payload, Rejected)]
        assert [(one.line, one.at) for one in noted] == [(102, 101), (252, 251)]


def test_a_stream_of_nothing_but_bad_rows_starts_the_loop_and_stops_nothing(tmp_path):
    path, columns = tmp_path / "rows.csv", table(5)
    columns["a"] = ["far"] * 5
    write(path, columns, 5)
    with Loop(spec(), tmp_path / "home") as loop:
        assert loop.run(stream(path))["rejected"] == 5
        assert loop.predict({"a": 1.0, "b": 1.0, "c": "c1"}).proba == (0.5, 0.5)


def test_appended_rows_are_examples_with_names_that_say_where_they_stood(tmp_path):
    settings = spec(log=LogSpec(rows="always"))
    rows = read(table(60), schema=settings.schema)
    with Loop(settings, tmp_path / "home") as loop:
        assert not loop.intake.is_log(rows)
        ((taken, payloads),) = loop.intake.appended(rows)
        assert taken == len(payloads) == 60
        assert isinstance(payloads[9], Example)
        assert payloads[9].id == f"{rows.fingerprint}:10"
        loop.run(rows)
        assert list(loop.intake.appended(rows)) == []


def test_what_was_promoted_by_rows_answers_at_once(tmp_path):
    settings = spec()
    with Loop(settings, tmp_path / "home") as loop:
        before = loop.predict({name: table(1)[name][0] for name in FIELDS})
        loop.run(read(table(3000), schema=settings.schema))
        after = loop.predict({name: table(1)[name][0] for name in FIELDS})
        assert before.version != after.version == loop.report()["champion"]
