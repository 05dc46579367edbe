"""Keys of subjects in a file and in a database: made once, found by subject and by handle, and destroyed for ever."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from everlearn.errors import ConfigError, LogError, UnknownId

pytest.importorskip("cryptography", reason="needs everlearn[keys]")

from everlearn.scale import keys as keys_module
from everlearn.scale.keys import MASTER, Keys, KeyStore
from everlearn.scale.sqlite_keys import SqliteKeys

Opens = Callable[[], KeyStore]


@pytest.fixture(params=["sqlite", "postgresql"])
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    """A function that opens the same store again and again."""
    opened: list[KeyStore] = []

    def sqlite() -> KeyStore:
        opened.append(SqliteKeys(tmp_path / "keys.sqlite"))
        return opened[-1]

    def postgres() -> KeyStore:
        from everlearn.scale.postgres import place_of
        from everlearn.scale.postgres_keys import PostgresKeys

        opened.append(PostgresKeys(*place_of(url)))
        return opened[-1]

    url = request.getfixturevalue("url") if request.param == "postgresql" else ""
    yield postgres if url else sqlite
    for store in opened:
        store.close()


def test_a_subject_has_one_key_in_every_process(opens: Opens) -> None:
    one, two = Keys(opens()), Keys(opens())
    made = one.of_subjects(["a", "b", "a"])
    assert made["a"].handle != made["b"].handle
    found = two.of_subjects(["b", "a", "c"])
    assert [found[name].handle for name in "ab"] == [made[name].handle for name in "ab"]
    assert two.of_handles([made["a"].handle])[made["a"].handle].decrypt(made["a"].encrypt("x", "label"), "label") == "x"
    assert one.existing(["c", "d"]).keys() == {"c"}


def test_a_key_that_is_destroyed_before_its_first_use_is_replaced(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = opens(), Keys(opens())
    add, gone = store.add, list[str]()

    def raced(keys: Sequence[tuple[bytes, str, bytes]], at: float) -> None:
        add(keys, at)
        if not gone:
            gone.append(keys[0][1])
            other.destroy(gone)

    monkeypatch.setattr(store, "add", raced)
    made = Keys(store).of_subjects(["a"])["a"]
    assert gone != [made.handle]
    assert made.decrypt(made.encrypt("x", "label"), "label") == "x"


def test_two_writers_that_make_the_same_keys_agree(opens: Opens) -> None:
    several, found = [Keys(opens()) for _ in range(3)], []
    names = [f"subject {number}" for number in range(60)]

    def make(mine: Keys) -> None:
        for start in range(0, 60, 7):
            mine.of_subjects(names[start : start + 20])
        found.append({name: key.handle for name, key in mine.of_subjects(names).items()})

    threads = [threading.Thread(target=make, args=(mine,)) for mine in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert found[0] == found[1] == found[2]


def test_a_destroyed_key_stays_destroyed_and_its_subject_may_come_back(opens: Opens) -> None:
    one, two = Keys(opens()), Keys(opens())
    gone, kept = (one.of_subjects(["a", "b"])[name].handle for name in "ab")
    two.of_handles([gone])
    one.destroy([gone, "never seen"])
    one.destroy([gone])
    assert one.destroyed == 2
    assert one.of_handles([gone, kept])[gone] is None
    assert one.of_subjects(["a"])["a"].handle not in (gone, kept)
    again = Keys(opens())
    assert again.of_handles([gone, "never seen"]) == {gone: None, "never seen": None}
    assert again.of_subjects(["b"])["b"].handle == kept


def test_another_process_forgets_a_destroyed_key(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "LOOK", 0.0)
    one, two = Keys(opens()), Keys(opens())
    handle = two.of_subjects(["a"])["a"].handle
    one.destroy([handle])
    assert two.of_handles([handle]) == {handle: None}
    assert two.of_subjects(["a"])["a"].handle != handle


def test_an_unknown_handle_is_refused(opens: Opens) -> None:
    with pytest.raises(UnknownId, match="got 'nothing'; expected the handle of a key"):
        Keys(opens()).of_handles(["nothing"])


def test_memory_is_bounded(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "MOST", 10)
    keys = Keys(opens())
    names = [str(number) for number in range(25)]
    handles = {name: key.handle for name, key in keys.of_subjects(names).items()}
    assert len(handles) == 25
    assert len(keys._by_handle) == len(keys._by_subject) == 10
    assert {name: key.handle for name, key in keys.of_subjects(names).items()} == handles
    assert keys.of_handles(handles.values()).keys() == set(handles.values())


def test_a_master_key_encrypts_the_store(opens: Opens) -> None:
    master, other = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    key = Keys(opens(), master).of_subjects(["a"])["a"]
    cipher = key.encrypt("secret", "label")
    assert Keys(opens(), master).of_subjects(["a"])["a"].decrypt(cipher, "label") == "secret"
    with pytest.raises(ConfigError, match=f"holds keys that are encrypted; set {MASTER}"):
        Keys(opens()).of_handles([key.handle])
    with pytest.raises(ConfigError, match="got another key than"):
        Keys(opens(), other).of_subjects(["a"])
    plain = Keys(opens()).of_subjects(["b"])["b"].handle  # made before there was a master key
    assert Keys(opens(), master).of_subjects(["b"])["b"].handle == plain


@pytest.mark.parametrize("text", ["short", base64.b64encode(b"x" * 31).decode(), "=" * 44])
def test_a_bad_master_key(text: str, tmp_path: Path) -> None:
    store = SqliteKeys(tmp_path / "keys.sqlite")
    with pytest.raises(ConfigError, match=f"{MASTER}: got {len(text)} characters; expected 32 bytes as base64"):
        Keys(store, text)
    store.close()


def test_equal_payloads_have_equal_ciphertexts_and_nothing_else_has(tmp_path: Path) -> None:
    store = SqliteKeys(tmp_path / "keys.sqlite")
    key, other = Keys(store).of_subjects(["a", "b"]).values()
    cipher = key.encrypt("text", "label")
    assert cipher == key.encrypt("text", "label")
    assert (
        len({cipher, key.encrypt("text", "reward"), key.encrypt("tex", "label"), other.encrypt("text", "label")}) == 4
    )
    for changed, kind in ((cipher[:-1] + bytes([cipher[-1] ^ 1]), "label"), (cipher, "reward")):
        with pytest.raises(LogError, match="was changed; put back a copy of the log"):
            key.decrypt(changed, kind)
    assert key.digest("x", 24) == key.digest("x", 24) != other.digest("x", 24)
    assert len(key.digest("x", 24)) == 24
    store.close()


def test_the_bytes_of_a_destroyed_key_leave_the_file(tmp_path: Path) -> None:
    store = SqliteKeys(tmp_path / "keys.sqlite")
    keys = Keys(store)
    handle = keys.of_subjects(["a", *map(str, range(50))])["a"].handle
    ((_, secret),) = store.held([handle])
    assert secret is not None
    keys.destroy([handle])
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert files
    assert all(secret[1:40] not in path.read_bytes() for path in files)
    store.close()


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "keys.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (x)")
    with pytest.raises(LogError, match="is the database of another program"):
        SqliteKeys(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(LogError, match="could not be opened"):
        SqliteKeys(tmp_path / "folder")
