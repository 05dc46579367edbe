"""The index of a brokered log, without a broker: numbers, keys, counts, and files that cannot be used."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.errors import LogError
from everlearn.events import KINDS, key, row
from everlearn.records import Decision, Example, Label, Payload, Reward
from everlearn.scale import index
from everlearn.scale.broker import Contents, EventCount
from everlearn.scale.index import Cursor, LocalIndex, Numbered


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[LocalIndex]:
    made = LocalIndex(tmp_path / "home" / "index.sqlite")
    yield made
    made.close()


def message(sequence: int, *payloads: Payload, counted: EventCount | None = None) -> Numbered:
    return Numbered(sequence, b"%d" % sequence, Contents([row(one, 1.0) for one in payloads], counted))


def added(held: LocalIndex, messages: Sequence[Numbered]) -> None:
    held.add(messages, lambda cursor: None)


few = st.sampled_from("abcd")
payloads: st.SearchStrategy[Payload] = st.one_of(
    st.builds(Label, few, st.integers(0, 2)),
    st.builds(Reward, few, st.sampled_from([0.0, 0.5])),
    st.builds(Example, few, st.just({"x": 0.5}), st.just(True)),
    st.builds(Decision, st.just("drift"), st.integers(0, 3), st.just("why"), st.just("drift")),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(payloads, max_size=6), max_size=12), st.data())
def test_it_numbers_first_keys_however_the_messages_were_cut(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[Payload]], data: st.DataObject
) -> None:
    messages = [message(number, *group) for number, group in enumerate(groups, 1)]
    firsts: dict[str, tuple[int, int]] = {}
    for one in messages:
        for place, (_, _, name, _) in enumerate(one.contents.rows):
            firsts.setdefault(name, (one.sequence, place))
    with closing(LocalIndex(tmp_path_factory.mktemp("index") / "index.sqlite")) as held:
        start = 0
        while start < len(messages):
            stop = data.draw(st.integers(start + 1, len(messages)))
            added(held, messages[max(0, start - 1) : stop])  # the one before is known
            start = stop
        places = held.after(0, 1000)
        assert [place.position for place in places] == list(range(1, len(firsts) + 1))
        assert [(place.sequence, place.place) for place in places] == list(firsts.values())
        assert held.cursor()[:2] == (len(messages), len(firsts))
        assert {name: (place.sequence, place.place) for name, place in held.find(firsts).items()} == firsts
        for kind in KINDS.values():
            mine = [at for at, name in enumerate(firsts, 1) if name.startswith(f"{kind}:")]
            last = held.last(kind)
            assert (held.count(kind), last and last.position) == (len(mine), mine[-1] if mine else None)
            assert [place.position for place in held.after(0, 1000, [kind])] == mine
        for id in "abcd":
            about = [
                at
                for at, name in enumerate(firsts, 1)
                if name.startswith((f"example:{id}", f"label:{id}:", f"reward:{id}:"))
            ]
            assert [place.position for place in held.about(id)] == about


def test_every_kind_of_event_has_a_number() -> None:
    assert set(index.KINDS) == set(KINDS.values())


def test_what_another_process_added_is_passed_over(opened: LocalIndex) -> None:
    cursors: list[Cursor] = []
    messages = [message(1, Label("a", 1)), message(2, Label("a", 1), Label("b", 1)), message(3, Label("c", 1))]
    with closing(LocalIndex(opened.path)) as other:
        added(other, messages[:2])
        opened.add(messages, cursors.append)
        assert [cursor[:2] for cursor in cursors] == [(2, 2)]
        opened.add(messages, cursors.append)
        assert len(cursors) == 1
        assert other.cursor() == opened.cursor() == (3, 3, index.digest(b"3"))


def test_another_count_than_that_of_the_writer_adds_nothing(opened: LocalIndex) -> None:
    first = [message(1, Label("a", 1)), message(2, Label("b", 1)), message(3, Label("a", 1), counted=EventCount(2, 2))]
    added(opened, [*first, message(4, Label("c", 1), counted=EventCount(1, 1))])
    before = opened.cursor()
    with pytest.raises(LogError, match="has 2 events up to message 3, and the process that wrote message 5 had 4"):
        added(opened, [message(5, Label("d", 1), counted=EventCount(3, 4))])
    assert opened.cursor() == before


def test_it_holds_no_content(opened: LocalIndex) -> None:
    added(opened, [message(1, Example("Ms-Secret", {"name": "Ms-Secret"}, True), Label("Ms-Secret", 1))])
    opened.close()
    files = [*opened.path.parent.iterdir()]
    assert opened.path in files
    assert all(b"Ms-Secret" not in one.read_bytes() for one in files)
    assert key(Label("Ms-Secret", 1)).startswith("label:Ms-Secret:")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    LocalIndex(path).close()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE cursor SET format = 99")
    with pytest.raises(LogError, match="has format 99; expected 1. Delete it: it is made again"):
        LocalIndex(path)
    path.write_bytes(b"no database at all, but longer than a header of SQLite would be" * 20)
    with pytest.raises(LogError, match="could not be opened.*or delete the index: it is made again"):
        LocalIndex(path)
    assert (tmp_path / "index.sqlite").stat().st_mode & 0o077 == 0
