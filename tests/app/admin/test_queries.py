"""Queries return what a real loop has written, page by page, and never more than a page."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import everlearn as el
from everlearn.app.admin import compare
from everlearn.app.admin import queries as module
from everlearn.app.admin.lifecycle import state
from everlearn.app.admin.queries import LogQueries
from everlearn.errors import InputError
from everlearn.events import KINDS
from everlearn.records import Label
from everlearn.spec import FeedbackSpec
from tests.support.admin import SPEC, grown


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loop that learned, promoted by itself and by hand, and rolled back; and predictions with their labels."""
    home = tmp_path_factory.mktemp("queries") / "home"
    grown(home)
    return home


@pytest.fixture
def queries(home: Path) -> Iterator[LogQueries]:
    queries = LogQueries(home)
    yield queries
    queries.close()


def test_versions_are_those_of_the_loop(queries, home):
    page = queries.version_page(0, 1000)
    with el.open(SPEC, home=home) as loop:
        assert [one.id for one in page.versions] == [one.id for one in loop.versions()]
        assert {one.id: one.aliases for one in page.versions if one.aliases} == loop.aliases()
    assert page.total == len(page.versions) > 1
    assert page.next is None
    assert all(one.kept for one in page.versions)
    assert page.versions[0].id in queries.versions.find("champion").parents or page.aliases["previous"]


def test_a_version_is_no_longer_kept_when_its_arrays_are_gone(queries, home):
    version = queries.versions.list()[-1]
    blob = home / "blobs" / f"{version.blob}.safetensors"
    content = blob.read_bytes()
    blob.unlink()
    try:
        assert queries.entry(version).kept is False
    finally:
        blob.write_bytes(content)
    assert queries.entry(version).kept is True


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("what", ["version_page", "decisions", "events"])
@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_pages_one_after_the_other_are_the_whole(queries, what, limit, newest):
    ask, position = getattr(queries, what), "born" if what == "version_page" else "position"
    found, after = [], 0
    while after is not None:
        page = ask(after, limit, newest=newest)
        entries = {"version_page": "versions"}.get(what, what)
        found += [getattr(one, position) for one in getattr(page, entries)]
        assert len(getattr(page, entries)) <= limit
        after = page.next
        if limit == 1 and len(found) > 20:
            return
    assert found == sorted(set(found), reverse=newest)
    expected = queries.end() if what == "events" else ask(0, 1).total
    assert len(found) == expected


def test_events_of_one_kind(queries, home):
    page = queries.events(0, 1000, ["prediction"])
    assert [one.payload.id for one in page.events] == [f"p{number}" for number in range(30)]
    assert queries.events(0, 5, ["prediction", "label"], newest=True).events[0].payload == Label("p0", 0)
    with pytest.raises(InputError, match="kind: got nonsense; expected one of"):
        queries.events(0, 10, ["nonsense"])


def test_a_page_ends_early_when_it_would_look_at_too_much(queries, monkeypatch):
    monkeypatch.setattr(module, "_SCANNED", 200)
    page = queries.events(0, 10, ["preference"])
    assert page.events == []
    assert page.next == 200
    monkeypatch.setattr(module, "_BYTES", 500)
    page = queries.events(0, 1000)
    assert 0 < len(page.events) < 20
    assert page.next == page.events[-1].position


@pytest.mark.parametrize("newest", [False, True])
def test_pages_beyond_the_end_are_found_at_once(queries, newest):
    page = queries.events((1 << 63) - 1, 3, newest=newest)
    assert [one.position for one in page.events] == ([page.end, page.end - 1, page.end - 2] if newest else [])
    every = queries.version_page(0, 1000).versions
    assert queries.version_page((1 << 63) - 1, 3, newest=newest).versions == every[:-4:-1] * newest


def test_events_about_an_id_are_bounded(queries, home, monkeypatch):
    monkeypatch.setattr(module, "_ABOUT", 2)
    assert [one.payload for one in queries.about("p0")][1:] == [Label("p0", 0)]


