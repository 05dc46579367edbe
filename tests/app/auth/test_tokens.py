"""Tokens at rest: hashes in a file that only its owner may write."""

from __future__ import annotations

import multiprocessing
import stat

import msgspec
import pytest

from everlearn.app.auth import create, listed, revoke, tokens
from everlearn.errors import ConfigError
from tests.support.auth import HOST, access, bearer, path, refused

__all__ = ["path"]


def test_the_file_holds_hashes_for_its_owner_alone(path):
    secret = create(path, "shop", ["predict", "feedback"], 30)
    text = path.read_text()
    assert secret.startswith("el_shop_")
    assert len(bytes.fromhex(secret.rpartition("_")[2])) == 32  # 256 bits
    assert secret not in text
    assert secret.rpartition("_")[2] not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["tokens.json"]


def test_two_tokens_differ_and_are_listed_without_hashes(path):
    first, second = create(path, "a", ["read"], 1), create(path, "b", ["admin"], 1)
    assert first.rpartition("_")[2] != second.rpartition("_")[2]
    assert [(one.name, one.scopes, one.expired) for one in listed(path)] == [
        ("a", ("read",), False),
        ("b", ("admin",), False),
    ]
    assert b"digest" not in msgspec.json.encode(listed(path))


@pytest.mark.parametrize("name", ["", "a_b", "-a", "a b", "é", "x" * 41, "../x"])
def test_a_name_must_be_plain(path, name):
    with pytest.raises(ConfigError, match="the name of a token"):
        create(path, name, ["read"], 1)


@pytest.mark.parametrize("scopes", [[], ["root"], ["read", "Admin"]])
def test_scopes_must_be_known(path, scopes):
    with pytest.raises(ConfigError, match="expected predict, feedback, read, admin"):
        create(path, "a", scopes, 1)


@pytest.mark.parametrize("days", [0, -1, float("nan"), float("inf"), 4000])
def test_days_must_be_in_range(path, days):
    with pytest.raises(ConfigError, match="days"):
        create(path, "a", ["read"], days)


def test_a_name_is_unique(path):
    create(path, "a", ["read"], 1)
    with pytest.raises(ConfigError, match="token revoke a"):
        create(path, "a", ["read"], 1)
    revoke(path, "a")
    with pytest.raises(ConfigError, match="no token 'a'"):
        revoke(path, "a")
    assert path.exists()


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', '{"format": 1, "tokens": [{"name": "a"}]}'])
def test_a_damaged_file_does_not_open_the_server(path, text):
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="cannot be read"):
        tokens.read(path)
    assert refused(access(path.parent).allow, [HOST], "read", "GET", "").status == 401


def test_a_file_that_others_may_write_is_not_trusted(path):
    secret = create(path, "a", ["admin"], 1)
    path.chmod(0o660)
    with pytest.raises(ConfigError, match="chmod 600"):
        tokens.read(path)
    assert refused(access(path.parent).allow, bearer(secret), "read", "GET", "").status == 401


def _make(path, number):
    create(path, f"t{number}", ["read"], 1)


def test_commands_at_once_lose_nothing(path):
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_make, args=(path, number)) for number in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert sorted(one.name for one in listed(path)) == ["t0", "t1", "t2", "t3"]


def test_every_comparison_is_of_whole_hashes(path, monkeypatch):
    compared = []
    monkeypatch.setattr(tokens.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    secret = create(path, "a", ["read"], 1)
    known = tokens.read(path)
    assert tokens.match(known, secret) is known["a"]
    for wrong in (secret[:-1] + "g", "el_b_00", "", "el__", "nonsense", secret + "0", "xl" + secret[2:]):
        assert tokens.match(known, wrong) is None
    assert len(compared) == 8  # one comparison each, also where no token has the name
    assert all(len(a) == len(b) == 64 for a, b in compared)


def test_an_unknown_scope_is_refused_with_the_nearest_known_one(path):
    with pytest.raises(ConfigError, match=r"got reed; expected .*; did you mean 'read'\?"):
        create(path, "a", ["reed"], 1)
