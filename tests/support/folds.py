"""A fold without a loop, and its state as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from everlearn.events import Log, connect
from everlearn.loop.fold import Fold
from everlearn.loop.stretch import Commit
from everlearn.records import Born, Decision, Payload
from everlearn.spec import Spec
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions


class Folded:
    """A fold with its log and versions; decisions are noted, and nothing else is written."""

    def __init__(self, folder: Path, chosen: Spec, log: Log | None = None) -> None:
        self.versions = Versions(Blobs(folder / "blobs"))
        self.log = log or connect(str(folder / "log.sqlite"))
        self.fold = Fold(chosen, self.versions, self.log)
        self.commits: list[Commit] = []

    def take(self, commits: Iterable[Commit]) -> None:
        for commit in commits:
            self.commits.append(commit)
            for payload in commit.payloads:
                if isinstance(payload, Born | Decision):
                    self.versions.note(payload)

    def events(self, payloads: Sequence[tuple[float, Payload]], size: int = 1000) -> Folded:
        """Append payloads at their times, and fold all the log in reads of `size` events."""
        for moment, payload in payloads:
            self.log.append([payload], time=moment)
        after = self.fold.cursor["log"]
        while batch := self.log.read(after, size):
            after = batch[-1].position
            self.take(self.fold.events(batch))
        return self

    def bytes(self) -> dict[str, bytes]:
        arrays, header = self.fold.state()
        return {name: array.tobytes() for name, array in arrays.items()} | {"header": repr(header).encode()}
