"""Find the running processes of a server and their memory, through /proc; on Linux only."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from everlearn.app.process import VARIABLE

_PROC = Path("/proc")
_MODULE, _MANY = "everlearn.app.", "many."


class Process(NamedTuple):
    """A process: its id, its resident memory in bytes, and True if a signal has stopped it."""

    pid: int
    memory: int
    stopped: bool = False


class _Identity(Struct):
    """The fields of `Setup` that identify a process."""

    serving: str
    index: int = 0


def running(parent: int, serving: str) -> dict[str, Process]:
    """Return the children of `parent` that serve from a folder, keyed "learner", "admin", "worker-0" and so on.

    Of two workers with one number, the one with the higher id is returned. Empty on systems without /proc.
    """
    found: dict[str, Process] = {}
    for pid in sorted(_children(parent)):
        with suppress(OSError, ValueError, msgspec.MsgspecError):  # it may end at any time
            name = _named(pid, serving)
            if name:
                found[name] = Process(pid, memory(pid), is_stopped(pid))
    return found


def memory(pid: int) -> int:
    """Return the resident memory of a process in bytes; raises OSError if it is unknown."""
    pages = (_PROC / str(pid) / "statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def is_stopped(pid: int) -> bool:
    """Return True if a signal has stopped a process (SIGSTOP, SIGTSTP); False where that is unknown."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def _children(parent: int) -> set[int]:
    lists = (_PROC / str(parent) / "task").glob("*/children")
    found: set[int] = set()
    for path in lists:
        with suppress(OSError):
            found |= {int(pid) for pid in path.read_text().split()}
    return found


def _named(pid: int, serving: str) -> str:
    """Return the name of a process, or "" if it does not belong to this server."""
    command = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    module = next((part.decode() for part in command if part.startswith(_MODULE.encode())), "")
    variables = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    text = next((part.partition(b"=")[2] for part in variables if part.startswith(f"{VARIABLE}=".encode())), b"")
    if not module or not text:
        return ""
    identity = msgspec.json.decode(text, type=_Identity)
    if identity.serving != serving:
        return ""
    role, many = module.removeprefix(_MODULE).removeprefix(_MANY), module.startswith(_MODULE + _MANY)
    return f"{role}-{identity.index}" if role == "worker" or (many and role == "learner") else role
