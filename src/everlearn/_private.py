"""Files that only their owner may read, whatever the umask of the process."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

MODE, FOLDER_MODE = 0o600, 0o700


def create(path: Path) -> BinaryIO:
    """Open a file for writing; create it for its owner alone, or empty it. Raises OSError, also for a link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, MODE)
    return os.fdopen(descriptor, "wb")


def touch(path: Path) -> None:
    """Create an empty file for its owner alone, unless it exists. Raises OSError.

    A file that exists is not opened: to close it again would drop all POSIX locks that this process has on it, such as
    those of SQLite.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, MODE))


def write(path: Path, content: bytes) -> None:
    """Write a file as `create` opens it."""
    with create(path) as file:
        file.write(content)
