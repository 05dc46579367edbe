"""Decide which requests the server accepts: by host name, token or session, scope, and rate.

The headers of a request come in; the name of its token goes out, or `Refused` is raised. `tokens` stores API tokens,
and `sessions` the sessions of dashboard pages; the routes and their scopes are in `app/routes.py`.

Without a token file the server is open, and accepts requests addressed to localhost only. Web pages can send requests
to localhost as well. Every change must therefore be JSON, which a page of another site cannot send without the
server's consent, and must not come from another site. Once the first token exists, every request needs one.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

from everlearn.app.auth.sessions import Session, Sessions, confirms
from everlearn.app.auth.tokens import COMMAND, SCOPES, Token, TokenEntry, create, listed, match, read, revoke
from everlearn.app.problems import Refused
from everlearn.app.process import Setup
from everlearn.client.records import PageSession, Scope
from everlearn.errors import ConfigError
from everlearn.spec import ServeSpec, Spec

__all__ = ["Access", "Buckets", "Scope", "TokenEntry", "check_bind", "create", "listed", "revoke", "too_many"]

log = logging.getLogger("everlearn.auth")

Headers = Sequence[tuple[bytes, bytes]]

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
CLIENT = b"x-everlearn-client"  # client address, set by the worker; the value of a client is ignored

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SAME_SITE = frozenset({b"", b"same-origin", b"none"})
_FORWARDED = (b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via", b"x-forwarded-host")
_LOOK = 1.0  # seconds between two checks of the token file
_KNOWN_HOSTS = 64  # accepted Host headers that are cached
_TABLE = 10_000  # callers in the rate table
_LOGINS = (0.2, 5.0)  # login attempts from one address: a second, and in a burst
_CREATE = "create one with `" + COMMAND.format("admin") + "`"


def check_bind(spec: Spec, tokens: Path) -> None:
    """Raise ConfigError if other machines can reach the server and it has no valid token."""
    beyond = _beyond(spec.serve)
    if not beyond or any(not token.expired for token in listed(tokens)):
        return
    expired = "every token has expired" if listed(tokens) else "there is no token"
    raise ConfigError(
        f"{beyond}: other machines can reach this server, and {expired}; {_CREATE} (or with a narrower scope: "
        f'{", ".join(SCOPES)}), or set serve.host = "127.0.0.1" and remove serve.hosts'
    )


def _beyond(serve: ServeSpec) -> str:
    """Return the setting that lets other machines reach the server; "" if there is none."""
    if not _is_loopback(serve.host):
        return f"serve.host is {serve.host!r}"
    foreign = [name for name in serve.hosts if not _is_loopback(_host_name(name))]
    return f"serve.hosts names {foreign[0]!r}" if foreign else ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Buckets:
    """Token buckets in a bounded table: each caller may send `rate` requests a second, and `burst` at once.

    >>> buckets = Buckets(rate=2.0, burst=1.0)
    >>> [buckets.wait("a", now) for now in (0.0, 0.0, 0.5)]
    [0.0, 0.5, 0.0]
    """

    def __init__(self, rate: float, burst: float, size: int = _TABLE) -> None:
        self._rate = rate
        self._burst = burst
        self._size = size
        self._levels: dict[str, tuple[float, float]] = {}  # least recently active first

    def wait(self, caller: str, now: float) -> float:
        """Take one token and return 0; if there is none, return the seconds until the next one."""
        level, before = self._levels.pop(caller, (self._burst, now))
        level = min(self._burst, level + (now - before) * self._rate)
        allowed = level >= 1.0
        self._levels[caller] = (level - 1.0 if allowed else level, now)
        if len(self._levels) > self._size:
            del self._levels[next(iter(self._levels))]
        return 0.0 if allowed else (1.0 - level) / self._rate


class Access:
    """Access control of one process. Only the admin process passes `sessions`; workers accept tokens only."""

    def __init__(self, setup: Setup, sessions: Sessions | None = None) -> None:
        serve = setup.spec.serve
        self._path = setup.tokens
        self._local = not _beyond(serve)
        self._sessions = sessions
        self._buckets = Buckets(serve.rate, max(1.0, serve.rate)) if serve.rate else None
        self._logins = Buckets(*_LOGINS)
        self._names = (
            LOCAL | {_host_name(name) for name in serve.hosts} | ({serve.host.lower()} - {"0.0.0.0", "::", ""})
        )
        self._hosts: set[bytes] = set()
        self._tokens: dict[str, Token] = {}
        self._stamp: tuple[int, ...] | None = None
        self._next = 0.0
        self._open = self._local
        self._look(time.monotonic())

    def allow(self, headers: Headers, scope: Scope, method: str, client: str) -> str:
        """Admit a request that needs `scope`, from the address `client`, and return the name of its token.

        The name is "" on an open server. The names of `headers` are lower case. Raises Refused (401, 403, 421, 429).
        """
        now = time.monotonic()
        if now >= self._next:
            self._look(now)
        given = dict(headers)
        self._check_host(given)
        if self._open:
            self._check_page(given, method)
            name = ""
        else:
            try:
                name = self._identify(given, scope, method)
            except Refused:
                self._limit(_network(client), now)  # guesses of a token count as requests
                raise
        if self._buckets is not None:
            self._limit(name or _network(client), now)
        return name

    def admitted(self, headers: Headers, method: str, client: str) -> None:
        """Admit a request of any valid token or session, whatever its scope; the route checks that.

        Raises Refused (401, 403, 421, 429).
        """
        given = dict(headers)
        self._check_host(given)
        if self._open:
            return self._check_page(given, method)
        if (text := given.get(b"authorization")) is not None:
            self._valid(match(self._tokens, text.partition(b" ")[2].strip().decode("latin-1")))
        elif self._sessions is None or self._sessions.find(given.get(b"cookie", b""), self._tokens) is None:
            self._limit(_network(client), time.monotonic())
            raise _unauthorized("this needs a token, in the header `Authorization: Bearer TOKEN`", self._tokens)
        return None

    def lasting(self, name: str) -> float:
        """Return until when (`time.monotonic`) requests with the headers of one that was just admitted are admitted.

        `name` is that of its token. It is 0 where requests are counted. Nothing changes before the next look at the
        tokens, at most a second later, except that the token may expire.
        """
        if self._buckets is not None:
            return 0.0
        if not name:
            return self._next
        left = self._tokens[name].expires - time.time() if name in self._tokens else 0.0
        return min(self._next, time.monotonic() + left)

    def allow_page(self, headers: Headers, session: PageSession, scope: Scope, method: str) -> str:
        """Admit a request of a page whose session another process holds; return the name of the session's token.

        Raises Refused (403, 421) as `allow` does.
        """
        given = dict(headers)
        self._check_host(given)
        if scope not in session.scopes:
            members = {"got": list(session.scopes), "expected": scope, "where": "the scopes of the session"}
            raise Refused(403, "", f"the token {session.name!r} does not have the scope {scope}", members)
        if method not in _SAFE:
            self._check_page(given, method)
            _check_confirmed(session.csrf, given)
        return session.name

    def visit(self, headers: Headers) -> None:
        """Admit any request addressed to a name of this server: for pages that show nothing of the loop."""
        self._check_host(dict(headers))

    def login(self, headers: Headers, token: str, client: str) -> tuple[PageSession, str]:
        """Start a session with a token; return the session and its Set-Cookie header.

        Raises Refused (401 unknown token, 403 the token lacks the scope read, 421, 429).
        """
        now = time.monotonic()
        self._look(now)
        given = dict(headers)
        self._check_host(given)
        self._check_page(given, "POST")
        if self._sessions is None or self._open:
            return _OPEN, ""
        if (seconds := self._logins.wait(_network(client), now)) > 0:
            raise too_many(seconds, "attempts to log in")
        found = self._valid(match(self._tokens, token))
        if not found.may("read"):
            raise _missing_scope(found, "read")
        session, cookie = self._sessions.start(found, _came_over_tls(given))
        log.info("login", extra={"fields": {"token_name": found.name, "client": client}})
        return _page_session(session), cookie

    def logout(self, headers: Headers) -> str:
        """End the session of a request, if it has one; return the Set-Cookie header."""
        given = dict(headers)
        self._check_host(given)
        self._check_page(given, "DELETE")
        if self._sessions is None:
            return ""
        return self._sessions.end(given.get(b"cookie", b""), _came_over_tls(given))

    def session(self, headers: Headers) -> PageSession | None:
        """Return the session of a page; None if it must log in first."""
        self._look(time.monotonic())
        given = dict(headers)
        self._check_host(given)
        if self._open:
            self._check_page(given, "GET")
            return _OPEN
        if self._sessions is None:
            return None
        session = self._sessions.find(given.get(b"cookie", b""), self._tokens)
        return _page_session(session) if session is not None else None

    def _identify(self, given: dict[bytes, bytes], scope: Scope, method: str) -> str:
        """Return the name of the token, or of the session's token; raises Refused if it lacks the scope."""
        if (text := given.get(b"authorization")) is not None:
            kind, _, secret = text.partition(b" ")
            found = match(self._tokens, secret.strip().decode("latin-1")) if kind.lower() == b"bearer" else None
            token = self._valid(found)
            if not token.may(scope):
                raise _missing_scope(token, scope)
            return token.name
        cookie = given.get(b"cookie") if self._sessions is not None else None
        session = self._sessions.find(cookie, self._tokens) if self._sessions is not None and cookie else None
        if session is None:
            raise _unauthorized("this needs a token, in the header `Authorization: Bearer TOKEN`", self._tokens)
        if scope not in _page_scopes(session.token):
            raise _missing_scope(session.token, scope)
        if method not in _SAFE:
            self._check_page(given, method)
            _check_confirmed(session.csrf, given)
        return session.token.name

    def _valid(self, token: Token | None) -> Token:
        """Return the token; raises Refused (401) for an unknown or expired one."""
        if token is None:
            raise _unauthorized("this token is unknown, or was revoked", self._tokens)
        if token.expires <= time.time():
            raise _unauthorized(f"the token {token.name!r} has expired", self._tokens)
        return token

    def _check_host(self, given: dict[bytes, bytes]) -> None:
        """Refuse foreign host names: another site can point its own name at this address (DNS rebinding)."""
        host = given.get(b"host", b"")
        if host in self._hosts:
            return
        name = _host_name(host.decode("latin-1"))
        if name not in self._names:
            members = {"got": name[:200], "expected": sorted(self._names), "where": "Host"}
            detail = f"this server does not have the host name {name[:200]!r}; if it should, add it to serve.hosts"
            raise Refused(421, "", detail, members)
        if len(self._hosts) < _KNOWN_HOSTS:
            self._hosts.add(host)

    def _check_page(self, given: dict[bytes, bytes], method: str) -> None:
        """Refuse changes by pages of other sites and, on an open server, requests forwarded by a proxy."""
        if self._open:
            for name in _FORWARDED:
                if name in given:
                    detail = f"this request came through a proxy ({name.decode()}), and there is no token; {_CREATE}"
                    raise _unauthorized(detail, self._tokens)
        if method in _SAFE:
            return
        if given.get(b"sec-fetch-site", b"") not in _SAME_SITE:
            raise Refused(403, "", "a page of another site must not change anything here", type="csrf")
        if method == "POST" and _media(given.get(b"content-type", b"")) != b"application/json":
            members = {"got": given.get(b"content-type", b"").decode("latin-1")[:200], "expected": "application/json"}
            detail = "expected Content-Type: application/json, which a page of another site cannot send"
            raise Refused(403, "", detail, members | {"where": "Content-Type"}, type="csrf")

    def _limit(self, caller: str, now: float) -> None:
        if self._buckets is not None and (seconds := self._buckets.wait(caller, now)) > 0:
            raise too_many(seconds, "requests")

    def _look(self, now: float) -> None:
        """Read the tokens again if their file has changed. Once a file has existed, the server stays closed."""
        self._next = now + _LOOK
        try:
            state = self._path.stat()
        except FileNotFoundError:
            self._tokens, self._stamp = {}, None
            return
        except OSError as error:
            self._distrust(error)
            return
        self._open = False
        stamp = (state.st_mtime_ns, state.st_size, state.st_ino, state.st_mode, state.st_uid)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._tokens = read(self._path)
        except ConfigError as error:
            self._distrust(error)

    def _distrust(self, error: Exception) -> None:
        self._tokens, self._open = {}, False
        log.error("the tokens cannot be read: every request is refused", extra={"fields": {"error": str(error)}})