def test_decisions_carry_the_seals_of_the_log(queries, home):
    entries = queries.decisions(0, 1000).decisions
    with sqlite3.connect(home / "log.sqlite") as connection:
        assert [(one.position, one.seal) for one in entries] == connection.execute("SELECT * FROM seals").fetchall()
    assert {one.action for one in entries} >= {"start", "promote", "rollback"}
    assert queries.actions() == {
        action: sum(one.action == action for one in entries) for action in {one.action for one in entries}
    }
    assert queries.check().ok
    assert queries.chain().head == entries[-1].seal
    assert queries.chain().checked == queries.end()


def test_a_changed_decision_breaks_the_chain(home, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    with sqlite3.connect(home / "log.sqlite") as there, sqlite3.connect(copy / "log.sqlite") as here:
        there.backup(here)
        here.execute("DROP TRIGGER fixed")
        here.execute("UPDATE events SET payload = replace(payload, 'to try', 'not me') WHERE kind = 'decision'")
    queries = LogQueries(copy)
    tried = next(one for one in queries.decisions(0, 1000).decisions if one.reason == "not me")
    assert queries.check().broken == tried.position
    assert queries.chain().ok is False
    queries.close()


def test_the_archive_follows_a_log_that_grows(tmp_path):
    with el.open(SPEC, home=tmp_path / "home") as loop:
        loop.learn({"x": 1.0, "z": 0.0}, 1)
        queries = LogQueries(tmp_path / "home")
        before = queries.version_page(0, 10)
        loop.challenge("champion", "again")
        assert queries.decisions(0, 100).decisions[-1].reason == "again"
        assert queries.version_page(0, 10).total == before.total == 1
        assert queries.versions_behind() == 0
        queries.close()


def test_decisions_around_an_event(queries):
    entries = queries.decisions(0, 1000).decisions
    promoted = next(one for one in entries if one.reason == "to try")
    around = queries.around(promoted.position, promoted.position, margin=1)
    place = entries.index(promoted)
    assert around == entries[place - 1 : place + 2]
    assert queries.around(10**9, 10**9, margin=2) == entries[-2:]


def test_events_about_one_id(queries):
    events = queries.about("p0")
    assert [KINDS[type(one.payload)] for one in events] == ["prediction", "label", "label"]
    assert state(events, queries.end(), 0.0, FeedbackSpec())[0] == "corrected"
    assert queries.about("p99") == []


@given(st.lists(st.integers(1, 100), unique=True).map(sorted), st.integers(0, 110), st.integers(1, 20), st.booleans())
def test_a_page_is_a_slice(positions, after, limit, newest):
    found, more = module._page(array("q", positions), after, limit, newest)
    order = [one for one in reversed(positions) if not after or one < after] if newest else []
    order = order if newest else [one for one in positions if one > after]
    assert found == order[:limit]
    assert more == (len(order) > limit)


def test_what_a_loop_learned_moved_its_arrays(queries):
    first, champion = queries.versions.list()[0], queries.versions.find("champion")
    changes = {one.name: one for one in compare.arrays(queries.arrays(first), queries.arrays(champion))}
    a, b = queries.arrays(first), queries.arrays(champion)
    for name, change in changes.items():
        assert change.moved == pytest.approx(np.linalg.norm((b[name].astype(float) - a[name]).ravel()))
    assert any(change.moved for change in changes.values()) == (first.id != champion.id)
    assert all(one.moved == one.relative == 0 for one in compare.arrays(a, a))


def test_positions_of_versions_say_whether_they_are_rows_or_events(tmp_path):
    rows = el.read({"x": [1.0, 2.0] * 10, "z": [0.0] * 20, "y": [1, 0] * 10}, label="y")
    with el.open({**SPEC, "mode": "live", "tick": 10, "gate": {"minimum": 10}}, home=tmp_path / "home") as loop:
        loop.run(rows)
        for _ in range(7):
            loop.learn({"x": 1.0, "z": 0.0}, 1)
        loop.challenge({"family": "linear"}, "of events")
        queries = LogQueries(tmp_path / "home")
        found = [(entry.unit, entry.position) for entry in queries.version_page(0, 100).versions]
        order = loop.log.last("checkpoint").payload.at
        queries.close()
    assert found == [("row", 0), ("row", 10), ("event", order)]
