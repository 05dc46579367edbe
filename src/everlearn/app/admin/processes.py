"""Which processes of a server run, and how much memory each has, as Linux tells it of those that one parent started."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from everlearn.app.process import VARIABLE

_PROC = Path("/proc")
_MODULE = "everlearn.app."


class Process(NamedTuple):
    """A process that runs: its id and its resident memory in bytes."""

    pid: int
    memory: int


class _Told(Struct):
    """The part of `Setup` that says which process it is."""

    serving: str
    index: int = 0


def running(parent: int, serving: str) -> dict[str, Process]:
    """The children of `parent` that serve from that folder, by name ("learner", "desk", "worker-0", ...).

    Of two workers of one number the younger is told. Empty where /proc does not say such things.
    """
    found: dict[str, Process] = {}
    for pid in sorted(_children(parent)):
        with suppress(OSError, ValueError, msgspec.MsgspecError):  # it may end as we look
            name = _named(pid, serving)
            if name:
                found[name] = Process(pid, memory(pid))
    return found


def memory(pid: int) -> int:
    """The resident memory of a process in bytes; raises OSError where that cannot be told."""
    pages = (_PROC / str(pid) / "statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _children(parent: int) -> set[int]:
    lists = (_PROC / str(parent) / "task").glob("*/children")
    found: set[int] = set()
    for one in lists:
        with suppress(OSError):
            found |= {int(pid) for pid in one.read_text().split()}
    return found


def _named(pid: int, serving: str) -> str:
    """The name of a process, or "" for one that is none of this server's."""
    command = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    module = next((part.decode() for part in command if part.startswith(_MODULE.encode())), "")
    variables = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    text = next((part.partition(b"=")[2] for part in variables if part.startswith(f"{VARIABLE}=".encode())), b"")
    if not module or not text:
        return ""
    told = msgspec.json.decode(text, type=_Told)
    role = module.removeprefix(_MODULE)
    return "" if told.serving != serving else f"worker-{told.index}" if role == "worker" else role
