"""Sessions of the page: a cookie instead of a token, for one process, for as long as its token is good."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from http.cookies import CookieError, SimpleCookie

from msgspec import Struct

from everlearn.app.auth.tokens import Token

LIFETIME = 12 * 3600.0  # seconds
_MOST = 200  # sessions at a time; the oldest ends when there is one more
_PLAIN, _SECURE = "everlearn", "__Host-everlearn"


class Session(Struct, frozen=True):
    """A page that is logged in with a token; `csrf` must come with whatever it changes. Times as of 1970."""

    token: Token
    csrf: str
    expires: float


class Sessions:
    """The sessions of a process, by the hash of their cookie. `secure` says that the server speaks TLS itself."""

    def __init__(self, secure: bool) -> None:
        self._secure = secure
        self._sessions: dict[str, Session] = {}

    def start(self, token: Token, secure: bool) -> tuple[Session, str]:
        """A new session and its Set-Cookie header; `secure` says that the browser came over TLS."""
        secret, now = secrets.token_urlsafe(32), time.time()
        session = Session(token, secrets.token_urlsafe(32), min(now + LIFETIME, token.expires))
        while len(self._sessions) >= _MOST:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[_digest(secret)] = session
        return session, self._cookie(secret, int(session.expires - now), secure or self._secure)

    def find(self, cookie: bytes, tokens: dict[str, Token]) -> Session | None:
        """The session of a Cookie header, if it has not ended and its token is still the same and good."""
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
        """Forget the session of a Cookie header; return the Set-Cookie header that forgets the cookie."""
        self._sessions.pop(self._key(cookie), None)
        return self._cookie("", 0, secure or self._secure)

    def _key(self, cookie: bytes) -> str:
        try:
            held = SimpleCookie(cookie.decode("latin-1"))
        except CookieError:
            return ""
        # Over TLS only the name that no other host, and no unencrypted page, can set.
        found = held.get(_SECURE) or (None if self._secure else held.get(_PLAIN))
        return _digest(found.value) if found is not None else ""

    def _cookie(self, value: str, age: int, secure: bool) -> str:
        name, more = (_SECURE, "; Secure") if secure else (_PLAIN, "")
        return f"{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{more}"


def confirms(session: Session, given: bytes) -> bool:
    """Whether a request shows the value that only the page itself could read."""
    return hmac.compare_digest(session.csrf.encode(), given)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
