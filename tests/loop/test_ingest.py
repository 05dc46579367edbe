"""Rows of streams: how far each source was taken, what is handed to the loop, and what a changed file meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import everlearn as el
from everlearn.errors import InputError
from everlearn.loop.erase import erase
from everlearn.loop.loop import Loop
from everlearn.loop.offsets import StreamOffsets
from everlearn.model import copied
from everlearn.records import Example, Rejected
from everlearn.spec import Schema, Spec
from everlearn.stream import Stream, read
from tests.support.loops import FIELDS, spec, table
from tests.support.refused_rows import BAD, MODELS, SCHEMA, rows


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
        assert (taken, loop.fold.monitor.scored, loop.intake.rows) == (500, 0, 0)
        drawn = [loop._journal.commit(commit) for commit in commits]
        assert drawn
        assert (loop.fold.monitor.scored, loop.intake.rows) == (500, 500)
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
    settings = spec(subject="person")
    rows = read(table(60), schema=settings.schema)
    with Loop(settings, tmp_path / "home") as loop:
        assert not loop.intake.is_log(rows)
        ((taken, payloads),) = loop.intake.appended(rows)
        assert taken == len(payloads) == 60
        assert isinstance(payloads[9], Example)
        assert payloads[9].id == f"{rows.fingerprint}:10"
        loop.run(rows)
        assert list(loop.intake.appended(rows)) == []


@pytest.mark.parametrize("closed", [True, False])
def test_an_erased_row_stays_erased_when_its_file_is_taken_again(tmp_path, closed):
    """`closed` False: the process died with the rows in the log, and no checkpoint that knows of them."""
    settings, columns, path = spec(subject="person"), table(125), tmp_path / "rows.csv"
    columns["c"][119] = columns["c"][118] = columns["c"][40] = "zoe"
    write(path, columns, 120)
    loop = Loop(settings, tmp_path / "home")
    loop.ready()
    for _, payloads in loop.intake.appended(stream(path)):
        loop.log.append(payloads)
    while closed and loop.catch_up():
        pass
    if closed:
        loop.close()
    else:
        loop.home.close()
    erase(tmp_path / "home", settings, {"c": "zoe"}, "it was asked for")
    with Loop(settings, tmp_path / "home") as loop:
        rows = [event.payload for event in loop.log.read(0, 1000, kinds=("example",))]
        assert len(rows) == 117
        before = loop.log.end()
        loop.run(stream(path))
        loop.run(stream(path))
        assert loop.log.count("example") == 120  # erased ones too
        assert not [event for event in loop.log.read(before, 1000) if isinstance(event.payload, Example)]
        write(path, columns, 125)
        loop.run(stream(path))
        assert loop.log.count("example") == 125


def test_each_appended_file_is_taken_from_where_it_was_left(tmp_path):
    settings, columns = spec(subject="person"), table(300)
    with Loop(settings, tmp_path / "home") as loop:
        for name, rows in (("one", 100), ("two", 150), ("one", 130)):
            write(tmp_path / f"{name}.csv", columns, rows)
            taken = loop.run(stream(tmp_path / f"{name}.csv"))["rows"]
        assert taken == 30
        assert loop.log.count("example") == 280


def test_a_home_whose_fold_has_not_counted_rows_is_still_read(tmp_path):
    settings, path = spec(subject="person"), tmp_path / "rows.csv"
    write(path, table(300), 100)
    with Loop(settings, tmp_path / "home") as loop:
        loop.run(stream(path))
        loop.fold.taken.rows.clear()  # as a release before left it
        write(path, table(300), 120)
        assert loop.run(stream(path))["rows"] == 20


def test_what_is_known_of_rows_taken_does_not_depend_on_how_the_log_is_cut(tmp_path):
    settings, told = spec(subject="person", checkpoint=20), []
    write(tmp_path / "rows.csv", table(300), 130)
    for size in (1, 7, 1000):
        with Loop(settings, tmp_path / f"{size}") as loop:
            loop.ready()
            for _, payloads in loop.intake.appended(stream(tmp_path / "rows.csv")):
                loop.log.append(payloads, time=5.0)
            while loop.catch_up(size):
                pass
            told.append([event.payload for event in loop.log.read(0, 1000, kinds=("checkpoint",))])
            assert len(told[0]) > 5
    assert told[0] == told[1] == told[2]


def test_streams_beyond_a_thousand_are_forgotten_oldest_first():
    taken = StreamOffsets()
    taken.note(f"{number:016x}:{number}" for number in range(1200))
    assert list(taken.rows.values()) == list(range(200, 1200))


def test_what_was_promoted_by_rows_answers_at_once(tmp_path):
    settings = spec()
    with Loop(settings, tmp_path / "home") as loop:
        before = loop.predict({name: table(1)[name][0] for name in FIELDS})
        loop.run(read(table(3000), schema=settings.schema))
        after = loop.predict({name: table(1)[name][0] for name in FIELDS})
        assert before.version != after.version == loop.report()["champion"]


# Rows that the model cannot take: refused at the door, set aside in a file, and skipped where the log holds them


@pytest.mark.parametrize("mode", ["live", "gated"])
@pytest.mark.parametrize("name", MODELS)
def test_a_loop_refuses_it_at_the_door_and_goes_on(tmp_path: Path, name: str, mode: str) -> None:
    spec = {"mode": mode, "schema": SCHEMA, "model": MODELS[name]}
    with el.open(spec, home=tmp_path / "home") as loop:
        for row in rows(30):
            loop.learn({"tokens": row}, row[0] > 20)
        before = loop.log.count("example")
        with pytest.raises(InputError, match="tokens below the size|column 0 is 1.5, which uint8"):
            loop.learn({"tokens": BAD[name]}, True)
        assert loop.log.count("example") == before
        if name == "words":
            with pytest.raises(InputError):
                loop.predict({"tokens": BAD[name]})
        loop.learn({"tokens": rows(1)[0]}, True)
        assert loop.report()["examples"] == before + 1
    with el.open(spec, home=tmp_path / "home") as loop:
        assert loop.report()["examples"] == before + 1
        assert [one.action for one in loop.decisions() if one.action in ("rollback", "reject")] == []


@pytest.mark.parametrize("warm", [0, 20])
@pytest.mark.parametrize("name", MODELS)
def test_in_a_file_it_is_set_aside_with_its_number_and_reason(tmp_path: Path, name: str, warm: int) -> None:
    given = rows(60)
    clean = [row for i, row in enumerate(given) if i not in (10, 40)]
    given[10] = given[40] = BAD[name]
    spec = {"mode": "live", "schema": SCHEMA, "model": MODELS[name], "warm_start": warm}
    found = []
    for home, values in (("with", given), ("without", clean)):
        stream = el.read({"tokens": values, "y": [row[0] > 20 for row in values]}, schema=SCHEMA)
        with el.open(spec, home=tmp_path / home) as loop:
            loop.run(stream)
            found.append((copied(loop.fold.roster.champion.model.arrays), loop.report()["examples"]))
            aside = [(one.at, one.reason) for one in loop.rejected()]
            assert [at for at, _ in aside] == ([11, 41] if home == "with" else [])
            assert all("expected" in reason for _, reason in aside)
    (one, scored), (other, also) = found
    assert scored == also == 58 - warm
    assert all(one[key].tobytes() == other[key].tobytes() for key in one)


@pytest.mark.parametrize("name", MODELS)
def test_what_the_log_holds_already_is_passed_over(tmp_path: Path, name: str) -> None:
    """Whoever wrote it there did not ask the model: an older release, or a server with another champion."""
    settings = {"mode": "live", "schema": SCHEMA, "model": MODELS[name]}
    with el.open(settings, home=tmp_path / "home") as loop:
        for i, row in enumerate([*rows(20), BAD[name], *rows(20, seed=1)]):
            loop.log.append([Example(f"e{i}", {"tokens": row}, row[0] > 20)])
    with el.open(settings, home=tmp_path / "home") as loop:
        loop.ready()
        assert loop.report()["examples"] == 40
        assert loop.status()["unusable"] == 1


@pytest.mark.parametrize("delay", [None, 3])
@pytest.mark.parametrize("person", ["zoe", "7.0"])
def test_a_person_in_a_column_that_is_no_field_can_be_erased_from_the_rows_of_a_file(
    tmp_path: Path, delay: int | None, person: str
) -> None:
    path, home = tmp_path / "rows.csv", tmp_path / "home"
    lines = [f"{row / 7},{row % 2},{person if row % 5 == 0 else 'other'}\n" for row in range(40)]
    path.write_text("a,y,who\n" + "".join(lines))
    schema = Schema(label="y", task="binary", classes=(0, 1), fields={"a": "numeric"})
    settings = Spec(schema=schema, model={"family": "linear"}, subject="who")
    with Loop(settings, home) as loop:
        loop.run(str(path), delay=delay)
    gone = erase(home, settings, {"who": person}, "asked by mail").detail["events"]
    assert gone == ({"example": 8} if delay is None else {"label": 8, "prediction": 8})
    with Loop(settings, home) as loop:
        assert loop.run(str(path), delay=delay)["rows"] == 0
