"""Rebuild the state of a loop from its log alone: from the first position, without any checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from everlearn import config
from everlearn.errors import LogError
from everlearn.events import Log, scan
from everlearn.loop import details
from everlearn.loop.fold import Fold
from everlearn.loop.home import Home
from everlearn.loop.stretch import Commit
from everlearn.records import Born, Decision, Payload
from everlearn.spec import Spec
from everlearn.version.registry import Versions

_READ = 4096  # events read at a time


def replay_log(
    log: Log, versions: Versions, settings: Spec | None = None, look: tuple[int, Callable[[Fold], None]] | None = None
) -> Fold:
    """Return the fold of all events of a log, as the loop has it that wrote the log.

    The settings are those that the first decision holds; each decision that changed them applies at its position.
    `versions` is an empty registry, in which the fold stores what it decides. `settings` are those of the beginning,
    where the log does not hold them, as one that release 0.1.0 started. Raises LogError for a log without a first
    decision, or without settings; ModelError where a model fails. Rows of a file that is itself the log are not in the
    log, and cannot be replayed. `look`, a position and a function, shows the fold of the events up to there.
    """
    position, start = next(
        ((at, decision) for at, decision in _decisions(log, 0) if decision.action == "start"), (0, None)
    )
    stored = details.full_spec(start) if start is not None else None
    first = config.read_stored(stored, "the log") if stored is not None else settings
    if start is None or first is None:
        raise LogError(
            "the log's first decision: got no settings; expected a log that this release started. Open the loop from "
            "its checkpoints instead"
        )
    fold = Fold(first, versions, log)
    after, (shown, show) = 0, look or (0, None)
    while batch := log.read(after, _most(after, shown if fold.started else position)):
        after = batch[-1].position
        _note(versions, fold.events(batch))
        if after == position and not fold.started:  # by a call that asked for what serves, before any event
            _note(versions, fold.start(start.at))
        if after == shown and show is not None:
            show(fold)
    return fold


def _most(after: int, stop: int) -> int:
    """Return the number of events to read behind a position, none of them behind `stop`, if that is ahead."""
    return min(_READ, stop - after) if stop > after else _READ


def _note(versions: Versions, commits: Iterable[Commit]) -> None:
    """Fold, and take the versions and aliases that come of it."""
    for commit in commits:
        for payload in commit.payloads:
            if isinstance(payload, Born | Decision):
                versions.note(payload)


def change(fold: Fold, home: Home, spec: Spec) -> tuple[Spec, list[Payload]]:
    """Return the settings that a loop goes on with, and the decision to log if `spec` changes them.

    Unchanged means as in the last decision of the log that holds settings, else as in the fold. Raises ConfigError for
    a changed setting that learned state depends on, or one that cannot work.
    """
    log, where = home.log, str(home.folder)
    held = (details.full_spec(decision) for _, decision in _decisions(log, fold.cursor["log"]))
    known = [settings for settings in held if settings is not None]
    before = config.read_stored(known[-1], where) if known else fold.spec
    spec = config.resumed(before, spec)
    if not (changed := config.changed(before, spec, where)):
        return spec, []
    Fold(spec, home.versions, log)  # settings that contradict each other are refused before anything is written
    settings = msgspec.to_builtins(spec)
    detail = {name: settings.get(name) for name in changed} | {"number": log.count("decision")}
    if all(details.full_spec(made) is None for _, made in _decisions(log, 0)):  # as in a home of release 0.1.0
        detail["before"] = config.stored(before)
    reason = "settings changed: " + ", ".join(changed)
    at = sum(fold.cursor.values())
    return spec, [Decision("config", at, reason, "user", detail=detail | {"spec": config.stored(spec)})]


def _decisions(log: Log, after: int) -> Iterator[tuple[int, Decision]]:
    """Yield the decisions behind a position, each with its own."""
    for event in scan(log, after, ("decision",)):
        if isinstance(event.payload, Decision):
            yield event.position, event.payload
