"""Files with late labels: agreement with prequential evaluation, resumption, times of the file, and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import everlearn as el
from everlearn.errors import ConfigError, InputError
from everlearn.loop.label_schedule import LabelSchedule
from everlearn.loop.loop import Loop
from everlearn.records import Event, Label, Prediction
from everlearn.spec import DriftSpec, FeedbackSpec, ReplaySpec, Schema, Spec
from everlearn.stream import Stream, read
from tests.support.loops import bytes_of

START = 1_700_000_000


def table(rows: int) -> dict[str, Any]:
    """A steady stream, with the times of rows, and of labels about ten rows later."""
    draw = np.random.default_rng(3)
    a, b = draw.normal(size=(2, rows))
    label = (a + 0.5 * b + 0.5 * draw.normal(size=rows)) > 0
    at = START + 60 * np.arange(rows)
    return {"a": a, "b": b, "at": at, "known": at + draw.integers(300, 900, rows), "label": label.astype(int)}


def spec(**changes: Any) -> Spec:
    schema = Schema(label="label", task="binary", classes=(0, 1), fields={"a": "numeric", "b": "numeric"})
    plain = {"mode": "live", "drift": DriftSpec(reaction="note"), "replay": ReplaySpec(kind="none")}
    return Spec(schema=schema, model={"family": "linear"}, **(plain | changes))


def stream(columns: dict[str, Any]) -> Stream:
    return read(columns, schema=spec().schema)


def write(path: Path, columns: dict[str, Any], rows: int) -> None:
    lines = [",".join(str(values[row]) for values in columns.values()) for row in range(rows)]
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")


def answers(loop: Loop) -> list[Event]:
    return loop.log.read(0, 100_000, kinds=("prediction", "label"))


@pytest.mark.parametrize(("delay", "off"), [(5, 1e-6), (60, 0.02)])
def test_metrics_are_those_of_a_prequential_evaluation_with_the_same_delay(tmp_path, delay, off):
    rows = stream(table(600))
    with Loop(spec(), tmp_path / "home") as loop:
        measured = loop.run(rows, delay=delay)
    expected = el.prequential(el.build({"family": "linear"}), rows, delay=delay).metrics
    assert measured["examples"] == 600
    assert measured["waiting"] == 0
    for name in ("accuracy", "log_loss"):
        assert measured["metrics"]["champion"][name] == pytest.approx(expected[name], abs=off), name


def test_without_a_delay_metrics_are_those_of_a_plain_run(tmp_path):
    rows, measured = stream(table(300)), []
    for name, late in (("late", {"delay": 0}), ("plain", {})):
        with Loop(spec(warm_start=50), tmp_path / name) as loop:
            measured.append(loop.run(rows, **late))
    assert measured[0]["examples"] == measured[1]["examples"] == 250
    late, plain = (one["metrics"]["champion"] for one in measured)
    for name in ("accuracy", "log_loss"):
        assert late[name] == pytest.approx(plain[name], abs=1e-9)


def _stopped(closings: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> None:
    """Interrupt a replay after so many groups."""
    left, before = iter(range(closings)), LabelSchedule.close

    def close(self: LabelSchedule[Any], at: float) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return before(self, at)

    with monkeypatch.context() as patched:
        patched.setattr(LabelSchedule, "close", close)
        with pytest.raises(KeyboardInterrupt):
            run()


@pytest.mark.parametrize("late", [{"delay": 30}, {"label_time": "known", "row_time": "at"}])
def test_a_replay_goes_on_where_it_was_interrupted(tmp_path, late, monkeypatch):
    """The first replay is stopped between a group and its labels; what follows leaves the log of an undisturbed one."""
    columns, path = table(400), tmp_path / "rows.csv"
    write(path, columns, 400)
    logs, states = [], []
    for name, stop in (("whole", 0), ("cut", 40)):
        with Loop(spec(warm_start=40), tmp_path / name) as loop:
            if stop:
                _stopped(stop, monkeypatch, lambda loop=loop: loop.run(path, **late))
                assert 0 < loop.log.count("label") < 300
        with Loop(spec(warm_start=40), tmp_path / name) as loop:
            result = loop.run(path, **late)
            assert result["examples"] == 360
            assert (result["rows"] == 400) == (not stop)
            again = loop.run(path, **late)
            assert (again["rows"], again["examples"]) == (0, 360)
            logs.append([(event.payload.id, type(event.payload)) for event in answers(loop)])
            states.append(bytes_of(loop))
    assert logs[0] == logs[1]
    weights = [{name: array for name, array in state.items() if name.startswith("roster/")} for state in states]
    assert weights[0] == weights[1]


def test_labels_that_a_kill_left_out_come_once(tmp_path):
    """The log ends with a group whose labels were not written: the replay writes these, and no other twice."""
    columns = table(200)
    with Loop(spec(), tmp_path / "home") as loop:
        loop.run(stream(columns), delay=20)
        kept = answers(loop)
    last = max(number for number, event in enumerate(kept[:300]) if isinstance(event.payload, Prediction))
    with Loop(spec(), tmp_path / "cut") as loop:
        loop.ready()
        for event in kept[: last + 1]:
            loop._journal.take([event.payload])
        assert loop.log.count("label") < 200
        assert loop.run(stream(columns), delay=20)["examples"] == 200
        assert [event.payload.id for event in answers(loop)] == [event.payload.id for event in kept]


def test_events_have_the_times_of_the_file(tmp_path):
    columns = table(200)
    columns["known"] = [*columns["known"][:199].tolist(), None]  # the last label never comes
    with Loop(spec(), tmp_path / "home") as loop:
        assert loop.run(stream(columns), label_time="known", row_time="at")["examples"] == 199
        events = answers(loop)
        ids = {event.payload.id: event.time for event in events if isinstance(event.payload, Prediction)}
        assert list(ids.values()) == columns["at"].tolist()
        known = [event.time for event in events if isinstance(event.payload, Label)]
        assert sorted(known) == sorted(columns["known"][:199])
        latest = 0.0
        for event in events:  # no row was predicted long after the time of a label that had not come
            if isinstance(event.payload, Prediction):
                latest = event.time
            else:
                wait = event.time - ids[event.payload.id]
                assert latest <= event.time + wait / 10


def test_the_window_of_feedback_runs_by_the_times_of_the_file(tmp_path):
    columns = table(300)
    window = FeedbackSpec(window=600.0, default=0)
    with Loop(spec(feedback=window), tmp_path / "home") as loop:
        report = loop.run(stream(columns), label_time="known", row_time="at")
    late = int(np.sum(columns["known"] - columns["at"] > 660))  # a tenth late at most
    assert 0 < late <= report["labelling"]["default"]["rows"] <= int(np.sum(columns["known"] - columns["at"] > 540))


def test_a_file_may_grow_and_not_change_and_keeps_its_way(tmp_path):
    columns, path = table(300), tmp_path / "rows.csv"
    write(path, columns, 205)
    with Loop(spec(), tmp_path / "home") as loop:
        loop.run(path, delay=100)
        write(path, columns, 300)
        assert loop.run(path, delay=100)["rows"] == 95
        assert loop.report()["examples"] == 300
        with pytest.raises(InputError, match="give the same delay or label_time again"):
            loop.run(path)
        columns["a"][150] += 1.0
        columns["a"][204] += 1.0
        write(path, columns, 300)
        with pytest.raises(InputError, match="a file may grow, not change"):
            loop.run(path, delay=100)


def test_a_delay_goes_on_behind_rows_that_came_with_their_labels(tmp_path):
    columns, path = table(300), tmp_path / "rows.csv"
    write(path, columns, 200)
    with Loop(spec(), tmp_path / "home") as loop:
        loop.run(path)
        write(path, columns, 300)
        assert loop.run(path, delay=10)["rows"] == 100
        assert (loop.report()["examples"], loop.log.count("prediction")) == (300, 100)


def test_labels_wait_across_the_files_of_a_folder(tmp_path):
    columns = table(100)
    (tmp_path / "days").mkdir()
    for day in range(2):
        write(tmp_path / "days" / f"{day}.csv", {name: values[50 * day :] for name, values in columns.items()}, 50)
    with Loop(spec(), tmp_path / "home") as loop:
        loop.run(tmp_path / "days", delay=20)
        kinds = [isinstance(event.payload, Label) for event in answers(loop)]
        assert sum(kinds[:65]) <= 45  # the first file's labels do not all come at its end
        assert sum(kinds) == 100


def test_rejected_rows_are_logged_once(tmp_path):
    columns = table(100)
    columns["a"] = [*columns["a"][:50], "far", *columns["a"][51:]]
    columns["known"] = [*columns["known"][:70].tolist(), "soon", *columns["known"][71:].tolist()]
    late = {"label_time": "known", "row_time": "at"}
    with Loop(spec(), tmp_path / "home") as loop:
        for _ in range(2):
            assert loop.run(stream(columns), **late)["rejected"] == 2
        assert [row.reason.split(",")[0] for row in loop.rejected()] == [
            "field 'a': got 'far'",
            "time 'known': got 'soon'",
        ]


@pytest.mark.parametrize(
    ("late", "error", "words"),
    [
        ({"delay": -1}, ConfigError, "delay: got -1"),
        ({"delay": 1, "label_time": "known"}, ConfigError, "either a number of rows, or the columns"),
        ({"label_time": "a"}, ConfigError, "a field of the model"),
        ({"label_time": "label"}, ConfigError, "which is the label"),
        ({"label_time": "known"}, ConfigError, "name the column of their times as row_time"),
        ({"row_time": "at"}, ConfigError, "without label_time"),
        ({"label_time": "when", "row_time": "at"}, InputError, "has no column 'when'; it has a, b, at, known, label"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, late, error, words):
    with Loop(spec(), tmp_path / "home") as loop, pytest.raises(error, match=words):
        loop.run(stream(table(10)), **late)


@pytest.mark.parametrize("late", [{"delay": 5}, {"label_time": "known", "row_time": "at"}])
def test_names_are_counted_and_columns_of_times_are_known(tmp_path, late):
    columns = table(120)
    columns["b"] = [None, *columns["b"][1:].tolist()]
    columns["odd"] = columns.pop("b")
    columns["label"] = [*columns["label"][:119].tolist(), 7]  # a row that is rejected
    times = {} if "delay" in late else {"at", "known"}
    with Loop(spec(warm_start=20), tmp_path / "home") as loop:
        for _ in range(2):  # the second time, nothing is new
            report = loop.run(stream(columns), **late)
        names = set(report["fields"]["unknown"])
        assert names == ({"odd", "at", "known"} - set(times))
        assert report["fields"]["unknown"]["odd"]["rows"] == report["fields"]["missing"]["b"] == 120
    with Loop(spec(warm_start=20), tmp_path / "home") as loop:
        assert loop.run(stream(columns), **late)["fields"] == {"unknown": {}, "missing": {}}


def test_a_strict_loop_knows_the_columns_of_times(tmp_path):
    columns = table(60)
    with Loop(spec(strict=True), tmp_path / "home") as loop:
        assert loop.run(stream(columns), label_time="known", row_time="at")["rows"] == 60
        with pytest.raises(InputError, match="got the name 'at', which no field has"):
            loop.run(stream(table(90)), delay=3)
