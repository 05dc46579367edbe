"""Sessions of dashboard pages: a cookie in place of a token, in one process, while the token is valid."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from http.cookies import CookieError, SimpleCookie

from msgspec import Struct

from everlearn.app.auth.tokens import Token

LIFETIME = 12 * 3600.0  # seconds
_MOST = 200  # sessions; a further one ends the oldest
_PLAIN, _SECURE = "everlearn", "__Host-everlearn"


class Session(Struct, frozen=True):
    """A session started with a token; every change needs its `csrf` value. Times are seconds since 1970."""

    token: Token
    csrf: str
    expires: float


class Sessions:
    """The sessions of a process, by the hash of their cookie. `secure`: the server itself speaks TLS."""

    def __init__(self, secure: bool) -> None:
        self._secure = secure
        self._sessions: dict[str, Session] = {}

    def start(self, token: Token, secure: bool) -> tuple[Session, str]:
        """Start a session; return it and its Set-Cookie header. `secure`: the browser came over TLS."""
        secret, now = secrets.token_urlsafe(32), time.time()
        session = Session(token, secrets.token_urlsafe(32), min(now + LIFETIME, token.expires))
        while len(self._sessions) >= _MOST:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[_digest(secret)] = session
        return session, self._cookie(secret, int(session.expires - now), secure or self._secure)

    def find(self, cookie: bytes, tokens: dict[str, Token]) -> Session | None:
        """Return the session of a Cookie header; None if it has ended, or its token has changed or expired."""
        key = self._key(cookie)
        session = self._sessions.get(key)
        if session is None:
            return None
        token, now = tokens.get(session.token.name), time.time()
        if token is None or token != session.token or min(session.expires, token.expires) <= now:
            del self._sessions[key]
            return None
        return session

    def end(self, cookie: bytes, secure: bool) -> str:
        """End the session of a Cookie header; return the Set-Cookie header that deletes the cookie."""
        self._sessions.pop(self._key(cookie), None)
        return self._cookie("", 0, secure or self._secure)

    def _key(self, cookie: bytes) -> str:
        try:
            cookies = SimpleCookie(cookie.decode("latin-1"))
        except CookieError:
            return ""
        # Over TLS, accept only the __Host- name, which other hosts and unencrypted pages cannot set.
        found = cookies.get(_SECURE) or (None if self._secure else cookies.get(_PLAIN))
        return _digest(found.value) if found is not None else ""

    def _cookie(self, value: str, age: int, secure: bool) -> str:
        name, more = (_SECURE, "; Secure") if secure else (_PLAIN, "")
        return f"{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{more}"


def confirms(csrf: str, given: bytes) -> bool:
    """Return True if a request carries the CSRF value, which only the page itself can read."""
    return hmac.compare_digest(csrf.encode(), given)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
