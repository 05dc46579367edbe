"""Access control: tokens and scopes, host names, pages of other sites, rates, and where a server may listen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.app.auth import Buckets, check_bind, create, revoke, tokens
from everlearn.errors import ConfigError
from tests.support.auth import HOST, JSON, access, bearer, clock, path, refused, setup

__all__ = ["clock", "path"]


def test_a_token_has_its_scopes_and_admin_has_all(path):
    secret, admin = create(path, "shop", ["predict"], 1), create(path, "boss", ["admin"], 1)
    door = access(path.parent)
    assert door.allow(bearer(secret), "predict", "POST", "1.2.3.4") == "shop"
    for scope in ("feedback", "read", "admin"):
        problem = refused(door.allow, bearer(secret), scope, "POST", "1.2.3.4")
        assert (problem.status, problem.members["expected"]) == (403, scope)
    for scope in tokens.SCOPES:
        assert door.allow(bearer(admin), scope, "POST", "1.2.3.4") == "boss"


def test_without_a_good_token_the_answer_is_401(path):
    secret = create(path, "shop", ["admin"], 1)
    door = access(path.parent)
    wrong = ["", "Bearer", "Bearer ", f"Basic {secret}", f"Bearer {secret}x", "Bearer el_shop_00", "Bearer \xff"]
    details = set()
    for value in wrong:
        problem = refused(door.allow, [HOST, (b"authorization", value.encode("latin-1"))], "read", "GET", "")
        assert problem.status == 401
        assert problem.headers[0][0] == b"www-authenticate"
        details.add(problem.detail)
    assert len(details) == 1  # the replies do not show which names exist
    assert refused(door.allow, [HOST], "read", "GET", "").status == 401
    assert door.allow([HOST, (b"authorization", f"bearer  {secret} ".encode())], "read", "GET", "") == "shop"


def test_a_token_ends_when_it_expires(path, clock):
    secret = create(path, "shop", ["admin"], 1)
    door = access(path.parent)
    clock.pass_by(86_401)
    problem = refused(door.allow, bearer(secret), "read", "GET", "")
    assert (problem.status, "expired" in problem.detail) == (401, True)


def test_a_running_server_sees_tokens_made_and_revoked(path, clock):
    door = access(path.parent)
    assert door.allow([HOST], "admin", "GET", "") == ""
    secret = create(path, "shop", ["admin"], 1)
    clock.pass_by(1.1)
    assert refused(door.allow, [HOST], "read", "GET", "").status == 401
    assert door.allow(bearer(secret), "read", "GET", "") == "shop"
    revoke(path, "shop")
    clock.pass_by(1.1)
    assert refused(door.allow, bearer(secret), "read", "GET", "").status == 401
    path.unlink()
    clock.pass_by(1.1)
    assert refused(door.allow, [HOST], "read", "GET", "").status == 401  # what was closed stays closed


def test_an_admission_lasts_until_the_next_look_or_the_end_of_the_token(path, clock):
    door = access(path.parent)
    door.allow([HOST], "admin", "GET", "")
    until = door.lasting("")
    assert 0.0 < until - clock.monotonic() <= 1.0  # a look a second
    secret = create(path, "shop", ["admin"], 1)
    clock.pass_by(86_399.5)  # half a second before the token ends
    door.allow(bearer(secret), "read", "GET", "")
    assert door.lasting("shop") - clock.monotonic() == pytest.approx(0.5, abs=0.01)
    assert door.lasting("gone") <= clock.monotonic()
    limited = access(path.parent, rate=5.0)
    limited.allow(bearer(secret), "read", "GET", "")
    assert limited.lasting("shop") == 0.0  # each request is counted


def test_beyond_localhost_every_request_needs_a_token(path):
    door = access(path.parent, host="0.0.0.0", hosts=("ml.example.com",))
    assert refused(door.allow, [(b"host", b"ml.example.com")], "read", "GET", "10.0.0.1").status == 401


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "[::1]", "localhost.", "ml.example.com:443"]
)
def test_names_of_this_server(path, host):
    create(path, "a", ["read"], 1)
    access(path.parent, hosts=("ml.example.com",)).visit([(b"host", host.encode())])


@pytest.mark.parametrize(
    "host", ["evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "", "0.0.0.0:8000", "10.0.0.1"]
)
def test_other_names_are_refused_also_with_a_token(path, host):
    door = access(path.parent)
    assert refused(door.allow, [(b"host", host.encode())], "read", "GET", "").status == 421
    secret = create(path, "a", ["admin"], 1)
    door = access(path.parent)
    assert refused(door.allow, [(b"host", host.encode()), bearer(secret)[1]], "read", "GET", "").status == 421
    assert refused(door.allow, bearer(secret)[1:], "read", "GET", "").status == 421


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b"whatever"])
def test_a_foreign_page_changes_nothing_on_an_open_server(path, site):
    door = access(path.parent)
    foreign = [HOST, JSON, (b"sec-fetch-site", site)]
    for method in ("POST", "DELETE", "PUT", "PATCH"):
        assert refused(door.allow, foreign, "admin", method, "").status == 403


@pytest.mark.parametrize("kind", [b"text/plain", b"application/x-www-form-urlencoded", b"", b"application/jsonx"])
def test_what_a_form_can_send_changes_nothing_on_an_open_server(path, kind):
    assert refused(access(path.parent).allow, [HOST, (b"content-type", kind)], "predict", "POST", "").status == 403
    assert (
        access(path.parent).allow([HOST, (b"content-type", b"Application/JSON; charset=utf-8")], "predict", "POST", "")
        == ""
    )


def test_own_pages_and_programs_are_let_in_on_an_open_server(path):
    door = access(path.parent)
    for site in (b"same-origin", b"none"):
        assert door.allow([HOST, JSON, (b"sec-fetch-site", site)], "admin", "POST", "") == ""
    assert door.allow([HOST, JSON], "admin", "POST", "") == ""
    assert door.allow([HOST], "admin", "DELETE", "") == ""


def test_a_proxy_on_this_machine_does_not_open_the_server_to_the_world(path):
    door = access(path.parent)
    problem = refused(door.allow, [HOST, (b"x-forwarded-for", b"203.0.113.9")], "read", "GET", "127.0.0.1")
    assert (problem.status, "everlearn token create" in problem.detail) == (401, True)
    secret = create(path, "a", ["read"], 1)
    door = access(path.parent)
    assert door.allow([*bearer(secret), (b"x-forwarded-for", b"203.0.113.9")], "read", "GET", "127.0.0.1") == "a"


def test_a_caller_is_slowed_down_and_others_are_not(path, clock):
    door = access(path.parent, rate=2.0)
    assert [door.allow([HOST], "read", "GET", "a") for _ in range(2)] == ["", ""]
    problem = refused(door.allow, [HOST], "read", "GET", "a")
    assert (problem.status, problem.headers) == (429, [(b"retry-after", b"1")])
    assert door.allow([HOST], "read", "GET", "b") == ""
    clock.pass_by(0.5)
    assert door.allow([HOST], "read", "GET", "a") == ""


def test_a_token_has_one_rate_wherever_it_is_used_and_guesses_count(path, clock):
    secret = create(path, "shop", ["predict"], 1)
    door = access(path.parent, rate=2.0)
    door.allow(bearer(secret), "predict", "POST", "a")
    door.allow(bearer(secret), "predict", "POST", "b")
    assert refused(door.allow, bearer(secret), "predict", "POST", "c").status == 429
    assert [refused(door.allow, [HOST], "read", "GET", "x").status for _ in range(3)] == [401, 401, 429]


def test_a_network_of_ipv6_is_one_caller(path, clock):
    door = access(path.parent, rate=1.0)
    door.allow([HOST], "read", "GET", "2001:db8::1")
    assert refused(door.allow, [HOST], "read", "GET", "2001:db8::2").status == 429
    assert door.allow([HOST], "read", "GET", "2001:db8:0:1::1") == ""


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 2)), min_size=1, max_size=200), st.floats(0.5, 20))
def test_no_caller_ever_gets_more_than_its_rate(calls, rate):
    burst = max(1.0, rate)
    buckets, now, taken = Buckets(rate, burst), 0.0, {"a": 0, "b": 0, "c": 0}
    for caller, pause in calls:
        now += pause
        wait = buckets.wait(caller, now)
        taken[caller] += wait == 0
        assert 0 <= wait <= 1 / rate + 1e-9
        assert taken[caller] <= burst + rate * now + 1e-6


def test_the_table_of_callers_is_bounded():
    buckets = Buckets(1.0, 1.0, size=10)
    for number in range(1000):
        buckets.wait(str(number), 0.0)
    assert len(buckets._levels) == 10
    assert buckets.wait("999", 0.0) > 0


@pytest.mark.parametrize(
    "serve", [{"host": "0.0.0.0"}, {"host": "::"}, {"host": ""}, {"host": "192.168.1.2"}, {"hosts": ("a.example",)}]
)
def test_beyond_localhost_only_with_a_good_token(path, clock, serve):
    spec = setup(path.parent, **serve).spec
    with pytest.raises(ConfigError, match="everlearn token create NAME --scope admin"):
        check_bind(spec, path)
    create(path, "a", ["predict"], 1)
    check_bind(spec, path)
    clock.pass_by(86_401)
    with pytest.raises(ConfigError, match="every token has expired"):
        check_bind(spec, path)


@pytest.mark.parametrize(
    "serve", [{}, {"host": "localhost"}, {"host": "::1"}, {"host": "127.0.0.5"}, {"hosts": ("localhost",)}]
)
def test_on_localhost_no_token_is_needed(path, serve):
    check_bind(setup(path.parent, **serve).spec, path)
