"""API tokens: who may do what until when. The file holds hashes; a token itself is shown once, when it is made.

A token is `el_NAME_SECRET`, the secret 256 random bits, so a fast hash is enough: nobody can try them all. The file is
readable by its owner alone and replaced whole, so that a server reads either the old tokens or the new ones. It is
never taken away again: a server whose last token was revoked lets nobody in, rather than everybody.
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
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from everlearn.errors import ConfigError

Scope = Literal["predict", "feedback", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
COMMAND = "everlearn token create NAME --scope {}"

_FORMAT = 1
_LONGEST = 3650.0  # days
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,39}")
_NOBODY = hashlib.sha256(b"nobody").hexdigest()  # compared where no token has the name, so that it takes as long


class Token(Struct, frozen=True, forbid_unknown_fields=True):
    """A token at rest: `digest` is the SHA-256 of all of it, times are seconds since 1970."""

    name: str
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...]
    created: float
    expires: float

    def may(self, scope: Scope) -> bool:
        """Whether the token has a scope; admin has all."""
        return scope in self.scopes or "admin" in self.scopes


class Listed(Struct, frozen=True):
    """What may be told of a token."""

    name: str
    scopes: tuple[Scope, ...]
    created: float
    expires: float
    expired: bool


class _Content(Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    tokens: tuple[Token, ...]


def create(path: Path, name: str, scopes: Sequence[str], days: float = 90.0) -> str:
    """Make a token that is good for `days`, and return it; it cannot be shown again.

    Raises ConfigError for a name that is taken or not plain, for unknown scopes, and for a file that cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"the name of a token: got {name!r}, expected at most 40 letters, digits, dots and dashes")
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise ConfigError(f"the scopes of a token: got {', '.join(unknown) or 'none'}, expected {', '.join(SCOPES)}")
    if not (math.isfinite(days) and 0 < days <= _LONGEST):
        raise ConfigError(f"the days of a token: got {days:g}, expected more than 0 and at most {_LONGEST:g}")
    secret = f"el_{name}_{secrets.token_hex(32)}"
    now = time.time()
    chosen = tuple(scope for scope in SCOPES if scope in scopes)
    with _locked(path):
        tokens = read(path)
        if name in tokens:
            raise ConfigError(
                f"there is a token {name!r} already; take another name, or first `everlearn token revoke {name}`"
            )
        _write(path, [*tokens.values(), Token(name, _digest(secret), chosen, now, now + days * 86_400)])
    return secret


def revoke(path: Path, name: str) -> None:
    """Take a token away; raise ConfigError where there is none of that name."""
    with _locked(path):
        tokens = read(path)
        if name not in tokens:
            raise ConfigError(f"there is no token {name!r}; there are: {', '.join(tokens) or 'none'}")
        _write(path, [token for token in tokens.values() if token.name != name])


def listed(path: Path) -> list[Listed]:
    """All tokens, the expired ones too, without their hashes."""
    now = time.time()
    return [Listed(one.name, one.scopes, one.created, one.expires, one.expires <= now) for one in read(path).values()]


def read(path: Path) -> dict[str, Token]:
    """The tokens by name; none where there is no file. Raises ConfigError for a file that cannot be trusted."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            content = msgspec.json.decode(file.read(), type=_Content)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}; put back a copy, or remove it and make new tokens"
        ) from error
    if state.st_mode & 0o022 or state.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path} belongs to another user, or others may write to it, so they could let themselves in; "
            f"do `chown {os.geteuid()} {path}; chmod 600 {path}` once you have looked at what is in it"
        )
    if content.format != _FORMAT:
        raise ConfigError(f"{path} has format {content.format}, this release reads {_FORMAT}; use the newer release")
    return {token.name: token for token in content.tokens}


def match(tokens: dict[str, Token], text: str) -> Token | None:
    """The token that a text is, expired or not; takes as long when it is none."""
    prefix, _, rest = text.partition("_")
    name = rest.rpartition("_")[0] if prefix == "el" else ""
    token = tokens.get(name)
    same = hmac.compare_digest(_digest(text), token.digest if token is not None else _NOBODY)
    return token if same else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two commands at once must not lose each other's tokens."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"{path.parent} cannot hold tokens: {error}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
        os.fsync(folder)  # a token that was revoked does not come back with the power
    finally:
        os.close(folder)


def _write(path: Path, tokens: Iterable[Token]) -> None:
    """Replace the file whole, durably, readable by its owner alone from its first byte on."""
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