_OPEN = PageSession(True, "", SCOPES, 0.0, "")  # of every page on a server without tokens


def _page_session(session: Session) -> PageSession:
    return PageSession(False, session.token.name, _page_scopes(session.token), session.expires, session.csrf)


def _check_confirmed(csrf: str, given: dict[bytes, bytes]) -> None:
    """Raise Refused (403) unless a request carries the CSRF value of its session."""
    if not confirms(csrf, given.get(b"x-csrf-token", b"")):
        detail = "this needs the X-CSRF-Token header with the value from GET /session; load the page again"
        raise Refused(403, "", detail, {"where": "X-CSRF-Token"}, type="csrf")


def _page_scopes(token: Token) -> tuple[Scope, ...]:
    """Return the scopes of a page: all with an admin token, else those to read and, if the token has it, to judge."""
    if token.may("admin"):
        return SCOPES
    return ("feedback", "read") if token.may("feedback") else ("read",)


def _unauthorized(detail: str, tokens: dict[str, Token]) -> Refused:
    fix = "use a valid token" if tokens else _CREATE
    return Refused(401, "", detail, {"fix": fix}, headers=[(b"www-authenticate", b'Bearer realm="everlearn"')])


def _missing_scope(token: Token, scope: Scope) -> Refused:
    members = {"got": list(token.scopes), "expected": scope, "where": "the scopes of the token"}
    return Refused(
        403, "", f"the token {token.name!r} has the scope {', '.join(token.scopes)}; this needs {scope}", members
    )


def too_many(seconds: float, what: str) -> Refused:
    """Return the refusal (429) of a caller that must wait so many seconds."""
    wait = math.ceil(seconds)
    detail = f"too many {what}; try again in {wait} s"
    return Refused(429, "", detail, {"wait": wait}, headers=[(b"retry-after", b"%d" % wait)])


def _came_over_tls(given: dict[bytes, bytes]) -> bool:
    """Return True if the page came over TLS, from this server or from a proxy in front of it."""
    return given.get(b"origin", b"").startswith(b"https://")


def _media(value: bytes) -> bytes:
    return value if value == b"application/json" else value.partition(b";")[0].strip().lower()


def _host_name(host: str) -> str:
    """Return a host name or address without its port, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0].removesuffix(".")


def _network(client: str) -> str:
    """Return the caller to which an address belongs; one caller has a whole /64 of IPv6."""
    if ":" not in client:
        return client
    try:
        return str(ipaddress.IPv6Network((client.partition("%")[0], 64), strict=False))
    except ValueError:
        return client
