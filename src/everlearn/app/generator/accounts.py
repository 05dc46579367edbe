"""What judgements cost and how far their sources agree, followed in the log: the same after any restart.

Sources are people ("people/NAME") and judges ("judge/NAME@DIGEST"). Others cost nothing, and are not compared.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from everlearn.events import Log
from everlearn.families.preference import choose, first_come
from everlearn.families.preference.agreement import plain_agreement
from everlearn.records import Event, Ints, Preference
from everlearn.schema import pairs
from everlearn.spec import Spec

PEOPLE, JUDGES = range(2)  # kinds of sources, as places in arrays
KINDS = ("people", "judge")
READ = 512  # events read at a time
COMPARED = 16  # judges whose agreement is followed, the newest ones
NAMED = 1024  # sources whose names are known

_VERDICTS = (0, 1, -1)


class Spending(NamedTuple):
    """What one kind of source has cost: in all, in this hour, and its labels; `left` is None without a budget."""

    kind: str
    price: float
    budget: float
    spent: float
    hour: float
    labels: int
    left: int | None


class LabelAccounts:
    """Spending, agreement and names of the sources of a log; `follow` reads new events. Any thread may call."""

    def __init__(self, spec: Spec, log: Log) -> None:
        self.prices = np.array([spec.ask.price, spec.judge.price])
        self.budgets = np.array([one.budget or np.inf for one in (spec.ask, spec.judge)])
        self._log = log
        self._arrays = choose.accounts(len(KINDS))
        self._tables: dict[str, Ints] = {}  # by judge: counts of its verdict, and of the person's
        self._names: dict[int, str] = {}
        self._after = 0
        self._lock = threading.Lock()

    def follow(self) -> None:
        """Read the judgements that were added to the log since the last call."""
        with self._lock:
            while found := self._log.read(self._after, READ, ("preference",)):
                for event in found:
                    self._note(event)
                self._after = found[-1].position

    def left(self, seconds: float, reserved: Ints) -> Ints:
        """Return how many more labels each kind of source may give in this hour, (2,), beside those `reserved`."""
        with self._lock:
            found = choose.affordable(self._arrays, self.prices, self.budgets, seconds)
        return np.asarray(np.maximum(found - reserved, 0))

    def spending(self, seconds: float) -> list[Spending]:
        """Return what each kind of source has cost."""
        left = self.left(seconds, np.zeros(len(KINDS), np.int64))
        held, hour = self._arrays, int(seconds // choose.HOUR)
        return [
            Spending(
                kind,
                float(self.prices[at]),
                float(self.budgets[at]) if np.isfinite(self.budgets[at]) else 0.0,
                float(held["spent"][at]),
                float(held["hours"][at]) if held["hour"][at] == hour else 0.0,
                int(held["labels"][at]),
                int(left[at]) if np.isfinite(self.budgets[at]) and self.prices[at] else None,
            )
            for at, kind in enumerate(KINDS)
        ]

    def win_per_unit(self, gain: float) -> list[float | None]:
        """Return the part of a gain in win-rate that each kind has by its labels, for each unit that it cost."""
        with self._lock:
            arrays = {name: array.copy() for name, array in self._arrays.items()}
        choose.credit(arrays, arrays["labels"], gain)
        return [value if np.isfinite(value) else None for value in choose.win_per_unit(arrays).tolist()]

    def agreements(self) -> dict[str, dict[str, Any]]:
        """Return the agreement of each judge with people on the pairs that both judged; see `agreement`."""
        with self._lock:
            tables = dict(self._tables)
        return {source: _compared(table) for source, table in tables.items() if table.any()}

    def names(self) -> Mapping[int, str]:
        """Return the sources by their digests."""
        with self._lock:
            return dict(self._names)

    # ---- one judgement -----------------------------------------------------------------------------------------

    def _note(self, event: Event) -> None:
        given = event.payload
        assert isinstance(given, Preference)
        kind = kind_of(given.source)
        if kind is None:
            return
        if kind == JUDGES or given.verdict != "skip":  # a judge that skips has been paid; a person who skips has not
            choose.spend(self._arrays, kind, float(self.prices[kind]), event.time)
        low, high = (np.array([half], np.float32) for half in pairs.who(given.source))
        self._names.setdefault(int(first_come.joined(low, high)[0]), given.source)
        while len(self._names) > NAMED:
            del self._names[next(iter(self._names))]
        if given.verdict != "skip":
            self._compare(event.position, given)

    def _compare(self, position: int, given: Preference) -> None:
        """Count a pair once both have judged it: the first verdict of a judge, and that of the first person."""
        before: dict[str, int] = {}
        for event in self._log.about(given.id):
            one = event.payload
            if event.position < position and isinstance(one, Preference) and one.verdict != "skip":
                before.setdefault(pairs.kind(one.source), _verdict(one))
        own = pairs.kind(given.source)
        if own in before:
            return
        if own == pairs.PEOPLE:
            compared = {source: (verdict, _verdict(given)) for source, verdict in before.items() if kind_of(source)}
        else:
            compared = {own: (_verdict(given), before[pairs.PEOPLE])} if pairs.PEOPLE in before else {}
        for source, (judge, person) in compared.items():
            table = self._tables.setdefault(source, np.zeros((3, 3), np.int64))
            table[_VERDICTS.index(judge), _VERDICTS.index(person)] += 1
            while len(self._tables) > COMPARED:
                del self._tables[next(iter(self._tables))]


def kind_of(source: str) -> int | None:
    """Return the kind of a source; None for one that is neither a person nor a judge.

    >>> kind_of("people/anna"), kind_of("judge/kind@12"), kind_of("implicit/edit")
    (0, 1, None)
    """
    first = source.partition("/")[0]
    return KINDS.index(first) if first in KINDS else None


def _verdict(given: Preference) -> int:
    return given.chosen if given.verdict == "choice" else -1


def _compared(table: Ints) -> dict[str, Any]:
    """Return the agreement of verdicts that are counted in a table, as plain values."""
    judge, person = np.divmod(np.repeat(np.arange(9), table.ravel()), 3)
    verdicts = np.array(_VERDICTS)
    return plain_agreement(verdicts[judge], verdicts[person])
