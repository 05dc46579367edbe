"""Who is let in: by the name that they address, their token or session, what they ask for, and how often they ask.

Without a token file the server is open, and then it must be on localhost and asked as localhost: web pages can send
requests there, so whatever changes something must be JSON (which a foreign page cannot send unasked) and must not come
from another site. As soon as there is a token, everybody needs one.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from everlearn.app.auth.sessions import Session, Sessions, confirms
from everlearn.app.auth.tokens import COMMAND, SCOPES, Listed, Scope, Token, create, listed, match, read, revoke
from everlearn.app.problems import Refused
from everlearn.app.process import Setup
from everlearn.errors import ConfigError
from everlearn.spec import ServeSpec, Spec

__all__ = ["Access", "Buckets", "Listed", "Scope", "Who", "check_bind", "create", "listed", "revoke"]

log = logging.getLogger("everlearn.access")

Headers = Sequence[tuple[bytes, bytes]]

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
CLIENT = b"x-everlearn-client"  # the address that a worker heard a request from, for the desk; never taken from outside

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SAME_SITE = frozenset({b"", b"same-origin", b"none"})
_FORWARDED = (b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via", b"x-forwarded-host")
_LOOK = 1.0  # seconds between two looks at the token file
_KNOWN_HOSTS = 64  # Host headers remembered as good
_TABLE = 10_000  # callers whose rate is remembered
_LOGINS = (0.2, 5.0)  # attempts a second, and at once, from one address
_MAKE_ONE = "make one with `" + COMMAND.format("admin") + "`"


class Who(Struct, frozen=True):
    """Who a page is: `open` where no token is needed; the name of the token, what it may, until when, and the value
    for the X-CSRF-Token header."""

    open: bool
    name: str
    scopes: tuple[Scope, ...]
    expires: float
    csrf: str


def check_bind(spec: Spec, tokens: Path) -> None:
    """Raise ConfigError where others could reach the server and no token keeps them out."""
    beyond = _beyond(spec.serve)
    if not beyond or any(not token.expired for token in listed(tokens)):
        return
    expired = "every token has expired" if listed(tokens) else "there is no token"
    raise ConfigError(
        f"{beyond}: others can reach this server, and {expired}; {_MAKE_ONE} (or with less: {', '.join(SCOPES)}), "
        'or listen at serve.host = "127.0.0.1" without serve.hosts'
    )


def _beyond(serve: ServeSpec) -> str:
    """The setting that lets others than this machine reach the server; empty where none does."""
    if not _is_loopback(serve.host):
        return f"serve.host is {serve.host!r}"
    foreign = [name for name in serve.hosts if not _is_loopback(_bare(name))]
    return f"serve.hosts names {foreign[0]!r}" if foreign else ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Buckets:
    """Token buckets in a bounded table: each caller may ask `rate` times a second, and `burst` times at once.

    >>> buckets = Buckets(rate=2.0, burst=1.0)
    >>> [buckets.wait("a", now) for now in (0.0, 0.0, 0.5)]
    [0.0, 0.5, 0.0]
    """

    def __init__(self, rate: float, burst: float, size: int = _TABLE) -> None:
        self._rate = rate
        self._burst = burst
        self._size = size
        self._levels: dict[str, tuple[float, float]] = {}  # the longest unheard first

    def wait(self, caller: str, now: float) -> float:
        """Take one; 0, or the seconds until there is one to take."""
        level, before = self._levels.pop(caller, (self._burst, now))
        level = min(self._burst, level + (now - before) * self._rate)
        allowed = level >= 1.0
        self._levels[caller] = (level - 1.0 if allowed else level, now)
        if len(self._levels) > self._size:
            del self._levels[next(iter(self._levels))]
        return 0.0 if allowed else (1.0 - level) / self._rate


class Access:
    """Lets requests in, for one process. `sessions` only where pages log in (the desk); else only tokens count."""

    def __init__(self, setup: Setup, sessions: Sessions | None = None) -> None:
        serve = setup.spec.serve
        self._path = setup.tokens
        self._local = not _beyond(serve)
        self._sessions = sessions
        self._buckets = Buckets(serve.rate, max(1.0, serve.rate)) if serve.rate else None
        self._logins = Buckets(*_LOGINS)
        self._names = LOCAL | {_bare(name) for name in serve.hosts} | ({serve.host.lower()} - {"0.0.0.0", "::", ""})
        self._hosts: set[bytes] = set()
        self._tokens: dict[str, Token] = {}
        self._stamp: tuple[int, ...] | None = None
        self._next = 0.0
        self._open = self._local
        self._look(time.monotonic())

    def allow(self, headers: Headers, scope: Scope, method: str, client: str) -> str:
        """Let a request in that needs `scope`, from the address `client`; return the name of its token ("": open).

        `headers` have names in small letters. Raises Refused 401, 403, 421 or 429.
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
                self._pace(_neighbourhood(client), now)  # who guesses is slowed down as well
                raise
        if self._buckets is not None:
            self._pace(name or _neighbourhood(client), now)
        return name

    def visit(self, headers: Headers) -> None:
        """Let anyone in who addresses this server by one of its names: for pages that hold nothing of the loop."""
        self._check_host(dict(headers))

    def login(self, headers: Headers, token: str, client: str) -> tuple[Who, str]:
        """Start a session with a token; return who that is, and the Set-Cookie header.

        Raises Refused 401 (no such token), 403 (it may not look), 421 or 429.
        """
        now = time.monotonic()
        self._look(now)
        given = dict(headers)
        self._check_host(given)
        self._check_page(given, "POST")
        if self._sessions is None or self._open:
            return self._anyone(), ""
        if (seconds := self._logins.wait(_neighbourhood(client), now)) > 0:
            raise _too_many(seconds, "attempts to log in")
        found = self._good(match(self._tokens, token))
        if not found.may("read"):
            raise _missing_scope(found, "read")
        session, cookie = self._sessions.start(found, _came_over_tls(given))
        log.info("login", extra={"fields": {"token_name": found.name, "client": client}})
        return _who(session), cookie

    def logout(self, headers: Headers) -> str:
        """End the session that a request has, if it has one; return the Set-Cookie header."""
        given = dict(headers)
        self._check_host(given)
        self._check_page(given, "DELETE")
        if self._sessions is None:
            return ""
        return self._sessions.end(given.get(b"cookie", b""), _came_over_tls(given))

    def who(self, headers: Headers) -> Who | None:
        """Who a page is; None where it must log in first."""
        self._look(time.monotonic())
        given = dict(headers)
        self._check_host(given)
        if self._open:
            self._check_page(given, "GET")
            return self._anyone()
        if self._sessions is None:
            return None
        session = self._sessions.find(given.get(b"cookie", b""), self._tokens)
        return _who(session) if session is not None else None

    def _identify(self, given: dict[bytes, bytes], scope: Scope, method: str) -> str:
        """The name of the token, or of the session's token, if it may do that."""
        if (text := given.get(b"authorization")) is not None:
            kind, _, secret = text.partition(b" ")
            found = match(self._tokens, secret.strip().decode("latin-1")) if kind.lower() == b"bearer" else None
            token = self._good(found)
            if not token.may(scope):
                raise _missing_scope(token, scope)
            return token.name
        cookie = given.get(b"cookie") if self._sessions is not None else None
        session = self._sessions.find(cookie, self._tokens) if self._sessions is not None and cookie else None
        if session is None:
            raise _unknown("this needs a token, in the header `Authorization: Bearer TOKEN`", self._tokens)
        if scope not in _page_scopes(session.token):
            raise _missing_scope(session.token, scope)
        if method not in _SAFE:
            self._check_page(given, method)
            if not confirms(session, given.get(b"x-csrf-token", b"")):
                detail = "this must come with the X-CSRF-Token that GET /session told the page; load the page again"
                raise Refused(403, "", detail, {"where": "X-CSRF-Token"}, type="csrf")
        return session.token.name

    def _good(self, token: Token | None) -> Token:
        """The token, if it is one and has not expired."""
        if token is None:
            raise _unknown("this token is not known here (any more)", self._tokens)
        if token.expires <= time.time():
            raise _unknown(f"the token {token.name!r} has expired", self._tokens)
        return token

    def _check_host(self, given: dict[bytes, bytes]) -> None:
        """A page of another site can make a browser ask its own name at this address; such a name is not ours."""
        host = given.get(b"host", b"")
        if host in self._hosts:
            return
        name = _bare(host.decode("latin-1"))
        if name not in self._names:
            members = {"got": name[:200], "expected": sorted(self._names), "where": "Host"}
            detail = f"this server does not answer to the name {name[:200]!r}; if it is yours, add it to serve.hosts"
            raise Refused(421, "", detail, members)
        if len(self._hosts) < _KNOWN_HOSTS:
            self._hosts.add(host)

    def _check_page(self, given: dict[bytes, bytes], method: str) -> None:
        """No foreign page, and where the server is open, nobody from outside through a proxy of this machine."""
        if self._open:
            for name in _FORWARDED:
                if name in given:
                    detail = f"this request came through a proxy ({name.decode()}), and there is no token; {_MAKE_ONE}"
                    raise _unknown(detail, self._tokens)
        if method in _SAFE:
            return
        if given.get(b"sec-fetch-site", b"") not in _SAME_SITE:
            raise Refused(403, "", "a page of another site must not change anything here", type="csrf")
        if method == "POST" and _media(given.get(b"content-type", b"")) != b"application/json":
            members = {"got": given.get(b"content-type", b"").decode("latin-1")[:200], "expected": "application/json"}
            detail = "expected Content-Type: application/json, which a page of another site cannot send"
            raise Refused(403, "", detail, members | {"where": "Content-Type"}, type="csrf")

    def _pace(self, caller: str, now: float) -> None:
        if self._buckets is not None and (seconds := self._buckets.wait(caller, now)) > 0:
            raise _too_many(seconds, "requests")

    def _anyone(self) -> Who:
        return Who(True, "", SCOPES, 0.0, "")

    def _look(self, now: float) -> None:
        """Read the tokens again if their file has changed. Once there was a file, nobody comes in without a token."""
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
        log.error("the tokens cannot be read: nobody is let in", extra={"fields": {"error": str(error)}})


