"""The archive shows what a real loop has written, page by page, and never more than a page."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import everlearn as el
from everlearn.app.admin import compare
from everlearn.app.admin import queries as module
from everlearn.app.admin.lifecycle import told
from everlearn.app.admin.queries import Archive
from everlearn.errors import InputError
from everlearn.events import KINDS
from everlearn.records import Event, Example, Label, Prediction, Version
from everlearn.spec import FeedbackSpec
from everlearn.version.registry import related

SPEC = {
    "schema": {"label": "y", "task": "binary", "classes": [0, 1], "fields": {"x": "numeric", "z": "numeric"}},
    "gate": {"minimum": 100},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loop that learned, promoted by itself and by hand, and rolled back; and some predictions with their labels."""
    home = tmp_path_factory.mktemp("archive") / "home"
    draw = random.Random(1)
    with el.open(SPEC, home=home) as loop:
        for _ in range(1500):
            x, z = draw.gauss(0, 1), draw.gauss(0, 1)
            loop.learn({"x": x, "z": z}, int(x + z > 0))
        first = loop.versions()[0].id
        loop.promote(first, "to try")
        loop.rollback("tried")
        for number in range(30):
            loop.predict({"x": number / 10, "z": 0.0}, id=f"p{number}")
        for number in range(0, 30, 3):
            loop.feedback(f"p{number}", label=1)
        loop.feedback("p0", label=0)
    return home


@pytest.fixture
def archive(home: Path):
    archive = Archive(home)
    yield archive
    archive.close()


def test_versions_are_those_of_the_loop(archive, home):
    page = archive.listed(0, 1000)
    with el.open(SPEC, home=home) as loop:
        assert [one.id for one in page.versions] == [one.id for one in loop.versions()]
        assert {one.id: one.aliases for one in page.versions if one.aliases} == loop.aliases()
    assert page.total == len(page.versions) > 1
    assert page.next is None
    assert all(one.kept for one in page.versions)
    assert page.versions[0].id in archive.versions.find("champion").parents or page.aliases["previous"]


def test_a_version_is_no_longer_kept_when_its_arrays_are_gone(archive, home):
    version = archive.versions.list()[-1]
    blob = home / "blobs" / f"{version.blob}.safetensors"
    content = blob.read_bytes()
    blob.unlink()
    try:
        assert archive.entry(version).kept is False
    finally:
        blob.write_bytes(content)
    assert archive.entry(version).kept is True


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("what", ["listed", "decisions", "events"])
@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_pages_one_after_the_other_are_the_whole(archive, what, limit, newest):
    ask, position = getattr(archive, what), "born" if what == "listed" else "position"
    found, after = [], 0
    while after is not None:
        page = ask(after, limit, newest=newest)
        entries = {"listed": "versions"}.get(what, what)
        found += [getattr(one, position) for one in getattr(page, entries)]
        assert len(getattr(page, entries)) <= limit
        after = page.next
        if limit == 1 and len(found) > 20:
            return
    assert found == sorted(set(found), reverse=newest)
    expected = archive.end() if what == "events" else ask(0, 1).total
    assert len(found) == expected


def test_events_of_one_kind(archive, home):
    page = archive.events(0, 1000, ["prediction"])
    assert [one.payload.id for one in page.events] == [f"p{number}" for number in range(30)]
    assert archive.events(0, 5, ["prediction", "label"], newest=True).events[0].payload == Label("p0", 0)
    with pytest.raises(InputError, match="kind: got nonsense; expected one of"):
        archive.events(0, 10, ["nonsense"])


def test_a_page_ends_early_when_it_would_look_at_too_much(archive, monkeypatch):
    monkeypatch.setattr(module, "_WALKED", 200)
    page = archive.events(0, 10, ["preference"])
    assert page.events == []
    assert page.next == 200
    monkeypatch.setattr(module, "_BYTES", 500)
    page = archive.events(0, 1000)
    assert 0 < len(page.events) < 20
    assert page.next == page.events[-1].position


