"""A log against a plain list: a state machine for each kind of log."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from everlearn import events
from everlearn.events import KINDS, Log, connect, key
from everlearn.records import Checkpoint, Decision, Event, Example, Label, Payload, Reward
from tests.support.payloads import payloads

few = st.sampled_from("abcd")  # ids that come again, so that judgements and examples do

repeated: st.SearchStrategy[Payload] = st.one_of(
    st.builds(Label, few, st.integers(0, 2)),
    st.builds(Reward, few, st.sampled_from([0.0, 0.5])),
    st.builds(Example, few, st.just({"x": 0.5}), st.just(True)),
    st.builds(Checkpoint, st.integers(0, 3), st.just("blob")),
    st.builds(Decision, st.just("drift"), st.integers(0, 3), st.just("why"), st.just("drift")),
)


class ListModel(RuleBasedStateMachine):
    """State machine: after any sequence of calls, the log equals a Python list."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.mkdtemp()
        self.stream: str | None = None  # of a log at a broker
        self.log = self.opened()
        self.list: list[Event] = []
        self.positions: dict[str, int] = {}

    def opened(self, durability: events.Durability = "process") -> Log:
        """Open the log of `home`."""
        return connect(str(Path(self.home) / "log.db"), durability)

    def teardown(self) -> None:
        self.log.close()
        shutil.rmtree(self.home)

    @rule(group=st.lists(repeated | payloads, max_size=25), at=st.floats(0, 2e9))
    def append(self, group: list[Payload], at: float) -> None:
        expected = []
        known = {name: self.list[position - 1].payload for name, position in self.positions.items()}
        for payload in group:
            if known.setdefault(key(payload), payload) != payload:
                return  # a contradiction, or a decision said in other words: these have tests of their own
        for payload in group:
            if key(payload) not in self.positions:
                self.list.append(Event(len(self.list) + 1, at, payload))
                self.positions[key(payload)] = len(self.list)
            expected.append(self.positions[key(payload)])
        assert self.log.append(group, time=at) == expected

    @rule(durability=st.sampled_from(["process", "power"]))
    def reopen(self, durability: events.Durability) -> None:
        self.log.close()
        self.log = self.opened(durability)

    @rule(after=st.integers(0, 30), limit=st.integers(0, 30), kinds=st.lists(st.sampled_from([*KINDS.values()])))
    def read(self, after: int, limit: int, kinds: list[str]) -> None:
        expected = [e for e in self.list if e.position > after and (not kinds or KINDS[type(e.payload)] in kinds)]
        assert self.log.read(after, limit, kinds) == expected[:limit]

    @rule(kind=st.sampled_from([*KINDS.values()]))
    def last_and_count(self, kind: str) -> None:
        expected = [event for event in self.list if KINDS[type(event.payload)] == kind]
        assert self.log.count(kind) == len(expected)
        assert self.log.last(kind) == (expected[-1] if expected else None)

    @precondition(lambda self: self.list)
    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.list))
        assert self.log.find(key(event.payload)) == event
        assert self.log.find(key(event.payload) + "?") is None

    @invariant()
    def same(self) -> None:
        assert self.log.read(limit=100_000) == self.list