def _who(session: Session) -> Who:
    return Who(False, session.token.name, _page_scopes(session.token), session.expires, session.csrf)


def _page_scopes(token: Token) -> tuple[Scope, ...]:
    """A page looks; it does more only with an admin token."""
    return SCOPES if token.may("admin") else ("read",)


def _unknown(detail: str, tokens: dict[str, Token]) -> Refused:
    fix = "ask for a token" if tokens else _MAKE_ONE
    return Refused(401, "", detail, {"fix": fix}, headers=[(b"www-authenticate", b'Bearer realm="everlearn"')])


def _missing_scope(token: Token, scope: Scope) -> Refused:
    members = {"got": list(token.scopes), "expected": scope, "where": "the scopes of the token"}
    return Refused(403, "", f"the token {token.name!r} may {', '.join(token.scopes)}; this needs {scope}", members)


def _too_many(seconds: float, what: str) -> Refused:
    wait = math.ceil(seconds)
    detail = f"too many {what}; try again in {wait} s"
    return Refused(429, "", detail, {"wait": wait}, headers=[(b"retry-after", b"%d" % wait)])


def _came_over_tls(given: dict[bytes, bytes]) -> bool:
    """Whether the browser says that its page came over TLS: from here, or from a proxy in front."""
    return given.get(b"origin", b"").startswith(b"https://")


def _media(value: bytes) -> bytes:
    return value if value == b"application/json" else value.partition(b";")[0].strip().lower()


def _bare(host: str) -> str:
    """A name or address without its port, in small letters."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0].removesuffix(".")


def _neighbourhood(client: str) -> str:
    """Whose rate an address counts to: one caller has a whole /64 of IPv6."""
    if ":" not in client:
        return client
    try:
        return str(ipaddress.IPv6Network((client.partition("%")[0], 64), strict=False))
    except ValueError:
        return client