@pytest.mark.parametrize("newest", [False, True])
def test_pages_beyond_the_end_are_found_at_once(archive, newest):
    page = archive.events((1 << 63) - 1, 3, newest=newest)
    assert [one.position for one in page.events] == ([page.end, page.end - 1, page.end - 2] if newest else [])
    assert archive.listed((1 << 63) - 1, 3, newest=newest).versions == (archive.listed(0, 3).versions[::-1] * newest)


def test_no_id_tells_more_than_fits(archive, home, monkeypatch):
    monkeypatch.setattr(module, "_TOLD", 2)
    assert [one.payload for one in archive.about("p0")][1:] == [Label("p0", 0)]


def test_decisions_carry_the_seals_of_the_log(archive, home):
    entries = archive.decisions(0, 1000).decisions
    with sqlite3.connect(home / "log.sqlite") as connection:
        assert [(one.position, one.seal) for one in entries] == connection.execute("SELECT * FROM seals").fetchall()
    assert {one.action for one in entries} >= {"start", "promote", "rollback"}
    assert archive.actions() == {
        action: sum(one.action == action for one in entries) for action in {one.action for one in entries}
    }
    assert archive.check().ok
    assert archive.chain().head == entries[-1].seal
    assert archive.chain().checked == archive.end()


def test_a_changed_decision_breaks_the_chain(home, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    with sqlite3.connect(home / "log.sqlite") as there, sqlite3.connect(copy / "log.sqlite") as here:
        there.backup(here)
        here.execute("DROP TRIGGER fixed")
        here.execute("UPDATE events SET payload = replace(payload, 'to try', 'not me') WHERE kind = 'decision'")
    archive = Archive(copy)
    tried = next(one for one in archive.decisions(0, 1000).decisions if one.reason == "not me")
    assert archive.check().broken == tried.position
    assert archive.chain().ok is False
    archive.close()


def test_the_archive_follows_a_log_that_grows(tmp_path):
    with el.open(SPEC, home=tmp_path / "home") as loop:
        loop.learn({"x": 1.0, "z": 0.0}, 1)
        archive = Archive(tmp_path / "home")
        before = archive.listed(0, 10)
        loop.challenge("champion", "again")
        assert archive.decisions(0, 100).decisions[-1].reason == "again"
        assert archive.listed(0, 10).total == before.total == 1
        assert archive.behind() == 0
        archive.close()


def test_decisions_around_an_event(archive):
    entries = archive.decisions(0, 1000).decisions
    promoted = next(one for one in entries if one.reason == "to try")
    around = archive.around(promoted.position, promoted.position, margin=1)
    place = entries.index(promoted)
    assert around == entries[place - 1 : place + 2]
    assert archive.around(10**9, 10**9, margin=2) == entries[-2:]


def test_all_about_one_id(archive):
    events = archive.about("p0")
    assert [KINDS[type(one.payload)] for one in events] == ["prediction", "label", "label"]
    assert told(events, archive.end(), 0.0, FeedbackSpec())[0] == "learned"
    assert archive.about("p99") == []


PREDICTED = Event(10, 100.0, Prediction("a", {"x": 1.0}, 1, (0.2, 0.8), "f00"))


@pytest.mark.parametrize(
    ("events", "now", "spec", "state", "words"),
    [
        ([PREDICTED], 160.0, FeedbackSpec(), "waiting", "60 seconds, and may for ever"),
        ([PREDICTED], 160.0, FeedbackSpec(window=100), "waiting", "60 of 100 seconds"),
        ([PREDICTED], 260.0, FeedbackSpec(window=100), "overdue", "will be dropped"),
        ([PREDICTED], 260.0, FeedbackSpec(window=100, default=0), "overdue", "label 0 with the next event"),
        ([PREDICTED, Event(11, 130.0, Label("a", 1))], 200.0, FeedbackSpec(), "learned", "30.0 seconds after"),
        ([Event(9, 90.0, Label("a", 1)), PREDICTED], 200.0, FeedbackSpec(early=20), "learned", "10.0 seconds before"),
        ([Event(9, 90.0, Label("a", 1))], 95.0, FeedbackSpec(early=20), "early", "kept for 20 seconds"),
        ([PREDICTED, Event(21, 130.0, Label("a", 1))], 200.0, FeedbackSpec(), "queued", "1 events before"),
        ([Event(3, 9.0, Example("e", {"x": 1.0}, 1))], 10.0, FeedbackSpec(), "learned", "came with its label"),
    ],
)  # fmt: skip
def test_what_became_of_it(events, now, spec, state, words):
    got, explanation = told(events, 20, now, spec)
    assert got == state
    assert words in explanation


@pytest.mark.parametrize(
    ("judged", "spec", "seen", "state", "words"),
    [
        ([], {"default": 0}, 200.0, "overdue", "learned as 0"),
        ([], {"default": 0}, 199.0, "overdue", "with the next event"),
        ([], {}, 200.0, "overdue", "was dropped"),
        ([Event(12, 230.0, Label("a", 1))], {"default": 0}, 210.0, "learned", "learned as 0, the default label; its"),
        ([Event(12, 230.0, Label("a", 1))], {"default": 0}, 210.0, "learned", "as a correction"),
        ([Event(12, 230.0, Label("a", 1))], {"default": 0}, 110.0, "learned", "its feedback came 130.0 seconds"),
        ([Event(12, 230.0, Label("a", 1))], {"correction": "ignore"}, 210.0, "overdue", "only kept in the log"),
    ],
)
def test_what_a_learner_did_that_waited_in_vain(judged, spec, seen, state, words):
    """A default is applied when an event shows that the time is over; a label after that is a correction."""
    got, explanation = told([PREDICTED, *judged], 20, 300.0, FeedbackSpec(window=100, **spec), (), seen)
    assert got == state
    assert words in explanation


def test_a_label_that_was_set_aside():
    events = [PREDICTED, Event(11, 130.0, Label("a", 1))]
    assert told(events, 20, 200.0, FeedbackSpec(), {11})[0] == "quarantined"
    assert told(events, 20, 200.0, FeedbackSpec(), {12})[0] == "learned"


@given(st.lists(st.integers(1, 100), unique=True).map(sorted), st.integers(0, 110), st.integers(1, 20), st.booleans())
def test_a_stretch_is_a_slice(positions, after, limit, newest):
    from array import array

    found, more = module._stretch(array("q", positions), after, limit, newest)
    order = [one for one in reversed(positions) if not after or one < after] if newest else []
    order = order if newest else [one for one in positions if one > after]
    assert found == order[:limit]
    assert more == (len(order) > limit)


def version(id: str, *parents: str) -> Version:
    return Version(id, parents, 0, "", {}, {}, "")


def test_lineage():
    """a - b - c - e
    \\- d -/     , and f of nobody"""
    family = [version("a"), version("b", "a"), version("d", "a"), version("c", "b", "d"), version("e", "c")]
    versions = {one.id: one for one in [*family, version("f")]}
    assert related(versions, "b", "d") == ("a", 2)
    assert related(versions, "e", "d") == ("d", 2)
    assert related(versions, "e", "e") == ("e", 0)
    assert related(versions, "e", "f") == (None, None)


def test_arrays_that_cannot_be_compared():
    changes = compare.moved(
        {"gone": np.zeros(2), "reshaped": np.zeros(2), "zero": np.zeros(2), "big": np.array([1e308, 1e308])},
        {"new": np.zeros(3), "reshaped": np.zeros(3), "zero": np.ones(2), "big": np.array([-1e308, 1e308])},
    )
    found = {one.name: (one.norm, one.moved, one.relative) for one in changes}
    assert found["gone"] == found["new"] == found["reshaped"] == (None, None, None)
    assert found["zero"] == (0.0, pytest.approx(2**0.5), None)
    assert found["big"][2] is None or np.isfinite(found["big"][2])


def test_what_a_loop_learned_moved_its_arrays(archive):
    first, champion = archive.versions.list()[0], archive.versions.find("champion")
    changes = {one.name: one for one in compare.moved(archive.arrays(first), archive.arrays(champion))}
    a, b = archive.arrays(first), archive.arrays(champion)
    for name, change in changes.items():
        assert change.moved == pytest.approx(np.linalg.norm((b[name].astype(float) - a[name]).ravel()))
    assert any(change.moved for change in changes.values()) == (first.id != champion.id)
    assert all(one.moved == one.relative == 0 for one in compare.moved(a, a))
