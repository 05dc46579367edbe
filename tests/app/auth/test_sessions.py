"""Sessions of dashboard pages."""

from __future__ import annotations

import pytest

from everlearn.app.auth import Access, create, revoke, tokens
from tests.support.auth import HOST, JSON, access, clock, path, refused

__all__ = ["clock", "path"]


def entered(door: Access, secret: str, *more: tuple[bytes, bytes]) -> tuple[list[tuple[bytes, bytes]], str, str]:
    """Headers of the page once it is in, its CSRF value, and the cookie as it was set."""
    session, cookie = door.login([HOST, JSON, *more], secret, "1.2.3.4")
    return [HOST, (b"cookie", cookie.partition(";")[0].encode())], session.csrf, cookie


def test_a_session_looks_and_an_admins_session_acts(path):
    read, admin = create(path, "r", ["read"], 1), create(path, "a", ["admin"], 1)
    door = access(path.parent, page=True)
    page, csrf, cookie = entered(door, read)
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert door.allow(page, "read", "GET", "") == "r"
    assert refused(door.allow, [*page, JSON, (b"x-csrf-token", csrf.encode())], "admin", "POST", "").status == 403
    page, csrf, _ = entered(door, admin)
    assert door.allow([*page, JSON, (b"x-csrf-token", csrf.encode())], "admin", "POST", "") == "a"
    assert door.session(page).scopes == tokens.SCOPES
    assert door.session([HOST]) is None


def test_a_session_changes_nothing_without_its_csrf_value(path):
    door = access(path.parent, page=True)
    secret = create(path, "a", ["admin"], 1)
    page, csrf, _ = entered(door, secret)
    other = entered(door, secret)[1]
    for value in (b"", b"x", other.encode(), csrf.encode()[:-1], b"\xff"):
        problem = refused(door.allow, [*page, JSON, (b"x-csrf-token", value)], "admin", "POST", "")
        assert (problem.status, problem.type) == (403, "csrf")
    assert refused(door.allow, [*page, JSON], "admin", "DELETE", "").status == 403
    foreign = [*page, JSON, (b"x-csrf-token", csrf.encode()), (b"sec-fetch-site", b"cross-site")]
    assert refused(door.allow, foreign, "admin", "POST", "").status == 403


def test_under_tls_the_cookie_is_secure_and_bound_to_the_host(path):
    secret = create(path, "a", ["read"], 1)
    door = access(path.parent, page=True, secure=True)
    page, _, cookie = entered(door, secret)
    assert cookie.startswith("__Host-everlearn=")
    assert "Secure" in cookie.split("; ")
    assert "Domain" not in cookie
    assert door.allow(page, "read", "GET", "") == "a"
    plain = [HOST, (page[1][0], page[1][1].replace(b"__Host-", b""))]
    assert refused(door.allow, plain, "read", "GET", "").status == 401  # an unencrypted page could have set that one
    behind = access(path.parent, page=True)
    assert entered(behind, secret, (b"origin", b"https://ml.example.com"))[2].startswith("__Host-")


def test_a_session_ends_with_its_token(path):
    secret = create(path, "a", ["read"], 1)
    door = access(path.parent, page=True)
    page, _, _ = entered(door, secret)
    revoke(path, "a")
    create(path, "a", ["read"], 1)  # the same name, another token
    assert door.session(page) is None
    assert refused(door.allow, page, "read", "GET", "").status == 401


@pytest.mark.parametrize(("days", "hours"), [(30, 12.1), (0.1, 2.5)], ids=["its time", "its token"])
def test_a_session_ends_in_time(path, clock, days, hours):
    secret = create(path, "a", ["read"], days)
    door = access(path.parent, page=True)
    page, _, _ = entered(door, secret)
    clock.pass_by(hours * 3600)
    assert refused(door.allow, page, "read", "GET", "").status == 401


def test_logging_out_ends_the_session(path):
    secret = create(path, "a", ["read"], 1)
    door = access(path.parent, page=True)
    page, _, _ = entered(door, secret)
    assert "Max-Age=0" in door.logout(page)
    assert refused(door.allow, page, "read", "GET", "").status == 401


def test_sessions_are_bounded_and_the_oldest_ends(path, monkeypatch):
    monkeypatch.setattr("everlearn.app.auth.sessions._MOST", 3)
    secret = create(path, "a", ["read"], 1)
    door = access(path.parent, page=True)
    pages = [entered(door, secret)[0] for _ in range(4)]
    assert [door.session(page) is not None for page in pages] == [False, True, True, True]


def test_logging_in_needs_the_scope_read(path):
    secret = create(path, "shop", ["predict"], 1)
    door = access(path.parent, page=True)
    assert refused(door.login, [HOST, JSON], secret, "1.2.3.4").status == 403
    assert refused(door.login, [HOST, JSON], "el_shop_00", "1.2.3.4").status == 401
    assert refused(door.login, [HOST], secret, "1.2.3.4").status == 403  # a form of another site
    assert refused(door.login, [(b"host", b"evil.com"), JSON], secret, "1.2.3.4").status == 421


def test_attempts_to_log_in_are_limited_for_each_address(path):
    secret = create(path, "a", ["read"], 1)
    door = access(path.parent, page=True)
    results = [refused(door.login, [HOST, JSON], "wrong", "1.2.3.4").status for _ in range(8)]
    assert results == [401] * 5 + [429] * 3
    assert refused(door.login, [HOST, JSON], secret, "1.2.3.4").status == 429
    assert door.login([HOST, JSON], secret, "5.6.7.8")[0].name == "a"


def test_workers_know_no_sessions(path):
    secret = create(path, "a", ["admin"], 1)
    page, _, _ = entered(access(path.parent, page=True), secret)
    assert refused(access(path.parent).allow, page, "read", "GET", "").status == 401


def test_on_an_open_server_the_page_needs_no_login(path):
    door = access(path.parent, page=True)
    session, cookie = door.login([HOST, JSON], "", "127.0.0.1")
    assert (session.open, cookie) == (True, "")
    assert door.session([HOST]).open
