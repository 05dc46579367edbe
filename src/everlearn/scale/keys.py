"""The keys that payloads are encrypted with: one for each subject, made when it is first needed, destroyed on erasure.

A key is AES-SIV (RFC 5297) with 256 bits: equal payloads of one subject have equal ciphertexts, so that a log still
recognises an event that comes twice. A key has a random handle, which the log holds beside each ciphertext. A destroyed
key leaves its handle behind, so that events whose key was destroyed differ from events whose key is missing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from everlearn.errors import ConfigError, LogError, UnknownId

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
except ImportError as missing:
    raise ConfigError("log.encrypt = true needs cryptography; pip install 'everlearn[keys]'") from missing

MASTER = "EVERLEARN_MASTER_KEY"
MOST = 32_768  # keys in the memory of a process
LOOK = 1.0  # seconds between two looks for keys that another process has destroyed

_SIV, _DIGESTS = 64, 32  # bytes of a secret: for the cipher, and for the digests of judgements
_NONCE = 12
_PLAIN, _WRAPPED = b"\0", b"\1"


class KeyStore(Protocol):
    """A table of keys: handle, digest of the subject, secret. `place` names it in errors.

    `quick` is true where a look-up takes microseconds, so that an event loop may wait for it.
    """

    place: str
    quick: bool

    def salt(self) -> bytes:
        """Return the random bytes that digests of subjects are made with, 32 bytes, equal for ever."""
        ...

    def destroyed(self) -> int:
        """Return the number of keys that were destroyed."""
        ...

    def held(self, handles: Sequence[str]) -> list[tuple[str, bytes | None]]:
        """Return each known handle with its secret; None for a destroyed key."""
        ...

    def known(self, subjects: Sequence[bytes]) -> list[tuple[bytes, str, bytes]]:
        """Return digest, handle and secret of each subject that has a key."""
        ...

    def made(self, subjects: Sequence[bytes]) -> list[tuple[str, float]]:
        """Return the handle of the key of each subject that has one, and when it was made, in seconds since 1970."""
        ...

    def add(self, keys: Sequence[tuple[bytes, str, bytes]], at: float) -> None:
        """Add keys (digest, handle, secret), made at a time, durably; a subject that has a key keeps it."""
        ...

    def destroy(self, handles: Sequence[str]) -> None:
        """Destroy keys durably; a destroyed key stays destroyed."""
        ...

    def rest(self) -> None:
        """Give up open files until the next call."""
        ...

    def close(self) -> None:
        """Close the store; closing twice is allowed."""
        ...


class SubjectKey:
    """The key of one subject."""

    __slots__ = ("_cipher", "_digests", "handle")

    def __init__(self, handle: str, secret: bytes) -> None:
        self.handle = handle
        self._cipher = AESSIV(secret[:_SIV])
        self._digests = secret[_SIV:]

    def encrypt(self, text: str, kind: str) -> bytes:
        """Return the ciphertext of the payload of an event of a kind."""
        return self._cipher.encrypt(text.encode(), [kind.encode(), self.handle.encode()])

    def decrypt(self, data: bytes, kind: str) -> str:
        """Return the payload of a ciphertext. Raises `LogError` for one that was changed."""
        try:
            return self._cipher.decrypt(data, [kind.encode(), self.handle.encode()]).decode()
        except InvalidTag as error:
            raise LogError(
                f"the {kind} that is encrypted with the key {self.handle} was changed; put back a copy of the log"
            ) from error

    def digest(self, text: str, size: int) -> str:
        """Return a digest in hexadecimal digits, `size` of them, that says nothing without the key."""
        return hashlib.blake2b(text.encode(), key=self._digests, digest_size=size // 2).hexdigest()


class Keys:
    """The keys of a loop, with the newest ones in memory; any thread may call the methods."""

    def __init__(self, store: KeyStore, master: str = "") -> None:
        """`master` is the key that secrets are encrypted with before they are stored, as base64 of 32 bytes."""
        self._store = store
        self.quick = store.quick
        self._master = AESGCM(_master(master)) if master else None
        self._salt = store.salt()
        self._lock = threading.Lock()
        self._by_handle: dict[str, SubjectKey | None] = {}
        self._by_subject: dict[str, SubjectKey] = {}
        self._looked = time.monotonic()
        self._destroyed = store.destroyed()

    @property
    def destroyed(self) -> int:
        """The number of destroyed keys; at most a second old."""
        if time.monotonic() - self._looked > LOOK:
            self._looked, now = time.monotonic(), self._store.destroyed()
            if now != self._destroyed:
                self._destroyed = now
                self._forget()
        return self._destroyed

    def of_subjects(self, subjects: Iterable[str]) -> dict[str, SubjectKey]:
        """Return the key of each subject; a subject without a key gets one."""
        wanted = dict.fromkeys(subjects)
        held = self.existing(wanted)
        while fresh := [one for one in wanted if one not in held]:  # again where a key was destroyed at once
            self._store.add([(self._digest(one), *self._new()) for one in fresh], time.time())
            held |= self.existing(fresh)
        return held

    def existing(self, subjects: Iterable[str]) -> dict[str, SubjectKey]:
        """Return the key of each subject that has one."""
        _ = self.destroyed
        held, missing = dict[str, SubjectKey](), dict[bytes, str]()
        for one in dict.fromkeys(subjects):
            if (key := self._by_subject.get(one)) is not None:
                held[one] = key
            else:
                missing[self._digest(one)] = one
        if missing:
            found = {
                missing[digest]: self._opened(handle, secret)
                for digest, handle, secret in self._store.known(list(missing))
            }
            self._keep({key.handle: key for key in found.values()}, found)
            held |= found
        return held

    def of_handles(self, handles: Iterable[str]) -> dict[str, SubjectKey | None]:
        """Return the key of each handle; None for a destroyed one. Raises `UnknownId` for an unknown handle."""
        _ = self.destroyed
        held, missing = dict[str, SubjectKey | None](), list[str]()
        for name in dict.fromkeys(handles):
            try:
                held[name] = self._by_handle[name]
            except KeyError:
                missing.append(name)
        if missing:
            found = {
                name: self._opened(name, secret) if secret is not None else None
                for name, secret in self._store.held(missing)
            }
            if unknown := [name for name in missing if name not in found]:
                raise UnknownId(
                    f"handle: got {unknown[0]!r}; expected the handle of a key in {self._store.place}. If that was "
                    "lost, put back a copy of it"
                )
            self._keep(found, {})
            held |= found
        return held

    def made(self, subjects: Iterable[str]) -> dict[str, float]:
        """Return when the key of each subject that has one was made, in seconds since 1970, by its handle."""
        return dict(self._store.made([self._digest(one) for one in subjects]))

    def destroy(self, handles: Sequence[str]) -> None:
        """Destroy keys, so that events encrypted with them can be read nowhere."""
        self._store.destroy(handles)
        self._destroyed, self._looked = self._store.destroyed(), time.monotonic()
        self._forget()

    def rest(self) -> None:
        """Give up open files until the next call."""
        self._store.rest()

    def close(self) -> None:
        """Close the store; closing twice is allowed."""
        self._store.close()

    def _digest(self, subject: str) -> bytes:
        text = subject.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self._salt, digest_size=20).digest()

    def _new(self) -> tuple[str, bytes]:
        """Return a new handle and its secret as it is stored."""
        handle, secret = secrets.token_urlsafe(12), os.urandom(_SIV + _DIGESTS)
        if self._master is None:
            return handle, _PLAIN + secret
        nonce = os.urandom(_NONCE)
        return handle, _WRAPPED + nonce + self._master.encrypt(nonce, secret, handle.encode())

    def _opened(self, handle: str, stored: bytes) -> SubjectKey:
        if stored[:1] == _PLAIN:
            return SubjectKey(handle, stored[1:])
        if self._master is None:
            raise ConfigError(f"{self._store.place} holds keys that are encrypted; set {MASTER} to their master key")
        try:
            secret = self._master.decrypt(stored[1 : 1 + _NONCE], stored[1 + _NONCE :], handle.encode())
        except InvalidTag as error:
            raise ConfigError(f"{MASTER}: got another key than {self._store.place} was written with") from error
        return SubjectKey(handle, secret)

    def _keep(self, by_handle: Mapping[str, SubjectKey | None], by_subject: Mapping[str, SubjectKey]) -> None:
        with self._lock:
            self._by_handle.update(by_handle)
            self._by_subject.update(by_subject)
            while len(self._by_handle) > MOST:
                del self._by_handle[next(iter(self._by_handle))]
            while len(self._by_subject) > MOST:
                del self._by_subject[next(iter(self._by_subject))]

    def _forget(self) -> None:
        with self._lock:
            self._by_handle.clear()
            self._by_subject.clear()


def _master(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise ConfigError(
            f"{MASTER}: got {len(text)} characters; expected 32 bytes as base64. `openssl rand -base64 32` prints some"
        )
    return key
