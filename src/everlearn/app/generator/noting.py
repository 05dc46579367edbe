"""Log what changes the questions of a server: another judge, asking that stops or goes on, a selector that goes off."""

from __future__ import annotations

import logging

from everlearn.app.process import append
from everlearn.events import Log, scan
from everlearn.loop import details
from everlearn.loop.details import SettingsChanged
from everlearn.records import Decision

log = logging.getLogger("everlearn.generator")

JUDGE, ASKING, SELECTOR = "judge.source", "asking", "selector"


class AskingDecisions:
    """The newest logged value of each thing that changes the questions; an unchanged value is not logged again."""

    def __init__(self, events: Log) -> None:
        self._log = events
        self._known: dict[str, str] = {}
        for event in scan(events, 0, ("decision",)):
            if isinstance(event.payload, Decision) and event.payload.action == "config":
                found = details.read(event.payload)
                if isinstance(found, SettingsChanged):
                    self._known |= {
                        name: str(found.settings[name]) for name in (JUDGE, ASKING, SELECTOR) if name in found.settings
                    }

    def value(self, name: str, default: str = "") -> str:
        """Return the newest logged value."""
        return self._known.get(name, default)

    def note(self, name: str, value: str, reason: str, by: str, default: str = "") -> None:
        """Log a value with its reason, unless it is the newest one already."""
        if self.value(name, default) == value:
            return
        detail = details.write(SettingsChanged({name: value}, self._log.count("decision")))
        append(self._log, [Decision("config", self._log.end(), reason, by, detail=detail)])
        self._known[name] = value
        log.info(reason)
