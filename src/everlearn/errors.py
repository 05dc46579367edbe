"""The errors of Everlearn, as one small tree.

    EverlearnError
    ├── ConfigError       a setting, a spec or a family name is wrong
    ├── InputError        a record, a row or a file cannot be used (ValueError too)
    │   ├── NoRoom        feedback before its prediction, for which there is no room now
    │   ├── UnknownId     feedback for a prediction that the log does not hold (KeyError too)
    │   └── IdTaken       an id that names another record already
    ├── ModelError        a model broke the contract, or arrays do not fit it
    ├── LogError          the event log cannot be read or written
    │   ├── InUse         another process has the loop open
    │   └── EventsGone    events of the log are no longer where its broker kept them
    ├── BlobError         a stored snapshot is missing, truncated, tampered with or foreign
    └── MissingExtra      an optional part is required and not installed

A message gives the setting or place, the value, the expectation, and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable


class EverlearnError(Exception):
    """The root of all errors that Everlearn raises on purpose."""


class ConfigError(EverlearnError):
    """A setting, a spec or a family name is wrong."""


class InputError(EverlearnError, ValueError):
    """A record, a row or a file cannot be used as it is."""


class NoRoom(InputError):
    """Feedback came before its prediction, and there is no room to keep it; it may be sent again later."""


class UnknownId(InputError, KeyError):
    """Feedback refers to a prediction that the log does not hold."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class IdTaken(InputError):
    """An id names another record already: an id belongs to one record for ever."""


class ModelError(EverlearnError):
    """A model broke the contract, or arrays do not fit the model."""


class LogError(EverlearnError):
    """The event log cannot be read or written."""


class InUse(LogError):
    """Another process has the loop open."""


class EventsGone(LogError):
    """Events of the log are no longer where its broker kept them. `first` is the first message that still is."""

    def __init__(self, text: str, first: int) -> None:
        super().__init__(text)
        self.first = first


class BlobError(EverlearnError):
    """A stored snapshot is missing, truncated, tampered with, or belongs to another model."""


class MissingExtra(EverlearnError):
    """An optional part is required and not installed; the message gives the pip command that installs it.

    >>> str(MissingExtra("traces", "otel"))
    "traces needs a part that is not installed; run: pip install 'everlearn[otel]'"
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs a part that is not installed; run: pip install 'everlearn[{extra}]'")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'NAME'?" for the nearest known name, to end a message; empty if none is near.

    >>> did_you_mean("resevoir", ["none", "window", "reservoir"])
    "; did you mean 'reservoir'?"
    """
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the known name nearest to a name; empty if none is near."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(str(name), list(known), 1)), "")
