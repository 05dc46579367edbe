"""Snapshots of a loop in an object store: S3, Google Cloud Storage or Azure, through obstore.

A snapshot is named by the hash of its bytes, so it is created once and never changed: of two processes that store the
same bytes at once, one creates the object and the other finds it. What nothing refers to is removed only once it is an
hour old, since another process may have stored it for a decision that it has not written yet.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from everlearn.errors import BlobError, ConfigError

try:
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, NotModifiedError, PreconditionError
except ImportError as missing:
    raise ConfigError("snapshots in an object store need obstore; pip install 'everlearn[objects]'") from missing

SCHEMES = ("s3", "gs", "az")
_AND = "\n"  # between the entity tag and the version of an object
_YOUNG = timedelta(hours=1)  # of an object that may belong to a decision of another process


class Objects:
    """A part of a bucket as a `Store` (see `everlearn.version.blobs`).

    Credentials and endpoints come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT, AZURE_STORAGE_ACCOUNT_NAME,
    GOOGLE_APPLICATION_CREDENTIALS, ...), as for other programs.
    """

    def __init__(self, url: str) -> None:
        self._url, self._store = url, _opened(url)
        self._stored: dict[str, datetime] = {}  # when each object was stored, at the last look

    def put(self, name: str, data: bytes) -> None:
        try:
            obstore.put(self._store, name, data, mode="create")
        except AlreadyExistsError:
            if self.get(name) != data:
                raise BlobError(f"{self.where(name)} holds other bytes than its name says; remove it") from None
        except (BaseError, OSError) as error:
            raise BlobError(
                f"a snapshot of {len(data)} bytes cannot be written to {self.where(name)}: {_cause(error)}"
            ) from error

    def get(self, name: str) -> bytes | None:
        try:
            return obstore.get(self._store, name).bytes().to_bytes()
        except (FileNotFoundError, NotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise BlobError(f"snapshot {self.where(name)} cannot be read: {_cause(error)}") from error

    def sizes(self) -> dict[str, int]:
        try:
            found = [meta for page in obstore.list(self._store) for meta in page]
        except (BaseError, OSError) as error:
            raise BlobError(f"the snapshots in {self._url} cannot be listed: {_cause(error)}") from error
        self._stored = {meta["path"]: meta["last_modified"] for meta in found}
        return {meta["path"]: meta["size"] for meta in found}

    def remove(self, name: str) -> None:
        stored = self._stored.get(name)
        if stored is None or datetime.now(UTC) - stored < _YOUNG:
            return
        try:
            obstore.delete(self._store, name)
        except (FileNotFoundError, NotFoundError):
            return
        except (BaseError, OSError) as error:
            raise BlobError(f"snapshot {self.where(name)} cannot be removed: {_cause(error)}") from error

    def where(self, name: str) -> str:
        return f"{self._url}/{name}"


class Shared:
    """Files of a part of a bucket that may be replaced (see `everlearn.version.blobs.SharedFiles`)."""

    def __init__(self, url: str) -> None:
        self._url, self._store = url, _opened(url)

    def get(self, name: str, tag: str = "") -> tuple[bytes, str] | None:
        try:
            options: Any = {"if_none_match": tag.partition(_AND)[0]} if tag else None
            found = obstore.get(self._store, name, options=options)
            return found.bytes().to_bytes(), _tag(found.meta)
        except (FileNotFoundError, NotFoundError, NotModifiedError):
            return None
        except (BaseError, OSError) as error:
            raise BlobError(f"{self._url}/{name} cannot be read: {_cause(error)}") from error

    def put(self, name: str, data: bytes) -> None:
        try:
            obstore.put(self._store, name, data)
        except (BaseError, OSError) as error:
            raise BlobError(f"{self._url}/{name} cannot be written: {_cause(error)}") from error

    def replace(self, name: str, data: bytes, tag: str | None) -> str | None:
        try:
            mode: Any = "create" if tag is None else _version(tag)
            return _tag(obstore.put(self._store, name, data, mode=mode))
        except (AlreadyExistsError, PreconditionError):
            return None
        except (BaseError, OSError) as error:
            raise BlobError(f"{self._url}/{name} cannot be written: {_cause(error)}") from error

    def remove(self, name: str) -> None:
        try:
            obstore.delete(self._store, name)
        except (FileNotFoundError, NotFoundError):
            return
        except (BaseError, OSError) as error:
            raise BlobError(f"{self._url}/{name} cannot be removed: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """Return the message of an error without the dump of its parts that the library adds.

    >>> _cause(OSError("no such bucket\\n\\nDebug source:\\nGeneric {..."))
    'no such bucket'
    """
    return str(error).partition("\n\nDebug source")[0]


def _tag(meta: Any) -> str:
    """Return the tag of an object: its entity tag and, where the store has one, its version."""
    return f"{meta['e_tag']}{_AND}{meta['version']}" if meta["version"] else str(meta["e_tag"])


def _version(tag: str) -> dict[str, str]:
    """Return what a store compares before it replaces an object: S3 and Azure the entity tag, Google the version."""
    entity, _, version = tag.partition(_AND)
    return {"e_tag": entity, "version": version} if version else {"e_tag": entity}


def shared(url: str) -> Shared:
    """Open the shared files below a URL. Raises `ConfigError` as `connect` does."""
    return Shared(url)


def connect(url: str) -> Objects:
    """Open the part of a bucket that a URL names. Raises `ConfigError` for another scheme."""
    return Objects(url)


def _opened(url: str) -> Any:
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise ConfigError(f"log.blobs: got {url!r}; expected one of {', '.join(f'{known}://' for known in SCHEMES)}")
    local = os.environ.get("AWS_ENDPOINT", "").startswith("http://")  # a store for tests, or within a private network
    local |= os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() == "true"
    options: dict[str, Any] = {"client_options": {"allow_http": True}} if local else {}
    try:
        return obstore.store.from_url(url, **options)
    except (BaseError, ValueError) as error:
        raise ConfigError(
            f"log.blobs: got {url!r}: {_cause(error)}; expected s3://BUCKET/PREFIX, gs:// or az://"
        ) from error
