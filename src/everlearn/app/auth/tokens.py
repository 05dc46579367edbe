"""API tokens with a name, scopes and an expiry date, stored as hashes; a token is shown once, when it is created.

A token is `el_NAME_SECRET`. The secret has 256 random bits, so a fast hash suffices: it cannot be guessed. Only the
owner may read the file, and it is always replaced as a whole, so a server reads either the old tokens or the new ones.
The file is never removed: a server whose last token was revoked refuses every request.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import math
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, get_args

import msgspec
from msgspec import Meta, Struct

from everlearn.client.records import Scope
from everlearn.errors import ConfigError, did_you_mean

SCOPES: tuple[Scope, ...] = get_args(Scope)
COMMAND = "everlearn token create NAME --scope {}"

_FORMAT = 1
_LONGEST = 3650.0  # days
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,39}")
_UNKNOWN = hashlib.sha256(b"unknown").hexdigest()  # compared with for an unknown name, so that timing shows nothing


class Token(Struct, frozen=True, forbid_unknown_fields=True):
    """A stored token: `digest` is the SHA-256 of the whole token; times are seconds since 1970."""

    name: str
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...]
    created: float
    expires: float

    def may(self, scope: Scope) -> bool:
        """Return True if the token has a scope; admin includes all scopes."""
        return scope in self.scopes or "admin" in self.scopes


class TokenEntry(Struct, frozen=True):
    """A token as it is listed, without its hash."""

    name: str
    scopes: tuple[Scope, ...]
    created: float
    expires: float
    expired: bool


class _Content(Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    tokens: tuple[Token, ...]


def create(path: Path, name: str, scopes: Sequence[str], days: float = 90.0) -> str:
    """Create a token that is valid for `days`, and return it; it cannot be shown again.

    Raises ConfigError for a name that is taken or malformed, for unknown scopes, and for an unusable file.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"the name of a token: got {name!r}; expected at most 40 letters, digits, dots and dashes")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        got, expected = ", ".join(unknown) or "none", ", ".join(SCOPES)
        near = did_you_mean(unknown[0].lower(), SCOPES) if unknown else ""
        raise ConfigError(f"the scopes of a token: got {got}; expected {expected}{near}")
    if not (math.isfinite(days) and 0 < days <= _LONGEST):
        raise ConfigError(f"the days of a token: got {days:g}; expected more than 0 and at most {_LONGEST:g}")
    secret = f"el_{name}_{secrets.token_hex(32)}"
    now = time.time()
    chosen = tuple(scope for scope in SCOPES if scope in scopes)
    with _locked(path):
        tokens = read(path)
        if name in tokens:
            raise ConfigError(
                f"the token {name!r} exists already; use another name, or first run `everlearn token revoke {name}`"
            )
        _write(path, [*tokens.values(), Token(name, _digest(secret), chosen, now, now + days * 86_400)])
    return secret


def revoke(path: Path, name: str) -> None:
    """Revoke a token; raises ConfigError if there is none of that name."""
    with _locked(path):
        tokens = read(path)
        if name not in tokens:
            raise ConfigError(f"there is no token {name!r}; expected one of: {', '.join(tokens) or 'none'}")
        _write(path, [token for token in tokens.values() if token.name != name])


def listed(path: Path) -> list[TokenEntry]:
    """Return all tokens, including expired ones, without their hashes."""
    now = time.time()
    return [TokenEntry(t.name, t.scopes, t.created, t.expires, t.expires <= now) for t in read(path).values()]


def read(path: Path) -> dict[str, Token]:
    """Return a mapping of names to tokens; empty without a file. Raises ConfigError for a damaged or unsafe file."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            content = msgspec.json.decode(file.read(), type=_Content)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}; restore a copy, or remove it and create new tokens"
        ) from error
    if state.st_mode & 0o022 or state.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path} belongs to another user, or other users may write to it, so they could add tokens; "
            f"check its content, then run `chown {os.geteuid()} {path}; chmod 600 {path}`"
        )
    if content.format != _FORMAT:
        raise ConfigError(
            f"{path}: got format {content.format}; expected {_FORMAT}. Use the newer release that wrote it"
        )
    return {token.name: token for token in content.tokens}


def match(tokens: dict[str, Token], text: str) -> Token | None:
    """Return the token with this text, expired or not; None if there is none. Both take the same time."""
    prefix, _, rest = text.partition("_")
    name = rest.rpartition("_")[0] if prefix == "el" else ""
    token = tokens.get(name)
    same = hmac.compare_digest(_digest(text), token.digest if token is not None else _UNKNOWN)
    return token if same else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the folder, so that two commands do not lose each other's tokens."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"{path.parent} cannot hold tokens: {error}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
        os.fsync(folder)  # so that a revoked token does not return after a power failure
    finally:
        os.close(folder)


def _write(path: Path, tokens: Iterable[Token]) -> None:
    """Replace the file as a whole and durably; only its owner can read it from the first byte on."""
    text = msgspec.json.format(msgspec.json.encode(_Content(_FORMAT, tuple(tokens)))) + b"\n"
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error}") from error
