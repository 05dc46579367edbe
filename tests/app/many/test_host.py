"""A host: it opens loops when they are needed, learns in turns, evicts them, and adopts what another one left."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from everlearn.app.many import host as host_module
from everlearn.events import SqliteLog, connect
from everlearn.loop.loop import Loop
from everlearn.records import Example, Label, Payload
from everlearn.spec import LogSpec
from tests.support import postgres
from tests.support.loop_folders import HostThread, folder_of, template
from tests.support.servers import check_learned, events_of, record, until

SETTINGS = template()


def examples(first: int, last: int) -> list[Payload]:
    return [Example(f"e{row}", record(row)[0], record(row)[1]) for row in range(first, last)]


def append(root: Path, name: str, payloads: list[Payload]) -> int:
    """Append to the log of a loop as a worker would; return the last position."""
    with SqliteLog(root / f"{name}.home" / "log.sqlite", tidy=False) as log:
        return log.append(payloads)[-1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "loops", SETTINGS)


def test_a_loop_is_opened_learns_what_comes_and_is_saved(root: Path, tmp_path: Path) -> None:
    with HostThread(root) as host:
        assert host.ask("open", "a").status == 404
        assert host.ask("create", "a").status == 201
        assert host.ask("create", "a").status == 200
        reader = host.reader("a")
        first = reader.current().champion.model.arrays["weights"].copy()
        end = append(root, "a", examples(0, 50))
        host.touch("a")
        until(lambda: reader.position() >= end)
        until(lambda: (reader.current().champion.model.arrays["weights"] != first).any())
    assert host.resident() == set()
    check_learned(root / "a.home", SETTINGS, tmp_path / "again")
    with Loop(SETTINGS, root / "a.home") as loop:
        assert loop.report()["examples"] == 50
        assert 0 < host.folder.summary("a").position <= loop.position
        assert host.folder.summary("a").version == loop.fold.roster.champion.version


@pytest.mark.slow
def test_the_bytes_are_those_of_a_loop_that_is_alone(root: Path, tmp_path: Path) -> None:
    """The same events in a loop without a host, evictions and turns: every array and decision is equal."""
    with HostThread(root, most=2) as host:
        for first in range(0, 900, 100):
            for name in ("a", "b", "c"):  # only two fit
                assert host.ask("create", name).status < 300
                append(root, name, examples(first, first + 100))
                host.touch(name)
    assert set(host.gone) >= {"a", "b"}
    for name in ("a", "b", "c"):
        got = check_learned(root / f"{name}.home", SETTINGS, tmp_path / name)
        assert got["header"]["learner"] is not None


def test_memory_is_bounded_and_the_least_recently_used_loop_goes_first(root: Path) -> None:
    with HostThread(root, most=3) as host:
        for name in ("a", "b", "c"):
            host.ask("create", name)
        until(lambda: host.ask("open", "a").status == 200)
        host.ask("create", "d")
        until(lambda: host.resident() == {"a", "c", "d"})
        assert host.gone == ["b"]
        assert host.ask("open", "b").status == 200
        until(lambda: host.resident() == {"a", "b", "d"})


def test_a_budget_of_bytes_evicts_as_well(root: Path) -> None:
    with HostThread(root, memory=1_000_000) as host:
        for number in range(12):
            assert host.ask("create", f"n{number}").status == 201
        until(lambda: 1 <= len(host.resident()) <= 4)


@pytest.mark.slow
def test_a_backlog_does_not_hold_up_other_loops(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "LAST", 0.0)
    with HostThread(root) as host:
        host.ask("create", "busy")
        host.ask("create", "calm")
        backlog, end = append(root, "busy", examples(0, 6_000)), append(root, "calm", examples(0, 3))
        busy, calm = host.reader("busy"), host.reader("calm")
        busy.current()
        calm.current()
        host.touch("busy", "calm")
        until(lambda: calm.position() >= end)
        assert busy.position() < backlog  # the other one had its turn long before the backlog was learned
    assert host.folder.summary("busy").behind
    assert not host.folder.summary("calm").behind
    with HostThread(root) as host:
        until(lambda: host.resident() == {"busy"})  # it goes on with what it had not learned
        reader = host.reader("busy")
        reader.current()
        before = reader.position()
        until(lambda: reader.position() > before)
        monkeypatch.setattr(host_module, "LAST", 60.0)
    assert not host.folder.summary("busy").behind


def test_events_that_nobody_reports_are_learned_too(root: Path) -> None:
    with HostThread(root) as host:
        host.ask("create", "a")
        reader = host.reader("a")
        reader.current()
        until(lambda: reader.staleness(0.0) == 0.0)  # of a moment long ago: it has been looked at
        end = append(root, "a", examples(0, 20))
        until(lambda: reader.position() >= end)


def test_what_another_process_left_unlearned_is_adopted(root: Path) -> None:
    with HostThread(root) as host:
        host.ask("create", "a")
        host.ask("create", "b")
    held = SqliteLog(root / "a.home" / "log.sqlite", tidy=False)  # open, as after the death of a worker
    end = held.append(examples(0, 30))[-1]
    with HostThread(root) as host:
        until(lambda: host.resident() == {"a"})
        reader = host.reader("a")
        until(lambda: reader.position() >= end)
        held.close()


def test_a_loop_that_fails_leaves_the_others_alone_and_is_tried_again(root: Path) -> None:
    with HostThread(root) as host:
        host.ask("create", "good")
        host.ask("create", "bad")
        bad = root / "bad.home"
        bad.rename(root / "away")  # the folder of a loop is gone while it is resident
        host.touch("bad")
        end = append(root, "good", examples(0, 20))
        host.touch("good")
        reader = host.reader("good")
        until(lambda: reader.position() >= end)
        until(lambda: host.ask("open", "bad").status in (404, 503))
        (root / "away").rename(bad)
        until(lambda: host.ask("open", "bad").status == 200)


def test_wrong_settings_are_reported_with_the_file_and_the_setting(root: Path) -> None:
    (root / "odd.toml").write_text(
        'mode = "lve"\n[schema]\nlabel = "y"\ntask = "regression"\nfields = {a = "numeric"}\n'
    )
    with HostThread(root) as host:
        reply = host.ask("open", "odd")
        assert reply.status == 422
        assert "odd.toml: mode: got 'lve'; expected 'live' or 'gated'" in reply.text


def test_a_served_label_of_an_unresident_loop_brings_it_back(root: Path) -> None:
    with HostThread(root, most=1) as host:
        host.ask("create", "a")
        host.ask("create", "b")
        until(lambda: host.resident() == {"b"})
        end = append(root, "a", [*examples(0, 3), Label("e0", 1)])
        host.touch("a")
        until(lambda: host.resident() == {"a"})
        reader = host.reader("a")
        until(lambda: reader.position() >= end)
    assert len(events_of(root / "a.home")) >= 4


@pytest.mark.slow
def test_loops_with_work_take_turns_in_a_memory_that_is_too_small(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "HOLD", 0.1)
    monkeypatch.setattr(host_module, "SUMMARIZE", 0.1)
    with HostThread(root, most=2) as host:
        ends = {}
        for name in ("a", "b", "c", "d"):
            assert host.ask("create", name).status == 201
            ends[name] = append(root, name, examples(0, 400))
        host.touch(*ends)
        until(lambda: {name for name in ends if host.folder.summary(name).position >= ends[name]} == {*ends})


@pytest.mark.slow
def test_logs_may_be_in_a_database(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="needs everlearn[postgres]")
    database = postgres.Server()
    try:
        root = folder_of(tmp_path / "loops", template(log=LogSpec(url=database.url)))
        with HostThread(root, most=2) as host:
            for name in ("a", "b", "c"):  # two fit, so one is evicted and its lease given up
                assert host.ask("create", name).status == 201
            for name in ("a", "b", "c"):
                url = host.folder.spec(name).log.url
                assert url.endswith(f"loop={name}")
                with closing(connect(url)) as log:
                    end = log.append(examples(0, 20))[-1]
                host.touch(name)
                until(lambda name=name, end=end: host.ask("open", name).status == 200 and reached(host, name, end))  # type: ignore[misc]
            assert not (root / "a.home" / "log.sqlite").exists()
        for name in ("a", "b", "c"):
            with Loop(host.folder.spec(name), host.folder.home(name)) as loop:
                assert loop.report()["examples"] == 20
    finally:
        database.stop()


def reached(host: HostThread, name: str, end: int) -> bool:
    reader = host.reader(name)
    reader.current()
    return reader.position() >= end
