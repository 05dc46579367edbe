"""Who is let in: tokens at rest and in use, hosts, foreign pages, sessions, rates, and where a server may listen."""

from __future__ import annotations

import multiprocessing
import stat
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.app.auth import Access, Buckets, check_bind, create, listed, revoke, tokens
from everlearn.app.auth.sessions import Sessions
from everlearn.app.problems import Refused
from everlearn.app.process import Setup
from everlearn.errors import ConfigError
from everlearn.spec import Schema, ServeSpec, Spec

HOST = (b"host", b"localhost:8000")
JSON = (b"content-type", b"application/json")


def setup(home, secure=False, **serve) -> Setup:
    schema = Schema(label="y", task="binary", fields={"x": "numeric"}, classes=(0, 1))
    return Setup(spec=Spec(schema=schema, serve=ServeSpec(**serve)), home=str(home), serving=str(home), secure=secure)


def access(home, page=False, **more) -> Access:
    made = setup(home, **more)
    return Access(made, Sessions(made.secure) if page else None)


def refused(call, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [HOST, (b"authorization", b"Bearer " + token.encode())]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens.json"


class Clock:
    """Stands in for the module `time`, and moves on only when told to."""

    def __init__(self) -> None:
        self._time, self._monotonic = time.time(), time.monotonic()

    def time(self) -> float:
        return self._time

    def monotonic(self) -> float:
        return self._monotonic

    def pass_by(self, seconds: float) -> None:
        self._time += seconds
        self._monotonic += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    for module in ("access", "access.sessions", "access.tokens"):
        monkeypatch.setattr(f"everlearn.app.{module}.time", made)
    return made


# ---- tokens at rest ---------------------------------------------------------------------------------------------


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
def test_a_token_expires(path, days):
    with pytest.raises(ConfigError, match="days"):
        create(path, "a", ["read"], days)


def test_a_name_is_taken_once_and_revoked_once(path):
    create(path, "a", ["read"], 1)
    with pytest.raises(ConfigError, match="token revoke a"):
        create(path, "a", ["read"], 1)
    revoke(path, "a")
    with pytest.raises(ConfigError, match="no token 'a'"):
        revoke(path, "a")
    assert path.exists()


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', '{"format": 1, "tokens": [{"name": "a"}]}'])
def test_a_damaged_file_is_an_error_not_an_open_door(path, text):
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


# ---- tokens in use ----------------------------------------------------------------------------------------------


def test_a_token_may_what_its_scopes_say_and_admin_may_all(path):
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
    assert len(details) == 1  # nothing tells which names there are
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


def test_beyond_localhost_nobody_comes_in_without_a_token(path):
    door = access(path.parent, host="0.0.0.0", hosts=("ml.example.com",))
    assert refused(door.allow, [(b"host", b"ml.example.com")], "read", "GET", "10.0.0.1").status == 401


# ---- hosts and foreign pages ------------------------------------------------------------------------------------


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


# ---- sessions of the page ---------------------------------------------------------------------------------------


def entered(door: Access, secret: str, *more: tuple[bytes, bytes]) -> tuple[list[tuple[bytes, bytes]], str, str]:
    """Headers of the page once it is in, its CSRF value, and the cookie as it was set."""
    who, cookie = door.login([HOST, JSON, *more], secret, "1.2.3.4")
    return [HOST, (b"cookie", cookie.partition(";")[0].encode())], who.csrf, cookie


def test_a_session_looks_and_an_admins_session_acts(path):
    read, admin = create(path, "r", ["read"], 1), create(path, "a", ["admin"], 1)
    door = access(path.parent, page=True)
    page, csrf, cookie = entered(door, read)
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert door.allow(page, "read", "GET", "") == "r"
    assert refused(door.allow, [*page, JSON, (b"x-csrf-token", csrf.encode())], "admin", "POST", "").status == 403
    page, csrf, _ = entered(door, admin)
    assert door.allow([*page, JSON, (b"x-csrf-token", csrf.encode())], "admin", "POST", "") == "a"
    assert door.who(page).scopes == tokens.SCOPES
    assert door.who([HOST]) is None


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
    assert door.who(page) is None
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


def test_sessions_are_few_and_the_oldest_goes(path, monkeypatch):
    monkeypatch.setattr("everlearn.app.auth.sessions._MOST", 3)
    secret = create(path, "a", ["read"], 1)
    door = access(path.parent, page=True)
    pages = [entered(door, secret)[0] for _ in range(4)]
    assert [door.who(page) is not None for page in pages] == [False, True, True, True]


def test_logging_in_needs_a_token_that_may_look(path):
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
    who, cookie = door.login([HOST, JSON], "", "127.0.0.1")
    assert (who.open, cookie) == (True, "")
    assert door.who([HOST]).open


# ---- rates ------------------------------------------------------------------------------------------------------


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


# ---- where a server may listen ----------------------------------------------------------------------------------


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
